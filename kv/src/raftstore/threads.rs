//! The one room where the Raft store makes threads.

use std::thread::JoinHandle;

use super::error::RaftStoreError;

/// Starts a named thread.
#[allow(clippy::disallowed_methods, reason = "the room of threads")]
pub(super) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, RaftStoreError> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(body)?)
}
