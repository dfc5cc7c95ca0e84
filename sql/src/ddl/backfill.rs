//! Fills a new index from the rows that are there.
//!
//! Rows are read in batches at fresh timestamps; each batch's entries are written by a
//! transaction of its own that also guards the rows' keys, so that a row changed meanwhile
//! makes the batch start over, as does one that a transaction has locked; after a pause, and
//! smaller, so that a busy row holds up no others. Writers maintain the index themselves by now
//! (it is write-only), so what is filled in is never older than what they wrote. Nobody waits
//! for a batch: its reads stand behind others in the stores.

use std::sync::Arc;
use std::time::Duration;

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
/// How often a batch starts over after losing to writers: about a minute.
const TRIES_MAX: u32 = 130;
/// Longest pause before a batch starts over; the first is of a millisecond.
const PAUSE_MAX: Duration = Duration::from_millis(512);

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
    let mut failed = None;
    for tries in 0..TRIES_MAX {
        let batch_size = BATCH_ROWS.checked_shr(tries).unwrap_or(0).max(1);
        let transaction = Arc::new(session.domain.kv.begin(session.domain.now_ts().await?));
        transaction.enter(RequestScope { priority: Priority::Low, ..session.scope().clone() });
        let options = ScanOptions { batch_size, ..ScanOptions::default() };
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
            Err(error @ (KvError::WriteConflict { .. } | KvError::ServerBusy { .. })) => {
                session.check_cancelled()?;
                failed = Some(error);
                let pause = Duration::from_millis(1 << tries.min(9));
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
            }
            Err(KvError::KeyExists { key, .. }) => {
                return Err(duplicate_key_error(&session.schema(), &key.0));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SqlError::Kv(match failed {
        Some(KvError::WriteConflict { key, .. }) => KvError::LockTimeout { key },
        other => other.unwrap_or(KvError::Cancelled),
    }))
}
