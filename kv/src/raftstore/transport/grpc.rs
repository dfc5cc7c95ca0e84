//! Stores in other processes: one gRPC stream per pair of stores and direction.
//!
//! Messages that wait together leave together. A stream that breaks is opened again, with
//! the address asked of PD anew, or the last known one if PD does not answer soon: elections
//! need no PD. What waits meanwhile is dropped, as Raft expects.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cairn_pd_client::PdClient;
use cairn_proto::kv;
use cairn_proto::kv::kv_client::KvClient;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{RaftInbox, Transport, report_sent, report_unreachable, snapshots};
use crate::raftstore::snapshot::SnapshotRoom;
use crate::raftstore::store::OutgoingSnapshot;
use crate::raftstore::worker::Mailbox;

/// Groups of messages that wait for one store.
const QUEUE_GROUPS_MAX: usize = 1024;
/// Groups handed to the stream and not yet taken by it.
const STREAM_GROUPS_MAX: usize = 4;
/// A message of the stream is closed once it holds this much.
const STREAM_MESSAGE_BYTES: usize = 1024 * 1024;
/// Raft messages and chunks may be that large on the wire.
pub const WIRE_BYTES_MAX: usize = 128 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long PD is waited for to say where a store is that an address is known of.
const PD_PATIENCE: Duration = Duration::from_millis(500);
/// The same, where there is nothing to go on with.
const PD_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A store that went silent is noticed after these two together. Until then messages wait in
/// a connection whose next attempt to send may be many seconds away when the network is
/// whole again; a new connection carries them at once.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Between attempts to reach a store.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A transport over gRPC.
pub struct GrpcTransport {
    pd: Arc<dyn PdClient>,
    runtime: tokio::runtime::Handle,
    links: Mutex<HashMap<u64, mpsc::Sender<Vec<kv::RaftMessage>>>>,
}

impl GrpcTransport {
    /// Addresses come of PD; streams live on the runtime.
    pub fn new(pd: Arc<dyn PdClient>, runtime: tokio::runtime::Handle) -> GrpcTransport {
        GrpcTransport { pd, runtime, links: Mutex::new(HashMap::new()) }
    }

    fn link(&self, store_id: u64, from: &Mailbox) -> mpsc::Sender<Vec<kv::RaftMessage>> {
        let mut links = self.links.lock();
        let link = links.entry(store_id).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE_GROUPS_MAX);
            self.runtime.spawn(run_link(self.pd.clone(), store_id, receiver, from.clone()));
            sender
        });
        link.clone()
    }
}

impl Transport for GrpcTransport {
    fn send(&self, from: &Mailbox, messages: Vec<kv::RaftMessage>) {
        let mut by_store: HashMap<u64, Vec<kv::RaftMessage>> = HashMap::new();
        for message in messages {
            let store_id = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
            by_store.entry(store_id).or_default().push(message);
        }
        for (store_id, messages) in by_store {
            if let Err(refused) = self.link(store_id, from).try_send(messages) {
                report_unreachable(from, &refused.into_inner());
            }
        }
    }

    fn send_snapshot(&self, from: &Mailbox, room: &Arc<SnapshotRoom>, snapshot: OutgoingSnapshot) {
        let (pd, mailbox, room) = (self.pd.clone(), from.clone(), room.clone());
        self.runtime.spawn(async move {
            let snapshot = Arc::new(snapshot);
            let sent = match snapshots::send(pd.as_ref(), room, snapshot.clone()).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(region = snapshot.head.region_id, error, "raft snapshot");
                    false
                }
            };
            report_sent(&mailbox, &snapshot, sent);
        });
    }
}

/// A connection to a store, at the address PD knows.
pub(crate) async fn connect(pd: &dyn PdClient, store_id: u64) -> Result<KvClient<Channel>, String> {
    let asked = tokio::time::timeout(PD_CALL_TIMEOUT, pd.get_store(store_id)).await;
    let store = asked.map_err(|_| "PD does not tell where the store is".to_owned())?;
    dial(&store.map_err(|error| error.to_string())?.address).await
}

async fn dial(address: &str) -> Result<KvClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    Ok(KvClient::new(channel)
        .max_decoding_message_size(WIRE_BYTES_MAX)
        .max_encoding_message_size(WIRE_BYTES_MAX))
}

/// Carries messages to one store until the transport is dropped.
async fn run_link(
    pd: Arc<dyn PdClient>,
    store_id: u64,
    mut queue: mpsc::Receiver<Vec<kv::RaftMessage>>,
    from: Mailbox,
) {
    let mut address = Err("its address is not known yet".to_owned());
    while let Some(first) = queue.recv().await {
        match tokio::time::timeout(PD_PATIENCE, pd.get_store(store_id)).await {
            Ok(Ok(store)) => address = Ok(store.address),
            Ok(Err(error)) if error.denies_store() => address = Err(error.to_string()),
            // A PD in trouble does not come between stores that know each other.
            Ok(Err(_)) | Err(_) => {}
        }
        let client = match &address {
            Ok(address) => dial(address).await,
            Err(reason) => Err(reason.clone()),
        };
        let lost = match client {
            Ok(client) => run_stream(client, first, &mut queue).await,
            Err(error) => {
                tracing::debug!(store = store_id, error, "store is unreachable");
                first
            }
        };
        report_unreachable(&from, &lost);
        tokio::time::sleep(RECONNECT_PAUSE).await;
        while let Ok(stale) = queue.try_recv() {
            report_unreachable(&from, &stale);
        }
    }
}

/// Carries messages over one stream until it breaks; answers messages that were lost.
async fn run_stream(
    mut client: KvClient<Channel>,
    first: Vec<kv::RaftMessage>,
    queue: &mut mpsc::Receiver<Vec<kv::RaftMessage>>,
) -> Vec<kv::RaftMessage> {
    let (sender, receiver) = mpsc::channel(STREAM_GROUPS_MAX);
    let call = client.raft(ReceiverStream::new(receiver));
    tokio::pin!(call);
    let mut messages = VecDeque::from(first);
    loop {
        let batch = next_batch(&mut messages, queue);
        tokio::select! {
            _ = &mut call => return batch.messages.into_iter().chain(messages).collect(),
            place = sender.reserve() => match place {
                Ok(place) => place.send(batch),
                Err(_) => return batch.messages.into_iter().chain(messages).collect(),
            },
        }
        if !messages.is_empty() {
            continue;
        }
        tokio::select! {
            _ = &mut call => return Vec::new(),
            more = queue.recv() => match more {
                Some(more) => messages.extend(more),
                None => return Vec::new(),
            },
        }
    }
}

/// Takes messages that wait, up to the size of a message of the stream; at least one.
fn next_batch(
    messages: &mut VecDeque<kv::RaftMessage>,
    queue: &mut mpsc::Receiver<Vec<kv::RaftMessage>>,
) -> kv::RaftMessageBatch {
    let mut batch = kv::RaftMessageBatch::default();
    let mut bytes = 0;
    while bytes < STREAM_MESSAGE_BYTES {
        if messages.is_empty()
            && let Ok(more) = queue.try_recv()
        {
            messages.extend(more);
        }
        let Some(message) = messages.pop_front() else { break };
        bytes += message.message.len();
        batch.messages.push(message);
    }
    batch
}

/// The store's side of the `Raft` rpc.
pub async fn serve_raft_stream<S>(
    inbox: &RaftInbox,
    mut stream: S,
) -> Result<kv::RaftDone, tonic::Status>
where
    S: Stream<Item = Result<kv::RaftMessageBatch, tonic::Status>> + Unpin,
{
    while let Some(batch) = stream.next().await {
        inbox.deliver(batch?.messages);
    }
    Ok(kv::RaftDone {})
}
