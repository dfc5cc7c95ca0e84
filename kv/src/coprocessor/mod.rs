//! Runs plan fragments next to the data.
//!
//! **Flow**: a [`CoprocessorRequest`](cairn_proto::kv::CoprocessorRequest) holds a
//! fragment (scan, then filters, projections, aggregates, …) and key ranges of one
//! region. [`Endpoint`] takes a view of the region, builds the *same* operators as
//! the SQL node has over a [`RegionSource`](source::RegionSource), and runs them on
//! the read pool. Their chunks leave in pages over a bounded channel: a caller
//! that does not read stops the task, one that goes away ends it within a batch.
//!
//! **Index lookups**: rows are read here when this store leads their region under
//! a valid lease, whichever region that is; the others' keys go back to the caller.
//!
//! **Resuming**: pages of fragments that keep the scan's order and rows say where
//! the scan stands, so that a task broken by a lock or a lost leader goes on there.
//!
//! **Joins**: a fragment may join its rows with tables that the request brings along, or names; see
//! [`tables`].

pub mod endpoint;
mod pages;
pub mod source;
mod tables;

#[cfg(test)]
mod tests;

pub use endpoint::Endpoint;
