//! Who drives a background work, such as the collection: a record in the meta keyspace, changed by
//! transactions.
//!
//! Two nodes that reach for it at once conflict, and one of them has it. An owner that
//! dies loses it when the lease is over. Times are PD's.

use std::time::Duration;

use bytes::Bytes;
use cairn_types::TimeStamp;
use serde::{Deserialize, Serialize};

use crate::catalog::record::{self, Change, Changed};
use crate::domain::Domain;
use crate::error::Result;

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

/// Writes the record that `wanted` makes of it; `None` when there is nothing to write.
async fn change(
    domain: &Domain,
    key: &'static [u8],
    wanted: impl Fn(Lease) -> Option<Lease>,
) -> Result<Option<Lease>> {
    let wanted = |lease: Option<&Lease>, _| {
        wanted(lease.cloned().unwrap_or_default()).map_or(Change::Keep, Change::Put)
    };
    match record::change(domain, &Bytes::from_static(key), wanted).await? {
        Changed::Put(lease) => Ok(Some(lease)),
        Changed::Kept(_) | Changed::Deleted => Ok(None),
    }
}

/// Takes or renews the lease; `None` when another node has it.
pub async fn acquire(
    domain: &Domain,
    key: &'static [u8],
    now: TimeStamp,
    span: Duration,
) -> Result<Option<Lease>> {
    let (node, now_ms) = (domain.node_id(), now.physical_ms());
    let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let take = |lease: Lease| {
        let is_free = lease.owner == node || lease.expires_at_ms <= now_ms;
        is_free.then(|| Lease { owner: node, expires_at_ms: now_ms + span_ms, ..lease })
    };
    change(domain, key, take).await
}

/// Remembers for this and the next owner when the last run was.
pub async fn note_run(domain: &Domain, key: &'static [u8], now: TimeStamp) -> Result<()> {
    let last_run_ms = now.physical_ms();
    change(domain, key, |lease| Some(Lease { last_run_ms, ..lease })).await.map(|_| ())
}

/// Lets another node take over at once.
pub async fn give_up(domain: &Domain, key: &'static [u8]) -> Result<()> {
    let node = domain.node_id();
    let leave = |lease: Lease| {
        (lease.owner == node).then_some(Lease { owner: 0, expires_at_ms: 0, ..lease })
    };
    change(domain, key, leave).await.map(|_| ())
}
