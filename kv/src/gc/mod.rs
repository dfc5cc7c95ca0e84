//! Garbage collection: removes versions that no reader at or above the safe point
//! can see.
//!
//! ```text
//! versions of a key, newest first          safe point 50
//! 70 Put      kept: above the safe point
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
//! | [`collect`], by Raft, for regions led here | the rest | an entry per few keys |
//!
//! Each time the safe point has moved a store looks at its regions ([`survey`]), those that
//! have changed since it found them clean excepted. Where much is garbage it has the
//! range compacted; what is left then, or is little, goes by Raft ([`plan`]).
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

use crate::keys::region_data_range;
use crate::mvcc::MvccError;
use crate::raftstore::{RaftKv, RegionContext, RegionError, RegionId, epoch_of};
use crate::txn::Scheduler;

pub use collect::{KEYS_PER_ROUND, RECORDS_PER_ROUND, VERSIONS_PER_ROUND};
pub use filter::VersionFilter;
pub use survey::{Survey, Surveyor};

/// Between two looks at the safe point.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Between two rounds in one region, so that collection stays in the background.
const ROUND_PAUSE: Duration = Duration::from_millis(10);
/// So little garbage goes by Raft at once: an entry or two.
const FEW_VERSIONS: u64 = 4096;
/// A range is compacted if at least this part of its records may be left out.
const GARBAGE_PART: u64 = 10;
/// Long values deleted in one batch.
const ORPHANS_PER_BATCH: usize = 4096;

/// What is to be done with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Too little for a compaction of its own, too much for Raft: compactions that come
    /// anyway will do it.
    Wait,
    /// Rewrite the range, then collect what is left by Raft.
    Compact,
    /// Collect by Raft.
    Collect,
}

/// What to do with what was found.
pub fn plan(survey: &Survey) -> Plan {
    if survey.garbage > FEW_VERSIONS && survey.garbage * GARBAGE_PART >= survey.records {
        Plan::Compact
    } else if survey.garbage <= FEW_VERSIONS {
        Plan::Collect
    } else {
        Plan::Wait
    }
}

/// Why a region was left for the next time.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("a compaction was cut off")]
    CutOff,
}

/// What collection works on.
pub struct Collector {
    /// Regions of this store.
    pub kv: Arc<dyn RaftKv>,
    /// Latches, and writes by Raft.
    pub scheduler: Arc<Scheduler>,
    /// Tells the safe point.
    pub pd: Arc<dyn PdClient>,
    /// The data.
    pub engine: Arc<dyn KvEngine>,
    /// The engine's filter.
    pub filter: VersionFilter,
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
                        self.filter.raise(safe_point);
                        self.visit_regions(safe_point, &mut clean).await;
                        done = safe_point;
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

    async fn visit_regions(&self, safe_point: TimeStamp, clean: &mut HashMap<RegionId, u64>) {
        let infos = self.kv.region_infos();
        let id_of = |info: &RegionPeerInfo| info.region.as_ref().map(|region| RegionId(region.id));
        clean.retain(|id, _| infos.iter().any(|info| id_of(info) == Some(*id)));
        for info in infos {
            let Some(region) = &info.region else { continue };
            let id = RegionId(region.id);
            if clean.get(&id) == Some(&info.applied_index) {
                continue;
            }
            match self.visit(region, info.is_leader, safe_point).await {
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
    }

    /// Cleans a region; whether nothing was to be done and will not be unless it is written.
    async fn visit(
        &self,
        region: &Region,
        is_leader: bool,
        safe_point: TimeStamp,
    ) -> Result<bool, CollectError> {
        let survey = self.survey(region, safe_point).await?;
        if survey.garbage == 0 {
            return Ok(survey.newer == 0);
        }
        let plan = plan(&survey);
        tracing::debug!(region = region.id, ?survey, ?plan, "garbage");
        if plan == Plan::Compact {
            self.compact(region).await?;
        }
        if plan != Plan::Wait && is_leader {
            self.collect(region, safe_point).await?;
        }
        Ok(false)
    }

    async fn survey(&self, region: &Region, safe_point: TimeStamp) -> Result<Survey, CollectError> {
        let (lower, upper) = region_data_range(region);
        let mut surveyor = Surveyor::new(lower.into(), upper.into(), safe_point);
        while surveyor.advance(&*self.engine.snapshot(), RECORDS_PER_ROUND as u64)? {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Ok(surveyor.survey)
    }

    async fn compact(&self, region: &Region) -> Result<(), CollectError> {
        let engine = Arc::clone(&self.engine);
        let (lower, upper) = region_data_range(region);
        let compact = move || engine.compact_range(&lower, &upper);
        tokio::task::spawn_blocking(compact).await.map_err(|_| CollectError::CutOff)??;
        self.delete_orphans();
        Ok(())
    }

    async fn collect(&self, region: &Region, safe_point: TimeStamp) -> Result<(), CollectError> {
        let context = RegionContext {
            region_id: RegionId(region.id),
            epoch: epoch_of(region),
            ..RegionContext::default()
        };
        let mut from = region.start_key.clone();
        while let Some(next) = self.scheduler.collect_garbage(&context, &from, safe_point).await? {
            from = next;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Ok(())
    }

    /// Long values whose records the filter left out.
    fn delete_orphans(&self) {
        if let Err(error) = delete_orphans(&*self.engine, self.filter.take_orphans()) {
            tracing::error!(%error, "long values of collected versions stay behind");
        }
    }
}

fn delete_orphans(engine: &dyn KvEngine, orphans: Vec<Bytes>) -> Result<(), EngineError> {
    for keys in orphans.chunks(ORPHANS_PER_BATCH) {
        let mut batch = WriteBatch::with_capacity(keys.len());
        keys.iter().for_each(|key| batch.delete(Cf::Default, key.clone()));
        engine.write(batch, false)?;
    }
    Ok(())
}
