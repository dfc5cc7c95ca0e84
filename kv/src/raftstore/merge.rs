//! Merge: a region (the *source*) is absorbed by its neighbour (the *target*).
//!
//! **Flow.** Peers of both lie on the same stores. PD tells the source's leader.
//!
//! ```text
//! source's log                       target's log
//! PrepareMerge(target at epoch e,    ·
//!   min_index)                       ·
//!   applied: source serves nothing,  ·
//!   its epoch grows                  ·
//!                                    CommitMerge(source, entries behind min_index)
//!                                      applied if the target's epoch still is e:
//!                                      the store first applies what its source peer
//!                                      lacks, then the target takes over the range
//! RollbackMerge                      anything else that moves the epoch beyond e
//! ```
//!
//! `CommitMerge` is proposed by whichever store leads the target and has applied the
//! `PrepareMerge`. It carries the source's entries behind `min_index`, the highest index
//! that *every* source peer held when the merge was prepared: each store has the rest in its
//! own log, so each can bring its source peer up to the same point without any other store.
//!
//! **Who decides.** The target's log alone. A `CommitMerge` that finds the target at epoch
//! `e` merges on every store; if anything moved the epoch before, it changes nothing
//! anywhere, and can never do so later, because epochs only grow. So a merge may be rolled
//! back exactly if some store *applied* entries that moved its target peer beyond `e` while
//! its source peer was still there. A Raft snapshot that moved the target there proves
//! nothing: it may have jumped over the merge (see [`target_has_moved_on`]).
//!
//! **Whoever missed it.** A store whose target peer jumped over the merge by a Raft snapshot
//! still has its source peer. Whether that region is dead is never guessed: its peer asks
//! its former peers' stores, which keep a tombstone that says "merged". Only with that
//! proof is it removed, in one batch with what takes its place. As long as the target peer may
//! still have to apply the `CommitMerge` from its own log, the source peer stays.
//!
//! **Reads.** The source's lease ends when its leader proposes `PrepareMerge`, before the
//! target can have taken over anywhere. A read that asks the quorum is answered only after
//! everything committed before is applied; from `PrepareMerge` on it is refused.

use cairn_proto::meta;

use super::apply::is_joint;
use super::ids::{RegionEpoch, epoch_of};

/// Entries that a `CommitMerge` carries; a follower further behind is waited for.
pub const GAP_ENTRIES_MAX: u64 = 256;
/// Bytes of them: they travel in one entry.
pub const GAP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the source cannot be merged into the target as they are now.
pub fn obstacle(source: &meta::Region, target: &meta::Region) -> Option<&'static str> {
    let left_of = |left: &meta::Region, right: &meta::Region| {
        !left.end_key.is_empty() && left.end_key == right.start_key
    };
    if source.id == target.id || (!left_of(source, target) && !left_of(target, source)) {
        return Some("the regions are no neighbours");
    }
    if is_joint(source) || is_joint(target) {
        return Some("the membership is in a joint state");
    }
    let places = |region: &meta::Region| {
        let mut places: Vec<_> =
            region.peers.iter().map(|peer| (peer.store_id, peer.role)).collect();
        places.sort_unstable();
        places
    };
    (places(source) != places(target)).then_some("the regions lie on different stores")
}

/// The source once the merge is prepared: both counters grow, so that whatever was
/// proposed before and comes later no longer fits.
pub fn prepared(source: &meta::Region) -> meta::Region {
    let epoch = epoch_of(source);
    let epoch = RegionEpoch { conf_ver: epoch.conf_ver + 1, version: epoch.version + 1 };
    meta::Region { epoch: Some(epoch.into()), ..source.clone() }
}

/// The source once the merge is rolled back.
pub fn rolled_back(source: &meta::Region) -> meta::Region {
    let epoch = epoch_of(source);
    let epoch = RegionEpoch { version: epoch.version + 1, ..epoch };
    meta::Region { epoch: Some(epoch.into()), ..source.clone() }
}

/// The target once it holds the source's range; its version is above both.
pub fn merged(source: &meta::Region, target: &meta::Region) -> meta::Region {
    let (from, to) = (epoch_of(source), epoch_of(target));
    let epoch = RegionEpoch { version: from.version.max(to.version) + 1, ..to };
    let mut merged = meta::Region { epoch: Some(epoch.into()), ..target.clone() };
    if !source.end_key.is_empty() && source.end_key == target.start_key {
        merged.start_key = source.start_key.clone();
    } else {
        merged.end_key = source.end_key.clone();
    }
    merged
}

/// Whether a region at this epoch can never again be at the expected one.
pub fn is_beyond(epoch: RegionEpoch, expected: RegionEpoch) -> bool {
    epoch.version > expected.version || epoch.conf_ver > expected.conf_ver
}

/// Whether a store's target peer proves that the merge cannot happen any more: its own
/// log moved it beyond the expected epoch, and the source peer beside it is still there.
///
/// `installed` is the epoch of the last Raft snapshot it was built from, if any: beyond
/// the expected one, the merge may be among what was jumped over.
pub fn target_has_moved_on(
    applied: RegionEpoch,
    installed: Option<RegionEpoch>,
    expected: RegionEpoch,
) -> bool {
    is_beyond(applied, expected) && !has_jumped(installed, expected)
}

/// Whether a Raft snapshot took the target peer beyond the expected epoch: it will never
/// apply the `CommitMerge` itself.
pub fn has_jumped(installed: Option<RegionEpoch>, expected: RegionEpoch) -> bool {
    installed.is_some_and(|installed| is_beyond(installed, expected))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn region(id: u64, start: &'static [u8], end: &'static [u8], version: u64) -> meta::Region {
        let peer = |store_id: u64| meta::Peer { id: id * 10 + store_id, store_id, role: 0 };
        meta::Region {
            id,
            start_key: Bytes::from_static(start),
            end_key: Bytes::from_static(end),
            epoch: Some(meta::RegionEpoch { conf_ver: 3, version }),
            peers: (1..=3).map(peer).collect(),
        }
    }

    #[test]
    fn a_neighbour_on_either_side_takes_over() {
        let (left, right) = (region(1, b"", b"m", 7), region(2, b"m", b"", 4));
        for (source, target) in [(&left, &right), (&right, &left)] {
            assert_eq!(obstacle(source, target), None);
            let after = merged(&prepared(source), target);
            assert_eq!(
                (after.id, &after.start_key[..], &after.end_key[..]),
                (target.id, &b""[..], &b""[..])
            );
            assert!(epoch_of(&after).version > epoch_of(&prepared(source)).version);
            assert!(epoch_of(&after).version > epoch_of(target).version);
            assert_eq!(epoch_of(&after).conf_ver, 3);
        }
    }

    #[test]
    fn what_cannot_be_merged() {
        let (left, right) = (region(1, b"", b"m", 7), region(2, b"n", b"", 4));
        assert!(obstacle(&left, &right).is_some(), "a gap");
        assert!(obstacle(&left, &left).is_some());
        // The first and the last region both touch the empty key.
        let (first, last) = (region(1, b"", b"m", 1), region(2, b"p", b"", 1));
        assert!(obstacle(&first, &last).is_some());
        let mut right = region(2, b"m", b"", 4);
        right.peers[2].store_id = 4;
        assert!(obstacle(&left, &right).is_some(), "other stores");
        let mut right = region(2, b"m", b"", 4);
        right.peers[2].set_role(meta::PeerRole::Learner);
        assert!(obstacle(&left, &right).is_some(), "other roles");
        right.peers[2].set_role(meta::PeerRole::DemotingVoter);
        assert!(obstacle(&left, &right).is_some(), "joint");
    }

    #[test]
    fn only_the_own_log_proves_that_the_target_moved_on() {
        let at = |conf_ver, version| RegionEpoch { conf_ver, version };
        let expected = at(3, 5);
        assert!(!target_has_moved_on(expected, None, expected));
        assert!(target_has_moved_on(at(4, 5), None, expected));
        assert!(target_has_moved_on(at(3, 6), Some(at(3, 5)), expected));
        assert!(!target_has_moved_on(at(3, 9), Some(at(3, 8)), expected));
        assert!(!target_has_moved_on(at(2, 4), None, expected));
    }
}
