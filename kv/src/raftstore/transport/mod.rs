//! How Raft messages and Raft snapshots reach other stores.
//!
//! Messages may be lost, doubled or late, and are never waited for: a full queue drops
//! them and tells Raft that the peer is unreachable.

mod grpc;
mod local;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_proto::kv;

pub use grpc::{GrpcTransport, serve_raft_stream, serve_snapshot_stream};
pub use local::{LocalNetwork, LocalTransport};

use super::error::RaftStoreError;
use super::snapshot::SnapshotSpool;
use super::store::{OutgoingSnapshot, StoreMessage};
use super::worker::Mailbox;

/// A way to other stores.
pub trait Transport: Send + Sync + 'static {
    /// Sends messages without waiting. Lost ones are reported to `from`.
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>);

    /// Begins to send a Raft snapshot; `from` hears how it went.
    fn send_snapshot(&self, from: &Mailbox, snapshot: OutgoingSnapshot);
}

/// A transport for stores that are alone.
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>) {
        report_unreachable(from, &messages);
    }

    fn send_snapshot(&self, from: &Mailbox, snapshot: OutgoingSnapshot) {
        report_sent(from, &snapshot, false);
    }
}

/// Where messages of other stores come in.
#[derive(Clone)]
pub struct RaftInbox {
    mailbox: Mailbox,
    snapshot_dir: Option<std::path::PathBuf>,
    spools: Arc<AtomicU64>,
}

impl RaftInbox {
    pub(super) fn new(mailbox: Mailbox, snapshot_dir: Option<std::path::PathBuf>) -> RaftInbox {
        RaftInbox { mailbox, snapshot_dir, spools: Arc::new(AtomicU64::new(0)) }
    }

    /// Takes messages; drops them if the store is behind.
    pub fn deliver(&self, messages: Vec<kv::RaftMessage>) {
        if self.mailbox.try_send(StoreMessage::Raft(messages)).is_err() {
            tracing::debug!("raft mailbox is full: messages dropped");
        }
    }

    /// Begins to collect a Raft snapshot for the message at its head.
    pub fn receive_snapshot(
        &self,
        head: kv::RaftMessage,
    ) -> Result<SnapshotReceiver, RaftStoreError> {
        let spool = match &self.snapshot_dir {
            None => SnapshotSpool::memory(),
            Some(dir) => {
                let number = self.spools.fetch_add(1, Ordering::Relaxed);
                let term = head.epoch.as_ref().map_or(0, |epoch| epoch.conf_ver);
                let peer = head.to_peer.as_ref().map_or(0, |peer| peer.id);
                let name = format!("{}-{peer}-{term}-{number}.snapshot", head.region_id);
                SnapshotSpool::file(dir, &name)?
            }
        };
        Ok(SnapshotReceiver { inbox: self.clone(), head, spool })
    }
}

/// One Raft snapshot that is coming in.
pub struct SnapshotReceiver {
    inbox: RaftInbox,
    head: kv::RaftMessage,
    spool: SnapshotSpool,
}

impl SnapshotReceiver {
    /// Takes a chunk.
    pub fn push(&mut self, chunk: Bytes, checksum: u32) -> Result<(), RaftStoreError> {
        self.spool.push(chunk, checksum)
    }

    /// Hands the complete snapshot to the store.
    pub fn finish(self) -> Result<(), RaftStoreError> {
        let data = self.spool.finish()?;
        self.inbox.mailbox.try_send(StoreMessage::Snapshot(self.head, data)).map_err(|refused| {
            if let StoreMessage::Snapshot(_, data) = *refused {
                data.discard();
            }
            RaftStoreError::Raft("raft mailbox is full".to_owned())
        })
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
