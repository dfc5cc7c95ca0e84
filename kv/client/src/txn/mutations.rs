//! What a transaction's buffer and locks mean to the stores: the mutations of its commit.

use bytes::Bytes;
use cairn_proto::kv::{Assertion, Mutation, MutationOp};

use super::locks::Held;
use super::membuffer::{BufferedValue, Entry};

/// Whether a prewrite of the mutation locks its key.
pub(super) fn leaves_lock(mutation: &Mutation) -> bool {
    mutation.op() != MutationOp::OpCheckNotExists
}

/// What an entry of the buffer means to the store.
pub(super) fn mutation(key: &Bytes, entry: &Entry) -> Option<Mutation> {
    let (op, value) = match (&entry.value, entry.flags) {
        (BufferedValue::Put(value), flags) if flags.presume_not_exists => {
            (MutationOp::OpInsert, value.clone())
        }
        (BufferedValue::Put(value), _) => (MutationOp::OpPut, value.clone()),
        // Inserted and removed again: nothing to write, but it must not have
        // existed.
        (BufferedValue::Delete, flags) if flags.presume_not_exists => {
            (MutationOp::OpCheckNotExists, Bytes::new())
        }
        (BufferedValue::Delete, _) => (MutationOp::OpDelete, Bytes::new()),
        (BufferedValue::Untouched | BufferedValue::Unchanged(_), flags) if flags.locked => {
            (MutationOp::OpLock, Bytes::new())
        }
        (BufferedValue::Untouched | BufferedValue::Unchanged(_), _) => return None,
    };
    // The other kinds check what they must by themselves.
    let assertion = match op {
        MutationOp::OpPut | MutationOp::OpDelete => entry.flags.assertion,
        _ => Assertion::None,
    };
    Some(Mutation {
        op: op.into(),
        key: key.clone(),
        value,
        assertion: assertion.into(),
        ..Mutation::default()
    })
}

/// Marks the mutations of keys that the transaction holds, and adds those it holds only: they
/// guard what it has read.
pub(super) fn with_locks(mut mutations: Vec<Mutation>, mut held: Held) -> Vec<Mutation> {
    for mutation in &mut mutations {
        let Some(lock) = held.remove(&mutation.key) else { continue };
        (mutation.is_locked, mutation.locked_ts) = (true, lock.known_ts.0);
        if !leaves_lock(mutation) {
            // That the key did not exist was seen under its lock.
            mutation.set_op(MutationOp::OpLock);
        }
        mutation.is_shared = lock.is_shared && mutation.op() == MutationOp::OpLock;
    }
    let op = MutationOp::OpLock.into();
    let guards = held.into_iter().map(|(key, lock)| Mutation {
        op,
        key,
        is_locked: true,
        locked_ts: lock.known_ts.0,
        is_shared: lock.is_shared,
        ..Mutation::default()
    });
    mutations.extend(guards);
    mutations.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    mutations
}
