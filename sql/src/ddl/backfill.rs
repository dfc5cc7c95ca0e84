//! Fills a new index from the rows that are there.
//!
//! Rows are read in batches at fresh timestamps; each batch's entries are written by a
//! transaction of its own that also guards the rows' keys, so that a row changed meanwhile
//! makes the batch start over. Writers maintain the index themselves by now (it is
//! write-only), so what is filled in is never older than what they wrote. Nobody waits for a
//! batch: its reads stand behind others in the stores.

use std::sync::Arc;

use bytes::Bytes;
use cairn_kv_client::{KeyRange, KvError, RequestScope, ScanOptions};
use cairn_planner::catalog::TableInfo;
use cairn_proto::kv::Priority;
use cairn_types::{IndexId, keys};

use crate::dml::{duplicate_entry, duplicate_key_error};
use crate::error::{Result, SqlError};
use crate::record;
use crate::session::Session;

/// Rows of one batch.
const BATCH_ROWS: u32 = 2_048;
/// How often a batch starts over after losing to writers.
const TRIES_MAX: usize = 100;

/// Fills index `index_id` of a table; error 1062 when a unique one finds duplicates.
pub async fn run(session: &Session, table: &TableInfo, index_id: IndexId) -> Result<()> {
    let (start, end) = keys::row_range(table.id);
    let end = Bytes::from(end);
    let mut next = Some(Bytes::from(start));
    while let Some(start) = next {
        session.check_cancelled()?;
        next = batch(session, table, index_id, KeyRange { start, end: end.clone() }).await?;
    }
    Ok(())
}

/// Fills in one batch; answers where the next one begins.
async fn batch(
    session: &Session,
    table: &TableInfo,
    index_id: IndexId,
    range: KeyRange,
) -> Result<Option<Bytes>> {
    let index = table.indices.iter().find(|index| index.id == index_id);
    let Some(index) = index else { return Ok(None) };
    for _ in 0..TRIES_MAX {
        let transaction = Arc::new(session.domain.kv.begin(session.domain.now_ts().await?));
        transaction.enter(RequestScope { priority: Priority::Low, ..session.scope().clone() });
        let options = ScanOptions { batch_size: BATCH_ROWS, ..ScanOptions::default() };
        let rows = transaction.snapshot().scan(range.clone(), options).next_batch().await?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        let next = Bytes::from(keys::key_next(last));
        let mut entries = Vec::with_capacity(rows.len());
        for (key, value) in &rows {
            let (_, handle) =
                keys::decode_row_key(key).map_err(|error| record::damaged(table, &error))?;
            let row = record::decode_row(table, &handle, value)?;
            let entry = record::index_entry(table, index, &row, &handle)?;
            entries.push((handle, row, entry));
        }
        transaction.lock_keys(rows.iter().map(|(key, _)| key.clone()))?;
        let entry_keys: Vec<Bytes> =
            entries.iter().map(|(_, _, entry)| entry.key.clone()).collect();
        let there = transaction.batch_get(&entry_keys).await?;
        for (handle, row, entry) in entries {
            // Also finds duplicates among the rows of this batch.
            let own = transaction.buffered(&entry.key).flatten();
            match own.as_ref().or_else(|| there.get(&entry.key)) {
                // A writer was faster: the entry is there.
                Some(there) if *there == entry.value => {}
                Some(there)
                    if entry.distinct
                        && record::handle_of_unique_entry(table, there)? != handle =>
                {
                    let value = record::describe_values(table, index, &row);
                    let name = format!("{}.{}", table.name, index.name);
                    return Err(duplicate_entry(&value, &name));
                }
                _ => transaction.set(entry.key, entry.value)?,
            }
        }
        match transaction.commit().await {
            Ok(_) => return Ok(Some(next)),
            Err(KvError::WriteConflict { .. } | KvError::ServerBusy { .. }) => {
                session.check_cancelled()?;
            }
            Err(KvError::KeyExists { key, .. }) => {
                return Err(duplicate_key_error(&session.schema(), &key.0));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SqlError::Kv(KvError::Cancelled))
}
