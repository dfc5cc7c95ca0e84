//! What a store remembers in its data engine, apart from data.
//!
//! A region's apply state is written in the same batch as the data that entries bring,
//! so the engine always knows how far it got.

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions, KvEngine, WriteBatch};
use cairn_proto::{kv, meta};
use prost::Message;

use super::config::{RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM};
use super::error::RaftStoreError;
use super::ids::{RegionEpoch, epoch_of};
use crate::keys::{self, RegionLocal};

/// Who this store is.
#[derive(Clone, PartialEq, Message)]
pub struct StoreIdent {
    /// The cluster it belongs to.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Its id in that cluster.
    #[prost(uint64, tag = "2")]
    pub store_id: u64,
}

/// Whether a peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum PeerState {
    /// It takes part.
    Normal = 0,
    /// Its data is being replaced by a Raft snapshot.
    Applying = 1,
    /// It was removed and must not come back.
    Tombstone = 2,
    /// It is about to be absorbed by a neighbour and serves nothing.
    Merging = 3,
}

/// A merge that a source has prepared.
#[derive(Clone, PartialEq, Message)]
pub struct MergeState {
    /// Who absorbs it, at the epoch it must still be at.
    #[prost(message, optional, tag = "1")]
    pub target: Option<meta::Region>,
    /// Every peer of the source holds the entries up to here.
    #[prost(uint64, tag = "2")]
    pub min_index: u64,
    /// Index of the entry that prepared the merge.
    #[prost(uint64, tag = "3")]
    pub prepare_index: u64,
}

impl MergeState {
    /// The target's id.
    pub fn target_id(&self) -> u64 {
        self.target.as_ref().map_or(0, |target| target.id)
    }

    /// The epoch at which the target must still be.
    pub fn target_epoch(&self) -> RegionEpoch {
        self.target.as_ref().map(epoch_of).unwrap_or_default()
    }
}

/// A region as one store knows it.
#[derive(Clone, PartialEq, Message)]
pub struct RegionLocalState {
    /// Range, epoch, peers.
    #[prost(message, optional, tag = "1")]
    pub region: Option<meta::Region>,
    /// Whether the peer lives.
    #[prost(enumeration = "PeerState", tag = "2")]
    pub state: i32,
    /// This store's peer (it may no longer be among the region's).
    #[prost(uint64, tag = "3")]
    pub peer_id: u64,
    /// While it merges: into whom.
    #[prost(message, optional, tag = "4")]
    pub merge: Option<MergeState>,
    /// A tombstone of a region that was absorbed: by whom, and how.
    #[prost(message, optional, tag = "5")]
    pub merged_into: Option<MergeState>,
    /// A tombstone: the epoch up to which this peer had applied its log.
    #[prost(message, optional, tag = "6")]
    pub applied_epoch: Option<meta::RegionEpoch>,
    /// A tombstone: the epoch of the last Raft snapshot the peer was built from.
    #[prost(message, optional, tag = "7")]
    pub installed_epoch: Option<meta::RegionEpoch>,
}

/// How far a region's entries were applied.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ApplyState {
    /// Index of the last entry applied.
    #[prost(uint64, tag = "1")]
    pub applied_index: u64,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub applied_term: u64,
    /// Index of the last entry that the log no longer holds.
    #[prost(uint64, tag = "3")]
    pub truncated_index: u64,
    /// Its term.
    #[prost(uint64, tag = "4")]
    pub truncated_term: u64,
    /// Epoch of the last Raft snapshot the peer was built from: what led to it was not
    /// applied here.
    #[prost(message, optional, tag = "5")]
    pub installed_epoch: Option<meta::RegionEpoch>,
}

impl ApplyState {
    /// State of a region that was just bootstrapped or split off.
    pub fn initial() -> ApplyState {
        ApplyState {
            applied_index: RAFT_INIT_LOG_INDEX,
            applied_term: RAFT_INIT_LOG_TERM,
            truncated_index: RAFT_INIT_LOG_INDEX,
            truncated_term: RAFT_INIT_LOG_TERM,
            installed_epoch: None,
        }
    }
}

/// A Raft snapshot whose data is being written; lets a restart finish the work.
#[derive(Clone, PartialEq, Message)]
pub struct PendingSnapshot {
    /// Index of the last entry it stands for.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Name of the folder with its files.
    #[prost(string, tag = "3")]
    pub folder: String,
    /// The region the data is for.
    #[prost(message, optional, tag = "4")]
    pub region: Option<meta::Region>,
    /// What the folder holds.
    #[prost(message, optional, tag = "5")]
    pub manifest: Option<kv::SnapshotManifest>,
}

/// Identity of the store in this engine, if it has one.
pub fn load_store_ident(engine: &dyn KvEngine) -> Result<Option<StoreIdent>, RaftStoreError> {
    match engine.get(Cf::Default, keys::STORE_IDENT_KEY)? {
        Some(bytes) => decode(bytes, "store ident").map(Some),
        None => Ok(None),
    }
}

/// Gives the engine its identity, durably.
pub fn save_store_ident(engine: &dyn KvEngine, ident: &StoreIdent) -> Result<(), RaftStoreError> {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, keys::STORE_IDENT_KEY, ident.encode_to_vec());
    Ok(engine.write(batch, true)?)
}

/// Counts a start of the store, durably; answers its number.
pub(super) fn next_incarnation(engine: &dyn KvEngine) -> Result<u64, RaftStoreError> {
    let last = match engine.get(Cf::Default, keys::STORE_INCARNATION_KEY)? {
        Some(bytes) => <[u8; 8]>::try_from(bytes.as_ref())
            .map(u64::from_be_bytes)
            .map_err(|_| RaftStoreError::Corrupted("number of starts"))?,
        None => 0,
    };
    let mut batch = WriteBatch::new();
    let next = (last + 1).to_be_bytes().to_vec();
    batch.put(Cf::Default, keys::STORE_INCARNATION_KEY, next);
    engine.write(batch, true)?;
    Ok(last + 1)
}

/// Writes the first region into an engine, durably. Does nothing if it is there.
pub fn bootstrap_region(
    engine: &dyn KvEngine,
    store_id: u64,
    region: &meta::Region,
) -> Result<(), RaftStoreError> {
    let key = keys::region_local_key(region.id, RegionLocal::State);
    if engine.get(Cf::Default, &key)?.is_some() {
        return Ok(());
    }
    let peer = find_peer_on_store(region, store_id)
        .ok_or(RaftStoreError::Corrupted("bootstrap: no peer on this store"))?;
    let mut batch = WriteBatch::new();
    put_region_state(&mut batch, region, PeerState::Normal, peer.id);
    put_apply_state(&mut batch, region.id, &ApplyState::initial());
    Ok(engine.write(batch, true)?)
}

/// The region's peer on a store.
pub fn find_peer_on_store(region: &meta::Region, store_id: u64) -> Option<&meta::Peer> {
    region.peers.iter().find(|peer| peer.store_id == store_id)
}

/// The region's peer by id.
pub fn find_peer(region: &meta::Region, peer_id: u64) -> Option<&meta::Peer> {
    region.peers.iter().find(|peer| peer.id == peer_id)
}

pub(super) fn put_region_state(
    batch: &mut WriteBatch,
    region: &meta::Region,
    state: PeerState,
    peer_id: u64,
) {
    let local = RegionLocalState {
        region: Some(region.clone()),
        state: state as i32,
        peer_id,
        ..RegionLocalState::default()
    };
    put_local_state(batch, &local);
}

pub(super) fn put_local_state(batch: &mut WriteBatch, local: &RegionLocalState) {
    let region_id = local.region.as_ref().map_or(0, |region| region.id);
    let key = keys::region_local_key(region_id, RegionLocal::State);
    batch.put(Cf::Default, key, local.encode_to_vec());
}

/// Puts a peer's tombstone in place of what was kept of it; its data is another matter.
pub(super) fn put_tombstone(batch: &mut WriteBatch, tombstone: &RegionLocalState) {
    let region_id = tombstone.region.as_ref().map_or(0, |region| region.id);
    put_local_state(batch, tombstone);
    batch.delete(Cf::Default, keys::region_local_key(region_id, RegionLocal::Apply));
}

pub(super) fn put_apply_state(batch: &mut WriteBatch, region_id: u64, state: &ApplyState) {
    let key = keys::region_local_key(region_id, RegionLocal::Apply);
    batch.put(Cf::Default, key, state.encode_to_vec());
}

pub(super) fn load_region_state(
    snapshot: &dyn EngineSnapshot,
    region_id: u64,
) -> Result<Option<RegionLocalState>, RaftStoreError> {
    let key = keys::region_local_key(region_id, RegionLocal::State);
    snapshot.get(Cf::Default, &key)?.map(|bytes| decode(bytes, "region state")).transpose()
}

pub(super) fn load_apply_state(
    snapshot: &dyn EngineSnapshot,
    region_id: u64,
) -> Result<Option<ApplyState>, RaftStoreError> {
    let key = keys::region_local_key(region_id, RegionLocal::Apply);
    snapshot.get(Cf::Default, &key)?.map(|bytes| decode(bytes, "apply state")).transpose()
}

pub(super) fn load_pending_snapshot(
    snapshot: &dyn EngineSnapshot,
    region_id: u64,
) -> Result<Option<PendingSnapshot>, RaftStoreError> {
    let key = keys::region_local_key(region_id, RegionLocal::Snapshot);
    snapshot.get(Cf::Default, &key)?.map(|bytes| decode(bytes, "pending snapshot")).transpose()
}

/// Whether the region's data here was found damaged.
pub(super) fn load_damage_mark(
    snapshot: &dyn EngineSnapshot,
    region_id: u64,
) -> Result<bool, RaftStoreError> {
    let key = keys::region_local_key(region_id, RegionLocal::Damage);
    Ok(snapshot.get(Cf::Default, &key)?.is_some())
}

/// Every region the engine knows of, tombstones included, by id.
pub fn load_regions(
    snapshot: &dyn EngineSnapshot,
) -> Result<Vec<RegionLocalState>, RaftStoreError> {
    let (lower, upper) = keys::region_local_range();
    let mut iterator = snapshot.iter(Cf::Default, IterOptions::range(lower, upper));
    let mut regions = Vec::new();
    let mut valid = iterator.seek_to_first()?;
    while valid {
        if let Some((_, RegionLocal::State)) = keys::parse_region_local_key(iterator.key()) {
            regions.push(decode(Bytes::copy_from_slice(iterator.value()), "region state")?);
        }
        valid = iterator.next()?;
    }
    Ok(regions)
}

fn decode<M: Message + Default>(bytes: Bytes, what: &'static str) -> Result<M, RaftStoreError> {
    M::decode(bytes).map_err(|_| RaftStoreError::Corrupted(what))
}
