//! Garbage collection: removes versions that no reader at or above the safe point
//! can see.
//!
//! ```text
//! versions of a key, newest first          safe point 50
//! 70 Put      kept: above the safe point
//! 50 Rollback kept: a transaction that began at 50 may still prewrite
//! 40 Lock     removed: says nothing about the value
//! 30 Put      kept: what a reader at 50 sees        (a Delete here stays, too)
//! 20 Put      removed, with its long value
//! ```
//!
//! **Flow**: PD hands the safe point out; the SQL node that moved it there has seen to it
//! that nobody reads below it and that no lock is left below it (otherwise a
//! secondary's lock could outlive the commit record of its primary).
//!
//! | who removes | what | at the cost of |
//! |---|---|---|
//! | [`filter`] in compactions of the store | what one compaction shows to be garbage | nothing |
//! | [`collect`] | the rest, and `Delete`s that hide nothing any more | a tombstone each |
//!
//! Each time the safe point has moved a store looks at its replicas ([`survey`]), those that
//! have not changed since it found them clean excepted. Where much is garbage it has the
//! range compacted first; what is left then, or is little, is collected one by one.
//!
//! **Invariants**
//! - Nothing at or above the safe point looks different, on any replica, at any time: not
//!   half-way, and not after a compaction of some levels only.
//! - Replicas may hold different garbage; nothing may depend on it.

pub mod collect;
pub mod destroy;
pub mod filter;
pub mod judge;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod walk;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, EngineError, KvEngine, WriteBatch};
use cairn_pd_client::PdClient;
use cairn_proto::kv::RegionPeerInfo;
use cairn_proto::meta::Region;
use cairn_types::TimeStamp;
use tokio_util::sync::CancellationToken;

use crate::bounds::KeptBounds;
use crate::keys::region_data_range;
use crate::mvcc::MvccError;
use crate::raftstore::{RaftKv, RaftRouter, RegionError, RegionId};

pub use collect::{RECORDS_PER_ROUND, Round};
pub use filter::VersionFilter;
pub use survey::Survey;
pub use walk::Walk;

/// Between two looks at the safe point.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Between two rounds in one region, so that collection stays in the background.
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// Long values deleted in one batch.
const ORPHANS_PER_BATCH: usize = 4096;

/// Why a replica was left for the next time.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("cut off")]
    CutOff,
}

/// What collection works on.
pub struct Collector {
    /// Replicas of this store.
    pub router: Arc<RaftRouter>,
    /// Tells the safe point.
    pub pd: Arc<dyn PdClient>,
    /// The data.
    pub engine: Arc<dyn KvEngine>,
    /// The engine's filter.
    pub filter: VersionFilter,
    /// Where the safe point is kept before it counts.
    pub bounds: Arc<KeptBounds>,
}

impl Collector {
    /// Follows PD's safe point until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            let mut done = TimeStamp::ZERO;
            // Applied index at which a region was found without garbage, old or to come.
            let mut clean = HashMap::new();
            loop {
                // A store that has just started has better things to do.
                tokio::time::sleep(POLL_INTERVAL).await;
                match self.pd.get_gc_safe_point().await {
                    Ok(safe_point) if safe_point > done => {
                        if let Err(error) = self.keep(safe_point).await {
                            tracing::warn!(%error, "the safe point is not kept: nothing is collected");
                            continue;
                        }
                        self.filter.raise(safe_point);
                        if self.visit_replicas(safe_point, &mut clean).await {
                            done = safe_point;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "no safe point"),
                }
                self.delete_orphans();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn keep(&self, safe_point: TimeStamp) -> Result<(), CollectError> {
        let bounds = Arc::clone(&self.bounds);
        let keep = move || bounds.raise_safe_point(safe_point);
        Ok(tokio::task::spawn_blocking(keep).await.map_err(|_| CollectError::CutOff)??)
    }

    /// Visits every replica that may hold garbage; `clean` says which do not. Answers whether
    /// the store told what it holds: it does not when it is busy.
    async fn visit_replicas(
        &self,
        safe_point: TimeStamp,
        clean: &mut HashMap<RegionId, u64>,
    ) -> bool {
        let infos = self.router.region_infos();
        if infos.is_empty() {
            return false;
        }
        let id_of = |info: &RegionPeerInfo| info.region.as_ref().map(|region| RegionId(region.id));
        clean.retain(|id, _| infos.iter().any(|info| id_of(info) == Some(*id)));
        for info in infos {
            // A peer that waits for its first Raft snapshot has no range and no data yet.
            let Some(region) = info.region.as_ref().filter(|region| !region.peers.is_empty())
            else {
                continue;
            };
            let id = RegionId(region.id);
            if clean.get(&id) == Some(&info.applied_index) {
                continue;
            }
            match self.visit(region, safe_point).await {
                Ok(true) => {
                    clean.insert(id, info.applied_index);
                }
                Ok(false) => {
                    clean.remove(&id);
                }
                // Split, moved or busy: the next safe point finds what is left.
                Err(error) => tracing::debug!(region = region.id, %error, "collection stopped"),
            }
        }
        true
    }

    /// Cleans a replica; whether nothing was to be done and will not be unless it is written.
    async fn visit(&self, region: &Region, safe_point: TimeStamp) -> Result<bool, CollectError> {
        let survey = self.survey(region, safe_point).await?;
        if survey.is_clean() {
            return Ok(survey.newer == 0);
        }
        tracing::debug!(region = region.id, ?survey, "garbage");
        if survey.is_worth_compacting(survey.garbage) {
            self.compact(region).await?;
        }
        let mut removed = 0;
        let outcome = self.collect(region, safe_point, &mut removed).await;
        // Tombstones take space and slow readers down as what they removed did.
        if survey.is_worth_compacting(removed) {
            self.compact(region).await?;
        }
        outcome.map(|()| false)
    }

    async fn survey(&self, region: &Region, safe_point: TimeStamp) -> Result<Survey, CollectError> {
        let mut walk = walk_through(region, safe_point);
        let mut survey = Survey::default();
        let mut count = |seen: walk::Seen<'_>| survey.count(&seen, safe_point);
        while walk.advance(&*self.engine.snapshot(), RECORDS_PER_ROUND, &mut count)? {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Ok(survey)
    }

    async fn compact(&self, region: &Region) -> Result<(), CollectError> {
        let engine = Arc::clone(&self.engine);
        let (lower, upper) = region_data_range(region);
        let compact = move || engine.compact_range(&lower, &upper);
        tokio::task::spawn_blocking(compact).await.map_err(|_| CollectError::CutOff)??;
        self.delete_orphans();
        Ok(())
    }

    /// Removes what is left; `removed` counts versions, also of a walk that ends early.
    async fn collect(
        &self,
        region: &Region,
        safe_point: TimeStamp,
        removed: &mut u64,
    ) -> Result<(), CollectError> {
        let mut walk = walk_through(region, safe_point);
        loop {
            let (next, round) = self.router.collect_garbage(walk).await?;
            let round = round?;
            *removed += round.removed;
            if !round.has_more {
                return Ok(());
            }
            walk = next;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Long values whose records the filter left out.
    fn delete_orphans(&self) {
        if let Err(error) = delete_orphans(&*self.engine, self.filter.take_orphans()) {
            tracing::error!(%error, "long values of collected versions stay behind");
        }
    }
}

fn walk_through(region: &Region, safe_point: TimeStamp) -> Walk {
    let (lower, upper) = region_data_range(region);
    Walk::new(lower.into(), upper.into(), safe_point)
}

fn delete_orphans(engine: &dyn KvEngine, orphans: Vec<Bytes>) -> Result<(), EngineError> {
    for keys in orphans.chunks(ORPHANS_PER_BATCH) {
        let mut batch = WriteBatch::with_capacity(keys.len());
        keys.iter().for_each(|key| batch.delete(Cf::Default, key.clone()));
        engine.write(batch, false)?;
    }
    Ok(())
}
