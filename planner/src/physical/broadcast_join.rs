//! Joins that stores run next to the rows of one side; the other side is sent to each of them.
//!
//! ```text
//! SELECT d.name, SUM(f.v) FROM f JOIN d ON f.d = d.id WHERE d.k = 5 GROUP BY d.name
//! before: HashAgg                              after: HashAgg(final)
//!         └─HashJoin                                  └─TableReader(f)
//!           ├─TableReader(d)   (build)                  └─HashAgg(partial)      cop[kv]
//!           └─TableReader(f)                              └─HashJoin            cop[kv]
//!                                                           ├─TableReader(d)    (build) root
//!                                                           └─TableFullScan(f)  cop[kv]
//! ```
//!
//! **Where.** The probe side is a cop task that still gives rows, so joins with several small tables
//! follow each other in one fragment, and what stands above them (filters, partial aggregates, TopN, LIMIT)
//! follows there too. The build side is any plan of the root task; it becomes a child of the reader, which runs it
//! first and sends its rows along.
//!
//! **Must not happen**
//! - if a row of the build side without a match appears in the result: no store sees all probe rows;
//! - without keys, or if stores cannot evaluate the keys of the probe side or the other conditions. Keys of the
//!   build side are computed before it is sent, once;
//! - if the build side is expected to be larger than `tidb_broadcast_join_threshold_size` and `…_count` say. That may
//!   turn out wrong: then the join runs on the SQL node after all.
//!
//! **When.** It competes with the join by hash on the SQL node and the index joins. What it saves is sending the probe
//! side's rows, where fewer are left behind the join. How many are left is known only above:
//! an aggregation, a TopN or another join tells downwards how many rows it would let the stores send
//! ([`Physical::sent_goal`]).
//!
//! Source: R. Epstein, M. Stonebraker, E. Wong, "Distributed Query Processing in a Relational Data Base System", SIGMOD
//! 1978 (fragment and replicate), and TiDB's broadcast hash join.

use cairn_executor::plan::fragment::FRAGMENT_COLUMNS_MAX;
use cairn_executor::plan::{
    BroadcastJoinDesc, HashJoinDesc, JoinKind, JoinSide, OpDesc, ProjectionDesc,
};
use cairn_expr::Expr;
use cairn_types::{FieldType, PhysicalKind};

use super::cop::{CopTask, pushable};
use super::index_join::sides;
use super::join::{Keys, layouts};
use super::join_choice::Wanted;
use super::plan_cost::plan_cost;
use super::{Physical, Root, Task};
use crate::error::Result;
use crate::logical::{Col, Logical, LogicalAggregate, LogicalJoin};
use crate::statistics::{Estimate, JoinTerms};

/// Rows that each row of the probe side is joined with, on average, at most.
const MATCHES_MAX: f64 = 32.0;
/// Joins of one fragment. Each choice copies those below it, and each table is read before the scan begins.
const JOINS_MAX: usize = 16;
/// Tables below a join that is looked at before its sides are planned: along a chain the work grows with their cube.
const GOAL_TABLES_MAX: usize = 12;
/// Bytes of a text of which nothing is known, at most.
const TEXT_BYTES_GUESS: u32 = 32;
/// Bytes of a JSON document of which nothing is known.
const JSON_BYTES_GUESS: f64 = 128.0;

impl Keys {
    /// Whether stores can join rows of a side by these keys.
    fn allow(&self, probe: JoinSide) -> bool {
        let keys = if probe == JoinSide::Left { &self.left } else { &self.right };
        !keys.is_empty() && keys.iter().chain(&self.others).all(pushable)
    }
}

/// A broadcast join that could be.
pub(super) struct Broadcast {
    /// The side that stores read.
    pub probe: JoinSide,
    cop: Box<CopTask>,
    pub cost: f64,
}

impl Physical<'_> {
    /// For the left and the right side: how many of its rows, joined, are sent if it is the probe side of a broadcast
    /// join; `None` where that cannot be. `sent_goal`: the same of this join.
    pub(super) fn sent_goals(
        &self,
        join: &LogicalJoin,
        keys: &Keys,
        sent_goal: Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        let may = |probe: JoinSide| {
            let (build_side, probe_side) = sides(join, probe);
            let may = self.options.broadcasts() && may_probe(join, probe) && keys.allow(probe);
            (may && is_chain(probe_side)).then_some(build_side)
        };
        let (left, right) = (may(JoinSide::Left), may(JoinSide::Right));
        let none_may = left.is_none() && right.is_none();
        if none_may || table_count(&join.left) + table_count(&join.right) > GOAL_TABLES_MAX {
            return (None, None);
        }
        let estimator = self.estimator();
        let sides = (estimator.derive(&join.left), estimator.derive(&join.right));
        let rows = estimator.join(&JoinTerms::of(join), &sides.0, &sides.1).rows;
        let goal = sent_goal.unwrap_or(f64::INFINITY).min(rows);
        let goal = |build: Option<&Logical>, estimate: &Estimate| {
            build.filter(|build| self.is_small(estimate, &build.outputs())).map(|_| goal)
        };
        (goal(left, &sides.1), goal(right, &sides.0))
    }

    /// How many rows stores send if an aggregation of `input` is begun there.
    pub(super) fn groups_goal(&self, aggregate: &LogicalAggregate) -> Option<f64> {
        if !self.options.broadcasts() || !has_join(&aggregate.input) {
            return None;
        }
        let estimator = self.estimator();
        Some(estimator.aggregate(&estimator.derive(&aggregate.input), aggregate).rows)
    }

    /// A task as the probe side of a broadcast join, if it can be one.
    pub(super) fn probe_task(
        &self,
        join: &LogicalJoin,
        probe: JoinSide,
        task: &Task,
        keys: &Keys,
    ) -> Option<Box<CopTask>> {
        let Task::Cop(cop) = task else { return None };
        let can_be = self.options.broadcasts()
            && may_probe(join, probe)
            && keys.allow(probe)
            && cop.accepts_rows()
            && cop.tables.len() < JOINS_MAX;
        can_be.then(|| cop.clone())
    }

    /// The broadcast join of a probe side with a build side; `hinted`: whatever their sizes.
    pub(super) fn broadcast(
        &self,
        join: &LogicalJoin,
        (probe, cop): (JoinSide, Box<CopTask>),
        (probe_root, build): (&Root, &Root),
        (wanted, sent_goal): (&Wanted<'_>, Option<f64>),
        hinted: bool,
    ) -> Option<Broadcast> {
        let columns = cop.layout.len() + build.layout.len() + join.in_keys.len();
        let is_small = hinted || self.is_small(&build.estimate, &build.layout);
        if !is_small || columns + join.conditions.len() > FRAGMENT_COLUMNS_MAX {
            return None;
        }
        let unit = &self.cost;
        let (fraction, sort) = match wanted.sorted_rows() {
            Some(rows) => (1.0, unit.sort(rows)),
            None => (wanted.fraction(), 0.0),
        };
        let (rows, table_rows) = (probe_root.plan.row_count, build.plan.row_count);
        // A task has a minute for its next page, and such a join may need longer for one.
        if !hinted && wanted.rows() > MATCHES_MAX * rows {
            return None;
        }
        let sent = sent_goal.map_or(wanted.rows(), |goal| goal.min(wanted.rows()));
        // Joined rows are wider than those of the probe side alone.
        let probe_bytes = self.row_bytes(&probe_root.estimate, &cop.layout);
        let build_bytes = match join.kind.keeps_right() {
            true => self.row_bytes(&build.estimate, &build.layout),
            false => 0.0,
        };
        let sent = sent * (probe_bytes + build_bytes) / probe_bytes.max(1.0);
        let probing = plan_cost(&probe_root.plan, fraction, unit)
            + ((rows + wanted.rows()) * unit.hash_row - rows * unit.send_row
                + sent * unit.send_row)
                * fraction;
        let cost = plan_cost(&build.plan, 1.0, unit) + unit.broadcast(table_rows) + probing + sort;
        Some(Broadcast { probe, cop, cost })
    }

    /// The task of a broadcast join.
    pub(super) fn build_broadcast_join(
        &mut self,
        join: &LogicalJoin,
        broadcast: Broadcast,
        build: Root,
        keys: Keys,
        estimate: Estimate,
    ) -> Result<Task> {
        let Broadcast { probe, mut cop, .. } = broadcast;
        let null_safe = keys.null_safe_flags();
        let Keys { left: mut left_keys, right: mut right_keys, others, .. } = keys;
        let table_keys = match probe {
            JoinSide::Left => &mut right_keys,
            JoinSide::Right => &mut left_keys,
        };
        let build = self.with_key_columns(build, table_keys)?;
        let (left, right) = match probe {
            JoinSide::Left => (&cop.layout, &build.layout),
            JoinSide::Right => (&build.layout, &cop.layout),
        };
        let (layout, both) = layouts(join, left, right);
        let desc = BroadcastJoinDesc {
            join: HashJoinDesc {
                kind: join.kind,
                null_aware: !join.in_keys.is_empty(),
                left_keys: self.resolve_all(&left_keys, left)?,
                right_keys: self.resolve_all(&right_keys, right)?,
                null_safe,
                other_conditions: self.resolve_all(&others, &both)?,
                build_side: other(probe),
            },
            table: cop.tables.len(),
            table_types: build.plan.types(),
        };
        cop.layout = layout;
        cop.estimate = estimate;
        cop.tables.push(build.plan);
        let schema = self.join_schema(join, &cop.layout);
        self.push_with(&mut cop, OpDesc::HashJoin(desc), "HashJoin", schema);
        Ok(Task::Cop(cop))
    }

    /// The build side with its keys as columns of their own.
    fn with_key_columns(&mut self, build: Root, keys: &mut [Expr]) -> Result<Root> {
        if keys.iter().all(|key| key.as_column().is_some()) {
            return Ok(build);
        }
        let known = build.layout.iter().map(|col| (*col, self.columns.expr(*col)));
        let mut exprs: Vec<(Col, Expr)> = known.collect();
        for key in keys.iter_mut().filter(|key| key.as_column().is_none()) {
            let col = self.columns.add(key.ty().clone());
            exprs.push((col, std::mem::replace(key, self.columns.expr(col))));
        }
        self.project(build, &exprs)
    }

    /// A projection: in the stores above a join there, which gives more columns than are wanted.
    pub(super) fn project_task(&mut self, task: Task, exprs: &[(Col, Expr)]) -> Result<Task> {
        match task {
            Task::Cop(mut cop)
                if !cop.tables.is_empty()
                    && cop.accepts_rows()
                    && exprs.iter().all(|(_, expr)| pushable(expr)) =>
            {
                let layout: Vec<Col> = exprs.iter().map(|(col, _)| *col).collect();
                let same = exprs.iter().all(|(col, expr)| expr.as_column() == Some(*col));
                if same && layout == cop.layout {
                    return Ok(Task::Cop(cop));
                }
                let exprs_below = exprs.iter().map(|(_, expr)| self.resolve(expr, &cop.layout));
                let op = OpDesc::Projection(ProjectionDesc {
                    exprs: exprs_below.collect::<Result<_>>()?,
                });
                cop.estimate = self.estimator().project(&cop.estimate, exprs);
                cop.layout = layout;
                self.push(&mut cop, op, "Projection");
                Ok(Task::Cop(cop))
            }
            task => {
                let root = self.finish(task)?;
                Ok(Task::Root(self.project(root, exprs)?))
            }
        }
    }

    /// Whether rows may be sent to every store.
    fn is_small(&self, estimate: &Estimate, columns: &[Col]) -> bool {
        estimate.rows <= self.options.broadcast_rows_max as f64
            && estimate.rows * self.row_bytes(estimate, columns)
                <= self.options.broadcast_bytes_max as f64
    }

    /// Bytes of a row, on average.
    fn row_bytes(&self, estimate: &Estimate, columns: &[Col]) -> f64 {
        columns.iter().map(|col| self.column_bytes(estimate, *col)).sum()
    }

    /// Bytes of a column's value, on average.
    fn column_bytes(&self, estimate: &Estimate, col: Col) -> f64 {
        let known = estimate.columns.get(&col).and_then(|column| column.source.as_ref());
        let known = known.and_then(|source| source.table.columns.get(&source.column));
        match known.map(|distribution| distribution.average_size_bytes) {
            Some(bytes) if bytes > 0.0 => bytes,
            _ => guessed_bytes(self.columns.ty(col)),
        }
    }
}

fn guessed_bytes(ty: &FieldType) -> f64 {
    match ty.physical() {
        PhysicalKind::Bytes => f64::from(ty.flen.unwrap_or(TEXT_BYTES_GUESS).min(TEXT_BYTES_GUESS)),
        PhysicalKind::Json => JSON_BYTES_GUESS,
        PhysicalKind::Decimal128 => 16.0,
        PhysicalKind::DecimalWide => 40.0,
        _ => 8.0,
    }
}

/// Whether no row of the other side is preserved.
fn may_probe(join: &LogicalJoin, probe: JoinSide) -> bool {
    match join.kind {
        JoinKind::Inner => true,
        JoinKind::RightOuter => probe == JoinSide::Right,
        _ => probe == JoinSide::Left,
    }
}

fn other(side: JoinSide) -> JoinSide {
    match side {
        JoinSide::Left => JoinSide::Right,
        JoinSide::Right => JoinSide::Left,
    }
}

/// Whether a plan may become a cop task: a table under joins, filters and projections.
fn is_chain(plan: &Logical) -> bool {
    match plan {
        Logical::Scan(scan) => !scan.table.is_virtual,
        Logical::Filter { input, .. } | Logical::Project { input, .. } => is_chain(input),
        Logical::Join(join) => is_chain(&join.left) || is_chain(&join.right),
        _ => false,
    }
}

fn table_count(plan: &Logical) -> usize {
    let below: usize = plan.children().into_iter().map(table_count).sum();
    below + usize::from(matches!(plan, Logical::Scan(_)))
}

fn has_join(plan: &Logical) -> bool {
    match plan {
        Logical::Join(_) => true,
        Logical::Filter { input, .. } | Logical::Project { input, .. } => has_join(input),
        _ => false,
    }
}
