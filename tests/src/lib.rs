//! The harness of the tests that cross crates: it starts a real `cairn playground`, or a cluster
//! of hosts of their own ([`faults`]), talks to it as any MySQL client would, kills its nodes and
//! starts them again.
//!
//! Loads that go on whatever happens, and the checks of what they were told: [`ledger`],
//! [`updates`], [`registers`], [`histories`].
//!
//! Nothing here waits by sleeping a guessed time: [`eventually`] asks until the answer is right
//! or a deadline has passed. Every process that is started is killed and reaped when its
//! [`Playground`] goes out of scope, by its process id.

pub mod bench;
pub mod client;
pub mod faults;
pub mod histories;
pub mod ledger;
pub mod node;
pub mod playground;
pub mod registers;
pub mod updates;

use std::future::Future;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

pub use client::Servers;
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
    /// A tool of the system failed.
    #[error("`{command}` failed: {output}")]
    Tool {
        /// The command line.
        command: String,
        /// What it wrote to its standard error.
        output: String,
    },
    /// The cluster did not do in time what it should.
    #[error("{what} did not happen within {limit:?}")]
    Overdue {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
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

/// Lets time pass: how long a fault lasts, or what a client waits before it knocks again. Whoever
/// waits for something to happen uses [`eventually`].
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Runs a tool of the system to its end; answers what it printed.
pub fn tool(program: &str, args: &[&str], input: &str) -> Result<String, HarnessError> {
    let command = || format!("{program} {}", args.join(" "));
    // The tools of network and firewall lie where only root looks for programs.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| HarnessError::io(format!("start `{}`", command()), error))?;
    // A tool that does not read its input has ended, and says why below.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| HarnessError::io(format!("run `{}`", command()), error))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(HarnessError::Tool { command: command(), output })
    }
}
