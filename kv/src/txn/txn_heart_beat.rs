//! Heart beat of a long transaction: extends its primary lock's TTL.

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::TxnError;
use crate::mvcc::{MvccReader, MvccTxn, keys};

/// Raises the TTL to the advised one; never lowers it. Answers the TTL in force.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::TxnHeartBeatRequest,
) -> Result<u64, TxnError> {
    let start_ts = TimeStamp(request.start_ts);
    let user_key = keys::user_key(&request.primary);
    let lock = reader.load_lock(&user_key, start_ts)?;
    let Some(mut lock) = lock.filter(|lock| lock.start_ts == start_ts) else {
        return Err(TxnError::txn_not_found(&request.primary, start_ts));
    };
    if lock.primary != request.primary {
        return Err(TxnError::abort("the key of a heart beat is not its lock's primary"));
    }
    if lock.ttl_ms < request.advise_ttl_ms {
        lock.ttl_ms = request.advise_ttl_ms;
        txn.put_lock(&user_key, &lock);
    }
    Ok(lock.ttl_ms)
}
