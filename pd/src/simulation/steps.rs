//! What stores do when PD tells them: steps of operators, on regions that only pretend.

use std::collections::BTreeSet;

use bytes::Bytes;
use cairn_proto::meta::{Peer, PeerRole};
use cairn_proto::pd::region_heartbeat_response::Step;
use cairn_proto::pd::{ChangePeer, ChangePeerKind};

use super::{FakeRegion, MIB, World};
use crate::state::Command;

/// A replica is copied so fast.
const COPY_BYTES_PER_S: u64 = 64 * MIB;

impl World {
    /// What a store does with a step.
    pub(super) fn take(&mut self, id: u64, step: Step) {
        let second = self.second;
        let one = self.regions.get_mut(&id).expect("it has just reported");
        one.dirty = true;
        match step {
            Step::ChangePeer(change) => {
                one.change(&change, second);
                one.bump(1, 0);
            }
            Step::ChangePeerV2(joint) => one.change_jointly(&joint.changes),
            Step::TransferLeader(transfer) => {
                let to = transfer.peer.expect("names a peer");
                if self.stores.get(&to.store_id).is_some_and(|store| store.alive) {
                    one.leader = to;
                    one.term += 1;
                }
            }
            Step::SplitRegion(split) => self.split(id, &split.keys),
            Step::Merge(merge) => self.merge(id, merge.target.expect("names a region").id),
        }
    }

    /// The region keeps the right part, as in the stores.
    fn split(&mut self, id: u64, keys: &[Bytes]) {
        let one = self.regions.get_mut(&id).expect("it is there");
        let middle = [one.region.start_key.clone(), Bytes::from_static(b"m")].concat().into();
        let key: Bytes = keys.first().cloned().unwrap_or(middle);
        one.bump(0, 1);
        for load in [&mut one.size_bytes, &mut one.keys, &mut one.writes, &mut one.reads] {
            *load /= 2;
        }
        let mut new = one.clone();
        one.region.start_key = key.clone();
        new.region.id = self.next_id;
        new.region.end_key = key;
        for (peer, id) in new.region.peers.iter_mut().zip(self.next_id + 1..) {
            peer.id = id;
        }
        new.leader = *new
            .region
            .peers
            .iter()
            .find(|peer| peer.store_id == one.leader.store_id)
            .expect("the same stores");
        self.next_id += 1 + new.region.peers.len() as u64;
        let (left, right) = (new.region.clone(), one.region.clone());
        self.regions.insert(new.region.id, new);
        self.state.apply(Command::put_regions(vec![left, right])).expect("valid");
    }

    fn merge(&mut self, source: u64, target: u64) {
        let stores = |one: &FakeRegion| -> BTreeSet<u64> {
            one.region.peers.iter().map(|peer| peer.store_id).collect()
        };
        let gone = self.regions[&source].clone();
        let one = self.regions.get_mut(&target).expect("it is there");
        assert_eq!(stores(one), stores(&gone), "peers lie on the same stores");
        assert!(gone.copying.is_empty() && one.copying.is_empty());
        if one.region.end_key == gone.region.start_key {
            one.region.end_key = gone.region.end_key.clone();
        } else {
            assert_eq!(one.region.start_key, gone.region.end_key, "neighbours");
            one.region.start_key = gone.region.start_key.clone();
        }
        one.size_bytes += gone.size_bytes;
        one.keys += gone.keys;
        let version = gone.region.epoch.unwrap_or_default().version;
        let epoch = one.region.epoch.as_mut().expect("set");
        epoch.version = epoch.version.max(version) + 1;
        one.dirty = true;
        self.regions.remove(&source);
    }
}

impl FakeRegion {
    fn bump(&mut self, conf: u64, version: u64) {
        let epoch = self.region.epoch.as_mut().expect("set");
        epoch.conf_ver += conf;
        epoch.version += version;
    }

    fn change(&mut self, change: &ChangePeer, second: u64) {
        let peer = change.peer.expect("names a peer");
        let known = self.region.peers.iter_mut().find(|known| known.id == peer.id);
        match (change.kind(), known) {
            (ChangePeerKind::AddLearner, None) => {
                self.region.peers.push(Peer { role: PeerRole::Learner.into(), ..peer });
                let takes_s = 1 + self.size_bytes / COPY_BYTES_PER_S;
                self.copying.insert(peer.id, second + takes_s);
            }
            (ChangePeerKind::AddLearner, Some(known)) => known.set_role(PeerRole::Learner),
            (ChangePeerKind::AddVoter, Some(known)) => {
                assert!(!self.copying.contains_key(&peer.id), "promoted while it lacks entries");
                known.set_role(PeerRole::Voter);
            }
            (ChangePeerKind::AddVoter, None) => panic!("a voter out of nothing"),
            (ChangePeerKind::Remove, _) => {
                assert_ne!(peer.id, self.leader.id, "the leader removes itself");
                self.region.peers.retain(|known| known.id != peer.id);
                self.copying.remove(&peer.id);
            }
        }
    }

    /// Enters a joint state; without changes leaves it.
    fn change_jointly(&mut self, changes: &[ChangePeer]) {
        let joint =
            |peer: &Peer| matches!(peer.role(), PeerRole::IncomingVoter | PeerRole::DemotingVoter);
        assert_eq!(changes.is_empty(), self.region.peers.iter().any(joint));
        for peer in &mut self.region.peers {
            match peer.role() {
                PeerRole::IncomingVoter => peer.set_role(PeerRole::Voter),
                PeerRole::DemotingVoter => peer.set_role(PeerRole::Learner),
                _ => {}
            }
        }
        for change in changes {
            let id = change.peer.expect("names a peer").id;
            assert!(!self.copying.contains_key(&id), "a voter that lacks entries");
            let known = self.region.peers.iter_mut().find(|known| known.id == id);
            let known = known.expect("it is a member");
            match change.kind() {
                ChangePeerKind::AddVoter => known.set_role(PeerRole::IncomingVoter),
                ChangePeerKind::AddLearner => {
                    assert_ne!(id, self.leader.id, "the leader is demoted");
                    known.set_role(PeerRole::DemotingVoter);
                }
                ChangePeerKind::Remove => panic!("a voter is demoted first"),
            }
        }
        self.bump(changes.len().max(1) as u64, 0);
    }
}
