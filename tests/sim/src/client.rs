//! A SQL node's KV client as a process: the real client over simulated connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use cairn_kv_client::{
    ClientConfig, CoprocessorStream, KvClient, KvStoreService, StoreConnector, TransportError,
};
use cairn_proto::kv::kv_request::Cmd;
use cairn_proto::kv::{CoprocessorRequest, KvRequest, KvResponse, StoreInfoResponse};
use cairn_proto::meta;
use cairn_types::TimeStamp;
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::cluster::Cluster;
use crate::world::{Dice, Node};

/// Waiting times of the client: shorter than in production, so that a run sees many ends.
const REQUEST_TIMEOUT_MS: u64 = 6_000;
const LOCK_WAIT_TIMEOUT_MS: u64 = 4_000;
const COMMIT_CHECK_TIMEOUT_MS: u64 = 4_000;

/// A client of the process with empty caches, for good.
pub fn connect(cluster: &Arc<Cluster>, node: Node) -> Arc<KvClient> {
    connect_mortal(cluster, node, Arc::default())
}

/// As [`connect`]; once `dead` is set nothing leaves the process any more.
pub fn connect_mortal(cluster: &Arc<Cluster>, node: Node, dead: Arc<AtomicBool>) -> Arc<KvClient> {
    let config = ClientConfig {
        request_timeout_ms: REQUEST_TIMEOUT_MS,
        lock_wait_timeout_ms: LOCK_WAIT_TIMEOUT_MS,
        commit_check_timeout_ms: COMMIT_CHECK_TIMEOUT_MS,
        one_pc: cluster.plan.one_pc,
        async_commit: cluster.plan.async_commit,
        ..ClientConfig::default()
    };
    let connector = Arc::new(SimConnector { cluster: cluster.clone(), node, dead });
    KvClient::new(cluster.pd_client(node), connector, config)
}

/// Opens connections of one process.
struct SimConnector {
    cluster: Arc<Cluster>,
    node: Node,
    dead: Arc<AtomicBool>,
}

impl StoreConnector for SimConnector {
    fn connect(&self, store: &meta::Store) -> Arc<dyn KvStoreService> {
        Arc::new(SimConnection {
            cluster: self.cluster.clone(),
            from: self.node,
            to: self.cluster.node_of_store(store.id),
            address: store.address.clone(),
            dead: self.dead.clone(),
        })
    }
}

/// A connection to a store.
struct SimConnection {
    cluster: Arc<Cluster>,
    from: Node,
    to: Option<Node>,
    address: String,
    dead: Arc<AtomicBool>,
}

impl SimConnection {
    fn unreachable(&self, reason: &str) -> TransportError {
        TransportError::Unreachable { address: self.address.clone(), reason: reason.to_owned() }
    }

    fn lost(&self, reason: &str) -> TransportError {
        TransportError::ConnectionLost { address: self.address.clone(), reason: reason.to_owned() }
    }
}

impl SimConnection {
    /// Sometimes makes a read one from any replica, as fragments of queries do; where to.
    fn divert(&self, request: &mut KvRequest) -> Option<Node> {
        let one_in = self.cluster.plan.replica_reads_one_in;
        let version = match &request.cmd {
            Some(Cmd::Get(get)) => get.version,
            Some(Cmd::BatchGet(get)) => get.version,
            Some(Cmd::Scan(scan)) => scan.version,
            _ => return None,
        };
        let world = &self.cluster.world;
        // "The newest" is a time only the leader can tell: a replica may have applied what the
        // leader has not. The client asks no follower for it either.
        if one_in == 0
            || version == TimeStamp::MAX.0
            || world.roll(Dice::Workload, |rng| rng.random_range(0..one_in)) > 0
        {
            return None;
        }
        // The client itself has chosen.
        let context = request.context.as_mut().filter(|context| !context.replica_read)?;
        let route = self.cluster.pd_server()?.get_region_by_id(context.region_id).ok()?;
        let peer = world.roll(Dice::Workload, |rng| route.region.peers.choose(rng).copied())?;
        let node = self.cluster.node_of_store(peer.store_id)?;
        context.peer = Some(peer);
        context.replica_read = true;
        Some(node)
    }
}

#[async_trait]
impl KvStoreService for SimConnection {
    async fn call(&self, mut request: KvRequest) -> Result<KvResponse, TransportError> {
        let world = self.cluster.world.clone();
        let to = self.divert(&mut request).or(self.to);
        let to = to.ok_or_else(|| self.unreachable("nobody lives there"))?;
        let from = self.from;
        world.host(from).runs().await;
        if self.dead.load(Ordering::Relaxed) {
            return Err(TransportError::ShuttingDown { address: self.address.clone() });
        }
        let process = self.cluster.store(to).ok_or_else(|| self.unreachable("no such process"))?;
        let carried = world.network.carry(&world, from, to).await;
        carried.map_err(|_| self.lost("the request got stuck"))?;
        world.host(to).runs().await;
        // A process that is down refuses; nothing was done then.
        let service = process.service().ok_or_else(|| self.unreachable("connection refused"))?;
        // The store goes on when its caller has left, and stops when it dies.
        let (answer, answered) = tokio::sync::oneshot::channel();
        let back = world.clone();
        world.host(to).spawn(async move {
            let response = service.call(request).await;
            back.host(to).runs().await;
            // The caller may have left.
            let _ = answer.send(response);
        });
        let response = answered.await.map_err(|_| self.lost("the store died"))?;
        let carried = world.network.carry(&world, to, from).await;
        carried.map_err(|_| self.lost("the answer got stuck"))?;
        world.host(from).runs().await;
        response
    }

    async fn coprocessor(
        &self,
        _: CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        Err(self.unreachable("fragments are not simulated"))
    }

    async fn store_info(&self) -> Result<StoreInfoResponse, TransportError> {
        Err(self.unreachable("not asked in simulations"))
    }
}
