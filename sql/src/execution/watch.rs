//! What is watched of a running statement: by EXPLAIN ANALYZE and TRACE.
//!
//! Operators report to [`RuntimeStats`], requests to the statement's [`RequestLog`]; those of a reader go to one of its own
//! first, so that it is known which stores took part in what.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_executor::RuntimeStats;
use cairn_kv_client::RequestLog;
use parking_lot::Mutex;

/// Where a watched statement tells what it does.
#[derive(Debug)]
pub struct Watch {
    /// What operators did.
    pub stats: Arc<RuntimeStats>,
    /// All requests.
    pub requests: Arc<RequestLog>,
    readers: Mutex<BTreeMap<usize, Arc<RequestLog>>>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            stats: Arc::new(RuntimeStats::detailed()),
            requests: Arc::new(RequestLog::detailed()),
            readers: Mutex::default(),
        }
    }
}

impl Watch {
    /// The log of the reader with this number in the plan; those that are built again share it.
    pub fn reader(&self, id: usize) -> Arc<RequestLog> {
        let mut readers = self.readers.lock();
        Arc::clone(readers.entry(id).or_insert_with(|| self.requests.of_part()))
    }

    /// Logs of all readers, by their numbers.
    pub fn readers(&self) -> BTreeMap<usize, Arc<RequestLog>> {
        self.readers.lock().clone()
    }
}
