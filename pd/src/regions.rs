//! Operations of [`PdServer`] on regions: heartbeats, routes, splits, operators.
//!
//! **Flow.** A heartbeat with a new epoch is made durable first; then it updates
//! what is known, and its answer carries the next step of the region's operator.
//! A region that is not known to be well is looked at by the checkers then;
//! schedulers and the patrol over all regions run from the background task.

use cairn_pd_client::{PdError, RegionRoute};
use cairn_proto::meta::{Peer, Region, Store, StoreState};
use cairn_proto::pd::{RegionHeartbeatRequest, RegionHeartbeatResponse, SplitId};

use crate::hot::Now;
use crate::operator::Operator;
use crate::server::PdServer;
use crate::state::Command;
use crate::state::region_tree::Freshness;

/// Regions of one answer.
const SCAN_REGIONS_MAX: usize = 1_024;
/// Regions of one split.
const SPLIT_COUNT_MAX: u32 = 1_024;
/// Operators that schedulers may begin per look.
const OPERATORS_PER_LOOK_MAX: usize = 64;

impl PdServer {
    /// A leader's report; answers the step it is to take, if any.
    pub async fn region_heartbeat(
        &self,
        request: RegionHeartbeatRequest,
    ) -> Result<RegionHeartbeatResponse, PdError> {
        let region = valid_region(request.region.as_ref())?;
        let leads = |peer: &Peer| {
            Some((peer.id, peer.store_id)) == request.leader.map(|l| (l.id, l.store_id))
        };
        if !region.peers.iter().any(leads) {
            return Err(PdError::InvalidArgument("the leader is no peer of its region".into()));
        }
        let freshness = self.shared().state().read().regions.freshness(region);
        match freshness {
            Freshness::Stale => return Ok(RegionHeartbeatResponse::default()),
            Freshness::Known => {}
            Freshness::New => self.put_regions(vec![region.clone()]).await?,
        }
        let now = self.now();
        let wanted = {
            let state = self.shared().state().read();
            let mut cluster = self.cluster.lock();
            if !cluster.region_heartbeat(&request, now) || state.running_recovery().is_some() {
                return Ok(RegionHeartbeatResponse::default());
            }
            match cluster.check(&state, region.id, now) {
                Some(operator) => operator,
                None => return Ok(cluster.next_step(&state, region.id, now).unwrap_or_default()),
            }
        };
        self.admit(vec![wanted]).await?;
        let state = self.shared().state().read();
        Ok(self.cluster.lock().next_step(&state, region.id, now).unwrap_or_default())
    }

    /// Both clocks.
    pub(crate) fn now(&self) -> Now {
        Now { ms: self.clock.monotonic_ms(), unix_ms: self.clock.unix_ms() }
    }

    /// Makes regions durable; those they overrun are forgotten.
    async fn put_regions(&self, regions: Vec<Region>) -> Result<(), PdError> {
        let overrun: Vec<u64> = {
            let state = self.shared().state().read();
            let overlapped = |region: &Region| -> Vec<u64> {
                let overlapping = state.regions.overlapping(&region.start_key, &region.end_key);
                overlapping.map(|other| other.id).collect()
            };
            regions.iter().flat_map(overlapped).collect()
        };
        self.replication.propose(Command::put_regions(regions)).await?;
        let state = self.shared().state().read();
        self.cluster.lock().forget_gone(&overrun, &state, self.now());
        Ok(())
    }

    /// Begins operators, all or none; tells whether they began.
    pub(crate) async fn admit(&self, mut operators: Vec<Operator>) -> Result<bool, PdError> {
        for operator in &mut operators {
            let added = operator.added_peers();
            if added > 0 {
                let first_id = self.alloc_ids(added as u32).await?;
                operator.fill_peer_ids(first_id);
            }
        }
        let state = self.shared().state().read();
        Ok(self.cluster.lock().admit(operators, &state, self.now()))
    }

    /// One look of schedulers and of the patrol.
    pub(crate) async fn run_schedulers(&self) -> Result<(), PdError> {
        self.cluster.lock().expire(self.now());
        if self.is_recovering() {
            return Ok(());
        }
        for _ in 0..OPERATORS_PER_LOOK_MAX {
            let wanted = {
                let state = self.shared().state().read();
                self.cluster.lock().schedule(&state, self.now())
            };
            let Some(operator) = wanted else { break };
            if !self.admit(vec![operator]).await? {
                break;
            }
        }
        let found = {
            let state = self.shared().state().read();
            self.cluster.lock().patrol(&state, self.now())
        };
        for operators in found {
            self.admit(operators).await?;
        }
        Ok(())
    }

    /// Stores that were to be emptied and are empty now are gone for good.
    pub(crate) async fn bury_empty_stores(&self) -> Result<(), PdError> {
        let empty: Vec<Store> = {
            let state = self.shared().state().read();
            let leaving = state.stores.values().filter(|one| one.state() == StoreState::Offline);
            leaving.filter(|one| state.regions.peer_count(one.id) == 0).cloned().collect()
        };
        for mut store in empty {
            store.set_state(StoreState::Tombstone);
            self.replication.propose(Command::put_store(store)).await?;
            self.cluster.lock().settings_changed();
        }
        Ok(())
    }

    /// The region that holds the key.
    pub fn get_region(&self, key: &[u8]) -> Result<RegionRoute, PdError> {
        let state = self.shared().state().read();
        match state.regions.find(key) {
            Some(region) => Ok(self.cluster.lock().route(region)),
            None if !state.bootstrapped => Err(PdError::NotBootstrapped),
            None => Err(PdError::RegionNotFound("no region holds the key".into())),
        }
    }

    /// The region of an id.
    pub fn get_region_by_id(&self, region_id: u64) -> Result<RegionRoute, PdError> {
        let state = self.shared().state().read();
        match state.regions.get(region_id) {
            Some(region) => Ok(self.cluster.lock().route(region)),
            None => Err(PdError::RegionNotFound(format!("region {region_id}"))),
        }
    }

    /// Regions overlapping `[start, end)` in key order.
    pub fn scan_regions(&self, start: &[u8], end: &[u8], limit: u32) -> Vec<RegionRoute> {
        let limit = match limit {
            0 => SCAN_REGIONS_MAX,
            limit => SCAN_REGIONS_MAX.min(limit as usize),
        };
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        let regions = state.regions.overlapping(start, end);
        regions.take(limit).map(|region| cluster.route(region)).collect()
    }

    /// Ids for regions to be cut from one.
    pub async fn ask_split(
        &self,
        region: &Region,
        split_count: u32,
    ) -> Result<Vec<SplitId>, PdError> {
        let region = valid_region(Some(region))?;
        if split_count == 0 || split_count > SPLIT_COUNT_MAX {
            return Err(PdError::InvalidArgument(format!("{split_count} new regions")));
        }
        let peers = region.peers.len() as u64;
        let mut next = self.alloc_ids(split_count * (1 + peers as u32)).await?;
        let mut ids = Vec::with_capacity(split_count as usize);
        for _ in 0..split_count {
            let new_peer_ids = (next + 1..=next + peers).collect();
            ids.push(SplitId { new_region_id: next, new_peer_ids });
            next += 1 + peers;
        }
        Ok(ids)
    }

    /// The regions that came of a split.
    pub async fn report_split(&self, regions: Vec<Region>) -> Result<(), PdError> {
        for region in &regions {
            valid_region(Some(region))?;
        }
        self.put_regions(regions).await
    }
}

fn valid_region(region: Option<&Region>) -> Result<&Region, PdError> {
    let invalid = |reason: &str| Err(PdError::InvalidArgument(reason.to_owned()));
    let Some(region) = region else { return invalid("no region") };
    if region.id == 0 || region.epoch.is_none() || region.peers.is_empty() {
        return invalid("a region without id, epoch or peers");
    }
    if !region.end_key.is_empty() && region.start_key >= region.end_key {
        return invalid("a region that ends before it starts");
    }
    Ok(region)
}
