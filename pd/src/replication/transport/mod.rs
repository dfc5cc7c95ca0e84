//! How Raft messages reach other members.
//!
//! Messages may be lost, doubled or late, and are never waited for: a full queue drops
//! them and tells Raft that the member is unreachable.

mod frames;
mod grpc;
mod local;

use std::sync::Arc;

use cairn_pd_client::PdError;
use cairn_proto::pd::RaftHead;
use raft::eraftpb::Message;
use tokio::sync::mpsc;

pub(crate) use grpc::WIRE_BYTES_MAX;
pub use grpc::{GrpcTransport, serve_exchange};
pub use local::LocalNetwork;

use super::Request;
use super::files::Identity;
use super::shared::Shared;

/// A way to other members.
pub trait Transport: Send + Sync + 'static {
    /// From now on the member's own messages come from, and others' reach, this inbox.
    fn attach(&self, member_id: u64, inbox: Inbox);

    /// Sends to one member without waiting. What is lost is reported to the inbox of the
    /// sender.
    fn send(&self, to: u64, address: &str, messages: Vec<Message>);
}

/// A member that has no others.
pub struct NoTransport;

impl Transport for NoTransport {
    fn attach(&self, _member_id: u64, _inbox: Inbox) {}

    fn send(&self, _to: u64, _address: &str, _messages: Vec<Message>) {}
}

/// How a member introduces itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Id and token.
    pub identity: Identity,
    /// What people call it.
    pub name: String,
    /// Where others reach it.
    pub address: String,
}

/// Why a stream of another member is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The sender belongs to the group no more.
    Removed,
    /// The stream is meant for somebody else, or comes of a stranger.
    Stranger(String),
}

/// Where messages of other members come in.
#[derive(Clone)]
pub struct Inbox {
    own: Arc<Introduction>,
    shared: Arc<Shared>,
    messages: mpsc::Sender<Vec<Message>>,
    requests: mpsc::Sender<Request>,
}

impl Inbox {
    pub(super) fn new(
        own: Introduction,
        shared: Arc<Shared>,
        messages: mpsc::Sender<Vec<Message>>,
        requests: mpsc::Sender<Request>,
    ) -> Inbox {
        Inbox { own: Arc::new(own), shared, messages, requests }
    }

    /// Hands messages over; a full queue loses them.
    pub fn deliver(&self, messages: Vec<Message>) {
        if self.messages.try_send(messages).is_err() {
            tracing::debug!("messages of other members are dropped: too many wait");
        }
    }

    /// Messages of this member to another were lost.
    pub fn report_unreachable(&self, member_id: u64) {
        // A loop that is too busy to hear it will find out by itself.
        let _ = self.requests.try_send(Request::Unreachable(member_id));
    }

    /// Another member says that this one was removed.
    pub(super) fn report_removed(&self) {
        let _ = self.requests.try_send(Request::Removed);
    }

    /// The head of a stream to another member.
    pub(super) fn head(&self, to: u64) -> RaftHead {
        let own = &self.own;
        let state = self.shared.state().read();
        RaftHead {
            cluster_id: state.cluster_id,
            provisional_cluster_id: state.provisional_cluster_id,
            from: own.identity.member_id,
            to,
            name: own.name.clone(),
            address: own.address.clone(),
            token: own.identity.token,
            founders: state.members.founders_checksum(),
        }
    }

    /// Whether a stream may come in; learns the sender's address.
    pub fn admit(&self, head: &RaftHead) -> Result<(), Refusal> {
        let stranger = |reason: String| Err(Refusal::Stranger(reason));
        let own_id = self.own.identity.member_id;
        if head.to != own_id {
            return stranger(format!("this is member {own_id}, not {}", head.to));
        }
        let state = self.shared.state().read();
        let (ours, theirs) = (state.cluster_id, head.cluster_id);
        // Whichever of both has not heard yet that the cluster's identity was recovered.
        let behind = ours == head.provisional_cluster_id || theirs == state.provisional_cluster_id;
        if ours != 0 && theirs != 0 && ours != theirs && !behind {
            return stranger(format!("this is cluster {ours}, not {theirs}"));
        }
        let members = &state.members;
        if members.founders_checksum() != head.founders {
            return stranger("the clusters began with different members".into());
        }
        if members.was_removed(head.from) {
            return Err(Refusal::Removed);
        }
        let known = members.get(head.from).map_or(0, |member| member.token);
        if known != 0 && known != head.token {
            return stranger(format!(
                "member {} has another data folder than before: remove the member, and let it \
                 join anew with an empty folder",
                head.name
            ));
        }
        drop(state);
        self.shared.note_address(head.from, &head.address);
        self.shared.note_introduction(head);
        Ok(())
    }
}

impl From<Refusal> for PdError {
    fn from(refusal: Refusal) -> PdError {
        match refusal {
            Refusal::Removed => PdError::InvalidArgument("the member was removed".into()),
            Refusal::Stranger(reason) => PdError::ClusterMismatch(reason),
        }
    }
}
