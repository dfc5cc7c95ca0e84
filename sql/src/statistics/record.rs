//! Statistics as they are stored, and the transactions that change them.
//!
//! | key | value |
//! |---|---|
//! | `ms{table id}` | [`Counts`] as JSON |
//! | `mh{table id}/c{column id}`, `mh{table id}/i{index id}` | [`Stored`] as JSON |
//! | `mw` | [`Counts::version`] of the record that was written last, decimal text |
//!
//! Who writes statistics writes `mw` too, in the same transaction: nodes look at that key alone to
//! know whether there is something new, and two writers at a time conflict.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_kv_client::{KvError, Snapshot, Transaction};
use cairn_planner::TableInfo;
use cairn_planner::statistics::{Distribution, ValueKey};
use cairn_types::{ColumnId, FieldType, IndexId, TableId};
use serde::{Deserialize, Serialize};

use crate::catalog::meta;
use crate::domain::Domain;
use crate::error::{Result, SqlError};

const VERSION_KEY: &[u8] = b"mw";
const COUNTS_PREFIX: &str = "ms";
const DISTRIBUTION_PREFIX: &str = "mh";
/// How often a change starts over that lost to another one.
const TRIES_MAX: usize = 50;

/// What is counted of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Timestamp of the transaction that wrote this.
    pub version: u64,
    /// Timestamp that ANALYZE read at; 0: never.
    #[serde(default)]
    pub analyzed_ts: u64,
    /// Rows that it found.
    #[serde(default)]
    pub analyzed_rows: f64,
    /// Rows now, as far as nodes have told; below zero if rows were there before they were counted.
    pub row_count: i64,
    /// Rows inserted, changed or deleted since ANALYZE.
    pub modify_count: i64,
    /// `LOCK STATS`: ANALYZE leaves the table alone.
    #[serde(default)]
    pub is_locked: bool,
}

/// A column or an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Of {
    /// A column.
    Column(ColumnId),
    /// An index.
    Index(IndexId),
}

/// The distribution of a column or an index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Timestamp that ANALYZE read at.
    pub analyzed_ts: u64,
    /// Types of the columns at that time: keys say nothing of columns of other types.
    pub types: Vec<FieldType>,
    /// Values, or keys of all columns of the index.
    pub keys: Distribution,
    /// Of an index: different values of its first column, the first two, and so on.
    #[serde(default)]
    pub distinct_prefixes: Vec<f64>,
    /// How people read keys that do not tell it themselves.
    #[serde(default)]
    pub texts: BTreeMap<ValueKey, String>,
}

impl Stored {
    /// Whether keys of columns of these types are those that are stored.
    pub fn fits<'a>(&self, types: impl ExactSizeIterator<Item = &'a FieldType>) -> bool {
        let same = |(now, then): (&FieldType, &FieldType)| {
            now.physical() == then.physical()
                && now.collation == then.collation
                && now.elements == then.elements
        };
        types.len() == self.types.len() && types.zip(&self.types).all(same)
    }

    /// Whether it is about this part of the table as it is defined now.
    pub fn is_about(&self, of: Of, table: &TableInfo) -> bool {
        match of {
            Of::Column(id) => {
                let column = table.column_by_id(id);
                column.is_some_and(|(_, column)| self.fits([&column.ty].into_iter()))
            }
            Of::Index(id) => {
                let index = table.indices.iter().find(|index| index.id == id);
                index.is_some_and(|index| {
                    let parts = index.columns.iter();
                    self.fits(parts.map(|part| &table.columns[part.offset].ty))
                })
            }
        }
    }
}

/// All distributions of a table.
pub type Distributions = BTreeMap<Of, Stored>;

fn counts_key(table: TableId) -> Bytes {
    format!("{COUNTS_PREFIX}{:016x}", table.0).into()
}

fn distributions_prefix(table: TableId) -> String {
    format!("{DISTRIBUTION_PREFIX}{:016x}/", table.0)
}

fn distribution_key(table: TableId, of: Of) -> Bytes {
    let prefix = distributions_prefix(table);
    match of {
        Of::Column(id) => format!("{prefix}c{:016x}", id.0).into(),
        Of::Index(id) => format!("{prefix}i{:016x}", id.0).into(),
    }
}

/// The last part of a key: its ids are the hexadecimal digits of a 64-bit number.
fn parse_id(key: &[u8], digits: &[u8]) -> Result<i64> {
    let number = std::str::from_utf8(digits).ok();
    let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let damaged = || SqlError::DamagedSchema(String::from_utf8_lossy(key).into_owned());
    number.map(|number| number as i64).ok_or_else(damaged)
}

/// Which statistics were written last; 0: none ever.
pub async fn version_at(snapshot: &Snapshot) -> Result<u64> {
    match snapshot.get(VERSION_KEY).await? {
        Some(value) => Ok(meta::parse_counter(VERSION_KEY, &value)? as u64),
        None => Ok(0),
    }
}

/// The counts of all tables.
pub async fn all_counts(snapshot: &Snapshot) -> Result<Vec<(TableId, Counts)>> {
    let entries = meta::list(snapshot, COUNTS_PREFIX).await?;
    let decode = |(key, value): &(Bytes, Bytes)| {
        let table = TableId(parse_id(key, &key[COUNTS_PREFIX.len()..])?);
        Ok((table, meta::from_json(key, value)?))
    };
    Ok(entries.iter().filter_map(|entry| undamaged(decode(entry))).collect())
}

/// Statistics are advice: what does not decode is as good as not there.
fn undamaged<T>(decoded: Result<T>) -> Option<T> {
    decoded.inspect_err(|error| tracing::warn!(%error, "a record of statistics is left out")).ok()
}

/// The counts of a table.
pub async fn counts_at(snapshot: &Snapshot, table: TableId) -> Result<Option<Counts>> {
    let key = counts_key(table);
    let value = snapshot.get(&key).await?;
    value.map(|value| meta::from_json(&key, &value)).transpose()
}

/// The distributions of a table.
pub async fn distributions(snapshot: &Snapshot, table: TableId) -> Result<Distributions> {
    let prefix = distributions_prefix(table);
    let decode = |(key, value): &(Bytes, Bytes)| {
        let (kind, digits) = key[prefix.len()..].split_at_checked(1).unwrap_or_default();
        let id = parse_id(key, digits)?;
        let of = if kind == b"c" { Of::Column(ColumnId(id)) } else { Of::Index(IndexId(id)) };
        Ok((of, meta::from_json(key, value)?))
    };
    let entries = meta::list(snapshot, &prefix).await?;
    Ok(entries.iter().filter_map(|entry| undamaged(decode(entry))).collect())
}

/// A transaction that changes statistics.
pub struct Change {
    transaction: Transaction,
}

impl Change {
    /// The counts of a table as they are now.
    pub async fn counts(&self, table: TableId) -> Result<Option<Counts>> {
        crate::catalog::record::read(&self.transaction, &counts_key(table)).await
    }

    /// Stores the counts of a table.
    pub fn put_counts(&self, table: TableId, counts: Counts) -> Result<()> {
        let counts = Counts { version: self.transaction.start_ts().0, ..counts };
        Ok(self.transaction.set(counts_key(table), meta::to_json(&counts)?)?)
    }

    /// Stores distributions in the place of all that a table has.
    pub async fn replace_distributions(
        &self,
        table: TableId,
        distributions: &Distributions,
    ) -> Result<()> {
        for of in self::distributions(&self.transaction.snapshot(), table).await?.keys() {
            if !distributions.contains_key(of) {
                self.transaction.delete(distribution_key(table, *of))?;
            }
        }
        for (of, stored) in distributions {
            self.transaction.set(distribution_key(table, *of), meta::to_json(stored)?)?;
        }
        Ok(())
    }
}

/// Tries to change statistics, each time in a transaction of its own, until no other change is faster.
pub struct Attempts<'a> {
    domain: &'a Domain,
    tries: usize,
    lost: Option<KvError>,
}

impl<'a> Attempts<'a> {
    /// None so far.
    pub fn of(domain: &'a Domain) -> Attempts<'a> {
        Attempts { domain, tries: 0, lost: None }
    }

    /// The next transaction.
    ///
    /// # Errors
    /// Those of the placement driver; the last conflict when others were faster fifty times.
    pub async fn begin(&mut self) -> Result<Change> {
        if self.tries == TRIES_MAX {
            return Err(self.lost.take().map_or(SqlError::Interrupted, SqlError::Kv));
        }
        self.tries += 1;
        Ok(Change { transaction: self.domain.kv.begin(self.domain.now_ts().await?) })
    }

    /// Commits it; false when another change was faster.
    pub async fn commit(&mut self, change: Change) -> Result<bool> {
        let version = change.transaction.start_ts().0.to_string();
        change.transaction.set(Bytes::from_static(VERSION_KEY), version.into())?;
        match change.transaction.commit().await {
            Ok(_) => Ok(true),
            Err(error @ (KvError::WriteConflict { .. } | KvError::TxnAborted { .. })) => {
                self.lost = Some(error);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Forgets all that is known of a table.
pub async fn remove(domain: &Domain, table: TableId) -> Result<()> {
    let mut attempts = Attempts::of(domain);
    loop {
        let change = attempts.begin().await?;
        if change.counts(table).await?.is_none() {
            return Ok(());
        }
        change.replace_distributions(table, &Distributions::new()).await?;
        change.transaction.delete(counts_key(table))?;
        if attempts.commit(change).await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_of_changed_columns_are_not_taken_for_theirs() {
        let stored = Stored { types: vec![FieldType::int()], ..Stored::default() };
        let fits = |ty: FieldType| stored.fits([&ty].into_iter());
        assert!(fits(FieldType::int()) && fits(FieldType::bigint().with_not_null()));
        assert!(!fits(FieldType::int().with_unsigned()) && !fits(FieldType::varchar(5)));
        let text = |collation: cairn_types::Collation| Stored {
            types: vec![FieldType::varchar(5).with_collation(collation)],
            ..Stored::default()
        };
        let binary = FieldType::varchar(9).with_collation(cairn_types::Collation::UTF8MB4_BIN);
        assert!(text(cairn_types::Collation::UTF8MB4_BIN).fits([&binary].into_iter()));
        assert!(!text(cairn_types::Collation::default()).fits([&binary].into_iter()));
        assert!(!stored.fits([].into_iter()), "an index has another number of columns");
    }

    #[test]
    fn keys_name_tables_columns_and_indexes() {
        let key = distribution_key(TableId(7), Of::Column(ColumnId(-1)));
        assert_eq!(key, "mh0000000000000007/cffffffffffffffff");
        let prefix = distributions_prefix(TableId(7));
        assert_eq!(parse_id(&key, &key[prefix.len() + 1..]).expect("an id"), -1);
        assert!(parse_id(&key, b"x").is_err());
        assert_eq!(counts_key(TableId(255)), "ms00000000000000ff");
    }
}
