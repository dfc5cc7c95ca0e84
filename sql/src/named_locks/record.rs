//! The records of named locks, and the transactions that change them.

use bytes::Bytes;
use cairn_kv_client::{KvError, Transaction};
use cairn_types::TimeStamp;
use serde::{Deserialize, Serialize};

use super::lease_end_ms;
use crate::catalog::meta;
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// How often a transaction starts over that lost to another one.
const TRIES_MAX: usize = 20;

/// Holders that a search for a deadlock follows.
const HOLDERS_MAX: usize = 64;

/// A session of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The SQL node.
    pub node: u64,
    /// Its connection.
    pub connection: u32,
}

/// Who has a lock. Times are PD's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The session.
    pub by: Owner,
    /// Until when, unless its node renews it.
    pub expires_at_ms: u64,
    /// The lock that the session waits for.
    pub waits_for: Option<String>,
}

/// Who has the lock.
pub async fn find(domain: &Domain, name: &str) -> Result<Option<Held>> {
    let txn = domain.kv.begin(domain.now_ts().await?);
    read(&txn, &meta::named_lock_key(name)).await
}

/// Takes a lock that is free, or that the same session has; tells whether it could.
pub async fn take(domain: &Domain, name: &str, own: &Owner) -> Result<bool> {
    change(domain, name, |held, now| match held {
        Some(held) if held.by != *own => Change::None,
        _ => {
            let expires_at_ms = lease_end_ms(now);
            Change::Put(Held { by: own.clone(), expires_at_ms, waits_for: None })
        }
    })
    .await
}

/// Lengthens the life of a lock; tells whether it is still the session's.
pub async fn renew(domain: &Domain, name: &str, own: &Owner) -> Result<bool> {
    change(domain, name, |held, now| match held {
        Some(held) if held.by == *own => {
            Change::Put(Held { expires_at_ms: lease_end_ms(now), ..held })
        }
        _ => Change::None,
    })
    .await
}

/// Frees a lock if the session has it.
pub async fn give_back(domain: &Domain, name: &str, own: &Owner) -> Result<()> {
    let free = |held: Option<Held>, _| match held {
        Some(held) if held.by == *own => Change::Delete,
        _ => Change::None,
    };
    change(domain, name, free).await.map(drop)
}

/// Says in the locks that a session has which one it waits for now.
pub async fn note_wait(
    domain: &Domain,
    holds: &[String],
    own: &Owner,
    waits_for: Option<&str>,
) -> Result<()> {
    for name in holds {
        let note = |held: Option<Held>, _| match held {
            Some(held) if held.by == *own => {
                Change::Put(Held { waits_for: waits_for.map(str::to_owned), ..held })
            }
            _ => Change::None,
        };
        change(domain, name, note).await?;
    }
    Ok(())
}

/// Whether the holder of a lock waits, over others or not, for the session, and the session is
/// the one of that circle that gives up: the last by node and connection, so that each of them
/// comes to the same answer whenever it looks.
pub async fn must_give_up(domain: &Domain, name: &str, own: &Owner) -> Result<bool> {
    let mut name = name.to_owned();
    for _ in 0..HOLDERS_MAX {
        match find(domain, &name).await? {
            Some(held) if held.by == *own => return Ok(true),
            Some(Held { by, waits_for: Some(next), .. }) if by < *own => name = next,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// What becomes of a record.
enum Change {
    None,
    Put(Held),
    Delete,
}

/// Changes a record, however often others are faster; tells whether anything was changed.
async fn change(
    domain: &Domain,
    name: &str,
    wanted: impl Fn(Option<Held>, TimeStamp) -> Change,
) -> Result<bool> {
    let key = meta::named_lock_key(name);
    let mut lost = None;
    for _ in 0..TRIES_MAX {
        let txn = domain.kv.begin(domain.now_ts().await?);
        match wanted(read(&txn, &key).await?, txn.start_ts()) {
            Change::None => return Ok(false),
            Change::Put(held) => txn.set(key.clone(), meta::to_json(&held)?)?,
            Change::Delete => txn.delete(key.clone())?,
        }
        match txn.commit().await {
            Ok(_) => return Ok(true),
            Err(error @ KvError::WriteConflict { .. }) => lost = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(lost.map_or(SqlError::Interrupted, SqlError::Kv))
}

/// The record of a lock whose time is not over.
async fn read(txn: &Transaction, key: &Bytes) -> Result<Option<Held>> {
    let Some(value) = txn.get(key).await? else { return Ok(None) };
    let held: Held = meta::from_json(key, &value)?;
    Ok((held.expires_at_ms > txn.start_ts().physical_ms()).then_some(held))
}
