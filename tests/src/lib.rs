//! The harness of the tests that cross crates: it starts a real `cairn playground`, talks to it
//! as any MySQL client would, kills its nodes and starts them again.
//!
//! Nothing here waits by sleeping a guessed time: [`eventually`] asks until the answer is right
//! or a deadline has passed. Every process that is started is killed and reaped when its
//! [`Playground`] goes out of scope, by its process id.

pub mod node;
pub mod playground;

use std::future::Future;
use std::time::Duration;

pub use node::Node;
pub use playground::{Layout, Playground};

/// Pause between two questions of [`eventually`].
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why the harness cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// A file or a process could not be handled.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A process ended, or did not tell that it serves.
    #[error("{what} is not ready; its log ends with:\n{log}")]
    NotReady {
        /// Which process.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// The server refused or lost the connection.
    #[error(transparent)]
    Mysql(#[from] mysql_async::Error),
}

impl HarnessError {
    /// An error of the system, with what was tried.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}

/// Asks `question` until it answers `Some`, or `deadline` has passed.
pub async fn eventually<T, F, Fut>(deadline: Duration, mut question: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    tokio::time::timeout(deadline, async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await
    .ok()
}
