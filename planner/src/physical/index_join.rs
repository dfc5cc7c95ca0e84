//! Joins that read of their inner table only what the outer rows can match.
//!
//! ```text
//! SELECT * FROM o JOIN t ON t.id = o.a WHERE o.k = 5
//! before: HashJoin                         after: IndexJoin
//!         ├─o: range [5,5]                        ├─o: range [5,5]           (outer)
//!         └─t: all rows                           └─t: range decided by [eq(t.id, o.a)]
//! ```
//!
//! **Where.** The inner side is one table, under filters, projections and groupings at most; under a
//! grouping the compared columns are among those it groups by (TPC-H's Q17: the average of the
//! orders of a few parts). Comparisons of
//! its columns with expressions of the outer side count as conditions of its access path, beside
//! its own: `t.id = o.a AND t.n > o.b` and `t.n > 3` make ranges of an index on `(id, n)`. At
//! least one of them must be an equality. The outer expressions become slots, which the executor
//! fills for each key.
//!
//! **Which ranges are right** is the ranger's business (`crate::ranger`), as for any parameter: a
//! comparison is used only if the key is in its order, so not where the column is cast or
//! compared under another collation. Ranges need not be exact, because the join tests all its
//! conditions again.
//!
//! **Must not happen**
//! - if an inner row without a match appears in the result (the inner side of an outer join is
//!   always the side that is not preserved), or if NULLs make an answer unknown (NOT IN): that
//!   takes all inner rows;
//! - for a TIMESTAMP key column: two moments may have the same local time when clocks are set
//!   back, a range has but one of them.
//!
//! **When.** The cheapest of the join by hash and the index joins of either side wins
//! (`cost.rs`), or what hints ask for. It keeps the order of its outer side, which may save a
//! sort.

use cairn_executor::plan::{HashJoinDesc, IndexJoinDesc, JoinKind, JoinSide};
use cairn_expr::{Expr, Func};
use cairn_types::{PhysicalKind, TypeCode};

use super::access::Path;
use super::join::{Keys, layouts};
use super::join_choice::gives;
use super::plan_cost::plan_cost;
use super::pricing::Pricing;
use super::{Physical, Root, Task, WantedOrder};
use crate::error::Result;
use crate::logical::tree::covered;
use crate::logical::{Col, Logical, LogicalAggregate, LogicalJoin, LogicalScan};
use crate::plan::{IndexJoin, PhysicalOp};
use crate::statistics::Estimate;

/// An index join that could be.
pub(super) struct Candidate {
    /// The side that is looked up.
    inner: JoinSide,
    lookups: Vec<Lookup>,
    path: Box<Path>,
    /// Cost without that of the outer side.
    cost: f64,
}

/// A comparison of an inner column with an outer expression.
struct Lookup {
    /// With a slot in place of the outer expression.
    condition: Expr,
    slot: usize,
    outer: Expr,
    inner: Col,
    is_equality: bool,
}

impl Physical<'_> {
    /// The cheapest index join with `inner` as its inner side, for so many outer rows.
    pub(super) fn index_join_candidate(
        &self,
        join: &LogicalJoin,
        inner: JoinSide,
        outer_rows: f64,
    ) -> Option<Candidate> {
        let reversible = join.kind == JoinKind::Inner && !join.straight;
        if !join.in_keys.is_empty() || inner == JoinSide::Left && !reversible {
            return None;
        }
        let (outer_side, inner_side) = sides(join, inner);
        let scan = inner_scan(inner_side)?;
        let mut lookups = self.lookups(join, outer_side, scan);
        lookups.retain(|lookup| decides(inner_side, lookup.inner));
        if !lookups.iter().any(|lookup| lookup.is_equality) {
            return None;
        }
        let scan = &*self.bound(scan);
        let conditions: Vec<Expr> = lookups.iter().map(|lookup| lookup.condition.clone()).collect();
        let unit = &self.cost;
        let mut best: Option<Candidate> = None;
        let mut paths = self.paths(scan, &conditions, None);
        if paths.iter().any(Path::is_empty) {
            return None;
        }
        self.price(scan, &mut paths, &Pricing { has_lookups: true, ..Pricing::default() });
        for mut path in paths {
            let used = |lookup: &Lookup| path.access.iter().any(|c| has_slot(c, lookup.slot));
            if !lookups.iter().any(|lookup| lookup.is_equality && used(lookup)) {
                continue;
            }
            let inner_rows = outer_rows * path.rows;
            let one_key = unit.lookup_key + path.cost;
            let cost = outer_rows * one_key + (outer_rows + inner_rows) * unit.hash_row;
            if best.as_ref().is_none_or(|best| cost < best.cost) {
                path.repeat(outer_rows);
                best = Some(Candidate { inner, lookups: Vec::new(), path: Box::new(path), cost });
            }
        }
        let mut best = best?;
        // Slots of comparisons that the path does not use stay out.
        best.lookups = lookups;
        best.lookups.retain(|lookup| best.path.access.iter().any(|c| has_slot(c, lookup.slot)));
        Some(best)
    }

    /// Comparisons of the join that ranges of the inner table may use.
    fn lookups(&self, join: &LogicalJoin, outer: &Logical, scan: &LogicalScan) -> Vec<Lookup> {
        let outer_columns = outer.output_set();
        let mut lookups: Vec<Lookup> = Vec::new();
        for condition in &join.conditions {
            let Expr::Function { func, args, .. } = condition else { continue };
            if !func.is_comparison() || *func == Func::Ne || args.len() != 2 {
                continue;
            }
            let side = |inner: usize| {
                let (column, other) = (&args[inner], &args[1 - inner]);
                let col = column.as_column()?;
                let usable = column.ty().code != TypeCode::Timestamp
                    && scan.offset_of(col).is_some()
                    && other.has_columns()
                    && covered(other, &outer_columns)
                    && other.is_deterministic()
                    && other.ty().physical() != PhysicalKind::Json
                    && !other.ty().is_enum_or_set();
                usable.then(|| (1 - inner, other.clone(), col))
            };
            let Some((at, outer, inner)) = side(0).or_else(|| side(1)) else { continue };
            let known = lookups.iter().find(|lookup| lookup.outer == outer);
            let slot = known.map_or(self.slot_count + lookups.len(), |lookup| lookup.slot);
            let mut condition = condition.clone();
            if let Expr::Function { args, .. } = &mut condition {
                args[at] = Expr::param(slot, outer.ty().clone());
            }
            let is_equality = matches!(func, Func::Eq | Func::NullEq);
            lookups.push(Lookup { condition, slot, outer, inner, is_equality });
        }
        lookups
    }

    /// The plan of a candidate over its outer side.
    pub(super) fn build_index_join(
        &mut self,
        join: &LogicalJoin,
        candidate: Candidate,
        outer: Root,
        keys: Keys,
        estimate: Box<Estimate>,
    ) -> Result<Root> {
        let Candidate { inner: build_side, lookups, path, .. } = candidate;
        let (_, inner_side) = sides(join, build_side);
        let inner_task = self.inner_task(inner_side, path)?;
        let inner = self.finish(inner_task)?;
        let ordered = outer.ordered;
        let mut desc = IndexJoin {
            slots: Vec::new(),
            outer_keys: Vec::new(),
            inner_keys: Vec::new(),
            desc: IndexJoinDesc {
                lookup_keys: Vec::new(),
                join: HashJoinDesc {
                    kind: join.kind,
                    null_aware: false,
                    left_keys: Vec::new(),
                    right_keys: Vec::new(),
                    null_safe: keys.null_safe_flags(),
                    other_conditions: Vec::new(),
                    build_side,
                },
            },
        };
        for lookup in &lookups {
            let outer_key = self.resolve(&lookup.outer, &outer.layout)?;
            self.slot_count = self.slot_count.max(lookup.slot + 1);
            if !desc.slots.contains(&lookup.slot) {
                desc.slots.push(lookup.slot);
                desc.desc.lookup_keys.push(outer_key.clone());
            }
            desc.outer_keys.push(outer_key);
            desc.inner_keys.push(self.columns.name(lookup.inner));
        }
        let (left, right) = match build_side {
            JoinSide::Right => (outer, inner),
            JoinSide::Left => (inner, outer),
        };
        let (layout, both) = layouts(join, &left.layout, &right.layout);
        desc.desc.join.left_keys = self.resolve_all(&keys.left, &left.layout)?;
        desc.desc.join.right_keys = self.resolve_all(&keys.right, &right.layout)?;
        desc.desc.join.other_conditions = self.resolve_all(&keys.others, &both)?;
        let schema = self.join_schema(join, &layout);
        let children = vec![left.plan, right.plan];
        let plan =
            self.node(PhysicalOp::IndexJoin(Box::new(desc)), children, estimate.rows, schema);
        Ok(Root { plan, layout, ordered, estimate })
    }

    /// The inner side, its table read by a path.
    fn inner_task(&mut self, logical: &Logical, path: Box<Path>) -> Result<Task> {
        match logical {
            Logical::Filter { conditions, input } => {
                let task = self.inner_task(input, path)?;
                self.filter(task, conditions)
            }
            Logical::Project { exprs, input } => {
                let below = self.inner_task(input, path)?;
                let root = self.finish(below)?;
                Ok(Task::Root(self.project(root, exprs)?))
            }
            Logical::Aggregate(aggregate) => {
                let task = self.inner_task(&aggregate.input, path)?;
                self.aggregate_task(aggregate, task)
            }
            Logical::Scan(scan) => {
                let scan = self.bound(scan).into_owned();
                self.cop_task(&scan, *path, false, false)
            }
            _ => unreachable!("a candidate's inner side is one table"),
        }
    }

    /// Cost of the first `fraction` of a candidate's rows with its outer side, or of all its rows
    /// and of sorting them.
    pub(super) fn index_join_cost(
        &self,
        candidate: &Candidate,
        outer: &Root,
        sorted_rows: Option<f64>,
        fraction: f64,
    ) -> f64 {
        let (fraction, sort) = match sorted_rows.filter(|_| !outer.ordered) {
            Some(rows) => (1.0, self.cost.sort(rows)),
            None => (fraction, 0.0),
        };
        plan_cost(&outer.plan, fraction, &self.cost) + candidate.cost * fraction + sort
    }

    /// The outer side in the wanted order, if one of its access paths gives it.
    pub(super) fn ordered_outer(
        &mut self,
        outer: &Logical,
        order: WantedOrder<'_>,
        row_goal: Option<f64>,
    ) -> Result<Option<Root>> {
        if !gives(outer, order) {
            return Ok(None);
        }
        self.row_goal = row_goal;
        let task = self.task(outer, order)?;
        if !self.ordered(&task) {
            return Ok(None);
        }
        Ok(Some(self.finish(task)?))
    }
}

impl Candidate {
    /// The side that is looked up.
    pub(super) fn inner(&self) -> JoinSide {
        self.inner
    }
}

/// The outer and the inner side.
pub(super) fn sides(join: &LogicalJoin, inner: JoinSide) -> (&Logical, &Logical) {
    match inner {
        JoinSide::Right => (&join.left, &join.right),
        JoinSide::Left => (&join.right, &join.left),
    }
}

/// The table that an inner side reads, if it is one table under filters, projections and groupings.
pub(super) fn inner_scan(logical: &Logical) -> Option<&LogicalScan> {
    match logical {
        Logical::Scan(scan) => (!scan.table.is_virtual).then_some(scan),
        // They are evaluated for every batch that a row is looked up for: each time alike.
        Logical::Filter { conditions, input } => {
            conditions.iter().all(Expr::is_deterministic).then(|| inner_scan(input)).flatten()
        }
        Logical::Project { exprs, input } => {
            let is_deterministic = exprs.iter().all(|(_, expr)| expr.is_deterministic());
            is_deterministic.then(|| inner_scan(input)).flatten()
        }
        Logical::Aggregate(aggregate) => {
            let LogicalAggregate { groups, aggs, input } = &**aggregate;
            // Without groups there is a row even of nothing.
            let is_deterministic = !groups.is_empty()
                && groups.iter().all(|(_, group)| group.is_deterministic())
                && aggs.iter().flat_map(|(_, agg)| &agg.args).all(Expr::is_deterministic);
            is_deterministic.then(|| inner_scan(input)).flatten()
        }
        _ => None,
    }
}

/// Whether a column of an inner side's table may decide what is read of it: rows of one group are all
/// read or none of them.
fn decides(logical: &Logical, col: Col) -> bool {
    match logical {
        Logical::Filter { input, .. } | Logical::Project { input, .. } => decides(input, col),
        Logical::Aggregate(aggregate) => {
            let mut groups = aggregate.groups.iter();
            groups.any(|(group, expr)| *group == col && expr.as_column() == Some(col))
                && decides(&aggregate.input, col)
        }
        _ => true,
    }
}

fn has_slot(condition: &Expr, slot: usize) -> bool {
    condition.any(&mut |expr| matches!(expr, Expr::Param { index, .. } if *index == slot))
}
