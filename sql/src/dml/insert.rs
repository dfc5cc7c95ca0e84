//! `INSERT`, `INSERT … SELECT`, `REPLACE`, `ON DUPLICATE KEY UPDATE`.
//!
//! Source: MySQL 8.0 manual, 13.2.6 "INSERT Statement" and 13.2.9 "REPLACE Statement".

use std::sync::Arc;

use cairn_expr::{EvalContext, Expr, SqlMode};
use cairn_planner::catalog::TableInfo;
use cairn_planner::plan::{InsertPlan, InsertRows, InsertValue};
use cairn_types::{Datum, FieldType, Handle, Warning};

use super::assign::{Assigner, eval_row};
use super::rows::{Pace, SourceRows};
use super::writer::{Duplicate, TableWriter};
use super::{Outcome, duplicate_entry};
use crate::error::Result;
use crate::execution::BuildContext;
use crate::session::Session;
use crate::session::transaction::StatementTransaction;

/// Runs an `INSERT` or `REPLACE`.
pub async fn run(
    session: &mut Session,
    plan: &InsertPlan,
    statement: &StatementTransaction,
    context: &mut BuildContext,
) -> Result<Outcome> {
    let eval = context.exec.eval.clone();
    let mut inserter = Inserter {
        writer: TableWriter::new(
            Arc::clone(&plan.table),
            statement,
            eval.time_zone.clone(),
            statement.is_eager(),
        ),
        assigner: Assigner::new(&eval, plan.ignore),
        eval,
        plan,
        outcome: Outcome::default(),
        found_rows_wanted: session.found_rows_wanted,
        increment: session.settings().auto_increment,
        multi_row: true,
    };
    inserter.assigner.bind_defaults(session, &plan.table)?;
    match &plan.source {
        InsertRows::Values(rows) => {
            inserter.multi_row = rows.len() > 1;
            let mut pace = Pace::of(statement, context, "Insert");
            for (at, row) in rows.iter().enumerate() {
                pace.begin_row(context).await?;
                let number = at as u64 + 1;
                let values = inserter.row_of_values(session, row, number).await?;
                inserter.put(session, values, &[], number).await?;
                session.take_row_warnings(&mut inserter.assigner.warnings);
            }
        }
        InsertRows::Select(source) => {
            let types = source.types();
            let mut rows = SourceRows::of(source, context, statement, "Insert").await?;
            let mut number = 0;
            while let Some(row) = rows.next(context).await? {
                number += 1;
                let values = inserter.row_of_select(session, &row, &types, number).await?;
                inserter.put(session, values, &row, number).await?;
                session.take_row_warnings(&mut inserter.assigner.warnings);
            }
        }
    }
    context.exec.eval.warnings.merge(inserter.eval.warnings.take());
    session.take_row_warnings(&mut inserter.assigner.warnings);
    let mut outcome = inserter.outcome;
    let is_single_values = matches!(&plan.source, InsertRows::Values(rows) if rows.len() == 1);
    if !is_single_values {
        outcome.info = format!(
            "Records: {}  Duplicates: {}  Warnings: {}",
            outcome.matched,
            outcome.duplicates,
            session.diagnostics.list.len()
        );
    }
    Ok(outcome)
}

struct Inserter<'a> {
    writer: TableWriter,
    assigner: Assigner,
    eval: EvalContext,
    plan: &'a InsertPlan,
    outcome: Outcome,
    found_rows_wanted: bool,
    /// `auto_increment_increment` and `_offset`.
    increment: (u64, u64),
    multi_row: bool,
}

/// Whether a value of an AUTO_INCREMENT column asks for a generated one.
fn wants_generated(value: &Datum, mode: SqlMode) -> bool {
    match value {
        Datum::Null => true,
        Datum::Int(0) | Datum::UInt(0) => !mode.has(SqlMode::NO_AUTO_VALUE_ON_ZERO),
        Datum::Double(zero) => *zero == 0.0 && !mode.has(SqlMode::NO_AUTO_VALUE_ON_ZERO),
        _ => false,
    }
}

impl Inserter<'_> {
    fn table(&self) -> Arc<TableInfo> {
        Arc::clone(&self.plan.table)
    }

    /// A row of `VALUES`. Expressions see the columns set before them.
    async fn row_of_values(
        &mut self,
        session: &Session,
        row: &[InsertValue],
        number: u64,
    ) -> Result<Vec<Datum>> {
        let table = self.table();
        let mut values = vec![Datum::Null; table.columns.len()];
        let mut given = vec![false; table.columns.len()];
        for (offset, value) in self.plan.columns.iter().zip(row) {
            if let InsertValue::Expr(expr) = value {
                let computed = eval_row(expr, &values, &mut self.eval)?;
                values[*offset] = self.assign(&table, *offset, computed, expr.ty(), number)?;
                given[*offset] = true;
            }
        }
        self.complete(session, values, &given, number).await
    }

    async fn row_of_select(
        &mut self,
        session: &Session,
        row: &[Datum],
        types: &[FieldType],
        number: u64,
    ) -> Result<Vec<Datum>> {
        let table = self.table();
        let mut values = vec![Datum::Null; table.columns.len()];
        let mut given = vec![false; table.columns.len()];
        for ((offset, value), ty) in self.plan.columns.iter().zip(row).zip(types) {
            values[*offset] = self.assign(&table, *offset, value.clone(), ty, number)?;
            given[*offset] = true;
        }
        self.complete(session, values, &given, number).await
    }

    fn assign(
        &mut self,
        table: &TableInfo,
        offset: usize,
        value: Datum,
        from: &FieldType,
        number: u64,
    ) -> Result<Datum> {
        let column = &table.columns[offset];
        let value = self.assigner.convert(column, value, from, number)?;
        if column.auto_increment {
            return Ok(value);
        }
        self.assigner.check_null(column, value, self.multi_row)
    }

    /// Fills in defaults, generated ids and generated columns.
    async fn complete(
        &mut self,
        session: &Session,
        mut values: Vec<Datum>,
        given: &[bool],
        number: u64,
    ) -> Result<Vec<Datum>> {
        let table = self.table();
        for (offset, column) in table.writable_columns() {
            if given[offset] || column.auto_increment || column.generated.is_some() {
                continue;
            }
            let default = self.assigner.default_of(column, &mut self.eval)?;
            values[offset] = self.assigner.check_null(column, default, true)?;
        }
        if let Some((offset, column)) = table.auto_increment_column() {
            if wants_generated(&values[offset], self.eval.sql_mode) {
                let id = session.domain.auto_ids.next(session, &table, self.increment).await?;
                if self.outcome.last_insert_id == 0 {
                    self.outcome.last_insert_id = id;
                }
                let value = self.assigner.convert(
                    column,
                    Datum::UInt(id),
                    &FieldType::bigint_unsigned(),
                    number,
                )?;
                values[offset] = value;
            } else {
                session.domain.auto_ids.observe(session, &table, &values[offset]).await?;
            }
        }
        let generated = &self.plan.generated;
        self.assigner.generate(&table, generated, &mut values, number, &mut self.eval)?;
        Ok(values)
    }

    async fn handle(&mut self, session: &Session, values: &[Datum]) -> Result<Handle> {
        let table = self.table();
        match self.writer.handle_of(values)? {
            Some(handle) => Ok(handle),
            None => {
                let id = session.domain.auto_ids.next_row_id(session, &table).await?;
                Ok(Handle::Int(id))
            }
        }
    }

    /// Stores a complete row as the statement says. `source`: the row of the SELECT.
    async fn put(
        &mut self,
        session: &Session,
        values: Vec<Datum>,
        source: &[Datum],
        number: u64,
    ) -> Result<()> {
        self.outcome.matched += 1;
        let handle = self.handle(session, &values).await?;
        let plan = self.plan;
        if !plan.replace && !plan.ignore && plan.on_duplicate.is_empty() {
            self.writer.insert(&handle, &values).await?;
            self.outcome.affected += 1;
            return Ok(());
        }
        if plan.replace {
            return self.replace(&handle, &values).await;
        }
        let duplicates = self.writer.find_duplicates(&handle, &values).await?;
        let Some(duplicate) = duplicates.into_iter().next() else {
            self.writer.insert(&handle, &values).await?;
            self.outcome.affected += 1;
            return Ok(());
        };
        self.outcome.duplicates += 1;
        if plan.on_duplicate.is_empty() {
            let error = duplicate_entry(&duplicate.value, &duplicate.key_name).to_mysql();
            self.assigner.warnings.push(Warning::warning(error));
            return Ok(());
        }
        self.update_duplicate(duplicate, values, source, number).await
    }

    /// `REPLACE`: rows in the way are removed first.
    async fn replace(&mut self, handle: &Handle, values: &[Datum]) -> Result<()> {
        loop {
            let duplicates = self.writer.find_duplicates(handle, values).await?;
            let Some(duplicate) = duplicates.first() else { break };
            let Some(old) = self.writer.read(&duplicate.handle).await? else { break };
            self.writer.delete(&duplicate.handle, &old).await?;
            self.outcome.duplicates += 1;
            self.outcome.affected += 1;
        }
        self.writer.insert(handle, values).await?;
        self.outcome.affected += 1;
        Ok(())
    }

    /// `ON DUPLICATE KEY UPDATE`: expressions are over the stored row, the new row and
    /// the row of the SELECT, one after the other.
    async fn update_duplicate(
        &mut self,
        duplicate: Duplicate,
        values: Vec<Datum>,
        source: &[Datum],
        number: u64,
    ) -> Result<()> {
        let table = self.table();
        let Some(old) = self.writer.read(&duplicate.handle).await? else { return Ok(()) };
        let width = table.columns.len();
        let mut row = old.clone();
        row.extend(values);
        row.extend_from_slice(source);
        let mut assigned = vec![false; width];
        for assignment in &self.plan.on_duplicate {
            let column = &table.columns[assignment.column];
            let value = match &assignment.value {
                Some(expr) => self.assigned_value(expr, &row, &table, assignment.column, number)?,
                None => self.assigner.default_of(column, &mut self.eval)?,
            };
            row[assignment.column] = self.assigner.check_null(column, value, false)?;
            assigned[assignment.column] = true;
        }
        row.truncate(width);
        let changed = finish_update(
            &mut self.assigner,
            &table,
            &self.plan.generated,
            &old,
            &mut row,
            &assigned,
            &mut self.eval,
        )?;
        if !changed {
            self.writer.touch(&duplicate.handle);
            self.outcome.affected += u64::from(self.found_rows_wanted);
            return Ok(());
        }
        self.writer.update(&duplicate.handle, &old, &row).await?;
        self.outcome.affected += 2;
        if let Some((offset, _)) = table.auto_increment_column()
            && let Some(id) = row[offset].as_i64()
        {
            // LAST_INSERT_ID() tells the id of the row that was updated.
            self.outcome.last_insert_id = id as u64;
        }
        Ok(())
    }

    fn assigned_value(
        &mut self,
        expr: &Expr,
        row: &[Datum],
        table: &TableInfo,
        offset: usize,
        number: u64,
    ) -> Result<Datum> {
        let computed = eval_row(expr, row, &mut self.eval)?;
        self.assigner.convert(&table.columns[offset], computed, expr.ty(), number)
    }
}

/// Completes a changed row: generated columns and `ON UPDATE CURRENT_TIMESTAMP`. Answers
/// whether the row differs from the old one at all.
pub fn finish_update(
    assigner: &mut Assigner,
    table: &TableInfo,
    generated: &[cairn_planner::plan::GeneratedValue],
    old: &[Datum],
    new: &mut [Datum],
    assigned: &[bool],
    eval: &mut EvalContext,
) -> Result<bool> {
    assigner.generate(table, generated, new, 1, eval)?;
    if old == &*new {
        return Ok(false);
    }
    for (offset, column) in table.columns.iter().enumerate() {
        if let Some(fsp) = column.on_update_now
            && !assigned[offset]
        {
            new[offset] = assigner.now(column, fsp)?;
        }
    }
    assigner.generate(table, generated, new, 1, eval)?;
    Ok(true)
}
