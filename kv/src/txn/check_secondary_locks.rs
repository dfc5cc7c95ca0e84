//! Looks whether locks of an async commit stand, and sees to it that those which do not never
//! will.
//!
//! An async commit is committed once the last of its locks stands, without a word from anybody.
//! So when its client is gone, whoever needs to know asks for all of the locks, with the list that
//! the primary's lock holds:
//!
//! | found | answer |
//! | --- | --- |
//! | the transaction's lock | the lock; with it `min_commit_ts`, which has its part in the commit timestamp |
//! | its commit record | `commit_ts`: somebody came first |
//! | its rollback record | fewer locks than keys |
//! | its pessimistic lock | as nothing: it was not prewritten. The lock goes |
//! | nothing | fewer locks than keys; a protected rollback record now |
//!
//! **Why that is safe.** A lock of an async commit goes away only after the fate of its
//! transaction was decided. The rollback record is written under the key's latch, so the key is
//! either locked before it or never: of several who look at the same time, at whatever moments,
//! either all find every lock, or all find one that is missing for good. The record is protected,
//! for it alone may decide: the next rollback of the key must not collapse it.
//!
//! With `only_look` nothing is written, and a missing lock says nothing: it may yet come. That all
//! of them stand is final all the same.

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::rollback::{RollbackOutcome, rollback_missing};
use crate::mvcc::{LockKind, MvccError, MvccReader, MvccTxn, TxnRecord, keys};

/// Runs the check; keys behind the first that decides are not looked at.
pub fn run(
    reader: &mut MvccReader,
    txn: &mut MvccTxn,
    request: &kv::CheckSecondaryLocksRequest,
) -> Result<kv::CheckSecondaryLocksResponse, MvccError> {
    let start_ts = TimeStamp(request.start_ts);
    let mut locks = Vec::with_capacity(request.keys.len());
    for raw_key in &request.keys {
        let user_key = keys::user_key(raw_key);
        let held = reader.load_lock(&user_key, start_ts)?;
        let held = held.filter(|lock| lock.start_ts == start_ts);
        if let Some(lock) = held {
            if lock.kind != LockKind::Pessimistic {
                locks.push(lock.to_info(raw_key.clone()));
                continue;
            }
            if !request.only_look {
                txn.unlock(&user_key, &lock);
            }
        }
        let record = match request.only_look {
            true => reader.txn_record(&user_key, start_ts)?,
            false => match rollback_missing(reader, txn, &user_key, start_ts)? {
                RollbackOutcome::Committed(commit_ts) => return Ok(committed(commit_ts)),
                RollbackOutcome::RolledBack => TxnRecord::RolledBack,
            },
        };
        return Ok(match record {
            TxnRecord::Committed { commit_ts, .. } => committed(commit_ts),
            TxnRecord::RolledBack | TxnRecord::None { .. } => {
                kv::CheckSecondaryLocksResponse::default()
            }
        });
    }
    Ok(kv::CheckSecondaryLocksResponse { locks, ..Default::default() })
}

fn committed(commit_ts: TimeStamp) -> kv::CheckSecondaryLocksResponse {
    kv::CheckSecondaryLocksResponse { commit_ts: commit_ts.0, ..Default::default() }
}
