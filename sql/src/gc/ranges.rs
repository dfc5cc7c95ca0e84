//! Destroys the rows of dropped tables and the entries of dropped indexes.
//!
//! **Data.** The change of the schema that drops something queues it in the same
//! transaction (`catalog::meta`, keys `mr…`), so DROP itself is instant and nothing is
//! forgotten. An entry that is visible *at the safe point* was dropped before it: nobody
//! reads there any more.
//!
//! **Flow.** Every store destroys the range by itself, not by Raft. An entry is worked
//! off twice, in different rounds: a replica that was just being built from another
//! store's data at the first time has it behind it at the second.

use bytes::Bytes;
use cairn_kv_client::{KeyRange, KvError};
use cairn_types::TimeStamp;

use crate::catalog::meta::{self, Dropped};
use crate::domain::Domain;
use crate::error::Result;

/// Times that a range is destroyed.
const PASSES: u32 = 2;

/// Destroys what was dropped before the safe point; answers how many ranges.
pub async fn destroy_dropped(domain: &Domain, safe_point: TimeStamp) -> Result<usize> {
    if safe_point.is_zero() || safe_point < domain.kv.safe_point() {
        return Ok(0);
    }
    let snapshot = domain.kv.snapshot(safe_point);
    let mut destroyed = 0;
    for dropped in meta::dropped(&snapshot).await? {
        destroyed += usize::from(destroy(domain, &dropped).await?);
    }
    Ok(destroyed)
}

/// Destroys a range unless that was done since the safe point.
async fn destroy(domain: &Domain, dropped: &Dropped) -> Result<bool> {
    let txn = domain.kv.begin(domain.now_ts().await?);
    let passes = match txn.get(&dropped.key).await? {
        None => return Ok(false),
        Some(value) => meta::parse_passes(&dropped.key, &value)?,
    };
    if passes != dropped.passes {
        return Ok(false);
    }
    let (start, end) = dropped.range();
    domain.kv.destroy_range(KeyRange { start: start.into(), end: end.into() }).await?;
    if passes + 1 < PASSES {
        txn.set(dropped.key.clone(), Bytes::from((passes + 1).to_string()))?;
    } else {
        txn.delete(dropped.key.clone())?;
    }
    match txn.commit().await {
        // Another owner was as fast.
        Ok(_) | Err(KvError::WriteConflict { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
