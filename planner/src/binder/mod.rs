//! From syntax tree to logical plan: names, types, MySQL's rules of who sees whom.
//!
//! **Flow.** [`Binder`] walks a statement once. Names are looked up in a stack of
//! scopes, innermost last; a name found in an outer scope makes the subquery
//! correlated, which shows as a free column of its plan. Expressions are built by
//! `cairn_expr::build_function`, which infers types, inserts casts and folds.
//!
//! **Subqueries.** One that does not depend on the row becomes a
//! [`Subplan`](crate::plan::Subplan) whose result is a parameter slot: index ranges and
//! stores can use it. Others become joins (see `subquery.rs`).
//!
//! | file | what it binds |
//! |---|---|
//! | `cte.rs` | WITH |
//! | `query.rs` | set operations, ORDER BY and LIMIT of a whole query |
//! | `select.rs`, `aggregate.rs` | SELECT proper; grouping and its checks |
//! | `window/` | window functions |
//! | `from.rs` | tables, derived tables, joins, USING |
//! | `expr.rs`, `literal.rs`, `subquery.rs` | expressions |
//! | `hints.rs` | optimizer hints about joins |
//! | `dml.rs`, `insert.rs` | INSERT, UPDATE, DELETE |
//!
//! Sources: MySQL 8.0 manual, "SELECT Statement", "Problems with Column Aliases",
//! "MySQL Handling of GROUP BY", "JOIN Clause".

mod aggregate;
mod cte;
pub(crate) mod dml;
mod expr;
mod from;
mod hints;
pub(crate) mod insert;
pub(crate) mod literal;
mod named_lock;
mod query;
mod select;
mod subquery;
mod window;

use std::sync::Arc;

use cairn_expr::Expr;
use cairn_parser::ast;
use cairn_types::{FieldType, errno};

use crate::catalog::TableInfo;
use crate::context::PlanContext;
use crate::error::{PlanError, Result};
use crate::logical::{Col, Columns, Logical};
use crate::plan::{AccessKind, OutputColumn, SubplanKind, TableAccess};

use cte::{CteBinding, OpenCte};
pub(crate) use expr::ExprEnv;

/// Deepest nesting of queries in queries: each level is some frames of recursion.
pub const QUERY_DEPTH_MAX: usize = 60;
/// Most tables of one statement, as in MySQL.
pub const TABLES_MAX: usize = 61;
/// Longest name of a result column, in characters.
pub const COLUMN_NAME_CHARS_MAX: usize = 256;

/// A column that a table in FROM, or a whole query, offers by name.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Its number.
    pub col: Col,
    /// Its type as seen here (nullable above an outer join).
    pub ty: FieldType,
    /// Its name.
    pub name: Arc<str>,
    /// Alias of its table; empty if it has none.
    pub table: Arc<str>,
    /// Database of its table; empty for derived tables.
    pub db: Arc<str>,
    /// Name in the stored table.
    pub org_name: Arc<str>,
    /// The stored table.
    pub org_table: Arc<str>,
    /// Database of the stored table.
    pub org_db: Arc<str>,
    /// Protocol flags from keys and column attributes.
    pub flags: u16,
    /// Left out of `*`.
    pub hidden: bool,
    /// Found only with its table's name: the right column of a USING pair.
    pub qualified_only: bool,
}

impl Field {
    pub(crate) fn expr(&self) -> Expr {
        Expr::column(self.col, self.ty.clone())
    }

    fn matches(&self, name: &ast::ColumnRef) -> bool {
        if !self.name.eq_ignore_ascii_case(&name.column) {
            return false;
        }
        match (&name.table, &name.schema) {
            (None, _) => !self.qualified_only,
            (Some(table), None) => self.table.eq_ignore_ascii_case(table),
            (Some(table), Some(schema)) => {
                self.table.eq_ignore_ascii_case(table) && self.db.eq_ignore_ascii_case(schema)
            }
        }
    }

    /// The column as the protocol tells of it.
    pub(crate) fn output(&self) -> OutputColumn {
        OutputColumn {
            name: self.name.chars().take(COLUMN_NAME_CHARS_MAX).collect(),
            org_name: self.org_name.to_string(),
            table: self.table.to_string(),
            org_table: self.org_table.to_string(),
            db: self.org_db.to_string(),
            ty: self.ty.clone(),
            flags: self.flags,
        }
    }
}

/// What names mean at one level of nesting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Columns of the tables in FROM.
    pub fields: Vec<Field>,
    /// Aliases of selected items (ORDER BY, HAVING): tried before the fields if
    /// `aliases_first`.
    pub aliases: Vec<(Arc<str>, Expr)>,
    /// Aliases win over columns.
    pub aliases_first: bool,
}

/// A bound query.
#[derive(Debug)]
pub(crate) struct BoundQuery {
    /// Its plan.
    pub plan: Logical,
    /// Its columns.
    pub fields: Vec<Field>,
}

/// A subquery that is run once.
#[derive(Debug)]
pub(crate) struct BoundSubplan {
    /// Its plan.
    pub plan: Logical,
    /// Its columns.
    pub columns: Vec<Col>,
    /// What becomes of its rows.
    pub kind: SubplanKind,
    /// First slot.
    pub slot: usize,
}

/// Binds one statement.
pub(crate) struct Binder<'a> {
    /// The surroundings.
    pub ctx: PlanContext<'a>,
    /// All columns of the statement.
    pub columns: Columns,
    /// Subqueries that are run once.
    pub subplans: Vec<BoundSubplan>,
    /// Next free parameter slot.
    pub slot_count: usize,
    /// Tables touched.
    pub tables: Vec<TableAccess>,
    /// The plan may be used again.
    pub cacheable: bool,
    scopes: Vec<Scope>,
    ctes: Vec<CteBinding<'a>>,
    open_ctes: Vec<OpenCte<'a>>,
    /// Numbers given to common table expressions so far.
    work_tables: usize,
    /// Uses of names of WITH so far.
    cte_uses: usize,
    depth: usize,
    /// Whether tables have `AS OF TIMESTAMP`; unknown before the first.
    names_time: Option<bool>,
    /// The new row in ON DUPLICATE KEY UPDATE, for `VALUES(column)`.
    pub values_fields: Vec<Field>,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(ctx: PlanContext<'a>, param_count: usize) -> Binder<'a> {
        Binder {
            ctx,
            columns: Columns::default(),
            subplans: Vec::new(),
            slot_count: param_count,
            tables: Vec::new(),
            cacheable: true,
            scopes: Vec::new(),
            ctes: Vec::new(),
            open_ctes: Vec::new(),
            work_tables: 0,
            cte_uses: 0,
            depth: 0,
            names_time: None,
            values_fields: Vec::new(),
        }
    }

    /// The table a name means, under its alias.
    pub(crate) fn find_table(
        &mut self,
        name: &ast::ObjectName,
        alias: Option<&str>,
        kind: AccessKind,
    ) -> Result<(String, Arc<TableInfo>)> {
        let schema = match (&name.schema, self.ctx.current_db) {
            (Some(schema), _) => schema.as_str(),
            (None, Some(current)) => current,
            (None, None) => return Err(PlanError::mysql(errno::ER_NO_DB_ERROR, &[])),
        };
        let Some(table) = self.ctx.catalog.table(schema, &name.name) else {
            if self.ctx.catalog.database(schema).is_none() {
                return Err(PlanError::mysql(errno::ER_BAD_DB_ERROR, &[&schema]));
            }
            return Err(PlanError::mysql(errno::ER_NO_SUCH_TABLE, &[&schema, &name.name]));
        };
        let database = self.ctx.catalog.database(schema);
        let db = database.map_or_else(|| schema.to_string(), |database| database.name.clone());
        if self.tables.len() >= TABLES_MAX {
            return Err(PlanError::mysql(errno::ER_TOO_MANY_TABLES, &[&TABLES_MAX]));
        }
        let alias = alias.unwrap_or(&table.name).to_owned();
        self.tables.push(TableAccess { db: db.clone(), table: table.clone(), alias, kind });
        Ok((db, table))
    }

    /// Runs `bind` one query level deeper.
    fn nested<T>(&mut self, bind: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= QUERY_DEPTH_MAX {
            return Err(PlanError::mysql(
                errno::ER_STACK_OVERRUN,
                &[&format!("more than {QUERY_DEPTH_MAX} levels of subqueries")],
            ));
        }
        self.depth += 1;
        let result = bind(self);
        self.depth -= 1;
        result
    }

    /// Runs `bind` with one more scope on the stack.
    pub(crate) fn with_scope<T>(
        &mut self,
        scope: Scope,
        bind: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.scopes.push(scope);
        let result = bind(self);
        self.scopes.pop();
        result
    }

    /// The innermost scope.
    fn scope(&self) -> Option<&Scope> {
        self.scopes.last()
    }

    /// What a column name means; outer scopes are asked if inner ones know it not.
    pub(crate) fn resolve(&self, name: &ast::ColumnRef, clause: &str) -> Result<Expr> {
        for scope in self.scopes.iter().rev() {
            if let Some(expr) = scope.resolve(name, clause)? {
                return Ok(expr);
            }
        }
        Err(PlanError::unknown_column(&full_name(name), clause))
    }

    /// A call, typed and folded.
    pub(crate) fn call(&mut self, name: &str, args: Vec<Expr>) -> Result<Expr> {
        Ok(cairn_expr::build_function(name, args, self.ctx.eval)?)
    }

    /// A fresh computed column.
    pub(crate) fn new_column(&mut self, ty: FieldType) -> Col {
        self.columns.add(ty)
    }
}

impl Scope {
    pub(crate) fn of(fields: Vec<Field>) -> Scope {
        Scope { fields, ..Scope::default() }
    }

    fn resolve(&self, name: &ast::ColumnRef, clause: &str) -> Result<Option<Expr>> {
        if self.aliases_first
            && let Some(expr) = self.alias(name, clause)?
        {
            return Ok(Some(expr));
        }
        if let Some(field) = find_field(&self.fields, name, clause)? {
            return Ok(Some(field.expr()));
        }
        self.alias(name, clause)
    }

    fn alias(&self, name: &ast::ColumnRef, clause: &str) -> Result<Option<Expr>> {
        if name.table.is_some() {
            return Ok(None);
        }
        let mut found: Option<&Expr> = None;
        for (alias, expr) in &self.aliases {
            if alias.eq_ignore_ascii_case(&name.column) {
                if found.is_some_and(|other| other != expr) {
                    return Err(ambiguous(name, clause));
                }
                found = Some(expr);
            }
        }
        Ok(found.cloned())
    }
}

/// The field a name means, if any; 1052 if two do.
pub(crate) fn find_field<'f>(
    fields: &'f [Field],
    name: &ast::ColumnRef,
    clause: &str,
) -> Result<Option<&'f Field>> {
    let mut found: Option<&Field> = None;
    for field in fields.iter().filter(|field| field.matches(name)) {
        // The same column reached by two ways is no ambiguity.
        if found.is_some_and(|other| other.col != field.col) {
            return Err(ambiguous(name, clause));
        }
        found = found.or(Some(field));
    }
    Ok(found)
}

fn ambiguous(name: &ast::ColumnRef, clause: &str) -> PlanError {
    PlanError::mysql(errno::ER_NON_UNIQ_ERROR, &[&full_name(name), &clause])
}

/// A column name as it was written.
pub(crate) fn full_name(name: &ast::ColumnRef) -> String {
    let parts = [name.schema.as_deref(), name.table.as_deref(), Some(name.column.as_str())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(".")
}
