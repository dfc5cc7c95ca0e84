//! Index entries of rows that a pessimistic transaction has changed.
//!
//! Its changes rest on rows as they are when they are locked, its plain reads on a snapshot that
//! may be older. So an entry of the snapshot may belong to a version of a row that the transaction
//! has replaced, although it never wrote to that entry; and the row may have entries that the
//! snapshot lacks.
//!
//! **Rule.** An entry of the snapshot counts if the transaction has not changed its row. All
//! entries of a row that it has changed are in its buffer ([`crate::dml::writer`]).
//!
//! Keys of a unique index follow the same rule: what the snapshot has there may be the entry of
//! another row than what the buffer has.

use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::index_entry::decode_entry_handle;
use cairn_executor::{KeyRange, Result};
use cairn_kv_client::{KvMap, Transaction};
use cairn_planner::catalog::{IndexInfo, TableInfo};
use cairn_types::{TableId, keys};

use super::kv_error;
use super::view::ReadView;

/// The rows of a table that a pessimistic transaction has changed, as readers of one of the
/// table's indexes ask for them.
#[derive(Clone)]
pub struct OwnRows {
    transaction: Arc<Transaction>,
    table: TableId,
    index_columns: usize,
    int_handle: bool,
}

impl OwnRows {
    /// `None`: there are none. Optimistic transactions change the rows that they read, and hold
    /// only the entries that they change.
    pub fn of(view: &ReadView, table: &TableInfo, index: &IndexInfo) -> Option<OwnRows> {
        let ReadView::Transaction(transaction) = view else { return None };
        if !transaction.is_pessimistic() {
            return None;
        }
        let (start, end) = keys::row_range(table.id);
        view.is_dirty(&KeyRange::new(start, end)).then(|| OwnRows {
            transaction: Arc::clone(transaction),
            table: table.id,
            index_columns: index.columns.len(),
            int_handle: !table.common_handle,
        })
    }

    /// Whether an entry of the snapshot belongs to a version of a row that these replace.
    pub fn replace(&self, key: &[u8], value: &[u8]) -> Result<bool> {
        let handle = decode_entry_handle(key, value, self.index_columns, self.int_handle)?;
        let row_key = keys::encode_row_key(self.table, &handle);
        Ok(self.transaction.buffered(&row_key).is_some())
    }

    /// The entries of whole keys. Where both have one, the transaction's own goes before that of
    /// the snapshot.
    pub async fn entries(&self, entry_keys: &[Bytes]) -> Result<KvMap> {
        let mut found = KvMap::default();
        let mut below = Vec::new();
        for key in entry_keys {
            match self.transaction.buffered(key) {
                Some(Some(value)) => {
                    found.insert(key.clone(), value);
                }
                Some(None) | None => below.push(key.clone()),
            }
        }
        if !below.is_empty() {
            let committed = self.transaction.snapshot().batch_get(&below).await;
            for (key, value) in committed.map_err(kv_error)? {
                if !self.replace(&key, &value)? {
                    found.insert(key, value);
                }
            }
        }
        Ok(found)
    }
}
