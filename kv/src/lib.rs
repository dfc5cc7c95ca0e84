//! A store: raft groups, apply, MVCC, transaction commands, coprocessor.
