//! Errors of the placement driver as its clients see them.

use cairn_proto::pd::{Error, ErrorKind, ResponseHeader};
use thiserror::Error as ThisError;

/// Why a call to PD failed.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum PdError {
    /// The asked member does not lead. Holds the leader's address, empty when the member
    /// knows of none.
    #[error("placement driver: not the leader{}", led_by(.0))]
    NotLeader(String),
    /// The cluster has no store and no region yet.
    #[error("placement driver: the cluster is not bootstrapped")]
    NotBootstrapped,
    /// Another store created the first region before.
    #[error("placement driver: the cluster is already bootstrapped")]
    AlreadyBootstrapped,
    /// The store was removed for good and must not come back.
    #[error("placement driver: store is a tombstone: {0}")]
    StoreTombstone(String),
    /// No region holds the key or has the id.
    #[error("placement driver: region not found: {0}")]
    RegionNotFound(String),
    /// No store has the id.
    #[error("placement driver: store not found: {0}")]
    StoreNotFound(String),
    /// The request was meant for another cluster.
    #[error("placement driver: wrong cluster: {0}")]
    ClusterMismatch(String),
    /// The request makes no sense, whoever it is sent to.
    #[error("placement driver: invalid argument: {0}")]
    InvalidArgument(String),
    /// No member could be reached, or the connection broke.
    #[error("placement driver: unavailable: {0}")]
    Unavailable(String),
    /// The call's time was over before an answer came.
    #[error("placement driver: no answer within {timeout_ms} ms")]
    DeadlineExceeded {
        /// Time the call was given.
        timeout_ms: u64,
    },
    /// Too many calls wait already.
    #[error("placement driver: too many waiting requests")]
    Overloaded,
    /// Anything else PD reported.
    #[error("placement driver: {0}")]
    Internal(String),
}

/// Who leads, as the end of a sentence.
fn led_by(address: &str) -> String {
    if address.is_empty() { "; nobody leads yet".into() } else { format!("; {address} leads") }
}

impl PdError {
    /// Whether the same call may succeed later or at another member.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            PdError::NotLeader(_)
                | PdError::Unavailable(_)
                | PdError::DeadlineExceeded { .. }
                | PdError::Overloaded
        )
    }

    /// Whether PD says that there is no such store (any more).
    pub fn denies_store(&self) -> bool {
        matches!(self, PdError::StoreNotFound(_) | PdError::StoreTombstone(_))
    }

    /// The header's error, if it has one.
    pub fn from_header(header: Option<&ResponseHeader>) -> Result<(), PdError> {
        match header.and_then(|header| header.error.as_ref()) {
            Some(error) if error.kind() != ErrorKind::Ok => Err(PdError::from(error.clone())),
            _ => Ok(()),
        }
    }
}

impl From<Error> for PdError {
    fn from(error: Error) -> PdError {
        let kind = error.kind();
        let message = error.message;
        match kind {
            ErrorKind::NotLeader => PdError::NotLeader(message),
            ErrorKind::NotBootstrapped => PdError::NotBootstrapped,
            ErrorKind::AlreadyBootstrapped => PdError::AlreadyBootstrapped,
            ErrorKind::StoreTombstone => PdError::StoreTombstone(message),
            ErrorKind::RegionNotFound => PdError::RegionNotFound(message),
            ErrorKind::StoreNotFound => PdError::StoreNotFound(message),
            ErrorKind::ClusterMismatch => PdError::ClusterMismatch(message),
            ErrorKind::InvalidArgument => PdError::InvalidArgument(message),
            ErrorKind::Unavailable => PdError::Unavailable(message),
            ErrorKind::Ok | ErrorKind::Unknown => PdError::Internal(message),
        }
    }
}

impl From<&PdError> for Error {
    fn from(error: &PdError) -> Error {
        let (kind, message) = match error {
            PdError::NotLeader(message) => (ErrorKind::NotLeader, message.clone()),
            PdError::NotBootstrapped => (ErrorKind::NotBootstrapped, String::new()),
            PdError::AlreadyBootstrapped => (ErrorKind::AlreadyBootstrapped, String::new()),
            PdError::StoreTombstone(message) => (ErrorKind::StoreTombstone, message.clone()),
            PdError::RegionNotFound(message) => (ErrorKind::RegionNotFound, message.clone()),
            PdError::StoreNotFound(message) => (ErrorKind::StoreNotFound, message.clone()),
            PdError::ClusterMismatch(message) => (ErrorKind::ClusterMismatch, message.clone()),
            PdError::InvalidArgument(message) => (ErrorKind::InvalidArgument, message.clone()),
            PdError::Internal(message) => (ErrorKind::Unknown, message.clone()),
            PdError::Unavailable(message) => (ErrorKind::Unavailable, message.clone()),
            PdError::DeadlineExceeded { .. } | PdError::Overloaded => {
                (ErrorKind::Unavailable, error.to_string())
            }
        };
        Error { kind: kind.into(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_wire() {
        let errors = [
            PdError::NotLeader("a:1".into()),
            PdError::Unavailable("b".into()),
            PdError::NotBootstrapped,
            PdError::AlreadyBootstrapped,
            PdError::StoreTombstone("store 3".into()),
            PdError::RegionNotFound("id 7".into()),
            PdError::StoreNotFound("4".into()),
            PdError::ClusterMismatch("1 and 2".into()),
            PdError::InvalidArgument("x".into()),
            PdError::Internal("y".into()),
        ];
        for error in errors {
            let header = ResponseHeader { cluster_id: 1, error: Some(Error::from(&error)) };
            assert_eq!(PdError::from_header(Some(&header)), Err(error));
        }
        assert_eq!(PdError::from_header(Some(&ResponseHeader::default())), Ok(()));
        assert_eq!(PdError::from_header(None), Ok(()));
    }
}
