//! What became of a commit whose answer was lost.
//!
//! A commit request of the primary without a certain answer is not simply sent
//! again: the primary is asked first. Committed and rolled back are final; a lock
//! still there means that the commit has not happened, so it is sent again. Only
//! when nobody answers until the check's own deadline the caller gets
//! [`KvError::UndeterminedCommit`]. The same holds for a prewrite that may have
//! committed: in one round, or as the last lock of an async commit. There the other locks
//! are asked too, as anybody does who recovers the transaction.

use std::time::Duration;

use cairn_proto::kv::{CheckTxnStatusRequest, LockInfo, RollbackRequest, key_error};
use cairn_types::TimeStamp;

use super::async_commit::LocksSay;
use super::commit::{Committer, PrimaryCommit};
use crate::backoff::{BackoffKind, Retrier};
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions, expect_response};

/// What the primary of our own transaction says.
enum PrimaryState {
    Locked(LockInfo),
    Committed(TimeStamp),
    RolledBack,
}

impl Committer {
    /// Brings a commit of unknown outcome to an end: asks the primary, and commits
    /// again as long as its lock stands. `None`: rolled back.
    pub(super) async fn finish_unknown(
        &self,
        commit_ts: TimeStamp,
        cause: &KvError,
    ) -> Result<Option<TimeStamp>, KvError> {
        let mut retrier = self.client.retrier_for(self.client.config.commit_check_timeout_ms);
        let primary = self.primary.unwrap_or(0);
        let run = primary..primary + 1;
        let unknown = |last: &KvError| KvError::UndeterminedCommit {
            start_ts: self.start_ts.0,
            reason: format!("{cause}; then {last}"),
        };
        loop {
            match self.ask_primary(&mut retrier).await.map_err(|error| unknown(&error))? {
                PrimaryState::Committed(commit_ts) => return Ok(Some(commit_ts)),
                PrimaryState::RolledBack => return Ok(None),
                PrimaryState::Locked(_) => {}
            }
            match self.try_commit_primary(&run, commit_ts, &mut retrier).await {
                Ok((_, PrimaryCommit::Committed(commit_ts))) => return Ok(Some(commit_ts)),
                Ok((_, PrimaryCommit::Aborted(_))) => return Ok(None),
                // A pushed lock: roll back, so that the outcome is certain.
                Ok((_, PrimaryCommit::TsExpired)) => {
                    return self.roll_back_primary(&mut retrier).await.map_err(|e| unknown(&e));
                }
                Ok((_, PrimaryCommit::Unknown(error))) | Err(error) => {
                    let pause = Duration::ZERO;
                    let wait = retrier.wait(BackoffKind::NoLeader, pause, || error.to_string());
                    wait.await.map_err(|error| unknown(&error))?;
                }
            }
        }
    }

    /// What became of a commit whose prewrite's answer was lost; a transaction
    /// without a trace, or without one of its locks, is shut out for good. `None`: not committed.
    pub(super) async fn fate(&self, cause: &KvError) -> Result<Option<TimeStamp>, KvError> {
        let mut retrier = self.client.retrier_for(self.client.config.commit_check_timeout_ms);
        let unknown = |last: KvError| KvError::UndeterminedCommit {
            start_ts: self.start_ts.0,
            reason: format!("{cause}; then {last}"),
        };
        let primary = match self.ask_primary(&mut retrier).await.map_err(unknown)? {
            PrimaryState::Committed(commit_ts) => return Ok(Some(commit_ts)),
            PrimaryState::RolledBack => return Ok(None),
            PrimaryState::Locked(primary) => primary,
        };
        if primary.use_async_commit {
            let looked = self.client.look_at_locks(&primary, false, &mut retrier).await;
            match looked.map_err(unknown)? {
                LocksSay::Committed(commit_ts) => return Ok(Some(commit_ts)),
                LocksSay::Missing => return Ok(None),
                LocksSay::TwoPhases => {}
            }
        }
        // Its prewrite may still be on the way; behind a rollback it comes too late.
        self.roll_back_primary(&mut retrier).await.map_err(unknown)
    }

    async fn ask_primary(&self, retrier: &mut Retrier) -> Result<PrimaryState, KvError> {
        let request = CheckTxnStatusRequest {
            primary_key: self.primary_key(),
            lock_ts: self.start_ts.0,
            caller_start_ts: 0,
            // Before every expiry: our own lock must not be removed for its age.
            current_ts: 0,
            rollback_if_not_exist: true,
            force_sync_commit: false,
            resolving_pessimistic_lock: false,
        };
        let response = self.client.check_txn_status(&request, retrier).await?;
        Ok(if let Some(kind) = response.error.and_then(|error| error.kind) {
            return Err(KvError::Malformed(format!("checking our own transaction: {kind:?}")));
        } else if response.lock_ttl_ms > 0 {
            PrimaryState::Locked(response.lock_info.unwrap_or_default())
        } else if response.commit_ts > 0 {
            PrimaryState::Committed(TimeStamp(response.commit_ts))
        } else {
            PrimaryState::RolledBack
        })
    }

    /// Rolls the primary back, unless it turns out to be committed.
    async fn roll_back_primary(&self, retrier: &mut Retrier) -> Result<Option<TimeStamp>, KvError> {
        let key = self.primary_key();
        let build = || {
            Cmd::Rollback(RollbackRequest { keys: vec![key.clone()], start_ts: self.start_ts.0 })
        };
        let options = RequestOptions::default();
        let response = self.client.cache.send_to_key(&key, &options, retrier, &build).await?;
        match expect_response!(response, Rollback)?.error.and_then(|error| error.kind) {
            None => Ok(None),
            Some(key_error::Kind::Committed(by)) => Ok(Some(TimeStamp(by.commit_ts))),
            Some(kind) => Err(KvError::Malformed(format!("rolling back: {kind:?}"))),
        }
    }
}
