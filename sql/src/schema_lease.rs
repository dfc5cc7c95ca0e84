//! The lease under which a node writes rows: whoever changes the schema waits until every node has
//! left the older versions behind, but for a node that is silent only so long.
//!
//! ```text
//!   the node:   asked_at ──► PD keeps the entry           own lease over: no more commits
//!   ───────────────┴───────────────┬───────────────────────────┴──────────────────────────► time
//!   another:                       └ sees the entry, and no other one ──► gives the node up
//! ```
//!
//! **Data.** An entry of PD's configuration per node: the oldest version in use there, and the
//! time, so that every entry is another.
//!
//! **Invariant.** A node's own lease is over before others give it up. It runs from before the entry is made,
//! however long PD takes to keep it; theirs from when they saw it, which is later. No times of two machines
//! are compared, neither clock can be set, and both go on while the machine is suspended.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::pd::ConfigEntry;
use parking_lot::Mutex;

use crate::clock::since_boot;
use crate::error::Result;

/// A node whose entry was the same for this long is dead: nobody waits for it.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
/// A node that could not reach PD for this long must not commit: others may have stopped
/// waiting for it. Shorter by the drift we allow clocks.
const OWN_LEASE: Duration = Duration::from_secs(8);

/// This node's lease.
#[derive(Debug, Default)]
pub struct SchemaLease {
    /// Since boot, before the newest entry that PD keeps was made; zero: it keeps none.
    asked_at: Mutex<Duration>,
}

impl SchemaLease {
    /// Renews it by what tells PD the version in use; only if that succeeds.
    pub async fn renew(&self, tell: impl Future<Output = Result<()>>) -> Result<()> {
        let asked_at = since_boot();
        tell.await?;
        let mut newest = self.asked_at.lock();
        *newest = asked_at.max(*newest);
        Ok(())
    }

    /// How much longer other nodes certainly wait for this one.
    pub fn left(&self) -> Duration {
        let asked_at = *self.asked_at.lock();
        if asked_at.is_zero() {
            return Duration::ZERO;
        }
        OWN_LEASE.saturating_sub(since_boot().saturating_sub(asked_at))
    }
}

/// The value of an entry; `at_ms` tells it from others of the node.
pub fn encode(oldest_version: i64, at_ms: i64) -> Bytes {
    format!("{oldest_version} {at_ms}").into()
}

/// The oldest version in use, from an entry's value.
fn oldest_version(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.split_once(' ')?.0.parse().ok()
}

/// The entries as this node sees them.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<HashMap<String, Seen>>);

#[derive(Debug)]
struct Seen {
    value: Bytes,
    /// Since boot, when it was seen first.
    since: Duration,
}

impl Nodes {
    /// Takes note of all entries, which PD had at a time since boot or later.
    pub fn see(&self, entries: &[ConfigEntry], now: Duration) {
        let mut nodes = self.0.lock();
        nodes.retain(|key, _| entries.iter().any(|entry| entry.key == *key));
        for entry in entries {
            match nodes.get_mut(&entry.key) {
                Some(seen) if seen.value == entry.value => {}
                _ => {
                    let seen = Seen { value: entry.value.clone(), since: now };
                    nodes.insert(entry.key.clone(), seen);
                }
            }
        }
    }

    /// Whether every node that is not given up has left all versions before this one behind.
    pub fn have_reached(&self, version: i64, now: Duration) -> bool {
        self.0.lock().values().all(|seen| {
            let is_silent = now.saturating_sub(seen.since) > GIVEN_UP_AFTER;
            is_silent || oldest_version(&seen.value).is_none_or(|oldest| oldest >= version)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: &str, value: Bytes) -> ConfigEntry {
        ConfigEntry { key: node.to_owned(), value }
    }

    #[test]
    fn a_node_is_waited_for_until_it_was_silent_for_long() {
        let nodes = Nodes::default();
        let at = Duration::from_secs;
        assert!(nodes.have_reached(8, at(1)));
        // Whatever time the entries carry: clocks of other machines say nothing.
        let entries = [entry("a", encode(7, 1)), entry("b", encode(8, i64::MAX))];
        nodes.see(&entries, at(100));
        assert!(nodes.have_reached(7, at(100)));
        assert!(!nodes.have_reached(8, at(110)));
        nodes.see(&entries, at(110));
        assert!(nodes.have_reached(8, at(111)), "nobody waits for `a` any more");
        nodes.see(&[entry("a", encode(7, 2))], at(111));
        assert!(!nodes.have_reached(8, at(121)), "it lives");
        assert!(!nodes.have_reached(8, at(0)), "a look that began earlier");
        nodes.see(&[], at(121));
        assert!(nodes.have_reached(8, at(121)), "it has signed off");
        nodes.see(&[entry("a", "damaged".into())], at(121));
        assert!(nodes.have_reached(8, at(121)));
    }

    #[tokio::test]
    async fn the_lease_runs_from_before_the_entry_is_made() {
        let lease = SchemaLease::default();
        assert_eq!(lease.left(), Duration::ZERO, "nobody knows of the node yet");
        let refused = lease.renew(async { Err(crate::error::SqlError::Interrupted) }).await;
        assert!(refused.is_err());
        assert_eq!(lease.left(), Duration::ZERO);
        let told_at = Mutex::new(Duration::ZERO);
        let tell = async {
            // PD takes its time.
            let asked_at = since_boot();
            while since_boot() == asked_at {}
            *told_at.lock() = since_boot();
            Ok(())
        };
        lease.renew(tell).await.expect("PD keeps it");
        assert!(*lease.asked_at.lock() < *told_at.lock());
        assert!(!lease.left().is_zero());
        // One that was asked for earlier and took longer does not shorten it.
        *lease.asked_at.lock() += Duration::from_secs(1);
        let newest = *lease.asked_at.lock();
        lease.renew(async { Ok(()) }).await.expect("PD keeps it");
        assert_eq!(*lease.asked_at.lock(), newest);
    }
}
