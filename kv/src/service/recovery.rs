//! The store's part when the placement driver has lost everything (`cairn ctl recover meta`).
//!
//! **Before**: [`follow_pd`] keeps the driver's bounds here, a few seconds old at most
//! ([`crate::bounds`]).
//!
//! **After**: a store that runs is refused by the new driver as another cluster's, keeps
//! serving what needs no driver, and asks again. One that starts waits
//! ([`wait_for_cluster`]) instead of ending: it knows its cluster by its folder, and the new
//! driver knows of none. Both answer [`RecoveryService`], from which the driver's state is
//! rebuilt; then both go on by themselves. A store that the recovery left out registers
//! anew.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::KvEngine;
use cairn_pd_client::{PdBounds, PdClient, PdError};
use cairn_proto::kv::recovery_server::{Recovery, RecoveryServer};
use cairn_proto::kv::{DescribeStoreRequest, DescribeStoreResponse};
use cairn_proto::meta;
use cairn_types::TimeStamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::node::NodeError;
use super::{StoreConfig, StoreService};
use crate::bounds::KeptBounds;
use crate::raftstore::RaftStoreError;
use crate::raftstore::state::{
    PeerState, RegionLocalState, StoreIdent, load_regions, load_store_ident,
};

/// Between two looks at the driver's bounds. What it hands out in between is covered by the
/// margins that a recovery adds (`cairn-pd`'s `takeover`), ten seconds of timestamps.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(5);
/// Between two questions whether the driver serves this store's cluster by now.
const WAIT_INTERVAL: Duration = Duration::from_millis(500);
/// Time that connections get to end when the waiting is over.
const CLOSE_GRACE: Duration = Duration::from_secs(3);
/// Largest answer: a hundred thousand regions take a quarter.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Tells what this store knows of its cluster.
#[derive(Clone)]
pub struct RecoveryService {
    /// For the regions.
    pub engine: Arc<dyn KvEngine>,
    /// What the driver told last.
    pub bounds: Arc<KeptBounds>,
    /// The store as it registers.
    pub store: meta::Store,
    /// For the highest timestamp read at; a store that waits has served nobody.
    pub service: Option<Arc<StoreService>>,
}

impl RecoveryService {
    /// As tonic takes it.
    pub(super) fn into_server(self) -> RecoveryServer<RecoveryService> {
        RecoveryServer::new(self).max_encoding_message_size(ANSWER_BYTES_MAX)
    }

    fn describe(&self) -> Result<DescribeStoreResponse, RaftStoreError> {
        let ident = load_store_ident(&*self.engine)?.unwrap_or_default();
        let states = load_regions(&*self.engine.snapshot())?;
        let bounds = self.bounds.get();
        let read_ts = self.service.as_ref().map_or(TimeStamp::ZERO, |one| one.max_read_ts());
        Ok(DescribeStoreResponse {
            cluster_id: ident.cluster_id,
            store: Some(self.store.clone()),
            max_id: states.iter().map(max_id).fold(bounds.id_bound.max(ident.store_id), u64::max),
            max_ts: TimeStamp::compose(bounds.tso_bound_ms, 0).prev().max(read_ts).0,
            gc_safe_point: bounds.gc_safe_point.0,
            schema_version: bounds.schema_version,
            regions: states.into_iter().filter_map(living_region).collect(),
        })
    }
}

/// The greatest id in what is kept of a peer. A tombstone's count too: the peers it names may
/// live elsewhere.
fn max_id(state: &RegionLocalState) -> u64 {
    let of_region = |region: &meta::Region| {
        let peers = region.peers.iter().flat_map(|peer| [peer.id, peer.store_id]);
        peers.fold(region.id, u64::max)
    };
    state.region.as_ref().map_or(0, of_region).max(state.peer_id)
}

/// The region of a peer that takes part; one that waits for its first Raft snapshot knows
/// neither range nor peers.
fn living_region(state: RegionLocalState) -> Option<meta::Region> {
    let lives = state.state() != PeerState::Tombstone;
    state.region.filter(|region| lives && !region.peers.is_empty())
}

#[tonic::async_trait]
impl Recovery for RecoveryService {
    async fn describe_store(
        &self,
        _: Request<DescribeStoreRequest>,
    ) -> Result<Response<DescribeStoreResponse>, Status> {
        let own = self.clone();
        let described = tokio::task::spawn_blocking(move || own.describe()).await;
        match described {
            Ok(Ok(response)) => Ok(Response::new(response)),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(_) => Err(Status::unavailable("store is stopping")),
        }
    }
}

/// Keeps the driver's bounds, and registers the store anew when the driver does not know it
/// (any more). Does not end.
pub(super) async fn follow_pd(pd: Arc<dyn PdClient>, bounds: Arc<KeptBounds>, store: meta::Store) {
    let mut removed = false;
    loop {
        match pd.bounds().await {
            Ok(told) => keep(&bounds, told).await,
            Err(error) => tracing::debug!(%error, "PD tells no bounds"),
        }
        match pd.get_store(store.id).await {
            // It is gone for good, also when PD has forgotten it.
            Ok(known) => removed = known.state() == meta::StoreState::Tombstone,
            Err(PdError::StoreNotFound(_)) if !removed => {
                tracing::info!(store = store.id, "PD does not know this store: it registers");
                if let Err(error) = pd.put_store(store.clone()).await {
                    tracing::warn!(%error, "the store is not registered");
                }
            }
            Err(error) => tracing::debug!(%error, "PD does not answer for this store"),
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

async fn keep(bounds: &Arc<KeptBounds>, told: PdBounds) {
    let bounds = Arc::clone(bounds);
    match tokio::task::spawn_blocking(move || bounds.raise(told)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "PD's bounds are not kept"),
        Err(_) => tracing::debug!("the store is stopping"),
    }
}

/// What a starting store finds at the driver's address.
enum Found {
    /// Its cluster.
    Own,
    /// A driver without stores, under that identity.
    Fresh(u64),
    /// Nobody who can tell.
    Nobody(PdError),
}

async fn look(pd: &dyn PdClient, own: &StoreIdent) -> Result<Found, NodeError> {
    pd.forget_cluster();
    let bootstrapped = match pd.is_bootstrapped().await {
        Ok(bootstrapped) => bootstrapped,
        Err(error) => return Ok(Found::Nobody(error)),
    };
    match pd.cluster_id() {
        found if found == own.cluster_id => Ok(Found::Own),
        found if bootstrapped => {
            Err(NodeError::WrongCluster { found: own.cluster_id, expected: found })
        }
        found => Ok(Found::Fresh(found)),
    }
}

/// Returns at once unless the store has data and the driver knows of no store at all: then it
/// may be the successor of one that lost its data. Tells meanwhile, to whoever connects,
/// what it holds.
pub(super) async fn wait_for_cluster(
    recovery: RecoveryService,
    pd: &dyn PdClient,
    listener: TcpListener,
) -> Result<(), NodeError> {
    let Some(own) = load_store_ident(&*recovery.engine)? else { return Ok(()) };
    match look(pd, &own).await? {
        Found::Own => return Ok(()),
        Found::Nobody(error) => return Err(error.into()),
        Found::Fresh(found) => tracing::warn!(
            own = own.cluster_id,
            found,
            "the placement driver knows of no store and has another identity: if it lost its \
             data, run `cairn ctl recover meta`; this store waits"
        ),
    }
    let closing = CancellationToken::new();
    let serving = tonic::transport::Server::builder()
        .add_service(recovery.into_server())
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            closing.clone().cancelled_owned(),
        );
    tokio::pin!(serving);
    let meeting = async {
        loop {
            tokio::time::sleep(WAIT_INTERVAL).await;
            match look(pd, &own).await? {
                Found::Own => return Ok::<(), NodeError>(()),
                Found::Fresh(_) => {}
                Found::Nobody(error) => tracing::debug!(%error, "the store waits"),
            }
        }
    };
    let met = tokio::select! {
        outcome = &mut serving => return Ok(outcome?),
        met = meeting => met,
    };
    // Whoever is connected must come anew: what this face lacks the store's own has.
    closing.cancel();
    if tokio::time::timeout(CLOSE_GRACE, serving).await.is_err() {
        tracing::debug!("a connection stays open");
    }
    met
}

/// The store as it describes itself before it has registered.
pub(super) fn store_of(
    config: &StoreConfig,
    engine: &dyn KvEngine,
) -> Result<meta::Store, NodeError> {
    let store_id = load_store_ident(engine)?.map_or(0, |ident| ident.store_id);
    Ok(super::node::describe(config, store_id, TimeStamp::ZERO))
}
