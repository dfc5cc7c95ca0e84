//! The cluster of a run: its processes, and how they find each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_pd::PdServer;
use cairn_pd::replication::Inbox;
use cairn_pd_client::PdClient;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::sleep;

use crate::pd::{self, PdProcess, SimPdClient, TsoWatch};
use crate::plan::Plan;
use crate::store::{self, StoreProcess, restart_delay};
use crate::world::{Dice, Node, World};

/// All processes of a run.
pub struct Cluster {
    /// What they share.
    pub world: Arc<World>,
    /// What the seed decided.
    pub plan: Plan,
    /// Watches timestamps.
    pub tso: TsoWatch,
    stores: BTreeMap<Node, Arc<StoreProcess>>,
    members: Vec<Arc<PdProcess>>,
    store_nodes: Mutex<BTreeMap<u64, Node>>,
    full_disks: Mutex<BTreeMap<Node, bool>>,
    pd_inboxes: Mutex<BTreeMap<u64, (Node, Inbox)>>,
    cluster_id: AtomicU64,
    safe_point: AtomicU64,
    /// Processes that die are started again by somebody.
    restarts: AtomicBool,
}

impl Cluster {
    /// A cluster whose processes are all down.
    pub fn new(world: Arc<World>, plan: Plan) -> Arc<Cluster> {
        let stores = world.nodes().filter(|node| matches!(node, Node::Store(_)));
        let stores = stores.map(|node| (node, Arc::new(StoreProcess::new(node)))).collect();
        let members = world.nodes().filter(|node| matches!(node, Node::Pd(_)));
        let members = members.map(|node| Arc::new(PdProcess::new(node))).collect();
        world.network.set_weather(plan.weather);
        for node in world.nodes() {
            let (low, high) = (-plan.drift_ppm_max, plan.drift_ppm_max);
            let ppm = world.roll(Dice::Plan, |rng| rng.random_range(low..=high));
            world.host(node).set_drift_ppm(ppm);
        }
        Arc::new(Cluster {
            world,
            plan,
            tso: TsoWatch::default(),
            stores,
            members,
            store_nodes: Mutex::default(),
            full_disks: Mutex::default(),
            pd_inboxes: Mutex::default(),
            cluster_id: AtomicU64::new(0),
            safe_point: AtomicU64::new(0),
            restarts: AtomicBool::new(true),
        })
    }

    /// Starts every process.
    pub fn start_all(self: &Arc<Cluster>) {
        for member in &self.members {
            pd::start(self, member);
        }
        for process in self.stores.values() {
            store::start(self, process);
        }
    }

    /// The members of PD.
    pub fn members(&self) -> &[Arc<PdProcess>] {
        &self.members
    }

    /// The member of PD that leads, if one does.
    pub fn pd_server(&self) -> Option<Arc<PdServer>> {
        let mut servers = self.members.iter().filter_map(|member| member.server());
        servers.rfind(|server| server.check_leads().is_ok())
    }

    /// The process of the member of PD that leads, if one does.
    pub fn pd_leader(&self) -> Option<Node> {
        let leads = |member: &&Arc<PdProcess>| {
            member.server().is_some_and(|server| server.check_leads().is_ok())
        };
        self.members.iter().find(leads).map(|member| member.node)
    }

    /// Messages to the member come in here.
    pub fn set_pd_inbox(&self, member_id: u64, node: Node, inbox: Inbox) {
        self.pd_inboxes.lock().insert(member_id, (node, inbox));
    }

    /// Where messages to the member come in, and in which process.
    pub fn pd_inbox(&self, member_id: u64) -> Option<(Node, Inbox)> {
        self.pd_inboxes.lock().get(&member_id).cloned()
    }

    /// All store processes.
    pub fn stores(&self) -> impl Iterator<Item = &Arc<StoreProcess>> {
        self.stores.values()
    }

    /// The store process of that name.
    pub fn store(&self, node: Node) -> Option<&Arc<StoreProcess>> {
        self.stores.get(&node)
    }

    /// A client of PD for a process.
    pub fn pd_client(self: &Arc<Cluster>, from: Node) -> Arc<dyn PdClient> {
        Arc::new(SimPdClient::new(self.clone(), from))
    }

    /// PD's id of the cluster; zero until PD first ran.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    /// PD has told its id of the cluster.
    pub fn set_cluster_id(&self, cluster_id: u64) {
        let before = self.cluster_id.swap(cluster_id, Ordering::Relaxed);
        if before != 0 && before != cluster_id {
            self.world.fail(format!("pd: cluster {before} became cluster {cluster_id}"));
        }
    }

    /// What nobody at or above the timestamp sees may be collected from now on.
    pub fn raise_safe_point(&self, safe_point: TimeStamp) {
        self.safe_point.fetch_max(safe_point.0, Ordering::Relaxed);
    }

    /// The highest safe point that any store can know.
    pub fn safe_point(&self) -> TimeStamp {
        TimeStamp(self.safe_point.load(Ordering::Relaxed))
    }

    /// The store of that id lives in the process.
    pub fn set_store_id(&self, node: Node, store_id: u64) {
        self.store_nodes.lock().insert(store_id, node);
    }

    /// The process in which the store lives.
    pub fn node_of_store(&self, store_id: u64) -> Option<Node> {
        self.store_nodes.lock().get(&store_id).copied()
    }

    /// Ids of stores with their processes.
    pub fn store_ids(&self) -> Vec<(u64, Node)> {
        self.store_nodes.lock().iter().map(|(id, node)| (*id, *node)).collect()
    }

    /// Fills a store's disk, or makes space again.
    pub fn set_disk_full(&self, node: Node, full: bool) {
        if let Some(process) = self.store(node) {
            process.disk.set_full(full);
            self.full_disks.lock().insert(node, full);
        }
    }

    /// Whether a store's disk is full.
    pub fn is_disk_full(&self, node: Node) -> bool {
        self.full_disks.lock().get(&node).copied().unwrap_or(false)
    }

    /// A store or a member of PD dies; somebody starts it again after a while.
    pub fn crash(self: &Arc<Cluster>, node: Node) {
        let delay = restart_delay(&self.world);
        self.crash_for(node, delay);
    }

    /// As [`Cluster::crash`]; it is started again after this time.
    pub fn crash_for(self: &Arc<Cluster>, node: Node, delay: Duration) {
        self.world.note(format_args!("{node} crashes"));
        if let Some(process) = self.store(node) {
            process.crash(&self.world);
        } else if let Some(member) = self.members.iter().find(|member| member.node == node) {
            member.crash(&self.world);
        }
        self.restart_after(node, delay);
    }

    /// Starts a dead process again after a while.
    pub fn restart_later(self: &Arc<Cluster>, node: Node) {
        let delay = restart_delay(&self.world);
        self.restart_after(node, delay);
    }

    fn restart_after(self: &Arc<Cluster>, node: Node, delay: Duration) {
        let cluster = self.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            while cluster.is_disk_full(node) && cluster.restarts.load(Ordering::Relaxed) {
                sleep(restart_delay(&cluster.world)).await;
            }
            cluster.restart(node);
        });
    }

    /// Starts the process anew, unless it was meanwhile.
    fn restart(self: &Arc<Cluster>, node: Node) {
        self.world.note(format_args!("{node} starts"));
        if let Some(process) = self.store(node) {
            if !process.is_running() {
                self.world.host(node).kill();
                store::start(self, process);
            }
        } else if let Some(member) = self.members.iter().find(|member| member.node == node)
            && member.server().is_none()
        {
            self.world.host(node).kill();
            pd::start(self, member);
        }
    }
}
