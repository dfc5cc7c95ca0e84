//! Collects the changes of one command into a write batch, in the vocabulary of
//! Percolator's three columns. Whether they need be durable is noted with them.

use bytes::Bytes;
use cairn_engine::{Cf, WriteBatch, WriteOp};
use cairn_types::TimeStamp;

use super::SHORT_VALUE_BYTES_MAX;
use super::keys::TS_LEN;
use super::lock::{Lock, LockKind};
use super::write::Write;

/// The changes of one command.
#[derive(Default)]
pub struct MvccTxn {
    batch: WriteBatch,
    must_last: bool,
}

impl MvccTxn {
    /// No changes yet.
    pub fn new() -> MvccTxn {
        MvccTxn::default()
    }

    /// Whether `value` goes inline into lock and commit record.
    pub fn is_short(value: &[u8]) -> bool {
        value.len() <= SHORT_VALUE_BYTES_MAX
    }

    /// Sets the key's lock, with all of its holders.
    pub fn put_lock(&mut self, user_key: &[u8], lock: &Lock) {
        self.must_last |= lock.holders().any(|holder| holder.kind != LockKind::Pessimistic);
        self.put(Cf::Lock, Bytes::copy_from_slice(user_key), lock.encode());
    }

    /// Removes this holder of the key's lock; the last one takes the lock along.
    pub fn unlock(&mut self, user_key: &[u8], lock: &Lock) {
        match lock.left_behind() {
            Some(rest) => self.put_lock(user_key, &rest),
            None => self.delete(Cf::Lock, Bytes::copy_from_slice(user_key)),
        }
    }

    /// What becomes of locks, by user key: the new record, or nothing.
    pub fn lock_changes(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.batch.ops().iter().filter_map(|op| match op {
            WriteOp::Put { cf: Cf::Lock, key, value } => Some((key, Some(value))),
            WriteOp::Delete { cf: Cf::Lock, key } => Some((key, None)),
            _ => None,
        })
    }

    /// Stores a long value.
    pub fn put_value(&mut self, user_key: &[u8], start_ts: TimeStamp, value: &Bytes) {
        self.must_last = true;
        self.put(Cf::Default, versioned(user_key, start_ts), value.clone());
    }

    /// Removes a long value.
    pub fn delete_value(&mut self, user_key: &[u8], start_ts: TimeStamp) {
        self.must_last = true;
        self.delete(Cf::Default, versioned(user_key, start_ts));
    }

    /// Stores a commit record.
    pub fn put_write(&mut self, user_key: &[u8], commit_ts: TimeStamp, write: &Write<'_>) {
        self.must_last = true;
        self.put(Cf::Write, versioned(user_key, commit_ts), write.encode());
    }

    /// Removes a commit record (a collapsed rollback).
    pub fn delete_write(&mut self, user_key: &[u8], commit_ts: TimeStamp) {
        self.must_last = true;
        self.delete(Cf::Write, versioned(user_key, commit_ts));
    }

    /// Whether nothing changed, so that nothing need be replicated.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Whether there is more in it than pessimistic locks and removals of locks.
    pub fn must_last(&self) -> bool {
        self.must_last
    }

    /// The collected batch.
    pub fn into_batch(self) -> WriteBatch {
        self.batch
    }

    fn put(&mut self, cf: Cf, key: Bytes, value: impl Into<Bytes>) {
        self.batch.put(cf, key, value);
    }

    fn delete(&mut self, cf: Cf, key: Bytes) {
        self.batch.delete(cf, key);
    }
}

fn versioned(user_key: &[u8], ts: TimeStamp) -> Bytes {
    let mut key = Vec::with_capacity(user_key.len() + TS_LEN);
    key.extend_from_slice(user_key);
    key.extend_from_slice(&(!ts.0).to_be_bytes());
    key.into()
}
