//! How requests reach a store: the seam between the client and the KV tier.
//!
//! [`KvStoreService`] is implemented by a store for direct calls in one process
//! and by the gRPC client for remote stores; the rest of the client cannot tell
//! them apart.
//!
//! **Invariants.** Every queue is bounded. A transport never repeats a request:
//! repeating is the business of [`crate::request`], which knows what may have
//! happened ([`TransportError::maybe_executed`]).

mod grpc;
mod local;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::kv::{
    Context, CoprocessorRequest, CoprocessorResponse, KvRequest, KvResponse, StoreInfoResponse,
};
use cairn_proto::meta;
use futures::stream::BoxStream;
use thiserror::Error;

pub use grpc::{GrpcConnector, GrpcStore, MESSAGE_BYTES_MAX};
pub use local::LocalConnector;

/// Pages of one coprocessor task. Dropping the stream cancels the task.
pub type CoprocessorStream = BoxStream<'static, Result<CoprocessorResponse, TransportError>>;

/// A store, as its clients call it.
#[async_trait]
pub trait KvStoreService: Send + Sync {
    /// Executes one command. Errors about regions and keys are in the response;
    /// the outer error says that there is none.
    async fn call(&self, request: KvRequest) -> Result<KvResponse, TransportError>;

    /// A point read that is answered at once, without a future: only in-process,
    /// when the lease is valid. `None` means: use [`KvStoreService::call`].
    fn try_get_now(&self, _context: &Context, _key: &Bytes, _version: u64) -> Option<KvResponse> {
        None
    }

    /// Runs a plan fragment; pages come with back-pressure.
    async fn coprocessor(
        &self,
        request: CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError>;

    /// The store's own view of its regions, for tools and tests.
    async fn store_info(&self) -> Result<StoreInfoResponse, TransportError>;
}

/// Opens the way to a store. Called once per store and address.
pub trait StoreConnector: Send + Sync {
    /// Returns at once; connecting happens on first use.
    fn connect(&self, store: &meta::Store) -> Arc<dyn KvStoreService>;
}

/// Why no response came.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransportError {
    /// The request never left: no connection, or the queue is full.
    #[error("store at {address} is unreachable: {reason}")]
    Unreachable {
        /// The store's address.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// The connection broke while the request was under way.
    #[error("connection to the store at {address} was lost: {reason}")]
    ConnectionLost {
        /// The store's address.
        address: String,
        /// What the network said.
        reason: String,
    },
    /// No answer came in time.
    #[error("no answer from the store at {address} within {timeout_ms} ms")]
    DeadlineExceeded {
        /// The store's address.
        address: String,
        /// Time the request was given.
        timeout_ms: u64,
    },
    /// The store is stopping, or this process is.
    #[error("store at {address} is shutting down")]
    ShuttingDown {
        /// The store's address.
        address: String,
    },
    /// The peer broke the protocol.
    #[error("malformed answer from the store at {address}: {reason}")]
    Malformed {
        /// The store's address.
        address: String,
        /// What was wrong.
        reason: String,
    },
}

impl TransportError {
    /// Whether the store may have executed the request all the same.
    pub fn maybe_executed(&self) -> bool {
        match self {
            TransportError::Unreachable { .. } => false,
            TransportError::ConnectionLost { .. }
            | TransportError::DeadlineExceeded { .. }
            | TransportError::ShuttingDown { .. }
            | TransportError::Malformed { .. } => true,
        }
    }
}
