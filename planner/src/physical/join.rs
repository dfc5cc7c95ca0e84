//! Joins: by hash, or row by row where the right side depends on the left row.
//!
//! The smaller side of an inner join is put into the hash table. Keys of different
//! physical kinds (a signed and an unsigned integer, decimals of different widths) are
//! cast to one type, because equal values must have equal hashes.

use cairn_executor::plan::{ApplyDesc, HashJoinDesc, JoinKind, JoinSide};
use cairn_expr::{Expr, Func};
use cairn_types::{FieldType, PhysicalKind};

use super::join_choice::Wanted;
use super::plan_cost::plan_cost;
use super::{Physical, Root};
use crate::error::Result;
use crate::logical::tree::covered;
use crate::logical::{Col, LogicalJoin};
use crate::plan::{Apply, PhysicalOp};
use crate::statistics::{Estimate, JoinTerms};

/// Keys of a join, taken from its conditions.
#[derive(Default)]
pub(super) struct Keys {
    pub left: Vec<Expr>,
    pub right: Vec<Expr>,
    null_safe: Vec<bool>,
    pub others: Vec<Expr>,
}

impl Keys {
    /// Which keys compare NULLs as equal; empty if none does.
    pub(super) fn null_safe_flags(&self) -> Vec<bool> {
        if self.null_safe.contains(&true) { self.null_safe.clone() } else { Vec::new() }
    }
}

impl Physical<'_> {
    pub(super) fn hash_join(
        &mut self,
        join: &LogicalJoin,
        left: Root,
        right: Root,
        keys: Keys,
        estimate: Box<Estimate>,
    ) -> Result<Root> {
        let (layout, both) = layouts(join, &left.layout, &right.layout);
        let build_side = build_side(join, &left, &right);
        let desc = HashJoinDesc {
            kind: join.kind,
            null_aware: !join.in_keys.is_empty(),
            left_keys: self.resolve_all(&keys.left, &left.layout)?,
            right_keys: self.resolve_all(&keys.right, &right.layout)?,
            null_safe: keys.null_safe_flags(),
            other_conditions: self.resolve_all(&keys.others, &both)?,
            build_side,
        };
        let schema = self.join_schema(join, &layout);
        let children = vec![left.plan, right.plan];
        let plan = self.node(PhysicalOp::HashJoin(desc), children, estimate.rows, schema);
        Ok(Root { plan, layout, ordered: false, estimate })
    }

    /// Cost of a join by hash with its inputs, and of sorting it where that is wanted.
    pub(super) fn hash_join_cost(
        &self,
        join: &LogicalJoin,
        left: &Root,
        right: &Root,
        wanted: &Wanted<'_>,
    ) -> f64 {
        let unit = &self.cost;
        let (fraction, sort) = match wanted.sorted_rows() {
            Some(rows) => (1.0, unit.sort(rows)),
            None => (wanted.fraction(), 0.0),
        };
        let (build, probe) = match build_side(join, left, right) {
            JoinSide::Left => (left, right),
            JoinSide::Right => (right, left),
        };
        let hashed = build.plan.row_count + probe.plan.row_count * fraction;
        plan_cost(&build.plan, 1.0, unit)
            + plan_cost(&probe.plan, fraction, unit)
            + hashed * unit.hash_row
            + sort
    }

    pub(super) fn apply(&mut self, join: &LogicalJoin, correlated: Vec<Col>) -> Result<Root> {
        let left = self.root(&join.left)?;
        let mut slots = Vec::with_capacity(correlated.len());
        let mut outer_columns = Vec::with_capacity(correlated.len());
        for col in &correlated {
            let slot = self.slot_count;
            self.slot_count += 1;
            slots.push(slot);
            let offset = left.layout.iter().position(|known| known == col);
            outer_columns.push(offset.unwrap_or(usize::MAX));
            self.correlated.insert(*col, slot);
        }
        let right = self.root(&join.right);
        for col in &correlated {
            self.correlated.remove(col);
        }
        let right = right?;
        let terms = JoinTerms::of(join);
        let estimate = Box::new(self.estimator().join(&terms, &left.estimate, &right.estimate));
        let (layout, both) = layouts(join, &left.layout, &right.layout);
        let mut conditions = join.conditions.clone();
        for (l, r) in &join.in_keys {
            conditions.push(cairn_expr::build(Func::Eq, vec![l.clone(), r.clone()], self.eval)?);
        }
        let desc = ApplyDesc {
            kind: join.kind,
            outer_columns,
            null_aware: !join.in_keys.is_empty(),
            conditions: self.resolve_all(&conditions, &both)?,
        };
        let schema = self.join_schema(join, &layout);
        let children = vec![left.plan, right.plan];
        let op = PhysicalOp::Apply(Apply { desc, slots });
        let plan = self.node(op, children, estimate.rows, schema);
        Ok(Root { plan, layout, ordered: false, estimate })
    }

    pub(super) fn join_schema(
        &self,
        join: &LogicalJoin,
        layout: &[Col],
    ) -> Vec<crate::plan::PlanColumn> {
        let mut schema = self.schema(layout);
        if join.kind == JoinKind::LeftOuter {
            let left = join.left.output_set();
            for (column, col) in schema.iter_mut().zip(layout) {
                if !left.contains(col) {
                    column.ty.not_null = false;
                }
            }
        }
        schema
    }

    /// Sorts conditions into keys and the rest.
    pub(super) fn keys(&mut self, join: &LogicalJoin) -> Result<Keys> {
        let (left, right) = (join.left.output_set(), join.right.output_set());
        let mut keys = Keys::default();
        for (l, r) in &join.in_keys {
            let (l, r) = self.one_kind(l.clone(), r.clone())?;
            keys.left.push(l);
            keys.right.push(r);
            keys.null_safe.push(false);
        }
        for condition in &join.conditions {
            let pair = match condition.as_function() {
                // With null-aware keys, all keys are.
                Some((func @ (Func::Eq | Func::NullEq), [a, b])) if join.in_keys.is_empty() => {
                    let on = |a: &Expr, b: &Expr| {
                        a.has_columns()
                            && b.has_columns()
                            && covered(a, &left)
                            && covered(b, &right)
                    };
                    if on(a, b) {
                        Some((func, a, b))
                    } else if on(b, a) {
                        Some((func, b, a))
                    } else {
                        None
                    }
                }
                _ => None,
            };
            match pair {
                Some((func, l, r)) => {
                    let (l, r) = self.one_kind(l.clone(), r.clone())?;
                    keys.left.push(l);
                    keys.right.push(r);
                    keys.null_safe.push(func == Func::NullEq);
                }
                None => keys.others.push(condition.clone()),
            }
        }
        Ok(keys)
    }

    /// Casts two keys to one physical kind.
    fn one_kind(&mut self, left: Expr, right: Expr) -> Result<(Expr, Expr)> {
        use PhysicalKind as P;
        let target = match (left.ty().physical(), right.ty().physical()) {
            (a, b) if a == b => return Ok((left, right)),
            (P::Int | P::UInt, P::Int | P::UInt) => FieldType::decimal(20, 0),
            (P::Float | P::Double, P::Float | P::Double) => FieldType::double(),
            _ => {
                let args = vec![left.clone(), right.clone()];
                let common = cairn_expr::build(Func::Coalesce, args, self.eval)?;
                common.ty().clone()
            }
        };
        let mut cast = |expr: Expr| -> Result<Expr> {
            if expr.ty().physical() == target.physical() {
                return Ok(expr);
            }
            let ty = FieldType { not_null: expr.ty().not_null, ..target.clone() };
            Ok(cairn_expr::build_cast(expr, ty, self.eval)?)
        };
        Ok((cast(left)?, cast(right)?))
    }
}

/// The side that is put into the hash table: the smaller one, where there is a choice.
fn build_side(join: &LogicalJoin, left: &Root, right: &Root) -> JoinSide {
    match join.kind {
        JoinKind::Inner if left.plan.row_count < right.plan.row_count => JoinSide::Left,
        _ => JoinSide::Right,
    }
}

/// Layout of the output, and of the pairs that conditions see.
pub(super) fn layouts(join: &LogicalJoin, left: &[Col], right: &[Col]) -> (Vec<Col>, Vec<Col>) {
    let both = [left, right].concat();
    let mut layout = if join.kind.keeps_right() { both.clone() } else { left.to_vec() };
    layout.extend(join.mark);
    (layout, both)
}
