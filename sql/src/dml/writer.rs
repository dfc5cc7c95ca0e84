//! Row and index mutations in the transaction's buffer, and the locks that guard them.
//!
//! **Locks** (of pessimistic transactions). A row's lock guards the row and its entries that name
//! it in their keys. The entry of a unique index is a key of its own that other rows may want: it
//! is locked with the row. Hidden row ids are never given twice, so that new rows need none. A
//! duplicate that a statement met is locked before the statement says so: its holder may be about
//! to remove it.
//!
//! **Entries that stay.** A pessimistic transaction changes rows as they are when it locks them,
//! and reads indexes as they were when it began. So the buffer holds *all* entries of the rows it
//! changed: those that a change leaves as they are, are noted (`execution::own_rows` reads them).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use cairn_kv_client::{Assertion, LockOptions, Transaction};
use cairn_planner::catalog::{IndexInfo, SchemaState, TableInfo};
use cairn_types::row::RowEncoder;
use cairn_types::{Datum, Handle, TimeZone, keys};

use super::{check, duplicate_entry};
use crate::error::Result;
use crate::record::{self, IndexEntry};
use crate::session::transaction::StatementTransaction;
use crate::statistics::changes::{RowChanges, Tally};

/// Which unique key a new row collides in, and with which row.
#[derive(Clone, Debug)]
pub struct Duplicate {
    /// The row that is there already.
    pub handle: Handle,
    /// `table.index`.
    pub key_name: String,
    /// The values as MySQL prints them, joined by `-`.
    pub value: String,
}

/// Writes rows of one table within one transaction.
pub struct TableWriter {
    table: Arc<TableInfo>,
    transaction: Arc<Transaction>,
    locking: LockOptions,
    encoder: RowEncoder,
    /// Look for duplicates when a row is written (else only at prewrite).
    eager: bool,
    /// Note the entries of changed rows that stay as they are.
    notes_entries: bool,
    /// Decode what is written once more.
    checks: bool,
    /// Where changed rows are counted.
    tally: Tally,
    /// The session's: TIMESTAMPs of rows given and taken are in it.
    zone: TimeZone,
}

impl TableWriter {
    /// A writer; `eager` unless the statement commits at its end anyway.
    pub fn new(
        table: Arc<TableInfo>,
        statement: &StatementTransaction,
        zone: TimeZone,
        eager: bool,
    ) -> Self {
        let transaction = Arc::clone(&statement.transaction);
        let locking = statement.locking.clone();
        let notes_entries = transaction.is_pessimistic() && statement.is_followed();
        let (encoder, checks) = (RowEncoder::new(), statement.checks_mutations);
        let tally = statement.tally.clone();
        Self { table, transaction, locking, encoder, eager, notes_entries, checks, tally, zone }
    }

    /// The statement found a row and leaves it as it is: it locks it all the same.
    pub fn touch(&self, handle: &Handle) {
        self.want_row(handle);
    }

    fn want_row(&self, handle: &Handle) {
        let table_id = self.table.id;
        self.transaction.want_lock(|| keys::encode_row_key(table_id, handle).into());
    }

    /// Locks a key that is taken already. If it was changed meanwhile the statement starts
    /// over, whatever it answers now.
    async fn lock_taken(&self, key: &Bytes) -> Result<()> {
        if self.transaction.is_pessimistic() {
            self.transaction.lock_now(vec![key.clone()], &self.locking).await?;
        }
        Ok(())
    }

    /// The handle of a new row; `None` for tables with hidden row ids.
    pub fn handle_of(&self, row: &[Datum]) -> Result<Option<Handle>> {
        record::handle_of_row(&self.table, &record::to_stored(&self.table, row, &self.zone))
    }

    /// Indexes that have entries and that this kind of change maintains.
    fn indices(table: &TableInfo, from: SchemaState) -> impl Iterator<Item = &IndexInfo> {
        table.indices.iter().filter(move |index| index.state >= from && table.has_entries(index))
    }

    /// The rows that a new row collides with, over all unique keys in order.
    pub async fn find_duplicates(&self, handle: &Handle, row: &[Datum]) -> Result<Vec<Duplicate>> {
        let table = &self.table;
        let row = &*record::to_stored(table, row, &self.zone);
        let mut duplicates = Vec::new();
        if !table.has_row_id() {
            let key = Bytes::from(keys::encode_row_key(table.id, handle));
            if self.transaction.get(&key).await?.is_some() {
                self.lock_taken(&key).await?;
                duplicates.push(self.duplicate_of(table.primary_key(), handle.clone(), row));
            }
        }
        for index in Self::indices(table, SchemaState::WriteOnly).filter(|index| index.unique) {
            let entry = record::index_entry(table, index, row, handle)?;
            if !entry.distinct {
                continue;
            }
            if let Some(value) = self.transaction.get(&entry.key).await? {
                self.lock_taken(&entry.key).await?;
                let other = record::handle_of_unique_entry(table, &value)?;
                duplicates.push(self.duplicate_of(Some(index), other, row));
            }
        }
        Ok(duplicates)
    }

    fn duplicate_of(&self, index: Option<&IndexInfo>, handle: Handle, row: &[Datum]) -> Duplicate {
        let table = &self.table;
        let name = index.map_or("PRIMARY", |index| index.name.as_str());
        let value = index.map(|index| record::describe_values(table, index, row));
        Duplicate {
            handle,
            key_name: format!("{}.{name}", table.name),
            value: value.unwrap_or_default(),
        }
    }

    /// The stored row of a handle, as the transaction sees it.
    pub async fn read(&self, handle: &Handle) -> Result<Option<Vec<Datum>>> {
        let key = keys::encode_row_key(self.table.id, handle);
        match self.transaction.get(&key).await? {
            Some(value) => {
                let row = record::decode_row(&self.table, handle, &value)?;
                Ok(Some(record::to_session(&self.table, row, &self.zone)))
            }
            None => Ok(None),
        }
    }

    /// Adds a row; error 1062 when a unique key is taken.
    pub async fn insert(&mut self, handle: &Handle, row: &[Datum]) -> Result<()> {
        let table = Arc::clone(&self.table);
        let row = record::to_stored(&table, row, &self.zone);
        self.insert_stored(handle, &row).await?;
        self.tally.count(table.id, RowChanges { inserted: 1, ..RowChanges::default() });
        Ok(())
    }

    async fn insert_stored(&mut self, handle: &Handle, row: &[Datum]) -> Result<()> {
        let table = Arc::clone(&self.table);
        let key = Bytes::from(keys::encode_row_key(table.id, handle));
        let value = record::encode_row_value(&table, row, &mut self.encoder)?;
        self.check_row(handle, row, &key, &value)?;
        if table.has_row_id() {
            self.transaction.set_asserting(key, value, Assertion::NotExist)?;
        } else {
            self.put_new(key, value, table.primary_key(), row).await?;
        }
        for index in Self::indices(&table, SchemaState::WriteOnly) {
            let entry = record::index_entry(&table, index, row, handle)?;
            self.put_entry(entry, index, handle, row).await?;
        }
        Ok(())
    }

    fn check_row(&self, handle: &Handle, row: &[Datum], key: &[u8], value: &[u8]) -> Result<()> {
        if self.checks { check::row(&self.table, handle, row, key, value) } else { Ok(()) }
    }

    fn check_entry(
        &self,
        entry: &IndexEntry,
        index: &IndexInfo,
        handle: &Handle,
        row: &[Datum],
    ) -> Result<()> {
        if self.checks { check::entry(&self.table, index, handle, row, entry) } else { Ok(()) }
    }

    async fn put_entry(
        &self,
        entry: IndexEntry,
        index: &IndexInfo,
        handle: &Handle,
        row: &[Datum],
    ) -> Result<()> {
        self.check_entry(&entry, index, handle, row)?;
        if entry.distinct {
            return self.put_new(entry.key, entry.value, Some(index), row).await;
        }
        let assertion = of_entry(index, Assertion::NotExist);
        Ok(self.transaction.set_asserting(entry.key, entry.value, assertion)?)
    }

    /// Writes a key that must not exist.
    async fn put_new(
        &self,
        key: Bytes,
        value: Bytes,
        index: Option<&IndexInfo>,
        row: &[Datum],
    ) -> Result<()> {
        // What this transaction did to the key decides before the committed data does.
        let taken = match self.transaction.buffered(&key) {
            Some(own) => own.is_some(),
            None => self.eager && self.transaction.get(&key).await?.is_some(),
        };
        if taken {
            self.lock_taken(&key).await?;
            let duplicate = self.duplicate_of(index, Handle::Int(0), row);
            return Err(duplicate_entry(&duplicate.value, &duplicate.key_name));
        }
        self.transaction.want_lock(|| key.clone());
        if self.transaction.buffered(&key).is_some() {
            // Removed by this transaction: putting it back is an update of the old key.
            return Ok(self.transaction.set(key, value)?);
        }
        Ok(self.transaction.insert(key, value)?)
    }

    /// The stored form of a row that is there already. TIMESTAMPs of a session's time zone
    /// do not always tell which UTC time they stand for (the hour that clocks repeat), so
    /// such rows are read once more.
    async fn stored<'a>(&self, handle: &Handle, row: &'a [Datum]) -> Result<Cow<'a, [Datum]>> {
        let converted = record::to_stored(&self.table, row, &self.zone);
        if matches!(converted, Cow::Borrowed(_)) {
            return Ok(converted);
        }
        let key = keys::encode_row_key(self.table.id, handle);
        Ok(match self.transaction.get(&key).await? {
            Some(value) => Cow::Owned(record::decode_row(&self.table, handle, &value)?),
            None => converted,
        })
    }

    /// Removes a row with its entries.
    pub async fn delete(&self, handle: &Handle, row: &[Datum]) -> Result<()> {
        let row = self.stored(handle, row).await?;
        self.delete_stored(handle, &row).await?;
        self.tally.count(self.table.id, RowChanges { deleted: 1, ..RowChanges::default() });
        Ok(())
    }

    async fn delete_stored(&self, handle: &Handle, row: &[Datum]) -> Result<()> {
        let table = &self.table;
        self.want_row(handle);
        let key = keys::encode_row_key(table.id, handle).into();
        self.transaction.delete_asserting(key, Assertion::Exist)?;
        for index in Self::indices(table, SchemaState::DeleteOnly) {
            let entry = record::index_entry(table, index, row, handle)?;
            self.delete_entry(entry, index, handle, row).await?;
        }
        Ok(())
    }

    /// Removes an entry. While a unique index is being filled, rows may still share a key:
    /// then the entry is left to the row that it names.
    async fn delete_entry(
        &self,
        entry: IndexEntry,
        index: &IndexInfo,
        handle: &Handle,
        row: &[Datum],
    ) -> Result<()> {
        self.check_entry(&entry, index, handle, row)?;
        if entry.distinct
            && index.state != SchemaState::Public
            && let Some(value) = self.transaction.get(&entry.key).await?
            && record::handle_of_unique_entry(&self.table, &value)? != *handle
        {
            return Ok(());
        }
        if entry.distinct {
            self.transaction.want_lock(|| entry.key.clone());
        }
        Ok(self.transaction.delete_asserting(entry.key, of_entry(index, Assertion::Exist))?)
    }

    /// Whether entries of changed rows that stay are noted. Indexes that nobody reads yet may
    /// lack them.
    fn notes(&self, index: &IndexInfo) -> bool {
        self.notes_entries && index.state == SchemaState::Public
    }

    /// An entry of a changed row stays as it is.
    fn keep_entry(&self, entry: IndexEntry) -> Result<()> {
        Ok(self.transaction.note(entry.key, entry.value)?)
    }

    /// Changes a row; only entries that differ are written. A row whose handle changes is
    /// removed and added.
    pub async fn update(
        &mut self,
        handle: &Handle,
        old: &[Datum],
        new: &[Datum],
    ) -> Result<Handle> {
        let table = Arc::clone(&self.table);
        let stored_old = self.stored(handle, old).await?;
        let mut stored_new = record::to_stored(&table, new, &self.zone);
        if let Cow::Owned(values) = &mut stored_new {
            // A value that was not changed stays what it is in UTC.
            for (at, value) in values.iter_mut().enumerate() {
                if old[at] == new[at] {
                    value.clone_from(&stored_old[at]);
                }
            }
        }
        let (old, new) = (&*stored_old, &*stored_new);
        let new_handle = record::handle_of_row(&table, new)?.unwrap_or_else(|| handle.clone());
        self.tally.count(table.id, RowChanges { updated: 1, ..RowChanges::default() });
        if new_handle != *handle {
            self.delete_stored(handle, old).await?;
            self.insert_stored(&new_handle, new).await?;
            return Ok(new_handle);
        }
        let key = Bytes::from(keys::encode_row_key(table.id, handle));
        let value = record::encode_row_value(&table, new, &mut self.encoder)?;
        self.check_row(handle, new, &key, &value)?;
        self.want_row(handle);
        self.transaction.set_asserting(key, value, Assertion::Exist)?;
        for index in Self::indices(&table, SchemaState::DeleteOnly) {
            if index.columns.iter().all(|part| is_same(&old[part.offset], &new[part.offset])) {
                if self.notes(index) {
                    self.keep_entry(record::index_entry(&table, index, new, handle)?)?;
                }
                continue;
            }
            let old_entry = record::index_entry(&table, index, old, handle)?;
            let new_entry = record::index_entry(&table, index, new, handle)?;
            if old_entry == new_entry {
                if self.notes(index) {
                    self.keep_entry(new_entry)?;
                }
                continue;
            }
            if old_entry.key == new_entry.key && index.state.is_writable() {
                // Equal to the collation, but spelt otherwise: only the value changes.
                if new_entry.distinct {
                    self.transaction.want_lock(|| new_entry.key.clone());
                }
                self.check_entry(&new_entry, index, handle, new)?;
                let assertion = of_entry(index, Assertion::Exist);
                self.transaction.set_asserting(new_entry.key, new_entry.value, assertion)?;
                continue;
            }
            self.delete_entry(old_entry, index, handle, old).await?;
            if index.state.is_writable() {
                self.put_entry(new_entry, index, handle, new).await?;
            }
        }
        Ok(new_handle)
    }
}

/// Whether a column's part of an entry is certainly the same: equal floating-point numbers may
/// differ in the sign of their zero.
fn is_same(old: &Datum, new: &Datum) -> bool {
    old == new && !matches!(old, Datum::Float(_) | Datum::Double(_))
}

/// An index that nobody reads yet may lack entries, or have them already: it is being filled.
fn of_entry(index: &IndexInfo, assertion: Assertion) -> Assertion {
    if index.state == SchemaState::Public { assertion } else { Assertion::None }
}
