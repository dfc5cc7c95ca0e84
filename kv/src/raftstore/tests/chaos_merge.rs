//! Random faults with merges, and with replicas that move so that regions can merge.
//!
//! Besides what [`super::chaos`] checks, in the end
//! - the regions that are led tile the key space;
//! - every peer that is left is a member of its region, and none still merges;
//! - all replicas of a region hold the same values.

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_proto::{meta, pd};
use rand::Rng;

use super::chaos::{Chaos, KEYS, seeds};
use crate::raftstore::RegionError;
use crate::raftstore::apply::is_joint;
use crate::raftstore::command::{ConfChangeKind, PeerChange};
use crate::raftstore::epoch_of;
use crate::raftstore::store::StoreMessage;

const STORES: u64 = 4;
/// More are not split.
const REGIONS_MAX: usize = 6;

fn voter_stores(region: &meta::Region) -> Vec<u64> {
    let voters = region.peers.iter().filter(|peer| peer.role() == meta::PeerRole::Voter);
    let mut stores: Vec<u64> = voters.map(|peer| peer.store_id).collect();
    stores.sort_unstable();
    stores
}

impl Chaos {
    /// What the stores' leaders believe to lead, by start key; the newest of each region.
    fn led_regions(&mut self) -> Vec<(u64, meta::Region)> {
        let mut led: Vec<(u64, meta::Region)> = Vec::new();
        for store_id in 1..=STORES {
            for info in self.cluster.infos(store_id) {
                if let Some(region) = info.region.filter(|_| info.is_leader) {
                    led.push((store_id, region));
                }
            }
        }
        led.sort_by_key(|(_, region)| (region.start_key.clone(), epoch_of(region)));
        led
    }

    fn step_with_merges(&mut self) {
        match self.rng.random_range(0..100) {
            0..6 => self.merge_or_align(),
            6..9 => {
                if self.led_regions().len() < REGIONS_MAX {
                    self.split();
                }
            }
            9..11 => self.move_replica(),
            _ => self.step(),
        }
    }

    /// Orders a merge of two neighbours; if they lie on different stores, one step towards
    /// the same ones.
    fn merge_or_align(&mut self) {
        let led = self.led_regions();
        if led.len() < 2 {
            return;
        }
        let at = self.rng.random_range(0..led.len() - 1);
        let (mut source, mut target) = (led[at].clone(), led[at + 1].clone());
        if source.1.end_key != target.1.start_key {
            return;
        }
        if self.rng.random_bool(0.5) {
            std::mem::swap(&mut source, &mut target);
        }
        if voter_stores(&source.1) != voter_stores(&target.1) || source.1.peers.len() > 3 {
            self.step_towards(source.0, &source.1, &voter_stores(&target.1));
            return;
        }
        let step = pd::region_heartbeat_response::Step::Merge(pd::Merge { target: Some(target.1) });
        self.order(source.0, &source.1, step);
    }

    fn move_replica(&mut self) {
        let led = self.led_regions();
        let Some((store_id, region)) = led.get(self.rng.random_range(0..led.len().max(1))) else {
            return;
        };
        let (store_id, region) = (*store_id, region.clone());
        let gone = self.rng.random_range(1..=STORES);
        let wanted: Vec<u64> = (1..=STORES).filter(|id| *id != gone).collect();
        self.step_towards(store_id, &region, &wanted);
    }

    /// What PD would do next to have voters on exactly these stores.
    fn step_towards(&mut self, leader: u64, region: &meta::Region, wanted: &[u64]) {
        if is_joint(region) || wanted.len() < 3 {
            return;
        }
        let on = |store_id: u64| region.peers.iter().find(|peer| peer.store_id == store_id);
        let is_learner = |peer: &&meta::Peer| peer.role() == meta::PeerRole::Learner;
        let is_wanted = |peer: &&meta::Peer| wanted.contains(&peer.store_id);
        let learner = region.peers.iter().find(is_learner).copied();
        let unwanted = region.peers.iter().find(|peer| !is_wanted(peer) && !is_learner(peer));
        let new = |kind, peer: &meta::Peer| PeerChange::new(kind, *peer);
        let changes = match (learner, unwanted) {
            (Some(learner), _) if !is_wanted(&&learner) => {
                vec![new(ConfChangeKind::Remove, &learner)]
            }
            (Some(learner), Some(unwanted)) => vec![
                new(ConfChangeKind::AddVoter, &learner),
                new(ConfChangeKind::AddLearner, unwanted),
            ],
            (Some(learner), None) => vec![new(ConfChangeKind::AddVoter, &learner)],
            (None, unwanted) => match wanted.iter().find(|id| on(**id).is_none()) {
                Some(store_id) => {
                    self.next_id += 1;
                    let peer = meta::Peer { id: self.next_id, store_id: *store_id, role: 0 };
                    vec![new(ConfChangeKind::AddLearner, &peer)]
                }
                None => match unwanted {
                    Some(peer) => vec![new(ConfChangeKind::Remove, peer)],
                    None => return,
                },
            },
        };
        let kind = |kind: ConfChangeKind| match kind {
            ConfChangeKind::AddVoter => pd::ChangePeerKind::AddVoter,
            ConfChangeKind::AddLearner => pd::ChangePeerKind::AddLearner,
            ConfChangeKind::Remove => pd::ChangePeerKind::Remove,
        };
        let changes = changes
            .iter()
            .map(|one| pd::ChangePeer { kind: kind(one.kind()).into(), peer: one.peer })
            .collect();
        let step = pd::ChangePeerV2 { changes };
        self.order(leader, region, pd::region_heartbeat_response::Step::ChangePeerV2(step));
    }

    /// PD's step for a region as PD saw it.
    fn order(
        &mut self,
        leader: u64,
        region: &meta::Region,
        step: pd::region_heartbeat_response::Step,
    ) {
        self.cluster.tell(
            leader,
            StoreMessage::PdStep(pd::RegionHeartbeatResponse {
                region_id: region.id,
                epoch: region.epoch,
                step: Some(step),
                ..pd::RegionHeartbeatResponse::default()
            }),
        );
    }

    /// Heals everything and waits until every merge is decided.
    fn finish_with_merges(&mut self) {
        self.finish();
        for _ in 0..40 {
            if self.unrest().is_none() {
                break;
            }
            self.cluster.run_ticks(20);
        }
        if let Some(reason) = self.unrest() {
            panic!("{reason}");
        }
        for (_, region) in self.led_regions() {
            for number in 0..KEYS {
                let key = format!("k{number:02}");
                if !crate::keys::region_contains(&region, key.as_bytes()) {
                    continue;
                }
                let held: Vec<_> = region
                    .peers
                    .iter()
                    .map(|peer| self.cluster.stored(peer.store_id, &key))
                    .collect();
                assert!(held.iter().all(|value| *value == held[0]), "{key}: {held:?}");
            }
        }
    }

    /// Merges that stores applied, and those that were rolled back.
    fn merges(&self) -> (u64, u64) {
        let stores = self.cluster.stores.values();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stores.fold((0, 0), |(merges, rolled_back), store| {
            let metrics = &store.metrics;
            (merges + count(&metrics.merges), rolled_back + count(&metrics.merges_rolled_back))
        })
    }

    /// What is not as it must be in the end, if anything.
    fn unrest(&mut self) -> Option<String> {
        let led = self.led_regions();
        let mut end = Some(bytes::Bytes::new());
        for (store_id, region) in &led {
            if end.as_ref() != Some(&region.start_key) {
                return Some(format!("store {store_id}: a hole or an overlap before {region:?}"));
            }
            end = Some(region.end_key.clone()).filter(|end| !end.is_empty());
        }
        if end.is_some() {
            return Some("a hole at the end".to_owned());
        }
        for store_id in 1..=STORES {
            for info in self.cluster.infos(store_id) {
                let own = info.region.unwrap_or_default();
                let Some((leader, region)) = led.iter().find(|(_, region)| region.id == own.id)
                else {
                    return Some(format!("store {store_id}: a dead region is left: {own:?}"));
                };
                let is_same =
                    *region == own && region.peers.iter().any(|peer| peer.store_id == store_id);
                if !is_same {
                    return Some(format!("store {store_id}, leader {leader}: {own:?}, {region:?}"));
                }
            }
        }
        for (store_id, region) in led {
            let mut write = self.cluster.propose(store_id, &region, "", "");
            self.cluster.settle();
            if let Ok(Err(error @ RegionError::MergeInProgress(_))) = write.try_recv() {
                return Some(format!("{error}"));
            }
        }
        None
    }
}

#[test]
fn merges_among_faults_lose_nothing() {
    let (mut merges, mut rolled_back) = (0, 0);
    for seed in seeds(40) {
        let outcome = std::panic::catch_unwind(|| {
            let mut chaos = Chaos::new(seed, STORES);
            chaos.splits_max = u32::MAX;
            for _ in 0..500 {
                chaos.step_with_merges();
            }
            chaos.finish_with_merges();
            chaos.merges()
        });
        let (more, back) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        merges += more;
        rolled_back += back;
    }
    println!("{merges} merges applied, {rolled_back} rolled back");
    assert!(merges > 50 && rolled_back > 0, "{merges} merges, {rolled_back} rolled back");
}
