//! Who uses how much memory: statement → node.
//!
//! Every operator that can grow holds an [`OperatorMemory`] and reports to it in
//! steps. A request passes all trackers up to the root or none.
//!
//! | request | who makes it | over a limit |
//! |---|---|---|
//! | [`OperatorMemory::try_set`] | operators that can go to disk ([`crate::spill`]) | refused above four fifths of it: they spill, and leave a fifth to those that cannot |
//! | [`OperatorMemory::set`] | all others, and those that have spilled all they can | the statement's: error 8175, or a line in the log ([`MemoryTracker::set_log_only`]); the node's: see below |
//! | [`OperatorMemory::force_set`] | buffers of what is being spilled; small and bounded | granted |
//!
//! **The node's limit** (`tidb_server_memory_limit`). Whoever asks last is seldom to blame: the statement
//! that uses most, if that is more than a least size, is cancelled and told why, and the one that asked goes on.
//! While the cancelled one gives its memory back the others may go over the limit by a quarter. If no statement is large
//! enough, the one that asks gets the error. Nobody waits, so nobody waits for each other.
//!
//! Figures are estimates of what was allocated (capacities, not malloc's
//! rounding).
//!
//! The same tree counts bytes on disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{ExecError, Result};

/// Bytes an operator reserves at once, so that small growth does not touch the
/// shared counters for every row.
const RESERVE_STEP_BYTES: u64 = 64 << 10;

/// The variables that set limits.
const STATEMENT_LIMIT: &str = "tidb_mem_quota_query";
const SERVER_LIMIT: &str = "tidb_server_memory_limit";

/// One counter of the tree.
#[derive(Debug)]
pub struct MemoryTracker {
    scope: String,
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    log_only: AtomicBool,
    logged: AtomicBool,
    parent: Option<Arc<MemoryTracker>>,
    victim: Option<Arc<Victim>>,
    statements: Mutex<Vec<Weak<MemoryTracker>>>,
    victim_bytes_min: AtomicU64,
}

/// How a statement is ended for the sake of the node.
#[derive(Debug)]
struct Victim {
    cancel: CancellationToken,
    cancelled: AtomicBool,
}

impl MemoryTracker {
    /// A tracker without a parent (the node's). `limit_bytes` 0: no limit.
    pub fn root(scope: impl Into<String>, limit_bytes: u64) -> Arc<MemoryTracker> {
        MemoryTracker::create(scope.into(), limit_bytes, None, None)
    }

    /// A tracker below this one: of a statement, or of a part of this one.
    pub fn child(self: &Arc<Self>, scope: impl Into<String>, limit_bytes: u64) -> Arc<Self> {
        let victim = self.victim.clone();
        MemoryTracker::create(scope.into(), limit_bytes, Some(self.clone()), victim)
    }

    /// A statement's tracker below this one, the node's, which may end it through `cancel`.
    pub fn statement(
        self: &Arc<Self>,
        scope: impl Into<String>,
        limit_bytes: u64,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let victim = Arc::new(Victim { cancel, cancelled: AtomicBool::new(false) });
        let statement =
            MemoryTracker::create(scope.into(), limit_bytes, Some(self.clone()), Some(victim));
        let mut statements = self.statements.lock();
        if statements.len() == statements.capacity() {
            statements.retain(|statement| statement.strong_count() > 0);
        }
        statements.push(Arc::downgrade(&statement));
        statement
    }

    fn create(
        scope: String,
        limit_bytes: u64,
        parent: Option<Arc<Self>>,
        victim: Option<Arc<Victim>>,
    ) -> Arc<Self> {
        Arc::new(MemoryTracker {
            scope,
            limit_bytes: AtomicU64::new(limit_bytes),
            used_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            log_only: AtomicBool::new(false),
            logged: AtomicBool::new(false),
            parent,
            victim,
            statements: Mutex::default(),
            victim_bytes_min: AtomicU64::new(0),
        })
    }

    /// Changes the limit (0: none); what is in use stays.
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// The limit; 0: none.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Statements that use less are not cancelled for the node's sake.
    pub fn set_victim_bytes_min(&self, bytes: u64) {
        self.victim_bytes_min.store(bytes, Ordering::Relaxed);
    }

    /// Whether a request over the limit is written to the log, once, and granted.
    pub fn set_log_only(&self, log_only: bool) {
        self.log_only.store(log_only, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes that were in use.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Reserves bytes in this tracker and all above it, or in none.
    pub fn consume(&self, bytes: u64, operator: &str) -> Result<()> {
        self.consume_for(self, bytes, operator)
    }

    fn consume_for(&self, asker: &MemoryTracker, bytes: u64, operator: &str) -> Result<()> {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.limit_bytes();
        if limit != 0 && used.saturating_add(bytes) > limit {
            let granted = self.go_over(asker, bytes, used, operator);
            if granted.is_err() {
                self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
                return granted;
            }
        }
        if let Some(parent) = &self.parent
            && let Err(error) = parent.consume_for(asker, bytes, operator)
        {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        self.peak_bytes.fetch_max(used + bytes, Ordering::Relaxed);
        Ok(())
    }

    /// What becomes of a request over the limit.
    fn go_over(&self, asker: &MemoryTracker, bytes: u64, used: u64, operator: &str) -> Result<()> {
        let limit = self.limit_bytes();
        if self.log_only.load(Ordering::Relaxed) {
            if !self.logged.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    scope = self.scope,
                    operator,
                    used_bytes = used,
                    limit_bytes = limit,
                    "a statement goes over its memory quota (tidb_mem_oom_action = LOG)"
                );
            }
            return Ok(());
        }
        let over_bytes = used.saturating_add(bytes).saturating_sub(limit);
        let is_node = asker.victim.is_some() && self.victim.is_none();
        if is_node {
            match self.cancel_one(over_bytes > limit / 4) {
                // It may be the one that asks.
                Relief::UnderWay => return asker.check(),
                Relief::NobodyLargeEnough => {}
            }
        }
        Err(ExecError::MemoryExceeded {
            operator: operator.to_string(),
            scope: self.scope.clone(),
            requested: bytes,
            used,
            limit,
            variable: if is_node { SERVER_LIMIT } else { STATEMENT_LIMIT },
        })
    }

    /// Cancels the statement that uses most, for a node that runs out of memory whatever its
    /// trackers say. False: none uses enough.
    pub fn cancel_largest(&self) -> bool {
        self.cancel_one(false) == Relief::UnderWay
    }

    /// `another`: also while one that was cancelled still has memory.
    fn cancel_one(&self, another: bool) -> Relief {
        let mut statements = self.statements.lock();
        statements.retain(|statement| statement.strong_count() > 0);
        let mut largest: Option<Arc<MemoryTracker>> = None;
        for statement in statements.iter().filter_map(Weak::upgrade) {
            if statement.used_bytes() == 0 {
                continue;
            }
            if statement.is_cancelled() {
                if !another {
                    return Relief::UnderWay;
                }
                continue;
            }
            if largest.as_ref().is_none_or(|most| most.used_bytes() < statement.used_bytes()) {
                largest = Some(statement);
            }
        }
        let least = self.victim_bytes_min.load(Ordering::Relaxed);
        let largest = largest.filter(|statement| statement.used_bytes() >= least);
        let Some((largest, victim)) = largest.as_ref().and_then(|s| Some((s, s.victim.as_ref()?)))
        else {
            return Relief::NobodyLargeEnough;
        };
        tracing::warn!(
            scope = largest.scope,
            statement_bytes = largest.used_bytes(),
            node_bytes = self.used_bytes(),
            limit_bytes = self.limit_bytes(),
            "the node is out of memory; the statement that uses most is cancelled"
        );
        victim.cancelled.store(true, Ordering::Release);
        victim.cancel.cancel();
        Relief::UnderWay
    }

    /// Whether the node has ended this statement.
    pub fn is_cancelled(&self) -> bool {
        self.victim.as_ref().is_some_and(|victim| victim.cancelled.load(Ordering::Acquire))
    }

    /// The error of a statement that the node has ended.
    pub fn check(&self) -> Result<()> {
        if !self.is_cancelled() {
            return Ok(());
        }
        match &self.parent {
            // A part of a statement speaks for all of it.
            Some(parent) if parent.victim.is_some() => parent.check(),
            parent => {
                let limit = parent.as_ref().map_or(0, |node| node.limit_bytes());
                Err(ExecError::ServerMemoryExceeded { scope: self.scope.clone(), limit })
            }
        }
    }

    /// Reserves bytes in this tracker and all above it if each stays below four fifths of its
    /// limit.
    pub fn try_consume(&self, bytes: u64) -> bool {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.limit_bytes();
        let fits = limit == 0 || used.saturating_add(bytes) <= limit - limit / 5;
        if !fits || self.parent.as_ref().is_some_and(|parent| !parent.try_consume(bytes)) {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.peak_bytes.fetch_max(used + bytes, Ordering::Relaxed);
        true
    }

    /// Counts bytes here and above whatever the limits say.
    pub fn force_consume(&self, bytes: u64) {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.peak_bytes.fetch_max(used + bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.force_consume(bytes);
        }
    }

    /// Gives bytes back, here and above.
    pub fn release(&self, bytes: u64) {
        let before = self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more memory released than reserved");
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }
}

/// Whether memory will be given back.
#[derive(PartialEq, Eq)]
enum Relief {
    /// A statement has been cancelled.
    UnderWay,
    /// No statement uses enough.
    NobodyLargeEnough,
}

/// An operator's account. What it still holds is released when it is dropped.
#[derive(Debug)]
pub struct OperatorMemory {
    tracker: Arc<MemoryTracker>,
    operator: String,
    reserved_bytes: u64,
    used_bytes: u64,
}

impl OperatorMemory {
    /// An empty account of `operator` (its name in EXPLAIN).
    pub fn new(tracker: Arc<MemoryTracker>, operator: impl Into<String>) -> OperatorMemory {
        OperatorMemory { tracker, operator: operator.into(), reserved_bytes: 0, used_bytes: 0 }
    }

    /// Adds to what the operator uses.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        self.set(self.used_bytes + bytes as u64)
    }

    /// Takes from what the operator uses.
    pub fn shrink(&mut self, bytes: usize) {
        self.used_bytes = self.used_bytes.saturating_sub(bytes as u64);
    }

    /// Bytes to reserve so that the operator may use so many.
    #[inline]
    fn missing(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.reserved_bytes).next_multiple_of(RESERVE_STEP_BYTES)
    }

    /// Tells what the operator uses now in all.
    pub fn set(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.reserved_bytes {
            let more = self.missing(bytes);
            self.tracker.consume(more, &self.operator)?;
            self.reserved_bytes += more;
        }
        self.used_bytes = bytes;
        Ok(())
    }

    /// The same of an operator that can do with less; false: it should.
    #[must_use]
    pub fn try_set(&mut self, bytes: u64) -> bool {
        if bytes > self.reserved_bytes {
            let more = self.missing(bytes);
            if !self.tracker.try_consume(more) {
                return false;
            }
            self.reserved_bytes += more;
        }
        self.used_bytes = bytes;
        true
    }

    /// Tells what the operator uses now in all, which is little and cannot be refused. What it
    /// used before beyond that is given back.
    pub fn force_set(&mut self, bytes: u64) {
        if bytes > self.reserved_bytes {
            let more = bytes - self.reserved_bytes;
            self.tracker.force_consume(more);
            self.reserved_bytes += more;
        } else {
            self.tracker.release(self.reserved_bytes - bytes);
            self.reserved_bytes = bytes;
        }
        self.used_bytes = bytes;
    }

    /// Bytes the operator uses.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Gives everything back.
    pub fn clear(&mut self) {
        self.tracker.release(self.reserved_bytes);
        self.reserved_bytes = 0;
        self.used_bytes = 0;
    }
}

impl Drop for OperatorMemory {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_leaves_no_trace_and_names_the_operator() {
        let node = MemoryTracker::root("node", 1 << 20);
        let statement = node.child("statement", 0);
        let mut memory = OperatorMemory::new(statement.clone(), "HashAgg_5");
        memory.grow(100).unwrap();
        let before = node.used_bytes();
        let error = memory.grow(1 << 20).unwrap_err();
        assert!(error.to_string().contains("HashAgg_5"), "{error}");
        assert!(error.to_string().contains("node"), "{error}");
        assert_eq!(error.to_mysql().code, 8175);
        assert_eq!((node.used_bytes(), statement.used_bytes()), (before, before));
        drop(memory);
        assert_eq!((node.used_bytes(), statement.used_bytes()), (0, 0));
        assert!(node.peak_bytes() >= 100);
    }

    #[test]
    fn who_can_spill_leaves_a_fifth_to_those_who_cannot() {
        let node = MemoryTracker::root("node", 0);
        let statement = node.child("statement", 10 << 20);
        let mut spills = OperatorMemory::new(statement.clone(), "Sort");
        assert!(spills.try_set(8 << 20));
        assert!(!spills.try_set(9 << 20));
        assert_eq!(node.used_bytes(), 8 << 20);
        let mut other = OperatorMemory::new(statement, "TopN");
        other.set(2 << 20).unwrap();
        assert_eq!(other.set(3 << 20).unwrap_err().to_mysql().code, 8175);
        spills.force_set(1 << 20);
        other.set(3 << 20).unwrap();
        assert_eq!(node.used_bytes(), 4 << 20);
    }

    #[test]
    fn the_node_ends_the_largest_statement_and_no_other() {
        let node = MemoryTracker::root("node", 10 << 20);
        node.set_victim_bytes_min(2 << 20);
        let tokens: Vec<CancellationToken> = (0..3).map(|_| CancellationToken::new()).collect();
        let statements: Vec<_> =
            tokens.iter().map(|token| node.statement("statement", 0, token.clone())).collect();
        let mut accounts: Vec<_> =
            statements.iter().map(|s| OperatorMemory::new(s.clone(), "HashJoin")).collect();
        accounts[0].set(3 << 20).unwrap();
        accounts[1].set(5 << 20).unwrap();
        accounts[2].set(1 << 20).unwrap();
        // The smallest asks for what is not there.
        accounts[2].set(3 << 20).unwrap();
        assert!(tokens[1].is_cancelled() && statements[1].is_cancelled());
        assert!(!tokens[0].is_cancelled() && !tokens[2].is_cancelled());
        let error = statements[1].check().unwrap_err();
        assert_eq!(error.to_mysql().code, 8175);
        assert!(error.to_string().contains("tidb_server_memory_limit"), "{error}");
        // It is waited for; then there is room again.
        accounts[0].set(4 << 20).unwrap();
        assert!(!tokens[0].is_cancelled());
        accounts[1].clear();
        accounts[0].set(6 << 20).unwrap();
        // Now the largest asks itself.
        assert!(accounts[0].set(8 << 20).is_err());
        assert!(tokens[0].is_cancelled() && !tokens[2].is_cancelled());
    }

    #[test]
    fn where_nobody_is_large_the_one_that_asks_is_refused() {
        let node = MemoryTracker::root("node", 1 << 20);
        node.set_victim_bytes_min(4 << 20);
        let token = CancellationToken::new();
        let statement = node.statement("statement", 0, token.clone());
        let mut memory = OperatorMemory::new(statement, "Apply");
        let error = memory.set(2 << 20).unwrap_err().to_string();
        assert!(error.contains("node") && error.contains("tidb_server_memory_limit"), "{error}");
        assert!(!token.is_cancelled());
    }

    #[test]
    fn a_quota_that_is_only_logged_refuses_nothing() {
        let node = MemoryTracker::root("node", 0);
        let statement = node.child("statement", 1 << 10);
        statement.set_log_only(true);
        let mut memory = OperatorMemory::new(statement, "Apply");
        memory.set(1 << 20).unwrap();
        assert_eq!(node.used_bytes(), 1 << 20);
    }
}
