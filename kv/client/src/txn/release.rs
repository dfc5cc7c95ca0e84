//! Locks given back before their transaction ends: what took them was undone (a statement that
//! failed, a savepoint that was rolled back to), or a statement that started over did not ask
//! for them again.
//!
//! **Behind the caller's back.** The locks of one such event form a batch; one task of a transaction
//! sends its batches, one after the other. What a store does not answer for is asked for once
//! more at the transaction's end. Keys in batches count as held to the limit of the transaction's
//! size, so that no client can pile them up.
//!
//! **A key that is wanted again** is simply locked again. That request and the one to give the key back
//! may come in any order: each batch names the newest timestamp that its locks were asked for
//! with, and later statements ask with later ones, so that the store leaves what a batch does not mean.
//!
//! **The primary** goes when all locks go, and the next lock is the new one. Whoever meets a
//! remnant that names the old one removes it (`lock_resolver.rs`).
//!
//! **SERIALIZABLE.** What was read stays read, and is looked at once more at COMMIT where the lock no
//! longer guards it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{PessimisticRollbackRequest, TxnLockNotFound, key_error};
use cairn_types::TimeStamp;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::batches::{Mutations, Run};
use super::locks::{Held, Locks};
use super::{Checkpoint, LocksMark, Transaction};
use crate::client::KvClient;
use crate::error::{KvError, ShownKey};
use crate::request::{Cmd, RequestOptions, expect_response};

/// Locks to give back, and up to when they were taken.
pub(super) struct Batch {
    pub keys: BTreeSet<Bytes>,
    pub for_update_ts: TimeStamp,
}

impl Transaction {
    /// A point to which the writes and locks can be brought back; before each statement.
    pub fn checkpoint(&self) -> Checkpoint {
        let locks = self.locks.as_ref().map_or(LocksMark::default(), Locks::mark);
        Checkpoint { buffer: self.buffer.write().checkpoint(), locks }
    }

    /// Undoes the writes since the checkpoint, and gives the locks back that were taken since.
    pub fn rollback_to(&self, checkpoint: Checkpoint) {
        self.buffer.write().rollback_to(checkpoint.buffer);
        self.release_locks(|locks| locks.give_back_since(checkpoint.locks));
    }

    /// Keeps the writes since the checkpoint, and the locks; of a statement that started over,
    /// those that it asked for since.
    pub fn release(&self, checkpoint: Checkpoint) {
        self.buffer.write().release(checkpoint.buffer);
        self.release_locks(|locks| locks.give_stale_back(checkpoint.locks));
    }

    /// The statement that began at the checkpoint starts over: undoes its writes and keeps its
    /// locks, so that it reads what nobody else can change now. What it has read so far was shown
    /// to nobody. Answers its checkpoint from here on.
    pub fn start_over(&self, checkpoint: Checkpoint) -> Checkpoint {
        if let Some(reads) = &self.reads {
            reads.forget_statement();
        }
        if let Some(locks) = &self.locks {
            locks.start_over();
        }
        let mut buffer = self.buffer.write();
        buffer.rollback_to(checkpoint.buffer);
        Checkpoint { buffer: buffer.checkpoint(), ..checkpoint }
    }

    fn release_locks(&self, choose: impl FnOnce(&Locks) -> BTreeSet<Bytes>) {
        let Some(locks) = &self.locks else { return };
        let keys = choose(locks);
        if keys.is_empty() {
            return;
        }
        if let Some(reads) = &self.reads {
            reads.unguard(&keys);
        }
        if locks.enqueue(keys) {
            let (client, locks, start_ts) = (self.client.clone(), locks.clone(), self.start_ts);
            self.client.background.spawn(send_batches(client, locks, start_ts));
        }
    }

    /// Of a transaction without writes: gives its locks back and answers whether they have held
    /// until now, so that what it read under them was so at one moment, the beginning of its COMMIT.
    ///
    /// An answer that was lost may make a lock seem lost that had held.
    pub(super) async fn hand_in_locks(&self) -> Result<(), KvError> {
        let Some(locks) = &self.locks else { return Ok(()) };
        let held = locks.held();
        if held.is_empty() {
            self.give_all_back().await;
            return Ok(());
        }
        let outcome = self.client.hand_in(self.start_ts, held).await;
        // Records of others that were collected meanwhile would not have been seen.
        let outcome = outcome.and_then(|()| self.snapshot.check_visible());
        match &outcome {
            Ok(()) => self.give_back(locks.give_unsure_back()).await,
            Err(_) => self.give_all_back().await,
        }
        outcome
    }
}

impl KvClient {
    async fn hand_in(self: &Arc<Self>, start_ts: TimeStamp, held: Held) -> Result<(), KvError> {
        let locked_ts: Vec<u64> = held.values().map(|lock| lock.known_ts.0).collect();
        let keys = Mutations::of_keys(held.into_keys());
        let build = |piece: &Run| {
            Cmd::PessimisticRollback(PessimisticRollbackRequest {
                keys: keys.keys(piece),
                start_ts: start_ts.0,
                for_update_ts: 0,
                locked_ts: locked_ts[piece.clone()].to_vec(),
            })
        };
        let mut retrier = self.retrier();
        let pieces = keys.cut(self, keys.all(), &mut retrier).await?;
        let handed_in = stream::iter(pieces)
            .map(|piece| self.hand_in_run(start_ts, &keys, piece, &build))
            .buffer_unordered(self.config.concurrency.max(1));
        handed_in.try_collect().await
    }

    async fn hand_in_run(
        &self,
        start_ts: TimeStamp,
        keys: &Mutations,
        mut rest: Run,
        build: &(dyn Fn(&Run) -> Cmd + Send + Sync),
    ) -> Result<(), KvError> {
        let mut retrier = self.retrier();
        while !rest.is_empty() {
            let options = RequestOptions::default();
            let answer = keys.send_first(self, &rest, &options, &mut retrier, build).await?;
            let response = expect_response!(answer.response, PessimisticRollback)?;
            match response.error.and_then(|error| error.kind) {
                None => rest.start = answer.piece.end,
                Some(key_error::Kind::TxnLockNotFound(TxnLockNotFound { key, .. })) => {
                    let key = ShownKey(key);
                    let reason = format!("its lock on {key} was lost to another transaction");
                    return Err(KvError::TxnAborted { start_ts: start_ts.0, reason });
                }
                Some(key_error::Kind::Abort(reason)) => {
                    return Err(KvError::TxnAborted { start_ts: start_ts.0, reason });
                }
                Some(kind) => {
                    return Err(KvError::Malformed(format!("giving locks back: {kind:?}")));
                }
            }
        }
        Ok(())
    }
}

/// Sends what is queued until nothing is left.
async fn send_batches(client: Arc<KvClient>, locks: Locks, start_ts: TimeStamp) {
    // The semaphore is never closed.
    let _slot = client.background_slots.acquire().await;
    while let Some(batch) = locks.next_batch() {
        let keys = Mutations::of_keys(batch.keys.iter().cloned());
        let build = |piece: &Run| {
            Cmd::PessimisticRollback(PessimisticRollbackRequest {
                keys: keys.keys(piece),
                start_ts: start_ts.0,
                for_update_ts: batch.for_update_ts.0,
                locked_ts: Vec::new(),
            })
        };
        let outcome = keys.pass(&client, keys.all(), &build).await;
        if let Err(error) = &outcome {
            tracing::debug!(%error, "locks are given back when their transaction ends");
        }
        locks.batch_sent(batch, outcome.is_ok());
    }
}
