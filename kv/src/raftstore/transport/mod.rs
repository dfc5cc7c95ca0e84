//! How Raft messages and Raft snapshots reach other stores.
//!
//! Messages may be lost, doubled or late, and are never waited for: a full queue drops
//! them and tells Raft that the peer is unreachable.

mod grpc;
mod local;
mod snapshots;

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv;

pub(crate) use grpc::connect;
pub use grpc::{GrpcTransport, serve_raft_stream};
pub use local::{LocalNetwork, LocalTransport};
pub use snapshots::serve_snapshot_stream;

use super::error::RaftStoreError;
use super::peer::snapshot_region;
use super::snapshot::{FileSpool, SnapshotData, SnapshotRoom, SnapshotSpool};
use super::store::{OutgoingSnapshot, StoreMessage, decode_message};
use super::worker::Mailbox;

/// A way to other stores.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages without waiting. Lost ones are reported to `from`.
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>);

    /// Begins to send a Raft snapshot, whose files are built in the sender's room; `from`
    /// hears how it went.
    fn send_snapshot(&self, from: &Mailbox, room: &Arc<SnapshotRoom>, snapshot: OutgoingSnapshot);
}

/// A transport for stores that are alone.
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>) {
        report_unreachable(from, &messages);
    }

    fn send_snapshot(&self, from: &Mailbox, _room: &Arc<SnapshotRoom>, snapshot: OutgoingSnapshot) {
        report_sent(from, &snapshot, false);
    }
}

/// Where messages of other stores come in.
#[derive(Clone)]
pub struct RaftInbox {
    mailbox: Mailbox,
    room: Arc<SnapshotRoom>,
}

impl RaftInbox {
    pub(super) fn new(mailbox: Mailbox, room: Arc<SnapshotRoom>) -> RaftInbox {
        RaftInbox { mailbox, room }
    }

    /// Takes messages; drops them if the store is behind.
    pub fn deliver(&self, messages: Vec<kv::RaftMessage>) {
        if self.mailbox.try_send(StoreMessage::Raft(messages)).is_err() {
            tracing::debug!("raft mailbox is full: messages dropped");
        }
    }

    /// Whether a Raft snapshot might come now; asked before it is built.
    pub fn precheck(&self, request: &kv::SnapshotPrecheckRequest) -> kv::SnapshotPrecheckResponse {
        let refusal = self.room.refusal(request.approximate_bytes).unwrap_or_default();
        kv::SnapshotPrecheckResponse { refusal }
    }

    /// Begins to collect a Raft snapshot for the message at its head: the files of the
    /// manifest, or records without one.
    pub fn receive_snapshot(
        &self,
        head: kv::RaftMessage,
        manifest: Option<kv::SnapshotManifest>,
    ) -> Result<SnapshotReceiver, RaftStoreError> {
        let spool = match manifest {
            None => Spool::Records(SnapshotSpool::memory()),
            Some(manifest) => {
                let message = decode_message(&head.message);
                let region = message.as_ref().and_then(snapshot_region);
                let region = region.ok_or(RaftStoreError::Corrupted("snapshot: no region"))?;
                Spool::Files(Box::new(self.room.receive(&region, manifest)?))
            }
        };
        Ok(SnapshotReceiver { mailbox: self.mailbox.clone(), head, spool })
    }
}

enum Spool {
    Records(SnapshotSpool),
    Files(Box<FileSpool>),
}

/// One Raft snapshot that is coming in. Dropped before its end it leaves nothing behind.
pub struct SnapshotReceiver {
    mailbox: Mailbox,
    head: kv::RaftMessage,
    spool: Spool,
}

impl SnapshotReceiver {
    /// Takes a chunk.
    pub fn push(&mut self, chunk: Bytes, checksum: u32) -> Result<(), RaftStoreError> {
        match &mut self.spool {
            Spool::Records(spool) => spool.push(chunk, checksum),
            Spool::Files(spool) => spool.push(&chunk, checksum),
        }
    }

    /// Hands the complete snapshot to the store.
    pub fn finish(self) -> Result<(), RaftStoreError> {
        let data = match self.spool {
            Spool::Records(spool) => spool.finish()?,
            Spool::Files(spool) => spool.finish()?,
        };
        self.mailbox.try_send(StoreMessage::Snapshot(Box::new(self.head), data)).map_err(
            |refused| {
                if let StoreMessage::Snapshot(_, data) = *refused {
                    SnapshotData::discard(&data);
                }
                RaftStoreError::Raft("raft mailbox is full".to_owned())
            },
        )
    }
}

/// Tells a store that its messages did not arrive.
fn report_unreachable(from: &Mailbox, messages: &[kv::RaftMessage]) {
    for message in messages {
        let peer_id = message.to_peer.as_ref().map_or(0, |peer| peer.id);
        let report = StoreMessage::Unreachable { region_id: message.region_id, peer_id };
        if from.try_send(report).is_err() {
            return;
        }
    }
}

/// Tells a store how the transfer of its Raft snapshot went.
fn report_sent(from: &Mailbox, snapshot: &OutgoingSnapshot, sent: bool) {
    from.answer(StoreMessage::SnapshotSent {
        region_id: snapshot.head.region_id,
        peer_id: snapshot.peer_id,
        sent,
    });
}
