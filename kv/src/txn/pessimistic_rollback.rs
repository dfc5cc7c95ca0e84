//! Pessimistic rollback: gives locks back that were never prewritten.
//!
//! Nothing is recorded: the transaction may go on, and may take the key again. A lock that was
//! prewritten meanwhile belongs to the transaction's commit and stays.

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::TxnError;
use crate::mvcc::{LockKind, MvccReader, MvccTxn, keys};

/// Removes the transaction's pessimistic locks on the keys.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::PessimisticRollbackRequest,
) -> Result<(), TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    for key in &request.keys {
        let user_key = keys::user_key(key);
        let lock = reader.load_lock(&user_key)?;
        if lock.is_some_and(|lock| lock.start_ts == start_ts && lock.kind == LockKind::Pessimistic)
        {
            txn.unlock(&user_key);
        }
    }
    Ok(())
}
