//! UPDATE and DELETE: a query for the rows, and what to do with each.
//!
//! The source yields, for every table that is changed, its handle and columns; the
//! assignments' expressions are over that row. Tables of the source that are not
//! changed contribute only what expressions need.

use std::collections::BTreeSet;

use cairn_expr::Expr;
use cairn_parser::ast;
use cairn_types::{MysqlError, errno};

use super::from::{BaseTable, FromItem};
use super::{Binder, ExprEnv, Scope, find_field, full_name};
use crate::catalog::{SchemaState, TableInfo};
use crate::context::PlanContext;
use crate::error::{PlanError, Result};
use crate::logical::{Col, Logical, SortKey};
use crate::plan::{
    AccessKind, Assignment, DeletePlan, DeleteTarget, GeneratedValue, HandleSource, UpdatePlan,
    UpdateTarget,
};
use crate::statement::Planner;

/// `Unknown table '%s' in %s`; not in the shared table.
const ER_UNKNOWN_TABLE: u16 = 1109;

/// A changed table before offsets are known.
struct Target {
    base: BaseTable,
    assignments: Vec<(usize, Option<Expr>)>,
}

/// Plans an UPDATE.
pub(crate) fn plan_update<'a>(
    planner: &mut Planner<'a>,
    update: &'a ast::Update,
) -> Result<UpdatePlan> {
    let binder = &mut planner.binder;
    binder.push_ctes(update.with.as_ref());
    let (mut plan, fields, bases) = binder.from(&update.tables)?;
    binder.join_hints(&update.hints, &mut plan);
    let multi_table = bases.len() > 1 || !matches!(update.tables[..], [ast::TableRef::Table(_)]);
    let mut targets: Vec<Target> = Vec::new();
    binder.with_scope(Scope::of(fields.clone()), |binder| {
        if let Some(condition) = &update.selection {
            binder.conditions(condition, &mut plan, "where clause")?;
        }
        for assignment in &update.assignments {
            let name = &assignment.column;
            let field = find_field(&fields, name, "field list")?
                .ok_or_else(|| PlanError::unknown_column(&full_name(name), "field list"))?;
            let found = bases.iter().find_map(|base| {
                let offset = base.columns.iter().position(|col| *col == Some(field.col))?;
                Some((base, offset))
            });
            let Some((base, offset)) = found else {
                return Err(PlanError::mysql(
                    errno::ER_NON_UPDATABLE_TABLE,
                    &[&field.table, &"UPDATE"],
                ));
            };
            check_generated(&base.table, offset, &assignment.value)?;
            let value = match &assignment.value {
                ast::Expr::Default(None) => None,
                value => Some(binder.expr(value, &mut ExprEnv::over("field list", &mut plan))?),
            };
            let at = match targets.iter().position(|t| t.base.handle == base.handle) {
                Some(at) => at,
                None => {
                    targets.push(Target { base: base.clone(), assignments: Vec::new() });
                    targets.len() - 1
                }
            };
            targets[at].assignments.push((offset, value));
        }
        plan = order_and_limit(binder, plan_take(&mut plan), &update.order_by, &update.limit)?;
        Ok(())
    })?;
    for target in &targets {
        access(binder, &target.base, AccessKind::Update);
    }
    // All columns of the changed tables, then whatever else the values read.
    let mut wanted: Vec<Col> = Vec::new();
    for target in &targets {
        let columns = target.base.columns.iter().flatten().chain(&target.base.handle);
        columns.for_each(|col| add(&mut wanted, *col));
    }
    let read: BTreeSet<Col> = targets
        .iter()
        .flat_map(|target| &target.assignments)
        .filter_map(|(_, value)| value.as_ref())
        .flat_map(Expr::columns)
        .collect();
    read.into_iter().for_each(|col| add(&mut wanted, col));
    let mut result = Vec::with_capacity(targets.len());
    for target in targets {
        let base = target.base;
        let mut assignments = Vec::with_capacity(target.assignments.len());
        for (column, value) in target.assignments {
            let value = value.map(|value| positional(value, &wanted)).transpose()?;
            assignments.push(Assignment { column, value });
        }
        result.push(UpdateTarget {
            handle: handle(&base, &wanted)?,
            columns: offsets(&base, &wanted),
            generated: generated_values(&base.table, &mut binder.ctx)?,
            db: base.db,
            table: base.table,
            assignments,
        });
    }
    let source = planner.physical(plan, &wanted)?;
    Ok(UpdatePlan { source, targets: result, ignore: update.ignore, multi_table })
}

/// Plans a DELETE.
pub(crate) fn plan_delete<'a>(
    planner: &mut Planner<'a>,
    delete: &'a ast::Delete,
) -> Result<DeletePlan> {
    let binder = &mut planner.binder;
    binder.push_ctes(delete.with.as_ref());
    let (mut plan, fields, bases): FromItem = binder.from(&delete.from)?;
    binder.join_hints(&delete.hints, &mut plan);
    let multi_table = bases.len() > 1 || !matches!(delete.from[..], [ast::TableRef::Table(_)]);
    let mut targets: Vec<BaseTable> = Vec::new();
    if delete.targets.is_empty() {
        targets.extend(bases.first().cloned());
    }
    for name in &delete.targets {
        let found = bases.iter().find(|base| {
            base.alias.eq_ignore_ascii_case(&name.name)
                && name.schema.as_ref().is_none_or(|db| base.db.eq_ignore_ascii_case(db))
        });
        let base = found.ok_or_else(|| {
            let text = format!("Unknown table '{}' in MULTI DELETE", name.name);
            PlanError::Mysql(MysqlError::new(ER_UNKNOWN_TABLE, text))
        })?;
        targets.push(base.clone());
    }
    binder.with_scope(Scope::of(fields), |binder| {
        if let Some(condition) = &delete.selection {
            binder.conditions(condition, &mut plan, "where clause")?;
        }
        plan = order_and_limit(binder, plan_take(&mut plan), &delete.order_by, &delete.limit)?;
        Ok(())
    })?;
    let mut wanted: Vec<Col> = Vec::new();
    for base in &targets {
        access(binder, base, AccessKind::Delete);
        // Only what index entries are made of.
        let indexed = base
            .table
            .indices
            .iter()
            .filter(|index| index.state != SchemaState::None && base.table.has_entries(index))
            .flat_map(|index| &index.columns)
            .filter_map(|part| base.columns[part.offset]);
        indexed.chain(base.handle.iter().copied()).for_each(|col| add(&mut wanted, col));
    }
    let mut result = Vec::with_capacity(targets.len());
    for base in targets {
        result.push(DeleteTarget {
            handle: handle(&base, &wanted)?,
            columns: offsets(&base, &wanted),
            db: base.db,
            table: base.table,
        });
    }
    let source = planner.physical(plan, &wanted)?;
    Ok(DeletePlan { source, targets: result, ignore: delete.ignore, multi_table })
}

fn plan_take(plan: &mut Logical) -> Logical {
    std::mem::replace(plan, Logical::one_row())
}

fn add(list: &mut Vec<Col>, col: Col) {
    if !list.contains(&col) {
        list.push(col);
    }
}

/// Notes what the statement does with a table beyond reading it.
pub(super) fn access(binder: &mut Binder<'_>, base: &BaseTable, kind: AccessKind) {
    let (db, table, alias) = (base.db.clone(), base.table.clone(), base.alias.clone());
    binder.tables.push(crate::plan::TableAccess { db, table, alias, kind });
}

fn order_and_limit<'a>(
    binder: &mut Binder<'a>,
    mut plan: Logical,
    order_by: &'a [ast::OrderByItem],
    limit: &'a Option<ast::Limit>,
) -> Result<Logical> {
    let mut by = Vec::with_capacity(order_by.len());
    for item in order_by {
        let expr = binder.expr(&item.expr, &mut ExprEnv::over("order clause", &mut plan))?;
        by.push(SortKey { expr, desc: item.descending });
    }
    if !by.is_empty() {
        plan = Logical::Sort { by, input: Box::new(plan) };
    }
    if let Some(limit) = limit {
        let limit = binder.limit(limit)?;
        plan = Logical::Limit { limit, input: Box::new(plan) };
    }
    Ok(plan)
}

/// An expression over a row of `wanted` columns.
pub(super) fn positional(expr: Expr, wanted: &[Col]) -> Result<Expr> {
    Ok(expr.remap_columns(&|col| wanted.iter().position(|known| *known == col))?)
}

fn offsets(base: &BaseTable, wanted: &[Col]) -> Vec<Option<usize>> {
    let place =
        |col: &Option<Col>| col.and_then(|col| wanted.iter().position(|known| *known == col));
    base.columns.iter().map(place).collect()
}

fn handle(base: &BaseTable, wanted: &[Col]) -> Result<HandleSource> {
    let mut places = Vec::with_capacity(base.handle.len());
    for col in &base.handle {
        let place = wanted.iter().position(|known| known == col);
        places.push(place.ok_or_else(|| PlanError::internal("a handle is not in the source"))?);
    }
    match (base.table.common_handle, &places[..]) {
        (true, _) => Ok(HandleSource::Common(places)),
        (false, [place]) => Ok(HandleSource::Int(*place)),
        (false, _) => Err(PlanError::internal("an integer handle is one column")),
    }
}

/// A generated column takes no value but DEFAULT.
pub(super) fn check_generated(table: &TableInfo, offset: usize, value: &ast::Expr) -> Result<()> {
    let column = &table.columns[offset];
    if column.generated.is_some() && !matches!(value, ast::Expr::Default(None)) {
        return Err(PlanError::mysql(
            errno::ER_NON_DEFAULT_VALUE_FOR_GENERATED_COLUMN,
            &[&column.name, &table.name],
        ));
    }
    Ok(())
}

/// Values of the generated columns, over the table's columns by offset, in an order in
/// which each sees those before it.
pub fn generated_values(
    table: &TableInfo,
    ctx: &mut PlanContext<'_>,
) -> Result<Vec<GeneratedValue>> {
    let mut values = Vec::new();
    for (column, info) in table.writable_columns() {
        let Some(generated) = &info.generated else { continue };
        let expr = table_expr(table, &generated.expr, ctx)?;
        let expr = cairn_expr::build_cast(expr, info.ty.clone(), ctx.eval)?;
        values.push(GeneratedValue { column, expr });
    }
    Ok(values)
}

/// Binds the text of an expression (generated column, CHECK, default) over a table's
/// columns by offset.
pub fn table_expr(table: &TableInfo, text: &str, ctx: &mut PlanContext<'_>) -> Result<Expr> {
    let parsed = crate::parse::expression(text, ctx.eval.sql_mode)?;
    let name: std::sync::Arc<str> = table.name.as_str().into();
    let empty: std::sync::Arc<str> = "".into();
    let fields = table
        .writable_columns()
        .map(|(offset, column)| super::Field {
            col: offset,
            ty: column.ty.clone(),
            name: column.name.as_str().into(),
            table: name.clone(),
            db: empty.clone(),
            org_name: column.name.as_str().into(),
            org_table: name.clone(),
            org_db: empty.clone(),
            flags: 0,
            hidden: false,
            qualified_only: false,
        })
        .collect();
    let mut binder = Binder::new(ctx.reborrow(), 0);
    binder.with_scope(Scope::of(fields), |binder| {
        binder.expr(&parsed, &mut ExprEnv::new("generated column function"))
    })
}
