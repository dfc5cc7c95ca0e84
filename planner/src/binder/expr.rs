//! Expressions: from syntax to typed `cairn_expr::Expr`.

use cairn_expr::Expr;
use cairn_parser::ast::{self, BinaryOperator, TrimSide, TruthValue, UnaryOperator};
use cairn_types::{Charset, Datum, FieldType, MysqlError, errno};

use super::{Binder, find_field, full_name, literal};
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical};

/// Functions whose result for constants depends on the session's time zone.
const ZONE_FUNCTIONS: [&str; 2] = ["unix_timestamp", "from_unixtime"];

/// Where an expression stands.
pub(crate) struct ExprEnv<'e> {
    /// The clause, as error messages name it.
    pub clause: &'static str,
    /// The plan of the rows the expression is computed for; subqueries that depend on
    /// the row are joined to it. `None`: there can be none here.
    pub plan: Option<&'e mut Logical>,
    /// Aggregates computed below, by how they were written. `None`: none may appear.
    pub aggregates: Option<&'e [(ast::AggregateCall, Col)]>,
    /// The same of window functions.
    pub windows: Option<&'e [(ast::WindowCall, Col)]>,
}

impl<'e> ExprEnv<'e> {
    /// An expression of a clause, without subqueries of the row, aggregates and window functions.
    pub(crate) fn new(clause: &'static str) -> ExprEnv<'e> {
        ExprEnv { clause, plan: None, aggregates: None, windows: None }
    }

    /// An expression over the rows of a plan.
    pub(crate) fn over(clause: &'static str, plan: &'e mut Logical) -> ExprEnv<'e> {
        ExprEnv { clause, plan: Some(plan), aggregates: None, windows: None }
    }
}

impl<'a> Binder<'a> {
    /// An expression that is one value.
    pub(crate) fn expr(&mut self, expr: &'a ast::Expr, env: &mut ExprEnv<'_>) -> Result<Expr> {
        let bound = self.expr_or_row(expr, env)?;
        match bound.as_function() {
            Some((cairn_expr::Func::Row, args)) if args.len() > 1 => {
                Err(PlanError::mysql(errno::ER_OPERAND_COLUMNS, &[&1]))
            }
            _ => Ok(bound),
        }
    }

    fn exprs(&mut self, exprs: &'a [ast::Expr], env: &mut ExprEnv<'_>) -> Result<Vec<Expr>> {
        exprs.iter().map(|expr| self.expr(expr, env)).collect()
    }

    /// An expression that may be a row, as comparisons take them.
    pub(super) fn expr_or_row(
        &mut self,
        expr: &'a ast::Expr,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        use ast::Expr as A;
        match expr {
            A::Literal(value) => literal::bind_literal(value, self.ctx.eval),
            A::Column(name) => self.resolve(name, env.clause),
            A::Parameter(index) => {
                let index = *index as usize;
                let ty = self.ctx.param_types.get(index).cloned();
                Ok(Expr::param(index, ty.unwrap_or_else(FieldType::null)))
            }
            A::UserVariable(name) => self.call("getvar", vec![Expr::string(name.to_lowercase())]),
            A::SystemVariable { scope, name } => {
                let (value, ty) = self.ctx.variables.system_variable(*scope, name)?;
                self.cacheable = false;
                Ok(Expr::constant_of(value, ty))
            }
            A::AssignVariable { name, value } => {
                let value = self.expr(value, env)?;
                self.call("setvar", vec![Expr::string(name.to_lowercase()), value])
            }
            A::Unary { op, expr } => self.unary(*op, expr, env),
            A::Binary { op, left, right } => self.binary(*op, left, right, env),
            A::And(terms) => {
                let terms = self.exprs(terms, env)?;
                self.chain("and", terms)
            }
            A::Or(terms) => {
                let terms = self.exprs(terms, env)?;
                self.chain("or", terms)
            }
            A::IsNull { expr, negated } => {
                let expr = self.expr(expr, env)?;
                self.call(if *negated { "isnotnull" } else { "isnull" }, vec![expr])
            }
            A::IsTruth { expr, value, negated } => {
                let expr = self.expr(expr, env)?;
                let name = match (value, negated) {
                    (TruthValue::True, false) => "istrue",
                    (TruthValue::True, true) => "isnottrue",
                    (TruthValue::False, false) => "isfalse",
                    (TruthValue::False, true) => "isnotfalse",
                    (TruthValue::Unknown, false) => "isnull",
                    (TruthValue::Unknown, true) => "isnotnull",
                };
                self.call(name, vec![expr])
            }
            A::Between { expr, low, high, negated } => {
                let args = vec![self.expr(expr, env)?, self.expr(low, env)?, self.expr(high, env)?];
                self.call(if *negated { "notbetween" } else { "between" }, args)
            }
            A::InList { expr, list, negated } => {
                let mut args = vec![self.expr_or_row(expr, env)?];
                for member in list {
                    args.push(self.expr_or_row(member, env)?);
                }
                self.call(if *negated { "notin" } else { "in" }, args)
            }
            A::InSubquery { expr, query, negated } => {
                self.in_subquery_value(expr, query, *negated, env)
            }
            A::Exists(query) => self.exists_value(query, env),
            A::Subquery(query) => self.scalar_subquery(query, env),
            A::Quantified { op, quantifier, left, query } => {
                self.quantified(*op, *quantifier, left, query, env)
            }
            A::Like { expr, pattern, escape, negated } => {
                let mut args = vec![self.expr(expr, env)?, self.expr(pattern, env)?];
                if let Some(escape) = escape {
                    args.push(self.expr(escape, env)?);
                }
                self.call(if *negated { "notlike" } else { "like" }, args)
            }
            A::Regexp { expr, pattern, negated } => {
                let args = vec![self.expr(expr, env)?, self.expr(pattern, env)?];
                self.call(if *negated { "notregexp" } else { "regexp" }, args)
            }
            A::MemberOf { value, array } => {
                let args = vec![self.expr(value, env)?, self.expr(array, env)?];
                self.call("member of", args)
            }
            A::Row(parts) => {
                let parts = self.exprs(parts, env)?;
                self.call("row", parts)
            }
            A::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref(), env)
            }
            A::Cast { array: true, .. } => Err(PlanError::not_supported("CAST ... AS ... ARRAY")),
            A::Cast { expr, to, .. } => {
                let expr = self.expr(expr, env)?;
                let ty = literal::cast_type(to, self.ctx.eval)?;
                Ok(cairn_expr::build_cast(expr, ty, self.ctx.eval)?)
            }
            A::ConvertCharset { expr, charset } => {
                let expr = self.expr(expr, env)?;
                self.call("convert_using", vec![expr, Expr::string(charset.as_str())])
            }
            A::Collate { expr, collation } => {
                let expr = self.expr(expr, env)?;
                self.call("collate", vec![expr, Expr::string(collation.as_str())])
            }
            A::Function(call) => self.function(call, env),
            A::Aggregate(call) => self.aggregate_value(call, env),
            A::Window(call) => self.window_value(call, env),
            A::DateArithmetic { base, value, unit, subtract } => {
                let args = vec![
                    self.expr(base, env)?,
                    self.expr(value, env)?,
                    Expr::string(unit.as_str()),
                ];
                self.call(if *subtract { "date_sub" } else { "date_add" }, args)
            }
            A::Interval { .. } => Err(PlanError::not_supported("INTERVAL outside of dates")),
            A::Unit(unit) => Ok(Expr::string(unit.as_str())),
            A::Extract { unit, expr } => {
                let expr = self.expr(expr, env)?;
                self.call("extract", vec![Expr::string(unit.as_str()), expr])
            }
            A::Trim { side, characters, expr } => {
                let mut args = vec![self.expr(expr, env)?];
                match characters {
                    Some(characters) => args.push(self.expr(characters, env)?),
                    None => args.push(Expr::string(" ")),
                }
                let side = match side {
                    TrimSide::Both => "BOTH",
                    TrimSide::Leading => "LEADING",
                    TrimSide::Trailing => "TRAILING",
                };
                args.push(Expr::string(side));
                self.call("trim", args)
            }
            A::Char { args, charset } => {
                let args = self.exprs(args, env)?;
                let bytes = self.call("char", args)?;
                match charset.as_deref().and_then(Charset::from_name) {
                    Some(charset) => {
                        self.call("convert_using", vec![bytes, Expr::string(charset.name())])
                    }
                    None => Ok(bytes),
                }
            }
            A::Values(name) => {
                let found = find_field(&self.values_fields, name, env.clause)?;
                match found {
                    Some(field) => Ok(field.expr()),
                    None => Err(PlanError::unknown_column(&full_name(name), env.clause)),
                }
            }
            A::Default(Some(name)) => self.default_of(name, env.clause),
            A::Default(None) => Err(PlanError::Mysql(MysqlError::new(
                errno::ER_PARSE_ERROR,
                "DEFAULT is not allowed in this place",
            ))),
            A::Match { .. } => Err(PlanError::not_supported("MATCH ... AGAINST")),
        }
    }

    fn chain(&mut self, name: &str, terms: Vec<Expr>) -> Result<Expr> {
        // Balanced, so that 10,000 terms are no 10,000 levels.
        let mut terms = terms;
        while terms.len() > 1 {
            let mut joined = Vec::with_capacity(terms.len().div_ceil(2));
            let mut rest = terms.into_iter();
            while let Some(left) = rest.next() {
                joined.push(match rest.next() {
                    Some(right) => self.call(name, vec![left, right])?,
                    None => left,
                });
            }
            terms = joined;
        }
        terms.pop().ok_or_else(|| PlanError::internal("a chain of no terms"))
    }

    fn unary(
        &mut self,
        op: UnaryOperator,
        expr: &'a ast::Expr,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        if let (UnaryOperator::Minus, ast::Expr::Literal(ast::Literal::Integer(text))) = (op, expr)
            && let Ok(value) = format!("-{text}").parse::<i64>()
        {
            return Ok(Expr::int(value));
        }
        let arg = self.expr(expr, env)?;
        match op {
            UnaryOperator::Minus => self.call("unaryminus", vec![arg]),
            UnaryOperator::Plus => Ok(arg),
            UnaryOperator::BitNot => self.call("~", vec![arg]),
            UnaryOperator::Not => self.call("not", vec![arg]),
        }
    }

    fn binary(
        &mut self,
        op: BinaryOperator,
        left: &'a ast::Expr,
        right: &'a ast::Expr,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        if !op.is_comparison() {
            let args = vec![self.expr(left, env)?, self.expr(right, env)?];
            let name = match op {
                BinaryOperator::IntegerDivide => "intdiv",
                other => other.as_str(),
            };
            return self.call(name, args);
        }
        let left = self.comparison_operand(left, env)?;
        let right = self.comparison_operand(right, env)?;
        self.call(op.as_str(), vec![left, right])
    }

    fn comparison_operand(&mut self, expr: &'a ast::Expr, env: &mut ExprEnv<'_>) -> Result<Expr> {
        match expr {
            ast::Expr::Subquery(query) => self.row_subquery(query, env),
            other => self.expr_or_row(other, env),
        }
    }

    fn case(
        &mut self,
        operand: Option<&'a ast::Expr>,
        branches: &'a [ast::CaseBranch],
        otherwise: Option<&'a ast::Expr>,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let operand = operand.map(|operand| self.expr(operand, env)).transpose()?;
        let mut args = Vec::with_capacity(branches.len() * 2 + 1);
        for branch in branches {
            let when = self.expr(&branch.when, env)?;
            args.push(match &operand {
                Some(operand) => self.call("=", vec![operand.clone(), when])?,
                None => when,
            });
            args.push(self.expr(&branch.then, env)?);
        }
        if let Some(otherwise) = otherwise {
            args.push(self.expr(otherwise, env)?);
        }
        self.call("case", args)
    }

    fn function(&mut self, call: &'a ast::FunctionCall, env: &mut ExprEnv<'_>) -> Result<Expr> {
        if let Some(schema) = &call.schema {
            let name = format!("{schema}.{}", call.name);
            return Err(PlanError::mysql(errno::ER_SP_DOES_NOT_EXIST, &[&"FUNCTION", &name]));
        }
        if let Some(answer) = self.named_lock(call)? {
            return Ok(answer);
        }
        let args = self.exprs(&call.args, env)?;
        // Folded by the session's time zone, which is no part of a cached plan's key.
        if ZONE_FUNCTIONS.contains(&call.name.as_str()) && args.iter().all(Expr::is_constant) {
            self.cacheable = false;
        }
        self.call(&call.name, args)
    }

    /// An aggregate that was computed below.
    fn aggregate_value(
        &mut self,
        call: &'a ast::AggregateCall,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let known = env.aggregates.and_then(|known| known.iter().find(|(seen, _)| seen == call));
        match known {
            Some((_, col)) => Ok(self.columns.expr(*col)),
            None => Err(PlanError::mysql(errno::ER_INVALID_GROUP_FUNC_USE, &[])),
        }
    }

    /// `DEFAULT(column)`.
    fn default_of(&mut self, name: &ast::ColumnRef, clause: &str) -> Result<Expr> {
        let unknown = || PlanError::unknown_column(&full_name(name), clause);
        let fields = self.scope().map_or(&[][..], |scope| &scope.fields);
        let field = find_field(fields, name, clause)?.ok_or_else(unknown)?.clone();
        let table = self.ctx.catalog.table(&field.org_db, &field.org_table).ok_or_else(unknown)?;
        let (_, column) = table.find_column(&field.org_name).ok_or_else(unknown)?;
        let no_default = column.default.is_none() && column.ty.not_null;
        if no_default {
            return Err(PlanError::mysql(errno::ER_NO_DEFAULT_FOR_FIELD, &[&column.name]));
        }
        let value = crate::defaults::constant_default(column, self.ctx.eval)?;
        Ok(match value {
            Some(value) => Expr::constant_of(value, column.ty.clone()),
            None => self.call("now", vec![Expr::constant(Datum::Int(column.ty.fsp().into()))])?,
        })
    }
}
