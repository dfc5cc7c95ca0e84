//! Assigning values to columns: conversion, NOT NULL, defaults, generated values.

use std::collections::HashMap;

use cairn_expr::{EvalContext, Expr};
use cairn_planner::catalog::{ColumnDefault, ColumnInfo, TableInfo};
use cairn_planner::plan::GeneratedValue;
use cairn_types::time::TimeKind;
use cairn_types::{CastContext, ColumnId, Datum, FieldType, MysqlError, TypeCode, Warning, errno};

use crate::error::{Result, SqlError};
use crate::session::Session;

/// Converts values for the columns of one statement.
pub struct Assigner {
    cast: CastContext,
    /// `IGNORE`: what would be an error is a warning and a default value.
    ignore: bool,
    /// Warnings so far.
    pub warnings: Vec<Warning>,
    now_micros: i64,
    default_exprs: HashMap<ColumnId, Expr>,
}

impl Assigner {
    /// An assigner with the statement's SQL mode, zone and time.
    pub fn new(eval: &EvalContext, ignore: bool) -> Self {
        Self {
            cast: eval.assignment(ignore),
            ignore,
            warnings: Vec::new(),
            now_micros: eval.now_micros,
            default_exprs: HashMap::new(),
        }
    }

    fn is_strict(&self) -> bool {
        self.cast.strict
    }

    /// Converts a value to a column's type; `row` counts from 1.
    pub fn convert(
        &mut self,
        column: &ColumnInfo,
        value: Datum,
        from: &FieldType,
        row: u64,
    ) -> Result<Datum> {
        if value.is_null() {
            return Ok(value);
        }
        let converted = cairn_types::cast_datum(&value, from, &column.ty, &mut self.cast);
        self.warnings.extend(self.cast.take_warnings(&column.name, row));
        converted.map_err(|error| SqlError::Mysql(error.for_column(&column.name, row)))
    }

    /// Checks NOT NULL; with `IGNORE` (or a multi-row statement without strict mode) the
    /// type's implicit default takes NULL's place.
    pub fn check_null(
        &mut self,
        column: &ColumnInfo,
        value: Datum,
        multi_row: bool,
    ) -> Result<Datum> {
        if !value.is_null() || !column.ty.not_null {
            return Ok(value);
        }
        let error = MysqlError::new(
            errno::ER_BAD_NULL_ERROR,
            format!("Column '{}' cannot be null", column.name),
        );
        if self.ignore || (multi_row && !self.is_strict()) {
            self.warnings.push(Warning::warning(error));
            return Ok(implicit_default(&column.ty));
        }
        Err(error.into())
    }

    /// The value of a column that a statement does not mention.
    pub fn default_of(&mut self, column: &ColumnInfo, eval: &mut EvalContext) -> Result<Datum> {
        match &column.default {
            Some(ColumnDefault::Null) => Ok(Datum::Null),
            Some(ColumnDefault::CurrentTimestamp { fsp }) => self.now(column, *fsp),
            Some(ColumnDefault::Expr(_)) => self.expression_default(column, eval),
            Some(default) => Ok(crate::record::constant_default(column, Some(default))),
            None if !column.ty.not_null => Ok(Datum::Null),
            None => {
                if column.ty.code == TypeCode::Enum {
                    return Ok(Datum::UInt(1));
                }
                let error = MysqlError::new(
                    errno::ER_NO_DEFAULT_FOR_FIELD,
                    format!("Field '{}' doesn't have a default value", column.name),
                );
                if self.is_strict() {
                    return Err(error.into());
                }
                self.warnings.push(Warning::warning(error));
                Ok(implicit_default(&column.ty))
            }
        }
    }

    fn expression_default(&mut self, column: &ColumnInfo, eval: &mut EvalContext) -> Result<Datum> {
        let Some(expr) = self.default_exprs.get(&column.id).cloned() else {
            return Err(SqlError::not_supported("DEFAULT (expression) here"));
        };
        let value = eval_row(&expr, &[], eval)?;
        self.convert(column, value, expr.ty(), 1)
    }

    /// Binds the defaults of a table that are expressions; before rows are assigned.
    pub fn bind_defaults(&mut self, session: &mut Session, table: &TableInfo) -> Result<()> {
        for column in &table.columns {
            if let Some(ColumnDefault::Expr(text)) = &column.default {
                let expr = crate::statement::plan::bind_default(session, text)?;
                self.default_exprs.insert(column.id, expr);
            }
        }
        Ok(())
    }

    /// The statement's time as a value of the column.
    pub fn now(&mut self, column: &ColumnInfo, fsp: u8) -> Result<Datum> {
        let unit = 10_i64.pow(6 - u32::from(fsp.min(6)));
        let micros = self.now_micros - self.now_micros.rem_euclid(unit);
        let zone = &self.cast.time_zone;
        let Some(time) = zone.from_unix_micros(micros, TimeKind::DateTime, fsp) else {
            return Ok(Datum::Null);
        };
        self.convert(column, Datum::Time(time), &FieldType::datetime(fsp), 1)
    }

    /// Computes generated columns of a row, in order.
    pub fn generate(
        &mut self,
        table: &TableInfo,
        generated: &[GeneratedValue],
        row: &mut [Datum],
        row_number: u64,
        eval: &mut EvalContext,
    ) -> Result<()> {
        for value in generated {
            let computed = eval_row(&value.expr, row, eval)?;
            let column = &table.columns[value.column];
            let computed = self.convert(column, computed, value.expr.ty(), row_number)?;
            row[value.column] = self.check_null(column, computed, false)?;
        }
        Ok(())
    }
}

/// Evaluates an expression over a row of values.
pub fn eval_row(expr: &Expr, row: &[Datum], eval: &mut EvalContext) -> Result<Datum> {
    expr.eval_row(&RowOf(row), eval).map_err(|error| SqlError::Mysql(error.to_mysql()))
}

/// A slice of values as a row.
pub struct RowOf<'a>(pub &'a [Datum]);

impl cairn_expr::RowAccess for RowOf<'_> {
    fn get(&self, column: usize) -> Option<cairn_types::DatumRef<'_>> {
        self.0.get(column).map(Datum::as_ref)
    }
}

/// What MySQL puts where NULL may not stand and no default was declared.
pub fn implicit_default(ty: &FieldType) -> Datum {
    let zero = match ty.code {
        _ if ty.is_string() => return Datum::Bytes(Vec::new()),
        TypeCode::Json => return Datum::Json(cairn_types::Json::null()),
        TypeCode::Date | TypeCode::DateTime | TypeCode::Timestamp => "0000-00-00 00:00:00",
        TypeCode::Enum => return Datum::UInt(1),
        _ => "0",
    };
    let mut lenient = CastContext::assign_lenient();
    let from = FieldType::string();
    cairn_types::cast_datum(&Datum::text(zero), &from, ty, &mut lenient).unwrap_or(Datum::Null)
}
