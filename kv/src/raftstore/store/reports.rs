//! What PD hears of this store: its regions, and itself.
//!
//! A region with traffic reports every second or so, one that rests once a minute, each at
//! once when something about it changed. Nothing here looks at regions that rest and are
//! not due.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_proto::pd;
use rand::Rng;

use super::{PdEvent, StoreCore};
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::space::SpaceLevel;

/// Between reports of a region at most, and at least for stores with few regions.
const REPORT_MAX: Duration = Duration::from_secs(30);
const REPORT_MIN: Duration = Duration::from_secs(1);
/// PD hears about so many regions per second from one store when nothing changes.
const REPORTS_PER_SECOND: u32 = 500;
/// After PD wanted to hear of regions, the store reports again so soon.
pub(super) const WANTED_AGAIN: Duration = Duration::from_millis(500);
/// Resting regions reported in one tick; more wait for the next.
const IDLE_REPORTS_PER_TICK: usize = 64;

impl StoreCore {
    /// Reports of leaders that are due.
    pub(super) fn report_regions(&mut self, now: MonotonicTime) {
        let active = self.awake.iter().filter(|id| self.led.contains(id)).count();
        let interval = (Duration::from_secs(1) * active as u32 / REPORTS_PER_SECOND)
            .clamp(REPORT_MIN, REPORT_MAX);
        let mut reports = Vec::new();
        for id in &self.awake {
            let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.is_leader()) else {
                continue;
            };
            if peer.last_report.is_none_or(|last| now.since(last) >= interval) {
                peer.last_report = Some(now);
                reports.push(peer.heartbeat(now));
            }
        }
        let mut again = Vec::new();
        while let Some(&(due, id)) = self.idle_reports.first()
            && due <= now
            && again.len() < IDLE_REPORTS_PER_TICK
        {
            self.idle_reports.pop_first();
            let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_resting()) else {
                continue;
            };
            if peer.idle_report_at == Some(due) {
                peer.last_report = Some(now);
                reports.push(peer.heartbeat(now));
                let next = now.plus(self.config.idle_report);
                peer.idle_report_at = Some(next);
                again.push((next, id));
            }
        }
        // Collection of old versions may have made it smaller.
        again.iter().for_each(|(_, id)| self.check_size(*id, now));
        self.idle_reports.extend(again);
        self.metrics.leaders.store(self.led.len() as u64, Ordering::Relaxed);
        let resting = self.led.len() - self.led.intersection(&self.awake).count();
        self.metrics.resting_leaders.store(resting as u64, Ordering::Relaxed);
        if !reports.is_empty() {
            reports.sort_by_key(|report| report.region.as_ref().map_or(0, |region| region.id));
            self.outbox.pd.push(PdEvent::Regions(reports));
        }
    }

    /// PD wants to hear of these regions now, and of the store again soon: it may want
    /// more.
    pub(super) fn report_wanted(&mut self, wanted: &[u64], now: MonotonicTime) {
        let mut reports = Vec::new();
        for id in wanted {
            if let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.is_leader()) {
                peer.last_report = Some(now);
                reports.push(peer.heartbeat(now));
            }
        }
        if !reports.is_empty() {
            self.outbox.pd.push(PdEvent::Regions(reports));
            let soon = self.config.store_heartbeat.min(WANTED_AGAIN);
            self.next_store_report = self.next_store_report.min(now.plus(soon));
        }
    }

    /// The region rests: PD hears of it now and then, each region at another time. If all it
    /// knows of is trouble that has passed, it hears so at once.
    pub(super) fn report_when_idle(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let interval_ms = self.config.idle_report.as_millis() as u64;
        let wait_ms = match peer.reported_unwell {
            true => 0,
            false => self.rng.random_range(interval_ms / 2..=interval_ms * 3 / 2),
        };
        let due = now.plus(Duration::from_millis(wait_ms));
        peer.idle_report_at = Some(due);
        self.idle_reports.insert((due, region_id));
    }

    /// The store's own report, when it is due.
    pub(super) fn report_store(&mut self, now: MonotonicTime) {
        if now < self.next_store_report {
            return;
        }
        self.next_store_report = now.plus(self.config.store_heartbeat);
        let used_bytes = self.engines.kv.disk_usage();
        let space = self.config.space.space();
        let (capacity_bytes, available_bytes) = match self.config.capacity_bytes {
            // Not limited by whoever runs the store: all of the disk.
            0 => (space.capacity_bytes, space.available_bytes),
            limit => {
                let left = limit.saturating_sub(used_bytes);
                let is_known = space.capacity_bytes > 0;
                (limit, if is_known { left.min(space.available_bytes) } else { left })
            }
        };
        self.outbox.pd.push(PdEvent::Store(pd::StoreStats {
            store_id: self.store_id,
            capacity_bytes,
            available_bytes,
            disk_full: self.config.space.level() != SpaceLevel::Normal,
            used_bytes,
            region_count: self.peers.len() as u32,
            leader_count: self.led.len() as u32,
            sending_snapshot_count: self.turns.sending() as u32,
            receiving_snapshot_count: self.received.len() as u32,
            region_split_bytes: self.config.region_split_bytes,
            slow_score: self.slow_score.value(),
            is_stopping: self.leaving.is_some(),
            ..pd::StoreStats::default()
        }));
    }
}
