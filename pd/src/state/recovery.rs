//! What PD keeps of a recovery after stores were lost for good.
//!
//! Kept until the next one begins: people read the report long after. Lists grow by what
//! each step adds, and hold at most every region once.

use std::collections::BTreeSet;

use cairn_pd_client::PdError;
use cairn_proto::meta::{Region, StoreState};

use super::State;

/// Where a recovery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RecoveryStage {
    /// The living stores tell what they have.
    Collecting = 0,
    /// What is left of regions gets a leader.
    Forcing = 1,
    /// Ranges of which nothing is left get empty regions.
    Creating = 2,
    /// Every key has a region that can decide.
    Finished = 3,
    /// It was given up; the reason tells why.
    Failed = 4,
}

/// One recovery, as far as it came.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Recovery {
    /// Tells it from others.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Stores that are gone for good.
    #[prost(uint64, repeated, tag = "2")]
    pub failed_stores: Vec<u64>,
    /// Where it stands.
    #[prost(enumeration = "RecoveryStage", tag = "3")]
    pub stage: i32,
    /// Why it failed.
    #[prost(string, tag = "4")]
    pub reason: String,
    /// When it began, by the wall clock.
    #[prost(uint64, tag = "5")]
    pub began_unix_ms: u64,
    /// When it ended.
    #[prost(uint64, tag = "6")]
    pub ended_unix_ms: u64,
    /// Regions whose last writes may be missing.
    #[prost(message, repeated, tag = "7")]
    pub forced: Vec<ForcedRegion>,
    /// Empty regions made for ranges of which nothing was left.
    #[prost(message, repeated, tag = "8")]
    pub created: Vec<Region>,
    /// Peers that were removed.
    #[prost(message, repeated, tag = "9")]
    pub removed: Vec<RemovedPeer>,
}

/// A region that goes on without most of its voters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForcedRegion {
    /// As the peers that were left knew it when it was forced.
    #[prost(message, optional, tag = "1")]
    pub region: Option<Region>,
    /// Where it was led from.
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
}

impl ForcedRegion {
    /// The region's id.
    pub fn id(&self) -> u64 {
        self.region.as_ref().map_or(0, |region| region.id)
    }
}

/// A peer that stood for an older state of ranges others hold, or had no data.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RemovedPeer {
    /// Where it was.
    #[prost(uint64, tag = "1")]
    pub store_id: u64,
    /// The region as the peer knew it.
    #[prost(message, optional, tag = "2")]
    pub region: Option<Region>,
}

impl Recovery {
    /// Whether it is under way.
    pub fn runs(&self) -> bool {
        !matches!(self.stage(), RecoveryStage::Finished | RecoveryStage::Failed)
    }

    /// Ids of the regions that were forced.
    pub fn forced_ids(&self) -> BTreeSet<u64> {
        self.forced.iter().map(ForcedRegion::id).collect()
    }
}

impl State {
    /// The recovery under way.
    pub fn running_recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref().filter(|recovery| recovery.runs())
    }

    /// Begins a recovery: its stores are tombstones from here on, whatever lies on them.
    pub(super) fn begin_recovery(&mut self, mut recovery: Recovery) -> Result<(), PdError> {
        if self.running_recovery().is_some() {
            return Err(PdError::InvalidArgument("a recovery is under way".into()));
        }
        for id in &recovery.failed_stores {
            if !self.stores.contains_key(id) {
                return Err(PdError::StoreNotFound(format!("store {id}")));
            }
        }
        for id in &recovery.failed_stores {
            if let Some(store) = self.stores.get_mut(id) {
                store.set_state(StoreState::Tombstone);
            }
        }
        // One that failed goes on in the next: what it did is still to be told.
        if let Some(last) =
            self.recovery.take().filter(|last| last.stage() == RecoveryStage::Failed)
        {
            recovery.forced = last.forced;
            recovery.created = last.created;
            recovery.removed = last.removed;
        }
        self.recovery = Some(recovery);
        Ok(())
    }

    /// A recovery came further: lists are added, the rest is replaced.
    pub(super) fn extend_recovery(&mut self, step: Recovery) -> Result<(), PdError> {
        let known = self.recovery.as_mut().filter(|known| known.runs() && known.id == step.id);
        let known = known.ok_or_else(|| PdError::InvalidArgument("no such recovery".into()))?;
        known.stage = step.stage;
        known.reason = step.reason;
        known.ended_unix_ms = step.ended_unix_ms;
        known.forced.extend(step.forced);
        known.created.extend(step.created);
        known.removed.extend(step.removed);
        Ok(())
    }
}
