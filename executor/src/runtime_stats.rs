//! What operators did, for those who ask: EXPLAIN ANALYZE, TRACE, summaries of a store's fragments.
//!
//! Rows, calls and time are counted by a wrapper around each operator ([`Instrumented`]). Details cost more
//! and are kept by [`RuntimeStats::detailed`] alone: each operator then has a tracker of its own below the statement's for
//! memory and one for disk, whose peaks are shown, and tells some figures itself ([`Detail`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};
use parking_lot::Mutex;

use crate::context::ClockFn;
use crate::error::Result;
use crate::memory::MemoryTracker;
use crate::operator::{BoxOperator, Operator};

/// A figure that some operators have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nanoseconds until a join's build side was read and hashed.
    BuildTimeNs,
    /// Nanoseconds in which a join compared probe rows, of all its workers together.
    ProbeTimeNs,
    /// Times that an operator wrote what memory did not hold.
    SpillRounds,
    /// Parts with rows that an input was divided into on disk.
    SpillPartitions,
    /// Batches of outer rows whose inner rows were looked up.
    LookUpRounds,
    /// Distinct keys of all batches.
    LookUpKeys,
    /// Nanoseconds in which inner rows were read.
    LookUpTimeNs,
}

/// How many details there are.
const DETAILS: usize = Detail::LookUpTimeNs as usize + 1;

/// What one operator did.
#[derive(Debug, Default)]
pub struct OperatorStats {
    rows: AtomicU64,
    loops: AtomicU64,
    time_ns: AtomicU64,
    /// Of the first call; 0: there was none.
    start_ns: AtomicU64,
    tasks: AtomicU64,
    task_ns_max: AtomicU64,
    details: [AtomicU64; DETAILS],
    accounts: OnceLock<Accounts>,
}

/// Trackers of one operator.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub memory: Arc<MemoryTracker>,
    pub disk: Option<Arc<MemoryTracker>>,
}

/// [`OperatorStats`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorSummary {
    /// Name given at [`crate::ExecContext::instrument`].
    pub name: String,
    /// Rows returned.
    pub rows: u64,
    /// Calls of `next`.
    pub loops: u64,
    /// Time in `next`, children included.
    pub time_ns: u64,
    /// When it was first called, by the statement's clock; 0: never, or by a store's clock.
    pub start_ns: u64,
    /// Tasks of stores that it ran in; 0: it ran here.
    pub tasks: u64,
    /// The longest of them.
    pub task_ns_max: u64,
    /// Most bytes it had in memory; `None`: it has no account.
    pub memory_bytes: Option<u64>,
    /// Most bytes it had on disk.
    pub disk_bytes: Option<u64>,
    details: [u64; DETAILS],
}

impl OperatorSummary {
    /// A figure that it may have; 0 if it has not.
    pub fn detail(&self, detail: Detail) -> u64 {
        self.details[detail as usize]
    }
}

impl OperatorStats {
    /// Adds to the counters.
    pub fn add(&self, rows: u64, loops: u64, time_ns: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.loops.fetch_add(loops, Ordering::Relaxed);
        self.time_ns.fetch_add(time_ns, Ordering::Relaxed);
    }

    /// A call begins.
    fn begin(&self, now_ns: u64) {
        if self.start_ns.load(Ordering::Relaxed) == 0 {
            self.start_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// Adds what a store tells of one task.
    pub fn add_task(&self, rows: u64, loops: u64, time_ns: u64) {
        self.add(rows, loops, time_ns);
        self.tasks.fetch_add(1, Ordering::Relaxed);
        self.task_ns_max.fetch_max(time_ns, Ordering::Relaxed);
    }

    /// Adds to a detail.
    pub fn count(&self, detail: Detail, amount: u64) {
        self.details[detail as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// The operator's trackers below the statement's; made at the first call.
    pub(crate) fn accounts(
        &self,
        name: &str,
        memory: &Arc<MemoryTracker>,
        disk: Option<&Arc<MemoryTracker>>,
    ) -> &Accounts {
        self.accounts.get_or_init(|| Accounts {
            memory: memory.child(name, 0),
            disk: disk.map(|disk| disk.child(name, 0)),
        })
    }

    fn summary(&self, name: &str) -> OperatorSummary {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let accounts = self.accounts.get();
        OperatorSummary {
            name: name.to_owned(),
            rows: value(&self.rows),
            loops: value(&self.loops),
            time_ns: value(&self.time_ns),
            start_ns: value(&self.start_ns),
            tasks: value(&self.tasks),
            task_ns_max: value(&self.task_ns_max),
            memory_bytes: accounts.map(|accounts| accounts.memory.peak_bytes()),
            disk_bytes: accounts
                .and_then(|accounts| accounts.disk.as_ref())
                .map(|disk| disk.peak_bytes()),
            details: std::array::from_fn(|at| value(&self.details[at])),
        }
    }
}

/// Counters of all operators of a statement, by their place in the plan.
#[derive(Debug, Default)]
pub struct RuntimeStats {
    operators: Mutex<BTreeMap<usize, (String, Arc<OperatorStats>)>>,
    detailed: bool,
}

impl RuntimeStats {
    /// Counters with details.
    pub fn detailed() -> RuntimeStats {
        RuntimeStats { detailed: true, ..RuntimeStats::default() }
    }

    /// Whether details are asked for.
    pub fn is_detailed(&self) -> bool {
        self.detailed
    }

    /// The counters of operator `id`; made at the first call. Several instances
    /// of one plan operator (workers, re-executed subqueries) share them.
    pub fn operator(&self, id: usize, name: &str) -> Arc<OperatorStats> {
        let mut operators = self.operators.lock();
        let entry =
            operators.entry(id).or_insert_with(|| (name.to_string(), Arc::new(Default::default())));
        entry.1.clone()
    }

    /// All counters, ordered by id.
    pub fn summaries(&self) -> Vec<(usize, OperatorSummary)> {
        let operators = self.operators.lock();
        operators.iter().map(|(id, (name, stats))| (*id, stats.summary(name))).collect()
    }
}

/// Counts what passes through.
pub(crate) struct Instrumented {
    operator: BoxOperator,
    counters: Arc<OperatorStats>,
    clock: ClockFn,
}

impl Instrumented {
    pub(crate) fn new(
        operator: BoxOperator,
        counters: Arc<OperatorStats>,
        clock: ClockFn,
    ) -> Instrumented {
        Instrumented { operator, counters, clock }
    }
}

#[async_trait]
impl Operator for Instrumented {
    fn schema(&self) -> &[FieldType] {
        self.operator.schema()
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let start_ns = (self.clock)();
        self.counters.begin(start_ns);
        let result = self.operator.next().await;
        let time_ns = (self.clock)().saturating_sub(start_ns);
        let rows = match &result {
            Ok(Some(chunk)) => chunk.num_selected() as u64,
            _ => 0,
        };
        self.counters.add(rows, 1, time_ns);
        result
    }
}
