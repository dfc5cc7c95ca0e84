//! What stores and leaders report, and what PD's server does with it.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::meta::{Peer, PeerRole};
use cairn_proto::pd::{PeerStats, RegionHeartbeatRequest, StoreStats};

use super::World;
use crate::operator::Operator;
use crate::state::Command;
use crate::state::region_tree::Freshness;

/// Seconds until a dead leader is replaced.
const ELECTION_S: u64 = 2;

impl World {
    pub(super) fn report_stores(&mut self) {
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        for one in self.regions.values() {
            for peer in &one.region.peers {
                *used.entry(peer.store_id).or_default() += one.size_bytes;
            }
        }
        let now = self.now();
        for (id, store) in self.stores.iter().filter(|(_, store)| store.alive) {
            let used_bytes = used.get(id).copied().unwrap_or(0);
            let stats = StoreStats {
                store_id: *id,
                capacity_bytes: store.capacity_bytes,
                available_bytes: store.capacity_bytes.saturating_sub(used_bytes),
                used_bytes,
                slow_score: store.slow_score,
                is_stopping: store.is_stopping,
                ..StoreStats::default()
            };
            self.cluster.store_heartbeat(stats, now.ms, now.unix_ms);
        }
    }

    pub(super) fn lives(&self, store_id: u64) -> bool {
        self.stores.get(&store_id).is_some_and(|store| store.alive)
    }

    /// Regions whose leader is dead elect another, if a majority lives.
    pub(super) fn elect(&mut self) {
        let stores = self.stores.clone();
        let lives = |id: u64| stores.get(&id).is_some_and(|store| store.alive);
        for one in self.regions.values_mut().filter(|one| !lives(one.leader.store_id)) {
            let dead_s = stores.get(&one.leader.store_id).map_or(0, |store| store.silent_since_s);
            let voters = one.region.peers.iter().filter(|peer| peer.role() != PeerRole::Learner);
            let living: Vec<&Peer> = voters.clone().filter(|peer| lives(peer.store_id)).collect();
            if self.second >= dead_s + ELECTION_S
                && living.len() * 2 > voters.count()
                && let Some(heir) = living.first()
            {
                one.leader = **heir;
                one.term += 1;
                one.dirty = true;
            }
        }
    }

    /// What the server does with a leader's report.
    pub(super) fn report_region(&mut self, id: u64) {
        let Some(one) = self.regions.get_mut(&id) else { return };
        let lives: BTreeSet<u64> =
            self.stores.iter().filter(|(_, store)| store.alive).map(|(id, _)| *id).collect();
        if !lives.contains(&one.leader.store_id) {
            return;
        }
        one.dirty = false;
        let second = self.second;
        one.copying.retain(|_, until| *until > second);
        let down_s = |peer: &Peer| {
            let since = self.stores.get(&peer.store_id).map_or(0, |store| store.silent_since_s);
            second - since
        };
        let silent = one.region.peers.iter().filter(|peer| !lives.contains(&peer.store_id));
        let request = RegionHeartbeatRequest {
            region: Some(one.region.clone()),
            leader: Some(one.leader),
            term: one.term,
            approximate_size_bytes: one.size_bytes,
            approximate_keys: one.keys,
            down_peers: silent
                .map(|peer| PeerStats { peer: Some(*peer), down_s: down_s(peer) })
                .collect(),
            pending_peers: one
                .region
                .peers
                .iter()
                .filter(|peer| one.copying.contains_key(&peer.id))
                .copied()
                .collect(),
            written_keys: one.writes * self.report_s,
            written_bytes: one.writes * 100 * self.report_s,
            read_queries: (one.reads * self.report_s) as u32,
            read_bytes: one.reads * 100 * self.report_s,
            interval_ms: (self.report_s * 1_000) as u32,
            ..RegionHeartbeatRequest::default()
        };
        let region = one.region.clone();
        if self.state.regions.freshness(&region) == Freshness::New {
            let overlapped = self.state.regions.overlapping(&region.start_key, &region.end_key);
            let overrun: Vec<u64> = overlapped.map(|other| other.id).collect();
            self.state.apply(Command::put_regions(vec![region])).expect("valid");
            self.cluster.forget_gone(&overrun, &self.state, self.now());
        }
        let now = self.now();
        if !self.cluster.region_heartbeat(&request, now) {
            return;
        }
        if let Some(operator) = self.cluster.check(&self.state, id, now) {
            self.admit(vec![operator]);
        }
        let response = self.cluster.next_step(&self.state, id, now);
        if let Some(step) = response.and_then(|response| response.step) {
            self.take(id, step);
        }
    }

    pub(super) fn admit(&mut self, mut operators: Vec<Operator>) -> bool {
        for operator in &mut operators {
            operator.fill_peer_ids(self.next_id);
            self.next_id += operator.added_peers() as u64;
        }
        let told: Vec<String> =
            operators.iter().map(|operator| format!("{operator} ({})", operator.reason)).collect();
        let begun = self.cluster.admit(operators, &self.state, self.now());
        if begun {
            self.log.extend(told.into_iter().map(|line| format!("{:>4} {line}", self.second)));
        }
        begun
    }
}
