//! What clients do, and what they remember of it for the checks.
//!
//! Every operation notes a *moment* before it begins and after it ended; moments are one
//! sequence over all clients, so "before" is exact even where virtual time stands still.

mod append;
mod bank;
mod counter;
mod families;
mod lists;
mod queue;
mod register;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_kv_client::{KeyRange, KvClient, KvError, ScanOptions, Snapshot};
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

pub use append::Appends;
pub use bank::Bank;
pub use counter::Counters;
pub use families::Families;
pub use lists::Lists;
pub use queue::Queue;
pub use register::{Registers, key_of as register_key};

use crate::cluster::Cluster;
use crate::gc::Floors;
use crate::plan::WorkloadKind;
use crate::world::{Dice, World};

/// How an attempt to write ended, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It did not happen and never will.
    Failed,
    /// Nobody knows.
    Unknown,
}

impl Outcome {
    fn of<T>(result: &Result<T, KvError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Done,
            Err(KvError::UndeterminedCommit { .. }) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        }
    }
}

/// What all sessions work on for a while, as fast as they can: what two leaders of its region
/// answer within some hundred milliseconds is then many answers.
#[derive(Clone, Debug)]
pub struct Focus {
    /// Any of these.
    pub registers: Range<u32>,
    /// Nobody writes: what a log lacks stays what it lacks.
    pub reads_only: bool,
    /// When everybody goes on with other work.
    pub until: Instant,
}

/// The memories of all clients.
pub struct Workloads {
    world: Arc<World>,
    kinds: Vec<(WorkloadKind, u32)>,
    /// Single keys.
    pub registers: Registers,
    /// Accounts.
    pub bank: Bank,
    /// Groups of keys.
    pub appends: Appends,
    /// Counters.
    pub counters: Counters,
    /// The queue.
    pub queue: Queue,
    /// Lists.
    pub lists: Lists,
    /// Families.
    pub families: Families,
    /// What garbage collection must leave alone.
    pub floors: Floors,
    focus: Mutex<Option<Focus>>,
}

impl Workloads {
    /// Nothing happened yet.
    pub fn new(cluster: &Cluster) -> Arc<Workloads> {
        Arc::new(Workloads {
            world: cluster.world.clone(),
            kinds: cluster.plan.workloads.clone(),
            registers: Registers::new(cluster.plan.keys),
            bank: Bank::new(cluster.plan.accounts),
            appends: Appends::default(),
            counters: Counters::new(cluster.plan.keys),
            queue: Queue::default(),
            lists: Lists::default(),
            families: Families::default(),
            floors: Floors::default(),
            focus: Mutex::default(),
        })
    }

    /// Opens the accounts; before anything goes wrong.
    pub async fn set_up(&self, client: &Arc<KvClient>) -> Result<(), KvError> {
        self.bank.open(client).await
    }

    /// From now on all sessions work on this.
    pub fn focus(&self, focus: Focus) {
        *self.focus.lock() = Some(focus);
    }

    fn focused(&self) -> Option<Focus> {
        self.focus.lock().clone().filter(|focus| Instant::now() < focus.until)
    }

    /// Writes a register, whatever the sessions do.
    pub async fn write(&self, client: &Arc<KvClient>, register: u32) -> Result<(), KvError> {
        let _active = self.floors.enter();
        self.registers.write(&self.world, client, register).await
    }

    /// One operation.
    pub async fn act(&self, client: &Arc<KvClient>) {
        let kind = self.world.roll(Dice::Workload, |rng| {
            let choice = self.kinds.choose_weighted(rng, |(_, weight)| *weight);
            choice.map_or(WorkloadKind::Register, |(kind, _)| *kind)
        });
        let _active = self.floors.enter();
        if let Some(focus) = self.focused() {
            return self.registers.act_in(&self.world, client, focus).await;
        }
        match kind {
            WorkloadKind::Register => self.registers.act(&self.world, client).await,
            WorkloadKind::Bank => self.bank.act(&self.world, client).await,
            WorkloadKind::Append => self.appends.act(&self.world, client).await,
            WorkloadKind::Counter => self.counters.act(&self.world, client).await,
            WorkloadKind::Queue => self.queue.act(&self.world, client).await,
            WorkloadKind::Lists => self.lists.act(&self.world, client).await,
            WorkloadKind::Families => self.families.act(&self.world, client).await,
        }
    }

    /// One operation of each kind on every key there is: what a healed cluster can do.
    /// What another client's work stands in the way of is tried again.
    pub async fn probe(&self, client: &Arc<KvClient>) -> Result<(), KvError> {
        let _active = self.floors.enter();
        patiently(|| self.registers.probe(&self.world, client)).await?;
        patiently(|| self.bank.probe(&self.world, client)).await?;
        patiently(|| self.appends.probe(&self.world, client)).await?;
        patiently(|| self.counters.probe(&self.world, client)).await?;
        patiently(|| self.queue.probe(&self.world, client)).await?;
        patiently(|| self.lists.probe(&self.world, client)).await?;
        patiently(|| self.families.probe(&self.world, client)).await
    }

    /// Reads everything once more and judges what was remembered.
    pub async fn judge(&self, client: &Arc<KvClient>) -> Result<(), KvError> {
        let _active = self.floors.enter();
        self.registers.judge(&self.world, client).await?;
        self.bank.judge(&self.world, client).await?;
        self.appends.judge(&self.world, client).await?;
        self.counters.judge(&self.world, client).await?;
        self.queue.judge(&self.world, client).await?;
        self.lists.judge(&self.world, client).await?;
        self.families.judge(&self.world, client).await
    }

    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.registers.done()
            + self.bank.done()
            + self.appends.done()
            + self.counters.done()
            + self.queue.done()
            + self.lists.done()
            + self.families.done()
    }
}

/// Repeats what fails for the sake of another transaction.
async fn patiently<F>(mut attempt: impl FnMut() -> F) -> Result<(), KvError>
where
    F: Future<Output = Result<(), KvError>>,
{
    /// Others cannot win for ever.
    const ATTEMPTS_MAX: u32 = 100;
    let mut outcome = attempt().await;
    for _ in 1..ATTEMPTS_MAX {
        match &outcome {
            Err(error) if error.is_txn_retryable() => outcome = attempt().await,
            _ => break,
        }
    }
    outcome
}

/// A raw key as clients use them.
pub fn any_key(world: &World, dice: Dice) -> Bytes {
    world.roll(dice, |rng| {
        let family = *["a", "c", "f", "g", "l", "q", "r"].choose(rng).unwrap_or(&"r");
        Bytes::from(format!("{family}{:02}", rng.random_range(0..12)))
    })
}

/// A session: operations one after the other until `stop`.
pub async fn session(
    workloads: Arc<Workloads>,
    client: Arc<KvClient>,
    think_ms_max: u64,
    stop: Arc<std::sync::atomic::AtomicBool>,
) {
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let think_ms_max = if workloads.focused().is_some() { 1 } else { think_ms_max };
        sleep(workloads.world.millis(Dice::Workload, 0, think_ms_max)).await;
        workloads.act(&client).await;
    }
}

/// A read view at a fresh timestamp.
async fn fresh_view(client: &Arc<KvClient>) -> Result<Snapshot, KvError> {
    Ok(client.snapshot(client.current_ts().await?))
}

/// A number stored as decimal text; none counts as zero, anything else is damage.
fn number(world: &World, key: &[u8], value: Option<&Bytes>) -> u64 {
    let Some(value) = value else { return 0 };
    match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
        Some(number) => number,
        None => {
            world.fail(format!("{} holds {value:?}", key.escape_ascii()));
            0
        }
    }
}

/// Every pair of a range in a view.
async fn scan_all(
    view: &Snapshot,
    range: KeyRange,
    reverse: bool,
) -> Result<Vec<(Bytes, Bytes)>, KvError> {
    /// Small, so that scans go on in other regions and batches.
    const BATCH: u32 = 7;
    let options = ScanOptions { reverse, batch_size: BATCH, ..ScanOptions::default() };
    let mut scan = view.scan(range, options);
    let mut pairs = Vec::new();
    loop {
        let batch = scan.next_batch().await?;
        if batch.is_empty() {
            return Ok(pairs);
        }
        pairs.extend(batch);
    }
}

/// A view of the newest versions, or one at a fresh timestamp.
async fn some_view(world: &World, client: &Arc<KvClient>) -> Result<Snapshot, KvError> {
    if world.roll(Dice::Workload, |rng| rng.random_bool(0.5)) {
        return Ok(client.snapshot(TimeStamp::MAX));
    }
    fresh_view(client).await
}
