//! ORDER BY: an ordered access path where that is cheaper, TopN, Sort.
//!
//! A scan in key order makes a sort superfluous if the key, after columns fixed to one
//! value, begins with the sort columns. With a limit it also stops early; how early is
//! known where the table was analyzed.

use cairn_executor::plan::SortDesc;

use super::{Physical, Root, Task, cop};
use crate::error::Result;
use crate::logical::{Logical, SortKey};
use crate::plan::{PhysicalOp, RowLimit};
use crate::statistics::Estimate;

impl Physical<'_> {
    /// Whether the rows of a task come in the order its scan was asked for.
    pub(crate) fn ordered(&self, task: &Task) -> bool {
        match task {
            Task::Cop(cop) => cop.keep_order,
            Task::Root(root) => root.ordered,
        }
    }

    pub(super) fn sort(&mut self, by: &[SortKey], input: &Logical) -> Result<Root> {
        let order = one_direction(by).then_some(by);
        let task = self.task(input, order)?;
        let ordered = order.is_some() && self.ordered(&task);
        let root = self.finish(task)?;
        if ordered {
            return Ok(Root { ordered: false, ..root });
        }
        let order_by = self.sort_items(by, &root.layout)?;
        let estimate = Estimate::clone(&root.estimate);
        let root = Root { ordered: false, ..root };
        Ok(root.above(self, PhysicalOp::Sort(SortDesc { order_by }), estimate))
    }

    pub(super) fn top_n(
        &mut self,
        by: &[SortKey],
        limit: RowLimit,
        input: &Logical,
    ) -> Result<Root> {
        let order = one_direction(by).then_some(by);
        self.row_goal = order.map(|_| limit.total_estimate());
        self.sent_goal =
            by.iter().all(|key| cop::pushable(&key.expr)).then(|| limit.total_estimate());
        let mut task = self.task(input, order)?;
        if order.is_some() && self.ordered(&task) {
            if let Task::Cop(cop) = &mut task
                && cop.accepts_limit()
            {
                self.push_limit(cop, limit);
            }
            let root = self.finish(task)?;
            let root = self.root_limit(root, limit);
            return Ok(Root { ordered: false, ..root });
        }
        if let Task::Cop(cop) = &mut task
            && cop.accepts_rows()
            && by.iter().all(|key| cop::pushable(&key.expr))
        {
            let items = self.sort_items(by, &cop.layout)?;
            self.push_top_n(cop, items, limit);
        }
        let root = self.finish(task)?;
        let order_by = self.sort_items(by, &root.layout)?;
        let estimate = self.estimator().limit(Estimate::clone(&root.estimate), limit);
        let root = Root { ordered: false, ..root };
        Ok(root.above(self, PhysicalOp::TopN { order_by, limit }, estimate))
    }
}

/// Whether all keys are plain columns in one direction.
fn one_direction(by: &[SortKey]) -> bool {
    by.iter().all(|key| key.expr.as_column().is_some() && key.desc == by[0].desc)
}
