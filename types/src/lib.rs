//! MySQL values, field types, codecs, rows, chunks and error codes.
//!
//! The vocabulary every other crate of Cairn speaks; it depends on none of them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`field_type`], [`collation`] | types with their attributes, text order |
//! | [`datum`], [`decimal`], [`time`], [`json`] | single values |
//! | [`cast`] | conversions by MySQL's rules, with warnings |
//! | [`chunk`] | batches: typed columns with validity and selection |
//! | [`codec`], [`keys`], [`row`] | bytes: memcomparable keys, stored rows |
//! | [`error`], [`errno`] | errors as the client sees them |
//! | [`ids`] | table, index and column ids, timestamps, handles |
//! | [`sabotage`] | known bugs for the simulation; absent from normal builds |
//!
//! **Invariants.** No I/O, no clock, no randomness. Decoders validate: random
//! bytes give an error and never a panic.

pub mod cast;
pub mod chunk;
pub mod codec;
pub mod collation;
pub mod datum;
pub mod decimal;
pub mod errno;
pub mod error;
pub mod field_type;
pub mod ids;
pub mod json;
pub mod keys;
pub mod row;
pub mod sabotage;
pub mod text;
pub mod time;

pub use cast::{CastContext, cast_datum};
pub use chunk::{Bitmap, Chunk, Column, ColumnData};
pub use collation::{Charset, Collation};
pub use datum::{Datum, DatumRef, compare};
pub use decimal::Decimal;
pub use error::{MysqlError, Result, TypeError, Warning, WarningLevel};
pub use field_type::{EvalKind, FieldType, PhysicalKind, TypeCode};
pub use ids::{ColumnId, Handle, IndexId, SchemaId, TableId, TimeStamp};
pub use json::{Json, JsonRef};
pub use text::write_text;
pub use time::{Duration, Time, TimeKind, TimeZone};
