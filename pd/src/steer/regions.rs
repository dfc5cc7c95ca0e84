//! Finding regions: the largest, the busiest, those something is the matter with.
//!
//! The walk over all regions gives the locks back after every page, so that
//! heartbeats go on meanwhile.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_pd_client::order::{Complaint, Measure};
use cairn_proto::meta::PeerRole;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::hot::HotKind;
use crate::placement::{fit, to_hex};
use crate::server::PdServer;
use crate::view::RegionView;

/// Regions looked at under one hold of the locks.
const PAGE: usize = 1_024;
/// Regions below this size hold next to nothing.
const EMPTY_BYTES: u64 = 1 << 20;
/// Width of a bar of the histogram.
const BAR_BYTES: u64 = 16 << 20;

impl PdServer {
    /// Walks over all regions in key order until `look` says so.
    fn walk(&self, mut look: impl FnMut(&RegionView<'_>, &Cluster) -> bool) {
        let mut from = Bytes::new();
        loop {
            let state = self.shared().state().read();
            let mut cluster = self.cluster.lock();
            cluster.refresh(&state, self.now());
            let mut seen = 0;
            let mut end = Bytes::new();
            for region in state.regions.overlapping(&from, b"").take(PAGE) {
                if !look(&cluster.region_view(region), &cluster) {
                    return;
                }
                seen += 1;
                end = region.end_key.clone();
            }
            if seen < PAGE || end.is_empty() {
                return;
            }
            from = end;
        }
    }

    pub(super) fn top_regions(&self, by: Measure, limit: usize) -> Vec<Value> {
        let mut top: Vec<(u64, u64, Value)> = Vec::new();
        self.walk(|region, cluster| {
            let load = |kind| cluster.hot().region_load(kind, region.id()).bytes as u64;
            let measured = match by {
                Measure::Write => load(HotKind::Write),
                Measure::Read => load(HotKind::Read),
                Measure::Size => region.report.size_bytes,
                Measure::Keys => region.report.keys,
            };
            // Some more than wanted are kept, so that sorting is rare.
            if top.len() > limit + PAGE {
                top.sort_by_key(|(measured, id, _)| (Reverse(*measured), *id));
                top.truncate(limit);
            }
            if measured > 0 {
                top.push((measured, region.id(), row(region, cluster)));
            }
            true
        });
        top.sort_by_key(|(measured, id, _)| (Reverse(*measured), *id));
        top.truncate(limit);
        top.into_iter().map(|(_, _, row)| row).collect()
    }

    pub(super) fn check_regions(&self, what: Complaint, limit: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        self.walk(|region, cluster| {
            if rows.len() < limit && complains(region, what, cluster) {
                rows.push(row(region, cluster));
            }
            rows.len() < limit
        });
        rows
    }

    pub(super) fn region_sizes(&self) -> Vec<Value> {
        let mut bars: BTreeMap<u64, u64> = BTreeMap::new();
        self.walk(|region, _| {
            *bars.entry(region.report.size_bytes / BAR_BYTES).or_default() += 1;
            true
        });
        let shown = bars.into_iter().map(|(bar, count)| {
            json!({
                "from_bytes": bar * BAR_BYTES,
                "below_bytes": (bar + 1) * BAR_BYTES,
                "regions": count,
            })
        });
        shown.collect()
    }
}

fn complains(region: &RegionView<'_>, what: Complaint, cluster: &Cluster) -> bool {
    let view = cluster.view();
    let rules = view.rules.at(&region.region.start_key);
    let fit = || fit::fit(region, rules, view);
    match what {
        Complaint::Miss => fit().rules.iter().any(|served| served.peers.len() < served.rule.count),
        Complaint::Extra => !fit().orphans.is_empty(),
        Complaint::Down => !region.report.down.is_empty(),
        Complaint::Pending => !region.report.pending.is_empty(),
        Complaint::Offline => region.region.peers.iter().any(|peer| view.is_leaving(peer.store_id)),
        Complaint::Empty => region.leader().is_some() && region.report.size_bytes < EMPTY_BYTES,
        Complaint::Learner => region.learners().next().is_some(),
        Complaint::Leaderless => region.leader().is_none(),
    }
}

/// A region as tools show it.
pub fn row(region: &RegionView<'_>, cluster: &Cluster) -> Value {
    let epoch = region.region.epoch.unwrap_or_default();
    let peers = region.region.peers.iter().map(|peer| {
        let role = match peer.role() {
            PeerRole::Voter => "",
            PeerRole::Learner => "(learner)",
            PeerRole::IncomingVoter => "(incoming)",
            PeerRole::DemotingVoter => "(demoting)",
        };
        format!("{}@{}{role}", peer.id, peer.store_id)
    });
    let down = region.report.down.iter().filter_map(|stats| stats.peer.map(|peer| peer.id));
    let load = |kind| cluster.hot().region_load(kind, region.id());
    json!({
        "id": region.id(),
        "start_key": to_hex(&region.region.start_key),
        "end_key": to_hex(&region.region.end_key),
        "epoch": format!("{}/{}", epoch.conf_ver, epoch.version),
        "leader_store": region.leader().map(|leader| leader.store_id),
        "peers": peers.collect::<Vec<_>>(),
        "pending": region.report.pending.iter().map(|peer| peer.id).collect::<Vec<_>>(),
        "down": down.collect::<Vec<_>>(),
        "size_bytes": region.report.size_bytes,
        "keys": region.report.keys,
        "written_bytes_per_s": load(HotKind::Write).bytes as u64,
        "read_bytes_per_s": load(HotKind::Read).bytes as u64,
    })
}
