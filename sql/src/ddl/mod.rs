//! Statements that change the schema.
//!
//! **Flow.** [`run`] turns a statement into changes of metadata, each run by
//! `Domain::change_schema`: committed with a new schema version, then waited for on every
//! node. Changes that touch rows go through F1's states: an index is delete-only,
//! write-only, filled ([`backfill`]), public; a column is write-only, public.
//!
//! **Left out.** A job queue: a change whose node dies half-way leaves its index or column
//! in a state that statements do not read; dropping it by name clears it.
//!
//! **Source.** Rae et al., "Online, Asynchronous Schema Change in F1", VLDB 2013.

pub mod alter;
pub mod backfill;
pub mod create_sql;
pub mod definition;
pub mod flashback;
pub mod recover;

use cairn_kv_client::Transaction;
use cairn_parser::ast::{
    AlterAction, AlterTable, ColumnAttribute, CreateTable, DropTables, Flashback, IndexDef,
    IndexKind, KeyPart, KeyTarget, ObjectName, Statement, TableConstraint, TableOption,
};
use cairn_planner::Catalog;
use cairn_planner::catalog::{DatabaseInfo, TableInfo};
use cairn_types::{Collation, SchemaId, TableId, errno};

use crate::catalog::{SchemaSnapshot, meta};
use crate::clock;
use crate::error::{Result, SqlError};
use crate::session::{Session, unknown_database, unknown_table};
use crate::sink::{OkInfo, ResultSink};

/// Whether a statement changes the schema.
pub fn is_schema_change(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::CreateDatabase(_)
            | Statement::AlterDatabase(_)
            | Statement::DropDatabase(_)
            | Statement::CreateTable(_)
            | Statement::AlterTable(_)
            | Statement::DropTable(_)
            | Statement::TruncateTable(_)
            | Statement::RenameTable(_)
            | Statement::Flashback(_)
            | Statement::CreateIndex(_)
            | Statement::DropIndex(_)
            | Statement::CreateView(_)
            | Statement::DropView(_)
    )
}

/// Runs a schema change and answers OK.
pub async fn run(
    session: &mut Session,
    statement: &Statement,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    match statement {
        Statement::CreateDatabase(create) => {
            let collation = definition::collation_of(
                create.charset.as_deref(),
                create.collation.as_deref(),
                Collation::default(),
            )?;
            create_database(session, &create.name, collation, create.if_not_exists).await?;
        }
        Statement::AlterDatabase(alter) => {
            let name = session.database_or_current(alter.name.as_deref())?.to_owned();
            let collation = definition::collation_of(
                alter.charset.as_deref(),
                alter.collation.as_deref(),
                Collation::default(),
            )?;
            let change = |txn: &Transaction, schema: &SchemaSnapshot| {
                let info = stored_database(schema, &name)?;
                meta::put_database(txn, &DatabaseInfo { collation, ..info })
            };
            session.domain.change_schema(change).await?;
        }
        Statement::DropDatabase(drop) => drop_database(session, &drop.name, drop.if_exists).await?,
        Statement::CreateTable(create) => create_table(session, create).await?,
        Statement::AlterTable(alter) => alter::run(session, alter).await?,
        Statement::DropTable(drop) => drop_tables(session, drop).await?,
        Statement::TruncateTable(name) => truncate(session, name).await?,
        Statement::Flashback(Flashback::Table { name, to }) => {
            recover::table(session, name, to.as_deref()).await?;
        }
        Statement::Flashback(Flashback::Database { name, to }) => {
            recover::database(session, name, to.as_deref()).await?;
        }
        Statement::Flashback(Flashback::Cluster(time)) => flashback::cluster(session, time).await?,
        Statement::RenameTable(pairs) => {
            for pair in pairs {
                rename(session, &pair.from, &pair.to).await?;
            }
        }
        Statement::CreateIndex(create) => {
            let alter = AlterTable {
                table: create.table.clone(),
                actions: vec![AlterAction::AddConstraint {
                    constraint: TableConstraint::Index(create.index.clone()),
                    if_not_exists: create.if_not_exists,
                }],
            };
            alter::run(session, &alter).await?;
        }
        Statement::DropIndex(drop) => {
            let action =
                AlterAction::DropIndex { name: drop.name.clone(), if_exists: drop.if_exists };
            alter::run(session, &AlterTable { table: drop.table.clone(), actions: vec![action] })
                .await?;
        }
        Statement::DropView(drop) if drop.if_exists => {
            for name in &drop.names {
                session.note(errno::ER_BAD_TABLE_ERROR, format!("Unknown table '{name}'"));
            }
        }
        _ => return Err(SqlError::not_supported("views")),
    }
    let affected_rows = u64::from(matches!(statement, Statement::CreateDatabase(_)));
    session.row_count = affected_rows as i64;
    let warnings = session.diagnostics.list.len();
    sink.ok(session.status_flags(), OkInfo { affected_rows, warnings, ..OkInfo::default() }).await
}

/// A database that is stored (not virtual).
fn stored_database(schema: &SchemaSnapshot, name: &str) -> Result<DatabaseInfo> {
    let info = schema.database(name).ok_or_else(|| unknown_database(name))?;
    if info.id.0 < 0 {
        return Err(SqlError::new(
            errno::ER_DBACCESS_DENIED_ERROR,
            format!("Access denied for user to database '{name}'"),
        ));
    }
    Ok(info.as_ref().clone())
}

/// A stored table with its database's id.
pub fn stored_table(
    schema: &SchemaSnapshot,
    database: &str,
    name: &str,
) -> Result<(SchemaId, TableInfo)> {
    let info = stored_database(schema, database)?;
    let table = schema.table(database, name).ok_or_else(|| unknown_table(database, name))?;
    Ok((info.id, table.as_ref().clone()))
}

fn now_ms() -> u64 {
    u64::try_from(clock::unix_micros() / 1_000).unwrap_or(0)
}

async fn create_database(
    session: &mut Session,
    name: &str,
    collation: Collation,
    if_not_exists: bool,
) -> Result<()> {
    definition::check_identifier(name)?;
    if name.is_empty() || name.ends_with(' ') {
        return Err(SqlError::new(
            errno::ER_WRONG_DB_NAME,
            format!("Incorrect database name '{name}'"),
        ));
    }
    let id = SchemaId(session.domain.pd.alloc_ids(1).await? as i64);
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        if schema.database(name).is_some() {
            return Err(SqlError::new(
                errno::ER_DB_CREATE_EXISTS,
                format!("Can't create database '{name}'; database exists"),
            ));
        }
        meta::put_database(txn, &DatabaseInfo { id, name: name.to_owned(), collation })
    };
    match session.domain.change_schema(change).await {
        Err(SqlError::Mysql(error))
            if if_not_exists && error.code == errno::ER_DB_CREATE_EXISTS =>
        {
            session.note(error.code, error.message);
            Ok(())
        }
        outcome => outcome,
    }
}

async fn drop_database(session: &mut Session, name: &str, if_exists: bool) -> Result<()> {
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        if schema.database(name).is_none() {
            return Err(SqlError::new(
                errno::ER_DB_DROP_EXISTS,
                format!("Can't drop database '{name}'; database doesn't exist"),
            ));
        }
        let info = stored_database(schema, name)?;
        let tables = schema.tables(name);
        for table in &tables {
            meta::delete_table(txn, info.id, table.id)?;
        }
        meta::delete_database(txn, info.id)?;
        Ok(tables.iter().map(|table| table.id).collect::<Vec<_>>())
    };
    let dropped = match session.domain.change_schema(change).await {
        Err(SqlError::Mysql(error)) if if_exists && error.code == errno::ER_DB_DROP_EXISTS => {
            session.note(error.code, error.message);
            return Ok(());
        }
        outcome => outcome?,
    };
    if session.current_database().is_some_and(|current| current.eq_ignore_ascii_case(name)) {
        session.leave_database();
    }
    forget_ids(session, &dropped);
    Ok(())
}

/// The ids of dropped tables' rows are not needed any more. The rows themselves are queued
/// with the drop and destroyed behind the safe point (`crate::gc::ranges`).
fn forget_ids(session: &Session, tables: &[TableId]) {
    tables.iter().for_each(|table| session.domain.auto_ids.forget(*table));
}

async fn create_table(session: &mut Session, create: &CreateTable) -> Result<()> {
    if create.temporary {
        return Err(SqlError::not_supported("CREATE TEMPORARY TABLE"));
    }
    if create.partition_by.is_some() {
        return Err(SqlError::not_supported("PARTITION BY"));
    }
    if create.query.is_some() {
        return Err(SqlError::not_supported("CREATE TABLE … SELECT"));
    }
    let database = session.database_or_current(create.name.schema.as_deref())?.to_owned();
    let id = TableId(session.domain.pd.alloc_ids(1).await? as i64);
    let like = match &create.like {
        Some(name) => {
            let from = session.database_or_current(name.schema.as_deref())?;
            Some(stored_table(&session.schema(), from, &name.name)?.1)
        }
        None => None,
    };
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        let info = stored_database(schema, &database)?;
        if schema.table(&database, &create.name.name).is_some() {
            return Err(SqlError::new(
                errno::ER_TABLE_EXISTS_ERROR,
                format!("Table '{}' already exists", create.name.name),
            ));
        }
        let mut table = match &like {
            Some(like) => TableInfo {
                name: create.name.name.clone(),
                foreign_keys: Vec::new(),
                auto_increment_start: None,
                ..like.clone()
            },
            None => build_table(create, info.collation)?,
        };
        table.id = id;
        table.schema_version = schema.version() + 1;
        table.update_time_ms = now_ms();
        meta::put_table(txn, info.id, &table)
    };
    match session.domain.change_schema(change).await {
        Err(SqlError::Mysql(error))
            if create.if_not_exists && error.code == errno::ER_TABLE_EXISTS_ERROR =>
        {
            session.note(error.code, error.message);
            Ok(())
        }
        outcome => outcome,
    }
}

/// A table from its definition.
fn build_table(create: &CreateTable, default_collation: Collation) -> Result<TableInfo> {
    definition::check_identifier(&create.name.name)?;
    let mut table = TableInfo::new(0, create.name.name.clone());
    table.collation = default_collation;
    set_options(&mut table, &create.options, default_collation)?;
    let mut clustered = None;
    let mut keys = Vec::new();
    let mut checks = Vec::new();
    for column in &create.columns {
        let (info, column_keys) = definition::column(column, table.collation)?;
        definition::add_column(&mut table, info)?;
        let part = |name: &str| KeyPart {
            target: KeyTarget::Column { name: name.to_owned(), prefix_length: None },
            descending: false,
        };
        let mut key = |kind| {
            keys.push(TableConstraint::Index(IndexDef {
                name: None,
                kind,
                parts: vec![part(&column.name)],
                options: cairn_parser::ast::IndexOptions::default(),
            }));
        };
        if let Some(wanted) = column_keys.primary {
            clustered = wanted;
            key(IndexKind::Primary);
        }
        if column_keys.unique {
            key(IndexKind::Unique);
        }
        checks.extend(column_keys.checks);
        check_explicit_null(&column.name, &column.attributes, column_keys.primary.is_some())?;
    }
    if table.columns.is_empty() {
        return Err(SqlError::new(
            errno::ER_TABLE_MUST_HAVE_COLUMNS,
            "A table must have at least 1 column",
        ));
    }
    for constraint in keys.iter().chain(&create.constraints) {
        if let TableConstraint::Index(index) = constraint
            && index.kind == IndexKind::Primary
        {
            clustered = index.options.clustered.or(clustered);
        }
        definition::add_constraint(&mut table, constraint)?;
    }
    checks.into_iter().for_each(|check| definition::add_check(&mut table, check));
    check_auto_increment(&table)?;
    definition::choose_handle(&mut table, clustered);
    Ok(table)
}

fn check_explicit_null(name: &str, attributes: &[ColumnAttribute], primary: bool) -> Result<()> {
    if primary && attributes.iter().any(|attribute| matches!(attribute, ColumnAttribute::Null)) {
        return Err(SqlError::new(
            errno::ER_PRIMARY_CANT_HAVE_NULL,
            format!(
                "All parts of a PRIMARY KEY must be NOT NULL (column '{name}'); if you need NULL in a key, use UNIQUE instead"
            ),
        ));
    }
    Ok(())
}

/// There is at most one AUTO_INCREMENT column, and some key begins with it.
pub fn check_auto_increment(table: &TableInfo) -> Result<()> {
    let mut columns = table.columns.iter().enumerate().filter(|(_, column)| column.auto_increment);
    let Some((offset, _)) = columns.next() else { return Ok(()) };
    let keyed = table
        .indices
        .iter()
        .any(|index| index.columns.first().is_some_and(|part| part.offset == offset));
    if keyed && columns.next().is_none() {
        return Ok(());
    }
    Err(SqlError::new(
        errno::ER_WRONG_AUTO_KEY,
        "Incorrect table definition; there can be only one auto column and it must be defined as a key",
    ))
}

/// Table options: those that mean something here, and the others for SHOW CREATE TABLE.
pub fn set_options(
    table: &mut TableInfo,
    options: &[TableOption],
    default_collation: Collation,
) -> Result<()> {
    let mut charset = None;
    let mut collation = None;
    for option in options {
        match option {
            TableOption::Charset(name) => charset = Some(name.as_str()),
            TableOption::Collate(name) => collation = Some(name.as_str()),
            TableOption::AutoIncrement(start) => table.auto_increment_start = Some(*start),
            TableOption::Comment(text) => table.comment = text.clone(),
            // Every table is stored the same way, whatever engine a script names.
            TableOption::Engine(_)
            | TableOption::ShardRowIdBits(_)
            | TableOption::PreSplitRegions(_)
            | TableOption::AutoIdCache(_) => {}
            TableOption::Other(name, value) => {
                table.create_options.retain(|(other, _)| other != name);
                table.create_options.push((name.clone(), value.clone()));
            }
        }
    }
    if charset.is_some() || collation.is_some() {
        table.collation = definition::collation_of(charset, collation, default_collation)?;
    }
    Ok(())
}

async fn drop_tables(session: &mut Session, drop: &DropTables) -> Result<()> {
    let mut missing = Vec::new();
    let mut dropped = Vec::new();
    for name in &drop.names {
        let database = session.database_or_current(name.schema.as_deref())?.to_owned();
        let change = |txn: &Transaction, schema: &SchemaSnapshot| {
            if schema.table(&database, &name.name).is_none() {
                return Ok(None);
            }
            let (schema_id, table) = stored_table(schema, &database, &name.name)?;
            meta::delete_table(txn, schema_id, table.id)?;
            Ok(Some(table.id))
        };
        if session.schema().table(&database, &name.name).is_none() {
            missing.push(format!("{database}.{}", name.name));
            continue;
        }
        match session.domain.change_schema(change).await? {
            Some(id) => dropped.push(id),
            None => missing.push(format!("{database}.{}", name.name)),
        }
    }
    forget_ids(session, &dropped);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Unknown table '{}'", missing.join(","));
    if drop.if_exists {
        session.note(errno::ER_BAD_TABLE_ERROR, message);
        return Ok(());
    }
    Err(SqlError::new(errno::ER_BAD_TABLE_ERROR, message))
}

/// An empty table takes the old one's place under a new id.
async fn truncate(session: &mut Session, name: &ObjectName) -> Result<()> {
    let database = session.database_or_current(name.schema.as_deref())?.to_owned();
    let new_id = TableId(session.domain.pd.alloc_ids(1).await? as i64);
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        let (schema_id, mut table) = stored_table(schema, &database, &name.name)?;
        let old_id = table.id;
        meta::delete_table(txn, schema_id, old_id)?;
        table.id = new_id;
        table.auto_increment_start = None;
        table.schema_version = schema.version() + 1;
        meta::put_table(txn, schema_id, &table)?;
        Ok(old_id)
    };
    let old_id = session.domain.change_schema(change).await?;
    forget_ids(session, &[old_id]);
    Ok(())
}

/// `RENAME TABLE a TO b`, also into another database.
pub async fn rename(session: &mut Session, from: &ObjectName, to: &ObjectName) -> Result<()> {
    let database = session.database_or_current(from.schema.as_deref())?.to_owned();
    let target = session.database_or_current(to.schema.as_deref())?.to_owned();
    definition::check_identifier(&to.name)?;
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        let (schema_id, mut table) = stored_table(schema, &database, &from.name)?;
        let target_id = stored_database(schema, &target)?.id;
        if let Some(other) = schema.table(&target, &to.name)
            && other.id != table.id
        {
            return Err(SqlError::new(
                errno::ER_TABLE_EXISTS_ERROR,
                format!("Table '{}' already exists", to.name),
            ));
        }
        if target_id != schema_id {
            meta::move_table(txn, schema_id, table.id)?;
        }
        table.name = to.name.clone();
        table.schema_version = schema.version() + 1;
        meta::put_table(txn, target_id, &table)
    };
    session.domain.change_schema(change).await
}
