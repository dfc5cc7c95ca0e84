//! Row locks of `SELECT … FOR UPDATE` and `FOR SHARE`.
//!
//! A locked row's key is guarded in the transaction's buffer: COMMIT fails with 1213 if
//! another transaction changed it meanwhile, and others fail who come after.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::{BoxOperator, ExecError, Operator};
use cairn_kv_client::Transaction;
use cairn_planner::plan::{PointAccess, SelectLock};
use cairn_planner::ranger::PointKey;
use cairn_types::{Chunk, FieldType, Handle, TimeZone, keys};

use super::handle_in_row;
use crate::execution::{BuildContext, ReadView, kv_error};

/// Wraps `input` so that the rows it yields are locked; without a transaction to keep the
/// locks, the rows pass through.
pub fn operator(
    input: BoxOperator,
    lock: &SelectLock,
    context: &BuildContext,
) -> cairn_executor::Result<BoxOperator> {
    let ReadView::Transaction(transaction) = &context.view else { return Ok(input) };
    Ok(Box::new(LockRows {
        input,
        lock: lock.clone(),
        transaction: Arc::clone(transaction),
        zone: context.exec.eval.time_zone.clone(),
    }))
}

/// Locks what a point read looked for: its key even when no row is there, so that nobody
/// else adds it meanwhile, and the row found behind a unique index.
pub fn lock_point(
    view: &ReadView,
    access: &PointAccess,
    key: &PointKey,
    found: Option<&Handle>,
) -> crate::error::Result<()> {
    let ReadView::Transaction(transaction) = view else { return Ok(()) };
    let row_key = found.map(|handle| keys::encode_row_key(access.table.id, handle));
    let locked = row_key.unwrap_or_else(|| key.raw(&access.table));
    Ok(transaction.lock_keys([Bytes::from(locked)])?)
}

struct LockRows {
    input: BoxOperator,
    lock: SelectLock,
    transaction: Arc<Transaction>,
    zone: TimeZone,
}

#[async_trait]
impl Operator for LockRows {
    fn schema(&self) -> &[FieldType] {
        self.input.schema()
    }

    async fn next(&mut self) -> cairn_executor::Result<Option<Chunk>> {
        let Some(chunk) = self.input.next().await? else { return Ok(None) };
        let mut row_keys = Vec::new();
        for at in chunk.selected() {
            let row = chunk.row(at);
            for table in &self.lock.tables {
                let handle = handle_in_row(&table.table, &table.handle, &row, &self.zone)
                    .map_err(|error| ExecError::from(error.to_mysql()))?;
                if let Some(handle) = handle {
                    row_keys.push(Bytes::from(keys::encode_row_key(table.table.id, &handle)));
                }
            }
        }
        self.transaction.lock_keys(row_keys).map_err(kv_error)?;
        Ok(Some(chunk))
    }
}
