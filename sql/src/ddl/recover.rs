//! `RECOVER TABLE`, `FLASHBACK TABLE`, `FLASHBACK DATABASE`: dropped tables come back.
//!
//! **Flow.** A dropped table's rows stay until garbage collection destroys them, and the queue of
//! what is to be destroyed says when the table was last seen (`catalog::meta::Origin`). Its
//! definition and its id counter are read as they were then; a change of the schema puts them back
//! and takes the entry out of the queue. `TRUNCATE` drops a table as well and puts an empty one in
//! its place. Of several dropped tables of a name the newest is taken.
//!
//! **Until when.** As long as the safe point has not passed the drop: below it the definition may
//! be collected. That the rows are destroyed meanwhile is ruled out by who writes the entry first
//! (`gc::ranges`).
//!
//! **Source.** TiDB's manual, "FLASHBACK TABLE", "RECOVER TABLE", "FLASHBACK DATABASE".

use cairn_kv_client::{Snapshot, Transaction};
use cairn_parser::ast::ObjectName;
use cairn_planner::Catalog;
use cairn_planner::catalog::{DatabaseInfo, TableInfo};
use cairn_types::{TimeKind, errno};

use super::{definition, now_ms, stored_database};
use crate::catalog::SchemaSnapshot;
use crate::catalog::meta::{self, Dropped, Origin};
use crate::domain::{Domain, SCHEMA_CHANGE_TRIES, too_many_schema_changes};
use crate::error::{Result, SqlError};
use crate::session::Session;

/// A dropped table with the view in which it was last seen.
struct Found {
    dropped: Dropped,
    was: Snapshot,
    table: TableInfo,
}

/// Brings the table back that was dropped last under a name.
pub async fn table(session: &Session, name: &ObjectName, to: Option<&str>) -> Result<()> {
    let domain = &session.domain;
    let database = session.database_or_current(name.schema.as_deref())?;
    let new_name = to.unwrap_or(&name.name);
    definition::check_identifier(new_name)?;
    for _ in 0..SCHEMA_CHANGE_TRIES {
        session.check_cancelled()?;
        let Some((txn, schema)) = domain.begin_schema_change().await? else { continue };
        let info = stored_database(&schema, database)?;
        if schema.table(database, new_name).is_some() {
            return Err(SqlError::new(
                errno::ER_TABLE_EXISTS_ERROR,
                format!("Table '{new_name}' already exists"),
            ));
        }
        let found = find_table(session, &txn, database, &name.name).await?;
        let found = found.ok_or_else(|| not_found(session, "table", &name.name))?;
        restore(&txn, &schema, &info, found, Some(new_name)).await?;
        if domain.finish_schema_change(txn).await? {
            return Ok(());
        }
    }
    Err(too_many_schema_changes())
}

/// Brings the database back that was dropped last under a name, with the tables that it had
/// then. One without tables leaves nothing behind to be found.
pub async fn database(session: &Session, name: &str, to: Option<&str>) -> Result<()> {
    let domain = &session.domain;
    let new_name = to.unwrap_or(name);
    definition::check_identifier(new_name)?;
    for _ in 0..SCHEMA_CHANGE_TRIES {
        session.check_cancelled()?;
        let Some((txn, schema)) = domain.begin_schema_change().await? else { continue };
        if schema.database(new_name).is_some() {
            return Err(SqlError::new(
                errno::ER_DB_CREATE_EXISTS,
                format!("Can't create database '{new_name}'; database exists"),
            ));
        }
        let (info, tables) = find_database(session, &txn, &schema, name)
            .await?
            .ok_or_else(|| not_found(session, "database", name))?;
        let info = DatabaseInfo { name: new_name.to_owned(), ..info };
        meta::put_database(&txn, &info)?;
        for found in tables {
            restore(&txn, &schema, &info, found, None).await?;
        }
        if domain.finish_schema_change(txn).await? {
            return Ok(());
        }
    }
    Err(too_many_schema_changes())
}

/// The dropped tables that can be brought back, the newest in front.
async fn candidates(domain: &Domain, txn: &Transaction) -> Result<Vec<(Dropped, Origin)>> {
    let safe_point = domain.kv.safe_point();
    let dropped = meta::dropped(&txn.snapshot()).await?.into_iter();
    let dropped = dropped.filter_map(|dropped| Some((dropped.origin?, dropped)));
    let mut dropped: Vec<_> = dropped
        .filter(|(origin, _)| origin.seen_at >= safe_point)
        .map(|(origin, dropped)| (dropped, origin))
        .collect();
    dropped.sort_by_key(|(dropped, origin)| (std::cmp::Reverse(origin.seen_at), dropped.table));
    Ok(dropped)
}

/// The database of a dropped table as it was then; asked once for tables dropped together.
async fn database_then(
    domain: &Domain,
    origin: Origin,
    last: &mut Option<(Origin, Snapshot, Option<DatabaseInfo>)>,
) -> Result<(Snapshot, Option<DatabaseInfo>)> {
    if let Some((known, was, info)) = last
        && *known == origin
    {
        return Ok((was.clone(), info.clone()));
    }
    let was = domain.kv.snapshot(origin.seen_at);
    let info = meta::database_at(&was, origin.database).await?;
    *last = Some((origin, was.clone(), info.clone()));
    Ok((was, info))
}

async fn find_table(
    session: &Session,
    txn: &Transaction,
    database: &str,
    name: &str,
) -> Result<Option<Found>> {
    let mut last = None;
    for (dropped, origin) in candidates(&session.domain, txn).await? {
        session.check_cancelled()?;
        let (was, info) = database_then(&session.domain, origin, &mut last).await?;
        if info.is_none_or(|info| !info.name.eq_ignore_ascii_case(database)) {
            continue;
        }
        let table = meta::table_at(&was, origin.database, dropped.table).await?;
        if let Some(table) = table.filter(|table| table.name.eq_ignore_ascii_case(name)) {
            return Ok(Some(Found { dropped, was, table }));
        }
    }
    Ok(None)
}

async fn find_database(
    session: &Session,
    txn: &Transaction,
    schema: &SchemaSnapshot,
    name: &str,
) -> Result<Option<(DatabaseInfo, Vec<Found>)>> {
    let mut last = None;
    let mut chosen: Option<(Origin, DatabaseInfo)> = None;
    let mut tables = Vec::new();
    let is_there = |id| schema.databases().iter().any(|database| database.id == id);
    for (dropped, origin) in candidates(&session.domain, txn).await? {
        session.check_cancelled()?;
        // A table that was dropped alone: its database is still there, or went later.
        let alone = chosen.as_ref().is_some_and(|(chosen, _)| *chosen != origin);
        if alone || is_there(origin.database) {
            continue;
        }
        let (was, info) = database_then(&session.domain, origin, &mut last).await?;
        let Some(info) = info.filter(|info| info.name.eq_ignore_ascii_case(name)) else { continue };
        if let Some(table) = meta::table_at(&was, origin.database, dropped.table).await? {
            tables.push(Found { dropped, was, table });
            chosen.get_or_insert((origin, info));
        }
    }
    Ok(chosen.map(|(_, info)| (info, tables)))
}

async fn restore(
    txn: &Transaction,
    schema: &SchemaSnapshot,
    database: &DatabaseInfo,
    found: Found,
    new_name: Option<&str>,
) -> Result<()> {
    let Found { dropped, was, mut table } = found;
    if let Some(name) = new_name {
        table.name = name.to_owned();
    }
    table.schema_version = schema.version() + 1;
    table.update_time_ms = now_ms();
    meta::restore_table(txn, &dropped, &was, database.id, &table).await
}

fn not_found(session: &Session, what: &str, name: &str) -> SqlError {
    let safe_point = session.domain.kv.safe_point();
    let micros = i64::try_from(safe_point.physical_ms() * 1_000).unwrap_or(i64::MAX);
    let zone = &session.settings().time_zone;
    let shown = zone.from_unix_micros(micros, TimeKind::DateTime, 0);
    let shown = shown.map_or_else(|| safe_point.0.to_string(), |time| time.to_string());
    SqlError::new(
        errno::ER_UNKNOWN_ERROR,
        format!("Can't find dropped/truncated {what} '{name}' in GC safe point {shown}"),
    )
}
