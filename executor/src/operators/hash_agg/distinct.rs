//! Values of DISTINCT aggregates that memory does not hold.
//!
//! Once memory is refused, the sets of values seen take no more in. A value that its group has not seen goes to
//! disk with the group's number, one stream per aggregate. When the input has ended the sets are no longer
//! needed; what each stream holds is made distinct by a [`HashAgg`] of its own over group and values, which divides them
//! as any aggregation does, and then added.

use cairn_expr::{AggDesc, AggFunc, AggMode, EvalContext, Expr};
use cairn_types::{Column, FieldType};

use super::HashAgg;
use crate::batch::{self, RowStore};
use crate::error::{ExecError, Result};
use crate::operator::Operator;
use crate::operators::agg::Aggregates;
use crate::plan::AggregationDesc;
use crate::spill::{Area, SpillSource, SpillWriter};

/// Bytes that wait until they are written.
const PENDING_BYTES_MAX: usize = 16 << 10;

/// Values of all DISTINCT aggregates of one aggregation.
#[derive(Default)]
pub(in crate::operators) struct DistinctOverflow {
    list: Vec<Values>,
}

/// Values of one aggregate: number of the group, arguments.
struct Values {
    /// Its place among the aggregates.
    aggregate: usize,
    /// Arguments that are compared; those after them are carried along.
    compared: usize,
    types: Vec<FieldType>,
    pending: RowStore,
    writer: SpillWriter,
}

impl DistinctOverflow {
    /// Nothing yet.
    pub(super) fn new(aggregates: &Aggregates, area: &Area) -> DistinctOverflow {
        let values = |(aggregate, desc): (usize, &AggDesc)| {
            let mut types = vec![FieldType::bigint()];
            types.extend(desc.args.iter().map(|arg| arg.ty().clone()));
            Values {
                aggregate,
                compared: desc.args.len() - desc.order_by.len(),
                pending: RowStore::new(&types),
                types,
                writer: SpillWriter::new(area),
            }
        };
        DistinctOverflow { list: aggregates.distinct().map(values).collect() }
    }

    /// Whether there are DISTINCT aggregates.
    pub(in crate::operators) fn is_needed(&self) -> bool {
        !self.list.is_empty()
    }

    /// Bytes the buffers need, about.
    pub(super) fn buffer_bytes(&self, block_bytes: usize) -> usize {
        self.list.len() * (PENDING_BYTES_MAX + block_bytes)
    }

    /// Adds rows of aggregate `aggregate`.
    pub(in crate::operators) fn push(
        &mut self,
        aggregate: usize,
        ids: &[u32],
        args: &[Column],
        rows: &[u32],
    ) -> Result<()> {
        let values = self.list.iter_mut().find(|values| values.aggregate == aggregate);
        let Some(values) = values.filter(|_| !rows.is_empty()) else { return Ok(()) };
        let ids = batch::int_column(rows.iter().map(|row| Some(i64::from(ids[*row as usize]))));
        let mut columns = vec![ids];
        for arg in args {
            columns.push(batch::gather_column(arg, rows, arg.has_nulls())?);
        }
        values.pending.append(&batch::from_columns(columns, rows.len()))
    }

    /// Writes what waits, if it is enough.
    pub(super) async fn write(&mut self) -> Result<()> {
        for values in &mut self.list {
            if values.pending.bytes() >= PENDING_BYTES_MAX {
                values.write().await?;
            }
        }
        Ok(())
    }
}

impl Values {
    async fn write(&mut self) -> Result<()> {
        if self.pending.len() == 0 {
            return Ok(());
        }
        let pending = std::mem::replace(&mut self.pending, RowStore::new(&self.types));
        self.writer.push(&pending.into_chunk()).await
    }
}

impl HashAgg {
    /// Adds the values that went to disk, each once.
    pub(super) async fn add_distinct(&mut self, overflow: DistinctOverflow) -> Result<()> {
        for mut values in overflow.list {
            values.write().await?;
            let Values { aggregate, compared, types, writer, .. } = values;
            if writer.rows() == 0 {
                continue;
            }
            let column = |at: usize| Expr::column(at, types[at].clone());
            let carried = compared + 1..types.len();
            let mut eval = EvalContext::default();
            let aggs: std::result::Result<Vec<AggDesc>, _> = carried
                .clone()
                .map(|at| AggDesc::new(AggFunc::FirstRow, vec![column(at)], false, &mut eval))
                .collect();
            let desc = AggregationDesc {
                group_by: (0..=compared).map(column).collect(),
                aggs: aggs?,
                mode: AggMode::Complete,
                stream: false,
            };
            let source = SpillSource::new(types, [writer.finish().await?], self.ctx.clone());
            let mut unique = HashAgg::new(Box::new(source), &desc, self.ctx.clone())?;
            while let Some(chunk) = unique.next().await? {
                // First what is carried along, then the group's number and the values.
                let mut columns = batch::dense(chunk).columns;
                let values = columns.split_off(carried.len() + 1);
                let ids = columns.pop().ok_or(WRONG_SHAPE)?;
                let ids = ids.as_int().ok_or(WRONG_SHAPE)?;
                let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
                let args = [values, columns].concat();
                self.aggregates.update_unique(aggregate, &ids, &args, &mut self.eval)?;
                // What keeps all values, as GROUP_CONCAT does, grows here.
                self.memory.set(self.bytes() as u64)?;
                self.ctx.flush_warnings(&mut self.eval);
            }
        }
        Ok(())
    }
}

const WRONG_SHAPE: ExecError = ExecError::Corrupted("distinct values come back in another shape");
