//! Why a role does not start, in the words of the person who started it.

/// The binary's error.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file, socket or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
    /// A store does not start.
    #[error(transparent)]
    Store(#[from] cairn_kv::NodeError),
    /// The placement driver does not start.
    #[error("placement driver: {0}")]
    Pd(String),
    /// The placement driver does not answer.
    #[error("placement driver: {0}")]
    PdClient(#[from] cairn_pd_client::PdError),
    /// A SQL node does not start.
    #[error("SQL node: {}", .0.to_mysql().message)]
    Sql(#[from] cairn_sql::SqlError),
    /// The load generator ends without success.
    #[error("bench: {0}")]
    Bench(#[from] cairn_bench::BenchError),
}

impl StartError {
    /// An I/O error with what was tried.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        StartError::Io { what: what.into(), source }
    }
}
