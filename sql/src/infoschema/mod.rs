//! Virtual databases: `information_schema` and what of `mysql` clients look at.
//!
//! Their tables are in the catalog like others, marked virtual; the planner reads them
//! with `MemTableScan`, whose rows are made here when the operator first runs; those that PD knows
//! come page by page ([`cluster`]), those about locks from all nodes and stores
//! ([`crate::lock_view`]), and those about statements that ended
//! ([`crate::observed`]).
//!
//! Source: MySQL 8.0 manual, chapter 28 "INFORMATION_SCHEMA Tables".

mod cluster;
mod definitions;
mod keywords;
pub mod rows;

use std::sync::{Arc, OnceLock};

use cairn_executor::operators::ChunkSource;
use cairn_executor::{BoxOperator, ExecContext, ExecError};
use cairn_parser::ast::{Expr, QueryBody, Statement};
use cairn_pd_client::PdError;
use cairn_planner::catalog::{ColumnInfo, DatabaseInfo, TableInfo};
use cairn_planner::plan::{MemTableScan, Plan};
use cairn_planner::{Catalog, PlanContext};
use cairn_types::{Chunk, Collation, Datum, FieldType, SchemaId};
use futures::{StreamExt, TryStreamExt};

use crate::catalog::SchemaSnapshot;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::lock_view::tables::LockTable;
use crate::observed::tables::StatementTable;
use crate::session::Session;
use cluster::ClusterTable;

/// Rows of one chunk.
const CHUNK_ROWS: usize = 1_024;
/// Virtual tables have ids below this one, so that they never meet stored ones.
const FIRST_ID: i64 = -1_000_000;

/// Rows of a virtual table: all columns in order.
pub type Rows = Vec<Vec<Datum>>;

/// Virtual databases with their tables.
pub fn databases() -> Vec<(DatabaseInfo, Vec<Arc<TableInfo>>)> {
    static DATABASES: OnceLock<Vec<(DatabaseInfo, Vec<Arc<TableInfo>>)>> = OnceLock::new();
    DATABASES.get_or_init(build).clone()
}

fn build() -> Vec<(DatabaseInfo, Vec<Arc<TableInfo>>)> {
    let mut next_id = FIRST_ID;
    definitions::DATABASES
        .iter()
        .map(|(name, tables)| {
            next_id += 1;
            let info = DatabaseInfo {
                id: SchemaId(next_id),
                name: (*name).to_owned(),
                collation: Collation::default(),
            };
            let tables = tables.iter().map(|(name, columns)| {
                next_id += 1;
                Arc::new(virtual_table(next_id, name, &parse_columns(columns)))
            });
            (info, tables.collect())
        })
        .collect()
}

/// A virtual table with these columns.
pub fn virtual_table(id: i64, name: &str, columns: &[(String, FieldType)]) -> TableInfo {
    let mut table = TableInfo::new(id, name);
    table.is_virtual = true;
    let columns = columns.iter().zip(1..);
    table.columns =
        columns.map(|((name, ty), id)| ColumnInfo::new(id, name.clone(), ty.clone())).collect();
    table.max_column_id = table.columns.len() as i64;
    table
}

/// `NAME:type …`, see `definitions`.
fn parse_columns(text: &str) -> Vec<(String, FieldType)> {
    let parse = |column: &str| {
        let (name, ty) = column.split_once(':').unwrap_or((column, "s"));
        let ty = match ty {
            "i" => FieldType::bigint(),
            "u" => FieldType::bigint_unsigned(),
            "f" => FieldType::double(),
            "d" => FieldType::datetime(0),
            "m" => FieldType::datetime(6),
            "t" => FieldType::longtext(),
            _ => FieldType::varchar(definitions::NAME_CHARS),
        };
        (name.to_owned(), ty)
    };
    text.split_whitespace().map(parse).collect()
}

/// Makes rows of virtual tables for one statement. Cheap to make and to clone: rows come
/// only when they are asked for.
#[derive(Clone)]
pub struct MemTableRows {
    domain: Arc<Domain>,
    schema: Arc<SchemaSnapshot>,
    /// A table of this statement alone (`SHOW … WHERE`), with its rows.
    given: Option<Arc<Rows>>,
}

impl MemTableRows {
    /// Rows as this session sees them.
    pub fn new(session: &Session) -> Self {
        Self {
            domain: Arc::clone(&session.domain),
            schema: session.schema(),
            given: session.given_rows.clone(),
        }
    }

    /// The operator of a scan.
    pub fn operator(
        &self,
        scan: &MemTableScan,
        types: Vec<FieldType>,
        exec: ExecContext,
    ) -> cairn_executor::Result<BoxOperator> {
        let columns = scan.columns.clone();
        if let Some(table) = ClusterTable::find(&scan.db, &scan.table.name) {
            let pd = Arc::clone(&self.domain.pd);
            let rows = table.rows(pd, &self.schema, exec.eval.time_zone.clone());
            let schema = types.clone();
            let chunks = rows.flat_map(move |rows| match rows {
                Ok(rows) => {
                    futures::stream::iter(chunks_of(&rows, &columns, &schema)).map(Ok).left_stream()
                }
                Err(error) => futures::stream::once(async { Err(pd_error(error)) }).right_stream(),
            });
            return Ok(Box::new(ChunkSource::new(types, chunks.boxed(), exec)));
        }
        if let Some(table) = LockTable::find(&scan.db, &scan.table.name) {
            let (domain, known) = (Arc::clone(&self.domain), Arc::clone(&self.schema));
            let (schema, context) = (types.clone(), exec.clone());
            let chunks = futures::stream::once(async move {
                let rows = table.rows(domain, known, context).await?;
                Ok(futures::stream::iter(chunks_of(&rows, &columns, &schema)).map(Ok))
            });
            let chunks = chunks.map_err(|error: SqlError| ExecError::from(error.to_mysql()));
            return Ok(Box::new(ChunkSource::new(types, chunks.try_flatten().boxed(), exec)));
        }
        if let Some(table) = StatementTable::find(&scan.db, &scan.table.name) {
            let (schema, domain, context) = (types.clone(), Arc::clone(&self.domain), exec.clone());
            let chunks = futures::stream::once(async move {
                let rows = table.rows(domain, context).await?;
                Ok(futures::stream::iter(chunks_of(&rows, &columns, &schema)).map(Ok))
            });
            let chunks = chunks.map_err(|error: SqlError| ExecError::from(error.to_mysql()));
            return Ok(Box::new(ChunkSource::new(types, chunks.try_flatten().boxed(), exec)));
        }
        let rows = match &self.given {
            Some(rows) if scan.db == GIVEN_DATABASE => rows.as_ref().clone(),
            _ => rows::of_table(&self.domain, &self.schema, &scan.db, &scan.table.name),
        };
        let chunks = chunks_of(&rows, &columns, &types);
        Ok(Box::new(ChunkSource::from_chunks(types, chunks, exec)))
    }
}

/// The wanted columns of the rows.
fn chunks_of(rows: &Rows, columns: &[usize], types: &[FieldType]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for group in rows.chunks(CHUNK_ROWS) {
        let mut chunk = Chunk::new(types, group.len());
        for row in group {
            let values: Vec<Datum> = columns
                .iter()
                .map(|offset| row.get(*offset).cloned().unwrap_or(Datum::Null))
                .collect();
            chunk.push_row(&values);
        }
        if types.is_empty() {
            chunk.set_rows_without_columns(group.len());
        }
        chunks.push(chunk);
    }
    chunks
}

/// How an error of the placement driver travels through operators.
fn pd_error(error: PdError) -> ExecError {
    let mysql = SqlError::Pd(error.clone()).to_mysql();
    ExecError::source(error, mysql)
}

/// Name of the database that holds a statement's own rows while they are filtered.
const GIVEN_DATABASE: &str = "cairn_show";

/// The schema together with one table of the statement itself.
struct WithGiven<'a> {
    schema: &'a dyn Catalog,
    table: Arc<TableInfo>,
}

impl Catalog for WithGiven<'_> {
    fn version(&self) -> i64 {
        self.schema.version()
    }

    fn database(&self, name: &str) -> Option<Arc<DatabaseInfo>> {
        self.schema.database(name)
    }

    fn table(&self, database: &str, name: &str) -> Option<Arc<TableInfo>> {
        if database == GIVEN_DATABASE {
            return Some(Arc::clone(&self.table));
        }
        self.schema.table(database, name)
    }

    fn databases(&self) -> Vec<Arc<DatabaseInfo>> {
        self.schema.databases()
    }

    fn tables(&self, database: &str) -> Vec<Arc<TableInfo>> {
        self.schema.tables(database)
    }
}

/// Plans `SELECT * FROM table WHERE condition` over rows the statement itself gives.
pub fn plan_filter(
    table: TableInfo,
    condition: &Expr,
    context: &mut PlanContext<'_>,
) -> Result<Plan> {
    let text = format!("SELECT * FROM `{GIVEN_DATABASE}`.`rows`");
    let parsed = cairn_parser::parse_one(&text, &cairn_parser::SqlMode::default())
        .map_err(crate::session::text::parse_error)?;
    let mut statement = parsed.statement;
    if let Statement::Query(query) = &mut statement
        && let QueryBody::Select(select) = &mut query.body
    {
        select.selection = Some(condition.clone());
    }
    let catalog = WithGiven { schema: context.catalog, table: Arc::new(table) };
    let mut context = PlanContext {
        catalog: &catalog,
        current_db: context.current_db,
        eval: &mut *context.eval,
        variables: context.variables,
        statistics: context.statistics,
        param_types: context.param_types,
        options: context.options,
    };
    cairn_planner::plan_statement(&statement, 0, &mut context)
        .map_err(|error| crate::error::SqlError::Mysql(error.to_mysql()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_virtual_table_has_columns_and_an_id_of_its_own() {
        let mut ids = std::collections::HashSet::new();
        for (database, tables) in databases() {
            assert!(!tables.is_empty(), "{} has tables", database.name);
            for table in tables {
                assert!(table.is_virtual && !table.columns.is_empty(), "{}", table.name);
                assert!(ids.insert(table.id), "{} shares its id", table.name);
            }
        }
    }
}
