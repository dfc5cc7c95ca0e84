//! Narrow traits over storage engines: RocksDB, the Raft log, and their in-memory twins.
