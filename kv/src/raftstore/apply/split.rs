//! Splits: one region becomes several, on every store at the same entry.

use std::sync::Arc;

use cairn_proto::meta;

use super::conf_change::is_joint;
use super::{Applier, ApplyPeer, Callback, Outcome};
use crate::keys;
use crate::raftstore::command::SplitCommand;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::ids::{RegionEpoch, epoch_of};
use crate::raftstore::snapshot::delete_region_data;
use crate::raftstore::state::{self, ApplyState, PeerState, find_peer_on_store};

impl Applier {
    pub(super) fn apply_split(
        &mut self,
        peer: &mut ApplyPeer,
        split: &SplitCommand,
        callback: Callback,
    ) -> Result<Option<Outcome>, RaftStoreError> {
        let regions = split_regions(&peer.region, split).filter(|_| peer.merge.is_none());
        let Some(regions) = regions else {
            callback.fail(peer.epoch_mismatch());
            return Ok(None);
        };
        let mut created = Vec::new();
        let view = self.engine.snapshot();
        for region in &regions[1..] {
            let here = find_peer_on_store(region, self.store_id);
            let known = state::load_region_state(view.as_ref(), region.id)?;
            match here {
                Some(here) if known.is_none() => {
                    state::put_region_state(&mut self.batch, region, PeerState::Normal, here.id);
                    state::put_apply_state(&mut self.batch, region.id, &ApplyState::initial());
                    let child = Arc::new(region.clone());
                    let apply_peer = ApplyPeer::new(here.id, child, ApplyState::initial(), None);
                    self.peers.insert(region.id, apply_peer);
                    created.push(region.id);
                }
                // The new region was here and was removed before we applied its birth.
                _ => delete_region_data(&mut self.batch, region),
            }
        }
        // The new peers are about to promise entries. A crash must not take the split from
        // under them: the parent may be removed from here before it is applied again.
        self.must_sync |= !created.is_empty();
        state::put_region_state(&mut self.batch, &regions[0], PeerState::Normal, peer.peer_id);
        peer.set_region(Arc::new(regions[0].clone()));
        Ok(Some(Outcome::Split { regions, created, callback }))
    }
}

/// The regions that come of a split, parent first; `None` if it does not fit.
///
/// The parent keeps the last piece: where rows are appended, those who write go on in a group
/// that has a leader, while the new ones elect theirs (TiKV's `right_derive`).
///
/// A region in a joint state is not split: its children would have to leave that state
/// each for itself.
pub fn split_regions(parent: &meta::Region, split: &SplitCommand) -> Option<Vec<meta::Region>> {
    let epoch = epoch_of(parent);
    let seen = split.epoch.as_ref().map(RegionEpoch::from)?;
    if seen.version != epoch.version || split.pieces.is_empty() || is_joint(parent) {
        return None;
    }
    let new_epoch = RegionEpoch {
        conf_ver: epoch.conf_ver,
        version: epoch.version + split.pieces.len() as u64,
    };
    let mut regions = vec![meta::Region { epoch: Some(new_epoch.into()), ..parent.clone() }];
    let mut start_key = parent.start_key.clone();
    for piece in &split.pieces {
        let fits = piece.end_key > start_key
            && keys::region_contains(parent, &piece.end_key)
            && piece.peer_ids.len() == parent.peers.len();
        if !fits {
            return None;
        }
        let peers = parent.peers.iter().zip(&piece.peer_ids);
        regions.push(meta::Region {
            id: piece.region_id,
            start_key: std::mem::replace(&mut start_key, piece.end_key.clone()),
            end_key: piece.end_key.clone(),
            epoch: Some(new_epoch.into()),
            peers: peers.map(|(peer, id)| meta::Peer { id: *id, ..*peer }).collect(),
        });
    }
    regions[0].start_key = start_key;
    Some(regions)
}
