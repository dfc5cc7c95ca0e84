//! Runs commands against replicated regions.
//!
//! **Flow**: admit (bounded commands and bytes) → latches of the keys → view of
//! the region → the command, a pure function → Raft write → answer. Changes of nothing but
//! pessimistic locks stay in the leader's memory, where that is possible
//! ([`crate::raftstore::LeaderLocks`]).
//!
//! **Pipelined locks.** Where it is not (no room, a hand-over is at hand, the engine knows a lock of the
//! key), a lock command is answered once its locks are proposed, and ends when they are applied: until
//! then it keeps its latches. If the proposal comes to nothing its transaction believes in a lock that is
//! not there, as it does when a leader died with its memory, and learns of that in the same way. So
//! just those changes may be answered for early that might as well have stayed in memory (of a
//! lock, shared or not, that has no holder but pessimistic ones), and only if the transaction had no
//! lock of the keys before: that one would come back and pass for the new one. Other commands than
//! lock commands are never: whoever gives locks back or lets them live on wants to know that it
//! happened. The idea is TiKV's (`pessimistic-txn.pipelined`), which waits for the same.
//!
//! **Invariants**
//! - From the view to the end of the write nobody else changes the keys: rivals on
//!   this store wait for the latches, and the write carries the view's term, so
//!   that Raft refuses it if another leader came between. What stays in memory may be granted
//!   by a leader that was deposed meanwhile; prewrite finds out.
//! - A command runs to its end even when its caller has gone ([`ToTheEnd`]).
//!   Otherwise a dropped caller would release latches while a proposal is still
//!   under way, and the next command would not see it.
//! - For the same reason the caller's deadline ends a command before it is
//!   proposed, never after.
//!
//! Reads take no latches.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::kv::{self, kv_request, kv_response};
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};
use tokio::sync::oneshot;

use super::latch::Latches;
use super::lock_waits::{LockWait, LockWaits};
use super::max_ts::{MaxTs, PendingGuard};
use super::to_the_end::ToTheEnd;
use super::{
    TxnError, check_secondary_locks, check_txn_status, cleanup, commit, pessimistic_lock,
    pessimistic_rollback, prewrite, resolve_lock, rollback, txn_heart_beat,
};
use crate::gc::VersionFilter;
use crate::keys::region_contains;
use crate::mvcc::keys::{decode_user_key, range_bounds, user_key};
use crate::mvcc::{Lock, MvccError, MvccReader, MvccTxn};
use crate::raftstore::{
    Clock, LockMemory, OnProposed, RaftKv, RegionContext, RegionError, RegionSnapshot, Replicated,
    Settled,
};

/// Commands that may be under way at once on a store. Above it a store answers
/// `ServerIsBusy` instead of piling up latches and memory.
const COMMANDS_MAX: usize = 8192;
/// Bytes of keys and values of the commands under way.
const COMMAND_BYTES_MAX: usize = 256 << 20;

/// A commit timestamp that is chosen here may lie this far above the transaction's start. Further
/// up a reader must have come with a timestamp that PD never gave; committing above it would hide
/// the commit from everybody else, so that PD's own timestamp is used (two phases).
const CHOSEN_AHEAD_MS_MAX: u64 = 10 * 60 * 1000;

/// Fresh timestamps, for the first commit timestamp that is chosen in a term.
#[async_trait]
pub trait TsoSource: Send + Sync {
    /// A timestamp above every one handed out before the call; `None` when PD
    /// does not answer.
    async fn timestamp(&self) -> Option<TimeStamp>;
}

/// Executes transaction commands on a store.
pub struct Scheduler {
    kv: Arc<dyn RaftKv>,
    pub(super) clock: Arc<dyn Clock>,
    max_ts: Arc<MaxTs>,
    tso: Option<Arc<dyn TsoSource>>,
    latches: Arc<Latches>,
    collected: VersionFilter,
    pub(super) waits: Arc<LockWaits>,
    lock_memory: LockMemory,
    pipelined_locks: Arc<AtomicU64>,
    commands: AtomicUsize,
    command_bytes: AtomicUsize,
}

/// Who may be answered before the command has ended.
type EarlyAnswer = oneshot::Sender<kv_response::Cmd>;

/// A command's share of the bounds, given back when dropped.
struct Admission {
    scheduler: Arc<Scheduler>,
    bytes: usize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.scheduler.commands.fetch_sub(1, Ordering::Relaxed);
        self.scheduler.command_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Scheduler {
    /// A scheduler over `kv`. Without `tso` one-phase and async commit always fall back. Records below the
    /// safe point of `collected` may be gone.
    pub fn new(
        kv: Arc<dyn RaftKv>,
        clock: Arc<dyn Clock>,
        max_ts: Arc<MaxTs>,
        tso: Option<Arc<dyn TsoSource>>,
        collected: VersionFilter,
    ) -> Arc<Scheduler> {
        Arc::new(Scheduler {
            kv,
            clock,
            max_ts,
            tso,
            latches: Arc::new(Latches::default()),
            collected,
            waits: Arc::default(),
            lock_memory: LockMemory::default(),
            pipelined_locks: Arc::default(),
            commands: AtomicUsize::new(0),
            command_bytes: AtomicUsize::new(0),
        })
    }

    /// Commands under way.
    pub fn running(&self) -> usize {
        self.commands.load(Ordering::Relaxed)
    }

    /// Transactions that wait for locks.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// Memory of locks that are not replicated.
    pub fn lock_bytes(&self) -> usize {
        self.lock_memory.used()
    }

    /// Lock commands answered before their locks were replicated, so far.
    pub fn pipelined_locks(&self) -> u64 {
        self.pipelined_locks.load(Ordering::Relaxed)
    }

    /// Who waits for which key, at most `limit` of them.
    pub fn lock_waits(&self, limit: usize) -> Vec<(Bytes, LockWait)> {
        self.waits.list(limit)
    }

    /// Runs one writing command to its end. Must be called within a tokio runtime.
    pub async fn run(
        self: &Arc<Self>,
        context: RegionContext,
        command: kv_request::Cmd,
    ) -> Result<kv_response::Cmd, RegionError> {
        match command {
            kv_request::Cmd::PessimisticLock(request) => {
                self.lock_patiently(context, request).await
            }
            command => self.run_once(context, command).await,
        }
    }

    /// As [`Scheduler::run`], without waiting for locks.
    pub(super) async fn run_once(
        self: &Arc<Self>,
        context: RegionContext,
        command: kv_request::Cmd,
    ) -> Result<kv_response::Cmd, RegionError> {
        let bytes = command_bytes(&command);
        let admission = self.admit(bytes)?;
        if brings_data(&command) {
            // Before latches are taken: who waits here holds up nobody.
            let wait = self.kv.admit_data(bytes as u64)?;
            if !wait.is_zero() {
                let end = self.clock.now().plus(wait);
                if context.deadline.is_some_and(|deadline| deadline.has_passed(end)) {
                    // Said now it is certain that nothing was done.
                    return Err(RegionError::busy("the caller cannot wait for the engine"));
                }
                tokio::time::sleep(wait).await;
            }
        }
        let (early, answered) = match &command {
            kv_request::Cmd::PessimisticLock(_) => {
                let (early, answered) = oneshot::channel();
                (Some(early), Some(answered))
            }
            _ => (None, None),
        };
        let work = ToTheEnd::new(async move {
            let scheduler = Arc::clone(&admission.scheduler);
            scheduler.execute(context, &command, early).await
        });
        let Some(answered) = answered else { return work.await };
        tokio::select! {
            biased;
            done = work => done,
            // The work is let go of, and goes on by itself.
            Ok(response) = answered => Ok(response),
        }
    }

    fn admit(self: &Arc<Self>, bytes: usize) -> Result<Admission, RegionError> {
        if let Some(busy) = self.kv.is_busy() {
            return Err(busy.into());
        }
        let commands = self.commands.fetch_add(1, Ordering::Relaxed) + 1;
        let total_bytes = self.command_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let admission = Admission { scheduler: Arc::clone(self), bytes };
        if commands > COMMANDS_MAX {
            return Err(RegionError::busy("too many transaction commands under way"));
        }
        // A single large command may pass when it is alone.
        if total_bytes > COMMAND_BYTES_MAX && commands > 1 {
            return Err(RegionError::busy("transaction commands under way hold too many bytes"));
        }
        Ok(admission)
    }

    async fn execute(
        &self,
        context: RegionContext,
        command: &kv_request::Cmd,
        early: Option<EarlyAnswer>,
    ) -> Result<kv_response::Cmd, RegionError> {
        match command {
            kv_request::Cmd::ResolveLock(request) if request.keys.is_empty() => {
                self.resolve_region(context, request).await
            }
            command => self.execute_on_keys(context, command, early).await,
        }
    }

    /// Resolves every lock of a transaction in a region, round by round.
    async fn resolve_region(
        &self,
        context: RegionContext,
        request: &kv::ResolveLockRequest,
    ) -> Result<kv_response::Cmd, RegionError> {
        // What lies before is done: the next round need not step over what it left.
        let mut done = Bytes::new();
        loop {
            self.check_deadline(&context)?;
            let view = self.view(&context).await?;
            let (start, end) = ((&view.region.start_key).max(&done), &view.region.end_key);
            let (lower, upper) = range_bounds(start, end);
            let leader_locks = view.locks.of_range(&view, &lower, &upper)?;
            let reader = MvccReader::with_locks(Arc::clone(&view.engine), leader_locks);
            let keys = match resolve_lock::find(&reader, request.start_ts.into(), start, end) {
                Ok(keys) => keys,
                Err(error) => return Ok(resolve_response(Some(abort(&error)))),
            };
            if keys.is_empty() {
                return Ok(resolve_response(None));
            }
            let is_last = keys.len() < resolve_lock::LOCKS_PER_ROUND;
            done = keys.last().cloned().unwrap_or_default();
            let round =
                kv_request::Cmd::ResolveLock(kv::ResolveLockRequest { keys, ..request.clone() });
            let response = self.execute_on_keys(context.clone(), &round, None).await?;
            let has_failed = matches!(
                &response,
                kv_response::Cmd::ResolveLock(kv::ResolveLockResponse { error: Some(_) })
            );
            if is_last || has_failed {
                return Ok(response);
            }
        }
    }

    async fn execute_on_keys(
        &self,
        context: RegionContext,
        command: &kv_request::Cmd,
        mut early: Option<EarlyAnswer>,
    ) -> Result<kv_response::Cmd, RegionError> {
        let keys = command_keys(command);
        let latched = keys.iter().filter(|_| !planted(Bug::NoLatches));
        let _latches = self.latches.acquire(latched.map(|key| &key[..])).await;
        self.check_deadline(&context)?;
        let mut view = match self.kv.try_live_view(&context)? {
            Some(view) => view,
            None => self.kv.snapshot(&context).await?,
        };
        loop {
            let done = self.execute_at(&view, &context, &keys, command, &mut early).await?;
            if let Some(done) = done {
                return Ok(done);
            }
            // This one counts, as it is not live.
            view = self.kv.snapshot(&context).await?;
        }
    }

    /// Runs a command whose keys are latched. `Ok(None)`: the view turned out not to count once
    /// all was read, as a live one may; nothing was done.
    ///
    /// A live view serves as well as one of a single moment: with the latches held, nothing that is
    /// applied here changes the keys while this store leads.
    async fn execute_at(
        &self,
        view: &RegionSnapshot,
        context: &RegionContext,
        keys: &[&Bytes],
        command: &kv_request::Cmd,
        early: &mut Option<EarlyAnswer>,
    ) -> Result<Option<kv_response::Cmd>, RegionError> {
        if let Some(key) = keys.iter().find(|key| !region_contains(&view.region, key)) {
            let key = Bytes::clone(key);
            return Err(RegionError::KeyNotInRegion { key, region_id: context.region_id });
        }
        if let kv_request::Cmd::PessimisticRollback(request) = command {
            let start_ts = TimeStamp(request.start_ts);
            let up_to = TimeStamp(request.for_update_ts);
            request.keys.iter().for_each(|key| self.waits.cancel(key, start_ts, up_to));
        }
        // Readers meet the keys in the table until the changes are applied.
        let chosen = self.choose_commit_ts(view, command).await;
        let chosen_ts = chosen.as_ref().map(|(_, chosen_ts)| *chosen_ts);
        let user_keys = || keys.iter().map(|key| user_key(key));
        let leader_locks = view.locks.of_keys(view, user_keys())?;
        let mut reader = MvccReader::with_locks(Arc::clone(&view.engine), leader_locks);
        let claimed = match command {
            kv_request::Cmd::PessimisticLock(request) if request.is_shared => {
                let start_ts = TimeStamp(request.start_ts);
                self.waits.claimed(&request.keys, start_ts, self.clock.now())
            }
            _ => BTreeSet::new(),
        };
        let (changes, response) = run_command(&mut reader, command, chosen_ts, &claimed);
        // What was read is of a time up to now.
        if let Some(refusal) = self.refuse_if_collected(command) {
            return Ok(Some(refusal));
        }
        if !self.kv.is_current(view) {
            return Ok(None);
        }
        if changes.is_empty() {
            return Ok(Some(response));
        }
        self.check_deadline(context)?;
        let must_last = changes.must_last();
        let may_stay = !must_last && !reader.met_lasting_lock();
        let early = early.take().filter(|_| !must_last && takes_fresh_locks(&response));
        let news = self.news_for_waiters(&changes);
        let (batch, now) = (changes.into_batch(), self.clock.now());
        let settled = view.locks.settle(view, batch, may_stay, &self.lock_memory, now)?;
        if let Settled::Replicate(batch) = settled {
            let context = RegionContext { term: view.term, deadline: None, ..context.clone() };
            let on_proposed = early.map(|early| self.answer_early(early, &response));
            let is_pipelined = on_proposed.is_some();
            let written = match batch.is_empty() {
                true => Ok(()),
                false => self.kv.write(&context, batch, on_proposed).await,
            };
            view.locks.finish(user_keys(), fate_of(&written));
            if let Err(error) = written {
                if is_pipelined {
                    // Told that it has the locks, it handed its turn on to nobody.
                    news.iter().for_each(|(key, _)| self.waits.released(key));
                }
                return Err(error);
            }
        }
        self.tell_waiters(news);
        Ok(Some(response))
    }

    /// Answers a lock command whose locks are proposed.
    fn answer_early(&self, early: EarlyAnswer, response: &kv_response::Cmd) -> OnProposed {
        let (response, pipelined_locks) = (response.clone(), Arc::clone(&self.pipelined_locks));
        Box::new(move || {
            // A caller that has gone is not answered.
            if early.send(response).is_ok() {
                pipelined_locks.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// A transaction that began below the safe point cannot be told which commits came after
    /// its reads: their records may have been collected, on this replica up to now.
    fn refuse_if_collected(&self, command: &kv_request::Cmd) -> Option<kv_response::Cmd> {
        let kv_request::Cmd::Prewrite(request) = command else { return None };
        let safe_point = self.collected.safe_point();
        if request.start_ts >= safe_point.0 {
            return None;
        }
        let reason = format!("it began at {}, the GC safe point is {safe_point}", request.start_ts);
        let error = kv::KeyError { kind: Some(kv::key_error::Kind::Abort(reason)) };
        let errors = vec![error];
        Some(kv_response::Cmd::Prewrite(kv::PrewriteResponse { errors, ..Default::default() }))
    }

    /// What becomes of locks, by raw key; of none when nobody waits: who comes from here on looks
    /// once more, behind the latches that are held.
    fn news_for_waiters(&self, changes: &MvccTxn) -> Vec<(Bytes, Option<Lock>)> {
        if self.waits.is_empty() {
            return Vec::new();
        }
        let news = |(user_key, record): (&Bytes, Option<&Bytes>)| {
            let mut key = Vec::new();
            decode_user_key(user_key, &mut key).ok()?;
            // What was just encoded reads back.
            let lock = record.map(|bytes| Lock::decode(bytes)).transpose().ok()?;
            Some((Bytes::from(key), lock))
        };
        changes.lock_changes().filter_map(news).collect()
    }

    /// Tells who waits for the keys what has become of their locks.
    fn tell_waiters(&self, news: Vec<(Bytes, Option<Lock>)>) {
        for (key, lock) in news {
            match lock {
                Some(lock) => {
                    let holders: Vec<TimeStamp> =
                        lock.holders().map(|holder| holder.start_ts).collect();
                    self.waits.taken(&key, &holders, lock.is_shared);
                }
                None => self.waits.released(&key),
            }
        }
    }

    async fn view(&self, context: &RegionContext) -> Result<RegionSnapshot, RegionError> {
        match self.kv.try_local_snapshot(context)? {
            Some(view) => Ok(view),
            None => self.kv.snapshot(context).await,
        }
    }

    fn check_deadline(&self, context: &RegionContext) -> Result<(), RegionError> {
        match context.deadline {
            Some(deadline) if deadline.has_passed(self.clock.now()) => {
                Err(RegionError::DeadlineExceeded)
            }
            _ => Ok(()),
        }
    }

    /// Chooses a commit timestamp, or the least of an async commit, if the command asks for it
    /// and this leader knows what was read before it.
    async fn choose_commit_ts(
        &self,
        view: &RegionSnapshot,
        command: &kv_request::Cmd,
    ) -> Option<(PendingGuard, TimeStamp)> {
        let kv_request::Cmd::Prewrite(request) = command else { return None };
        if !request.try_one_pc && !request.use_async_commit {
            return None;
        }
        if !self.max_ts.is_synced(view) {
            let pd_ts = self.tso.as_ref()?.timestamp().await?;
            self.max_ts.sync(view, pd_ts);
        }
        let (guard, chosen_ts) = self.max_ts.begin(request);
        // The transaction's own timestamps are PD's.
        let own_ts = TimeStamp(request.start_ts.max(request.min_commit_ts));
        let ahead_ms = chosen_ts.physical_ms().saturating_sub(own_ts.physical_ms());
        let is_out_of_bounds = request.max_commit_ts != 0 && chosen_ts.0 > request.max_commit_ts;
        (ahead_ms <= CHOSEN_AHEAD_MS_MAX && !is_out_of_bounds).then_some((guard, chosen_ts))
    }
}

/// Whether a lock command changes no lock that the transaction has already. Were such a change lost
/// with its leader, what it replaces would come back and pass for it.
fn takes_fresh_locks(response: &kv_response::Cmd) -> bool {
    let kv_response::Cmd::PessimisticLock(response) = response else { return false };
    response.results.iter().all(|result| result.held_ts == 0)
}

/// What is certain of a write.
fn fate_of(written: &Result<(), RegionError>) -> Replicated {
    match written {
        Ok(()) => Replicated::Done,
        Err(RegionError::StaleCommand | RegionError::DeadlineExceeded) => Replicated::Unknown,
        Err(_) => Replicated::Refused,
    }
}

/// Runs a command: its changes (none beside an error) and its answer.
fn run_command(
    reader: &mut MvccReader,
    command: &kv_request::Cmd,
    chosen_ts: Option<TimeStamp>,
    claimed: &BTreeSet<Bytes>,
) -> (MvccTxn, kv_response::Cmd) {
    let mut txn = MvccTxn::new();
    let txn_ref = &mut txn;
    let response = match command {
        kv_request::Cmd::Prewrite(request) => {
            let outcome = prewrite::run(reader, txn_ref, request, chosen_ts);
            let response = outcome.unwrap_or_else(|error| kv::PrewriteResponse {
                errors: vec![abort(&error)],
                ..Default::default()
            });
            if !response.errors.is_empty() {
                txn = MvccTxn::new();
            }
            return (txn, kv_response::Cmd::Prewrite(response));
        }
        kv_request::Cmd::PessimisticLock(request) => {
            let outcome = pessimistic_lock::run(reader, txn_ref, request, claimed);
            let response = outcome.unwrap_or_else(|error| kv::PessimisticLockResponse {
                errors: vec![abort(&error)],
                ..Default::default()
            });
            (!response.errors.is_empty(), kv_response::Cmd::PessimisticLock(response))
        }
        kv_request::Cmd::PessimisticRollback(request) => {
            let error = error_of(pessimistic_rollback::run(reader, txn_ref, request));
            let response = kv::PessimisticRollbackResponse { error };
            (response.error.is_some(), kv_response::Cmd::PessimisticRollback(response))
        }
        kv_request::Cmd::Commit(request) => {
            let error = error_of(commit::run(reader, txn_ref, request));
            (error.is_some(), kv_response::Cmd::Commit(kv::CommitResponse { error }))
        }
        kv_request::Cmd::Rollback(request) => {
            let error = error_of(rollback::run(reader, txn_ref, request));
            (error.is_some(), kv_response::Cmd::Rollback(kv::RollbackResponse { error }))
        }
        kv_request::Cmd::Cleanup(request) => {
            let error = error_of(cleanup::run(reader, txn_ref, request));
            let commit_ts = match error.as_ref().and_then(|error| error.kind.as_ref()) {
                Some(kv::key_error::Kind::Committed(committed)) => committed.commit_ts,
                _ => 0,
            };
            let response = kv::CleanupResponse { error, commit_ts };
            (response.error.is_some(), kv_response::Cmd::Cleanup(response))
        }
        kv_request::Cmd::CheckTxnStatus(request) => {
            let response =
                check_txn_status::run(reader, txn_ref, request).unwrap_or_else(|error| {
                    kv::CheckTxnStatusResponse {
                        error: Some(key_error(error)),
                        ..Default::default()
                    }
                });
            (response.error.is_some(), kv_response::Cmd::CheckTxnStatus(response))
        }
        kv_request::Cmd::CheckSecondaryLocks(request) => {
            let outcome = check_secondary_locks::run(reader, txn_ref, request);
            let response = outcome.unwrap_or_else(|error| kv::CheckSecondaryLocksResponse {
                error: Some(abort(&error)),
                ..Default::default()
            });
            (response.error.is_some(), kv_response::Cmd::CheckSecondaryLocks(response))
        }
        kv_request::Cmd::ResolveLock(request) => {
            let (start_ts, commit_ts) = (request.start_ts.into(), request.commit_ts.into());
            let outcome = resolve_lock::run(reader, txn_ref, start_ts, commit_ts, &request.keys);
            let error = error_of(outcome);
            (error.is_some(), resolve_response(error))
        }
        kv_request::Cmd::TxnHeartBeat(request) => {
            let response = match txn_heart_beat::run(reader, txn_ref, request) {
                Ok(lock_ttl_ms) => kv::TxnHeartBeatResponse { error: None, lock_ttl_ms },
                Err(error) => {
                    kv::TxnHeartBeatResponse { error: Some(key_error(error)), lock_ttl_ms: 0 }
                }
            };
            (response.error.is_some(), kv_response::Cmd::TxnHeartBeat(response))
        }
        _ => unreachable!("only transaction commands are scheduled"),
    };
    let (has_failed, response) = response;
    if has_failed {
        txn = MvccTxn::new();
    }
    (txn, response)
}

/// Whether the scheduler runs this command.
pub fn is_scheduled(command: &kv_request::Cmd) -> bool {
    use kv_request::Cmd;
    matches!(
        command,
        Cmd::Prewrite(_)
            | Cmd::PessimisticLock(_)
            | Cmd::PessimisticRollback(_)
            | Cmd::Commit(_)
            | Cmd::Rollback(_)
            | Cmd::Cleanup(_)
            | Cmd::CheckTxnStatus(_)
            | Cmd::CheckSecondaryLocks(_)
            | Cmd::ResolveLock(_)
            | Cmd::TxnHeartBeat(_)
    )
}

fn command_keys(command: &kv_request::Cmd) -> Vec<&Bytes> {
    use kv_request::Cmd;
    match command {
        Cmd::Prewrite(request) => request.mutations.iter().map(|m| &m.key).collect(),
        Cmd::PessimisticLock(request) => request.keys.iter().collect(),
        Cmd::PessimisticRollback(request) => request.keys.iter().collect(),
        Cmd::Commit(request) => request.keys.iter().collect(),
        Cmd::Rollback(request) => request.keys.iter().collect(),
        Cmd::Cleanup(request) => vec![&request.key],
        Cmd::CheckTxnStatus(request) => vec![&request.primary_key],
        Cmd::CheckSecondaryLocks(request) => request.keys.iter().collect(),
        Cmd::ResolveLock(request) => request.keys.iter().collect(),
        Cmd::TxnHeartBeat(request) => vec![&request.primary],
        _ => Vec::new(),
    }
}

fn command_bytes(command: &kv_request::Cmd) -> usize {
    let keys: usize = command_keys(command).iter().map(|key| key.len()).sum();
    match command {
        kv_request::Cmd::Prewrite(request) => {
            keys + request.mutations.iter().map(|m| m.value.len()).sum::<usize>()
        }
        _ => keys,
    }
}

/// Whether the command adds data that a full disk has no room for. Deletions do not, nor
/// does what ends transactions; and metadata is let through, so that tables can be dropped.
fn brings_data(command: &kv_request::Cmd) -> bool {
    const METADATA: &[u8] = b"m";
    let kv_request::Cmd::Prewrite(request) = command else { return false };
    request.mutations.iter().any(|mutation| {
        matches!(mutation.op(), kv::MutationOp::OpPut | kv::MutationOp::OpInsert)
            && !mutation.key.starts_with(METADATA)
    })
}

fn resolve_response(error: Option<kv::KeyError>) -> kv_response::Cmd {
    kv_response::Cmd::ResolveLock(kv::ResolveLockResponse { error })
}

fn error_of(outcome: Result<(), TxnError>) -> Option<kv::KeyError> {
    outcome.err().map(key_error)
}

fn key_error(error: TxnError) -> kv::KeyError {
    error.into_key_error().unwrap_or_else(|error| abort(&error))
}

/// A storage failure as the client sees it: not retried, and not hidden.
pub(crate) fn abort(error: &MvccError) -> kv::KeyError {
    tracing::error!(%error, "storage failed below a request");
    kv::KeyError { kind: Some(kv::key_error::Kind::Abort(error.to_string())) }
}
