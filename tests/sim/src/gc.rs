//! Moves the safe point of garbage collection as a SQL node does: never above what somebody
//! reads at, and not before locks below it are resolved.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::KeyRange;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::client;
use crate::cluster::Cluster;
use crate::workload::Workloads;
use crate::world::{Dice, Node};

/// Between two moves.
const PAUSE_MS: (u64, u64) = (500, 2_000);
/// Requests of operations that are over may be on their way for so long: production waits
/// for minutes.
const LATE: Duration = Duration::from_secs(9);

/// Timestamps below which no operation that goes on reads or writes.
#[derive(Default)]
pub struct Floors {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    newest: TimeStamp,
    next_id: u64,
    active: BTreeMap<u64, TimeStamp>,
}

/// An operation that goes on.
pub struct Active {
    inner: Arc<Mutex<Inner>>,
    id: u64,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.inner.lock().active.remove(&self.id);
    }
}

impl Floors {
    /// An operation begins: its timestamps will be above what PD gave before.
    pub fn enter(&self) -> Active {
        let mut inner = self.inner.lock();
        let (id, floor) = (inner.next_id, inner.newest);
        inner.next_id += 1;
        inner.active.insert(id, floor);
        Active { inner: self.inner.clone(), id }
    }

    /// PD gave this timestamp; answers the floor of all operations that go on.
    fn advance(&self, ts: TimeStamp) -> TimeStamp {
        let mut inner = self.inner.lock();
        inner.newest = inner.newest.max(ts);
        inner.active.values().copied().min().unwrap_or(inner.newest)
    }
}

/// Moves the safe point for good.
pub async fn drive(cluster: Arc<Cluster>, workloads: Arc<Workloads>, node: Node) {
    let (pd, client) = (cluster.pd_client(node), client::connect(&cluster, node));
    let mut floors: VecDeque<(Instant, TimeStamp)> = VecDeque::new();
    let mut done = TimeStamp::ZERO;
    loop {
        sleep(cluster.world.millis(Dice::Machine, PAUSE_MS.0, PAUSE_MS.1)).await;
        let Ok(ts) = client.current_ts().await else { continue };
        floors.push_back((Instant::now(), workloads.floors.advance(ts)));
        let mut target = done;
        while let Some(&(since, floor)) = floors.front()
            && since.elapsed() >= LATE
        {
            target = target.max(floor);
            floors.pop_front();
        }
        if target == done {
            continue;
        }
        if client.resolve_locks_below(target.prev(), KeyRange::default()).await.is_err() {
            continue;
        }
        // Before PD tells the stores: checks must leave out all that they may remove.
        cluster.raise_safe_point(target);
        if pd.update_gc_safe_point(target).await.is_ok() {
            cluster.world.note(format_args!("safe point {target}"));
            done = target;
        }
    }
}
