//! One probe chunk against the build side.
//!
//! A [`ProbeCursor`] walks the chunk in three phases and hands out joined chunks
//! of bounded size in between:
//!
//! 1. **pairs**: candidates by key (or all pairs, without keys), filtered by the
//!    other conditions; a probe row that keeps one is *matched*;
//! 2. **unknown** (null-aware joins only): for rows not matched, pairs whose
//!    equality is NULL instead of false; one that passes the other conditions
//!    makes the row's membership *unknown*;
//! 3. **rest**: what depends on the verdict: rows without a match, semi joins.
//!
//! If the probe rows' order is to be kept, an outer join's rows without a match are put among
//! the pairs as soon as it is clear that they have none; all else keeps it anyway.

use cairn_expr::{EvalContext, Expr};
use cairn_types::Chunk;

use super::JoinCore;
use crate::batch;
use crate::error::Result;
use crate::plan::JoinKind;
use crate::table::keys::KeyBatch;

/// Candidate pairs that are joined and filtered at once.
const PAIRS_MAX: usize = 1024;
/// Fewer of wide rows: joined chunks should not be much larger than this.
const JOINED_BYTES_MAX: usize = 16 << 20;

/// Whether a probe row has a match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    No,
    Unknown,
    Yes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pairs,
    Unknown,
    Rest,
    Done,
}

/// What a step gave.
pub(super) enum Step {
    Joined(Chunk),
    /// No rows; there may be more.
    Nothing,
    Done,
}

/// See the module documentation.
pub(crate) struct ProbeCursor {
    chunk: Chunk,
    keys: Option<KeyBatch>,
    verdicts: Vec<Verdict>,
    phase: Phase,
    /// Next probe row to find candidates for, and how many build rows it has seen.
    row: usize,
    build_at: usize,
    /// Candidates not joined yet: those from `pairs_at` on.
    probe_rows: Vec<u32>,
    build_rows: Vec<u32>,
    pairs_at: usize,
    /// Pairs joined at once.
    pairs_max: usize,
    /// Rows before this one were handed out, with or without a match.
    settled: usize,
}

impl ProbeCursor {
    /// Starts with a chunk of the probe side.
    pub(crate) fn new(core: &JoinCore, chunk: Chunk, eval: &mut EvalContext) -> Result<Self> {
        let chunk = batch::dense(chunk);
        let keys = match &core.keys {
            Some(keys) => Some(keys.encoder.encode(&keys.probe, &chunk, eval)?),
            None => None,
        };
        let row_bytes = core.build.row_bytes() + chunk.memory_bytes() / chunk.num_rows().max(1);
        Ok(ProbeCursor {
            pairs_max: (JOINED_BYTES_MAX / row_bytes.max(1)).clamp(1, PAIRS_MAX),
            verdicts: vec![Verdict::No; chunk.num_rows()],
            chunk,
            keys,
            phase: Phase::Pairs,
            row: 0,
            build_at: 0,
            probe_rows: Vec::with_capacity(PAIRS_MAX),
            build_rows: Vec::with_capacity(PAIRS_MAX),
            pairs_at: 0,
            settled: 0,
        })
    }

    /// The next joined chunk; `None`: done with this probe chunk.
    pub(crate) fn next(
        &mut self,
        core: &JoinCore,
        eval: &mut EvalContext,
    ) -> Result<Option<Chunk>> {
        loop {
            match self.step(core, eval)? {
                Step::Joined(chunk) => return Ok(Some(chunk)),
                Step::Nothing => {}
                Step::Done => return Ok(None),
            }
        }
    }

    /// Some bounded work towards the next joined chunk.
    pub(super) fn step(&mut self, core: &JoinCore, eval: &mut EvalContext) -> Result<Step> {
        if self.pairs_at < self.probe_rows.len() {
            return Ok(self.join_pairs(core, eval)?.map_or(Step::Nothing, Step::Joined));
        }
        self.pairs_at = 0;
        self.probe_rows.clear();
        self.build_rows.clear();
        let phase = self.phase;
        match phase {
            Phase::Pairs if self.find_pairs(core) => {}
            Phase::Pairs => {
                self.row = 0;
                self.build_at = 0;
                self.phase = if core.null_aware { Phase::Unknown } else { Phase::Rest };
            }
            Phase::Unknown if self.find_unknown(core) => {}
            Phase::Unknown => self.phase = Phase::Rest,
            Phase::Rest => {
                self.phase = Phase::Done;
                if let Some(rest) = self.rest(core)? {
                    return Ok(Step::Joined(rest));
                }
            }
            Phase::Done => return Ok(Step::Done),
        }
        Ok(Step::Nothing)
    }

    /// Collects candidates; `false`: there are no more.
    fn find_pairs(&mut self, core: &JoinCore) -> bool {
        let Some(table) = &core.table else {
            let semi = !core.kind.keeps_right();
            let skip = |verdict: Verdict| semi && verdict == Verdict::Yes;
            return self.cross(core.build.len(), skip);
        };
        let keys = self.keys.as_ref().expect("a table has keys");
        if self.row >= self.verdicts.len() {
            return false;
        }
        if !core.kind.keeps_right() && core.conditions.is_empty() {
            // Existence is enough.
            table.find_any(keys, |row| self.verdicts[row] = Verdict::Yes);
            self.row = self.verdicts.len();
            return false;
        }
        self.row =
            table.probe(keys, self.row, PAIRS_MAX, &mut self.probe_rows, &mut self.build_rows);
        true
    }

    /// Adds pairs of the current row and all build rows, row by row, without the
    /// rows that `skip` names.
    fn cross(&mut self, build_len: usize, skip: impl Fn(Verdict) -> bool) -> bool {
        if build_len == 0 {
            return false;
        }
        while self.row < self.verdicts.len() && self.probe_rows.len() < PAIRS_MAX {
            if skip(self.verdicts[self.row]) {
                self.row += 1;
                self.build_at = 0;
                continue;
            }
            let count = (PAIRS_MAX - self.probe_rows.len()).min(build_len - self.build_at);
            let from = self.build_at as u32;
            self.probe_rows.extend(std::iter::repeat_n(self.row as u32, count));
            self.build_rows.extend(from..from + count as u32);
            self.build_at += count;
            if self.build_at == build_len {
                self.row += 1;
                self.build_at = 0;
            }
        }
        !self.probe_rows.is_empty()
    }

    /// Collects pairs whose key equality may be NULL; `false`: no more.
    fn find_unknown(&mut self, core: &JoinCore) -> bool {
        let (Some(table), Some(keys)) = (&core.table, &self.keys) else {
            return self.cross(core.build.len(), |verdict| verdict != Verdict::No);
        };
        let build_len = table.len();
        let null_rows = table.null_rows();
        // With one key and nothing else to check, NULL on either side decides.
        let decided = core.conditions.is_empty() && core.na_equalities.len() == 1;
        while self.row < self.verdicts.len() && self.probe_rows.len() < PAIRS_MAX {
            let row = self.row;
            let null_key = keys.is_null(row);
            let candidates = if null_key { build_len } else { null_rows.len() };
            if self.verdicts[row] != Verdict::No || self.build_at >= candidates {
                self.row += 1;
                self.build_at = 0;
                continue;
            }
            if decided {
                self.verdicts[row] = Verdict::Unknown;
                continue;
            }
            let count = (PAIRS_MAX - self.probe_rows.len()).min(candidates - self.build_at);
            let range = self.build_at..self.build_at + count;
            self.probe_rows.extend(std::iter::repeat_n(row as u32, count));
            match null_key {
                true => self.build_rows.extend(range.map(|at| at as u32)),
                false => self.build_rows.extend_from_slice(&null_rows[range]),
            }
            self.build_at += count;
        }
        !self.probe_rows.is_empty()
    }

    /// Joins and filters the next candidates.
    fn join_pairs(&mut self, core: &JoinCore, eval: &mut EvalContext) -> Result<Option<Chunk>> {
        let end = (self.pairs_at + self.pairs_max).min(self.probe_rows.len());
        let probe_rows = &self.probe_rows[self.pairs_at..end];
        let build_rows = &self.build_rows[self.pairs_at..end];
        self.pairs_at = end;
        let probe = batch::gather(&self.chunk, probe_rows)?;
        let build = core.build.gather(build_rows)?;
        let mut joined = match core.probe_is_left {
            true => batch::glue(probe, build),
            false => batch::glue(build, probe),
        };
        match self.phase {
            Phase::Unknown => filter_not_false(&core.na_equalities, &mut joined, eval)?,
            // With a table, equal keys are what made the pairs.
            _ if core.table.is_none() && core.null_aware => {
                cairn_expr::eval_filter(&core.na_equalities, &mut joined, eval)?;
            }
            _ => {}
        }
        if !core.conditions.is_empty() {
            cairn_expr::eval_filter(&core.conditions, &mut joined, eval)?;
        }
        let verdict = if self.phase == Phase::Unknown { Verdict::Unknown } else { Verdict::Yes };
        for pair in joined.selected() {
            self.verdicts[probe_rows[pair] as usize] = verdict;
            core.mark_build_row(build_rows[pair]);
        }
        if core.keeps_order && core.probe_is_preserved() {
            let rows = joined.selected().map(|pair| probe_rows[pair]).collect();
            joined = self.settle(core, batch::dense(joined), rows)?;
        }
        let keep = core.kind.keeps_right() && !joined.is_empty();
        Ok(keep.then_some(joined))
    }

    /// Joined pairs of probe rows `rows`, and among them the rows whose last candidate was seen
    /// and that have no match.
    fn settle(&mut self, core: &JoinCore, mut joined: Chunk, rows: Vec<u32>) -> Result<Chunk> {
        let next = self.probe_rows.get(self.pairs_at).map_or(self.row, |row| *row as usize);
        let alone = (self.settled..next).filter(|row| self.verdicts[*row] == Verdict::No);
        let alone: Vec<u32> = alone.map(|row| row as u32).collect();
        self.settled = next;
        if alone.is_empty() {
            return Ok(joined);
        }
        joined.append_chunk(&self.without_match(core, &alone)?);
        let mut order = Vec::with_capacity(rows.len() + alone.len());
        let mut alone_at = 0;
        for (at, row) in rows.iter().enumerate() {
            while alone.get(alone_at).is_some_and(|before| before < row) {
                order.push((rows.len() + alone_at) as u32);
                alone_at += 1;
            }
            order.push(at as u32);
        }
        order.extend((alone_at..alone.len()).map(|at| (rows.len() + at) as u32));
        batch::gather(&joined, &order)
    }

    /// Probe rows beside NULLs.
    fn without_match(&self, core: &JoinCore, rows: &[u32]) -> Result<Chunk> {
        let probe = batch::gather(&self.chunk, rows)?;
        let build = batch::nulls(&core.build_types, rows.len());
        Ok(match core.probe_is_left {
            true => batch::glue(probe, build),
            false => batch::glue(build, probe),
        })
    }

    /// What depends on the verdicts.
    fn rest(&mut self, core: &JoinCore) -> Result<Option<Chunk>> {
        let rows_with = |verdict: Verdict| -> Vec<u32> {
            let rows = self.verdicts.iter().enumerate().skip(self.settled);
            rows.filter(|(_, found)| **found == verdict).map(|(row, _)| row as u32).collect()
        };
        let chunk = match core.kind {
            JoinKind::Inner => return Ok(None),
            JoinKind::LeftOuter | JoinKind::RightOuter => {
                if !core.probe_is_preserved() {
                    return Ok(None);
                }
                self.without_match(core, &rows_with(Verdict::No))?
            }
            JoinKind::Semi => batch::gather(&self.chunk, &rows_with(Verdict::Yes))?,
            JoinKind::Anti => batch::gather(&self.chunk, &rows_with(Verdict::No))?,
            JoinKind::LeftOuterSemi | JoinKind::AntiLeftOuterSemi => {
                let negated = core.kind == JoinKind::AntiLeftOuterSemi;
                let marks = self.verdicts.iter().map(|verdict| match verdict {
                    Verdict::Yes => Some(i64::from(!negated)),
                    Verdict::No => Some(i64::from(negated)),
                    Verdict::Unknown => None,
                });
                let mark = batch::int_column(marks);
                let chunk = std::mem::take(&mut self.chunk);
                batch::with_column(chunk, mark)
            }
        };
        Ok((chunk.num_rows() > 0).then_some(chunk))
    }
}

/// Keeps rows for which no condition is false: true and NULL pass.
fn filter_not_false(exprs: &[Expr], chunk: &mut Chunk, eval: &mut EvalContext) -> Result<()> {
    for expr in exprs {
        let column = expr.eval(chunk, eval)?;
        batch::keep_rows(chunk, |at| column.is_null(at) || batch::truth(&column, at));
    }
    Ok(())
}
