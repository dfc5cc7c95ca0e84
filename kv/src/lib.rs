//! A store: raft groups, apply, MVCC, transaction commands, coprocessor.

pub mod coprocessor;
pub mod gc;
pub mod keys;
pub mod mvcc;
pub mod raftstore;
pub mod service;
pub mod txn;
