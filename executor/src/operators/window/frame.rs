//! Which rows of its partition each row's frame has.
//!
//! RANGE with a distance compares sort keys: the planner gives the value that rows of the frame must
//! not pass, and rows are sorted by it, so that each bound is a binary search. Rows whose key is NULL
//! have only each other in such a frame.

use std::ops::Range;

use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, FieldType, MysqlError, errno};

use super::running::Known;
use super::{Partition, Span, value_of};
use crate::error::{ExecError, Result};
use crate::order::{OrderEncoder, OrderKeys};
use crate::plan::fragment::{check_expr, same_kind};
use crate::plan::{
    FrameBound, FrameOffset, FrameUnit, SortItem, WindowDesc, WindowFrame, WindowFunc, is_distance,
    row_count,
};

/// The frames of a partition's rows; empty if nobody asks.
pub(super) struct Frames {
    ranges: Vec<(u32, u32)>,
}

impl Frames {
    /// The rows of a row's frame.
    #[inline]
    pub(super) fn of(&self, row: usize) -> Range<usize> {
        let (start, end) = self.ranges[row];
        start as usize..end as usize
    }
}

/// One end of frames.
enum Bound {
    Unbounded,
    /// ROWS: so many rows after the current one, or before if negative.
    Row(i64),
    /// RANGE CURRENT ROW.
    Peer,
    /// RANGE with a distance.
    Value(ValueBound),
}

/// The values of a bound for the rows of the open partition.
struct ValueBound {
    preceding: bool,
    values: Values,
}

/// Sort keys of one expression: those of the last chunk, and those of the open partition.
struct Values {
    encoder: OrderEncoder,
    chunk: OrderKeys,
    partition: OrderKeys,
}

impl Values {
    fn new(expr: &Expr, desc: bool) -> Values {
        let encoder = OrderEncoder::new(&[SortItem { expr: expr.clone(), desc }]);
        Values { encoder, chunk: OrderKeys::default(), partition: OrderKeys::default() }
    }

    fn read(&mut self, chunk: &Chunk, eval: &mut EvalContext) -> Result<()> {
        self.chunk = OrderKeys::default();
        self.encoder.encode(chunk, eval, &mut self.chunk)
    }

    fn add(&mut self, rows: Range<usize>) {
        rows.for_each(|row| self.partition.push(self.chunk.get(row)));
    }

    fn bytes(&self) -> usize {
        self.chunk.bytes() + self.partition.bytes()
    }
}

/// What is gathered of the open partition to tell the frames of its rows.
pub(super) struct PartitionKeys {
    /// Whether some function looks at a frame at the end of the partition.
    wanted: bool,
    start: Bound,
    end: Bound,
    /// RANGE with a distance: the keys of the rows, and whether they descend.
    key: Option<(Values, bool)>,
    rows: usize,
    peers: Vec<u32>,
}

impl PartitionKeys {
    /// For the frame of a window; error 3586 if a distance is none.
    pub(super) fn new(
        desc: &WindowDesc,
        input: &[FieldType],
        eval: &mut EvalContext,
    ) -> Result<PartitionKeys> {
        let WindowFrame { unit, start, end, key } = &desc.frame;
        let down = desc.order_by.first().is_some_and(|item| item.desc);
        let mut bound = |bound: &FrameBound| -> Result<Bound> {
            Ok(match (bound, unit) {
                (FrameBound::Unbounded, _) => Bound::Unbounded,
                (FrameBound::CurrentRow, FrameUnit::Rows) => Bound::Row(0),
                (FrameBound::CurrentRow, FrameUnit::Range) => Bound::Peer,
                (FrameBound::Offset(offset), unit) => {
                    let value = value_of(&offset.distance, eval)?;
                    if *unit == FrameUnit::Rows {
                        let rows = row_count(&value).ok_or_else(|| bad_bound(&desc.name))?;
                        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
                        Bound::Row(if offset.preceding { -rows } else { rows })
                    } else if is_distance(&value) {
                        value_bound(offset, key.as_ref(), down, input)?
                    } else {
                        return Err(bad_bound(&desc.name));
                    }
                }
            })
        };
        let (start, end) = (bound(start)?, bound(end)?);
        let by_value = matches!(start, Bound::Value(_)) || matches!(end, Bound::Value(_));
        let key = match key {
            Some(key) if by_value => {
                check_expr(key, input)?;
                Some((Values::new(key, down), down))
            }
            _ => None,
        };
        let runs = Known::of(&desc.frame).is_some();
        let wanted = desc.functions.iter().any(|function| match function.func {
            WindowFunc::FirstValue(_) | WindowFunc::Aggregate(_) => !runs,
            _ => function.func.uses_frame(),
        });
        Ok(PartitionKeys { wanted, start, end, key, rows: 0, peers: Vec::new() })
    }

    /// Looks at a chunk, whose spans follow.
    pub(super) fn read(&mut self, chunk: &Chunk, eval: &mut EvalContext) -> Result<()> {
        self.values().try_for_each(|values| values.read(chunk, eval))
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Values> {
        let bounds = [&mut self.start, &mut self.end].into_iter().filter_map(|bound| match bound {
            Bound::Value(bound) => Some(&mut bound.values),
            _ => None,
        });
        self.key.iter_mut().map(|(values, _)| values).chain(bounds)
    }

    /// Adds rows of the chunk to the open partition.
    pub(super) fn add(&mut self, spans: &[Span]) {
        for span in spans {
            if span.opens {
                self.peers.push(self.rows as u32);
            }
            self.rows += span.rows.len();
            self.values().for_each(|values| values.add(span.rows.clone()));
        }
    }

    /// Rows of the open partition.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held; the frames that are told at the end included.
    pub(super) fn bytes(&self) -> usize {
        let values = |bound: &Bound| match bound {
            Bound::Value(bound) => bound.values.bytes(),
            _ => 0,
        };
        let key = self.key.as_ref().map_or(0, |(values, _)| values.bytes());
        let frames = if self.wanted { self.rows * size_of::<(u32, u32)>() } else { 0 };
        let peers = self.peers.capacity() * size_of::<u32>();
        values(&self.start) + values(&self.end) + key + frames + peers
    }

    /// The partition is complete; the next one begins.
    pub(super) fn end(&mut self) -> Partition {
        let mut partition = Partition {
            rows: std::mem::take(&mut self.rows),
            peers: std::mem::take(&mut self.peers),
            frames: Frames { ranges: Vec::new() },
        };
        if self.wanted {
            partition.frames = self.frames(&partition);
        }
        self.values().for_each(|values| values.partition = OrderKeys::default());
        partition
    }

    fn frames(&self, partition: &Partition) -> Frames {
        let mut ranges = Vec::with_capacity(partition.rows);
        let nulls = self.nulls(partition.rows);
        for peers in partition.groups() {
            for row in peers.clone() {
                let start = self.bound(&self.start, row, &peers, partition.rows, &nulls, false);
                let end = self.bound(&self.end, row, &peers, partition.rows, &nulls, true);
                let end = end.max(start);
                ranges.push((start as u32, end as u32));
            }
        }
        Frames { ranges }
    }

    /// Rows with NULL for a key: at the beginning, or at the end where keys descend.
    fn nulls(&self, rows: usize) -> Range<usize> {
        match &self.key {
            Some((values, false)) => 0..first_row(rows, |row| !is_null(values.partition.get(row))),
            Some((values, true)) => first_row(rows, |row| is_null(values.partition.get(row)))..rows,
            None => 0..0,
        }
    }

    /// The first row of a row's frame, or the row behind its last.
    fn bound(
        &self,
        bound: &Bound,
        row: usize,
        peers: &Range<usize>,
        rows: usize,
        nulls: &Range<usize>,
        is_end: bool,
    ) -> usize {
        match bound {
            Bound::Unbounded => {
                if is_end {
                    rows
                } else {
                    0
                }
            }
            Bound::Peer => {
                if is_end {
                    peers.end
                } else {
                    peers.start
                }
            }
            Bound::Row(distance) => {
                let at = (row as i64).saturating_add(*distance).saturating_add(i64::from(is_end));
                at.clamp(0, rows as i64) as usize
            }
            Bound::Value(_) if nulls.contains(&row) => {
                if is_end {
                    peers.end
                } else {
                    peers.start
                }
            }
            Bound::Value(bound) => {
                let Some((keys, _)) = &self.key else { return rows };
                let (keys, value) = (&keys.partition, bound.values.partition.get(row));
                if is_null(value) {
                    // Farther away than there are values.
                    let first = if nulls.start == 0 { nulls.end } else { 0 };
                    let end = if nulls.start == 0 { rows } else { nulls.start };
                    return if bound.preceding { first } else { end };
                }
                match is_end {
                    false => first_row(rows, |row| keys.get(row) >= value),
                    true => first_row(rows, |row| keys.get(row) > value),
                }
            }
        }
    }
}

fn value_bound(
    offset: &FrameOffset,
    key: Option<&Expr>,
    down: bool,
    input: &[FieldType],
) -> Result<Bound> {
    let (Some(value), Some(key)) = (&offset.value, key) else {
        return Err(ExecError::invalid_plan("a frame lacks its values"));
    };
    check_expr(value, input)?;
    if !same_kind(value.ty(), key.ty()) {
        return Err(ExecError::invalid_plan("the values of a frame are not of its key's type"));
    }
    let values = Values::new(value, down);
    Ok(Bound::Value(ValueBound { preceding: offset.preceding, values }))
}

/// The first of `rows` rows for which `test` holds; it holds for all that follow.
fn first_row(rows: usize, test: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = (low + high) / 2;
        if test(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Whether a sort key of one item, ascending or not, is that of NULL.
fn is_null(key: &[u8]) -> bool {
    matches!(key, [0] | [0xFF])
}

fn bad_bound(window: &str) -> ExecError {
    ExecError::Mysql(MysqlError::with_args(errno::ER_WINDOW_FRAME_ILLEGAL, &[&window]))
}
