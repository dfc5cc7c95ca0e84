//! The records of named locks, and the transactions that change them.

use cairn_types::TimeStamp;
use serde::{Deserialize, Serialize};

use super::lease_end_ms;
use crate::catalog::meta;
use crate::catalog::record::{self, Change, Changed};
use crate::domain::Domain;
use crate::error::Result;

/// Holders that a search for a deadlock follows.
const HOLDERS_MAX: usize = 64;

/// A session of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

impl Held {
    fn is_alive(&self, now: TimeStamp) -> bool {
        self.expires_at_ms > now.physical_ms()
    }
}

/// Who has the lock.
pub async fn find(domain: &Domain, name: &str) -> Result<Option<Held>> {
    let txn = domain.kv.begin(domain.now_ts().await?);
    let held: Option<Held> = record::read(&txn, &meta::named_lock_key(name)).await?;
    Ok(held.filter(|held| held.is_alive(txn.start_ts())))
}

/// Takes a lock that is free, or that the same session has; tells whether it could.
pub async fn take(domain: &Domain, name: &str, own: &Owner) -> Result<bool> {
    change(domain, name, |held, now| match held {
        Some(held) if held.by != *own => Change::Keep,
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
            Change::Put(Held { expires_at_ms: lease_end_ms(now), ..held.clone() })
        }
        _ => Change::Keep,
    })
    .await
}

/// Frees a lock if the session has it.
pub async fn give_back(domain: &Domain, name: &str, own: &Owner) -> Result<()> {
    let free = |held: Option<&Held>, _| match held {
        Some(held) if held.by == *own => Change::Delete,
        _ => Change::Keep,
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
        let note = |held: Option<&Held>, _| match held {
            Some(held) if held.by == *own => {
                Change::Put(Held { waits_for: waits_for.map(str::to_owned), ..held.clone() })
            }
            _ => Change::Keep,
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

/// Changes the record of a lock; one whose time is over counts as none. Tells whether anything
/// was changed.
async fn change(
    domain: &Domain,
    name: &str,
    wanted: impl Fn(Option<&Held>, TimeStamp) -> Change<Held>,
) -> Result<bool> {
    let wanted = |held: Option<&Held>, now| wanted(held.filter(|held| held.is_alive(now)), now);
    let changed = record::change(domain, &meta::named_lock_key(name), wanted).await?;
    Ok(!matches!(changed, Changed::Kept(_)))
}
