//! What all requests of one statement share: until when, until who says stop, how urgent.
//!
//! **Why.** A request carries the time its caller still waits ([`Context::timeout_ms`]). Left to
//! itself the client waits as long as [`ClientConfig`] says; a statement may have less time, and
//! then no store should work for it longer than that. What ends with the statement's own time
//! answers [`KvError::StatementTimeout`], what ends on a word from outside
//! [`KvError::Cancelled`]: neither says anything about a store, so no route is given up for it.
//!
//! [`Context::timeout_ms`]: cairn_proto::kv::Context
//! [`ClientConfig`]: crate::ClientConfig

use std::sync::Arc;

use cairn_proto::kv::Priority;
use tokio_util::sync::CancellationToken;

use crate::backoff::Deadline;
use crate::error::KvError;
use crate::request_log::RequestLog;

/// The bounds of one statement's requests. The default has none.
#[derive(Clone, Debug, Default)]
pub struct RequestScope {
    /// When the statement's own time is over.
    pub deadline: Option<Deadline>,
    /// Cancelled when nobody wants the answers any more.
    pub cancel: Option<CancellationToken>,
    /// Importance to the stores.
    pub priority: Priority,
    /// Where it is noted what they cost.
    pub log: Option<Arc<RequestLog>>,
}

impl RequestScope {
    /// No bounds, but another importance.
    pub fn with_priority(priority: Priority) -> RequestScope {
        RequestScope { priority, ..RequestScope::default() }
    }

    /// An error when the statement is over.
    pub fn check(&self) -> Result<(), KvError> {
        if self.cancel.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return Err(KvError::Cancelled);
        }
        match self.deadline {
            Some(deadline) if deadline.is_over() => Err(KvError::StatementTimeout),
            _ => Ok(()),
        }
    }

    /// Does the work, unless the statement is cancelled first: then it is dropped.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, KvError> {
        let Some(cancel) = &self.cancel else { return Ok(work.await) };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(KvError::Cancelled),
            done = work => Ok(done),
        }
    }
}
