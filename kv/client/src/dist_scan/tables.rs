//! Which stores have been sent the tables that a scan's fragment joins its rows with.
//!
//! The first task at a store brings the rows, all others name them by their digests. Tasks that
//! start together wait until the first one's request was taken in: it is as fast as sending the rows once
//! more, and the store gets them once. Small tables are sent along always. A store that has dropped a table
//! says so, and the next request there brings the rows again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::BroadcastTable;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::error::KvError;

/// Tables of so many bytes together are sent along with every request.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// How often one task is told that a table is not known before that counts as an error: a store that knows
/// tables only while they are in use would say so for ever.
const UNKNOWN_MAX: u32 = 8;

/// A table that the stores join rows with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanTable {
    /// Its name: `cairn_executor::broadcast::TableDigest`.
    pub digest: Bytes,
    /// Its rows in the wire form of `cairn-types`.
    pub rows: Bytes,
}

/// The tables of a scan, or of several with the same ones, and who has them. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct ScanTables {
    tables: Arc<[ScanTable]>,
    /// By store: whether it has them. Held while they are on their way.
    stores: Arc<Mutex<HashMap<u64, Arc<AsyncMutex<bool>>>>>,
}

/// The tables of one request that is about to be sent.
pub(super) struct Sending {
    tables: Arc<[ScanTable]>,
    /// Others wait for it.
    store: Option<OwnedMutexGuard<bool>>,
    with_rows: bool,
}

impl ScanTables {
    /// Tables that no store has been sent, in the order of their numbers in the fragment.
    pub fn new(tables: Vec<ScanTable>) -> ScanTables {
        ScanTables { tables: tables.into(), stores: Arc::default() }
    }

    /// Whether they go along with every request.
    fn are_small(&self) -> bool {
        self.tables.iter().map(|table| table.rows.len()).sum::<usize>() <= SMALL_BYTES_MAX
    }

    /// What a request to a store takes along.
    pub(super) async fn for_store(&self, store_id: u64) -> Sending {
        let tables = Arc::clone(&self.tables);
        if self.are_small() {
            return Sending { tables, store: None, with_rows: true };
        }
        let store = self.store(store_id).lock_owned().await;
        match *store {
            true => Sending { tables, store: None, with_rows: false },
            false => Sending { tables, store: Some(store), with_rows: true },
        }
    }

    /// A store does not know the tables, as it has told one task so many times. Fails if it keeps
    /// saying so.
    pub(super) async fn are_unknown_to(&self, store_id: u64, times: u32) -> Result<(), KvError> {
        if self.are_small() || times > UNKNOWN_MAX {
            let reason = format!("store {store_id} does not keep the tables that it was sent");
            return Err(KvError::RegionUnavailable { reason });
        }
        *self.store(store_id).lock().await = false;
        Ok(())
    }

    fn store(&self, store_id: u64) -> Arc<AsyncMutex<bool>> {
        Arc::clone(self.stores.lock().entry(store_id).or_default())
    }
}

impl Sending {
    /// As they travel.
    pub fn tables(&self) -> Vec<BroadcastTable> {
        let rows = |table: &ScanTable| match self.with_rows {
            true => table.rows.clone(),
            false => Bytes::new(),
        };
        let table =
            |table: &ScanTable| BroadcastTable { digest: table.digest.clone(), rows: rows(table) };
        self.tables.iter().map(table).collect()
    }

    /// The store has answered the request: it has the tables.
    pub fn taken(self) {
        if let Some(mut store) = self.store {
            *store = true;
        }
    }
}
