//! Replicas: in the end each region has as many as it should, they are equal, and regions
//! tile the space of keys. Judged from what lies on the stores' disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{Cf, IterOptions, KvEngine};
use cairn_kv::gc::Walk;
use cairn_kv::gc::judge::Verdict;
use cairn_kv::gc::walk::Seen;
use cairn_kv::keys;
use cairn_kv::mvcc::MvccError;
use cairn_kv::mvcc::keys::versioned_key;
use cairn_kv::raftstore::state::{PeerState, load_regions};
use cairn_kv::raftstore::{RegionEpoch, epoch_of};
use cairn_proto::meta::{self, PeerRole, StoreState};
use cairn_types::TimeStamp;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::world::Node;

/// Replicas PD gives every region.
const REPLICAS: usize = 3;
/// A healed cluster has every replica in its place after this.
const SETTLE_MAX: Duration = Duration::from_secs(240);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A region as the stores hold it.
struct Held {
    region: meta::Region,
    /// Processes that hold a whole replica of this epoch.
    at: Vec<Node>,
}

/// Waits until nothing is left to be said; fails with what is said at the end.
pub async fn settle(cluster: &Arc<Cluster>) {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let complaints = look(cluster);
        if complaints.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            for complaint in complaints {
                cluster.world.fail(format!("after {SETTLE_MAX:?} of rest: {complaint}"));
            }
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What is not (yet) as it should be.
pub fn look(cluster: &Arc<Cluster>) -> Vec<String> {
    let mut complaints = Vec::new();
    for process in cluster.stores().filter(|process| !process.is_running()) {
        // A store that was emptied and buried may not come back.
        if !is_buried(cluster, process.node) {
            complaints.push(format!("{} is down", process.node));
        }
    }
    let regions = match newest_regions(cluster) {
        Ok(regions) => regions,
        Err(error) => return vec![error],
    };
    complaints.extend(tiles(&regions));
    let offline = offline_stores(cluster);
    for held in regions.values() {
        complaints.extend(members(held, &offline));
        complaints.extend(differences(cluster, held));
    }
    complaints.extend(pd_view(cluster, &regions));
    complaints
}

/// Every region by its id, in its newest epoch.
fn newest_regions(cluster: &Cluster) -> Result<BTreeMap<u64, Held>, String> {
    let mut newest: BTreeMap<u64, Held> = BTreeMap::new();
    for process in cluster.stores() {
        let node = process.node;
        let view = process.disk.engine().snapshot();
        let locals = load_regions(view.as_ref()).map_err(|error| format!("{node}: {error}"))?;
        for local in locals {
            let Some(region) = local.region else { continue };
            if local.state != PeerState::Normal as i32 {
                continue;
            }
            let order = |epoch: RegionEpoch| (epoch.version, epoch.conf_ver);
            let epoch = order(epoch_of(&region));
            match newest.get_mut(&region.id) {
                Some(held) if order(epoch_of(&held.region)) > epoch => {}
                Some(held) if order(epoch_of(&held.region)) == epoch => held.at.push(node),
                _ => {
                    newest.insert(region.id, Held { region, at: vec![node] });
                }
            }
        }
    }
    Ok(newest)
}

/// Whether PD has removed the store of the process for good.
fn is_buried(cluster: &Cluster, node: Node) -> bool {
    let store = cluster.store_ids().into_iter().find(|(_, at)| *at == node);
    let (Some((store_id, _)), Some(server)) = (store, cluster.pd_server()) else { return false };
    // Tombstones are not among the stores PD lists.
    !server.get_all_stores().iter().any(|(store, _)| store.id == store_id)
}

fn tiles(regions: &BTreeMap<u64, Held>) -> Vec<String> {
    let mut by_start: Vec<&meta::Region> = regions.values().map(|held| &held.region).collect();
    by_start.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    let mut complaints = Vec::new();
    let mut end = Some(Bytes::new());
    for region in by_start {
        if end.as_ref() != Some(&region.start_key) {
            complaints.push(format!(
                "region {} begins at {:?}, its neighbour ends at {end:?}",
                region.id, region.start_key
            ));
        }
        end = (!region.end_key.is_empty()).then(|| region.end_key.clone());
    }
    if let Some(end) = end {
        complaints.push(format!("no region holds what lies behind {end:?}"));
    }
    complaints
}

fn offline_stores(cluster: &Cluster) -> Vec<u64> {
    let Some(server) = cluster.pd_server() else {
        return Vec::new();
    };
    let stores = server.get_all_stores().into_iter().map(|(store, _)| store);
    stores.filter(|store| store.state() == StoreState::Offline).map(|store| store.id).collect()
}

fn members(held: &Held, offline: &[u64]) -> Vec<String> {
    let region = &held.region;
    let mut complaints = Vec::new();
    let voters = region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter).count();
    if voters != REPLICAS || region.peers.len() != REPLICAS {
        complaints.push(format!("region {} has the peers {:?}", region.id, region.peers));
    }
    if held.at.len() != region.peers.len() {
        complaints.push(format!(
            "region {} of {} peers is whole at {:?}",
            region.id,
            region.peers.len(),
            held.at
        ));
    }
    for peer in region.peers.iter().filter(|peer| offline.contains(&peer.store_id)) {
        let store_id = peer.store_id;
        complaints.push(format!("region {} is still on offline store {store_id}", region.id));
    }
    complaints
}

/// Replicas whose data differs from the first one's, garbage left out: of that each holds what
/// its compactions have left.
fn differences(cluster: &Cluster, held: &Held) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut first: Option<(Node, Vec<Pair>)> = None;
    for node in &held.at {
        let Some(process) = cluster.store(*node) else { continue };
        let data = match data_of(process.disk.engine(), &held.region, cluster.safe_point()) {
            Ok(data) => data,
            Err(error) => {
                complaints.push(format!("region {}: {node}: {error}", held.region.id));
                continue;
            }
        };
        match &first {
            None => first = Some((*node, data)),
            Some((other, expected)) if *expected != data => {
                let differs = expected.iter().zip(&data).find(|(a, b)| a != b);
                complaints.push(format!(
                    "region {}: {node} has {} pairs, {other} {}; first difference {differs:?}",
                    held.region.id,
                    data.len(),
                    expected.len()
                ));
            }
            Some(_) => {}
        }
    }
    complaints
}

/// One pair of a column family.
type Pair = (Cf, Bytes, Bytes);

/// What somebody at or above the safe point can see: locks, commit records, long values.
fn data_of(
    engine: &dyn KvEngine,
    region: &meta::Region,
    safe_point: TimeStamp,
) -> Result<Vec<Pair>, MvccError> {
    let (start, end) = keys::region_data_range(region);
    let (start, end) = (Bytes::from(start), Bytes::from(end));
    let view = engine.snapshot();
    let mut pairs = Vec::new();
    let mut locks = view.iter(Cf::Lock, IterOptions::range(start.clone(), end.clone()));
    let mut valid = locks.seek_to_first()?;
    while valid {
        let (key, value) = (locks.key(), locks.value());
        pairs.push((Cf::Lock, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        valid = locks.next()?;
    }
    let mut long_values = Vec::new();
    let mut keep = |seen: Seen<'_>| {
        let Seen::Record { user_key, commit_ts, write, verdict: Verdict::Kept } = seen else {
            return;
        };
        let key = Bytes::copy_from_slice(&versioned_key(user_key, commit_ts));
        pairs.push((Cf::Write, key, write.encode().into()));
        if write.has_long_value() {
            long_values.push(Bytes::copy_from_slice(&versioned_key(user_key, write.start_ts)));
        }
    };
    Walk::new(start, end, safe_point).advance(view.as_ref(), usize::MAX, &mut keep)?;
    for key in long_values {
        let value = view.get(Cf::Default, &key)?.unwrap_or_default();
        pairs.push((Cf::Default, key, value));
    }
    Ok(pairs)
}

/// What PD believes must be what the stores hold.
fn pd_view(cluster: &Cluster, regions: &BTreeMap<u64, Held>) -> Vec<String> {
    let Some(server) = cluster.pd_server() else {
        return vec!["no member of PD runs".into()];
    };
    let routes = server.scan_regions(b"", b"", 0);
    let mut complaints = Vec::new();
    if routes.len() != regions.len() {
        complaints.push(format!("PD knows {} of {} regions", routes.len(), regions.len()));
    }
    for route in routes {
        let id = route.region.id;
        match regions.get(&id) {
            Some(held) if epoch_of(&held.region) == epoch_of(&route.region) => {}
            Some(_) => complaints.push(format!("PD knows an old epoch of region {id}")),
            None => complaints.push(format!("PD knows region {id}, which no store holds")),
        }
        if route.leader.is_none() {
            complaints.push(format!("PD knows no leader of region {id}"));
        }
    }
    complaints
}
