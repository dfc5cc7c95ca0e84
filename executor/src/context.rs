//! What every operator of one statement shares.
//!
//! An [`ExecContext`] is cheap to clone; each operator keeps its own clone, whose
//! [`EvalContext`] it may change while it evaluates. Memory, cancellation,
//! statistics and warnings are shared through `Arc`s.
//!
//! Time comes in through [`ClockFn`]: this crate has no clock of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_expr::{EvalContext, Warnings};
use cairn_types::chunk::{CHUNK_ROWS_INIT, CHUNK_ROWS_MAX};
use cairn_types::{Chunk, FieldType, MysqlError, Warning};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::broadcast::BroadcastTable;
use crate::error::{ExecError, Result};
use crate::memory::{MemoryTracker, OperatorMemory};
use crate::operator::{BoxOperator, Operator};
use crate::spill::SpillSpace;

/// Workers of a parallel operator unless the statement says otherwise
/// (`tidb_executor_concurrency`).
pub const CONCURRENCY_DEFAULT: usize = 5;

/// Nanoseconds on a clock that never goes back.
pub type ClockFn = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Shared state of a running statement.
#[derive(Clone)]
pub struct ExecContext {
    /// SQL mode, time zone, parameters, warnings, … for expressions.
    pub eval: EvalContext,
    /// Warnings of all operators; evaluation contexts are emptied into it.
    pub warnings: Arc<Mutex<Warnings>>,
    /// The statement's memory.
    pub memory: Arc<MemoryTracker>,
    /// Where operators put what the quota does not hold; `None`: nowhere.
    pub spill: Option<SpillSpace>,
    /// Set when the statement is killed or timed out, or its client went away.
    pub cancel: CancellationToken,
    /// Workers of a parallel operator.
    pub concurrency: usize,
    /// Rows of the first chunk; at least 1.
    pub chunk_rows_init: usize,
    /// Rows of a full chunk; at least `chunk_rows_init`.
    pub chunk_rows_max: usize,
    /// Where operators report what they did (EXPLAIN ANALYZE, execution
    /// summaries); `None`: nobody asks.
    pub stats: Option<Arc<RuntimeStats>>,
    /// Row keys an index lookup found but may not read here.
    pub remote_row_keys: Arc<RemoteRowKeys>,
    /// Where the fragment's scan stands.
    pub scan_position: Arc<ScanPosition>,
    /// Clock for the statistics.
    pub clock: ClockFn,
    /// Tables that a fragment's joins name by their place here.
    pub tables: Arc<[Arc<BroadcastTable>]>,
}

impl ExecContext {
    /// A context without limits, statistics and clock.
    pub fn new(eval: EvalContext) -> ExecContext {
        ExecContext {
            eval,
            warnings: Arc::default(),
            memory: MemoryTracker::root("statement", 0),
            spill: None,
            cancel: CancellationToken::new(),
            concurrency: CONCURRENCY_DEFAULT,
            chunk_rows_init: CHUNK_ROWS_INIT,
            chunk_rows_max: CHUNK_ROWS_MAX,
            stats: None,
            remote_row_keys: Arc::default(),
            scan_position: Arc::default(),
            clock: Arc::new(|| 0),
            tables: Arc::default(),
        }
    }

    /// With a memory tracker.
    #[must_use]
    pub fn with_memory(mut self, memory: Arc<MemoryTracker>) -> ExecContext {
        self.memory = memory;
        self
    }

    /// With a place for what the quota does not hold.
    #[must_use]
    pub fn with_spill(mut self, spill: Option<SpillSpace>) -> ExecContext {
        self.spill = spill;
        self
    }

    /// With a token that ends the statement.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> ExecContext {
        self.cancel = cancel;
        self
    }

    /// With statistics taken by `clock`.
    #[must_use]
    pub fn with_stats(mut self, stats: Arc<RuntimeStats>, clock: ClockFn) -> ExecContext {
        self.stats = Some(stats);
        self.clock = clock;
        self
    }

    /// With the tables of a fragment's joins.
    #[must_use]
    pub fn with_tables(mut self, tables: Arc<[Arc<BroadcastTable>]>) -> ExecContext {
        self.tables = tables;
        self
    }

    /// An error if the statement was cancelled. Called once per batch.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if !self.cancel.is_cancelled() {
            return Ok(());
        }
        self.memory.check()?;
        Err(ExecError::Cancelled)
    }

    /// An evaluation context of one's own, without warnings.
    pub fn eval(&self) -> EvalContext {
        let mut eval = self.eval.clone();
        eval.warnings.take();
        eval
    }

    /// Moves an operator's warnings to the statement's.
    #[inline]
    pub fn flush_warnings(&self, eval: &mut EvalContext) {
        if !eval.warnings.is_empty() {
            self.warnings.lock().merge(eval.warnings.take());
        }
    }

    /// Adds a warning to the statement's.
    pub fn warn(&self, error: MysqlError) {
        self.warnings.lock().push(Warning::warning(error));
    }

    /// An empty memory account of an operator.
    pub fn account(&self, operator: &str) -> OperatorMemory {
        OperatorMemory::new(self.memory.clone(), operator)
    }

    /// The sequence of chunk sizes of one operator.
    pub fn chunk_rows(&self) -> ChunkRows {
        let init = self.chunk_rows_init.max(1);
        ChunkRows { next: init, max: self.chunk_rows_max.max(init) }
    }

    /// The same up to `chunks` full chunks.
    pub fn doubling_rows(&self, chunks: usize) -> ChunkRows {
        let rows = self.chunk_rows();
        ChunkRows { max: rows.max * chunks, ..rows }
    }

    /// Wraps an operator so that rows, calls and time are counted under `id` (its
    /// place in the plan); the operator itself if nobody asks.
    pub fn instrument(&self, id: usize, name: &str, operator: BoxOperator) -> BoxOperator {
        let Some(stats) = &self.stats else { return operator };
        let counters = stats.operator(id, name);
        Box::new(Instrumented { operator, counters, clock: self.clock.clone() })
    }
}

/// Chunk sizes that double from the first to the largest.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRows {
    next: usize,
    max: usize,
}

impl ChunkRows {
    /// Rows of the next chunk.
    pub fn advance(&mut self) -> usize {
        let rows = self.next;
        self.next = (self.next * 2).min(self.max);
        rows
    }

    /// Rows of a full chunk.
    pub fn max(&self) -> usize {
        self.max
    }
}

/// Sink for the row keys whose rows someone else must read.
#[derive(Debug, Default)]
pub struct RemoteRowKeys {
    keys: Mutex<Vec<Bytes>>,
}

impl RemoteRowKeys {
    /// Adds keys.
    pub fn push(&self, keys: impl IntoIterator<Item = Bytes>) {
        self.keys.lock().extend(keys);
    }

    /// Takes what was collected since the last call (once per page).
    pub fn take(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.keys.lock())
    }
}

/// Where a fragment's scan stands, as raw keys.
///
/// Operators pull: when a fragment of scan, selection, projection, limit and index
/// lookup has returned a chunk, all rows before the position were seen and none
/// behind it. The scan reports where it is, but the position moves only when the
/// fragment's topmost operator has answered: rows that were scanned and then lost
/// to an error above the scan will be scanned again.
///
/// A join may give more rows than fit into a chunk. Until the last of those that belong to the same
/// scanned rows is out it *holds* the position: what was answered meanwhile ends between two rows of the scan
/// for nobody.
#[derive(Debug, Default)]
pub struct ScanPosition {
    keys: Mutex<PositionKeys>,
}

#[derive(Debug, Default)]
struct PositionKeys {
    reached: Option<Bytes>,
    answered: Option<Bytes>,
    /// Operators that have more rows of what was scanned.
    holds: usize,
}

impl ScanPosition {
    /// The scan stands here.
    pub(crate) fn reach(&self, key: Bytes) {
        self.keys.lock().reached = Some(key);
    }

    /// An operator has more rows of what was scanned, or no longer.
    pub(crate) fn hold(&self, holds: bool) {
        let mut keys = self.keys.lock();
        keys.holds = if holds { keys.holds + 1 } else { keys.holds.saturating_sub(1) };
    }

    /// Everything the scan has read was answered, unless an operator holds the position.
    pub(crate) fn answer(&self) {
        let mut keys = self.keys.lock();
        if keys.holds > 0 {
            return;
        }
        if let Some(reached) = keys.reached.take() {
            keys.answered = Some(reached);
        }
    }

    /// Start of what remains to be scanned; for a descending scan its end
    /// (exclusive). `None`: nothing was answered yet, or more than what lies before any such place.
    pub fn get(&self) -> Option<Bytes> {
        let keys = self.keys.lock();
        keys.answered.clone().filter(|_| keys.holds == 0)
    }
}

/// What one operator did.
#[derive(Debug, Default)]
pub struct OperatorStats {
    rows: AtomicU64,
    loops: AtomicU64,
    time_ns: AtomicU64,
}

/// [`OperatorStats`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorSummary {
    /// Name given at [`ExecContext::instrument`].
    pub name: String,
    /// Rows returned.
    pub rows: u64,
    /// Calls of `next`.
    pub loops: u64,
    /// Time in `next`, children included.
    pub time_ns: u64,
}

impl OperatorStats {
    /// Adds to the counters (also for summaries that come from a store).
    pub fn add(&self, rows: u64, loops: u64, time_ns: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.loops.fetch_add(loops, Ordering::Relaxed);
        self.time_ns.fetch_add(time_ns, Ordering::Relaxed);
    }
}

/// Counters of all operators of a statement, by their place in the plan.
#[derive(Debug, Default)]
pub struct RuntimeStats {
    operators: Mutex<BTreeMap<usize, (String, Arc<OperatorStats>)>>,
}

impl RuntimeStats {
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
        operators
            .iter()
            .map(|(id, (name, stats))| {
                let summary = OperatorSummary {
                    name: name.clone(),
                    rows: stats.rows.load(Ordering::Relaxed),
                    loops: stats.loops.load(Ordering::Relaxed),
                    time_ns: stats.time_ns.load(Ordering::Relaxed),
                };
                (*id, summary)
            })
            .collect()
    }
}

/// Counts what passes through.
struct Instrumented {
    operator: BoxOperator,
    counters: Arc<OperatorStats>,
    clock: ClockFn,
}

#[async_trait]
impl Operator for Instrumented {
    fn schema(&self) -> &[FieldType] {
        self.operator.schema()
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let start_ns = (self.clock)();
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
