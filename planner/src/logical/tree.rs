//! Walking and rebuilding logical plans.

use std::collections::BTreeSet;

use cairn_executor::plan::FrameBound;
use cairn_expr::{Expr, Func};
use cairn_types::FieldType;

use super::{Col, Logical, LogicalJoin, LogicalWindow};
use crate::error::Result;

impl Logical {
    /// One row without columns.
    pub fn one_row() -> Logical {
        Logical::Dual { rows: 1, columns: Vec::new() }
    }

    /// This under a filter; nothing is added for no conditions, and filters merge.
    #[must_use]
    pub fn filter(self, conditions: Vec<Expr>) -> Logical {
        if conditions.is_empty() {
            return self;
        }
        match self {
            Logical::Filter { conditions: mut below, input } => {
                below.extend(conditions);
                Logical::Filter { conditions: below, input }
            }
            input => Logical::Filter { conditions, input: Box::new(input) },
        }
    }

    /// This under a projection.
    #[must_use]
    pub fn project(self, exprs: Vec<(Col, Expr)>) -> Logical {
        Logical::Project { exprs, input: Box::new(self) }
    }

    /// Columns produced, in order.
    pub fn outputs(&self) -> Vec<Col> {
        match self {
            Logical::Scan(scan) => scan.columns.iter().map(|column| column.col).collect(),
            Logical::Dual { columns, .. }
            | Logical::Values { columns, .. }
            | Logical::WorkTable { columns, .. }
            | Logical::Union { columns, .. } => columns.clone(),
            Logical::Recursive(union) => union.columns.clone(),
            Logical::Shared(shared) => shared.columns.clone(),
            Logical::Filter { input, .. }
            | Logical::Sort { input, .. }
            | Logical::Limit { input, .. }
            | Logical::TopN { input, .. }
            | Logical::MaxOneRow { input }
            | Logical::Lock { input, .. } => input.outputs(),
            Logical::Project { exprs, .. } => exprs.iter().map(|(col, _)| *col).collect(),
            Logical::Aggregate(aggregate) => {
                let aggs = aggregate.aggs.iter().map(|(col, _)| *col);
                aggs.chain(aggregate.groups.iter().map(|(col, _)| *col)).collect()
            }
            Logical::Window(window) => {
                let mut outputs = window.input.outputs();
                outputs.extend(window.functions.iter().map(|(col, _)| *col));
                outputs
            }
            Logical::Join(join) => join.outputs(),
        }
    }

    /// Columns produced, as a set.
    pub fn output_set(&self) -> BTreeSet<Col> {
        self.outputs().into_iter().collect()
    }

    /// The nodes directly below.
    pub fn children(&self) -> Vec<&Logical> {
        match self {
            Logical::Scan(_)
            | Logical::Dual { .. }
            | Logical::Values { .. }
            | Logical::WorkTable { .. } => Vec::new(),
            Logical::Filter { input, .. }
            | Logical::Project { input, .. }
            | Logical::Sort { input, .. }
            | Logical::Limit { input, .. }
            | Logical::TopN { input, .. }
            | Logical::MaxOneRow { input }
            | Logical::Lock { input, .. } => vec![input],
            Logical::Aggregate(aggregate) => vec![&aggregate.input],
            Logical::Window(window) => vec![&window.input],
            Logical::Shared(shared) => vec![&shared.input],
            Logical::Join(join) => vec![&join.left, &join.right],
            Logical::Union { inputs, .. } => inputs.iter().map(|(input, _)| input).collect(),
            Logical::Recursive(union) => {
                std::iter::once(&union.seed).chain(&union.parts).map(|(input, _)| input).collect()
            }
        }
    }

    /// Rebuilds the node with its children changed.
    pub fn map_children(
        mut self,
        change: &mut dyn FnMut(Logical) -> Result<Logical>,
    ) -> Result<Logical> {
        let mut boxed = |input: &mut Box<Logical>| -> Result<()> {
            let child = std::mem::replace(&mut **input, Logical::one_row());
            **input = change(child)?;
            Ok(())
        };
        match &mut self {
            Logical::Scan(_)
            | Logical::Dual { .. }
            | Logical::Values { .. }
            | Logical::WorkTable { .. } => {}
            Logical::Filter { input, .. }
            | Logical::Project { input, .. }
            | Logical::Sort { input, .. }
            | Logical::Limit { input, .. }
            | Logical::TopN { input, .. }
            | Logical::MaxOneRow { input }
            | Logical::Lock { input, .. } => boxed(input)?,
            Logical::Aggregate(aggregate) => {
                let child = std::mem::replace(&mut aggregate.input, Logical::one_row());
                aggregate.input = change(child)?;
            }
            Logical::Window(window) => {
                let child = std::mem::replace(&mut window.input, Logical::one_row());
                window.input = change(child)?;
            }
            Logical::Shared(shared) => {
                let child = std::mem::replace(&mut shared.input, Logical::one_row());
                shared.input = change(child)?;
            }
            Logical::Join(join) => {
                let left = std::mem::replace(&mut join.left, Logical::one_row());
                let right = std::mem::replace(&mut join.right, Logical::one_row());
                join.left = change(left)?;
                join.right = change(right)?;
            }
            Logical::Union { inputs, .. } => {
                for (input, _) in inputs {
                    let child = std::mem::replace(input, Logical::one_row());
                    *input = change(child)?;
                }
            }
            Logical::Recursive(union) => {
                let inputs = std::iter::once(&mut union.seed).chain(&mut union.parts);
                for (input, _) in inputs {
                    let child = std::mem::replace(input, Logical::one_row());
                    *input = change(child)?;
                }
            }
        }
        Ok(self)
    }

    /// Visits the expressions of this node (not of those below).
    pub fn visit_exprs(&self, visit: &mut dyn FnMut(&Expr)) {
        match self {
            Logical::Scan(scan) => scan.conditions.iter().for_each(visit),
            Logical::Values { rows, .. } => rows.iter().flatten().for_each(visit),
            Logical::Filter { conditions, .. } => conditions.iter().for_each(visit),
            Logical::Project { exprs, .. } => exprs.iter().for_each(|(_, expr)| visit(expr)),
            Logical::Aggregate(aggregate) => {
                aggregate.groups.iter().for_each(|(_, expr)| visit(expr));
                for (_, agg) in &aggregate.aggs {
                    agg.args.iter().for_each(&mut *visit);
                }
            }
            Logical::Window(window) => window.exprs().into_iter().for_each(visit),
            Logical::Join(join) => {
                join.conditions.iter().for_each(&mut *visit);
                for (left, right) in &join.in_keys {
                    visit(left);
                    visit(right);
                }
            }
            Logical::Sort { by, .. } | Logical::TopN { by, .. } => {
                by.iter().for_each(|key| visit(&key.expr));
            }
            Logical::Dual { .. }
            | Logical::Limit { .. }
            | Logical::Union { .. }
            | Logical::Recursive(_)
            | Logical::Shared(_)
            | Logical::WorkTable { .. }
            | Logical::MaxOneRow { .. }
            | Logical::Lock { .. } => {}
        }
    }

    /// Changes the expressions of this node (not of those below).
    pub fn map_exprs(&mut self, change: &mut dyn FnMut(Expr) -> Expr) {
        let mut one = |expr: &mut Expr| *expr = change(std::mem::replace(expr, Expr::null()));
        match self {
            Logical::Scan(scan) => scan.conditions.iter_mut().for_each(one),
            Logical::Values { rows, .. } => rows.iter_mut().flatten().for_each(one),
            Logical::Filter { conditions, .. } => conditions.iter_mut().for_each(one),
            Logical::Project { exprs, .. } => exprs.iter_mut().for_each(|(_, expr)| one(expr)),
            Logical::Aggregate(aggregate) => {
                aggregate.groups.iter_mut().for_each(|(_, expr)| one(expr));
                for (_, agg) in &mut aggregate.aggs {
                    agg.args.iter_mut().for_each(&mut one);
                }
            }
            Logical::Window(window) => window.exprs_mut().into_iter().for_each(one),
            Logical::Join(join) => {
                join.conditions.iter_mut().for_each(&mut one);
                for (left, right) in &mut join.in_keys {
                    one(left);
                    one(right);
                }
            }
            Logical::Sort { by, .. } | Logical::TopN { by, .. } => {
                by.iter_mut().for_each(|key| one(&mut key.expr));
            }
            Logical::Dual { .. }
            | Logical::Limit { .. }
            | Logical::Union { .. }
            | Logical::Recursive(_)
            | Logical::Shared(_)
            | Logical::WorkTable { .. }
            | Logical::MaxOneRow { .. }
            | Logical::Lock { .. } => {}
        }
    }

    /// Changes the expressions of this node and of all below.
    pub fn map_all_exprs(&mut self, change: &mut dyn FnMut(Expr) -> Expr) {
        self.map_exprs(change);
        match self {
            Logical::Scan(_)
            | Logical::Dual { .. }
            | Logical::Values { .. }
            | Logical::WorkTable { .. } => {}
            Logical::Filter { input, .. }
            | Logical::Project { input, .. }
            | Logical::Sort { input, .. }
            | Logical::Limit { input, .. }
            | Logical::TopN { input, .. }
            | Logical::MaxOneRow { input }
            | Logical::Lock { input, .. } => input.map_all_exprs(change),
            Logical::Aggregate(aggregate) => aggregate.input.map_all_exprs(change),
            Logical::Window(window) => window.input.map_all_exprs(change),
            Logical::Shared(shared) => shared.input.map_all_exprs(change),
            Logical::Join(join) => {
                join.left.map_all_exprs(change);
                join.right.map_all_exprs(change);
            }
            Logical::Union { inputs, .. } => {
                inputs.iter_mut().for_each(|(input, _)| input.map_all_exprs(change));
            }
            Logical::Recursive(union) => {
                let inputs = std::iter::once(&mut union.seed).chain(&mut union.parts);
                inputs.for_each(|(input, _)| input.map_all_exprs(change));
            }
        }
    }

    /// Columns that expressions of this node use.
    pub fn used_columns(&self) -> BTreeSet<Col> {
        let mut used = BTreeSet::new();
        self.visit_exprs(&mut |expr| expr.collect_columns(&mut used));
        if let Logical::Lock { lock, .. } = self {
            used.extend(lock.tables.iter().flat_map(|(_, cols)| cols.iter().copied()));
        }
        used
    }

    /// Columns of enclosing queries that this plan reads.
    pub fn free_columns(&self) -> BTreeSet<Col> {
        let mut free = self.used_columns();
        let mut produced: BTreeSet<Col> = BTreeSet::new();
        for child in self.children() {
            free.extend(child.free_columns());
            produced.extend(child.outputs());
        }
        if let Logical::Scan(_) = self {
            produced.extend(self.outputs());
        }
        free.retain(|col| !produced.contains(col));
        free
    }

    /// Whether the plan gives exactly one row or none at most.
    pub fn at_most_one_row(&self) -> bool {
        match self {
            Logical::Dual { .. } | Logical::MaxOneRow { .. } => true,
            Logical::Aggregate(aggregate) => aggregate.groups.is_empty(),
            Logical::Limit { limit, .. } | Logical::TopN { limit, .. } => {
                matches!(limit.count, crate::plan::RowCount::Const(0 | 1))
            }
            Logical::Filter { input, .. }
            | Logical::Project { input, .. }
            | Logical::Sort { input, .. } => input.at_most_one_row(),
            _ => false,
        }
    }
}

impl LogicalWindow {
    fn exprs(&self) -> Vec<&Expr> {
        let mut exprs: Vec<&Expr> = self.partition_by.iter().collect();
        exprs.extend(self.order_by.iter().map(|key| &key.expr));
        exprs.extend(&self.frame.key);
        for bound in [&self.frame.start, &self.frame.end] {
            if let FrameBound::Offset(offset) = bound {
                exprs.extend(&offset.value);
            }
        }
        exprs.extend(self.functions.iter().flat_map(|(_, func)| func.args()));
        exprs
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        let mut exprs: Vec<&mut Expr> = self.partition_by.iter_mut().collect();
        exprs.extend(self.order_by.iter_mut().map(|key| &mut key.expr));
        exprs.extend(&mut self.frame.key);
        for bound in [&mut self.frame.start, &mut self.frame.end] {
            if let FrameBound::Offset(offset) = bound {
                exprs.extend(&mut offset.value);
            }
        }
        exprs.extend(self.functions.iter_mut().flat_map(|(_, func)| func.args_mut()));
        exprs
    }
}

impl LogicalJoin {
    /// Columns produced, in order.
    pub fn outputs(&self) -> Vec<Col> {
        let mut outputs = self.left.outputs();
        if self.kind.keeps_right() {
            outputs.extend(self.right.outputs());
        }
        outputs.extend(self.mark);
        outputs
    }

    /// Columns of the left side that the right side reads row by row.
    pub fn correlated(&self) -> Vec<Col> {
        let left = self.left.output_set();
        self.right.free_columns().into_iter().filter(|col| left.contains(col)).collect()
    }
}

/// Branches of an OR that are looked at for what it implies: more of them say little, and cost much.
const IMPLYING_BRANCHES_MAX: usize = 64;

/// What an OR implies for these columns alone: one branch for each of its branches, which all have
/// to say something of them.
pub fn implied(condition: &Expr, columns: &BTreeSet<Col>) -> Option<Expr> {
    if !matches!(condition.as_function(), Some((Func::Or, _))) {
        return None;
    }
    let branches = condition.clone().split_dnf();
    if branches.len() > IMPLYING_BRANCHES_MAX {
        return None;
    }
    let mut implied: Vec<Expr> = Vec::new();
    for branch in branches {
        let own = branch.split_cnf().into_iter();
        let own = own.filter(|part| part.has_columns() && covered(part, columns));
        let own = Expr::join_cnf(own.collect())?;
        if !implied.contains(&own) {
            implied.push(own);
        }
    }
    Expr::join_dnf(implied)
}

/// Whether all columns of an expression are in `columns`.
pub fn covered(expr: &Expr, columns: &BTreeSet<Col>) -> bool {
    !expr.any(&mut |expr| matches!(expr, Expr::Column { index, .. } if !columns.contains(index)))
}

/// Whether some column of an expression is in `columns`.
pub fn touches(expr: &Expr, columns: &BTreeSet<Col>) -> bool {
    expr.any(&mut |expr| matches!(expr, Expr::Column { index, .. } if columns.contains(index)))
}

/// The type that an expression says a column has, if it names it.
pub fn column_type(expr: &Expr, col: Col) -> Option<FieldType> {
    let mut found = None;
    expr.walk(&mut |node| {
        if let Expr::Column { index, ty } = node
            && *index == col
        {
            found = Some(ty.clone());
        }
        found.is_none()
    });
    found
}
