//! The client of the KV tier: region cache, retries, two-phase commit, snapshot reads, scan tasks.
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`] | [`KvClient`], what the parts share, operations on whole regions |
//! | [`transport`] | the seam to a store: direct calls or gRPC |
//! | [`region_cache`] | which region holds a key, which store leads it |
//! | [`replicas`] | which replica of a region a read asks |
//! | [`request`] | one command to one region, with the retry loop |
//! | [`backoff`] | kind-specific waiting under one deadline and one budget |
//! | [`scope`] | deadline, cancellation and priority of a statement's requests |
//! | [`snapshot`] | reads at a timestamp |
//! | [`lock_resolver`] | what to do about other transactions' locks |
//! | [`txn`] | write buffer and two-phase commit |
//! | `visibility` | open read views, and which are too old to be read |
//! | [`dist_scan`] | plan fragments next to the data |
//! | [`split`] | regions cut at many keys |
//! | [`error`] | [`KvError`] with MySQL numbers |
//!
//! **Invariants.** Every wait has a deadline and every queue a bound. An error
//! from a commit other than [`KvError::UndeterminedCommit`] means that nothing
//! was written. Rows of a scan are delivered exactly once.

pub mod backoff;
pub mod client;
pub mod dist_scan;
pub mod error;
pub mod lock_resolver;
pub mod lock_waits;
pub mod region_cache;
pub mod replicas;
pub mod request;
pub mod request_log;
pub mod scope;
pub mod snapshot;
pub mod split;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod txn;
mod visibility;

pub use backoff::Deadline;
pub use cairn_proto::kv::{Assertion, AssertionLevel};
pub use client::{ClientConfig, KvClient};
pub use dist_scan::{DistScan, DistScanRequest, ScanPage, ScanTable, ScanTables};
pub use error::{KvError, ShownKey};
pub use lock_waits::LockWaiting;
pub use region_cache::{CachedRegion, KeyRange};
pub use replicas::{ReadFrom, ReplicaRead};
pub use request_log::{RequestLog, RequestSpan, RequestSums};
pub use scope::RequestScope;
pub use snapshot::{KvMap, ScanOptions, Snapshot, SnapshotScan};
pub use split::SPLIT_KEYS_MAX;
pub use transport::{
    CoprocessorStream, GrpcConnector, KvStoreService, LocalConnector, StoreConnector,
    TransportError,
};
pub use txn::membuffer::{BufferedValue, KeyFlags, MemBuffer};
pub use txn::pessimistic::{LockOptions, LockWait};
pub use txn::prepare::{Preparation, Prepared};
pub use txn::{
    BufferedPair, BulkOptions, Checkpoint, CommitInfo, CommitKind, CommitLease, CommitModes,
    Transaction,
};
