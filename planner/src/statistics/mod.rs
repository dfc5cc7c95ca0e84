//! What is known of a table's rows: counts, distributions of values, and how they are told.
//!
//! **Data.** Everything here is what ANALYZE makes, the catalog stores (serde; a contract: fields
//! are added with `#[serde(default)]`, never renamed) and tests inject. Values stand as their
//! memcomparable keys ([`cairn_types::codec::encode_datum_key`]), text as its collation's sort
//! key: so one comparison of bytes serves all types, and bounds of key ranges can be looked up as
//! they are. NULLs are counted, and in neither the top values nor the histogram.
//!
//! ```text
//! rows of a column = NULLs + top values (exact counts of the most frequent) + histogram (the rest)
//! ```
//!
//! **Scale.** All counts are of the whole table at [`TableStatistics::analyzed_rows`] rows, also
//! where only a sample was read. What was written since is known as numbers alone
//! (`row_count`, `modify_count`); estimates are scaled by it.
//!
//! **Sources.** Equi-depth histograms with the counts of upper bounds and a list of the most
//! frequent values: Ioannidis, "The History of Histograms", and TiDB's statistics version 2.
//!
//! | file | what it does |
//! |---|---|
//! | `values.rs` | rows that have a value, or one between two |
//! | `conditions.rs` | fractions of rows for which conditions are true |
//! | `keys.rs` | the same of keys of several columns |
//! | `estimate.rs` | what is expected of a plan's rows |
//! | `derive.rs`, `join.rs` | from node to node |
//! | `guess.rs` | what is assumed where nobody counted |

mod conditions;
mod derive;
mod estimate;
pub mod guess;
mod join;
mod keys;
mod values;

pub mod build;

use std::collections::BTreeMap;
use std::fmt;

use cairn_types::{ColumnId, IndexId, TableId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(crate) use derive::{Estimator, equal_columns};
pub(crate) use estimate::Estimate;
pub(crate) use join::JoinTerms;
pub use values::{KeyBound, Values};

/// What is known of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableStatistics {
    /// The table.
    pub table_id: TableId,
    /// Timestamp at which the table was analyzed; 0: never, then only counts are known.
    #[serde(default)]
    pub analyzed_ts: u64,
    /// Rows when it was analyzed.
    #[serde(default)]
    pub analyzed_rows: f64,
    /// Rows now, as far as changes were reported.
    pub row_count: f64,
    /// Rows inserted, changed or deleted since it was analyzed.
    #[serde(default)]
    pub modify_count: f64,
    /// By column.
    #[serde(default)]
    pub columns: BTreeMap<ColumnId, Distribution>,
    /// By index: distributions of the keys of all its columns together. Of an index of one column
    /// only if its values differ from the column's (a prefix).
    #[serde(default)]
    pub indexes: BTreeMap<IndexId, IndexStatistics>,
}

/// How values are distributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// NULLs.
    pub null_count: f64,
    /// Different values besides NULL.
    pub distinct_count: f64,
    /// Bytes of a value in a row, on average.
    #[serde(default)]
    pub average_size_bytes: f64,
    /// How far the order of values is that of handles, from -1 to 1 (Spearman's coefficient over
    /// the sample).
    #[serde(default)]
    pub correlation: f64,
    /// The most frequent values, in the order of their keys.
    #[serde(default)]
    pub top: Vec<TopValue>,
    /// All others, in the order of their keys; buckets do not overlap.
    #[serde(default)]
    pub buckets: Vec<Bucket>,
}

/// A frequent value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopValue {
    /// The value.
    pub key: ValueKey,
    /// Rows that have it.
    pub count: f64,
}

/// Values of a part of the order, both bounds included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// The smallest value.
    pub lower: ValueKey,
    /// The largest value.
    pub upper: ValueKey,
    /// Rows in the bucket (not those of the buckets before).
    pub count: f64,
    /// Rows that have the largest value.
    pub upper_count: f64,
    /// Different values in the bucket.
    pub distinct_count: f64,
}

/// How keys of several columns are distributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexStatistics {
    /// Distribution of whole keys: the columns' keys one behind the other, NULLs as they are
    /// encoded. `null_count` counts those that are NULL in all columns.
    pub keys: Distribution,
    /// Different values of the first column, the first two, and so on to all of them.
    pub distinct_prefixes: Vec<f64>,
}

/// A memcomparable key; hexadecimal where it is stored.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKey(pub Vec<u8>);

impl fmt::Debug for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for ValueKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for ValueKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ValueKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte = |pair: &[u8]| {
            let digits = std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(ValueKey).ok_or_else(|| de::Error::custom("a key is not hexadecimal"))
    }
}

impl Distribution {
    /// Rows in the top values and the histogram, without NULLs.
    pub fn valued_rows(&self) -> f64 {
        let top: f64 = self.top.iter().map(|value| value.count).sum();
        top + self.buckets.iter().map(|bucket| bucket.count).sum::<f64>()
    }
}
