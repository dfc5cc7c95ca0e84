//! Stores that share a process: messages go from mailbox to mailbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_proto::kv;
use parking_lot::RwLock;

use super::snapshots::FileReader;
use super::{RaftInbox, Transport, report_sent, report_unreachable};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::snapshot::{SnapshotReader, SnapshotRoom};
use crate::raftstore::store::OutgoingSnapshot;
use crate::raftstore::threads;
use crate::raftstore::worker::Mailbox;

/// The stores of a process.
#[derive(Default)]
pub struct LocalNetwork {
    stores: RwLock<BTreeMap<u64, RaftInbox>>,
}

impl LocalNetwork {
    /// A network without stores.
    pub fn new() -> Arc<LocalNetwork> {
        Arc::new(LocalNetwork::default())
    }

    /// From now on messages reach this store.
    pub fn join(&self, store_id: u64, inbox: RaftInbox) {
        self.stores.write().insert(store_id, inbox);
    }

    /// The store has left.
    pub fn leave(&self, store_id: u64) {
        self.stores.write().remove(&store_id);
    }

    fn inbox(&self, store_id: u64) -> Option<RaftInbox> {
        self.stores.read().get(&store_id).cloned()
    }
}

/// A transport between the stores of a process, with another way to all others.
pub struct LocalTransport {
    network: Arc<LocalNetwork>,
    elsewhere: Option<Arc<dyn Transport>>,
}

impl LocalTransport {
    /// Without `elsewhere`, only stores of the network can be reached.
    pub fn new(
        network: Arc<LocalNetwork>,
        elsewhere: Option<Arc<dyn Transport>>,
    ) -> LocalTransport {
        LocalTransport { network, elsewhere }
    }
}

impl Transport for LocalTransport {
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>) {
        let mut by_store: BTreeMap<u64, Vec<kv::RaftMessage>> = BTreeMap::new();
        for message in messages {
            let store_id = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
            by_store.entry(store_id).or_default().push(message);
        }
        for (store_id, messages) in by_store {
            match (self.network.inbox(store_id), &self.elsewhere) {
                (Some(inbox), _) => inbox.deliver(messages),
                (None, Some(elsewhere)) => elsewhere.send(from, messages),
                (None, None) => report_unreachable(from, &messages),
            }
        }
    }

    fn send_snapshot(&self, from: &Mailbox, room: &Arc<SnapshotRoom>, snapshot: OutgoingSnapshot) {
        let store_id = snapshot.head.to_peer.as_ref().map_or(0, |peer| peer.store_id);
        let Some(inbox) = self.network.inbox(store_id) else {
            match &self.elsewhere {
                Some(elsewhere) => elsewhere.send_snapshot(from, room, snapshot),
                None => report_sent(from, &snapshot, false),
            }
            return;
        };
        let (mailbox, room) = (from.clone(), room.clone());
        let copy = move || {
            let outcome = copy_snapshot(&inbox, &room, &snapshot);
            if let Err(error) = &outcome {
                tracing::warn!(region = snapshot.head.region_id, %error, "raft snapshot not sent");
            }
            report_sent(&mailbox, &snapshot, outcome.is_ok());
        };
        if let Err(error) = threads::spawn("raft-snapshot", copy) {
            tracing::error!(%error, "no thread for a raft snapshot");
        }
    }
}

fn copy_snapshot(
    inbox: &RaftInbox,
    room: &SnapshotRoom,
    snapshot: &OutgoingSnapshot,
) -> Result<(), RaftStoreError> {
    if !room.uses_files() {
        let mut receiver = inbox.receive_snapshot(snapshot.head.clone(), None)?;
        let mut reader = SnapshotReader::new(snapshot.engine.clone(), &snapshot.region);
        while let Some(chunk) = reader.next_chunk()? {
            let checksum = crc32fast::hash(&chunk);
            receiver.push(chunk, checksum)?;
        }
        return receiver.finish();
    }
    let approximate_bytes = room.approximate_bytes(&snapshot.region);
    let region_id = snapshot.head.region_id;
    let request = kv::SnapshotPrecheckRequest { region_id, approximate_bytes };
    let refusal = inbox.precheck(&request).refusal;
    if !refusal.is_empty() {
        return Err(RaftStoreError::Raft(refusal));
    }
    let files = room.build(snapshot)?;
    let manifest = files.manifest().clone();
    let mut receiver = inbox.receive_snapshot(snapshot.head.clone(), Some(manifest))?;
    let mut reader = FileReader::new(files);
    while let Some(chunk) = reader.next_chunk()? {
        threads::pause(room.pace(chunk.data.len() as u64));
        receiver.push(chunk.data, chunk.checksum)?;
    }
    receiver.finish()
}
