//! Lists old locks of a range: garbage collection resolves them first.

use cairn_proto::kv;

use crate::mvcc::{MvccError, MvccReader};

/// Most locks one answer holds, whatever the request asks.
pub const LOCKS_PER_ANSWER_MAX: usize = 4096;

/// Locks with `start_ts <= max_ts` in key order, each such holder of a shared one by itself.
pub fn run(
    reader: &MvccReader,
    request: &kv::ScanLockRequest,
    start: &[u8],
    end: &[u8],
) -> Result<Vec<kv::LockInfo>, MvccError> {
    let limit = match request.limit {
        0 => LOCKS_PER_ANSWER_MAX,
        limit => (limit as usize).min(LOCKS_PER_ANSWER_MAX),
    };
    let locks = reader.scan_locks(start, end, limit, |lock| lock.start_ts.0 <= request.max_ts)?;
    Ok(locks.into_iter().map(|(key, lock)| lock.to_info(key)).collect())
}
