//! Subqueries in expressions.
//!
//! | written | does not depend on the row | depends on the row |
//! |---|---|---|
//! | `(SELECT ..)` | subplan, slots | left outer join with at most one row |
//! | `EXISTS (..)` as a value | subplan, slot | mark join |
//! | `a IN (..)` as a value | mark join | mark join |
//! | `EXISTS`, `IN` as a condition of WHERE, HAVING | semi, anti join | same |
//! | `a > ALL (..)` | as a scalar subquery over its extreme and NULL count | same |

use cairn_executor::plan::JoinKind;
use cairn_expr::agg::AggFunc;
use cairn_expr::{Expr, Func};
use cairn_parser::ast::{self, BinaryOperator, Quantifier};
use cairn_types::{FieldType, errno};

use super::{Binder, BoundQuery, BoundSubplan, ExprEnv};
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical, LogicalAggregate, LogicalJoin};
use crate::plan::SubplanKind;

impl<'a> Binder<'a> {
    /// `(SELECT ..)` as one value.
    pub(super) fn scalar_subquery(
        &mut self,
        query: &'a ast::Query,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let bound = self.subquery(query)?;
        if bound.fields.len() != 1 {
            return Err(PlanError::mysql(errno::ER_OPERAND_COLUMNS, &[&1]));
        }
        let mut values = self.subquery_row(bound, env)?;
        values.pop().ok_or_else(|| PlanError::internal("a subquery without columns"))
    }

    /// `(SELECT ..)` as a value or a row.
    pub(super) fn row_subquery(
        &mut self,
        query: &'a ast::Query,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let bound = self.subquery(query)?;
        let mut values = self.subquery_row(bound, env)?;
        if values.len() == 1 {
            return Ok(values.remove(0));
        }
        self.call("row", values)
    }

    fn subquery(&mut self, query: &'a ast::Query) -> Result<BoundQuery> {
        self.nested(|binder| binder.query(query))
    }

    /// The only row of a query, as expressions.
    fn subquery_row(&mut self, bound: BoundQuery, env: &mut ExprEnv<'_>) -> Result<Vec<Expr>> {
        let nullable = |ty: &FieldType| FieldType { not_null: false, ..ty.clone() };
        if bound.plan.free_columns().is_empty() {
            let slot = self.slot_count;
            self.slot_count += bound.fields.len();
            let columns: Vec<_> = bound.fields.iter().map(|field| field.col).collect();
            let kind = SubplanKind::Scalar { columns: columns.len() };
            self.subplans.push(BoundSubplan { plan: bound.plan, columns, kind, slot });
            let fields = bound.fields.iter().enumerate();
            return Ok(fields
                .map(|(at, field)| Expr::param(slot + at, nullable(&field.ty)))
                .collect());
        }
        let (right, columns) = self.own_columns(bound.plan, &bound.fields);
        let values = columns
            .into_iter()
            .zip(&bound.fields)
            .map(|(col, field)| Expr::column(col, nullable(&field.ty)))
            .collect();
        let right = if right.at_most_one_row() {
            right
        } else {
            Logical::MaxOneRow { input: Box::new(right) }
        };
        let plan = plan_of(env)?;
        join(plan, JoinKind::LeftOuter, right, |_| {});
        Ok(values)
    }

    /// `EXISTS (..)` as a value.
    pub(super) fn exists_value(
        &mut self,
        query: &'a ast::Query,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let bound = self.subquery(query)?;
        if bound.plan.free_columns().is_empty() {
            let slot = self.slot_count;
            self.slot_count += 1;
            let columns = bound.fields.iter().map(|field| field.col).collect();
            let kind = SubplanKind::Exists;
            self.subplans.push(BoundSubplan { plan: bound.plan, columns, kind, slot });
            return Ok(Expr::param(slot, FieldType::boolean()));
        }
        let mark = self.new_column(FieldType::boolean());
        join(plan_of(env)?, JoinKind::LeftOuterSemi, bound.plan, |join| join.mark = Some(mark));
        Ok(self.columns.expr(mark))
    }

    /// `a IN (SELECT ..)` as a value.
    pub(super) fn in_subquery_value(
        &mut self,
        expr: &'a ast::Expr,
        query: &'a ast::Query,
        negated: bool,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let left = self.expr_or_row(expr, env)?;
        let (right, equalities) = self.in_operands(left, query)?;
        let mark = self.new_column(FieldType::boolean());
        let kind = if negated { JoinKind::AntiLeftOuterSemi } else { JoinKind::LeftOuterSemi };
        join(plan_of(env)?, kind, right, |join| {
            join.mark = Some(mark);
            split_in_keys(equalities, join);
        });
        Ok(self.columns.expr(mark))
    }

    /// Right side and equalities of an IN.
    fn in_operands(&mut self, left: Expr, query: &'a ast::Query) -> Result<(Logical, Vec<Expr>)> {
        let bound = self.subquery(query)?;
        let left = match left.as_function() {
            Some((Func::Row, parts)) => parts.to_vec(),
            _ => vec![left],
        };
        if left.len() != bound.fields.len() {
            return Err(PlanError::mysql(errno::ER_OPERAND_COLUMNS, &[&left.len()]));
        }
        let (plan, columns) = self.own_columns(bound.plan, &bound.fields);
        let mut equalities = Vec::with_capacity(left.len());
        for (left, (col, field)) in left.into_iter().zip(columns.into_iter().zip(&bound.fields)) {
            let right = Expr::column(col, field.ty.clone());
            equalities.push(self.call("=", vec![left, right])?);
        }
        Ok((plan, equalities))
    }

    /// The columns of a subquery; one that is a column of the outer query itself gets a
    /// number of its own.
    fn own_columns(&mut self, plan: Logical, fields: &[super::Field]) -> (Logical, Vec<Col>) {
        let free = plan.free_columns();
        if !fields.iter().any(|field| free.contains(&field.col)) {
            return (plan, fields.iter().map(|field| field.col).collect());
        }
        let mut exprs = Vec::with_capacity(fields.len());
        for field in fields {
            exprs.push((self.new_column(field.ty.clone()), field.expr()));
        }
        let columns = exprs.iter().map(|(col, _)| *col).collect();
        (plan.project(exprs), columns)
    }

    /// A condition of WHERE or HAVING that is a subquery test: joined to `plan` at
    /// once. `false`: it is something else.
    pub(super) fn join_condition_subquery(
        &mut self,
        condition: &'a ast::Expr,
        env: &mut ExprEnv<'_>,
    ) -> Result<bool> {
        match condition {
            ast::Expr::Exists(query) => self.exists_condition(query, JoinKind::Semi, env),
            ast::Expr::Unary { op: ast::UnaryOperator::Not, expr } => match &**expr {
                ast::Expr::Exists(query) => self.exists_condition(query, JoinKind::Anti, env),
                ast::Expr::InSubquery { expr, query, negated } => {
                    self.in_condition(expr, query, !*negated, env)
                }
                _ => Ok(false),
            },
            ast::Expr::InSubquery { expr, query, negated } => {
                self.in_condition(expr, query, *negated, env)
            }
            ast::Expr::Quantified { op, quantifier, left, query } => match (op, quantifier) {
                (BinaryOperator::Eq, Quantifier::Any) => self.in_condition(left, query, false, env),
                (BinaryOperator::NotEq, Quantifier::All) => {
                    self.in_condition(left, query, true, env)
                }
                _ => Ok(false),
            },
            _ => Ok(false),
        }
    }

    fn exists_condition(
        &mut self,
        query: &'a ast::Query,
        kind: JoinKind,
        env: &mut ExprEnv<'_>,
    ) -> Result<bool> {
        let bound = self.subquery(query)?;
        if bound.plan.free_columns().is_empty() {
            let slot = self.slot_count;
            self.slot_count += 1;
            let columns = bound.fields.iter().map(|field| field.col).collect();
            let subplan =
                BoundSubplan { plan: bound.plan, columns, kind: SubplanKind::Exists, slot };
            self.subplans.push(subplan);
            let mut test = Expr::param(slot, FieldType::boolean());
            if kind == JoinKind::Anti {
                test = self.call("not", vec![test])?;
            }
            let plan = plan_of(env)?;
            *plan = std::mem::replace(plan, Logical::one_row()).filter(vec![test]);
            return Ok(true);
        }
        join(plan_of(env)?, kind, bound.plan, |_| {});
        Ok(true)
    }

    fn in_condition(
        &mut self,
        expr: &'a ast::Expr,
        query: &'a ast::Query,
        negated: bool,
        env: &mut ExprEnv<'_>,
    ) -> Result<bool> {
        let left = self.expr_or_row(expr, env)?;
        let (right, equalities) = self.in_operands(left, query)?;
        let kind = if negated { JoinKind::Anti } else { JoinKind::Semi };
        join(plan_of(env)?, kind, right, |join| match negated {
            true => split_in_keys(equalities, join),
            false => join.conditions = equalities,
        });
        Ok(true)
    }

    /// `left op ANY | ALL (SELECT ..)`.
    pub(super) fn quantified(
        &mut self,
        op: BinaryOperator,
        quantifier: Quantifier,
        left: &'a ast::Expr,
        query: &'a ast::Query,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        use BinaryOperator as B;
        match (op, quantifier) {
            (B::Eq, Quantifier::Any) => return self.in_subquery_value(left, query, false, env),
            (B::NotEq, Quantifier::All) => return self.in_subquery_value(left, query, true, env),
            _ => {}
        }
        let left = self.expr(left, env)?;
        let bound = self.subquery(query)?;
        let [field] = &bound.fields[..] else {
            return Err(PlanError::mysql(errno::ER_OPERAND_COLUMNS, &[&1]));
        };
        // min, max, number of rows, number of values: enough to answer every operator.
        let value = field.expr();
        let mut aggs = Vec::with_capacity(4);
        let count_all = Expr::int(1);
        for (func, arg) in [
            (AggFunc::Min, value.clone()),
            (AggFunc::Max, value.clone()),
            (AggFunc::Count, count_all),
            (AggFunc::Count, value),
        ] {
            let agg = self.build_aggregate(func, vec![arg], false)?;
            aggs.push((self.new_column(agg.ty.clone()), agg));
        }
        let fields = aggs
            .iter()
            .map(|(col, agg)| super::Field { col: *col, ty: agg.ty.clone(), ..field.clone() })
            .collect();
        let input = bound.plan;
        let plan =
            Logical::Aggregate(Box::new(LogicalAggregate { groups: Vec::new(), aggs, input }));
        let row = self.subquery_row(BoundQuery { plan, fields }, env)?;
        let [min, max, rows, values] = &row[..] else {
            return Err(PlanError::internal("four aggregates make four columns"));
        };
        let (min, max, rows, values) = (min.clone(), max.clone(), rows.clone(), values.clone());
        let compare = |binder: &mut Self, name: &str, with: &Expr| {
            binder.call(name, vec![left.clone(), with.clone()])
        };
        let all = quantifier == Quantifier::All;
        let known = match op {
            B::Lt | B::LtEq => compare(self, op.as_str(), if all { &min } else { &max })?,
            B::Gt | B::GtEq => compare(self, op.as_str(), if all { &max } else { &min })?,
            // `= ALL`: all are the same and equal; `<> ANY`: the opposite.
            B::Eq => {
                let both = vec![compare(self, "=", &min)?, compare(self, "=", &max)?];
                self.call("and", both)?
            }
            B::NotEq => {
                let both = vec![compare(self, "<>", &min)?, compare(self, "<>", &max)?];
                self.call("or", both)?
            }
            _ => return Err(PlanError::not_supported("this operator with ANY or ALL")),
        };
        let has_nulls = self.call("<>", vec![rows.clone(), values])?;
        if all {
            let unknown = self.call("if", vec![has_nulls, Expr::null(), Expr::int(1)])?;
            let holds = self.call("and", vec![known, unknown])?;
            let empty = self.call("=", vec![rows, Expr::int(0)])?;
            return self.call("or", vec![empty, holds]);
        }
        let unknown = self.call("if", vec![has_nulls, Expr::null(), Expr::int(0)])?;
        let holds = self.call("or", vec![known, unknown])?;
        let some = self.call(">", vec![rows, Expr::int(0)])?;
        self.call("and", vec![some, holds])
    }
}

fn plan_of<'p>(env: &'p mut ExprEnv<'_>) -> Result<&'p mut Logical> {
    match &mut env.plan {
        Some(plan) => Ok(plan),
        None => Err(PlanError::not_supported("a subquery that depends on the row in this place")),
    }
}

/// Joins `right` to `plan`.
fn join(plan: &mut Logical, kind: JoinKind, right: Logical, set: impl FnOnce(&mut LogicalJoin)) {
    let left = std::mem::replace(plan, Logical::one_row());
    let mut join = LogicalJoin {
        kind,
        conditions: Vec::new(),
        in_keys: Vec::new(),
        mark: None,
        straight: false,
        left,
        right,
    };
    set(&mut join);
    *plan = Logical::Join(Box::new(join));
}

/// Sorts the equalities of an IN whose NULLs matter from those whose do not.
fn split_in_keys(equalities: Vec<Expr>, join: &mut LogicalJoin) {
    let null_matters = equalities.iter().any(|equality| !equality.ty().not_null);
    for equality in equalities {
        match equality.as_function() {
            Some((Func::Eq, [left, right])) if null_matters => {
                join.in_keys.push((left.clone(), right.clone()));
            }
            _ => join.conditions.push(equality),
        }
    }
}
