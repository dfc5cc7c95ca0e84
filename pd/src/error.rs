//! Why a placement driver could not start. Errors of calls are [`PdError`].
//!
//! [`PdError`]: cairn_pd_client::PdError

use std::path::PathBuf;

use thiserror::Error;

/// Opening or running the server failed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's content does not match its checksum or form.
    #[error("{}: corrupted: {reason}", path.display())]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The log engine failed.
    #[error("the log of the placement driver: {0}")]
    Log(#[from] cairn_engine::EngineError),
    /// The Raft group failed.
    #[error("the Raft group of the placement driver: {0}")]
    Raft(#[from] raft::Error),
    /// The settings do not fit together.
    #[error("{0}")]
    Config(String),
    /// The member was taken out of the group.
    #[error(
        "this member was removed from the cluster; to come back it needs an empty folder and --join"
    )]
    Removed,
    /// The first proposal failed, or a cluster does not take the member in.
    #[error(transparent)]
    Proposal(#[from] cairn_pd_client::PdError),
}
