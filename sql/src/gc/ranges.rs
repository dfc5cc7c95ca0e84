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
//!
//! **Recovery.** Until its range is destroyed a dropped table can be brought back
//! (`ddl::recover`), which takes the entry out. Before the first pass the owner *claims* the entry
//! in a transaction of its own: it forgets the table's origin. Recovery and claim write the same
//! key, so one of them comes first and the other sees it: a claimed table is not found any more,
//! and of a table that was brought back there is nothing to claim. The claim wants the very entry
//! that was visible at the safe point: one that was brought back and dropped again since is
//! another, of a time that somebody may still read at.

use bytes::Bytes;
use cairn_kv_client::{KeyRange, KvError, Transaction};
use cairn_types::TimeStamp;

use crate::catalog::meta::{self, Dropped};
use crate::domain::Domain;
use crate::error::Result;
use crate::statistics;
use crate::xa;

/// Times that a range is destroyed.
const PASSES: u32 = 2;

/// Destroys what was dropped before the safe point; answers how many ranges.
pub async fn destroy_dropped(domain: &Domain, safe_point: TimeStamp) -> Result<usize> {
    if safe_point.is_zero() || safe_point < domain.kv.safe_point() {
        return Ok(0);
    }
    let snapshot = domain.kv.snapshot(safe_point);
    // A table may be dropped although a prepared branch has rows of it, if the change of the schema
    // waited for longer than it may: the branch is whole until it ends.
    let branches = xa::record::all(domain).await?;
    let is_in_use =
        |dropped: &Dropped| branches.iter().any(|branch| branch.tables.contains(&dropped.table.0));
    let mut destroyed = 0;
    for dropped in meta::dropped(&snapshot).await? {
        if is_in_use(&dropped) {
            continue;
        }
        destroyed += usize::from(destroy(domain, &dropped).await?);
    }
    Ok(destroyed)
}

/// Destroys a range unless its entry changed since the safe point.
async fn destroy(domain: &Domain, seen: &Dropped) -> Result<bool> {
    let Some(claimed) = claim(domain, seen).await? else { return Ok(false) };
    let (start, end) = claimed.range();
    domain.kv.destroy_range(KeyRange { start: start.into(), end: end.into() }).await?;
    let txn = domain.kv.begin(domain.now_ts().await?);
    if current(&txn, &claimed.key).await?.as_ref() != Some(&claimed) {
        return Ok(true);
    }
    let passes = claimed.passes + 1;
    if passes < PASSES {
        let done = Dropped { passes, ..claimed };
        txn.set(done.key.clone(), done.encode())?;
    } else {
        if claimed.index.is_none() {
            statistics::record::remove(domain, claimed.table).await?;
        }
        txn.delete(claimed.key)?;
    }
    commit(&txn).await.map(|_| true)
}

/// Makes sure that nobody brings the table back any more: forgets where it came from, in a
/// transaction that a recovery of it conflicts with. `None` when the entry is another by now.
async fn claim(domain: &Domain, seen: &Dropped) -> Result<Option<Dropped>> {
    let txn = domain.kv.begin(domain.now_ts().await?);
    if current(&txn, &seen.key).await?.as_ref() != Some(seen) {
        return Ok(None);
    }
    if seen.origin.is_none() {
        return Ok(Some(seen.clone()));
    }
    let claimed = Dropped { origin: None, ..seen.clone() };
    txn.set(claimed.key.clone(), claimed.encode())?;
    Ok(commit(&txn).await?.then_some(claimed))
}

async fn current(txn: &Transaction, key: &Bytes) -> Result<Option<Dropped>> {
    let value = txn.get(key).await?;
    value.map(|value| Dropped::decode(key.clone(), &value)).transpose()
}

/// Whether nobody else was faster.
async fn commit(txn: &Transaction) -> Result<bool> {
    match txn.commit().await {
        Ok(_) => Ok(true),
        Err(KvError::WriteConflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
