//! A store: raft groups, apply, MVCC, transaction commands, coprocessor.

pub mod keys;
pub mod raftstore;
pub mod mvcc;
pub mod txn;
