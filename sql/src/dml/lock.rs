//! Row locks of `SELECT … FOR UPDATE` and `FOR SHARE`.
//!
//! In a pessimistic transaction rows are locked as they are read; a row that was changed since
//! the statement's timestamp makes the statement start over (`execution::locking`). `FOR SHARE` lets
//! others in that lock the row so too, and keeps writers and `FOR UPDATE` out. In an
//! optimistic transaction a locked row's key is guarded in the transaction's buffer, whatever the
//! strength: COMMIT fails with 1213 if another transaction changed it meanwhile.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::{BoxOperator, ExecError, Operator};
use cairn_kv_client::{LockOptions, LockWait, Transaction};
use cairn_parser::ast::{LockStrength, LockWait as WrittenWait};
use cairn_planner::plan::{PointAccess, RowLock, SelectLock};
use cairn_planner::ranger::PointKey;
use cairn_types::{Chunk, FieldType, Handle, TimeZone, keys};

use super::handle_in_row;
use crate::execution::{BuildContext, ReadView, kv_error};

/// How the rows of a query are locked.
pub fn options(lock: RowLock, context: &BuildContext) -> LockOptions {
    let wait = match lock.wait {
        WrittenWait::Default => LockWait::AtMost(context.lock_wait_timeout),
        WrittenWait::NoWait => LockWait::NoWait,
        WrittenWait::SkipLocked => LockWait::Skip,
        WrittenWait::Seconds(seconds) => LockWait::AtMost(Duration::from_secs(seconds)),
    };
    let is_shared = lock.strength == LockStrength::Share;
    LockOptions { wait, is_shared, cancel: context.exec.cancel.clone() }
}

/// Wraps `input` so that the rows it yields are locked; without a transaction to keep the
/// locks, the rows pass through.
pub fn operator(
    input: BoxOperator,
    lock: &SelectLock,
    context: &BuildContext,
) -> cairn_executor::Result<BoxOperator> {
    let ReadView::Transaction(transaction) = &context.view else { return Ok(input) };
    let options = options(lock.how, context);
    let limit = lock.limit.as_ref().filter(|_| options.wait == LockWait::Skip);
    Ok(Box::new(LockRows {
        input,
        lock: lock.clone(),
        options,
        rows_left: limit.map(|limit| limit.total(&context.exec.eval.params)),
        waiting: VecDeque::new(),
        transaction: Arc::clone(transaction),
        zone: context.exec.eval.time_zone.clone(),
    }))
}

/// What a point read of `key` locks: the row found, or its key even when no row is there, so
/// that nobody else adds it meanwhile.
pub fn point_lock_key(access: &PointAccess, key: &PointKey, found: Option<&Handle>) -> Bytes {
    let row_key = found.map(|handle| keys::encode_row_key(access.table.id, handle));
    row_key.unwrap_or_else(|| key.raw(&access.table)).into()
}

struct LockRows {
    input: BoxOperator,
    lock: SelectLock,
    options: LockOptions,
    /// Rows that are wanted yet, where rows may be left out.
    rows_left: Option<u64>,
    /// Rows read and not locked yet.
    waiting: VecDeque<Chunk>,
    transaction: Arc<Transaction>,
    zone: TimeZone,
}

impl LockRows {
    /// The next rows to lock: no more than are wanted.
    async fn next_rows(&mut self) -> cairn_executor::Result<Option<Chunk>> {
        let chunk = match self.waiting.pop_front() {
            Some(chunk) => Some(chunk),
            None => self.input.next().await?,
        };
        let Some(mut chunk) = chunk else { return Ok(None) };
        let Some(left) = self.rows_left else { return Ok(Some(chunk)) };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).max(1);
        if chunk.num_selected() > wanted {
            let mut rest = chunk.clone();
            rest.slice_selected(wanted, usize::MAX);
            self.waiting.push_front(rest);
            chunk.slice_selected(0, wanted);
        }
        Ok(Some(chunk))
    }

    /// The keys of the selected rows, row by row.
    fn row_keys(&self, chunk: &Chunk) -> cairn_executor::Result<Vec<Vec<Bytes>>> {
        let mut all = Vec::with_capacity(chunk.num_selected());
        for at in chunk.selected() {
            let row = chunk.row(at);
            let mut row_keys = Vec::with_capacity(self.lock.tables.len());
            for table in &self.lock.tables {
                let handle = handle_in_row(&table.table, &table.handle, &row, &self.zone)
                    .map_err(|error| ExecError::from(error.to_mysql()))?;
                if let Some(handle) = handle {
                    row_keys.push(Bytes::from(keys::encode_row_key(table.table.id, &handle)));
                }
            }
            all.push(row_keys);
        }
        Ok(all)
    }
}

#[async_trait]
impl Operator for LockRows {
    fn schema(&self) -> &[FieldType] {
        self.input.schema()
    }

    async fn next(&mut self) -> cairn_executor::Result<Option<Chunk>> {
        let Some(mut chunk) = self.next_rows().await? else { return Ok(None) };
        let row_keys = self.row_keys(&chunk)?;
        let wanted: Vec<Bytes> = row_keys.iter().flatten().cloned().collect();
        let skipped = self.transaction.lock_now(wanted, &self.options).await.map_err(kv_error)?;
        if !skipped.is_empty() {
            let skipped: HashSet<Bytes> = skipped.into_iter().collect();
            let free = chunk.selected().zip(&row_keys);
            let free = free.filter(|(_, keys)| !keys.iter().any(|key| skipped.contains(key)));
            chunk.sel = Some(free.map(|(at, _)| at as u32).collect());
        }
        if let Some(left) = &mut self.rows_left {
            *left = left.saturating_sub(chunk.num_selected() as u64);
        }
        Ok(Some(chunk))
    }
}
