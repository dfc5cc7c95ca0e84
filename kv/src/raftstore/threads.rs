//! The one room where the Raft store makes threads, and makes them wait.

use std::thread::JoinHandle;
use std::time::Duration;

use super::config::OnEngineFailure;
use super::error::RaftStoreError;

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "the room of threads")]
pub(super) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, RaftStoreError> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(body)?)
}

/// An engine failed: ends the process if that is wanted. Without unwinding and without
/// exit handlers: neither may write anything more.
pub(super) fn on_engine_failure(action: OnEngineFailure, what: &str, error: &RaftStoreError) {
    tracing::error!(%error, what, "the storage engine failed");
    if action == OnEngineFailure::EndProcess {
        std::process::abort();
    }
}

/// Holds a thread that may block up for a while, to keep to a rate.
#[allow(clippy::disallowed_methods, reason = "the room of threads")]
pub(super) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
