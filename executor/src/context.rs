//! What every operator of one statement shares.
//!
//! An [`ExecContext`] is cheap to clone; each operator keeps its own clone, whose
//! [`EvalContext`] it may change while it evaluates. Memory, cancellation,
//! statistics and warnings are shared through `Arc`s.
//!
//! Time comes in through [`ClockFn`]: this crate has no clock of its own.

use std::sync::Arc;

use bytes::Bytes;
use cairn_expr::{EvalContext, Warnings};
use cairn_types::chunk::{CHUNK_ROWS_INIT, CHUNK_ROWS_MAX};
use cairn_types::{MysqlError, Warning};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::broadcast::BroadcastTable;
use crate::error::{ExecError, Result};
use crate::memory::{MemoryTracker, OperatorMemory};
use crate::operator::BoxOperator;
use crate::runtime_stats::{Detail, Instrumented, OperatorStats, RuntimeStats};
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
    /// Ids of a fragment's operators, under which they report instead of their places.
    pub fragment_ids: Option<Arc<[usize]>>,
    /// Where the operator that this context was made for tells details; `None`: nobody asks.
    operator: Option<Arc<OperatorStats>>,
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
            fragment_ids: None,
            operator: None,
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
        let counters = stats.operator(self.stats_id(id), name);
        Box::new(Instrumented::new(operator, counters, self.clock.clone()))
    }

    /// The context of operator `id`: where details are asked for, it has accounts of its own for memory and
    /// disk, and tells what it does.
    pub fn for_operator(&self, id: usize, name: &str) -> ExecContext {
        let Some(stats) = self.stats.as_ref().filter(|stats| stats.is_detailed()) else {
            return self.clone();
        };
        let operator = stats.operator(self.stats_id(id), name);
        let disk = self.spill.as_ref().map(SpillSpace::disk);
        let accounts = operator.accounts(name, &self.memory, disk);
        let spill = self.spill.clone().zip(accounts.disk.clone());
        ExecContext {
            memory: accounts.memory.clone(),
            spill: spill.map(|(space, disk)| space.counted_by(disk)),
            operator: Some(operator),
            ..self.clone()
        }
    }

    fn stats_id(&self, id: usize) -> usize {
        let known = self.fragment_ids.as_ref().and_then(|ids| ids.get(id));
        known.copied().unwrap_or(id)
    }

    /// Adds to a detail of the operator, if somebody asks.
    pub fn count(&self, detail: Detail, amount: u64) {
        if let Some(operator) = &self.operator {
            operator.count(detail, amount);
        }
    }

    /// The time for details, in nanoseconds; 0 if nobody asks.
    pub fn detail_ns(&self) -> u64 {
        if self.operator.is_some() { (self.clock)() } else { 0 }
    }

    /// Adds the time since `start_ns` of [`ExecContext::detail_ns`] to a detail, if somebody asks.
    pub fn count_time(&self, detail: Detail, start_ns: u64) {
        if let Some(operator) = &self.operator {
            operator.count(detail, (self.clock)().saturating_sub(start_ns));
        }
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
