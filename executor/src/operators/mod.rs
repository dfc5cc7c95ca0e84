//! The operators, one per file.
//!
//! | operator | what it does | order of the output |
//! |---|---|---|
//! | [`TableScan`], [`IndexScan`] | rows, index entries | key order of each range |
//! | [`IndexLookup`] | handles to rows | input order |
//! | [`Selection`], [`Projection`], [`Limit`] | filter, compute, cut | input order |
//! | [`HashAgg`] | groups and aggregates | groups in order of arrival |
//! | [`StreamAgg`] | the same over sorted input | input order |
//! | [`Sort`], [`TopN`] | order | as asked; equal rows in input order |
//! | [`HashJoin`] | joins, also without keys | none |
//! | [`BroadcastJoin`] | joins with a table of the request, next to the rows | input order, rows without a match of a chunk behind the others |
//! | [`IndexJoin`] | looks inner rows up for batches of outer rows, joins by hash | outer order |
//! | [`Apply`] | runs a subquery per outer row | outer order |
//! | [`Window`] | window functions over sorted input | input order |
//! | [`Sample`] | what statistics are made of | parts at the end |
//! | [`RecursiveUnion`] | a union that reads its own rows, round by round | rounds' order |
//! | [`SharedScan`] | reads rows that are made once for several readers | input order |
//! | [`UnionAll`] | inputs one after the other | inputs' order |
//! | [`Values`], [`ChunkSource`], [`WorkTable`] | constants, chunks from elsewhere | as given |
//! | [`MaxOneRow`] | a scalar subquery's row | |
//! | [`Exchange`] | runs operators in their own tasks | of one operator: its order |
//!
//! DISTINCT is a [`HashAgg`] with group columns and no aggregates.

mod agg;
mod apply;
mod chunk_source;
mod exchange;
mod hash_agg;
mod hash_join;
mod index_join;
mod index_lookup;
mod index_scan;
mod limit;
mod local_time;
mod max_one_row;
mod projection;
mod recursive_union;
mod rows;
mod sample;
mod scan;
mod selection;
mod shared;
mod sort;
mod stream_agg;
mod table_scan;
mod top_n;
mod union_all;
mod values;
mod window;
mod worker;

pub use apply::{Apply, SubqueryFactory};
pub use chunk_source::ChunkSource;
pub use exchange::Exchange;
pub use hash_agg::HashAgg;
pub(crate) use hash_join::check as check_join;
pub use hash_join::{BroadcastJoin, HashJoin};
pub use index_join::{IndexJoin, InnerFactory, InnerRows};
pub use index_lookup::IndexLookup;
pub use index_scan::IndexScan;
pub use limit::Limit;
pub use max_one_row::MaxOneRow;
pub use projection::Projection;
pub use recursive_union::{RecursiveUnion, RoundFactory, RoundRows, WorkTable};
pub(crate) use rows::value_fits;
pub use sample::Sample;
pub use selection::Selection;
pub use shared::{SharedRows, SharedScan};
pub use sort::Sort;
pub use stream_agg::StreamAgg;
pub use table_scan::TableScan;
pub use top_n::TopN;
pub use union_all::UnionAll;
pub use values::Values;
pub use window::Window;
