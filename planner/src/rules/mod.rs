//! Rewrites of logical plans: the same rows, less work.
//!
//! Each rule is a file that shows a plan before and after, and when it must not fire.
//! They run once, in the order of [`Rule::ALL`]; each leaves the plan so that the next
//! finds what it looks for. A rule can be switched off by its bit in
//! [`PlanOptions::disabled_rules`](crate::context::PlanOptions), which tests use to
//! show what it is good for.

mod decorrelate;
mod join_conditions;
mod join_reorder;
mod join_search;
mod max_min;
mod nulls;
mod project_merge;
mod prune_columns;
mod push_down;
mod semi_sink;
mod top_n;

use std::collections::BTreeSet;

use cairn_expr::EvalContext;

use crate::context::{PlanOptions, Statistics};
use crate::error::Result;
use crate::logical::{Col, Columns, Logical};

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Subqueries that depend on the row become joins.
    Decorrelate,
    /// Filters move towards the tables.
    PushDown,
    /// Semi joins over inner joins go to the one input they ask about.
    SemiSink,
    /// Inner joins are put in the best order.
    JoinReorder,
    /// MIN and MAX read one end of an index.
    MaxMin,
    /// Sort and limit become one.
    TopN,
    /// Columns nobody reads are dropped.
    PruneColumns,
    /// Projections merge, and go where they change nothing.
    ProjectMerge,
}

impl Rule {
    /// All rules in the order they run.
    pub const ALL: [Rule; 8] = [
        Rule::Decorrelate,
        Rule::PushDown,
        Rule::SemiSink,
        Rule::JoinReorder,
        Rule::MaxMin,
        Rule::TopN,
        Rule::PruneColumns,
        Rule::ProjectMerge,
    ];

    /// Its name in tests.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Decorrelate => "decorrelate",
            Rule::PushDown => "push_down",
            Rule::SemiSink => "semi_sink",
            Rule::JoinReorder => "join_reorder",
            Rule::MaxMin => "max_min",
            Rule::TopN => "top_n",
            Rule::PruneColumns => "prune_columns",
            Rule::ProjectMerge => "project_merge",
        }
    }

    /// Its bit in `disabled_rules`.
    pub fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What rules work with.
pub(crate) struct RuleContext<'r> {
    pub columns: &'r mut Columns,
    pub eval: &'r mut EvalContext,
    pub statistics: &'r dyn Statistics,
    pub options: PlanOptions,
}

/// Runs the rules over a plan of which only `wanted` columns are asked.
pub(crate) fn optimize(
    mut plan: Logical,
    wanted: &[Col],
    ctx: &mut RuleContext<'_>,
) -> Result<Logical> {
    let wanted: BTreeSet<Col> = wanted.iter().copied().collect();
    for rule in Rule::ALL {
        if ctx.options.disabled_rules & rule.bit() != 0 {
            continue;
        }
        plan = match rule {
            Rule::Decorrelate => decorrelate::run(plan, ctx)?,
            Rule::PushDown => push_down::run(plan, ctx)?,
            Rule::SemiSink => semi_sink::run(plan, ctx)?,
            Rule::JoinReorder => join_reorder::run(plan, ctx)?,
            Rule::MaxMin => max_min::run(plan, ctx)?,
            Rule::TopN => top_n::run(plan)?,
            Rule::PruneColumns => prune_columns::run(plan, &wanted)?,
            Rule::ProjectMerge => project_merge::run(plan)?,
        };
    }
    Ok(plan)
}
