//! Whose turn it is to be sent a Raft snapshot, and when one that failed is tried again.
//!
//! Raft asks for a snapshot again as soon as it hears that one failed. It is told late,
//! later after every failure, so that a receiver that is gone or has no room costs little.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use raft::SnapshotStatus;

use super::{OutgoingSnapshot, StoreCore};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::metrics::add;
use crate::raftstore::store::Effects;

/// Pause after the first failure; doubles with every further one.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause: a receiver that comes back does not wait long.
const RETRY_MAX: Duration = Duration::from_secs(16);
/// Pause when it is only this store that sends too many.
const TURN_PAUSE: Duration = Duration::from_millis(500);

/// Transfers on their way and failures that Raft has not heard of.
#[derive(Default)]
pub(super) struct SnapshotTurns {
    sending: usize,
    /// Failures in a row, by region and receiver.
    failures: HashMap<(u64, u64), u32>,
    /// When Raft is told, region, receiver.
    untold: BTreeSet<(MonotonicTime, u64, u64)>,
    /// Time of the last tick.
    now: MonotonicTime,
}

impl SnapshotTurns {
    /// Transfers on their way.
    pub(super) fn sending(&self) -> usize {
        self.sending
    }

    fn fail(&mut self, region_id: u64, peer_id: u64) {
        let failures = self.failures.entry((region_id, peer_id)).or_default();
        let pause = RETRY_FIRST.saturating_mul(1 << (*failures).min(16)).min(RETRY_MAX);
        *failures += 1;
        self.untold.insert((self.now.plus(pause), region_id, peer_id));
    }

    fn take_due(&mut self, now: MonotonicTime) -> Vec<(u64, u64)> {
        self.now = now;
        let later = self.untold.split_off(&(now.plus(Duration::from_nanos(1)), 0, 0));
        let due = std::mem::replace(&mut self.untold, later);
        due.into_iter().map(|(_, region_id, peer_id)| (region_id, peer_id)).collect()
    }

    /// The region is gone.
    pub(super) fn forget(&mut self, region_id: u64) {
        self.failures.retain(|(region, _), _| *region != region_id);
        self.untold.retain(|(_, region, _)| *region != region_id);
    }
}

impl StoreCore {
    /// Sends it, or tells Raft to try again later.
    pub(super) fn send_snapshot(&mut self, snapshot: OutgoingSnapshot, effects: &mut dyn Effects) {
        if self.turns.sending >= self.config.snapshot_sends_max {
            let due = self.turns.now.plus(TURN_PAUSE);
            self.turns.untold.insert((due, snapshot.head.region_id, snapshot.peer_id));
            return;
        }
        self.turns.sending += 1;
        add(&self.metrics.snapshots_sent, 1);
        effects.send_snapshot(snapshot);
    }

    /// The transfer of a snapshot ended.
    pub(super) fn on_snapshot_sent(&mut self, region_id: u64, peer_id: u64, sent: bool) {
        self.turns.sending = self.turns.sending.saturating_sub(1);
        if sent {
            self.turns.failures.remove(&(region_id, peer_id));
            self.report_snapshot(region_id, peer_id, SnapshotStatus::Finish);
        } else {
            add(&self.metrics.snapshots_failed, 1);
            self.turns.fail(region_id, peer_id);
        }
    }

    /// Tells Raft of failures whose time has come; part of a tick.
    pub(super) fn tell_failed_snapshots(&mut self, now: MonotonicTime) {
        for (region_id, peer_id) in self.turns.take_due(now) {
            self.report_snapshot(region_id, peer_id, SnapshotStatus::Failure);
        }
    }

    fn report_snapshot(&mut self, region_id: u64, peer_id: u64, status: SnapshotStatus) {
        if let Some(peer) = self.peer_mut(region_id)
            && !peer.installing
        {
            peer.node.report_snapshot(peer_id, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut turns = SnapshotTurns::default();
        let mut now = MonotonicTime(0);
        for expected_ms in [500, 1000, 2000, 4000, 8000, 16_000, 16_000] {
            turns.fail(1, 2);
            let just_before = now.plus(Duration::from_millis(expected_ms - 1));
            assert!(turns.take_due(just_before).is_empty());
            now = now.plus(Duration::from_millis(expected_ms));
            assert_eq!(turns.take_due(now), vec![(1, 2)]);
        }
        turns.fail(1, 2);
        turns.forget(1);
        assert!(turns.take_due(now.plus(Duration::from_secs(60))).is_empty());
    }
}
