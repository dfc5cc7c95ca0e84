//! Stored metadata: keys and values.
//!
//! | key | value |
//! |---|---|
//! | `mv` | schema version, decimal text |
//! | `md{database id}` | `DatabaseInfo` as JSON |
//! | `mt{database id}/{table id}` | `TableInfo` as JSON |
//! | `ma{table id}` | last id given to AUTO_INCREMENT or hidden row ids, decimal text |
//! | `mu{user}\0{host}` | `Account` as JSON |
//! | `mg{variable}` | value of a global system variable |
//! | `mr{table id}`, `mr{table id}/{index id}` | dropped, not yet destroyed: how often that was done, and of a table that can be brought back when and in which database it was last seen, decimal text |
//! | `mf` | the flashback of the cluster that is under way, as JSON |
//! | `ml` | who drives garbage collection, as JSON |
//! | `mk` | who has locked tables, or waits for that, as JSON |
//! | `ms{table id}`, `mh{table id}/…`, `mw` | statistics ([`crate::statistics`]) |
//! | `mj` | who analyzes tables by itself, as JSON |
//! | `mn{name}` | who holds the lock of that name, as JSON |
//! | `mx{gtrid}/{bqual}/{format}` | a prepared branch of a distributed transaction, as JSON |
//!
//! Ids stand as 16 hexadecimal digits so that keys sort by number. JSON, because people
//! read it in emergencies and fields are added over time.

use bytes::Bytes;
use cairn_kv_client::{KeyRange, ScanOptions, Snapshot, Transaction};
use cairn_planner::catalog::{DatabaseInfo, TableInfo};
use cairn_types::{IndexId, SchemaId, TableId, TimeStamp, keys};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::accounts::Account;
use crate::error::{Result, SqlError};
use crate::table_locks::LockRecord;

/// The schema version's key.
pub const VERSION_KEY: &[u8] = b"mv";
/// Key of the record of who drives garbage collection.
pub const GC_LEASE_KEY: &[u8] = b"ml";
/// Key of the record of who analyzes tables by itself.
pub const ANALYZE_LEASE_KEY: &[u8] = b"mj";
/// Key of the record of a flashback of the cluster.
const FLASHBACK_KEY: &[u8] = b"mf";
/// Key of the record of table locks.
const TABLE_LOCKS_KEY: &[u8] = b"mk";
const DATABASE_PREFIX: &str = "md";
const TABLE_PREFIX: &str = "mt";
const DROPPED_PREFIX: &str = "mr";
const ACCOUNT_PREFIX: &str = "mu";
const VARIABLE_PREFIX: &str = "mg";
const NAMED_LOCK_PREFIX: &str = "mn";
const PREPARED_PREFIX: &str = "mx";
/// Entries read per page of a listing.
const LIST_PAGE: u32 = 1_000;

fn database_key(id: SchemaId) -> Bytes {
    format!("{DATABASE_PREFIX}{:016x}", id.0).into()
}

fn table_key(database: SchemaId, table: TableId) -> Bytes {
    format!("{TABLE_PREFIX}{:016x}/{:016x}", database.0, table.0).into()
}

/// Key of a table's id counter.
pub fn auto_id_key(table: TableId) -> Bytes {
    format!("ma{:016x}", table.0).into()
}

fn account_key(user: &str, host: &str) -> Bytes {
    format!("{ACCOUNT_PREFIX}{user}\0{host}").into()
}

/// Key of a named lock's record.
pub fn named_lock_key(name: &str) -> Bytes {
    format!("{NAMED_LOCK_PREFIX}{name}").into()
}

/// Key of a prepared branch's record; the parts of its name are in hexadecimal.
pub fn prepared_key(gtrid: &str, bqual: &str, format_id: u32) -> Bytes {
    format!("{PREPARED_PREFIX}{gtrid}/{bqual}/{format_id}").into()
}

/// The records of prepared branches.
pub async fn prepared(snapshot: &Snapshot) -> Result<Vec<(Bytes, Bytes)>> {
    list(snapshot, PREPARED_PREFIX).await
}

/// The stored form of a value.
pub fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let text =
        serde_json::to_vec(value).map_err(|error| SqlError::DamagedSchema(error.to_string()))?;
    Ok(Bytes::from(text))
}

/// A value from its stored form; `key` is for the error.
pub fn from_json<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        SqlError::DamagedSchema(format!("{}: {error}", String::from_utf8_lossy(key)))
    })
}

/// Parses a counter.
pub fn parse_counter(key: &[u8], value: &[u8]) -> Result<i64> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        SqlError::DamagedSchema(format!("{}: not a number", String::from_utf8_lossy(key)))
    })
}

/// Everything a node caches, at one schema version.
#[derive(Debug, Default)]
pub struct StoredSchema {
    /// The schema version.
    pub version: i64,
    /// All databases.
    pub databases: Vec<DatabaseInfo>,
    /// All tables with their database.
    pub tables: Vec<(SchemaId, TableInfo)>,
    /// All accounts.
    pub accounts: Vec<Account>,
    /// Global system variables that differ from their defaults.
    pub variables: Vec<(String, String)>,
    /// The flashback that is under way.
    pub flashback: Option<Flashback>,
    /// Table locks.
    pub locks: LockRecord,
}

/// A schema version, and what it differs from the one before in.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// The schema version.
    pub number: i64,
    /// The last one that changed more than table locks.
    pub definitions: i64,
    /// Table locks.
    pub locks: LockRecord,
}

/// A flashback of the cluster that is under way: rows are neither read nor written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flashback {
    /// Which state comes back.
    pub read_ts: u64,
    /// The run that may write.
    pub owner: u64,
    /// Something was written: the rows are of two times.
    pub is_dirty: bool,
    /// From then on (PD's time) another run may take over.
    pub expires_at_ms: u64,
}

/// All records whose keys begin so.
pub async fn list(snapshot: &Snapshot, prefix: &str) -> Result<Vec<(Bytes, Bytes)>> {
    let start = Bytes::copy_from_slice(prefix.as_bytes());
    let end = Bytes::from(cairn_types::keys::prefix_next(&start));
    let options = ScanOptions { batch_size: LIST_PAGE, ..ScanOptions::default() };
    let mut scan = snapshot.scan(KeyRange { start, end }, options);
    let mut entries = Vec::new();
    loop {
        let page = scan.next_batch().await?;
        if page.is_empty() {
            return Ok(entries);
        }
        entries.extend(page);
    }
}

/// The schema version at the snapshot's time.
pub async fn version_at(snapshot: &Snapshot) -> Result<i64> {
    match snapshot.get(VERSION_KEY).await? {
        Some(value) => parse_counter(VERSION_KEY, &value),
        None => Ok(0),
    }
}

fn decode_locks(value: Option<Bytes>) -> Result<LockRecord> {
    value.map_or_else(|| Ok(LockRecord::default()), |value| from_json(TABLE_LOCKS_KEY, &value))
}

/// The schema version at the snapshot's time with what it is about.
pub async fn whole_version_at(snapshot: &Snapshot) -> Result<Version> {
    let number = version_at(snapshot).await?;
    let locks = decode_locks(snapshot.get(TABLE_LOCKS_KEY).await?)?;
    let definitions = if locks.version == number { locks.definitions } else { number };
    Ok(Version { number, definitions, locks })
}

/// The table locks.
pub async fn table_locks(txn: &Transaction) -> Result<LockRecord> {
    decode_locks(txn.get(TABLE_LOCKS_KEY).await?)
}

/// Stores the table locks.
pub fn put_table_locks(txn: &Transaction, locks: &LockRecord) -> Result<()> {
    Ok(txn.set(Bytes::from_static(TABLE_LOCKS_KEY), to_json(locks)?)?)
}

/// Reads the whole schema at the snapshot's time.
pub async fn load(snapshot: &Snapshot) -> Result<StoredSchema> {
    let Version { number: version, locks, .. } = whole_version_at(snapshot).await?;
    let mut schema = StoredSchema { version, locks, ..StoredSchema::default() };
    for (key, value) in list(snapshot, DATABASE_PREFIX).await? {
        schema.databases.push(from_json(&key, &value)?);
    }
    for (key, value) in list(snapshot, TABLE_PREFIX).await? {
        schema.tables.push((database_of_table_key(&key)?, from_json(&key, &value)?));
    }
    for (key, value) in list(snapshot, ACCOUNT_PREFIX).await? {
        schema.accounts.push(from_json(&key, &value)?);
    }
    for (key, value) in list(snapshot, VARIABLE_PREFIX).await? {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        schema.variables.push((text(&key[VARIABLE_PREFIX.len()..]), text(&value)));
    }
    let flashback = snapshot.get(FLASHBACK_KEY).await?;
    schema.flashback = flashback.map(|value| from_json(FLASHBACK_KEY, &value)).transpose()?;
    Ok(schema)
}

fn database_of_table_key(key: &[u8]) -> Result<SchemaId> {
    let damaged = || SqlError::DamagedSchema(String::from_utf8_lossy(key).into_owned());
    let digits = key.get(TABLE_PREFIX.len()..TABLE_PREFIX.len() + 16).ok_or_else(damaged)?;
    let digits = std::str::from_utf8(digits).map_err(|_| damaged())?;
    i64::from_str_radix(digits, 16).map(SchemaId).map_err(|_| damaged())
}

/// Tables whose definition a schema change has written or removed.
pub fn changed_tables(txn: &Transaction) -> Vec<TableId> {
    let start = Bytes::from_static(TABLE_PREFIX.as_bytes());
    let end = Bytes::from(keys::prefix_next(&start));
    let changed = txn.buffered_range(&KeyRange { start, end }, false, usize::MAX);
    let id = |key: &Bytes| {
        i64::from_str_radix(std::str::from_utf8(key).ok()?.rsplit('/').next()?, 16).ok()
    };
    changed.iter().filter_map(|pair| id(&pair.key)).map(TableId).collect()
}

/// The version as this transaction sees it.
pub async fn version(txn: &Transaction) -> Result<i64> {
    match txn.get(VERSION_KEY).await? {
        Some(value) => parse_counter(VERSION_KEY, &value),
        None => Ok(0),
    }
}

/// Writes the next version and answers it. Every schema change calls it, so that two at a
/// time conflict and one of them starts over.
pub async fn bump_version(txn: &Transaction) -> Result<i64> {
    let next = version(txn).await? + 1;
    txn.set(Bytes::from_static(VERSION_KEY), next.to_string().into())?;
    Ok(next)
}

/// Stores a database.
pub fn put_database(txn: &Transaction, database: &DatabaseInfo) -> Result<()> {
    Ok(txn.set(database_key(database.id), to_json(database)?)?)
}

/// Removes a database; its tables are removed one by one.
pub fn delete_database(txn: &Transaction, id: SchemaId) -> Result<()> {
    Ok(txn.delete(database_key(id))?)
}

/// Stores a table.
pub fn put_table(txn: &Transaction, database: SchemaId, table: &TableInfo) -> Result<()> {
    Ok(txn.set(table_key(database, table.id), to_json(table)?)?)
}

/// Removes a table and its id counter; its rows are queued.
pub fn delete_table(txn: &Transaction, database: SchemaId, table: TableId) -> Result<()> {
    txn.delete(table_key(database, table))?;
    let origin = Some(Origin { seen_at: txn.start_ts(), database });
    let key = format!("{DROPPED_PREFIX}{:016x}", table.0);
    queue(txn, Dropped { key: key.into(), table, index: None, passes: 0, origin })?;
    Ok(txn.delete(auto_id_key(table))?)
}

/// Takes a table out of its database; its id counter stays.
pub fn move_table(txn: &Transaction, database: SchemaId, table: TableId) -> Result<()> {
    Ok(txn.delete(table_key(database, table))?)
}

/// The stored form of all databases and tables at the snapshot's time.
pub async fn definitions(snapshot: &Snapshot) -> Result<Vec<(Bytes, Bytes)>> {
    let mut definitions = list(snapshot, DATABASE_PREFIX).await?;
    definitions.extend(list(snapshot, TABLE_PREFIX).await?);
    Ok(definitions)
}

/// The flashback that is under way.
pub async fn flashback(txn: &Transaction) -> Result<Option<Flashback>> {
    let value = txn.get(FLASHBACK_KEY).await?;
    value.map(|value| from_json(FLASHBACK_KEY, &value)).transpose()
}

/// Stores the flashback that is under way.
pub fn put_flashback(txn: &Transaction, flashback: &Flashback) -> Result<()> {
    Ok(txn.set(Bytes::from_static(FLASHBACK_KEY), to_json(flashback)?)?)
}

/// A flashback is over.
pub fn delete_flashback(txn: &Transaction) -> Result<()> {
    Ok(txn.delete(Bytes::from_static(FLASHBACK_KEY))?)
}

/// Stores an account.
pub fn put_account(txn: &Transaction, account: &Account) -> Result<()> {
    Ok(txn.set(account_key(&account.user, &account.host), to_json(account)?)?)
}

/// Removes an account.
pub fn delete_account(txn: &Transaction, user: &str, host: &str) -> Result<()> {
    Ok(txn.delete(account_key(user, host))?)
}

/// Stores a global system variable.
pub fn put_variable(txn: &Transaction, name: &str, value: &str) -> Result<()> {
    let key = format!("{VARIABLE_PREFIX}{name}").into();
    Ok(txn.set(key, Bytes::copy_from_slice(value.as_bytes()))?)
}

/// Something dropped whose keys are to be destroyed. Ids are never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Where it stands in the queue.
    pub key: Bytes,
    /// The table.
    pub table: TableId,
    /// The index; without one the whole table was dropped.
    pub index: Option<IndexId>,
    /// How often it was destroyed.
    pub passes: u32,
    /// Of a table: where it can be found again. Gone before its rows are.
    pub origin: Option<Origin>,
}

/// Where a dropped table can be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The time at which the transaction that dropped it read: its definition and its id counter
    /// are as they were then, or that transaction would have met a conflict.
    pub seen_at: TimeStamp,
    /// The database it was in.
    pub database: SchemaId,
}

impl Dropped {
    /// An entry of the queue.
    pub fn decode(key: Bytes, value: &[u8]) -> Result<Dropped> {
        let damaged = || SqlError::DamagedSchema(String::from_utf8_lossy(&key).into_owned());
        let ids = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(DROPPED_PREFIX));
        let mut ids = ids.ok_or_else(damaged)?.split('/').map(|id| i64::from_str_radix(id, 16));
        let table = ids.next().and_then(|id| id.ok()).map(TableId).ok_or_else(damaged)?;
        let index = ids.next().transpose().map_err(|_| damaged())?.map(IndexId);
        let numbers = std::str::from_utf8(value).ok().map(|text| text.split(' '));
        let mut numbers = numbers.ok_or_else(damaged)?.map(str::parse::<u64>);
        let mut number = || numbers.next().transpose().map_err(|_| damaged());
        let passes = number()?.and_then(|passes| passes.try_into().ok()).ok_or_else(damaged)?;
        let origin = match (number()?, number()?) {
            (Some(seen_at), Some(database)) => {
                Some(Origin { seen_at: TimeStamp(seen_at), database: SchemaId(database as i64) })
            }
            _ => None,
        };
        Ok(Dropped { key, table, index, passes, origin })
    }

    /// Its value in the queue.
    pub fn encode(&self) -> Bytes {
        match self.origin {
            None => self.passes.to_string().into(),
            Some(Origin { seen_at, database }) => {
                format!("{} {} {}", self.passes, seen_at.0, database.0).into()
            }
        }
    }

    /// Its keys.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        match self.index {
            None => keys::table_range(self.table),
            Some(index) => keys::index_range(self.table, index),
        }
    }
}

fn queue(txn: &Transaction, dropped: Dropped) -> Result<()> {
    let value = dropped.encode();
    Ok(txn.set(dropped.key, value)?)
}

/// A database as it is stored.
pub async fn database_at(snapshot: &Snapshot, id: SchemaId) -> Result<Option<DatabaseInfo>> {
    let key = database_key(id);
    let value = snapshot.get(&key).await?;
    value.map(|value| from_json(&key, &value)).transpose()
}

/// A table as it is stored.
pub async fn table_at(
    snapshot: &Snapshot,
    database: SchemaId,
    table: TableId,
) -> Result<Option<TableInfo>> {
    let key = table_key(database, table);
    let value = snapshot.get(&key).await?;
    value.map(|value| from_json(&key, &value)).transpose()
}

/// Takes a dropped table out of the queue and puts it into a database. Its ids go on where they
/// were; transactions that began before the drop may have taken more of them since.
pub async fn restore_table(
    txn: &Transaction,
    dropped: &Dropped,
    was: &Snapshot,
    database: SchemaId,
    table: &TableInfo,
) -> Result<()> {
    let key = auto_id_key(table.id);
    let mut last = None;
    for value in [was.get(&key).await?, txn.get(&key).await?].into_iter().flatten() {
        last = last.max(Some(parse_counter(&key, &value)? as u64));
    }
    if let Some(last) = last {
        txn.set(key, (last as i64).to_string().into())?;
    }
    txn.delete(dropped.key.clone())?;
    put_table(txn, database, table)
}

/// Queues the entries of a dropped index.
pub fn queue_index(txn: &Transaction, table: TableId, index: IndexId) -> Result<()> {
    let key = format!("{DROPPED_PREFIX}{:016x}/{:016x}", table.0, index.0);
    let (index, origin) = (Some(index), None);
    queue(txn, Dropped { key: key.into(), table, index, passes: 0, origin })
}

/// What is queued at the snapshot's time.
pub async fn dropped(snapshot: &Snapshot) -> Result<Vec<Dropped>> {
    let entries = list(snapshot, DROPPED_PREFIX).await?;
    entries.into_iter().map(|(key, value)| Dropped::decode(key, &value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_queue_name_their_keys() {
        let read =
            |key: &'static str| Dropped::decode(key.into(), b"1").map(|dropped| dropped.range());
        let table = read("mr0000000000000007").expect("a table");
        assert_eq!(table, keys::table_range(TableId(7)));
        let index = read("mr0000000000000007/0000000000000002").expect("an index");
        assert_eq!(index, keys::index_range(TableId(7), IndexId(2)));
        assert!(table.0 <= index.0 && index.1 <= table.1);
        for damaged in ["mr", "mrx", "mr07/y"] {
            assert!(read(damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn a_dropped_table_is_found_until_its_origin_is_forgotten() {
        let key = Bytes::from_static(b"mr0000000000000007");
        let origin = Some(Origin { seen_at: TimeStamp(5), database: SchemaId(9) });
        let dropped =
            Dropped { key: key.clone(), table: TableId(7), index: None, passes: 0, origin };
        for written in [dropped.clone(), Dropped { origin: None, passes: 1, ..dropped }] {
            assert_eq!(Dropped::decode(key.clone(), &written.encode()).expect("read"), written);
        }
        for damaged in ["", "x", "0 x 9", "-1"] {
            assert!(Dropped::decode(key.clone(), damaged.as_bytes()).is_err(), "{damaged}");
        }
    }
}
