//! Async commit: a transaction is committed once all of its locks stand.
//!
//! **The commit.** Each lock carries the least timestamp it can be committed at, which the store
//! that took it chose above all it has served to readers; the transaction commits at the largest of
//! them. With the last answer to its prewrites the client knows that number, and that nobody
//! can change it any more; so it answers its caller, and turns the locks into commit records behind
//! the caller's back. That saves the round of the primary's commit, and the question to PD before it.
//!
//! - The answer also has to lie behind all that the caller has seen: the requests carry a timestamp
//!   of PD's, asked for when the commit began (`PrewriteRequest::min_commit_ts`).
//! - The primary's lock names all others, so a transaction of many keys is left to two phases
//!   ([`KEYS_MAX`], [`KEY_BYTES_MAX`]); and one with a mere check among its mutations, for that leaves no
//!   lock: the others could stand although the check has failed.
//! - One answer of 0 (`min_commit_ts`) sends the whole transaction to two phases: that lock is an
//!   ordinary one for good, and tells so everybody who looks.
//!
//! **The recovery**, when the client is gone or has lost an answer: ask the primary. If its lock
//! stands, ask for all others ([`KvClient::look_at_locks`]). All there: committed, at the same number as
//! the client would have computed, for it is in the locks. One missing: it is shut out for good, and
//! with it the transaction. Several may do so at once, the client among them, and come to the same
//! result. So the client never rolls back what may be committed: when an answer of
//! a prewrite was lost it goes this way too, and when none was, it knows of a lock that never stood.
//!
//! **Living transactions.** Between the answer and the commit records others meet the locks of a
//! committed transaction. Writers look at once whether all locks stand, without shutting any
//! out, since they would wait, or give way, otherwise; readers after their first wait, since the
//! records are usually there by then. So nobody waits long for, or loses to, a transaction that was
//! acknowledged.
//!
//! **Sources.** The names and the shape are TiKV's (tikv/sig-transaction, `design/async-commit`);
//! parallel commits of CockroachDB (Taft et al., SIGMOD 2020, §3.1) are the same idea.

use bytes::Bytes;
use cairn_proto::kv::{
    CheckSecondaryLocksRequest, CheckTxnStatusRequest, LockInfo, Mutation, ResolveLockRequest,
};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use super::batches::{Mutations, Run};
use super::mutations::leaves_lock;
use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::KvError;
use crate::lock_resolver::{TxnFate, TxnStatus, status_of};
use crate::request::{Cmd, RequestOptions, expect_response};

/// Keys of an async commit: the primary's lock names them, each heart beat writes it again, and
/// a recovery asks for all of them. As in TiDB.
pub(super) const KEYS_MAX: usize = 256;
/// Bytes of these keys together. As in TiDB.
pub(super) const KEY_BYTES_MAX: usize = 4096;

/// The keys besides the primary that an async commit of the mutations locks; `None` when it
/// must not be one.
pub(super) fn secondaries(mutations: &[Mutation], primary: usize) -> Option<Vec<Bytes>> {
    if mutations.len() > KEYS_MAX || !mutations.iter().all(leaves_lock) {
        return None;
    }
    let bytes: usize = mutations.iter().map(|mutation| mutation.key.len()).sum();
    let others = mutations.iter().enumerate().filter(|(position, _)| *position != primary);
    (bytes <= KEY_BYTES_MAX).then(|| others.map(|(_, mutation)| mutation.key.clone()).collect())
}

/// What the locks of an async commit say, other than its primary's, which stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocksSay {
    /// All of them stand, or one is a commit record already.
    Committed(TimeStamp),
    /// One is missing: for good, unless only looked at.
    Missing,
    /// One is an ordinary lock: the primary decides.
    TwoPhases,
}

impl KvClient {
    /// Looks at all locks that a primary's names; unless `only_look` shuts out the first that is
    /// missing.
    pub(crate) async fn look_at_locks(
        &self,
        primary: &LockInfo,
        only_look: bool,
        retrier: &mut Retrier,
    ) -> Result<LocksSay, KvError> {
        let mut keys = primary.secondaries.clone();
        keys.sort_unstable();
        if planted(Bug::RecoverySkipsSecondaries) {
            keys.truncate(1);
        }
        let keys = Mutations::of_keys(keys);
        let build = |piece: &Run| {
            Cmd::CheckSecondaryLocks(CheckSecondaryLocksRequest {
                keys: keys.keys(piece),
                start_ts: primary.start_ts,
                only_look,
            })
        };
        let mut commit_ts = primary.min_commit_ts;
        let mut rest = keys.all();
        while !rest.is_empty() {
            let options = RequestOptions::default();
            let answer = keys.send_first(self, &rest, &options, retrier, &build).await?;
            let response = expect_response!(answer.response, CheckSecondaryLocks)?;
            if let Some(kind) = response.error.and_then(|error| error.kind) {
                return Err(KvError::Malformed(format!("looking at locks: {kind:?}")));
            }
            if response.commit_ts > 0 {
                return Ok(LocksSay::Committed(TimeStamp(response.commit_ts)));
            }
            if response.locks.len() < answer.piece.len() {
                return Ok(LocksSay::Missing);
            }
            if response.locks.iter().any(|lock| !lock.use_async_commit) {
                return Ok(LocksSay::TwoPhases);
            }
            let largest = response.locks.iter().map(|lock| lock.min_commit_ts).max();
            commit_ts = commit_ts.max(largest.unwrap_or(0));
            rest.start = answer.piece.end;
        }
        Ok(LocksSay::Committed(TimeStamp(commit_ts)))
    }

    /// Brings an async commit whose client is gone to its end. `request` is the question that found
    /// the primary's lock expired.
    pub(crate) async fn finish_async_commit(
        &self,
        request: &CheckTxnStatusRequest,
        primary: &LockInfo,
        retrier: &mut Retrier,
    ) -> Result<TxnStatus, KvError> {
        let fate = match self.look_at_locks(primary, false, retrier).await? {
            LocksSay::Committed(commit_ts) => TxnFate::Committed(commit_ts),
            LocksSay::Missing => TxnFate::RolledBack,
            LocksSay::TwoPhases => {
                let request = CheckTxnStatusRequest { force_sync_commit: true, ..request.clone() };
                return status_of(&self.check_txn_status(&request, retrier).await?);
            }
        };
        self.resolve_all(primary, fate, retrier).await;
        Ok(TxnStatus::Final(fate))
    }

    /// Whether an async commit that seems alive is committed: all of its locks stand.
    pub(crate) async fn find_committed(
        &self,
        primary: &LockInfo,
        retrier: &mut Retrier,
    ) -> Result<Option<TxnFate>, KvError> {
        let LocksSay::Committed(commit_ts) = self.look_at_locks(primary, true, retrier).await?
        else {
            return Ok(None);
        };
        Ok(Some(TxnFate::Committed(commit_ts)))
    }

    /// Resolves all locks of the transaction, so that nobody has to look at all of them again.
    /// What fails is left to whoever meets the lock: the fate is final, and found the same way.
    async fn resolve_all(&self, primary: &LockInfo, fate: TxnFate, retrier: &mut Retrier) {
        let mut keys = primary.secondaries.clone();
        keys.push(primary.key.clone());
        keys.sort_unstable();
        let keys = Mutations::of_keys(keys);
        let build = |piece: &Run| {
            Cmd::ResolveLock(ResolveLockRequest {
                start_ts: primary.start_ts,
                commit_ts: fate.commit_ts().0,
                keys: keys.keys(piece),
            })
        };
        let mut rest = keys.all();
        while !rest.is_empty() {
            let options = RequestOptions::default();
            match keys.send_first(self, &rest, &options, retrier, &build).await {
                Ok(answer) => rest.start = answer.piece.end,
                Err(error) => {
                    tracing::debug!(%error, "locks are left to whoever meets them");
                    return;
                }
            }
        }
    }
}
