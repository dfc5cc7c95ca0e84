//! Row and index mutations in the transaction's buffer.

use std::sync::Arc;

use bytes::Bytes;
use cairn_kv_client::Transaction;
use cairn_planner::catalog::{IndexInfo, SchemaState, TableInfo};
use cairn_types::row::RowEncoder;
use cairn_types::{Datum, Handle, TimeZone, keys};

use super::duplicate_entry;
use crate::error::Result;
use crate::record::{self, IndexEntry};

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
    encoder: RowEncoder,
    /// Look for duplicates when a row is written (else only at prewrite).
    eager: bool,
    /// The session's: TIMESTAMPs of rows given and taken are in it.
    zone: TimeZone,
}

impl TableWriter {
    /// A writer; `eager` unless the statement commits at its end anyway.
    pub fn new(
        table: Arc<TableInfo>,
        transaction: Arc<Transaction>,
        zone: TimeZone,
        eager: bool,
    ) -> Self {
        Self { table, transaction, encoder: RowEncoder::new(), eager, zone }
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
            let key = keys::encode_row_key(table.id, handle);
            if self.transaction.get(&key).await?.is_some() {
                duplicates.push(self.duplicate_of(table.primary_key(), handle.clone(), row));
            }
        }
        for index in Self::indices(table, SchemaState::WriteOnly).filter(|index| index.unique) {
            let entry = record::index_entry(table, index, row, handle)?;
            if !entry.distinct {
                continue;
            }
            if let Some(value) = self.transaction.get(&entry.key).await? {
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
        let row = &*record::to_stored(&table, row, &self.zone);
        let key = Bytes::from(keys::encode_row_key(table.id, handle));
        let value = record::encode_row_value(&table, row, &mut self.encoder)?;
        if table.has_row_id() {
            self.transaction.set(key, value)?;
        } else {
            self.put_new(key, value, table.primary_key(), row).await?;
        }
        for index in Self::indices(&table, SchemaState::WriteOnly) {
            let entry = record::index_entry(&table, index, row, handle)?;
            self.put_entry(entry, index, row).await?;
        }
        Ok(())
    }

    async fn put_entry(&self, entry: IndexEntry, index: &IndexInfo, row: &[Datum]) -> Result<()> {
        if entry.distinct {
            return self.put_new(entry.key, entry.value, Some(index), row).await;
        }
        Ok(self.transaction.set(entry.key, entry.value)?)
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
            let duplicate = self.duplicate_of(index, Handle::Int(0), row);
            return Err(duplicate_entry(&duplicate.value, &duplicate.key_name));
        }
        if self.transaction.buffered(&key).is_some() {
            // Removed by this transaction: putting it back is an update of the old key.
            return Ok(self.transaction.set(key, value)?);
        }
        Ok(self.transaction.insert(key, value)?)
    }

    /// Removes a row with its entries.
    pub fn delete(&self, handle: &Handle, row: &[Datum]) -> Result<()> {
        let table = &self.table;
        let row = &*record::to_stored(table, row, &self.zone);
        self.transaction.delete(keys::encode_row_key(table.id, handle).into())?;
        for index in Self::indices(table, SchemaState::DeleteOnly) {
            let entry = record::index_entry(table, index, row, handle)?;
            self.transaction.delete(entry.key)?;
        }
        Ok(())
    }

    /// Changes a row; only entries that differ are touched. A row whose handle changes is
    /// removed and added.
    pub async fn update(
        &mut self,
        handle: &Handle,
        old: &[Datum],
        new: &[Datum],
    ) -> Result<Handle> {
        let table = Arc::clone(&self.table);
        let stored_new = record::to_stored(&table, new, &self.zone);
        let new_handle =
            record::handle_of_row(&table, &stored_new)?.unwrap_or_else(|| handle.clone());
        if new_handle != *handle {
            self.delete(handle, old)?;
            self.insert(&new_handle, new).await?;
            return Ok(new_handle);
        }
        let stored_old = record::to_stored(&table, old, &self.zone);
        let (old, new) = (&*stored_old, &*stored_new);
        let key = Bytes::from(keys::encode_row_key(table.id, handle));
        let value = record::encode_row_value(&table, new, &mut self.encoder)?;
        self.transaction.set(key, value)?;
        for index in Self::indices(&table, SchemaState::DeleteOnly) {
            let old_entry = record::index_entry(&table, index, old, handle)?;
            let new_entry = record::index_entry(&table, index, new, handle)?;
            if old_entry == new_entry {
                continue;
            }
            if old_entry.key == new_entry.key {
                // Equal to the collation, but spelt otherwise: only the value changes.
                self.transaction.set(new_entry.key, new_entry.value)?;
                continue;
            }
            self.transaction.delete(old_entry.key)?;
            if index.state.is_writable() {
                self.put_entry(new_entry, index, new).await?;
            }
        }
        Ok(new_handle)
    }
}
