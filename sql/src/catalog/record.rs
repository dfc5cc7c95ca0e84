//! Records in the meta keyspace that nodes agree by: leases, named locks, prepared
//! transactions. Each is JSON under a key of its own, changed by a transaction of its own,
//! so that of two nodes that want different things one is first, and the other one decides
//! again by what it finds.

use bytes::Bytes;
use cairn_kv_client::Transaction;
use cairn_types::TimeStamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::meta;
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// How often a change starts over that lost to another one.
const TRIES_MAX: usize = 20;

/// What is to become of a record.
#[derive(Debug)]
pub enum Change<T> {
    /// It stays as it is, or missing.
    Keep,
    /// It is written.
    Put(T),
    /// It is removed.
    Delete,
}

/// What became of a record.
#[derive(Debug)]
pub enum Changed<T> {
    /// It stayed as it was.
    Kept(Option<T>),
    /// This is what it is now.
    Put(T),
    /// It is gone.
    Deleted,
}

/// The record as a transaction sees it.
pub async fn read<T: DeserializeOwned>(txn: &Transaction, key: &[u8]) -> Result<Option<T>> {
    match txn.get(key).await? {
        Some(value) => meta::from_json(key, &value).map(Some),
        None => Ok(None),
    }
}

/// The record as it is now.
pub async fn find<T: DeserializeOwned>(domain: &Domain, key: &[u8]) -> Result<Option<T>> {
    read(&domain.kv.begin(domain.now_ts().await?), key).await
}

/// Changes a record as `wanted` says of what it is and of the time, PD's, however often others
/// are faster. After a commit of unknown outcome it looks again, so `wanted` must know its own
/// work when it finds it.
///
/// # Errors
/// Those of the store, and the last conflict when others were faster twenty times.
pub async fn change<T: Serialize + DeserializeOwned>(
    domain: &Domain,
    key: &Bytes,
    wanted: impl Fn(Option<&T>, TimeStamp) -> Change<T>,
) -> Result<Changed<T>> {
    let mut lost = None;
    for _ in 0..TRIES_MAX {
        let txn = domain.kv.begin(domain.now_ts().await?);
        let found = read(&txn, key).await?;
        let changed = match wanted(found.as_ref(), txn.start_ts()) {
            Change::Keep => return Ok(Changed::Kept(found)),
            Change::Put(record) => {
                txn.set(key.clone(), meta::to_json(&record)?)?;
                Changed::Put(record)
            }
            Change::Delete => {
                txn.delete(key.clone())?;
                Changed::Deleted
            }
        };
        match txn.commit().await {
            Ok(_) => return Ok(changed),
            Err(error) if error.asks_for_another_look() => lost = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(lost.map_or(SqlError::Interrupted, SqlError::Kv))
}
