//! The expression tree and what is done to it without evaluating it.
//!
//! **Data.** A column is an offset into the input chunk. A function call carries
//! its result type; for comparisons and other functions that look at text, the
//! type's `collation` is the one they compare by. Calls are made by
//! [`crate::build_function`], which infers the type and inserts the casts;
//! [`Expr::function`] is for those who know the type already.
//!
//! **Invariants.** Trees made here are no deeper than the statement's nesting;
//! those that come from another tier are bounded by [`crate::wire`].

use std::collections::BTreeSet;

use cairn_types::{Datum, EvalKind, FieldType};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::EvalCache;
use crate::func::Func;
use crate::infer;

/// A scalar expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A column of the input.
    Column {
        /// Offset in the input chunk.
        index: usize,
        /// Its type.
        ty: FieldType,
    },
    /// A value.
    Constant {
        /// The value, of the physical kind of `ty` or NULL.
        value: Datum,
        /// Its type.
        ty: FieldType,
    },
    /// A slot of a prepared statement, filled from [`EvalContext::params`].
    Param {
        /// Offset of the slot.
        index: usize,
        /// Type of the value.
        ty: FieldType,
    },
    /// A function call.
    Function {
        /// The function.
        func: Func,
        /// Its arguments.
        args: Vec<Expr>,
        /// Type of the result.
        ty: FieldType,
        /// What evaluation derived from constant arguments; `Default` when a node
        /// is made by hand.
        cache: EvalCache,
    },
}

impl PartialEq for Expr {
    fn eq(&self, other: &Expr) -> bool {
        match (self, other) {
            (Expr::Column { index: a, .. }, Expr::Column { index: b, .. }) => a == b,
            (Expr::Param { index: a, .. }, Expr::Param { index: b, .. }) => a == b,
            (Expr::Constant { value: a, ty: s }, Expr::Constant { value: b, ty: t }) => {
                s.code == t.code && s.collation == t.collation && same_value(a, b)
            }
            (
                Expr::Function { func: f, args: a, ty: s, .. },
                Expr::Function { func: g, args: b, ty: t, .. },
            ) => f == g && (*f != Func::Cast || s == t) && s.collation == t.collation && a == b,
            _ => false,
        }
    }
}

impl Eq for Expr {}

/// Identity of values, where `compare` would be too generous.
fn same_value(a: &Datum, b: &Datum) -> bool {
    match (a, b) {
        (Datum::Double(a), Datum::Double(b)) => a.to_bits() == b.to_bits(),
        (Datum::Float(a), Datum::Float(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

impl Expr {
    /// A column.
    pub fn column(index: usize, ty: FieldType) -> Expr {
        Expr::Column { index, ty }
    }

    /// A value with the type a literal of it has.
    pub fn constant(value: Datum) -> Expr {
        let ty = infer::type_of_literal(&value);
        Expr::Constant { value, ty }
    }

    /// A value with a given type.
    pub fn constant_of(value: Datum, ty: FieldType) -> Expr {
        Expr::Constant { value, ty }
    }

    /// A text literal in the default collation.
    pub fn string(text: impl Into<String>) -> Expr {
        Expr::constant(Datum::text(text))
    }

    /// An integer literal.
    pub fn int(value: i64) -> Expr {
        Expr::constant(Datum::Int(value))
    }

    /// TRUE or FALSE.
    pub fn bool(value: bool) -> Expr {
        Expr::Constant { value: Datum::bool(value), ty: infer::boolean_type().with_not_null() }
    }

    /// NULL.
    pub fn null() -> Expr {
        Expr::Constant { value: Datum::Null, ty: FieldType::null() }
    }

    /// A slot of a prepared statement.
    pub fn param(index: usize, ty: FieldType) -> Expr {
        Expr::Param { index, ty }
    }

    /// A call whose type is known. No casts are inserted.
    pub fn function(func: Func, args: Vec<Expr>, ty: FieldType) -> Expr {
        Expr::Function { func, args, ty, cache: EvalCache::default() }
    }

    /// The expression's type.
    #[inline]
    pub fn ty(&self) -> &FieldType {
        match self {
            Expr::Column { ty, .. }
            | Expr::Constant { ty, .. }
            | Expr::Param { ty, .. }
            | Expr::Function { ty, .. } => ty,
        }
    }

    /// The type, for adjustment (flags, collation).
    pub fn ty_mut(&mut self) -> &mut FieldType {
        match self {
            Expr::Column { ty, .. }
            | Expr::Constant { ty, .. }
            | Expr::Param { ty, .. }
            | Expr::Function { ty, .. } => ty,
        }
    }

    /// How its values take part in evaluation.
    pub fn eval_kind(&self) -> EvalKind {
        self.ty().eval_kind()
    }

    /// The function and its arguments, if this is a call.
    pub fn as_function(&self) -> Option<(Func, &[Expr])> {
        match self {
            Expr::Function { func, args, .. } => Some((*func, args)),
            _ => None,
        }
    }

    /// The offset, if this is a column.
    pub fn as_column(&self) -> Option<usize> {
        match self {
            Expr::Column { index, .. } => Some(*index),
            _ => None,
        }
    }

    /// The value, if this is a constant.
    pub fn as_constant(&self) -> Option<&Datum> {
        match self {
            Expr::Constant { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Whether this is the constant NULL.
    pub fn is_null_constant(&self) -> bool {
        matches!(self, Expr::Constant { value: Datum::Null, .. })
    }

    /// Visits every node, parents first; `visit` answers whether to go deeper.
    pub fn walk(&self, visit: &mut dyn FnMut(&Expr) -> bool) {
        if !visit(self) {
            return;
        }
        if let Expr::Function { args, .. } = self {
            args.iter().for_each(|arg| arg.walk(visit));
        }
    }

    /// Whether `test` holds for some node.
    pub fn any(&self, test: &mut dyn FnMut(&Expr) -> bool) -> bool {
        let mut found = false;
        self.walk(&mut |expr| {
            found = found || test(expr);
            !found
        });
        found
    }

    /// Rebuilds the tree, children first. Types are kept.
    #[must_use]
    pub fn transform(self, change: &mut dyn FnMut(Expr) -> Expr) -> Expr {
        let rebuilt = match self {
            Expr::Function { func, args, ty, .. } => {
                let args = args.into_iter().map(|arg| arg.transform(change)).collect();
                Expr::function(func, args, ty)
            }
            leaf => leaf,
        };
        change(rebuilt)
    }

    /// As [`Expr::transform`], where a change may fail.
    pub fn try_transform<E>(
        self,
        change: &mut dyn FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<Expr, E> {
        let rebuilt = match self {
            Expr::Function { func, args, ty, .. } => {
                let args: Result<Vec<_>, E> =
                    args.into_iter().map(|arg| arg.try_transform(change)).collect();
                Expr::function(func, args?, ty)
            }
            leaf => leaf,
        };
        change(rebuilt)
    }

    /// Adds the columns used to `columns`.
    pub fn collect_columns(&self, columns: &mut BTreeSet<usize>) {
        self.walk(&mut |expr| {
            if let Expr::Column { index, .. } = expr {
                columns.insert(*index);
            }
            true
        });
    }

    /// The columns used.
    pub fn columns(&self) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        self.collect_columns(&mut columns);
        columns
    }

    /// Whether some column is used.
    pub fn has_columns(&self) -> bool {
        self.any(&mut |expr| matches!(expr, Expr::Column { .. }))
    }

    /// Whether some prepared-statement slot is used.
    pub fn has_params(&self) -> bool {
        self.any(&mut |expr| matches!(expr, Expr::Param { .. }))
    }

    /// Whether equal rows give equal results within a statement, without effects.
    pub fn is_deterministic(&self) -> bool {
        !self.any(
            &mut |expr| matches!(expr, Expr::Function { func, .. } if !func.is_deterministic()),
        )
    }

    /// Whether the value is the same for every row of a statement (slots and
    /// session functions included).
    pub fn is_constant(&self) -> bool {
        !self.any(&mut |expr| match expr {
            Expr::Column { .. } => true,
            Expr::Function { func, .. } => !func.is_deterministic(),
            _ => false,
        })
    }

    /// Offsets through `map`; an offset without a new place is an error.
    pub fn remap_columns(self, map: &dyn Fn(usize) -> Option<usize>) -> Result<Expr> {
        self.try_transform(&mut |expr| match expr {
            Expr::Column { index, ty } => match map(index) {
                Some(index) => Ok(Expr::Column { index, ty }),
                None => Err(ExprError::Internal(format!("column {index} has no place"))),
            },
            other => Ok(other),
        })
    }

    /// Columns replaced by the expressions they stand for (merging projections).
    #[must_use]
    pub fn replace_columns(self, by: &dyn Fn(usize) -> Option<Expr>) -> Expr {
        self.transform(&mut |expr| match expr {
            Expr::Column { index, ty } => by(index).unwrap_or(Expr::Column { index, ty }),
            other => other,
        })
    }

    /// The conditions that all must hold: `a AND (b AND c)` → `a, b, c`.
    pub fn split_cnf(self) -> Vec<Expr> {
        self.split(Func::And)
    }

    /// The conditions of which one must hold.
    pub fn split_dnf(self) -> Vec<Expr> {
        self.split(Func::Or)
    }

    fn split(self, by: Func) -> Vec<Expr> {
        let mut pending = vec![self];
        let mut parts = Vec::new();
        while let Some(expr) = pending.pop() {
            match expr {
                Expr::Function { func, args, .. } if func == by => {
                    pending.extend(args.into_iter().rev());
                }
                other => parts.push(other),
            }
        }
        parts
    }

    /// All conditions joined by AND; `None` of none. The tree is balanced, so that
    /// many conditions make no deep tree.
    pub fn join_cnf(conditions: Vec<Expr>) -> Option<Expr> {
        Expr::join(Func::And, conditions)
    }

    /// All conditions joined by OR, balanced.
    pub fn join_dnf(conditions: Vec<Expr>) -> Option<Expr> {
        Expr::join(Func::Or, conditions)
    }

    fn join(func: Func, mut parts: Vec<Expr>) -> Option<Expr> {
        while parts.len() > 1 {
            let mut joined = Vec::with_capacity(parts.len().div_ceil(2));
            let mut rest = parts.into_iter();
            while let Some(left) = rest.next() {
                joined.push(match rest.next() {
                    Some(right) => Expr::function(func, vec![left, right], infer::boolean_type()),
                    None => left,
                });
            }
            parts = joined;
        }
        parts.pop()
    }

    /// Constant calls evaluated, except those only the session knows. A call that
    /// fails or warns is left for run time, where it fails only if it is reached.
    #[must_use]
    pub fn fold(self, ctx: &mut EvalContext) -> Expr {
        self.transform(&mut |expr| fold_node(expr, ctx, false))
    }

    /// Slots and session functions replaced by their values, then folded: the form
    /// that may be sent to stores. The original stays as it is (shared plans).
    #[must_use]
    pub fn bind(&self, ctx: &mut EvalContext) -> Expr {
        self.clone().transform(&mut |expr| match expr {
            Expr::Param { index, ty } => match ctx.params.get(index) {
                Some(value) => Expr::Constant { value: value.clone(), ty },
                None => Expr::Param { index, ty },
            },
            other => fold_node(other, ctx, true),
        })
    }

    /// Whether a store can evaluate the whole expression (after [`Expr::bind`]).
    pub fn is_pushable(&self) -> bool {
        !self.any(&mut |expr| match expr {
            Expr::Function { func, .. } => !func.is_pushable(),
            Expr::Param { .. } | Expr::Constant { .. } | Expr::Column { .. } => false,
        })
    }
}

impl Expr {
    /// [`crate::eval_filter`], under the name of the tree.
    pub fn eval_filter(
        conditions: &[Expr],
        chunk: &mut cairn_types::Chunk,
        ctx: &mut EvalContext,
    ) -> Result<()> {
        crate::eval::eval_filter(conditions, chunk, ctx)
    }
}

/// Evaluates one call whose arguments are constants.
pub(crate) fn fold_node(expr: Expr, ctx: &mut EvalContext, session: bool) -> Expr {
    let Expr::Function { func, args, ty, cache } = expr else { return expr };
    // COLLATE stays: that it is explicit matters to those around it.
    let kept = matches!(func, Func::Row | Func::Collate);
    let foldable = func.is_deterministic() && (session || !func.is_session()) && !kept;
    let constant = |arg: &Expr| matches!(arg, Expr::Constant { .. });
    let expr = Expr::Function { func, args, ty, cache };
    let Expr::Function { args, ty, .. } = &expr else { return expr };
    if !foldable || !args.iter().all(constant) {
        return simplify(expr);
    }
    let warned = ctx.warnings.list().len();
    let value = expr.eval_row(&crate::eval::NoRow, ctx);
    if ctx.warnings.list().len() > warned {
        ctx.warnings.truncate(warned);
        return expr;
    }
    match value {
        Ok(value) => {
            let mut ty = ty.clone();
            ty.not_null = value != Datum::Null;
            Expr::Constant { value, ty }
        }
        Err(_) => expr,
    }
}

/// AND and OR with one constant side. The other side is kept only where its value
/// is already a truth value.
fn simplify(expr: Expr) -> Expr {
    let Expr::Function { func: func @ (Func::And | Func::Or), args, .. } = &expr else {
        return expr;
    };
    let truth = |arg: &Expr| match arg {
        Expr::Constant { value: Datum::Int(value), .. } => Some(*value != 0),
        _ => None,
    };
    let absorbing = *func == Func::Or;
    for (side, other) in [(&args[0], &args[1]), (&args[1], &args[0])] {
        match truth(side) {
            Some(value) if value == absorbing && other.is_deterministic() => {
                return Expr::constant_of(Datum::Int(i64::from(value)), infer::boolean_type());
            }
            Some(value) if value != absorbing && infer::is_boolean(other) => {
                return other.clone();
            }
            _ => {}
        }
    }
    expr
}
