//! The crate's error: everything a statement can end with, mapped once to MySQL's number,
//! SQLSTATE and message.

use cairn_kv_client::KvError;
use cairn_types::{MysqlError, errno};

use crate::protocol::ProtocolError;

/// Error 1835: `Malformed communication packet.`
const ER_MALFORMED_PACKET: u16 = 1835;

/// Why a statement or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// An error with its MySQL form: parse, bind, evaluation and statement errors.
    #[error("{0}")]
    Mysql(MysqlError),
    /// The statement was cancelled by KILL, a timeout or the client's departure.
    #[error("Query execution was interrupted")]
    Interrupted,
    /// The key-value tier failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The placement driver failed.
    #[error(transparent)]
    Pd(#[from] cairn_pd_client::PdError),
    /// The client's socket or packets failed; there is nobody to answer to.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// Stored metadata does not decode: a broken invariant, told with its key.
    #[error("stored schema is damaged: {0}")]
    DamagedSchema(String),
}

/// What the crate's functions answer.
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

impl SqlError {
    /// An error by number and message.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        SqlError::Mysql(MysqlError::new(code, message))
    }

    /// A statement, clause or option that Cairn does not have.
    pub fn not_supported(what: &str) -> Self {
        Self::new(
            errno::ER_NOT_SUPPORTED_YET,
            format!("This version of Cairn doesn't yet support '{what}'"),
        )
    }

    /// The form a client sees.
    pub fn to_mysql(&self) -> MysqlError {
        match self {
            SqlError::Mysql(error) => error.clone(),
            SqlError::Interrupted => {
                MysqlError::new(errno::ER_QUERY_INTERRUPTED, "Query execution was interrupted")
            }
            // Applications know what to do about a deadlock: start over. The keys and
            // timestamps of the conflict are in the log.
            SqlError::Kv(error @ KvError::ReadChanged { .. }) => {
                tracing::debug!(%error, "transaction is not serializable");
                MysqlError::new(
                    errno::ER_LOCK_DEADLOCK,
                    "Serialization failure: what the transaction has read was changed; \
                     try restarting transaction",
                )
            }
            SqlError::Kv(error) if error.is_txn_retryable() => {
                tracing::debug!(%error, "transaction lost a conflict");
                MysqlError::new(
                    errno::ER_LOCK_DEADLOCK,
                    "Deadlock found when trying to get lock; try restarting transaction",
                )
            }
            SqlError::Kv(error) => MysqlError::new(error.mysql_code(), error.to_string()),
            SqlError::Pd(error) => MysqlError::new(
                errno::ER_UNKNOWN_ERROR,
                format!("placement driver unavailable: {error}"),
            ),
            SqlError::Protocol(error) => MysqlError::new(ER_MALFORMED_PACKET, error.to_string()),
            SqlError::DamagedSchema(_) => {
                MysqlError::new(errno::ER_UNKNOWN_ERROR, self.to_string())
            }
        }
    }
}

impl From<MysqlError> for SqlError {
    fn from(error: MysqlError) -> Self {
        SqlError::Mysql(error)
    }
}
