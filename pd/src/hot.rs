//! Which regions are busy: rates from heartbeats, smoothed over time.
//!
//! A rate forgets half of what it was within [`HALF_LIFE_MS`]. A region is *hot*
//! when its smoothed rate stays above one of the bounds of the settings for
//! [`REPORTS_MIN`] reports. Writes load every store of a region, reads its leader's.

use std::collections::{BTreeMap, HashMap, VecDeque};

use cairn_proto::pd::RegionHeartbeatRequest;
use smallvec::SmallVec;

use crate::config::ScheduleConfig;
use crate::view::RegionView;

/// Time in which a rate forgets half of the past.
const HALF_LIFE_MS: f64 = 20_000.0;
/// Reports in a row that make a region hot.
const REPORTS_MIN: u32 = 3;
/// A region that has not reported for so long has no rate.
const SILENT_MS: u64 = 120_000;
/// Events remembered.
const HISTORY_MAX: usize = 4_096;
/// A hot region is noted again after so long.
const NOTED_EVERY_MS: u64 = 60_000;

/// Reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HotKind {
    /// Reads: load the leader.
    Read,
    /// Writes: load every peer.
    Write,
}

impl HotKind {
    /// Both.
    pub const ALL: [HotKind; 2] = [HotKind::Read, HotKind::Write];

    /// Name in tools.
    pub fn name(self) -> &'static str {
        match self {
            HotKind::Read => "read",
            HotKind::Write => "write",
        }
    }
}

/// Rates per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Bytes.
    pub bytes: f64,
    /// Keys.
    pub keys: f64,
    /// Requests; of reads only.
    pub queries: f64,
}

impl Load {
    fn add(&mut self, other: &Load, sign: f64) {
        self.bytes = (self.bytes + sign * other.bytes).max(0.0);
        self.keys = (self.keys + sign * other.keys).max(0.0);
        self.queries = (self.queries + sign * other.queries).max(0.0);
    }

    fn blend(&mut self, new: &Load, weight: f64) {
        self.bytes += (new.bytes - self.bytes) * weight;
        self.keys += (new.keys - self.keys) * weight;
        self.queries += (new.queries - self.queries) * weight;
    }

    fn is_nothing(&self) -> bool {
        self.bytes < 1.0 && self.keys < 0.1 && self.queries < 0.1
    }

    fn is_above(&self, config: &ScheduleConfig) -> bool {
        self.bytes >= config.hot_region_bytes.0 as f64
            || self.keys >= config.hot_region_keys as f64
            || self.queries >= config.hot_region_queries as f64
    }
}

/// One region's load.
#[derive(Clone, Debug)]
pub struct RegionLoad {
    /// Smoothed rates.
    pub load: Load,
    /// Reports above the bounds in a row.
    pub degree: u32,
    /// When a scheduler last moved or cut it.
    pub acted_ms: Option<u64>,
    /// Who bears the load.
    pub stores: SmallVec<[u64; 4]>,
    reported_ms: u64,
    noted_ms: Option<u64>,
}

impl RegionLoad {
    /// Whether it is hot.
    pub fn is_hot(&self) -> bool {
        self.degree >= REPORTS_MIN
    }
}

/// A hot region at some moment.
#[derive(Clone, Debug)]
pub struct HotEvent {
    /// By the wall clock.
    pub unix_ms: u64,
    /// Reads or writes.
    pub kind: HotKind,
    /// The region.
    pub region_id: u64,
    /// Who led it.
    pub leader_store: u64,
    /// Its rates.
    pub load: Load,
    /// Reports above the bounds in a row.
    pub degree: u32,
    /// What was done about it, if this is what is noted.
    pub action: String,
}

/// The loads of all regions and what follows for stores.
#[derive(Debug, Default)]
pub struct HotStats {
    regions: BTreeMap<HotKind, HashMap<u64, RegionLoad>>,
    stores: BTreeMap<HotKind, BTreeMap<u64, Load>>,
    history: VecDeque<HotEvent>,
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// By the monotonic clock.
    pub ms: u64,
    /// By the wall clock.
    pub unix_ms: u64,
}

impl HotStats {
    /// Takes a leader's figures in. Stores that count nothing say so by an interval
    /// of zero.
    pub fn observe(
        &mut self,
        region: &RegionView<'_>,
        request: &RegionHeartbeatRequest,
        (config, now): (&ScheduleConfig, Now),
    ) {
        let per_second =
            |count: u64| count as f64 * 1_000.0 / f64::from(request.interval_ms.max(1));
        for kind in HotKind::ALL {
            let load = match kind {
                HotKind::Read => Load {
                    bytes: per_second(request.read_bytes),
                    keys: per_second(request.read_keys),
                    queries: per_second(u64::from(request.read_queries)),
                },
                HotKind::Write => Load {
                    bytes: per_second(request.written_bytes),
                    keys: per_second(request.written_keys),
                    queries: 0.0,
                },
            };
            let known = self.regions.entry(kind).or_default().get(&region.id());
            if known.is_none() && load.is_nothing() {
                continue;
            }
            let bearers: SmallVec<[u64; 4]> = match kind {
                HotKind::Read => {
                    region.leader().map(|leader| leader.store_id).into_iter().collect()
                }
                HotKind::Write => region.region.peers.iter().map(|peer| peer.store_id).collect(),
            };
            self.blend(kind, region, (load, request.interval_ms, bearers), (config, now));
        }
    }

    fn blend(
        &mut self,
        kind: HotKind,
        region: &RegionView<'_>,
        (new, interval_ms, bearers): (Load, u32, SmallVec<[u64; 4]>),
        (config, now): (&ScheduleConfig, Now),
    ) {
        let id = region.id();
        let mut entry = self.take(kind, id).unwrap_or_else(|| RegionLoad {
            load: Load::default(),
            degree: 0,
            acted_ms: None,
            stores: SmallVec::new(),
            reported_ms: now.ms,
            noted_ms: None,
        });
        if interval_ms > 0 {
            let weight = 1.0 - 0.5f64.powf(f64::from(interval_ms) / HALF_LIFE_MS);
            entry.load.blend(&new, weight);
            entry.reported_ms = now.ms;
            entry.degree = match entry.load.is_above(config) {
                true => entry.degree.saturating_add(1),
                false => 0,
            };
        }
        entry.stores = bearers;
        if entry.is_hot() && entry.noted_ms.is_none_or(|last| now.ms >= last + NOTED_EVERY_MS) {
            entry.noted_ms = Some(now.ms);
            self.note(kind, region, (&entry, now), String::new());
        }
        if !entry.load.is_nothing() {
            self.put(kind, id, entry);
        }
    }

    fn note(
        &mut self,
        kind: HotKind,
        region: &RegionView<'_>,
        (entry, now): (&RegionLoad, Now),
        action: String,
    ) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(HotEvent {
            unix_ms: now.unix_ms,
            kind,
            region_id: region.id(),
            leader_store: region.leader().map_or(0, |leader| leader.store_id),
            load: entry.load,
            degree: entry.degree,
            action,
        });
    }

    fn take(&mut self, kind: HotKind, region_id: u64) -> Option<RegionLoad> {
        let entry = self.regions.get_mut(&kind)?.remove(&region_id)?;
        let stores = self.stores.entry(kind).or_default();
        for store_id in &entry.stores {
            stores.entry(*store_id).or_default().add(&entry.load, -1.0);
        }
        Some(entry)
    }

    fn put(&mut self, kind: HotKind, region_id: u64, entry: RegionLoad) {
        let stores = self.stores.entry(kind).or_default();
        for store_id in &entry.stores {
            stores.entry(*store_id).or_default().add(&entry.load, 1.0);
        }
        self.regions.entry(kind).or_default().insert(region_id, entry);
    }

    /// A scheduler acts on the region: it is left alone for a while, and noted.
    pub fn acted(&mut self, region: &RegionView<'_>, now: Now, action: &str) {
        for kind in HotKind::ALL {
            let Some(known) = self.regions.get_mut(&kind) else { continue };
            let Some(entry) = known.get_mut(&region.id()) else { continue };
            entry.acted_ms = Some(now.ms);
            if entry.is_hot() {
                let entry = entry.clone();
                self.note(kind, region, (&entry, now), action.to_owned());
            }
        }
    }

    /// The region is gone.
    pub fn forget(&mut self, region_id: u64) {
        for kind in HotKind::ALL {
            drop(self.take(kind, region_id));
        }
    }

    /// Regions whose leader has fallen silent lose their rates.
    pub fn expire(&mut self, now_ms: u64) {
        for kind in HotKind::ALL {
            let Some(regions) = self.regions.get(&kind) else { continue };
            let silent: Vec<u64> = regions
                .iter()
                .filter(|(_, entry)| now_ms.saturating_sub(entry.reported_ms) > SILENT_MS)
                .map(|(id, _)| *id)
                .collect();
            for id in silent {
                drop(self.take(kind, id));
            }
        }
    }

    /// Whether the region is hot in either way.
    pub fn is_hot(&self, region_id: u64) -> bool {
        self.regions.values().any(|regions| regions.get(&region_id).is_some_and(RegionLoad::is_hot))
    }

    /// What a store bears.
    pub fn store_load(&self, kind: HotKind, store_id: u64) -> Load {
        let stores = self.stores.get(&kind);
        stores.and_then(|stores| stores.get(&store_id)).copied().unwrap_or_default()
    }

    /// A region's load.
    pub fn region_load(&self, kind: HotKind, region_id: u64) -> Load {
        let regions = self.regions.get(&kind);
        regions.and_then(|regions| regions.get(&region_id)).map(|one| one.load).unwrap_or_default()
    }

    /// Hot regions, the busiest first by the given measure.
    pub fn hottest(
        &self,
        kind: HotKind,
        measure: impl Fn(&Load) -> f64,
    ) -> Vec<(u64, &RegionLoad)> {
        let regions = self.regions.get(&kind).into_iter().flatten();
        let mut hot: Vec<(u64, &RegionLoad)> =
            regions.filter(|(_, entry)| entry.is_hot()).map(|(id, entry)| (*id, entry)).collect();
        hot.sort_by(|a, b| measure(&b.1.load).total_cmp(&measure(&a.1.load)).then(a.0.cmp(&b.0)));
        hot
    }

    /// What was noted, the newest first.
    pub fn history(&self) -> impl Iterator<Item = &HotEvent> {
        self.history.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Situation;

    fn report(written_keys: u64, read_queries: u32) -> RegionHeartbeatRequest {
        RegionHeartbeatRequest {
            written_keys,
            read_queries,
            interval_ms: 1_000,
            ..RegionHeartbeatRequest::default()
        }
    }

    #[test]
    fn rates_rise_and_fade() {
        let mut situation = Situation::new();
        situation.add_region(1, "1*,2,3").expect("well told");
        let config = ScheduleConfig::default();
        let mut hot = HotStats::default();
        let mut now = Now { ms: 0, unix_ms: 1_000_000 };
        for _ in 0..60 {
            now.ms += 1_000;
            hot.observe(&situation.region(1), &report(10_000, 0), (&config, now));
        }
        let rate = hot.region_load(HotKind::Write, 1).keys;
        assert!((8_000.0..=10_000.0).contains(&rate), "{rate}");
        assert!(hot.is_hot(1));
        // Every peer writes; nobody reads.
        for store_id in 1..=3 {
            assert_eq!(hot.store_load(HotKind::Write, store_id).keys, rate);
            assert_eq!(hot.store_load(HotKind::Read, store_id), Load::default());
        }
        // Moved: the load moves along at once.
        situation.add_region(1, "1*,2,4").expect("well told");
        hot.observe(&situation.region(1), &report(10_000, 0), (&config, now));
        assert_eq!(hot.store_load(HotKind::Write, 3).keys, 0.0);
        assert!(hot.store_load(HotKind::Write, 4).keys >= rate);
        for _ in 0..400 {
            now.ms += 1_000;
            hot.observe(&situation.region(1), &report(0, 0), (&config, now));
        }
        assert!(!hot.is_hot(1));
        assert_eq!(hot.region_load(HotKind::Write, 1), Load::default());
        let noted: Vec<u64> = hot.history().map(|event| event.region_id).collect();
        assert!(!noted.is_empty() && noted.len() < 5, "{noted:?}");
    }

    #[test]
    fn silence_and_absent_figures() {
        let mut situation = Situation::new();
        situation.add_region(1, "1*,2,3").expect("well told");
        let config = ScheduleConfig::default();
        let mut hot = HotStats::default();
        let now = Now { ms: 5, unix_ms: 5 };
        hot.observe(&situation.region(1), &RegionHeartbeatRequest::default(), (&config, now));
        assert_eq!(hot.region_load(HotKind::Read, 1), Load::default());
        hot.observe(&situation.region(1), &report(0, 900_000), (&config, now));
        assert!(hot.store_load(HotKind::Read, 1).queries > 10_000.0);
        hot.expire(5 + SILENT_MS + 1);
        assert_eq!(hot.store_load(HotKind::Read, 1), Load::default());
    }
}
