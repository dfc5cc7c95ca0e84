//! MySQL front end: protocol, sessions, catalog, statements, system tables.
//!
//! ```text
//!  socket ─ connection ─ session ─ statement ─┬─ planner ─ execution ─ stores
//!     │        │            │                 ├─ dml ──── transaction's buffer
//!     │     protocol    transaction           ├─ ddl ──── catalog
//!     └──────── sink ◄──── rows ──────────────┴─ show, infoschema
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`server`], [`connection`] | listeners; one client's life |
//! | [`protocol`] | packets, handshake, result sets; knows nothing of plans |
//! | [`session`] | variables, transaction, prepared statements |
//! | [`statement`] | the dispatch, SET, SHOW, EXPLAIN, accounts |
//! | [`execution`] | physical plans to operators, point reads, sources |
//! | [`dml`], [`record`] | changes of rows; rows and index entries as bytes |
//! | [`ddl`], [`catalog`] | changes of the schema; how it is stored and cached |
//! | [`infoschema`] | virtual tables |
//! | [`lock_view`] | transactions, waits for locks and deadlocks as people see them |
//! | [`observed`] | what statements did: digests, summary, slow log |
//! | [`table_locks`] | locks of tables, and of everything for a backup |
//! | [`statistics`] | what is known of tables' rows: gathered, stored, shown |
//! | [`xa`] | branches of distributed transactions |
//! | [`gc`] | the safe point of garbage collection |
//! | [`regions`] | regions as users cut, spread and see them |
//! | [`domain`], [`schema_lease`] | what sessions share; which schemas nodes use |
//!
//! **Invariants.** Only this crate knows the MySQL wire. Only [`clock`] reads clocks and
//! entropy. Everything a statement starts ends with it.

pub mod accounts;
pub mod auto_id;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod connection;
pub mod ddl;
pub mod dml;
pub mod domain;
pub mod error;
pub mod execution;
pub mod gc;
pub mod infoschema;
pub mod lock_view;
pub mod memory;
pub mod metrics;
pub mod named_locks;
pub mod observed;
pub mod pattern;
pub mod processes;
pub mod protocol;
pub mod record;
pub mod regions;
pub mod schema_lease;
pub mod server;
pub mod session;
pub mod sink;
pub mod statement;
pub mod statistics;
pub mod status;
pub mod table_locks;
pub mod variables;
pub mod xa;

pub use config::{SERVER_VERSION, SqlConfig};
pub use error::SqlError;
pub use server::SqlServer;
