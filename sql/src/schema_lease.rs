//! The lease under which a node writes rows: whoever changes the schema waits until every node has
//! left the older versions behind, but for a node that is silent only so long.
//!
//! ```text
//!   the node:   asked_at ──► PD keeps the entry           own lease over: no more commits
//!   ───────────────┴───────────────┬───────────────────────────┴──────────────────────────► time
//!   another:                       └ sees the entry, and no other one ──► gives the node up
//! ```
//!
//! **Data.** An entry of PD's configuration per node ([`NodeReport`]): the oldest version in use
//! there, and the time, so that every entry is another.
//!
//! **A lease that was over** does not come back: what was held under it is of another generation, and
//! is never committed ([`crate::catalog::VersionHold::generation`]).
//!
//! **Invariant.** A node's own lease is over before others give it up. It runs from before the entry is made,
//! however long PD takes to keep it; theirs from when they saw it, which is later. No times of two machines
//! are compared, neither clock can be set, and both go on while the machine is suspended.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::pd::ConfigEntry;
use parking_lot::Mutex;

use crate::catalog::SchemaCache;
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
    /// Renews it by `tell`, which tells PD the version in use. One that is over ends first: what is
    /// held in `schema` under it is of another generation from here on, and `reload` learns what
    /// nobody told this node meanwhile.
    pub async fn keep<R, T>(
        &self,
        schema: &SchemaCache,
        reload: impl Fn() -> R,
        tell: impl Fn() -> T,
    ) -> Result<()>
    where
        R: Future<Output = Result<()>>,
        T: Future<Output = Result<()>>,
    {
        loop {
            if self.is_over() {
                schema.begin_generation();
                self.give_up();
                reload().await?;
            }
            if self.renew(tell()).await? {
                return Ok(());
            }
        }
    }

    /// How much longer other nodes certainly wait for what was held in this generation of `schema`.
    pub fn left_of(&self, schema: &SchemaCache, generation: u64) -> Duration {
        match generation == schema.generation() {
            true => self.left(),
            false => Duration::ZERO,
        }
    }

    /// Renews it by what tells PD the version in use; only if that succeeds. False if it was over
    /// by then: [`SchemaLease::give_up`] goes before another one.
    async fn renew(&self, tell: impl Future<Output = Result<()>>) -> Result<bool> {
        let asked_at = since_boot();
        tell.await?;
        if self.is_over() {
            return Ok(false);
        }
        let mut newest = self.asked_at.lock();
        *newest = asked_at.max(*newest);
        Ok(true)
    }

    /// Whether there was one, and it is over.
    fn is_over(&self) -> bool {
        !self.asked_at.lock().is_zero() && self.left().is_zero()
    }

    /// There is none from here on, until the next is asked for.
    fn give_up(&self) {
        *self.asked_at.lock() = Duration::ZERO;
    }

    /// How much longer other nodes certainly wait for this one.
    fn left(&self) -> Duration {
        let asked_at = *self.asked_at.lock();
        if asked_at.is_zero() {
            return Duration::ZERO;
        }
        OWN_LEASE.saturating_sub(since_boot().saturating_sub(asked_at))
    }
}

/// What a node tells the others, once a second and when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The oldest schema version that a transaction there uses.
    pub oldest: i64,
    /// When it said so, by its own clock: tells a report from others of the node.
    pub at_ms: i64,
    /// The newest version it knows: all its sessions heed the table locks of that.
    pub newest: i64,
    /// Of the table locks that are waited for, those that wait for its sessions.
    pub blocks: Vec<i64>,
}

impl NodeReport {
    /// The value of the node's entry.
    pub fn encode(&self) -> Bytes {
        let mut text = format!("{} {} {}", self.oldest, self.at_ms, self.newest);
        self.blocks.iter().for_each(|id| text.push_str(&format!(" {id}")));
        text.into()
    }

    /// Nodes of the version before tell the first two numbers: they know nothing of table locks.
    fn decode(value: &[u8]) -> Option<NodeReport> {
        let numbers = std::str::from_utf8(value).ok()?.split(' ').map(str::parse::<i64>);
        let numbers: Vec<i64> = numbers.collect::<Result<_, _>>().ok()?;
        let (&[oldest, at_ms], rest) = numbers.split_first_chunk()?;
        let (newest, blocks) = rest.split_first().unwrap_or((&0, &[]));
        Some(NodeReport { oldest, at_ms, newest: *newest, blocks: blocks.to_vec() })
    }
}

/// The nodes as this one sees them, by number.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<HashMap<u64, Seen>>);

#[derive(Debug)]
struct Seen {
    report: NodeReport,
    /// Since boot, when it was seen first.
    since: Duration,
}

impl Nodes {
    /// Takes note of all entries, which PD had at a time since boot or later; their keys are
    /// `prefix` and the node's number.
    pub fn see(&self, entries: &[ConfigEntry], prefix: &str, now: Duration) {
        let report = |entry: &ConfigEntry| {
            let node: u64 = entry.key.strip_prefix(prefix)?.parse().ok()?;
            Some((node, NodeReport::decode(&entry.value)?))
        };
        let mut reports: HashMap<u64, NodeReport> = entries.iter().filter_map(report).collect();
        let mut nodes = self.0.lock();
        nodes.retain(|node, seen| reports.get(node) == Some(&seen.report));
        for node in nodes.keys() {
            reports.remove(node);
        }
        let seen = |(node, report)| (node, Seen { report, since: now });
        nodes.extend(reports.into_iter().map(seen));
    }

    /// The nodes that are not given up, with what they said last; one that signed off is not
    /// among them.
    pub fn living(&self, now: Duration) -> HashMap<u64, NodeReport> {
        let nodes = self.0.lock();
        let is_heard = |seen: &Seen| now.saturating_sub(seen.since) <= GIVEN_UP_AFTER;
        let living = nodes.iter().filter(|(_, seen)| is_heard(seen));
        living.map(|(node, seen)| (*node, seen.report.clone())).collect()
    }

    /// Whether every node that is not given up has left all versions before this one behind.
    pub fn have_reached(&self, version: i64, now: Duration) -> bool {
        self.living(now).values().all(|report| report.oldest >= version)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::catalog::VersionHold;

    fn entry(node: u64, oldest: i64, at_ms: i64) -> ConfigEntry {
        let report = NodeReport { oldest, at_ms, newest: oldest, blocks: Vec::new() };
        ConfigEntry { key: format!("n/{node}"), value: report.encode() }
    }

    #[test]
    fn a_node_is_waited_for_until_it_was_silent_for_long() {
        let nodes = Nodes::default();
        let at = Duration::from_secs;
        let see = |entries: &[ConfigEntry], now| nodes.see(entries, "n/", now);
        assert!(nodes.have_reached(8, at(1)));
        // Whatever time the entries carry: clocks of other machines say nothing.
        let entries = [entry(1, 7, 1), entry(2, 8, i64::MAX)];
        see(&entries, at(100));
        assert!(nodes.have_reached(7, at(100)));
        assert!(!nodes.have_reached(8, at(110)));
        see(&entries, at(110));
        assert!(nodes.have_reached(8, at(111)), "nobody waits for the first any more");
        assert!(nodes.living(at(111)).is_empty());
        see(&[entry(1, 7, 2)], at(111));
        assert!(!nodes.have_reached(8, at(121)), "it lives");
        assert_eq!(nodes.living(at(121)).keys().collect::<Vec<_>>(), [&1]);
        assert!(!nodes.have_reached(8, at(0)), "a look that began earlier");
        see(&[], at(121));
        assert!(nodes.have_reached(8, at(121)), "it has signed off");
        see(&[ConfigEntry { key: "n/1".into(), value: "damaged".into() }], at(121));
        assert!(nodes.have_reached(8, at(121)));
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for blocks in [vec![], vec![7], vec![7, 12]] {
            let report = NodeReport { oldest: 4, at_ms: 1_700_000_000_000, newest: 12, blocks };
            assert_eq!(NodeReport::decode(&report.encode()), Some(report));
        }
        let older = NodeReport { oldest: 4, at_ms: 5, newest: 0, blocks: Vec::new() };
        assert_eq!(NodeReport::decode(b"4 5"), Some(older));
        for damaged in ["", "4", "4 x", "4 5 x", "4 5 6 x"] {
            assert_eq!(NodeReport::decode(damaged.as_bytes()), None, "{damaged}");
        }
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
        *lease.asked_at.lock() = Duration::from_nanos(1);
        assert!(lease.is_over(), "this machine has been up for longer");
        assert!(!lease.renew(async { Ok(()) }).await.expect("PD keeps it"));
        assert!(lease.left().is_zero(), "it does not come back");
        lease.give_up();
        assert!(lease.renew(async { Ok(()) }).await.expect("PD keeps it"));
        // One that was asked for earlier and took longer does not shorten it.
        *lease.asked_at.lock() += Duration::from_secs(1);
        let newest = *lease.asked_at.lock();
        lease.renew(async { Ok(()) }).await.expect("PD keeps it");
        assert_eq!(*lease.asked_at.lock(), newest);
    }

    #[tokio::test]
    async fn what_was_held_under_a_lease_that_was_over_is_of_another_generation() {
        let (lease, schema) = (SchemaLease::default(), Arc::new(SchemaCache::default()));
        let (done, is_slow) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        let end = || *lease.asked_at.lock() = Duration::from_nanos(1);
        let reload = || async {
            done.lock().push("reload");
            Ok(())
        };
        let tell = || async {
            done.lock().push("tell");
            if is_slow.swap(false, Ordering::Relaxed) {
                end();
            }
            Ok(())
        };
        let keep = || lease.keep(&schema, reload, tell);
        let done_now = || std::mem::take(&mut *done.lock());
        let left_of = |hold: &VersionHold| lease.left_of(&schema, hold.generation());

        keep().await.expect("PD keeps it");
        let held = schema.hold();
        keep().await.expect("PD keeps it");
        assert_eq!(done_now(), ["tell", "tell"]);
        assert!(!left_of(&held).is_zero());
        end();
        assert!(left_of(&held).is_zero());
        keep().await.expect("PD keeps it");
        assert_eq!(done_now(), ["reload", "tell"]);
        let held_anew = schema.hold();
        assert!(left_of(&held).is_zero(), "others may have changed the schema meanwhile");
        assert!(!left_of(&held_anew).is_zero());
        // Over by the time that PD answers: the others may have given the node up before.
        is_slow.store(true, Ordering::Relaxed);
        keep().await.expect("PD keeps it");
        assert_eq!(done_now(), ["tell", "reload", "tell"]);
        assert!(left_of(&held_anew).is_zero());
    }
}
