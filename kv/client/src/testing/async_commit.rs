//! Locks of async commits in the cluster in memory.

use bytes::Bytes;
use cairn_proto::kv::*;
use cairn_types::TimeStamp;

use super::{Cluster, Inner, Lock, info};

/// A lock of a transaction that went away.
pub struct AsyncLock<'a> {
    pub key: &'a str,
    pub primary: &'a str,
    pub start_ts: TimeStamp,
    pub ttl_ms: u64,
    pub min_commit_ts: TimeStamp,
    pub secondaries: &'a [&'a str],
}

impl Cluster {
    /// Leaves a lock behind, which will write "left".
    pub fn leave_async_lock(&self, left: AsyncLock<'_>) {
        let bytes = |key: &&str| Bytes::copy_from_slice(key.as_bytes());
        self.leave_lock(left.key, left.primary, left.start_ts, left.ttl_ms);
        let key = bytes(&left.key);
        if let Some(lock) = self.inner.lock().locks.of_mut(&key, left.start_ts.0) {
            *lock = Lock {
                min_commit_ts: left.min_commit_ts.0,
                use_async_commit: true,
                secondaries: left.secondaries.iter().map(bytes).collect(),
                generation: 0,
                ..lock.clone()
            };
        }
    }

    /// Whether the transaction is shut out at the key.
    pub fn is_rolled_back(&self, key: &str, start_ts: TimeStamp) -> bool {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.inner.lock().rollbacks.contains(&(key, start_ts.0))
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        self.inner.lock().faults.clear();
    }
}

impl Inner {
    pub(super) fn scan_lock(&self, request: &ScanLockRequest) -> ScanLockResponse {
        let is_inside = |key: &Bytes| {
            *key >= request.start_key && (request.end_key.is_empty() || *key < request.end_key)
        };
        let found = self
            .locks
            .iter()
            .filter(|(key, lock)| is_inside(key) && lock.start_ts <= request.max_ts);
        ScanLockResponse { locks: found.filter_map(|(key, lock)| info(key, lock)).collect() }
    }

    /// Looks whether the locks stand; shuts the first out that does not.
    pub(super) fn check_secondary_locks(
        &mut self,
        request: &CheckSecondaryLocksRequest,
    ) -> CheckSecondaryLocksResponse {
        let start_ts = request.start_ts;
        let mut response = CheckSecondaryLocksResponse::default();
        for key in &request.keys {
            let ours = self.locks.of(key, start_ts);
            if let Some(lock) = ours.filter(|lock| !lock.is_pessimistic) {
                response.locks.extend(info(key, lock));
                continue;
            }
            if let Some(commit_ts) = self.commit_of(key, start_ts) {
                return CheckSecondaryLocksResponse { commit_ts, ..Default::default() };
            }
            if !request.only_look {
                self.roll_back(key, start_ts);
            }
            return CheckSecondaryLocksResponse::default();
        }
        response
    }
}
