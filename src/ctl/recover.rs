//! `cairn ctl recover`: what a cluster does not mend by itself, and an operator orders.
//!
//! **All of the placement driver is lost** ([`meta`]): every store tells what it remembers, which
//! must fit together and be complete; a placement driver without a past takes it over in one
//! step. Until then nothing is changed anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_pd::state::region_tree::RegionTree;
use cairn_pd_client::{ClusterRecovery, Order, PdClient, RecoveredStore};
use cairn_proto::kv::recovery_client::RecoveryClient;
use cairn_proto::kv::{DescribeStoreRequest, DescribeStoreResponse};
use cairn_proto::meta::{Region, Store};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::error::StartError;

/// Time to reach a store.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time a store may take to look at its regions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer of a store.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Regions told to the placement driver at a time: well below the size of a message.
const REGIONS_PER_REPORT: usize = 500;
/// Offences of one kind that an error names.
const NAMED_MAX: usize = 5;

fn refused<T>(reason: impl Into<String>) -> Result<T, StartError> {
    Err(StartError::Config(reason.into()))
}

/// Gives a fresh placement driver the cluster of those stores; a row per store.
pub async fn meta(
    pd: &dyn PdClient,
    addresses: &[String],
    allow_missing_stores: bool,
) -> Result<Vec<Value>, StartError> {
    if pd.is_bootstrapped().await? {
        return refused(format!(
            "this placement driver serves cluster {} already: only one without a past takes a \
             cluster over. If a store without data has begun that cluster, stop the store, empty \
             its folder and the placement driver's, and begin anew",
            pd.cluster_id()
        ));
    }
    let memories = Memories::gather(addresses).await?;
    let cluster_id = memories.cluster_id()?;
    let regions = memories.regions();
    check_complete(&regions, &memories.store_ids()?, allow_missing_stores)?;
    if let Err(error) = pd.steer(Order::RecoverCluster(memories.order(cluster_id))).await {
        // The order may have been carried out and its answer lost.
        pd.forget_cluster();
        if !pd.is_bootstrapped().await? || pd.cluster_id() != cluster_id {
            return Err(error.into());
        }
    }
    pd.forget_cluster();
    tell_regions(pd, &regions).await;
    tracing::warn!(
        cluster_id,
        stores = memories.0.len(),
        regions = regions.len(),
        "recovered. Lost for good: settings, placement rules, schedulers, weights, limits and labels \
         given by ctl, orders to empty a store, the history of operators"
    );
    Ok(memories.rows())
}

/// What stores answered, by address as named.
struct Memories(BTreeMap<String, DescribeStoreResponse>);

impl Memories {
    async fn gather(addresses: &[String]) -> Result<Memories, StartError> {
        if addresses.is_empty() {
            return refused("--stores: name all stores of the cluster, host:port,host:port,…");
        }
        let mut asking = JoinSet::new();
        for address in addresses.iter().cloned().collect::<BTreeSet<String>>() {
            asking.spawn(async move {
                let answer = ask(&address).await;
                (address, answer)
            });
        }
        let mut answers = BTreeMap::new();
        let mut silent = Vec::new();
        for (address, answer) in asking.join_all().await {
            match answer {
                Ok(answer) => {
                    answers.insert(address, answer);
                }
                Err(reason) => silent.push(format!("{address}: {reason}")),
            }
        }
        if !silent.is_empty() {
            return refused(format!("stores do not answer: {}", silent.join("; ")));
        }
        Ok(Memories(answers))
    }

    /// The one cluster that all stores belong to.
    fn cluster_id(&self) -> Result<u64, StartError> {
        let ids: BTreeSet<u64> = self.0.values().map(|one| one.cluster_id).collect();
        match ids.first() {
            Some(0) => refused(format!("belong to no cluster yet: {}", self.list(0))),
            Some(id) if ids.len() == 1 => Ok(*id),
            _ => {
                let groups = ids.iter().map(|id| format!("cluster {id}: {}", self.list(*id)));
                refused(format!(
                    "the stores are of different clusters; {}",
                    groups.collect::<Vec<_>>().join("; ")
                ))
            }
        }
    }

    fn list(&self, cluster_id: u64) -> String {
        let of_it = self.0.iter().filter(|(_, one)| one.cluster_id == cluster_id);
        of_it.map(|(address, _)| address.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn stores(&self) -> impl Iterator<Item = (&str, Store)> {
        self.0
            .iter()
            .map(|(address, one)| (address.as_str(), one.store.clone().unwrap_or_default()))
    }

    /// Ids of the stores, each once.
    fn store_ids(&self) -> Result<BTreeSet<u64>, StartError> {
        let mut ids = BTreeSet::new();
        for (address, store) in self.stores() {
            if !ids.insert(store.id) {
                return refused(format!("store {} is named twice, also as {address}", store.id));
            }
        }
        Ok(ids)
    }

    /// The newest shape of every region.
    fn regions(&self) -> RegionTree {
        let mut tree = RegionTree::default();
        for region in self.0.values().flat_map(|one| &one.regions) {
            tree.insert(region.clone());
        }
        tree
    }

    fn order(&self, cluster_id: u64) -> ClusterRecovery {
        let highest = |of: fn(&DescribeStoreResponse) -> u64| {
            self.0.values().map(of).max().unwrap_or_default()
        };
        ClusterRecovery {
            cluster_id,
            max_id: highest(|one| one.max_id),
            max_ts: highest(|one| one.max_ts),
            gc_safe_point: highest(|one| one.gc_safe_point),
            schema_version: self.0.values().map(|one| one.schema_version).max().unwrap_or_default(),
            stores: self.stores().map(|(_, store)| RecoveredStore::from(store)).collect(),
        }
    }

    fn rows(&self) -> Vec<Value> {
        let rows = self.0.values().map(|one| {
            let store = one.store.clone().unwrap_or_default();
            json!({
                "store": store.id,
                "address": store.address,
                "regions": one.regions.len(),
                "max_id": one.max_id,
                "max_ts": one.max_ts,
            })
        });
        rows.collect()
    }
}

async fn ask(address: &str) -> Result<DescribeStoreResponse, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|_| "nobody listens there".to_owned())?;
    let mut client = RecoveryClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let answer = client.describe_store(DescribeStoreRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

/// Every key is some region's, and every replica lies on a named store; with `allow_missing`
/// only a warning says what is missing.
fn check_complete(
    regions: &RegionTree,
    named: &BTreeSet<u64>,
    allow_missing: bool,
) -> Result<(), StartError> {
    let mut missing: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for region in regions.iter() {
        for peer in region.peers.iter().filter(|peer| !named.contains(&peer.store_id)) {
            missing.entry(peer.store_id).or_default().push(region.id);
        }
    }
    let mut offences: Vec<String> = missing
        .iter()
        .take(NAMED_MAX)
        .map(|(store, regions)| {
            let count = regions.len();
            format!("store {store} with replicas of {count} regions (region {})", regions[0])
        })
        .collect();
    offences.extend(holes(regions).into_iter().take(NAMED_MAX));
    if offences.is_empty() {
        return Ok(());
    }
    let what = format!("not among the named stores: {}", offences.join("; "));
    if allow_missing {
        tracing::warn!("{what}");
        return Ok(());
    }
    refused(format!("{what}. Name all stores, or say --allow-missing-stores"))
}

/// Ranges of keys without a region, for people.
fn holes(regions: &RegionTree) -> Vec<String> {
    let mut holes = Vec::new();
    // Where the next region must begin; `None`: the last one ends at +infinity.
    let mut border: Option<&[u8]> = Some(b"");
    for Region { start_key, end_key, .. } in regions.iter() {
        if border.is_some_and(|border| border != &start_key[..]) {
            holes.push(hole(border.unwrap_or_default(), start_key));
        }
        border = (!end_key.is_empty()).then_some(&end_key[..]);
    }
    if let Some(border) = border {
        holes.push(hole(border, b""));
    }
    holes
}

fn hole(start: &[u8], end: &[u8]) -> String {
    format!("any replica of the keys ['{}', '{}')", super::hex(start), super::hex(end))
}

/// Spares the placement driver the wait for the leaders' reports, which bring the same.
async fn tell_regions(pd: &dyn PdClient, regions: &RegionTree) {
    let all: Vec<Region> = regions.iter().cloned().collect();
    for some in all.chunks(REGIONS_PER_REPORT) {
        if let Err(error) = pd.report_split(some.to_vec()).await {
            tracing::warn!(%error, "regions will show when their leaders report, in a minute");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::meta::{Peer, RegionEpoch};

    use super::*;

    fn region(id: u64, version: u64, (start, end): (&str, &str), stores: &[u64]) -> Region {
        Region {
            id,
            start_key: start.to_owned().into(),
            end_key: end.to_owned().into(),
            epoch: Some(RegionEpoch { conf_ver: 3, version }),
            peers: stores
                .iter()
                .map(|store_id| Peer { id: id * 100 + store_id, store_id: *store_id, role: 0 })
                .collect(),
        }
    }

    fn store(id: u64, cluster_id: u64, regions: Vec<Region>) -> (String, DescribeStoreResponse) {
        let address = format!("127.0.0.1:{id}");
        let store = Some(Store { id, address: address.clone(), ..Store::default() });
        let memory = DescribeStoreResponse {
            cluster_id,
            store,
            regions,
            max_id: 10 * id,
            max_ts: 1_000 - id,
            gc_safe_point: id,
            schema_version: 7,
        };
        (address, memory)
    }

    fn memories(stores: Vec<(String, DescribeStoreResponse)>) -> Memories {
        Memories(stores.into_iter().collect())
    }

    fn verdict(memories: &Memories, allow_missing: bool) -> Result<usize, String> {
        let regions = memories.regions();
        let ids = memories.store_ids().map_err(|error| error.to_string())?;
        let complete = check_complete(&regions, &ids, allow_missing);
        complete.map(|()| regions.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_newest_of_everything_counts() {
        // Store 1 has not heard of the split, nor store 2 of its replica's removal.
        let old = region(2, 4, ("", ""), &[1, 2, 9]);
        let (left, right) = (region(7, 5, ("", "k"), &[1, 2]), region(2, 5, ("k", ""), &[1, 2]));
        let both = memories(vec![
            store(1, 42, vec![old]),
            store(2, 42, vec![left.clone(), right.clone()]),
        ]);
        assert_eq!(verdict(&both, false), Ok(2));
        assert_eq!(both.regions().iter().cloned().collect::<Vec<_>>(), [left, right]);
        let order = both.order(both.cluster_id().expect("one"));
        assert_eq!((order.cluster_id, order.max_id, order.max_ts), (42, 20, 999));
        assert_eq!((order.gc_safe_point, order.schema_version), (2, 7));
        assert_eq!(order.stores.len(), 2);
        let rows = both.rows();
        assert_eq!(rows[1]["store"], 2);
        assert_eq!(rows[1]["regions"], 2);
    }

    #[test]
    fn what_is_missing_is_named() {
        let some = memories(vec![store(1, 42, vec![region(5, 5, ("a", "k"), &[1, 3])])]);
        let text = verdict(&some, false).expect_err("incomplete");
        for named in ["store 3 with replicas of 1 regions (region 5)", "['', '61')", "['6B', '')"] {
            assert!(text.contains(named), "{named}: {text}");
        }
        assert_eq!(verdict(&some, true), Ok(1));
        let none = memories(vec![store(1, 42, Vec::new())]);
        assert!(verdict(&none, false).is_err_and(|text| text.contains("['', '')")));
    }

    #[test]
    fn stores_of_two_clusters_are_told_apart() {
        let mixed = memories(vec![store(1, 42, Vec::new()), store(2, 43, Vec::new())]);
        let text = mixed.cluster_id().expect_err("two").to_string();
        assert!(text.contains("cluster 42: 127.0.0.1:1; cluster 43: 127.0.0.1:2"), "{text}");
        let unborn = memories(vec![store(1, 0, Vec::new())]);
        assert!(unborn.cluster_id().is_err());
        let (_, memory) = store(1, 42, Vec::new());
        let twice = memories(vec![("a:1".to_owned(), memory.clone()), ("b:1".to_owned(), memory)]);
        assert!(verdict(&twice, true).is_err_and(|text| text.contains("named twice")));
    }
}
