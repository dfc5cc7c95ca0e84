//! The schema: how it is stored, cached and changed.
//!
//! **Data.** Metadata lives beside the rows, under keys that begin with `m` ([`meta`]),
//! and is read and written by ordinary transactions.
//!
//! **Flow.** A schema change commits new metadata with the next schema version and
//! notifies PD; every SQL node watches PD, reloads and swaps its [`snapshot::SchemaSnapshot`].
//! A statement is planned against one snapshot; a transaction holds the version it began
//! with ([`cache::SchemaCache::hold`]), and a schema change waits until no transaction
//! holds an older one, on any node (metadata locks as MySQL has them, F1's rule that at
//! most two neighbouring versions are in use).
//!
//! **Source.** Rae et al., "Online, Asynchronous Schema Change in F1", VLDB 2013.

pub mod cache;
pub mod history;
pub mod meta;
pub mod record;
pub mod snapshot;

pub use cache::{SchemaCache, VersionHold};
pub use history::SchemaHistory;
pub use snapshot::SchemaSnapshot;
