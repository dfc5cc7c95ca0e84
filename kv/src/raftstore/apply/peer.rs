//! One region, as apply sees it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::WriteOp;
use cairn_proto::meta;

use super::{CommittedEntries, Outcome};
use crate::keys;
use crate::raftstore::error::RegionError;
use crate::raftstore::state::{ApplyState, MergeState};

pub(super) struct ApplyPeer {
    pub(super) peer_id: u64,
    pub(super) region: Arc<meta::Region>,
    pub(super) data_start: Vec<u8>,
    pub(super) data_end: Vec<u8>,
    pub(super) state: ApplyState,
    /// The region is the source of a merge that is not decided.
    pub(super) merge: Option<MergeState>,
    /// Changes that the Raft thread does not know yet.
    pub(super) outcomes: Vec<Outcome>,
    /// Entries behind one that waits for another region.
    pub(super) waiting: VecDeque<CommittedEntries>,
}

impl ApplyPeer {
    pub(super) fn new(
        peer_id: u64,
        region: Arc<meta::Region>,
        state: ApplyState,
        merge: Option<MergeState>,
    ) -> ApplyPeer {
        let (data_start, data_end) = keys::region_data_range(&region);
        ApplyPeer {
            peer_id,
            region,
            data_start,
            data_end,
            state,
            merge,
            outcomes: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn set_region(&mut self, region: Arc<meta::Region>) {
        (self.data_start, self.data_end) = keys::region_data_range(&region);
        self.region = region;
    }

    pub(super) fn holds(&self, op: &WriteOp) -> bool {
        let within = |key: &Bytes| {
            key.as_ref() >= self.data_start.as_slice() && key.as_ref() < self.data_end.as_slice()
        };
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key, .. } => within(key),
            WriteOp::DeleteRange { start, end, .. } => {
                start >= end || (within(start) && end.as_ref() <= self.data_end.as_slice())
            }
        }
    }

    pub(super) fn epoch_mismatch(&self) -> RegionError {
        RegionError::EpochNotMatch { current_regions: vec![(*self.region).clone()] }
    }
}
