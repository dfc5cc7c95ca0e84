//! The client of the KV tier: region cache, retries, two-phase commit, snapshot reads, scan tasks.

pub mod transport;

pub use transport::{CoprocessorStream, KvStoreService, StoreConnector, TransportError};
