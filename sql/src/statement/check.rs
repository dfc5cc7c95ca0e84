//! `ADMIN CHECK TABLE`, `ADMIN CHECK INDEX`, `CHECK TABLE`: whether rows and index entries agree.
//!
//! **Flow.** One view of the table is read in batches. Every row must have its entry in every
//! index, as a writer would make it. Then the entries are counted: those of two rows differ in
//! their keys, so with as many entries as rows there is none without a row; with more, the index
//! is walked for one. Reads stand behind others in the stores; nothing is written.
//!
//! Sources: TiDB's manual, "ADMIN CHECK"; MySQL 8.0 manual, 15.7.3.2 "CHECK TABLE Statement".

use bytes::Bytes;
use cairn_executor::index_entry::decode_entry_handle;
use cairn_kv_client::{KeyRange, RequestScope, ScanOptions, Snapshot};
use cairn_parser::ast::{Admin, ObjectName};
use cairn_planner::OutputColumn;
use cairn_planner::catalog::{IndexInfo, TableInfo};
use cairn_proto::kv::Priority;
use cairn_types::{Datum, FieldType, Handle, MysqlError, errno, keys};

use super::show::find_table;
use crate::domain::in_flashback;
use crate::error::{Result, SqlError};
use crate::record;
use crate::regions;
use crate::session::Session;
use crate::sink::ResultSink;

/// Rows or entries of one batch.
const BATCH_ROWS: u32 = 2_048;

/// `ADMIN …`; an inconsistency is error 8223.
pub async fn admin(session: &Session, admin: &Admin) -> Result<()> {
    match admin {
        Admin::CheckTable(names) => {
            for name in names {
                let (_, table) = find_table(session, name)?;
                Check::begin(session, &table, None).await?.run().await?;
            }
            Ok(())
        }
        Admin::CheckIndex { table, index } => {
            let (_, table) = find_table(session, table)?;
            let index = regions::target(&table, &[], Some(index))?;
            Check::begin(session, &table, index).await?.run().await
        }
        _ => Err(SqlError::not_supported("ADMIN")),
    }
}

/// Result columns of `CHECK TABLE` and `ANALYZE TABLE`.
pub fn columns() -> Vec<OutputColumn> {
    ["Table", "Op", "Msg_type", "Msg_text"]
        .map(|name| OutputColumn::computed(name, FieldType::longtext()))
        .into()
}

/// `CHECK TABLE`: a row for each table, which says what is wrong if something is.
pub async fn check_tables(
    session: &mut Session,
    names: &[ObjectName],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let mut rows = Vec::new();
    for name in names {
        let database = session.database_or_current(name.schema.as_deref())?;
        let shown = format!("{database}.{}", name.name);
        let checked = async {
            let (_, table) = find_table(session, name)?;
            Check::begin(session, &table, None).await?.run().await
        };
        let (kind, message) = match checked.await {
            Ok(()) => ("status", "OK".to_owned()),
            Err(SqlError::Mysql(error)) => ("Error", error.message),
            Err(error) => return Err(error),
        };
        let text = |value: &str| Datum::Bytes(value.as_bytes().to_vec());
        rows.push([text(&shown), text("check"), text(kind), text(&message)]);
    }
    sink.begin_rows(columns().into()).await?;
    session.found_rows = rows.len() as u64;
    session.row_count = -1;
    for row in &rows {
        sink.row(row).await?;
    }
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// One look at a table.
struct Check<'a> {
    session: &'a Session,
    table: &'a TableInfo,
    indexes: Vec<&'a IndexInfo>,
    view: Snapshot,
}

impl<'a> Check<'a> {
    /// Of the table as it is now, with one of its indexes or all.
    async fn begin(
        session: &'a Session,
        table: &'a TableInfo,
        only: Option<&'a IndexInfo>,
    ) -> Result<Check<'a>> {
        if table.is_virtual {
            return Err(SqlError::not_supported("checking a system view"));
        }
        if session.schema().is_in_flashback() {
            return Err(in_flashback());
        }
        let scope = RequestScope { priority: Priority::Low, ..session.scope().clone() };
        let view = match session.past_view()? {
            Some(past) => past,
            None => session.domain.kv.snapshot(session.domain.now_ts().await?),
        };
        let view = view.within(scope);
        let whole = table
            .indices
            .iter()
            .filter(|index| index.state.is_public() && table.has_entries(index));
        let indexes = only.map_or_else(|| whole.collect(), |only| vec![only]);
        Ok(Check { session, table, indexes, view })
    }

    async fn run(&self) -> Result<()> {
        let rows = self.check_rows().await?;
        for index in &self.indexes {
            if self.count_entries(index).await? != rows {
                self.find_orphan(index).await?;
            }
        }
        Ok(())
    }

    /// Looks for the entries of every row; answers the number of rows.
    async fn check_rows(&self) -> Result<u64> {
        let mut count = 0;
        let mut scan = self.view.scan(range(keys::row_range(self.table.id)), options(false));
        loop {
            self.session.check_cancelled()?;
            let rows = scan.next_batch().await?;
            if rows.is_empty() {
                return Ok(count);
            }
            count += rows.len() as u64;
            for index in &self.indexes {
                self.check_batch(index, &rows).await?;
            }
        }
    }

    async fn check_batch(&self, index: &IndexInfo, rows: &[(Bytes, Bytes)]) -> Result<()> {
        let damaged = |error| record::damaged(self.table, &error);
        let mut expected = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let (_, handle) = keys::decode_row_key(key).map_err(damaged)?;
            let row = record::decode_row(self.table, &handle, value)?;
            let entry = record::index_entry(self.table, index, &row, &handle)?;
            expected.push((handle, row, entry));
        }
        let entry_keys: Vec<Bytes> = expected.iter().map(|(.., entry)| entry.key.clone()).collect();
        let there = self.view.batch_get(&entry_keys).await?;
        for (handle, row, entry) in expected {
            let found = there.get(&entry.key);
            if found != Some(&entry.value) {
                let shown = record::describe_values(self.table, index, &row);
                let entry = found.map_or("", |_| "another row's");
                return Err(self.inconsistent(index, &handle, entry, &shown));
            }
        }
        Ok(())
    }

    async fn count_entries(&self, index: &IndexInfo) -> Result<u64> {
        let mut count = 0;
        let mut scan =
            self.view.scan(range(keys::index_range(self.table.id, index.id)), options(true));
        loop {
            self.session.check_cancelled()?;
            match scan.next_batch().await?.len() as u64 {
                0 => return Ok(count),
                more => count += more,
            }
        }
    }

    /// There are more entries than rows: names one without its row.
    async fn find_orphan(&self, index: &IndexInfo) -> Result<()> {
        let int_handle = !self.table.common_handle;
        let mut scan =
            self.view.scan(range(keys::index_range(self.table.id, index.id)), options(false));
        loop {
            self.session.check_cancelled()?;
            let entries = scan.next_batch().await?;
            if entries.is_empty() {
                return Ok(());
            }
            let mut rows = Vec::with_capacity(entries.len());
            for (key, value) in &entries {
                let handle = decode_entry_handle(key, value, index.columns.len(), int_handle)
                    .map_err(|error| SqlError::Mysql(error.to_mysql()))?;
                let row_key = Bytes::from(keys::encode_row_key(self.table.id, &handle));
                rows.push((key, handle, row_key));
            }
            let row_keys: Vec<Bytes> = rows.iter().map(|(.., row_key)| row_key.clone()).collect();
            let there = self.view.batch_get(&row_keys).await?;
            for (key, handle, row_key) in rows {
                let owns = |value: &Bytes| -> Result<bool> {
                    let row = record::decode_row(self.table, &handle, value)?;
                    Ok(record::index_entry(self.table, index, &row, &handle)?.key == *key)
                };
                if !there.get(&row_key).map(owns).transpose()?.unwrap_or(false) {
                    let shown = record::describe_key(self.table, index, key);
                    return Err(self.inconsistent(index, &handle, &shown, ""));
                }
            }
        }
    }

    fn inconsistent(&self, index: &IndexInfo, handle: &Handle, entry: &str, row: &str) -> SqlError {
        let (table, index) = (&self.table.name, &index.name);
        SqlError::Mysql(MysqlError::with_args(
            errno::ER_DATA_INCONSISTENT,
            &[table, index, &handle, &entry, &row],
        ))
    }
}

fn range((start, end): (Vec<u8>, Vec<u8>)) -> KeyRange {
    KeyRange::new(start, end)
}

fn options(key_only: bool) -> ScanOptions {
    ScanOptions { batch_size: BATCH_ROWS, key_only, ..ScanOptions::default() }
}
