//! Who drives the collection: a record in the meta keyspace, changed by transactions.
//!
//! Two nodes that reach for it at once conflict, and one of them has it. An owner that
//! dies loses it when the lease is over. Times are PD's.

use std::time::Duration;

use bytes::Bytes;
use cairn_kv_client::{KvError, Transaction};
use cairn_types::TimeStamp;
use serde::{Deserialize, Serialize};

use crate::catalog::meta::GC_LEASE_KEY;
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The node that drives; 0: none.
    pub owner: u64,
    /// Until when, unless it renews the lease.
    pub expires_at_ms: u64,
    /// When the last run ended that did all its work.
    pub last_run_ms: u64,
}

async fn read(txn: &Transaction) -> Result<Lease> {
    match txn.get(GC_LEASE_KEY).await? {
        None => Ok(Lease::default()),
        Some(value) => serde_json::from_slice(&value)
            .map_err(|error| SqlError::DamagedSchema(format!("lease of collection: {error}"))),
    }
}

/// Writes the record that `change` makes of it; `None`, also when somebody else was
/// faster, when there is nothing to write.
async fn update(
    domain: &Domain,
    change: impl FnOnce(Lease) -> Option<Lease>,
) -> Result<Option<Lease>> {
    let txn = domain.kv.begin(domain.now_ts().await?);
    let Some(lease) = change(read(&txn).await?) else { return Ok(None) };
    let value = serde_json::to_vec(&lease)
        .map_err(|error| SqlError::DamagedSchema(format!("lease of collection: {error}")))?;
    txn.set(Bytes::from_static(GC_LEASE_KEY), value.into())?;
    match txn.commit().await {
        Ok(_) => Ok(Some(lease)),
        Err(KvError::WriteConflict { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes or renews the lease; `None` when another node has it.
pub async fn acquire(domain: &Domain, now: TimeStamp, span: Duration) -> Result<Option<Lease>> {
    let (node, now_ms) = (domain.node_id(), now.physical_ms());
    let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let take = |lease: Lease| {
        let is_free = lease.owner == node || lease.expires_at_ms <= now_ms;
        is_free.then(|| Lease { owner: node, expires_at_ms: now_ms + span_ms, ..lease })
    };
    update(domain, take).await
}

/// Remembers for this and the next owner when the last run was.
pub async fn note_run(domain: &Domain, now: TimeStamp) -> Result<()> {
    let last_run_ms = now.physical_ms();
    update(domain, |lease| Some(Lease { last_run_ms, ..lease })).await.map(|_| ())
}

/// Lets another node take over at once.
pub async fn give_up(domain: &Domain) -> Result<()> {
    let node = domain.node_id();
    let leave = |lease: Lease| {
        (lease.owner == node).then_some(Lease { owner: 0, expires_at_ms: 0, ..lease })
    };
    update(domain, leave).await.map(|_| ())
}
