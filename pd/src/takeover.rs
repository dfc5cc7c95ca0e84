//! A placement driver whose members all lost their data: a fresh one takes the cluster over.
//!
//! **Flow.** `cairn ctl recover meta` asks the stores what they remember ([`crate::server`]'s
//! bounds, which they keep, and their own regions) and sends one order. Everything counts at
//! once, in one entry of the log: identity, bounds, stores. Regions follow from the same tool
//! and from heartbeats; stores and SQL nodes, which were refused as another cluster's
//! until then, come back by themselves.
//!
//! **Invariants**
//! - Only a cluster that never began takes another's identity.
//! - Nothing is handed out under the recovered identity that was handed out before: the
//!   allocators are beyond the bounds *before* anybody is let in under it.
//! - Promises that SQL nodes gave to the lost driver have run out before others can act
//!   without knowing of them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use cairn_pd_client::{ClusterRecovery, PdError, RecoveredStore};
use cairn_proto::meta::Store;
use cairn_types::TimeStamp;
use serde_json::{Value, json};

use crate::server::PdServer;
use crate::state::{Kind, Takeover};

/// Ids beyond the greatest that a store knows of. Stores write the bound of ids down every few
/// seconds; this many are not handed out in between, nor by splits that are under way.
pub(crate) const ID_MARGIN: u64 = 1_000_000;
/// Time beyond the greatest timestamp that a store knows of, and beyond the wall clock: stores
/// write the bound of timestamps down every few seconds, and the wall clocks of the old and
/// the new machine may differ.
pub(crate) const TSO_MARGIN_MS: u64 = 10_000;
/// Timestamps further ahead of the wall clock are no cluster's: the clock is wrong, or a
/// store tells nonsense that would last for ever.
const AHEAD_MAX_MS: u64 = 86_400_000;
/// Greatest id taken over: half of what fits the signed ids of tables.
const ID_MAX: u64 = u64::MAX >> 2;
/// Stores of one order.
const STORES_MAX: usize = 10_000;
/// For so long this driver must have led: SQL nodes may act for up to eight seconds on what
/// they told the lost one (which schema they use), and the fresh one has not heard of them.
const PREDECESSOR_PROMISES_MS: u64 = 8_500;

fn refused<T>(reason: impl Into<String>) -> Result<T, PdError> {
    Err(PdError::InvalidArgument(reason.into()))
}

impl PdServer {
    /// Takes over the cluster that the stores remember.
    pub(crate) async fn recover_cluster(
        &self,
        order: ClusterRecovery,
    ) -> Result<Vec<Value>, PdError> {
        let recovery = self.checked(order)?;
        // From here on nothing is handed out below the bounds; if the order fails, a cluster
        // without a past has skipped some.
        self.ids.lock().skip(recovery.id_bound);
        self.tso.begin_at(recovery.tso_bound_ms);
        // The stores have been silent since now, not since this driver started.
        self.forget_heartbeats(self.clock.monotonic_ms());
        let row = json!({
            "cluster_id": recovery.cluster_id,
            "ids_above": recovery.id_bound,
            "timestamps_from": TimeStamp::compose(recovery.tso_bound_ms, 0).0,
            "gc_safe_point": recovery.gc_safe_point,
        });
        tracing::warn!(%row, "this placement driver takes a cluster over from its stores");
        self.replication.propose(Kind::TakeOver(recovery)).await?;
        self.cluster.lock().settings_changed();
        Ok(vec![row])
    }

    /// The command that comes of an order, if it makes sense here.
    fn checked(&self, order: ClusterRecovery) -> Result<Takeover, PdError> {
        self.check_never_began(order.cluster_id)?;
        let led_ms =
            self.clock.monotonic_ms().saturating_sub(self.led_since_ms.load(Ordering::Relaxed));
        if led_ms < PREDECESSOR_PROMISES_MS {
            return Err(PdError::Unavailable(format!(
                "this placement driver leads for {led_ms} ms: what SQL nodes told the lost one \
                 must run out first, {PREDECESSOR_PROMISES_MS} ms"
            )));
        }
        let ClusterRecovery { cluster_id, max_id, max_ts, gc_safe_point, schema_version, stores } =
            order;
        if cluster_id == 0 {
            return refused("a cluster has an identity other than 0");
        }
        if max_id > ID_MAX {
            return refused(format!("id {max_id} is too great"));
        }
        let (known_ms, wall_ms) = (TimeStamp(max_ts).physical_ms(), self.clock.unix_ms());
        if known_ms > wall_ms + AHEAD_MAX_MS {
            return refused(format!(
                "a store knows of timestamps {} hours ahead of this machine's clock: set the clock",
                (known_ms - wall_ms) / 3_600_000
            ));
        }
        if gc_safe_point > max_ts || schema_version < 0 {
            return refused(format!(
                "GC safe point {gc_safe_point} above timestamp {max_ts}, or schema version \
                 {schema_version} below 0"
            ));
        }
        Ok(Takeover {
            cluster_id,
            id_bound: max_id + ID_MARGIN,
            // A timestamp of the millisecond that the greatest is of may have been the last.
            tso_bound_ms: (known_ms + 1).max(wall_ms) + TSO_MARGIN_MS,
            gc_safe_point,
            schema_version,
            stores: checked_stores(stores)?,
        })
    }

    /// Who asks a second time because the answer was lost gets past the identity's change only
    /// as a client of the recovered cluster, and hears then that it exists.
    fn check_never_began(&self, wanted_id: u64) -> Result<(), PdError> {
        let state = self.shared().state().read();
        if !state.bootstrapped && state.stores.is_empty() && state.regions.is_empty() {
            return Ok(());
        }
        refused(format!(
            "this placement driver serves cluster {} with {} stores and {} regions: it does not \
             become cluster {wanted_id}",
            state.cluster_id,
            state.stores.len(),
            state.regions.len()
        ))
    }
}

fn checked_stores(stores: Vec<RecoveredStore>) -> Result<Vec<Store>, PdError> {
    if stores.is_empty() || stores.len() > STORES_MAX {
        return refused(format!("{} stores", stores.len()));
    }
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for store in &stores {
        if store.id == 0 || store.address.is_empty() {
            return refused(format!("store {} at '{}'", store.id, store.address));
        }
        if !ids.insert(store.id) || !addresses.insert(store.address.as_str()) {
            return refused(format!("store {} at {} comes twice", store.id, store.address));
        }
    }
    drop(addresses);
    Ok(stores.into_iter().map(Store::from).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use cairn_pd_client::Order;
    use cairn_proto::meta::{Peer, Region, RegionEpoch, StoreState};
    use cairn_proto::pd::StoreStats;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::config::ScheduleConfig;
    use crate::{PdConfig, PdParts};

    const WALL_MS: u64 = 1_700_000_000_000;

    async fn fresh() -> (Arc<PdServer>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(WALL_MS));
        let parts = PdParts::in_memory(clock.clone());
        let server = PdServer::open_with(PdConfig::in_memory("pd"), parts).await.expect("opens");
        (server, clock)
    }

    fn store(id: u64) -> RecoveredStore {
        RecoveredStore { id, address: format!("127.0.0.1:{id}"), ..RecoveredStore::default() }
    }

    fn remembered() -> ClusterRecovery {
        ClusterRecovery {
            cluster_id: 42,
            max_id: 5_000,
            max_ts: TimeStamp::compose(WALL_MS - 60_000, 7).0,
            gc_safe_point: TimeStamp::compose(WALL_MS - 600_000, 0).0,
            schema_version: 12,
            stores: vec![store(1), store(4), store(5)],
        }
    }

    fn region() -> Region {
        Region {
            id: 2,
            epoch: Some(RegionEpoch { conf_ver: 5, version: 9 }),
            peers: [1, 4, 5].map(|store_id| Peer { id: store_id + 10, store_id, role: 0 }).into(),
            ..Region::default()
        }
    }

    async fn refusal(server: &Arc<PdServer>, order: ClusterRecovery) -> String {
        let client = server.local_client();
        let before = server.shared().state().read().encode();
        // What may pass is repeated by the client; here the refusal is what is asked for.
        let refused = server.steer(Order::RecoverCluster(order)).await.expect_err("refused");
        assert_eq!(server.shared().state().read().encode(), before, "{refused}");
        assert_ne!(client.cluster_id(), 42);
        refused.to_string()
    }

    #[tokio::test]
    async fn a_fresh_driver_goes_on_where_the_lost_one_stood() {
        let (server, clock) = fresh().await;
        assert!(refusal(&server, remembered()).await.contains("must run out first"));
        // It waited for its operator for longer than a silent store may.
        clock.advance(ScheduleConfig::default().down_ms() * 2);
        let before = server.get_ts(1).await.expect("serves");
        server.steer(Order::RecoverCluster(remembered())).await.expect("a fresh one");
        let client = server.local_client();
        assert_eq!(client.cluster_id(), 42);
        assert!(client.is_bootstrapped().await.expect("knows"));
        assert!(client.alloc_ids(1).await.expect("serves") > 5_000 + ID_MARGIN);
        let ts = client.get_ts().await.expect("serves");
        assert!(ts > before && ts.physical_ms() >= clock.unix_ms() + TSO_MARGIN_MS, "{ts}");
        assert_eq!(client.get_gc_safe_point().await, Ok(TimeStamp(remembered().gc_safe_point)));
        assert_eq!(server.bounds().schema_version, 12);
        // Nobody is taken for dead because the driver is new.
        let stores = client.get_all_stores().await.expect("known");
        assert!(stores.iter().all(|(store, _)| store.state() == StoreState::Up), "{stores:?}");
        // Its regions come with the reports of the tool, or of their leaders.
        client.report_split(vec![region()]).await.expect("taken");
        let stats = StoreStats { store_id: 4, ..StoreStats::default() };
        let answer = client.store_heartbeat(stats).await.expect("taken");
        assert_eq!(answer.wanted_regions, [2]);
        assert!(refusal_of_living(&server).await.contains("serves cluster 42 with 3 stores"));
        server.stop().await;
    }

    async fn refusal_of_living(server: &Arc<PdServer>) -> String {
        let order = Order::RecoverCluster(remembered());
        server.steer(order).await.expect_err("it lives").to_string()
    }

    #[tokio::test]
    async fn timestamps_are_above_what_stores_know() {
        let (server, clock) = fresh().await;
        clock.advance(Duration::from_secs(60).as_millis() as u64);
        // The lost driver's clock was an hour ahead.
        let ahead_ms = clock.unix_ms() + 3_600_000;
        let max_ts = TimeStamp::compose(ahead_ms, 99).0;
        let order = Order::RecoverCluster(ClusterRecovery { max_ts, ..remembered() });
        server.steer(order).await.expect("a fresh one");
        let ts = server.get_ts(1).await.expect("serves");
        assert!(ts.physical_ms() > ahead_ms + TSO_MARGIN_MS, "{ts}");
        server.stop().await;
    }

    #[tokio::test]
    async fn nonsense_and_living_clusters_are_refused() {
        let (server, clock) = fresh().await;
        clock.advance(PREDECESSOR_PROMISES_MS);
        let far_ms = clock.unix_ms() + 50 * 3_600_000;
        let twice = vec![store(1), store(1)];
        for (order, named) in [
            (ClusterRecovery { cluster_id: 0, ..remembered() }, "other than 0"),
            (ClusterRecovery { max_id: u64::MAX, ..remembered() }, "too great"),
            (
                ClusterRecovery { max_ts: TimeStamp::compose(far_ms, 0).0, ..remembered() },
                "50 hours",
            ),
            (ClusterRecovery { gc_safe_point: u64::MAX, ..remembered() }, "safe point"),
            (ClusterRecovery { stores: Vec::new(), ..remembered() }, "0 stores"),
            (ClusterRecovery { stores: vec![store(0)], ..remembered() }, "store 0"),
            (ClusterRecovery { stores: twice, ..remembered() }, "twice"),
        ] {
            let text = refusal(&server, order).await;
            assert!(text.contains(named), "{text}");
        }
        // A store without data began a cluster of its own before the operator came.
        let first = Region { peers: vec![Peer { id: 3, store_id: 9, role: 0 }], ..region() };
        server.bootstrap(store(9).into(), first).await.expect("the first");
        let text = refusal(&server, remembered()).await;
        assert!(text.contains("with 1 stores and 1 regions"), "{text}");
        server.stop().await;
    }
}
