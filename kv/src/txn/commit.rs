//! Commit: turns a transaction's locks into commit records (Percolator §2.2,
//! second phase; the primary first, which is the commit point).

use bytes::Bytes;
use cairn_proto::kv::{self, key_error};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use super::{TxnError, write_of_lock};
use crate::mvcc::{Lock, MvccReader, MvccTxn, TxnRecord, WriteKind, keys};

/// Commits `keys` of one transaction.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::CommitRequest,
) -> Result<(), TxnError> {
    let (start_ts, commit_ts) = (TimeStamp(request.start_ts), TimeStamp(request.commit_ts));
    if commit_ts <= start_ts {
        return Err(TxnError::abort("commit_ts is not above start_ts"));
    }
    request.keys.iter().try_for_each(|key| commit_key(reader, txn, key, start_ts, commit_ts))
}

/// Commits one key; a key committed before is left as it is.
pub fn commit_key(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    raw_key: &Bytes,
    start_ts: TimeStamp,
    commit_ts: TimeStamp,
) -> Result<(), TxnError> {
    let user_key = keys::user_key(raw_key);
    match reader.load_lock(&user_key, start_ts)? {
        Some(lock) if lock.start_ts == start_ts => {
            commit_lock(reader, txn, raw_key, &user_key, &lock, commit_ts)
        }
        _ => match reader.txn_record(&user_key, start_ts)? {
            TxnRecord::Committed { .. } => Ok(()),
            TxnRecord::RolledBack | TxnRecord::None { .. } => {
                Err(TxnError::lock_not_found(raw_key, start_ts))
            }
        },
    }
}

/// Turns the transaction's own `lock` into a commit record.
pub fn commit_lock(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    raw_key: &Bytes,
    user_key: &[u8],
    lock: &Lock,
    commit_ts: TimeStamp,
) -> Result<(), TxnError> {
    if commit_ts < lock.min_commit_ts && !planted(Bug::CommitIgnoresReaders) {
        return Err(TxnError::key(key_error::Kind::CommitTsExpired(kv::CommitTsExpired {
            start_ts: lock.start_ts.0,
            attempted_commit_ts: commit_ts.0,
            key: raw_key.clone(),
            min_commit_ts: lock.min_commit_ts.0,
        })));
    }
    let mut write = write_of_lock(lock)?;
    write.has_overlapped_rollback = is_rollback_at(reader, user_key, commit_ts)?;
    txn.put_write(user_key, commit_ts, &write);
    txn.unlock(user_key, lock);
    Ok(())
}

/// Whether a rollback record of another transaction occupies `commit_ts`: our
/// record will replace it and must carry its meaning on. PD hands a timestamp out
/// once, so that only computed commit timestamps (one-phase) and timestamps of
/// clients' own making can collide; the look costs one bloom filter.
pub fn is_rollback_at(
    reader: &MvccReader,
    user_key: &[u8],
    commit_ts: TimeStamp,
) -> Result<bool, TxnError> {
    let Some(encoded) = reader.load_write(user_key, commit_ts)? else { return Ok(false) };
    let write = crate::mvcc::Write::decode(&encoded)?;
    Ok(write.kind == WriteKind::Rollback || write.has_overlapped_rollback)
}
