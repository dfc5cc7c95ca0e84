//! What goes wrong: a failure of one attempt at a transaction, and an error that ends the
//! program.

use mysql_async::{DriverError, Error};
use tokio::task::JoinError;

/// Errors of servers that pass: the statement had no effect or its transaction is gone, and
/// an application tries again.
///
/// 1020 record changed since the snapshot (MariaDB), 1047 node not ready (Galera), 1053 server
/// shutdown, 1205 lock wait timeout, 1213 deadlock, 1927 connection killed (MariaDB); TiDB's
/// 8002 conflict under `FOR UPDATE`, 8022 commit failed, 8028 schema changed, 9001 to 9005 PD or a
/// store times out, is busy, or a region has no leader, 9007 write conflict.
const PASSING: &[u16] =
    &[1020, 1047, 1053, 1205, 1213, 1927, 8002, 8022, 8028, 9001, 9002, 9003, 9004, 9005, 9007];

/// A row with this key is there already.
const DUPLICATE_KEY: u16 = 1062;

/// Why one attempt did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server answered an error.
    #[error("error {code}: {message}")]
    Server {
        /// MySQL's number.
        code: u16,
        /// The text.
        message: String,
    },
    /// No connection could be made: the statement was never sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The connection broke: nobody knows what became of the statement.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server answered something that no correct server answers: a row is missing, a sum
    /// is wrong.
    #[error("wrong answer: {0}")]
    Wrong(String),
    /// The driver cannot do what was asked.
    #[error("{0}")]
    Driver(String),
}

impl Failure {
    /// Whether an application may simply try the transaction again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Failure::Server { code, .. } => PASSING.contains(code),
            Failure::Unreachable(_) | Failure::Lost(_) => true,
            Failure::Wrong(_) | Failure::Driver(_) => false,
        }
    }

    /// Whether `--ignore-errors` may go on after it: never after a wrong answer.
    pub fn is_ignorable(&self) -> bool {
        !matches!(self, Failure::Wrong(_))
    }

    /// Whether the server refused a row because its key is there already.
    pub fn is_duplicate_key(&self) -> bool {
        matches!(self, Failure::Server { code: DUPLICATE_KEY, .. })
    }

    /// Under which name it is counted: the server's number, or a word.
    pub fn label(&self) -> String {
        match self {
            Failure::Server { code, .. } => code.to_string(),
            Failure::Unreachable(_) => "no_connection".to_owned(),
            Failure::Lost(_) => "connection_lost".to_owned(),
            Failure::Wrong(_) => "wrong_answer".to_owned(),
            Failure::Driver(_) => "driver".to_owned(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => Failure::Server { code: error.code, message: error.message },
            Error::Io(_)
            | Error::Driver(
                DriverError::ConnectionClosed
                | DriverError::PacketOutOfOrder
                | DriverError::UnexpectedPacket { .. },
            ) => Failure::Lost(error.to_string()),
            other => Failure::Driver(other.to_string()),
        }
    }
}

/// What a task said, where its panic is a failure too.
pub fn task_outcome(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|error| Err(Failure::Driver(format!("a task ended: {error}"))))
}

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option is wrong, or does not fit what the database holds.
    #[error("{0}")]
    Options(String),
    /// Something failed that is not tried again.
    #[error("{what}: {source}")]
    Failed {
        /// What was tried.
        what: String,
        /// How it failed.
        source: Failure,
    },
    /// The data contradict a condition of the workload.
    #[error("{0} consistency check(s) failed")]
    Inconsistent(usize),
    /// The file of the summary cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// How it failed.
        source: std::io::Error,
    },
    /// Ctrl-C before the work was done.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// Says what was tried.
    pub fn failed(what: impl Into<String>) -> impl FnOnce(Failure) -> BenchError {
        |source| BenchError::Failed { what: what.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16) -> Failure {
        Failure::Server { code, message: String::new() }
    }

    #[test]
    fn passing_errors_are_tried_again_and_others_are_not() {
        for code in [1213, 1205, 9007, 8022, 8002] {
            assert!(server(code).is_retryable(), "{code}");
        }
        assert!(Failure::Lost(String::new()).is_retryable());
        assert!(Failure::Unreachable(String::new()).is_retryable());
        for code in [1045, 1054, 1062, 1064, 1146] {
            assert!(!server(code).is_retryable(), "{code}");
        }
        assert!(!Failure::Wrong(String::new()).is_retryable());
        assert!(!Failure::Wrong(String::new()).is_ignorable());
        assert_eq!(server(1213).label(), "1213");
    }
}
