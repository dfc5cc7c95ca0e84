//! Hot regions, now and before.

use serde_json::{Value, json};

use crate::hot::{HotEvent, HotKind};
use crate::server::PdServer;

/// Hot regions shown.
const SHOWN_MAX: usize = 1_000;

impl PdServer {
    pub(super) fn hot_rows(&self, writes: bool) -> Vec<Value> {
        let kind = if writes { HotKind::Write } else { HotKind::Read };
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        let hottest = cluster.hot().hottest(kind, |load| load.bytes);
        let rows = hottest.into_iter().take(SHOWN_MAX).map(|(region_id, entry)| {
            let region = state.regions.get(region_id);
            let leader = region.and_then(|region| cluster.region_view(region).leader().copied());
            json!({
                "kind": kind.name(),
                "region_id": region_id,
                "leader_store": leader.map(|leader| leader.store_id),
                "bytes_per_s": entry.load.bytes as u64,
                "keys_per_s": entry.load.keys as u64,
                "queries_per_s": entry.load.queries as u64,
                "degree": entry.degree,
            })
        });
        rows.collect()
    }

    pub(super) fn hot_history(&self, limit: usize) -> Vec<Value> {
        let cluster = self.cluster.lock();
        cluster.hot().history().take(limit).map(event_row).collect()
    }
}

fn event_row(event: &HotEvent) -> Value {
    json!({
        "unix_ms": event.unix_ms,
        "kind": event.kind.name(),
        "region_id": event.region_id,
        "leader_store": event.leader_store,
        "bytes_per_s": event.load.bytes as u64,
        "keys_per_s": event.load.keys as u64,
        "queries_per_s": event.load.queries as u64,
        "degree": event.degree,
        "action": event.action,
    })
}
