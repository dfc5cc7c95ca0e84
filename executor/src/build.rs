//! From a fragment to a running tree.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};
use crate::operators::{
    BroadcastJoin, HashAgg, IndexLookup, IndexScan, Limit, Projection, Sample, Selection,
    StreamAgg, TableScan, TopN,
};
use crate::plan::{Fragment, OpDesc};
use crate::source::{KeyRange, KvSource};

/// Builds the operators of a fragment over the key ranges of its scan (ascending,
/// not overlapping); tables of its joins are those of the context. Statistics are kept under each operator's place in the
/// fragment, the scan being 0.
///
/// Fragments may come from the wire: an unsound one is refused.
pub fn build_fragment(
    fragment: &Fragment,
    ranges: Vec<KeyRange>,
    source: Arc<dyn KvSource>,
    ctx: ExecContext,
) -> Result<BoxOperator> {
    fragment.validate()?;
    let start_key = ranges.first().map(|range| range.start.clone()).unwrap_or_default();
    let mut ranges = Some(ranges);
    let mut tree: Option<BoxOperator> = None;
    for (place, desc) in fragment.operators.iter().enumerate() {
        let ctx = ctx.for_operator(place, desc.name());
        let operator: BoxOperator = match desc {
            OpDesc::TableScan(scan) => {
                let ranges = ranges.take().unwrap_or_default();
                Box::new(TableScan::new(scan, ranges, source.clone(), ctx.clone())?)
            }
            OpDesc::IndexScan(scan) => {
                let ranges = ranges.take().unwrap_or_default();
                Box::new(IndexScan::new(scan, ranges, source.clone(), ctx.clone())?)
            }
            OpDesc::IndexLookup(lookup) => {
                let input = input(&mut tree)?;
                Box::new(IndexLookup::new(input, lookup, source.clone(), ctx.clone())?)
            }
            OpDesc::Sample(sample) => {
                let input = input(&mut tree)?;
                Box::new(Sample::new(input, sample, start_key.clone(), ctx.clone())?)
            }
            OpDesc::HashJoin(join) => {
                Box::new(BroadcastJoin::new(input(&mut tree)?, join, ctx.clone())?)
            }
            other => build_operator(other, input(&mut tree)?, &ctx)?,
        };
        tree = Some(ctx.instrument(place, desc.name(), operator));
    }
    Ok(Box::new(Answering { operator: input(&mut tree)?, ctx }))
}

/// The top of a fragment: moves the scan's position when an answer goes out.
struct Answering {
    operator: BoxOperator,
    ctx: ExecContext,
}

#[async_trait]
impl Operator for Answering {
    fn schema(&self) -> &[FieldType] {
        self.operator.schema()
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let answer = self.operator.next().await?;
        self.ctx.scan_position.answer();
        Ok(answer)
    }
}

/// Builds one operator that reads another; scans, lookups and samples need a source and
/// its ranges, joins another input, and are refused.
pub fn build_operator(desc: &OpDesc, input: BoxOperator, ctx: &ExecContext) -> Result<BoxOperator> {
    Ok(match desc {
        OpDesc::Selection(desc) => Box::new(Selection::new(input, desc, ctx.clone())?),
        OpDesc::Projection(desc) => Box::new(Projection::new(input, desc, ctx.clone())?),
        OpDesc::Aggregation(desc) if desc.stream => {
            Box::new(StreamAgg::new(input, desc, ctx.clone())?)
        }
        OpDesc::Aggregation(desc) => Box::new(HashAgg::new(input, desc, ctx.clone())?),
        OpDesc::TopN(desc) => Box::new(TopN::new(input, desc, ctx.clone())?),
        OpDesc::Limit(desc) => Box::new(Limit::new(input, desc)),
        OpDesc::TableScan(_)
        | OpDesc::IndexScan(_)
        | OpDesc::IndexLookup(_)
        | OpDesc::Sample(_)
        | OpDesc::HashJoin(_) => {
            return Err(ExecError::invalid_plan("this operator needs a row source"));
        }
    })
}

fn input(tree: &mut Option<BoxOperator>) -> Result<BoxOperator> {
    tree.take().ok_or_else(|| ExecError::invalid_plan("the first operator must be a scan"))
}
