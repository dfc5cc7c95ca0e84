//! A join whose build side memory does not hold.
//!
//! ```text
//!  build ─► hash of the keys ─► part 0 … part 15 ┐
//!  probe ─► hash of the keys ─► part 0 … part 15 ┴─► part 0 with part 0, then 1 with 1, …
//! ```
//!
//! Rows with equal keys come into parts with the same number, so that each pair of parts is a join of its own, a
//! [`HashJoin`] with all its kinds, conditions and workers, at depth + 1: one whose build part is still too large
//! divides its inputs again by other bits of the hash. Rows without a match are in one part only, and preserved there.
//!
//! **Null-aware joins.** A build row with a NULL key makes membership unknown for probe rows of all parts: such
//! rows are kept apart and join the build side of every part. A probe row with a NULL key is to be compared with every build
//! row: those rows are kept apart, too, and go once through all parts; who is found unknown leaves, and
//! who is left at the end has no match.
//!
//! **Cost**: both inputs written and read once per depth. Nothing of the build side stays in memory (GRACE rather than
//! hybrid hash), since the operators above want the quota as well.
//!
//! **Sources.** M. Kitsuregawa, H. Tanaka, T. Moto-oka, "Application of Hash to Data Base Machine and Its
//! Architecture", New Generation Computing 1(1), 1983; G. Graefe, "Query Evaluation Techniques for Large
//! Databases", ACM Computing Surveys 25(2), 1993, section 5.3.

use cairn_types::{Chunk, FieldType};

use super::HashJoin;
use super::build::BuildSide;
use crate::batch;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::{HashJoinDesc, JoinKind, JoinSide};
use crate::runtime_stats::Detail;
use crate::spill::partition::Partitions;
use crate::spill::{Area, SpillSource, SpillStream, SpillWriter};

/// Rows of a chunk that is divided.
const CHUNK_ROWS: usize = 1024;

/// See the module documentation.
pub(super) struct SpilledJoin {
    desc: HashJoinDesc,
    probe_types: Vec<FieldType>,
    build_types: Vec<FieldType>,
    ctx: ExecContext,
    depth: u32,
    area: Area,
    /// Parts that are still to be joined, the next one last.
    parts: Vec<(SpillStream, SpillStream)>,
    /// The part that is being joined.
    join: Option<HashJoin>,
    nulls: Option<Nulls>,
}

/// What a null-aware join keeps apart.
struct Nulls {
    /// Build rows with a NULL key.
    build: SpillStream,
    /// Probe rows with a NULL key that no build row was found for yet.
    probe: SpillStream,
    /// Build rows that those have not been compared with.
    builds: Vec<SpillStream>,
    /// Those that pass on from the parts that are being compared.
    passing: Option<SpillWriter>,
    /// They have been compared with all build rows.
    rest: Option<SpillSource>,
}

/// One input on disk.
struct Divided {
    parts: Vec<SpillStream>,
    nulls: Option<SpillStream>,
}

impl SpilledJoin {
    /// Divides both inputs: what `side` has collected and what follows in `build`, then `probe`.
    pub(super) async fn start(
        (mut side, mut build, mut probe): (BuildSide, BoxOperator, BoxOperator),
        ctx: &ExecContext,
        depth: u32,
        memory: &mut OperatorMemory,
    ) -> Result<SpilledJoin> {
        let Some(space) = &ctx.spill else {
            return Err(ExecError::invalid_plan("a join has no place to spill to"));
        };
        let area = Area::open(space, "HashJoin").await?;
        let count = space.sizes().partitions;

        let mut parts = Divider::new(true, &side, &area, count, depth);
        let rows = side.take_rows();
        memory.force_set(parts.buffer_bytes() + rows.memory_bytes() as u64);
        for start in (0..rows.num_rows()).step_by(CHUNK_ROWS) {
            ctx.check()?;
            let end = (start + CHUNK_ROWS).min(rows.num_rows());
            parts.push(batch::slice(&rows, start, end), &mut side).await?;
        }
        drop(rows);
        memory.force_set(parts.buffer_bytes());
        while let Some(chunk) = build.next().await? {
            ctx.check()?;
            parts.push(chunk, &mut side).await?;
        }
        drop(build);
        let built = parts.finish().await?;

        let mut parts = Divider::new(false, &side, &area, count, depth);
        while let Some(chunk) = probe.next().await? {
            ctx.check()?;
            parts.push(chunk, &mut side).await?;
        }
        drop(probe);
        let probed = parts.finish().await?;
        memory.force_set(0);
        ctx.count(Detail::SpillRounds, 1);
        let used = built.parts.iter().filter(|part| part.rows() > 0).count();
        ctx.count(Detail::SpillPartitions, used as u64);

        let nulls = match (built.nulls, probed.nulls) {
            (Some(build), Some(probe)) => {
                let mut builds = Vec::new();
                if probe.rows() > 0 {
                    builds.extend(built.parts.iter().cloned());
                    builds.push(build.clone());
                    builds.retain(|stream| stream.rows() > 0);
                }
                Some(Nulls { build, probe, builds, passing: None, rest: None })
            }
            _ => None,
        };
        let BuildSide { desc, probe_types, build_types, .. } = side;
        Ok(SpilledJoin {
            parts: built.parts.into_iter().zip(probed.parts).rev().collect(),
            desc,
            probe_types,
            build_types,
            ctx: ctx.clone(),
            depth,
            area,
            join: None,
            nulls,
        })
    }

    /// The next joined chunk. `memory`: the account of the join that was divided.
    pub(super) async fn next(&mut self, memory: &mut OperatorMemory) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some(join) = &mut self.join {
                match join.next().await? {
                    Some(chunk) => match self.accept(chunk).await? {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    },
                    None => self.join = None,
                }
            }
            if let Some((build, probe)) = self.parts.pop() {
                if build.rows() + probe.rows() > 0 {
                    let nulls = self.nulls.as_ref().map(|nulls| nulls.build.clone());
                    let desc = self.desc.clone();
                    self.join =
                        Some(self.join_of([build].into_iter().chain(nulls), probe, desc)?);
                }
                continue;
            }
            let block_bytes = self.ctx.spill.as_ref().map_or(0, |space| space.sizes().block_bytes);
            memory.force_set(block_bytes as u64);
            if !self.next_nulls().await? {
                return self.rest().await;
            }
        }
    }

    /// A join of parts.
    fn join_of(
        &self,
        build: impl IntoIterator<Item = SpillStream>,
        probe: SpillStream,
        desc: HashJoinDesc,
    ) -> Result<HashJoin> {
        let ctx = || self.ctx.clone();
        let build: BoxOperator = Box::new(SpillSource::new(self.build_types.clone(), build, ctx()));
        let probe: BoxOperator =
            Box::new(SpillSource::new(self.probe_types.clone(), [probe], ctx()));
        let (left, right) = match desc.build_side {
            JoinSide::Right => (probe, build),
            JoinSide::Left => (build, probe),
        };
        HashJoin::at_depth(left, right, desc, ctx(), self.depth + 1)
    }

    /// Compares the probe rows with a NULL key with the next build rows; false: with all.
    async fn next_nulls(&mut self) -> Result<bool> {
        let Some(nulls) = &mut self.nulls else { return Ok(false) };
        if let Some(passing) = nulls.passing.take() {
            nulls.probe = passing.finish().await?;
        }
        let Some(build) = nulls.builds.pop().filter(|_| nulls.probe.rows() > 0) else {
            return Ok(false);
        };
        nulls.passing = Some(SpillWriter::new(&self.area));
        let probe = nulls.probe.clone();
        // Its mark tells unknown rows from those without a match.
        let desc = HashJoinDesc { kind: JoinKind::LeftOuterSemi, ..self.desc.clone() };
        self.join = Some(self.join_of([build], probe, desc)?);
        Ok(true)
    }

    /// What of a joined chunk is output.
    async fn accept(&mut self, chunk: Chunk) -> Result<Option<Chunk>> {
        let passing = self.nulls.as_mut().and_then(|nulls| nulls.passing.as_mut());
        let Some(passing) = passing else { return Ok(Some(chunk)) };
        let mut chunk = batch::dense(chunk);
        let Some(mark) = chunk.columns.pop() else {
            return Err(ExecError::Corrupted("a chunk has the wrong number of columns"));
        };
        let (mut unknown, mut open) = (Vec::new(), Vec::new());
        for row in 0..mark.len() {
            if mark.is_null(row) { &mut unknown } else { &mut open }.push(row as u32);
        }
        if !open.is_empty() {
            passing.push(&batch::gather(&chunk, &open)?).await?;
        }
        if unknown.is_empty() || !self.desc.kind.has_mark() {
            return Ok(None);
        }
        let mark = batch::int_column(unknown.iter().map(|_| None));
        Ok(Some(batch::with_column(batch::gather(&chunk, &unknown)?, mark)))
    }

    /// Probe rows with a NULL key that no build row makes unknown.
    async fn rest(&mut self) -> Result<Option<Chunk>> {
        let Some(nulls) = &mut self.nulls else { return Ok(None) };
        let rest = nulls.rest.get_or_insert_with(|| {
            SpillSource::new(self.probe_types.clone(), [nulls.probe.clone()], self.ctx.clone())
        });
        let Some(chunk) = rest.next().await? else { return Ok(None) };
        if !self.desc.kind.has_mark() {
            return Ok(Some(chunk));
        }
        let mark = i64::from(self.desc.kind == JoinKind::AntiLeftOuterSemi);
        let mark = batch::int_column((0..chunk.num_rows()).map(|_| Some(mark)));
        Ok(Some(batch::with_column(chunk, mark)))
    }
}

/// Divides the rows of one input.
struct Divider {
    of_build: bool,
    parts: Partitions,
    nulls: Option<SpillWriter>,
}

impl Divider {
    fn new(of_build: bool, side: &BuildSide, area: &Area, count: usize, depth: u32) -> Divider {
        let types = if of_build { &side.build_types } else { &side.probe_types };
        Divider {
            of_build,
            parts: Partitions::new(area, count, types, depth),
            nulls: side.compares_nulls().then(|| SpillWriter::new(area)),
        }
    }

    fn buffer_bytes(&self) -> u64 {
        self.parts.buffer_bytes()
    }

    async fn push(&mut self, chunk: Chunk, side: &mut BuildSide) -> Result<()> {
        let chunk = batch::dense(chunk);
        let keys = side.encode(self.of_build, &chunk)?;
        // Whoever joins the part evaluates them again, and warns.
        side.drop_warnings();
        let rows = 0..chunk.num_rows();
        let Some(nulls) = &mut self.nulls else {
            return self.parts.push(&chunk, &keys, rows).await;
        };
        let of_null: Vec<u32> =
            rows.clone().filter(|row| keys.is_null(*row)).map(|row| row as u32).collect();
        if !of_null.is_empty() {
            nulls.push(&batch::gather(&chunk, &of_null)?).await?;
        }
        self.parts.push(&chunk, &keys, rows.filter(|row| !keys.is_null(*row))).await
    }

    async fn finish(self) -> Result<Divided> {
        let nulls = match self.nulls {
            Some(nulls) => Some(nulls.finish().await?),
            None => None,
        };
        Ok(Divided { parts: self.parts.finish().await?, nulls })
    }
}
