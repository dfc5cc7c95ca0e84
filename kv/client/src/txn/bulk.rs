//! Bulk transactions: writes leave memory before the commit (TiDB's pipelined DML).
//!
//! ```text
//! buffer ── full ──► frozen ──► prewritten behind the writer's back, with the generation of the flush
//!   ▲                  │
//!   └── the writer goes on, and waits only where this one is full and that one is under way
//! ```
//!
//! So there are two buffers in memory at most, whatever the transaction writes. It is optimistic,
//! its first flush names the primary, which heart beats keep alive from then on, and its locks are prewritten
//! ones that decide nothing before the primary is committed. The commit flushes the rest, commits the
//! primary, and brings the other locks to its end as those of a prepared transaction ([`super::prepare`]): by
//! the parts of the key space that hold them, for the keys themselves are not kept.
//!
//! **Reads.** A key is looked for in the buffer, in the frozen one, and then in the store, where the
//! transaction's own lock answers. Scans read past own locks: they show what was there at the
//! start, so that a statement never meets its own writes.
//!
//! **Invariants.** One flush is under way at a time, and the next has a higher generation, so that
//! a key's newest write is the one that stays (`kv/src/txn/prewrite.rs`). After a flush has failed the
//! transaction can only be rolled back. One that never flushed commits as any optimistic one, in
//! two phases.
//!
//! **Source.** TiDB, `docs/design/2024-01-09-pipelined-DML.md`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::Mutation;
use cairn_types::TimeStamp;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::batches::Mutations;
use super::commit::{BulkPart, Committer, Prewritten};
use super::keep_alive::{BULK_AGE_MAX_MS, KeepAlive};
use super::membuffer::{BufferLimits, MemBuffer};
use super::mutations::{leaves_lock, mutation};
use super::prepare::{Prepared, Span, few_spans};
use super::{CommitInfo, CommitKind, Transaction};
use crate::error::KvError;
use crate::scope::RequestScope;

/// When a bulk transaction flushes.
#[derive(Clone, Copy, Debug)]
pub struct BulkOptions {
    /// Bytes of keys and values.
    pub flush_bytes: u64,
    /// Keys.
    pub flush_keys: usize,
}

/// What of a bulk transaction is not in its buffer.
pub(super) struct Bulk {
    options: BulkOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the last flush.
    generation: u64,
    /// Of the first flush that locked something.
    primary: Option<Bytes>,
    keep_alive: Option<KeepAlive>,
    flight: Option<Flight>,
    /// What holds all locks.
    spans: Vec<Span>,
    keys_flushed: u64,
    waited: Duration,
}

/// A flush under way, or one that failed.
#[derive(Clone)]
struct Flight {
    frozen: Arc<MemBuffer>,
    done: Shared<BoxFuture<'static, Result<(), KvError>>>,
}

impl Bulk {
    /// Whether something has left the buffer.
    pub fn has_flushed(&self) -> bool {
        self.state.lock().generation > 0
    }

    /// What is being flushed.
    pub fn frozen(&self) -> Option<Arc<MemBuffer>> {
        self.state.lock().flight.as_ref().map(|flight| flight.frozen.clone())
    }

    /// How many keys have left the buffer.
    pub fn keys_flushed(&self) -> u64 {
        self.state.lock().keys_flushed
    }

    /// How long the writer has waited for flushes.
    pub fn waited(&self) -> Duration {
        self.state.lock().waited
    }

    fn is_full(&self, buffer: &MemBuffer) -> bool {
        let BulkOptions { flush_bytes, flush_keys } = self.options;
        buffer.size_bytes() >= flush_bytes || buffer.len() >= flush_keys
    }

    /// Waits for the flush under way.
    async fn settle(&self, start_ts: TimeStamp, scope: &RequestScope) -> Result<(), KvError> {
        let Some(done) = self.state.lock().flight.as_ref().map(|flight| flight.done.clone()) else {
            return Ok(());
        };
        let begun = Instant::now();
        let outcome = scope.run(done).await;
        let mut state = self.state.lock();
        state.waited += begun.elapsed();
        outcome??;
        state.flight = None;
        if state.keep_alive.as_ref().is_some_and(KeepAlive::is_over) {
            // What it would read of its own writes from here on may be gone.
            let reason = "its locks expired and were removed".into();
            return Err(KvError::TxnAborted { start_ts: start_ts.0, reason });
        }
        Ok(())
    }

    /// What the end of the transaction must know; heart beats stop when the last of it is dropped.
    fn close(&self, start_ts: TimeStamp) -> (Prepared, Option<Flight>, Option<KeepAlive>) {
        let mut state = self.state.lock();
        let (primary, spans) = (state.primary.clone(), std::mem::take(&mut state.spans));
        let prepared = Prepared { start_ts, primary, spans };
        (prepared, state.flight.take(), state.keep_alive.take())
    }
}

impl Transaction {
    pub(crate) fn in_bulk(mut self, options: BulkOptions) -> Transaction {
        self.bulk = Some(Bulk { options, state: Mutex::default() });
        *self.buffer.get_mut() = self.fresh_buffer();
        self
    }

    /// Flushes bound it, not a limit of its own.
    fn fresh_buffer(&self) -> MemBuffer {
        let entry_bytes_max = self.client.config.entry_size_bytes_max;
        MemBuffer::new(BufferLimits { size_bytes_max: u64::MAX, entry_bytes_max })
    }

    /// Whether its writes leave memory before the commit.
    pub fn is_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    /// Whether some of its writes have left memory: it cannot be run again unseen.
    pub fn has_flushed(&self) -> bool {
        self.bulk.as_ref().is_some_and(Bulk::has_flushed)
    }

    /// What lies below the buffers.
    pub(super) fn below(&self) -> crate::snapshot::Snapshot {
        match self.has_flushed() {
            true => self.snapshot().under_own_writes(),
            false => self.snapshot(),
        }
    }

    /// Of a bulk transaction, to be called between rows: has the buffer flushed if it is full. An
    /// error may be that of an earlier flush.
    pub async fn flush_if_full(&self) -> Result<(), KvError> {
        match &self.bulk {
            Some(bulk) if bulk.is_full(&self.buffer.read()) => self.flush(bulk).await,
            _ => Ok(()),
        }
    }

    async fn flush(&self, bulk: &Bulk) -> Result<(), KvError> {
        let scope = self.view.read().scope().clone();
        bulk.settle(self.start_ts, &scope).await?;
        let now = self.client.current_ts().await?;
        let fresh = self.fresh_buffer();
        let frozen = Arc::new(std::mem::replace(&mut *self.buffer.write(), fresh));
        let mutations: Vec<Mutation> =
            frozen.iter().filter_map(|(key, entry)| mutation(key, entry)).collect();
        let Some(first) = mutations.first() else { return Ok(()) };
        let open_ms = now.physical_ms().saturating_sub(self.start_ts.physical_ms());
        let mut locked = mutations.iter().filter(|one| leaves_lock(one)).map(|one| &one.key);
        let mut state = bulk.state.lock();
        state.generation += 1;
        state.keys_flushed += mutations.len() as u64;
        if state.primary.is_none()
            && let Some(primary) = locked.clone().next().cloned()
        {
            let (client, primary_key) = (self.client.clone(), primary.clone());
            let beats =
                KeepAlive::start(client, self.start_ts, primary_key, open_ms, BULK_AGE_MAX_MS);
            (state.primary, state.keep_alive) = (Some(primary), Some(beats));
        }
        let mut spans = std::mem::take(&mut state.spans);
        spans.extend(locked.by_ref().map(|key| (key.clone(), key.clone())));
        state.spans = few_spans(spans);
        let part = BulkPart {
            size_bytes: frozen.size_bytes(),
            primary_key: state.primary.clone().unwrap_or_else(|| first.key.clone()),
            generation: state.generation,
            txn_size: state.keys_flushed,
            mutations: Mutations(Arc::new(mutations)),
        };
        let terms = self.terms.lock().clone();
        let committer = Committer::of_part(self.client.clone(), self.start_ts, part, terms, scope);
        let terms = committer.terms(now, open_ms);
        let work = async move {
            match committer.prewrite_all(terms).await? {
                Prewritten::Locked { .. } => Ok(()),
                Prewritten::Committed { .. } => {
                    Err(KvError::Malformed("a flush of a transaction that is committed".into()))
                }
            }
        };
        let task = self.client.background.spawn(work);
        // It ends early only with the runtime.
        let done = task.map(|ended| ended.unwrap_or(Err(KvError::Cancelled))).boxed().shared();
        state.flight = Some(Flight { frozen, done });
        Ok(())
    }

    /// Of one whose writes have left the buffer.
    pub(super) async fn commit_flushed(&self, bulk: &Bulk) -> Result<CommitInfo, KvError> {
        match self.commit_flushed_primary(bulk).await {
            Ok(None) => Ok(CommitInfo::NOTHING),
            Ok(Some(commit_ts)) => {
                let (prepared, _, _) = bulk.close(self.start_ts);
                let client = self.client.clone();
                let work = async move { client.finish_prepared(&prepared, commit_ts).await };
                self.client.in_background(work).await;
                let kind = CommitKind::TwoPhases;
                Ok(CommitInfo { commit_ts, kind, ..CommitInfo::NOTHING })
            }
            Err(error) => {
                match error {
                    // What may be committed must not be rolled back.
                    KvError::UndeterminedCommit { .. } => drop(bulk.close(self.start_ts)),
                    _ => self.undo_flushed(bulk).await,
                }
                Err(error)
            }
        }
    }

    /// `None`: nothing was locked.
    async fn commit_flushed_primary(&self, bulk: &Bulk) -> Result<Option<TimeStamp>, KvError> {
        // Records of conflicting writers may have been collected.
        self.snapshot.check_visible()?;
        self.flush(bulk).await?;
        let scope = self.view.read().scope().clone();
        bulk.settle(self.start_ts, &scope).await?;
        let part = {
            let state = bulk.state.lock();
            let Some(primary_key) = state.primary.clone() else { return Ok(None) };
            BulkPart {
                mutations: Mutations::of_keys([primary_key.clone()]),
                size_bytes: 0,
                primary_key,
                generation: state.generation,
                txn_size: state.keys_flushed,
            }
        };
        let terms = self.terms.lock().clone();
        // A commit has no deadline: what it has begun must end one way or the other.
        let scope = RequestScope { deadline: None, ..scope };
        let committer = Committer::of_part(self.client.clone(), self.start_ts, part, terms, scope);
        let (commit_ts, _) = committer.commit_primary(0, TimeStamp::ZERO).await?;
        Ok(Some(commit_ts))
    }

    /// Removes the locks of all flushes, behind the caller's back.
    pub(super) async fn undo_flushed(&self, bulk: &Bulk) {
        let (prepared, flight, _) = bulk.close(self.start_ts);
        if prepared.primary.is_none() {
            return;
        }
        let client = self.client.clone();
        let work = async move {
            if let Some(Flight { done, .. }) = flight {
                // What is under way would come behind the rollback.
                let _ = done.await;
            }
            if let Err(error) = client.roll_back_prepared(&prepared).await {
                tracing::debug!(%error, "locks are left to expire");
            }
        };
        self.client.in_background(work).await;
    }
}
