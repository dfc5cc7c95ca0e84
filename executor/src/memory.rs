//! Who uses how much memory: statement → session → node.
//!
//! Every operator that can grow holds an [`OperatorMemory`] and reports to it in
//! steps. A request passes all trackers up to the root or none: if one would go
//! over its limit, the request is taken back and the operator gets an error that
//! names itself ([`ExecError::MemoryExceeded`], 8175). The node never dies.
//!
//! Figures are estimates of what was allocated (capacities, not malloc's
//! rounding).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{ExecError, Result};

/// Bytes an operator reserves at once, so that small growth does not touch the
/// shared counters for every row.
const RESERVE_STEP_BYTES: u64 = 64 << 10;

/// One counter of the tree.
#[derive(Debug)]
pub struct MemoryTracker {
    scope: String,
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    parent: Option<Arc<MemoryTracker>>,
}

impl MemoryTracker {
    /// A tracker without a parent (the node's). `limit_bytes` 0: no limit.
    pub fn root(scope: impl Into<String>, limit_bytes: u64) -> Arc<MemoryTracker> {
        MemoryTracker::create(scope.into(), limit_bytes, None)
    }

    /// A tracker below this one: session below node, statement below session.
    pub fn child(self: &Arc<Self>, scope: impl Into<String>, limit_bytes: u64) -> Arc<Self> {
        MemoryTracker::create(scope.into(), limit_bytes, Some(self.clone()))
    }

    fn create(scope: String, limit_bytes: u64, parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(MemoryTracker {
            scope,
            limit_bytes: AtomicU64::new(limit_bytes),
            used_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            parent,
        })
    }

    /// Changes the limit (0: none); what is in use stays.
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
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
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.limit_bytes.load(Ordering::Relaxed);
        if limit != 0 && used.saturating_add(bytes) > limit {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ExecError::MemoryExceeded {
                operator: operator.to_string(),
                scope: self.scope.clone(),
                requested: bytes,
                used,
                limit,
            });
        }
        if let Some(parent) = &self.parent
            && let Err(error) = parent.consume(bytes, operator)
        {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        self.peak_bytes.fetch_max(used + bytes, Ordering::Relaxed);
        Ok(())
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

    /// Tells what the operator uses now in all.
    pub fn set(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.reserved_bytes {
            let more = (bytes - self.reserved_bytes).next_multiple_of(RESERVE_STEP_BYTES);
            self.tracker.consume(more, &self.operator)?;
            self.reserved_bytes += more;
        }
        self.used_bytes = bytes;
        Ok(())
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
}
