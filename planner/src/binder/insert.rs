//! INSERT and REPLACE.

use std::sync::Arc;

use cairn_parser::ast::{self, InsertSource};
use cairn_types::errno;

use super::dml::{check_generated, generated_values, positional};
use super::{Binder, ExprEnv, Field, Scope, find_field, full_name};
use crate::catalog::TableInfo;
use crate::error::{PlanError, Result};
use crate::logical::Col;
use crate::plan::{AccessKind, Assignment, InsertPlan, InsertRows, InsertValue};
use crate::statement::Planner;

/// Plans an INSERT or REPLACE.
pub(crate) fn plan_insert<'a>(
    planner: &mut Planner<'a>,
    insert: &'a ast::Insert,
) -> Result<InsertPlan> {
    if !insert.partitions.is_empty() {
        return Err(PlanError::not_supported("PARTITION () selection"));
    }
    let binder = &mut planner.binder;
    let (db, table) = binder.find_table(&insert.table, None, AccessKind::Insert)?;
    let columns = target_columns(&table, insert)?;
    let current = row_fields(binder, &db, &table, &table.name);
    let (source, select_columns) = match &insert.source {
        InsertSource::Values(rows) => {
            let rows = binder.with_scope(Scope::of(current.clone()), |binder| {
                bind_rows(binder, &table, &columns, rows, insert.explicit_columns, &current)
            })?;
            (InsertRows::Values(rows), Vec::new())
        }
        InsertSource::Query(query) => {
            let bound = binder.query(query)?;
            if bound.fields.len() != columns.len() {
                return Err(PlanError::mysql(errno::ER_WRONG_VALUE_COUNT_ON_ROW, &[&1]));
            }
            for offset in &columns {
                check_generated(&table, *offset, &ast::Expr::Literal(ast::Literal::Null))?;
            }
            let wanted: Vec<Col> = bound.fields.iter().map(|field| field.col).collect();
            let plan = planner.physical(bound.plan, &wanted)?;
            (InsertRows::Select(plan), bound.fields)
        }
    };
    let binder = &mut planner.binder;
    let on_duplicate = on_duplicate(binder, insert, &db, &table, &current, &select_columns)?;
    Ok(InsertPlan {
        columns,
        source,
        generated: generated_values(&table, &mut binder.ctx)?,
        replace: insert.replace,
        ignore: insert.ignore,
        on_duplicate,
        db,
        table,
    })
}

/// Offsets of the columns that get values.
fn target_columns(table: &TableInfo, insert: &ast::Insert) -> Result<Vec<usize>> {
    if insert.columns.is_empty() && !insert.explicit_columns {
        let visible = table.public_columns().filter(|(_, column)| !column.hidden);
        return Ok(visible.map(|(offset, _)| offset).collect());
    }
    let mut columns = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let (offset, column) = table
            .find_column(&name.column)
            .ok_or_else(|| PlanError::unknown_column(&full_name(name), "field list"))?;
        if columns.contains(&offset) {
            return Err(PlanError::mysql(errno::ER_FIELD_SPECIFIED_TWICE, &[&column.name]));
        }
        columns.push(offset);
    }
    Ok(columns)
}

/// The columns of one row of a table, with fresh numbers, by offset.
fn row_fields(binder: &mut Binder<'_>, db: &str, table: &TableInfo, alias: &str) -> Vec<Field> {
    let (alias, db): (Arc<str>, Arc<str>) = (alias.into(), db.into());
    let org_table: Arc<str> = table.name.as_str().into();
    let mut fields = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let name: Arc<str> = column.name.as_str().into();
        let full = format!("{db}.{}.{name}", table.name);
        fields.push(Field {
            col: binder.columns.add_named(column.ty.clone(), full),
            ty: column.ty.clone(),
            name: name.clone(),
            table: alias.clone(),
            db: db.clone(),
            org_name: name,
            org_table: org_table.clone(),
            org_db: db.clone(),
            flags: 0,
            hidden: !column.state.is_public(),
            qualified_only: false,
        });
    }
    fields
}

fn bind_rows<'a>(
    binder: &mut Binder<'a>,
    table: &TableInfo,
    columns: &[usize],
    rows: &'a [Vec<ast::Expr>],
    explicit_columns: bool,
    current: &[Field],
) -> Result<Vec<Vec<InsertValue>>> {
    let numbers: Vec<Col> = current.iter().map(|field| field.col).collect();
    let mut bound = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        // `INSERT INTO t VALUES ()`: all defaults.
        if row.is_empty() && !explicit_columns {
            bound.push(columns.iter().map(|_| InsertValue::Default).collect());
            continue;
        }
        if row.len() != columns.len() {
            return Err(PlanError::mysql(errno::ER_WRONG_VALUE_COUNT_ON_ROW, &[&(at + 1)]));
        }
        let mut values = Vec::with_capacity(row.len());
        for (value, offset) in row.iter().zip(columns) {
            check_generated(table, *offset, value)?;
            values.push(match value {
                ast::Expr::Default(None) => InsertValue::Default,
                ast::Expr::Literal(literal) => {
                    InsertValue::Expr(super::literal::bind_literal(literal, binder.ctx.eval)?)
                }
                value => {
                    let expr = binder.expr(value, &mut ExprEnv::new("field list"))?;
                    InsertValue::Expr(positional(expr, &numbers)?)
                }
            });
        }
        bound.push(values);
    }
    Ok(bound)
}

/// ON DUPLICATE KEY UPDATE.
fn on_duplicate<'a>(
    binder: &mut Binder<'a>,
    insert: &'a ast::Insert,
    db: &str,
    table: &TableInfo,
    current: &[Field],
    select: &[Field],
) -> Result<Vec<Assignment>> {
    if insert.on_duplicate.is_empty() {
        return Ok(Vec::new());
    }
    let new_row = row_fields(binder, db, table, &table.name);
    let mut fields = current.to_vec();
    if let Some(alias) = &insert.row_alias {
        if !alias.columns.is_empty() && alias.columns.len() != insert_width(table, insert) {
            return Err(PlanError::mysql(errno::ER_VIEW_WRONG_LIST, &[]));
        }
        let named = target_columns(table, insert)?;
        for (offset, field) in new_row.iter().enumerate() {
            let mut field = field.clone();
            field.table = alias.name.as_str().into();
            field.db = "".into();
            let own_name = named.iter().position(|at| *at == offset);
            match own_name.and_then(|at| alias.columns.get(at)) {
                Some(name) => field.name = name.as_str().into(),
                None => field.qualified_only = true,
            }
            fields.push(field);
        }
    }
    // Columns of the SELECT come last and must not hide those of the table.
    for field in select {
        let known = fields.iter().any(|other| other.name.eq_ignore_ascii_case(&field.name));
        fields.push(Field { qualified_only: known, ..field.clone() });
    }
    let mut row: Vec<Col> = current.iter().chain(&new_row).map(|field| field.col).collect();
    row.extend(select.iter().map(|field| field.col));
    binder.values_fields = new_row;
    let assignments = binder.with_scope(Scope::of(fields), |binder| {
        let mut assignments = Vec::with_capacity(insert.on_duplicate.len());
        for assignment in &insert.on_duplicate {
            let name = &assignment.column;
            let field = find_field(current, name, "field list")?
                .ok_or_else(|| PlanError::unknown_column(&full_name(name), "field list"))?;
            let column = current.iter().position(|other| other.col == field.col).unwrap_or(0);
            check_generated(table, column, &assignment.value)?;
            let value = match &assignment.value {
                ast::Expr::Default(None) => None,
                value => {
                    let expr = binder.expr(value, &mut ExprEnv::new("field list"))?;
                    Some(positional(expr, &row)?)
                }
            };
            assignments.push(Assignment { column, value });
        }
        Ok(assignments)
    })?;
    binder.values_fields = Vec::new();
    Ok(assignments)
}

fn insert_width(table: &TableInfo, insert: &ast::Insert) -> usize {
    target_columns(table, insert).map_or(0, |columns| columns.len())
}
