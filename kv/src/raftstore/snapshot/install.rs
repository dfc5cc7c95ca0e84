//! Replaces a region's data by that of a Raft snapshot.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_engine::{Cf, EngineSnapshot, IterOptions, KvEngine, WriteBatch};
use cairn_proto::{kv, meta};
use prost::Message;

use super::{SnapshotData, file_name, records};
use crate::keys::{self, RegionLocal};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::state::{self, ApplyState, PeerState, PendingSnapshot, RegionLocalState};

/// A batch of installed records.
const INSTALL_BATCH_BYTES: usize = 1024 * 1024;

/// What is installed, and over what.
#[derive(Debug)]
pub struct Installation {
    /// The region as of the snapshot.
    pub region: meta::Region,
    /// The region this store had under that id, if any: its data goes too.
    pub old_region: Option<meta::Region>,
    /// This store's peer.
    pub peer_id: u64,
    /// Index of the last entry the snapshot stands for.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What is replaced cannot all be read.
    pub is_damaged: bool,
    /// The data.
    pub data: SnapshotData,
    /// Tombstones of regions that this one absorbed, whose peers it replaces.
    pub absorbed: Vec<RegionLocalState>,
}

/// Replaces the region's data by the snapshot's and makes that durable. After an error neither the
/// old data nor the new may be whole; the same call, made again, starts from the beginning.
pub fn install(
    engine: &dyn KvEngine,
    installation: &Installation,
) -> Result<ApplyState, RaftStoreError> {
    let Installation { region, old_region, peer_id, index, term, is_damaged, data, absorbed } =
        installation;
    let (peer_id, index, term) = (*peer_id, *index, *term);
    let pending_key = keys::region_local_key(region.id, RegionLocal::Snapshot);
    let mut batch = WriteBatch::new();
    bury(&mut batch, absorbed);
    if let SnapshotData::Files(folder, manifest) = data {
        check_files(folder, manifest, region)?;
        let pending = PendingSnapshot {
            index,
            term,
            folder: folder_name(folder),
            region: Some(region.clone()),
            manifest: Some(manifest.clone()),
        };
        batch.put(Cf::Default, pending_key.clone(), pending.encode_to_vec());
        let shown = old_region.as_ref().unwrap_or(region);
        state::put_region_state(&mut batch, shown, PeerState::Applying, peer_id);
        // From here on a restart finishes the work: what it replaces is not needed again.
        engine.write(std::mem::take(&mut batch), true)?;
    }
    engine.write(std::mem::take(&mut batch), false)?;
    clear_data(engine, region, old_region.as_ref(), *is_damaged)?;
    match data {
        SnapshotData::Files(folder, manifest) => take_files(engine, folder, manifest)?,
        SnapshotData::Memory(chunks) => take_records(engine, region, chunks)?,
    }
    let apply_state = ApplyState {
        applied_index: index,
        applied_term: term,
        truncated_index: index,
        truncated_term: term,
        installed_epoch: region.epoch,
    };
    batch.delete(Cf::Default, pending_key);
    batch.delete(Cf::Default, keys::region_local_key(region.id, RegionLocal::Damage));
    state::put_region_state(&mut batch, region, PeerState::Normal, peer_id);
    state::put_apply_state(&mut batch, region.id, &apply_state);
    engine.write(batch, true)?;
    data.discard();
    Ok(apply_state)
}

/// Removes the data of regions that were absorbed, and leaves their tombstones.
fn bury(batch: &mut WriteBatch, absorbed: &[RegionLocalState]) {
    for tombstone in absorbed {
        state::put_tombstone(batch, tombstone);
        if let Some(region) = &tombstone.region {
            delete_region_data(batch, region);
        }
    }
}

/// Removes every version of every key of the region.
pub fn delete_region_data(batch: &mut WriteBatch, region: &meta::Region) {
    let (start, end) = keys::region_data_range(region);
    let (start, end) = (Bytes::from(start), Bytes::from(end));
    for cf in Cf::ALL {
        batch.delete_range(cf, start.clone(), end.clone());
    }
}

/// Removes what the range held. A range that never held anything is left alone: files
/// that are taken in over a range deletion must go to the engine's top level, to be
/// merged again; without one they go to the lowest at once.
fn clear_data(
    engine: &dyn KvEngine,
    region: &meta::Region,
    old_region: Option<&meta::Region>,
    is_damaged: bool,
) -> Result<(), RaftStoreError> {
    let mut batch = WriteBatch::new();
    let view = engine.snapshot();
    for region in [Some(region), old_region].into_iter().flatten() {
        if is_damaged {
            // Nobody reads here any more, so whole files may go: they may hold blocks
            // that compaction would stumble over.
            let (start, end) = keys::region_data_range(region);
            engine.delete_files_in_range(&start, &end)?;
        }
        if is_damaged || has_data(view.as_ref(), region)? {
            delete_region_data(&mut batch, region);
        }
    }
    drop(view);
    // Garbage collection may have left tombstones where no data is.
    let is_covered = !batch.is_empty() || old_region.is_some();
    engine.write(batch, false)?;
    if is_covered {
        // Written out now, without holding up anybody: taking files in would hold up all
        // writes for as long as a memtable covers their range.
        engine.flush()?;
    }
    Ok(())
}

fn has_data(view: &dyn EngineSnapshot, region: &meta::Region) -> Result<bool, RaftStoreError> {
    let (start, end) = keys::region_data_range(region);
    for cf in Cf::ALL {
        let mut options = IterOptions::range(start.clone(), end.clone());
        options.skip_cache = true;
        if view.iter(cf, options).seek_to_first()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses files that are not what the manifest says, before anything is changed.
fn check_files(
    folder: &Path,
    manifest: &kv::SnapshotManifest,
    region: &meta::Region,
) -> Result<(), RaftStoreError> {
    check_manifest(manifest, region)?;
    for (position, file) in manifest.files.iter().enumerate() {
        let path = folder.join(file_name(position));
        if std::fs::metadata(&path)?.len() != file.size_bytes {
            return Err(RaftStoreError::Corrupted("snapshot file: length"));
        }
        if super::receive::checksum_of(&path)? != file.checksum {
            return Err(RaftStoreError::Corrupted("snapshot file: checksum"));
        }
    }
    Ok(())
}

/// Refuses a manifest with foreign keys or files out of order.
pub(super) fn check_manifest(
    manifest: &kv::SnapshotManifest,
    region: &meta::Region,
) -> Result<(), RaftStoreError> {
    let (lower, upper) = keys::region_data_range(region);
    let mut before: Option<(u32, &Bytes)> = None;
    for file in &manifest.files {
        cf_of(file)?;
        let inside = file.first_key.as_ref() >= lower.as_slice()
            && file.first_key <= file.last_key
            && file.last_key.as_ref() < upper.as_slice();
        if !inside {
            return Err(RaftStoreError::Corrupted("snapshot: key outside of the region"));
        }
        if before.is_some_and(|(cf, last)| cf == file.cf && *last >= file.first_key) {
            return Err(RaftStoreError::Corrupted("snapshot: files overlap"));
        }
        before = Some((file.cf, &file.last_key));
    }
    Ok(())
}

fn cf_of(file: &kv::SnapshotFile) -> Result<Cf, RaftStoreError> {
    let cf = u8::try_from(file.cf).ok().and_then(Cf::from_u8);
    cf.ok_or(RaftStoreError::Corrupted("snapshot: cf"))
}

fn take_files(
    engine: &dyn KvEngine,
    folder: &Path,
    manifest: &kv::SnapshotManifest,
) -> Result<(), RaftStoreError> {
    for cf in Cf::ALL {
        let of_cf = manifest.files.iter().enumerate().filter(|(_, file)| cf_of(file) == Ok(cf));
        let paths: Vec<PathBuf> =
            of_cf.map(|(position, _)| folder.join(file_name(position))).collect();
        if !paths.is_empty() {
            engine.ingest(cf, &paths)?;
        }
    }
    Ok(())
}

fn take_records(
    engine: &dyn KvEngine,
    region: &meta::Region,
    chunks: &[Bytes],
) -> Result<(), RaftStoreError> {
    let (lower, upper) = keys::region_data_range(region);
    let mut batch = WriteBatch::new();
    for chunk in chunks {
        records::read_chunk(chunk, |cf, key, value| {
            if key.as_ref() < lower.as_slice() || key.as_ref() >= upper.as_slice() {
                return Err(RaftStoreError::Corrupted("snapshot: key outside of the region"));
            }
            batch.put(cf, key, value);
            if batch.size_bytes() >= INSTALL_BATCH_BYTES {
                engine.write(std::mem::take(&mut batch), false)?;
            }
            Ok(())
        })?;
    }
    Ok(engine.write(batch, false)?)
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}
