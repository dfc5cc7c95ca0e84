//! Two-phase commit after Percolator, and the ways to save a round of it.
//!
//! ```text
//! prewrite (parallel over regions)    every key gets a lock that names the primary
//!   │ all keys in one region: the store commits at once (1PC) ──────────► done
//!   │ all locks are those of an async commit: committed ────────────────► answer to the caller
//!   │                                                        commit of all in the background
//! commit_ts from PD
//! SERIALIZABLE: is what was read still so?
//! commit of the primary's batch       ← the transaction is committed here, or never
//!   │ answer to the caller
//! commit of the others                in the background, bounded
//! ```
//!
//! What follows an answer that was lost is in [`super::outcome`], what goes on
//! behind the caller's back in [`super::background`], why locks alone may commit in
//! [`super::async_commit`].
//!
//! **Sources.** Percolator (Peng & Dabek, OSDI 2010), figure 6.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cairn_proto::kv::{
    Assertion, AssertionLevel, CommitRequest, KeyError, LockInfo, LockKind, Mutation,
    PrewriteRequest, key_error,
};
use cairn_types::TimeStamp;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::async_commit::secondaries;
use super::batches::{Mutations, Run};
use super::keep_alive::{LOCK_TTL_MS, keep_alive};
use super::locks::Locks;
use super::membuffer::MemBuffer;
use super::mutations::{leaves_lock, mutation, with_locks};
use super::read_set::ReadSet;
use super::refresh::{Refresh, unguarded};
use super::{CommitInfo, CommitKind, CommitLease, CommitModes, CommitTerms};
use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::{KvError, ShownKey};
use crate::lock_resolver::{LockOutcome, wait_for_lock};
use crate::request::{Cmd, RequestOptions, expect_response};
use crate::scope::RequestScope;

/// Life of a lock without a heartbeat.
const LOCK_TTL_BASE_MS: u64 = 3_000;
/// A transaction of one MiB gets twice that; growth is by the square root.
const LOCK_TTL_PER_SQRT_MIB_MS: f64 = 3_000.0;
/// Longest life a lock is given at once; heart beats renew it.
const LOCK_TTL_MAX_MS: u64 = 20_000;
/// Commit timestamps asked for before giving up against readers that push.
pub(super) const COMMIT_TS_ATTEMPTS_MAX: u32 = 16;

/// How the first phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prewritten {
    /// Locks stand. None of them can be committed below `least`; if they are all those of an async
    /// commit, the transaction is committed there.
    Locked { is_async: bool, least: TimeStamp },
    /// Committed already; locks of an async commit may be left.
    Committed { commit_ts: TimeStamp, leaves_locks: bool },
}

impl Prewritten {
    /// No lock at all.
    const NOTHING: Prewritten = Prewritten::Locked { is_async: true, least: TimeStamp::ZERO };

    /// Of two parts together.
    fn and(self, other: Prewritten) -> Prewritten {
        match (self, other) {
            (committed @ Prewritten::Committed { .. }, _)
            | (_, committed @ Prewritten::Committed { .. }) => committed,
            (
                Prewritten::Locked { is_async, least },
                Prewritten::Locked { is_async: is_other_async, least: other_least },
            ) => Prewritten::Locked {
                is_async: is_async && is_other_async,
                least: least.max(other_least),
            },
        }
    }
}

/// How a request to commit the primary ended.
pub(super) enum PrimaryCommit {
    Committed(TimeStamp),
    /// Rolled back, with the reason.
    Aborted(String),
    /// A reader pushed the lock behind our commit timestamp.
    TsExpired,
    /// Nobody knows yet.
    Unknown(KvError),
}

/// One commit under way.
pub(crate) struct Committer {
    pub(super) client: Arc<KvClient>,
    pub(super) start_ts: TimeStamp,
    pub(super) mutations: Mutations,
    /// Position of the primary: the first mutation that leaves a lock, or the one whose
    /// pessimistic lock the others name.
    pub(super) primary: Option<usize>,
    /// Its key; the first one where there is none. A flush of a bulk transaction names one that
    /// need not be among its mutations.
    primary_key: Bytes,
    /// Which flush of a bulk transaction this is; zero: none.
    generation: u64,
    /// Keys of the transaction.
    txn_size: u64,
    /// Of a pessimistic transaction; zero otherwise.
    for_update_ts: TimeStamp,
    size_bytes: u64,
    /// Whether one phase may be tried, and was.
    one_pc: bool,
    one_pc_tried: AtomicBool,
    /// The keys besides the primary, if this may be an async commit.
    secondaries: Option<Vec<Bytes>>,
    lease: Option<CommitLease>,
    assertion_level: AssertionLevel,
    /// What a SERIALIZABLE transaction must find unchanged at its commit timestamp.
    refresh: Option<Refresh>,
    /// Ends the wait for other transactions' locks; never a request that may have effect.
    scope: RequestScope,
}

/// A part of a bulk transaction.
pub(super) struct BulkPart {
    pub mutations: Mutations,
    /// Of them.
    pub size_bytes: u64,
    pub primary_key: Bytes,
    pub generation: u64,
    /// Keys of the transaction so far.
    pub txn_size: u64,
}

/// What every prewrite of a transaction says.
#[derive(Clone, Copy)]
pub(super) struct PrewriteTerms {
    lock_ttl_ms: u64,
    min_commit_ts: TimeStamp,
    /// Zero: no bound.
    max_commit_ts: TimeStamp,
}

impl Committer {
    /// `None`: there is nothing to write or check.
    pub fn new(
        client: Arc<KvClient>,
        start_ts: TimeStamp,
        buffer: &MemBuffer,
        locks: Option<&Locks>,
        terms: CommitTerms,
        reads: Option<&ReadSet>,
        scope: RequestScope,
    ) -> Option<Committer> {
        let mut mutations: Vec<Mutation> =
            buffer.iter().filter_map(|(key, entry)| mutation(key, entry)).collect();
        if mutations.is_empty() {
            return None;
        }
        if let Some(locks) = locks {
            mutations = with_locks(mutations, locks.held());
        }
        let locked = locks.and_then(Locks::primary);
        let primary = match locked.map(|key| mutations.iter().position(|one| one.key == key)) {
            Some(found) => found,
            None => mutations.iter().position(leaves_lock),
        };
        let primary_key = mutations[primary.unwrap_or(0)].key.clone();
        let for_update_ts = locks.map_or(TimeStamp::ZERO, Locks::for_update_ts);
        let refresh = reads.map(|reads| {
            let spans = unguarded(reads, &mutations, start_ts, for_update_ts);
            Refresh { client: client.clone(), start_ts, spans, scope: scope.clone() }
        });
        let refresh = refresh.filter(|refresh| !refresh.spans.is_empty());
        let CommitTerms { modes, lease, assertion_level } = terms;
        // What was read is looked at between the two phases; a key that others share is committed
        // at a timestamp of PD's only.
        let is_shared = mutations.iter().any(|mutation| mutation.is_shared);
        let needs_both = refresh.is_some() || is_shared;
        let modes = if needs_both { CommitModes::TWO_PHASES } else { modes };
        let may_be_async = primary.filter(|_| modes.async_commit);
        Some(Committer {
            client,
            start_ts,
            one_pc: modes.one_pc && primary.is_some(),
            one_pc_tried: AtomicBool::new(false),
            secondaries: may_be_async.and_then(|primary| secondaries(&mutations, primary)),
            lease,
            assertion_level,
            refresh,
            for_update_ts,
            txn_size: mutations.len() as u64,
            mutations: Mutations(Arc::new(mutations)),
            primary,
            primary_key,
            generation: 0,
            size_bytes: buffer.size_bytes(),
            scope,
        })
    }

    /// Of a part of a bulk transaction: what one flush prewrites, or the primary, to be committed.
    pub(super) fn of_part(
        client: Arc<KvClient>,
        start_ts: TimeStamp,
        part: BulkPart,
        terms: CommitTerms,
        scope: RequestScope,
    ) -> Committer {
        let BulkPart { mutations, size_bytes, primary_key, generation, txn_size } = part;
        Committer {
            client,
            start_ts,
            primary: mutations.0.iter().position(|one| one.key == primary_key),
            mutations,
            primary_key,
            generation,
            txn_size,
            for_update_ts: TimeStamp::ZERO,
            size_bytes,
            one_pc: false,
            one_pc_tried: AtomicBool::new(false),
            secondaries: None,
            lease: terms.lease,
            assertion_level: terms.assertion_level,
            refresh: None,
            scope,
        }
    }

    /// Commits; see [`super::Transaction::commit`] for what the errors mean.
    pub async fn run(self: Arc<Committer>) -> Result<CommitInfo, KvError> {
        let now = match self.client.current_ts().await {
            Ok(now) => now,
            Err(error) => {
                let is_locked = !self.for_update_ts.is_zero();
                if is_locked {
                    self.rollback_in_background().await;
                }
                return Err(error);
            }
        };
        let open_ms = now.physical_ms().saturating_sub(self.start_ts.physical_ms());
        let terms = self.terms(now, open_ms);
        let life_ms = LOCK_TTL_MS.max(terms.lock_ttl_ms - open_ms);
        let work = self.clone().commit(terms);
        tokio::pin!(work);
        // No task of its own: most commits are over before the first heart beat.
        let primary = self.primary_key();
        tokio::select! {
            biased;
            result = &mut work => result,
            never = keep_alive(&self.client, self.start_ts, &primary, open_ms, life_ms) => match never {},
        }
    }

    /// A commit must be ordered behind everything its caller has seen, also when
    /// the store picks the timestamp: hence `now`, which PD was asked for.
    pub(super) fn terms(&self, now: TimeStamp, open_ms: u64) -> PrewriteTerms {
        let size_mib = self.size_bytes as f64 / f64::from(1 << 20);
        let for_size_ms = (LOCK_TTL_PER_SQRT_MIB_MS * size_mib.sqrt()) as u64;
        let ttl_ms = (LOCK_TTL_BASE_MS + for_size_ms).min(LOCK_TTL_MAX_MS);
        // TTLs count from start_ts.
        let max_commit_ts = self.lease.as_ref().map_or(TimeStamp::ZERO, |lease| {
            let left_ms = u64::try_from(lease().as_millis()).unwrap_or(u64::MAX);
            TimeStamp::compose(now.physical_ms().saturating_add(left_ms), 0)
        });
        PrewriteTerms { lock_ttl_ms: open_ms + ttl_ms, min_commit_ts: now.next(), max_commit_ts }
    }

    pub(super) fn primary_key(&self) -> Bytes {
        self.primary_key.clone()
    }

    async fn commit(self: Arc<Committer>, terms: PrewriteTerms) -> Result<CommitInfo, KvError> {
        let least = match self.prewrite_all(terms).await {
            Ok(Prewritten::Committed { commit_ts, leaves_locks: false }) => {
                return Ok(self.info(commit_ts, CommitKind::OnePhase));
            }
            Ok(Prewritten::Committed { commit_ts, leaves_locks: true }) => {
                self.commit_rest_in_background(commit_ts, 0).await;
                // A retry found it; what was tried first is the likely one.
                let one_pc_tried = self.one_pc_tried.load(Ordering::Relaxed);
                let kind = if one_pc_tried { CommitKind::OnePhase } else { CommitKind::Async };
                return Ok(self.info(commit_ts, kind));
            }
            Ok(Prewritten::Locked { is_async: true, least: commit_ts }) => {
                self.commit_rest_in_background(commit_ts, 0).await;
                return Ok(self.info(commit_ts, CommitKind::Async));
            }
            Ok(Prewritten::Locked { is_async: false, least }) => least,
            Err(error) => {
                // What may be committed must not be rolled back.
                if !matches!(error, KvError::UndeterminedCommit { .. }) {
                    self.rollback_in_background().await;
                }
                return Err(error);
            }
        };
        let Some(primary) = self.primary else {
            if let Some(refresh) = &self.refresh {
                refresh.run(self.client.current_ts().await?).await?;
            }
            return Ok(CommitInfo::NOTHING);
        };
        match self.commit_primary(primary, least).await {
            Ok((commit_ts, done)) => {
                self.commit_rest_in_background(commit_ts, done.end).await;
                Ok(self.info(commit_ts, CommitKind::TwoPhases))
            }
            Err(error) => {
                if !matches!(error, KvError::UndeterminedCommit { .. }) {
                    self.rollback_in_background().await;
                }
                Err(error)
            }
        }
    }

    /// What stores check themselves where they commit.
    fn check_before_second_phase(&self) -> Result<(), KvError> {
        // Conflicts with records that were collected meanwhile would not have been seen.
        self.client.visibility.check(self.start_ts)?;
        match &self.lease {
            Some(lease) if lease().is_zero() => Err(KvError::TxnAborted {
                start_ts: self.start_ts.0,
                reason: "the lease it could be committed under is over".into(),
            }),
            _ => Ok(()),
        }
    }

    fn info(&self, commit_ts: TimeStamp, kind: CommitKind) -> CommitInfo {
        let one_pc_tried = self.one_pc_tried.load(Ordering::Relaxed);
        CommitInfo {
            commit_ts,
            kind,
            one_pc_fallback: one_pc_tried && kind != CommitKind::OnePhase,
            async_commit_fallback: self.secondaries.is_some() && kind == CommitKind::TwoPhases,
            flush_wait: None,
        }
    }

    // ---- first phase ----

    pub(super) async fn prewrite_all(&self, terms: PrewriteTerms) -> Result<Prewritten, KvError> {
        let all = self.mutations.all();
        let mut retrier = self.client.retrier();
        let pieces = self.mutations.cut(&self.client, all, &mut retrier).await?;
        let [piece] = pieces.as_slice() else {
            return stream::iter(pieces)
                .map(|piece| self.prewrite_run(piece, terms))
                .buffer_unordered(self.client.config.concurrency.max(1))
                .try_fold(Prewritten::NOTHING, |so_far, part| async move { Ok(so_far.and(part)) })
                .await;
        };
        self.prewrite_run(piece.clone(), terms).await
    }

    async fn prewrite_run(&self, run: Run, terms: PrewriteTerms) -> Result<Prewritten, KvError> {
        let mut retrier = self.client.retrier().noting(&self.scope);
        let result = self.prewrite_pieces(run, terms, &mut retrier).await;
        let Err(error) = result else { return result };
        // A commit may have happened although the answer was lost; a
        // repeat can then even meet younger writers and look like a conflict. If none was lost,
        // the locks that were refused do not stand and never will.
        let may_commit = self.one_pc || self.secondaries.is_some();
        if !may_commit || !retrier.maybe_executed() {
            return Err(error);
        }
        let leaves_locks = self.secondaries.is_some();
        match self.fate(&error).await? {
            Some(commit_ts) => Ok(Prewritten::Committed { commit_ts, leaves_locks }),
            None => Err(error),
        }
    }

    async fn prewrite_pieces(
        &self,
        run: Run,
        terms: PrewriteTerms,
        retrier: &mut Retrier,
    ) -> Result<Prewritten, KvError> {
        let lock_wait = self.client.retrier_for(self.client.config.lock_wait_timeout_ms);
        let mut lock_wait = lock_wait.within(&self.scope);
        let mut rest = run;
        let mut outcome = Prewritten::NOTHING;
        while !rest.is_empty() {
            let build = |piece: &Run| self.prewrite_request(piece, terms);
            let options = RequestOptions::default();
            let answer =
                self.mutations.send_first(&self.client, &rest, &options, retrier, &build).await?;
            let response = expect_response!(answer.response, Prewrite)?;
            let commit_ts = TimeStamp(response.one_pc_commit_ts);
            let least = TimeStamp(response.min_commit_ts);
            let part = match commit_ts.is_zero() {
                true => Prewritten::Locked { is_async: !least.is_zero(), least },
                false => Prewritten::Committed { commit_ts, leaves_locks: !least.is_zero() },
            };
            let mut locks = Vec::new();
            for error in response.errors {
                match self.prewrite_error(error)? {
                    Blocked::Lock(lock) => locks.push(lock),
                    Blocked::CommittedBefore(commit_ts) => {
                        let leaves_locks = self.secondaries.is_some();
                        outcome = Prewritten::Committed { commit_ts, leaves_locks };
                        locks.clear();
                        break;
                    }
                }
            }
            if locks.is_empty() {
                if response.generation != self.generation {
                    return Err(KvError::TxnAborted {
                        start_ts: self.start_ts.0,
                        reason: "a store of a version before knows no bulk transactions".into(),
                    });
                }
                outcome = outcome.and(part);
                rest.start = answer.piece.end;
            } else {
                self.clear_locks(&locks, &mut lock_wait).await?;
            }
        }
        Ok(outcome)
    }

    fn prewrite_request(&self, piece: &Run, terms: PrewriteTerms) -> Cmd {
        let try_one_pc = self.one_pc && *piece == self.mutations.all();
        if try_one_pc {
            self.one_pc_tried.store(true, Ordering::Relaxed);
        }
        let has_primary = self.primary.is_some_and(|primary| piece.contains(&primary));
        let secondaries = self.secondaries.as_ref().filter(|_| has_primary);
        Cmd::Prewrite(PrewriteRequest {
            mutations: self.mutations.0[piece.clone()].to_vec(),
            primary: self.primary_key(),
            start_ts: self.start_ts.0,
            lock_ttl_ms: terms.lock_ttl_ms,
            txn_size: self.txn_size,
            min_commit_ts: terms.min_commit_ts.0,
            for_update_ts: self.for_update_ts.0,
            use_async_commit: self.secondaries.is_some(),
            secondaries: secondaries.cloned().unwrap_or_default(),
            try_one_pc,
            max_commit_ts: terms.max_commit_ts.0,
            assertion_level: self.assertion_level.into(),
            generation: self.generation,
        })
    }

    fn prewrite_error(&self, error: KeyError) -> Result<Blocked, KvError> {
        let start_ts = self.start_ts.0;
        match error.kind {
            Some(key_error::Kind::Locked(lock)) => Ok(Blocked::Lock(lock)),
            Some(key_error::Kind::Committed(committed)) => {
                Ok(Blocked::CommittedBefore(TimeStamp(committed.commit_ts)))
            }
            Some(key_error::Kind::Conflict(conflict)) => Err(KvError::WriteConflict {
                key: ShownKey(conflict.key),
                start_ts,
                conflict_start_ts: conflict.conflict_start_ts,
                conflict_commit_ts: conflict.conflict_commit_ts,
            }),
            Some(key_error::Kind::AlreadyExist(exists)) => {
                Err(KvError::KeyExists { key: ShownKey(exists.key) })
            }
            Some(key_error::Kind::Abort(reason)) => Err(KvError::TxnAborted { start_ts, reason }),
            Some(key_error::Kind::AssertionFailed(failed)) => Err(KvError::AssertionFailed {
                exists: failed.assertion() == Assertion::NotExist,
                key: ShownKey(failed.key),
                start_ts,
                existing_start_ts: failed.existing_start_ts,
                existing_commit_ts: failed.existing_commit_ts,
            }),
            kind => Err(KvError::TxnAborted { start_ts, reason: format!("prewrite: {kind:?}") }),
        }
    }

    /// Removes locks of ended transactions and waits a little for a living one, if it is
    /// older. For a younger one nobody waits: what it commits is a conflict for us in any
    /// case, and two transactions that hold what the other needs must not both wait until
    /// their locks expire. Every wait goes to an older transaction, so there is no circle.
    ///
    /// A pessimistic lock is not waited for at all: its holder may wait for us. A pessimistic
    /// transaction meets but remnants of others that have ended or are about to.
    ///
    /// Source: the half of wait-die that optimistic transactions need (Rosenkrantz, Stearns
    /// & Lewis, "System level concurrency control for distributed database systems", 1978).
    async fn clear_locks(
        &self,
        locks: &[LockInfo],
        lock_wait: &mut Retrier,
    ) -> Result<(), KvError> {
        let mut alive = None;
        for lock in locks.iter().flat_map(LockInfo::holders) {
            // Writers do not push: they could not get past the lock anyway.
            let outcome = self.client.resolve_lock(lock, TimeStamp::ZERO, lock_wait).await?;
            if outcome == LockOutcome::Resolved {
                continue;
            }
            // Holders of pessimistic locks may be waiting for us, also when they commit.
            let gives_way = self.for_update_ts.is_zero()
                && (lock.start_ts > self.start_ts.0 || lock.for_update_ts > 0);
            if gives_way || lock.kind() == LockKind::Pessimistic {
                return Err(KvError::WriteConflict {
                    key: ShownKey(lock.key.clone()),
                    start_ts: self.start_ts.0,
                    conflict_start_ts: lock.start_ts,
                    conflict_commit_ts: 0,
                });
            }
            alive = Some(lock);
        }
        match alive {
            Some(lock) => wait_for_lock(lock, lock_wait).await,
            None => Ok(()),
        }
    }

    // ---- second phase ----

    /// Commits the primary with its neighbours in the same message. Answers the
    /// commit timestamp and the mutations that are done.
    pub(super) async fn commit_primary(
        &self,
        primary: usize,
        least: TimeStamp,
    ) -> Result<(TimeStamp, Run), KvError> {
        let run = primary..self.mutations.0.len();
        for _ in 0..COMMIT_TS_ATTEMPTS_MAX {
            let commit_ts = self.client.current_ts().await?;
            if commit_ts < least {
                // A secondary could not be committed there.
                continue;
            }
            if let Some(refresh) = &self.refresh {
                refresh.run(commit_ts).await?;
            }
            self.check_before_second_phase()?;
            let mut retrier = self.client.retrier().noting(&self.scope);
            let (piece, outcome) = self.try_commit_primary(&run, commit_ts, &mut retrier).await?;
            match outcome {
                PrimaryCommit::Committed(commit_ts) => return Ok((commit_ts, piece)),
                PrimaryCommit::TsExpired => {}
                PrimaryCommit::Aborted(reason) => {
                    return Err(KvError::TxnAborted { start_ts: self.start_ts.0, reason });
                }
                PrimaryCommit::Unknown(error) => {
                    return match self.finish_unknown(commit_ts, &error).await? {
                        Some(commit_ts) => Ok((commit_ts, primary..primary)),
                        None => Err(KvError::TxnAborted {
                            start_ts: self.start_ts.0,
                            reason: "its lock expired and was removed".into(),
                        }),
                    };
                }
            }
        }
        let reason = "readers kept pushing its commit timestamp".to_owned();
        Err(KvError::TxnAborted { start_ts: self.start_ts.0, reason })
    }

    pub(super) async fn try_commit_primary(
        &self,
        run: &Run,
        commit_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<(Run, PrimaryCommit), KvError> {
        let build = |piece: &Run| self.commit_request(piece, commit_ts);
        let options = RequestOptions { stop_when_uncertain: true, ..RequestOptions::default() };
        let sent = self.mutations.send_first(&self.client, run, &options, retrier, &build).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) if retrier.maybe_executed() => {
                return Ok((run.start..run.start, PrimaryCommit::Unknown(error)));
            }
            // Every attempt was refused or never left: nothing happened.
            Err(error) => return Err(error),
        };
        let outcome = match expect_response!(answer.response, Commit)?.error.and_then(|e| e.kind) {
            None => PrimaryCommit::Committed(commit_ts),
            Some(key_error::Kind::CommitTsExpired(_)) => PrimaryCommit::TsExpired,
            Some(key_error::Kind::Committed(by)) => {
                PrimaryCommit::Committed(TimeStamp(by.commit_ts))
            }
            Some(kind) => PrimaryCommit::Aborted(format!("commit: {kind:?}")),
        };
        Ok((answer.piece, outcome))
    }

    pub(super) fn commit_request(&self, piece: &Run, commit_ts: TimeStamp) -> Cmd {
        let locked = self.mutations.0[piece.clone()].iter().filter(|m| leaves_lock(m));
        Cmd::Commit(CommitRequest {
            keys: locked.map(|mutation| mutation.key.clone()).collect(),
            start_ts: self.start_ts.0,
            commit_ts: commit_ts.0,
        })
    }
}

/// Why a key could not be prewritten for now.
enum Blocked {
    Lock(LockInfo),
    CommittedBefore(TimeStamp),
}
