//! Aggregation: partial in the stores and final here, or all of it here.
//!
//! ```text
//! HashAgg(complete) ← rows        becomes      HashAgg(final) ← HashAgg(partial, cop) ← rows
//! ```
//!
//! Split if every aggregate can be and stores know it, and every argument can be
//! computed there; never with DISTINCT. Rows that arrive clustered by the group are
//! aggregated as a stream.

use cairn_executor::plan::{AggMode, AggregationDesc};
use cairn_expr::Expr;
use cairn_expr::agg::{AggDesc, partial_types};

use super::cop::pushable;
use super::{Physical, Root, Task};
use crate::error::Result;
use crate::logical::{Col, LogicalAggregate};
use crate::plan::PhysicalOp;
use crate::statistics::Estimate;

impl Physical<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &LogicalAggregate) -> Result<Task> {
        let splits = self.splits(aggregate);
        self.sent_goal = if splits { self.groups_goal(aggregate) } else { None };
        let task = self.task(&aggregate.input, None)?;
        self.aggregate_task(aggregate, task)
    }

    /// The aggregation of what a task gives.
    pub(super) fn aggregate_task(
        &mut self,
        aggregate: &LogicalAggregate,
        task: Task,
    ) -> Result<Task> {
        match task {
            Task::Cop(mut cop) if cop.accepts_rows() && self.splits(aggregate) => {
                let partial = self.push_partial(&mut cop, aggregate)?;
                let root = self.finish(Task::Cop(cop))?;
                Ok(Task::Root(self.final_aggregation(aggregate, partial, root)?))
            }
            task => {
                let root = self.finish(task)?;
                Ok(Task::Root(self.complete(aggregate, root)?))
            }
        }
    }

    fn splits(&self, aggregate: &LogicalAggregate) -> bool {
        let known = |agg: &AggDesc| {
            // The arguments' session functions are computed before they are sent.
            let stub = AggDesc { args: Vec::new(), ..agg.clone() };
            stub.is_pushable() && agg.args.iter().all(pushable)
        };
        self.options.push_down
            && aggregate.aggs.iter().all(|(_, agg)| known(agg))
            && aggregate.groups.iter().all(|(_, group)| pushable(group))
    }

    /// Adds the partial aggregation; tells how many columns its states take.
    fn push_partial(
        &mut self,
        cop: &mut super::cop::CopTask,
        aggregate: &LogicalAggregate,
    ) -> Result<AggregationDesc> {
        let desc = self.desc(aggregate, AggMode::Partial, &cop.layout)?;
        let mut layout: Vec<Col> = Vec::new();
        for agg in &desc.aggs {
            for ty in partial_types(agg) {
                layout.push(self.columns.add(ty));
            }
        }
        layout.extend(aggregate.groups.iter().map(|(col, _)| *col));
        let estimate = self.estimator().aggregate(&cop.estimate, aggregate);
        self.push_aggregation(cop, desc.clone(), layout, estimate);
        Ok(desc)
    }

    fn final_aggregation(
        &mut self,
        aggregate: &LogicalAggregate,
        partial: AggregationDesc,
        root: Root,
    ) -> Result<Root> {
        let states = root.layout.len() - aggregate.groups.len();
        let groups = aggregate.groups.iter().enumerate();
        let group_by: Vec<Expr> =
            groups.map(|(at, (_, group))| Expr::column(states + at, group.ty().clone())).collect();
        let desc =
            AggregationDesc { group_by, aggs: partial.aggs, mode: AggMode::Final, stream: false };
        // The stores' groups were estimated as those of the whole.
        let estimate = match root.estimate.is_counted() {
            true => Estimate::clone(&root.estimate),
            false => self.estimator().aggregate(&root.estimate, aggregate),
        };
        self.aggregation(aggregate, desc, root, estimate)
    }

    fn complete(&mut self, aggregate: &LogicalAggregate, root: Root) -> Result<Root> {
        let desc = self.desc(aggregate, AggMode::Complete, &root.layout)?;
        let estimate = self.estimator().aggregate(&root.estimate, aggregate);
        self.aggregation(aggregate, desc, root, estimate)
    }

    fn aggregation(
        &mut self,
        aggregate: &LogicalAggregate,
        desc: AggregationDesc,
        root: Root,
        estimate: Estimate,
    ) -> Result<Root> {
        let aggs = aggregate.aggs.iter().map(|(col, _)| *col);
        let layout: Vec<Col> = aggs.chain(aggregate.groups.iter().map(|(col, _)| *col)).collect();
        let schema = self.schema(&layout);
        let op = match desc.stream {
            true => PhysicalOp::StreamAgg(desc),
            false => PhysicalOp::HashAgg(desc),
        };
        let plan = self.node(op, vec![root.plan], estimate.rows, schema);
        Ok(Root { plan, layout, ordered: false, estimate: Box::new(estimate) })
    }

    fn desc(
        &self,
        aggregate: &LogicalAggregate,
        mode: AggMode,
        layout: &[Col],
    ) -> Result<AggregationDesc> {
        let mut aggs = Vec::with_capacity(aggregate.aggs.len());
        for (_, agg) in &aggregate.aggs {
            let args = self.resolve_all(&agg.args, layout)?;
            aggs.push(AggDesc { args, ..agg.clone() });
        }
        let groups: Vec<Expr> = aggregate.groups.iter().map(|(_, expr)| expr.clone()).collect();
        let group_by = self.resolve_all(&groups, layout)?;
        Ok(AggregationDesc { group_by, aggs, mode, stream: false })
    }
}
