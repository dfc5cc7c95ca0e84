//! Generated ids: AUTO_INCREMENT values and hidden row ids.
//!
//! **Data.** Each table has one counter (`catalog::meta::auto_id_key`). A node takes a
//! range of ids from it in a transaction of its own and hands them out from memory: ids
//! are unique across nodes, grow on one node, and have gaps after restarts (as TiDB's).

use std::sync::Arc;

use cairn_kv_client::KvError;
use cairn_planner::catalog::TableInfo;
use cairn_types::{Datum, TableId, TypeCode, errno};
use dashmap::DashMap;
use tokio::sync::Mutex;

use crate::catalog::meta;
use crate::error::{Result, SqlError};
use crate::session::Session;

/// Ids taken from the counter at a time.
const RANGE_IDS: u64 = 30_000;
/// How often taking a range starts over after another node was faster.
const TRIES_MAX: usize = 100;

/// Ids at hand: the last one given, and the last one that may be given.
#[derive(Debug, Default)]
struct Range {
    last: u64,
    end: u64,
}

/// The ranges of a node, by table.
#[derive(Debug, Default)]
pub struct AutoIds {
    ranges: DashMap<TableId, Arc<Mutex<Range>>>,
}

impl AutoIds {
    fn range(&self, table: TableId) -> Arc<Mutex<Range>> {
        Arc::clone(&self.ranges.entry(table).or_default())
    }

    /// The next AUTO_INCREMENT value; `increment`: step and offset.
    pub async fn next(
        &self,
        session: &Session,
        table: &TableInfo,
        increment: (u64, u64),
    ) -> Result<u64> {
        let range = self.range(table.id);
        let mut range = range.lock().await;
        let (step, offset) = increment;
        // The smallest value above the last one that is `offset` plus a multiple of the step.
        let aligned = |last: u64| {
            let offset = if offset > step { 0 } else { offset };
            let base = last.checked_sub(offset).map_or(0, |above| above / step + 1);
            base.checked_mul(step).and_then(|value| value.checked_add(offset))
        };
        loop {
            let next = aligned(range.last).ok_or_else(exhausted)?;
            if next <= range.end {
                if next > column_max(table) {
                    return Err(exhausted());
                }
                range.last = next;
                return Ok(next);
            }
            let start = table.auto_increment_start.unwrap_or(1).saturating_sub(1);
            let least = range.last.max(start);
            *range = take_range(session, table.id, least, RANGE_IDS.max(step)).await?;
        }
    }

    /// The next hidden row id.
    pub async fn next_row_id(&self, session: &Session, table: &TableInfo) -> Result<i64> {
        let id = self.next(session, table, (1, 1)).await?;
        i64::try_from(id).map_err(|_| exhausted())
    }

    /// A statement gave a value itself: generated ones must stay above it.
    pub async fn observe(&self, session: &Session, table: &TableInfo, value: &Datum) -> Result<()> {
        let value = match value {
            Datum::Int(value) if *value > 0 => *value as u64,
            Datum::UInt(value) => *value,
            Datum::Double(value) if *value > 0.0 => *value as u64,
            Datum::Float(value) if *value > 0.0 => *value as u64,
            _ => return Ok(()),
        };
        let range = self.range(table.id);
        let mut range = range.lock().await;
        if value <= range.last {
            return Ok(());
        }
        if value <= range.end {
            range.last = value;
            return Ok(());
        }
        // Beyond the range at hand: the counter must learn of it, for other nodes.
        *range = take_range(session, table.id, value, RANGE_IDS).await?;
        range.last = range.last.max(value);
        Ok(())
    }

    /// The value the next insert here would get, for `SHOW CREATE TABLE`; 0: unknown yet.
    pub async fn peek(&self, table: TableId) -> u64 {
        let range = self.ranges.get(&table).map(|range| Arc::clone(&range));
        match range {
            Some(range) => range.lock().await.last,
            None => 0,
        }
    }

    /// Forgets a table: it was dropped, emptied, or its counter was set.
    pub fn forget(&self, table: TableId) {
        self.ranges.remove(&table);
    }
}

fn exhausted() -> SqlError {
    SqlError::new(
        errno::ER_AUTOINC_READ_FAILED,
        "Failed to read auto-increment value from storage engine",
    )
}

/// Largest value the AUTO_INCREMENT column (or a hidden row id) takes.
fn column_max(table: &TableInfo) -> u64 {
    let Some((_, column)) = table.auto_increment_column() else { return i64::MAX as u64 };
    let ty = &column.ty;
    match ty.code {
        TypeCode::Float | TypeCode::Double => 1 << 53,
        _ if ty.unsigned => ty.unsigned_max(),
        _ => ty.signed_range().1 as u64,
    }
}

/// Takes ids above `least` from the counter.
async fn take_range(session: &Session, table: TableId, least: u64, count: u64) -> Result<Range> {
    let key = meta::auto_id_key(table);
    for _ in 0..TRIES_MAX {
        let kv = &session.domain.kv;
        let transaction = kv.begin(session.domain.now_ts().await?);
        let stored = match transaction.get(&key).await? {
            Some(value) => meta::parse_counter(&key, &value)? as u64,
            None => 0,
        };
        let last = stored.max(least);
        // At the end of all ids the range is empty, and `next` tells so.
        let end = last.saturating_add(count);
        transaction.set(key.clone(), (end as i64).to_string().into())?;
        match transaction.commit().await {
            Ok(_) => return Ok(Range { last, end }),
            Err(KvError::WriteConflict { .. }) => session.check_cancelled()?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(exhausted())
}
