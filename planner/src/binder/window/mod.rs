//! Window functions: which windows a SELECT has, what is computed over each, and in which order they
//! are computed.
//!
//! Calls over windows that are the same share a node. Windows whose sort order is the beginning of
//! another's come behind it and share its sort.
//!
//! Source: MySQL 8.0 manual, "Window Function Concepts and Syntax", "Window Function Frame
//! Specification", "Named Windows", "Window Function Restrictions".

mod frame;
mod spec;

use cairn_executor::plan::{WindowFrame, WindowFunc};
use cairn_expr::agg::AggFunc;
use cairn_expr::{Expr, build_cast};
use cairn_parser::ast;
use cairn_types::{FieldType, MysqlError, errno};

use self::frame::FrameOrder;
use self::spec::{Named, Spec};
use super::aggregate::{GroupCheck, has_window, walk};
use super::{Binder, ExprEnv};
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical, LogicalWindow, SortKey};

/// Window functions of a SELECT.
#[derive(Default)]
pub(super) struct Windows {
    /// Where each call's value is.
    pub known: Vec<(ast::WindowCall, Col)>,
    /// The windows, without what is below them.
    list: Vec<LogicalWindow>,
    /// Keys of windows that are no columns.
    computed: Vec<(Col, Expr)>,
}

/// Binds the window functions of one SELECT.
pub(super) struct WindowBinder<'w, 's, 'a> {
    /// `WINDOW name AS (..)`.
    pub named: &'a [ast::NamedWindow],
    /// Aggregates computed below.
    pub aggregates: &'w [(ast::AggregateCall, Col)],
    /// The rows the functions are computed over.
    pub top: &'w mut Logical,
    /// What may be shown above a grouping, if there is one.
    pub check: Option<&'w mut GroupCheck<'s>>,
}

/// A window with what it is made of in terms of columns.
struct BoundSpec {
    name: String,
    partition_by: Vec<Expr>,
    order_by: Vec<SortKey>,
    frame: WindowFrame,
}

impl<'a> Binder<'a> {
    /// A window function that was computed below.
    pub(super) fn window_value(
        &mut self,
        call: &'a ast::WindowCall,
        env: &mut ExprEnv<'_>,
    ) -> Result<Expr> {
        let known = env.windows.and_then(|known| known.iter().find(|(seen, _)| seen == call));
        match known {
            Some((_, col)) => Ok(self.columns.expr(*col)),
            None => {
                let code = errno::ER_WINDOW_INVALID_WINDOW_FUNC_USE;
                Err(PlanError::mysql(code, &[&call.function.name]))
            }
        }
    }
}

impl<'a> WindowBinder<'_, '_, 'a> {
    /// The window functions that appear in `exprs`.
    pub(super) fn bind(
        &mut self,
        binder: &mut Binder<'a>,
        exprs: &[&'a ast::Expr],
    ) -> Result<Windows> {
        let named = Named::new(self.named)?;
        let mut calls: Vec<&'a ast::WindowCall> = Vec::new();
        for expr in exprs {
            walk(expr, &mut |expr| match expr {
                ast::Expr::Window(call) => {
                    if !calls.contains(&&**call) {
                        calls.push(call);
                    }
                    false
                }
                _ => true,
            });
        }
        let mut windows = Windows::default();
        let mut bound = Vec::with_capacity(calls.len());
        for call in calls {
            let spec = self.spec(binder, &named.resolve(&call.over)?, &mut windows)?;
            let (func, ty) = self.function(binder, call)?;
            bound.push((call, spec, func, ty));
        }
        // Functions that have no frame go where one is.
        bound.sort_by_key(|(_, _, func, _)| !func.uses_frame());
        for (call, spec, func, ty) in bound {
            let window = windows.list.iter_mut().find(|window| {
                window.partition_by == spec.partition_by
                    && window.order_by == spec.order_by
                    && (window.frame == spec.frame || !func.uses_frame())
            });
            let col = binder.new_column(ty);
            match window {
                Some(window) => window.functions.push((col, func)),
                None => {
                    let BoundSpec { name, partition_by, order_by, frame } = spec;
                    let (functions, input) = (vec![(col, func)], Logical::one_row());
                    let window =
                        LogicalWindow { name, partition_by, order_by, frame, functions, input };
                    if windows.list.len() == WINDOWS_MAX {
                        return Err(too_many_windows());
                    }
                    windows.list.push(window);
                }
            }
            windows.known.push((call.clone(), col));
        }
        Ok(windows)
    }

    fn spec(
        &mut self,
        binder: &mut Binder<'a>,
        spec: &Spec<'a>,
        windows: &mut Windows,
    ) -> Result<BoundSpec> {
        let mut partition_by: Vec<Expr> = Vec::with_capacity(spec.partition_by.len());
        for expr in spec.partition_by {
            let key = self.key(binder, spec, expr, "window partition by", windows)?;
            if !key.is_constant() && !partition_by.contains(&key) {
                partition_by.push(key);
            }
        }
        let mut order_by: Vec<SortKey> = Vec::with_capacity(spec.order_by.len());
        for item in spec.order_by {
            let expr = self.key(binder, spec, &item.expr, "window order by", windows)?;
            order_by.push(SortKey { expr, desc: item.descending });
        }
        let order = FrameOrder { window: spec.name, keys: &order_by };
        let frame = match spec.frame {
            Some(frame) => order.frame(binder, frame)?,
            None => WindowFrame::to_current_peers(),
        };
        if frame.key.is_none() {
            order_by.retain(|key| !key.expr.is_constant());
        }
        Ok(BoundSpec { name: spec.name.to_string(), partition_by, order_by, frame })
    }

    /// A key of a window: a column, which is computed below if it is none yet.
    fn key(
        &mut self,
        binder: &mut Binder<'a>,
        spec: &Spec<'a>,
        written: &'a ast::Expr,
        clause: &'static str,
        windows: &mut Windows,
    ) -> Result<Expr> {
        if let ast::Expr::Literal(ast::Literal::Integer(_)) = written {
            return Err(PlanError::mysql(errno::ER_WINDOW_ILLEGAL_ORDER_BY, &[&spec.name]));
        }
        if has_window(written) {
            let code = errno::ER_WINDOW_NESTED_WINDOW_FUNC_USE_IN_WINDOW_SPEC;
            return Err(PlanError::mysql(code, &[&spec.name]));
        }
        let expr = self.expr(binder, written, clause)?;
        if expr.as_column().is_some() || expr.is_constant() {
            return Ok(expr);
        }
        let same = windows.computed.iter().find(|(_, known)| *known == expr);
        let col = match same {
            Some((col, _)) if expr.is_deterministic() => *col,
            _ => {
                let col = binder.new_column(expr.ty().clone());
                windows.computed.push((col, expr.clone()));
                col
            }
        };
        Ok(Expr::column(col, expr.ty().clone()))
    }

    fn expr(
        &mut self,
        binder: &mut Binder<'a>,
        written: &'a ast::Expr,
        clause: &'static str,
    ) -> Result<Expr> {
        let aggregates = Some(self.aggregates);
        let plan = Some(&mut *self.top);
        let expr =
            binder.expr(written, &mut ExprEnv { clause, plan, aggregates, windows: None })?;
        match &mut self.check {
            Some(check) => check.rewrite(binder, expr, (1, "SELECT list")),
            None => Ok(expr),
        }
    }

    /// A function with its type.
    fn function(
        &mut self,
        binder: &mut Binder<'a>,
        call: &'a ast::WindowCall,
    ) -> Result<(WindowFunc, FieldType)> {
        let written = &call.function;
        let name = written.name.as_str();
        if call.from_last {
            return Err(PlanError::not_supported("FROM LAST"));
        }
        if call.ignore_nulls {
            return Err(PlanError::not_supported("IGNORE NULLS"));
        }
        let mut args = Vec::with_capacity(written.args.len());
        for arg in &written.args {
            args.push(self.expr(binder, arg, "field list")?);
        }
        let number = FieldType::bigint_unsigned().with_not_null();
        let nullable = |ty: &FieldType| FieldType { not_null: false, ..ty.clone() };
        let func = match (name, args.len()) {
            ("row_number", 0) => (WindowFunc::RowNumber, number),
            ("rank", 0) => (WindowFunc::Rank, number),
            ("dense_rank", 0) => (WindowFunc::DenseRank, number),
            ("percent_rank", 0) => (WindowFunc::PercentRank, FieldType::double().with_not_null()),
            ("cume_dist", 0) => (WindowFunc::CumeDist, FieldType::double().with_not_null()),
            ("ntile", 1) => {
                let parts = how_many(args.remove(0), name, 1)?;
                (WindowFunc::Ntile(parts), nullable(&number))
            }
            ("lag" | "lead", 1..=3) => shift(binder, name, args)?,
            ("first_value", 1) => {
                let ty = nullable(args[0].ty());
                (WindowFunc::FirstValue(args.remove(0)), ty)
            }
            ("last_value", 1) => {
                let ty = nullable(args[0].ty());
                (WindowFunc::LastValue(args.remove(0)), ty)
            }
            ("nth_value", 2) => {
                let nth = how_many(args.remove(1), name, 1)?;
                let ty = nullable(args[0].ty());
                (WindowFunc::NthValue { value: args.remove(0), nth }, ty)
            }
            (
                "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" | "ntile"
                | "lag" | "lead" | "first_value" | "last_value" | "nth_value",
                _,
            ) => return Err(cairn_expr::ExprError::argument_count(name).into()),
            _ => return aggregate(binder, written, args),
        };
        Ok(func)
    }
}

/// Windows of one SELECT, named or used, MySQL's own limit: each is a level of the plan.
const WINDOWS_MAX: usize = 127;

fn too_many_windows() -> PlanError {
    PlanError::not_supported(&format!("more than {WINDOWS_MAX} windows in one SELECT"))
}

impl Windows {
    /// The windows over a plan.
    pub(super) fn above(mut self, binder: &mut Binder<'_>, mut plan: Logical) -> Logical {
        if !self.computed.is_empty() {
            let outputs = plan.outputs();
            let mut exprs: Vec<(Col, Expr)> =
                outputs.into_iter().map(|col| (col, binder.columns.expr(col))).collect();
            exprs.append(&mut self.computed);
            plan = plan.project(exprs);
        }
        let mut rest: Vec<(Vec<SortKey>, LogicalWindow)> =
            self.list.into_iter().map(|window| (sort_keys(&window), window)).collect();
        rest.sort_by_key(|(keys, _)| std::cmp::Reverse(keys.len()));
        while !rest.is_empty() {
            let (keys, first) = rest.remove(0);
            let (sharing, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(own, _)| keys.starts_with(own));
            rest = others;
            if !keys.is_empty() {
                plan = Logical::Sort { by: keys, input: Box::new(plan) };
            }
            for window in std::iter::once(first).chain(sharing.into_iter().map(|(_, w)| w)) {
                plan = Logical::Window(Box::new(LogicalWindow { input: plan, ..window }));
            }
        }
        plan
    }
}

/// The order a window needs its rows in.
fn sort_keys(window: &LogicalWindow) -> Vec<SortKey> {
    let mut keys: Vec<SortKey> = window
        .partition_by
        .iter()
        .map(|expr| SortKey { expr: expr.clone(), desc: false })
        .collect();
    for key in &window.order_by {
        if !key.expr.is_constant() && !keys.iter().any(|known| known.expr == key.expr) {
            keys.push(key.clone());
        }
    }
    keys
}

/// An argument that says how many: it has no columns, and if it is known it is at least `least`.
fn how_many(expr: Expr, name: &str, least: u64) -> Result<Expr> {
    let is_wrong = match expr.as_constant() {
        Some(value) => cairn_executor::plan::row_count(value).is_none_or(|count| count < least),
        None => expr.has_columns(),
    };
    if is_wrong {
        return Err(PlanError::mysql(errno::ER_WRONG_ARGUMENTS, &[&name]));
    }
    Ok(expr)
}

/// LAG, LEAD.
fn shift(binder: &mut Binder<'_>, name: &str, args: Vec<Expr>) -> Result<(WindowFunc, FieldType)> {
    let mut args = args.into_iter();
    let value = args.next().ok_or_else(|| PlanError::internal("a function lacks its value"))?;
    let offset = how_many(args.next().unwrap_or_else(|| Expr::int(1)), name, 0)?;
    let (value, default, ty) = match args.next() {
        None => {
            let ty = FieldType { not_null: false, ..value.ty().clone() };
            (value, Expr::constant_of(cairn_types::Datum::Null, ty.clone()), ty)
        }
        Some(default) => {
            let not_null = value.ty().not_null && default.ty().not_null;
            let both = vec![value.clone(), default.clone()];
            let ty = FieldType { not_null, ..binder.call("coalesce", both)?.ty().clone() };
            let value = build_cast(value, ty.clone(), binder.ctx.eval)?;
            (value, build_cast(default, ty.clone(), binder.ctx.eval)?, ty)
        }
    };
    Ok((WindowFunc::Shift { lead: name == "lead", value, offset, default }, ty))
}

/// An aggregate over a window.
fn aggregate(
    binder: &mut Binder<'_>,
    written: &ast::AggregateCall,
    args: Vec<Expr>,
) -> Result<(WindowFunc, FieldType)> {
    let func = match AggFunc::from_name(&written.name) {
        Some(AggFunc::GroupConcat) => {
            return Err(PlanError::not_supported("GROUP_CONCAT as a window function"));
        }
        Some(AggFunc::FirstRow) | None => {
            let message = format!(
                "You have an error in your SQL syntax; {} is no window function",
                written.name
            );
            return Err(PlanError::Mysql(MysqlError::new(errno::ER_PARSE_ERROR, message)));
        }
        Some(func) => func,
    };
    if written.distinct {
        return Err(PlanError::not_supported("<window function>(DISTINCT ..)"));
    }
    let agg = binder.build_aggregate(func, args, false)?;
    let ty = agg.ty.clone();
    Ok((WindowFunc::Aggregate(agg), ty))
}
