//! Leaders that should be elsewhere: the store's disk is slow, or the store is about to stop.
//!
//! **Slow disk.** A leader cannot go on before its own sync returns, because one thread
//! drives all regions of a store; a follower's slow sync holds nobody up, since the other
//! two are a majority. So only leaders matter, and of them only those with traffic: regions
//! that rest are handed over when they wake. Stores tell each other their score with every
//! beat; nothing moves when no other store is known to be better, and between one wave of
//! transfers and the next there is time to write where the first was in vain: Raft takes no
//! proposal meanwhile.
//!
//! **Stop.** Every leader with another voter is handed over while the store still serves, so
//! that its clients are told where to go and nobody waits for an election.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::StoreCore;
use crate::raftstore::clock::MonotonicTime;

/// Leaders handed over in one wave because of a slow disk.
const SLOW_HAND_OVERS_PER_WAVE: usize = 256;
/// Between waves. A transfer that is not accepted ends after an election's time, a second.
const SLOW_WAVE_EVERY: Duration = Duration::from_secs(3);
/// Leaders handed over in one tick because the store stops.
const LEAVE_HAND_OVERS_PER_TICK: usize = 512;

impl StoreCore {
    /// Looks at the disk now and then, and moves leaders away that should be elsewhere.
    pub(super) fn evict_tick(&mut self, now: MonotonicTime) {
        if let Some(changed) = self.slow_score.look(&self.metrics.disk, now) {
            let score = self.slow_score.value();
            self.links.set_slow_score(score);
            self.metrics.slow_score.store(u64::from(score), Ordering::Relaxed);
            if changed {
                tracing::warn!(score, slow = self.slow_score.is_slow(), "log disk");
                // PD should not wait for the next report.
                self.next_store_report = now;
            }
        }
        if self.leaving.is_some() {
            self.leave_step(now);
        } else if self.slow_score.is_slow() && now >= self.next_slow_wave {
            let mut leaders: Vec<u64> = self.awake.intersection(&self.led).copied().collect();
            // Those behind the last wave first: it may have been in vain.
            let turn = leaders.partition_point(|region_id| *region_id <= self.slow_wave_end);
            leaders.rotate_left(turn);
            let moved = self.hand_over_some(leaders, SLOW_HAND_OVERS_PER_WAVE, true, now);
            if let Some(last) = moved.last() {
                self.slow_wave_end = *last;
                self.next_slow_wave = now.plus(SLOW_WAVE_EVERY);
            }
            self.metrics.slow_hand_overs.fetch_add(moved.len() as u64, Ordering::Relaxed);
        }
    }

    /// The store is about to stop: leadership goes elsewhere; `done` hears when it has.
    pub(super) fn leave(&mut self, done: oneshot::Sender<()>, now: MonotonicTime) {
        self.leaving = Some(Some(done));
        self.next_store_report = now;
        self.leave_step(now);
    }

    fn leave_step(&mut self, now: MonotonicTime) {
        let leaders: Vec<u64> = self.led.iter().copied().collect();
        self.hand_over_some(leaders, LEAVE_HAND_OVERS_PER_TICK, false, now);
        if self.shared_leaders() == 0
            && let Some(Some(done)) = self.leaving.replace(None)
        {
            // The caller may have lost patience.
            let _ = done.send(());
        }
    }

    /// Answers the regions whose leadership is on its way.
    fn hand_over_some(
        &mut self,
        leaders: Vec<u64>,
        count_max: usize,
        only_healthy: bool,
        now: MonotonicTime,
    ) -> Vec<u64> {
        let mut moved = Vec::new();
        for region_id in leaders {
            if moved.len() == count_max {
                break;
            }
            let links = &self.links;
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let target = peer.best_successor(&|store_id| links.is_healthy(store_id));
            let any = || (!only_healthy).then(|| peer.best_successor(&|_| true)).flatten();
            if let Some(target) = target.or_else(any) {
                peer.transfer_leader(target, now);
                self.dirty.insert(region_id);
                moved.push(region_id);
            }
        }
        moved
    }
}
