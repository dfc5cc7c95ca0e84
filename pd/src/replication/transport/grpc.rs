//! Members in other processes: one gRPC stream per pair of members and direction.
//!
//! Batches that wait together leave together. A stream that breaks is opened again; what
//! waits meanwhile is dropped, as Raft expects.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_proto::pd::pd_raft_client::PdRaftClient;
use cairn_proto::pd::{RaftFrame, RaftHead};
use parking_lot::Mutex;
use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::frames::{Assembler, FRAME_BYTES, frames};
use super::{Inbox, Refusal, Transport};

/// Batches that wait for one member.
const QUEUE_BATCHES_MAX: usize = 256;
/// Frames handed to the stream and not yet taken by it.
const STREAM_FRAMES_MAX: usize = 4;
/// A frame on the wire: its content and some for the fields around it.
pub(crate) const WIRE_BYTES_MAX: usize = 4 * FRAME_BYTES;
/// Shorter than an election, so that a member that comes back is heard in time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between attempts to reach a member.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A member that refuses us will hardly change its mind at once.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// A dead peer is noticed after this and the time-out behind it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A transport over gRPC.
pub struct GrpcTransport {
    runtime: tokio::runtime::Handle,
    own: Mutex<Option<Inbox>>,
    links: Mutex<BTreeMap<u64, Link>>,
}

/// The way to one member.
struct Link {
    address: String,
    batches: mpsc::Sender<Vec<Message>>,
}

impl GrpcTransport {
    /// Streams live on the runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> GrpcTransport {
        GrpcTransport { runtime, own: Mutex::default(), links: Mutex::default() }
    }
}

impl Transport for GrpcTransport {
    fn attach(&self, _member_id: u64, inbox: Inbox) {
        *self.own.lock() = Some(inbox);
    }

    fn send(&self, to: u64, address: &str, messages: Vec<Message>) {
        let Some(own) = self.own.lock().clone() else { return };
        if address.is_empty() {
            own.report_unreachable(to);
            return;
        }
        let mut links = self.links.lock();
        if links.get(&to).is_none_or(|link| link.address != address) {
            let (batches, waiting) = mpsc::channel(QUEUE_BATCHES_MAX);
            self.runtime.spawn(run_link(own.clone(), to, address.to_owned(), waiting));
            // The task of a former address ends with its queue.
            links.insert(to, Link { address: address.to_owned(), batches });
        }
        let sent = links.get(&to).is_some_and(|link| link.batches.try_send(messages).is_ok());
        drop(links);
        if !sent {
            own.report_unreachable(to);
        }
    }
}

/// Keeps a stream to one member open for as long as there is something to send.
async fn run_link(own: Inbox, to: u64, address: String, mut batches: mpsc::Receiver<Vec<Message>>) {
    while let Some(first) = batches.recv().await {
        let status = match connect(&address).await {
            Ok(client) => run_stream(&own, to, client, first, &mut batches).await,
            Err(error) => Status::unavailable(error),
        };
        own.report_unreachable(to);
        let pause = match status.code() {
            Code::PermissionDenied => {
                tracing::error!(member = to, "this member was removed: {}", status.message());
                own.report_removed();
                REFUSED_PAUSE
            }
            Code::FailedPrecondition => {
                tracing::error!(member = to, "refuses this member: {}", status.message());
                REFUSED_PAUSE
            }
            _ => {
                tracing::debug!(member = to, address, status = status.message(), "stream ended");
                RECONNECT_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
        // Raft has said everything anew by now.
        while batches.try_recv().is_ok() {}
    }
}

/// Sends until the stream breaks; answers why it did.
async fn run_stream(
    own: &Inbox,
    to: u64,
    mut client: PdRaftClient<Channel>,
    first: Vec<Message>,
    batches: &mut mpsc::Receiver<Vec<Message>>,
) -> Status {
    let (outgoing, stream) = mpsc::channel(STREAM_FRAMES_MAX);
    let exchange = client.exchange(ReceiverStream::new(stream));
    let feed = async {
        let head = RaftFrame { head: Some(own.head(to)), ..RaftFrame::default() };
        if outgoing.send(head).await.is_err() {
            return;
        }
        let mut next = Some(first);
        while let Some(mut messages) = next {
            while let Ok(more) = batches.try_recv() {
                messages.extend(more);
            }
            for frame in frames(messages) {
                if outgoing.send(frame).await.is_err() {
                    return;
                }
            }
            next = batches.recv().await;
        }
    };
    tokio::select! {
        outcome = exchange => match outcome {
            Ok(_) => Status::unavailable("the member ended the stream"),
            Err(status) => status,
        },
        () = feed => Status::cancelled("nothing more to send"),
    }
}

async fn connect(address: &str) -> Result<PdRaftClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    Ok(PdRaftClient::new(channel).max_encoding_message_size(WIRE_BYTES_MAX))
}

/// Reads the stream of another member to its end.
pub async fn serve_exchange<S>(inbox: &Inbox, mut stream: S) -> Result<(), Status>
where
    S: Stream<Item = Result<RaftFrame, Status>> + Unpin,
{
    let invalid = |reason: &str| Status::invalid_argument(reason.to_owned());
    let first = stream.next().await.ok_or_else(|| invalid("empty stream"))??;
    let head: RaftHead = first.head.ok_or_else(|| invalid("no head"))?;
    inbox.admit(&head).map_err(|refusal| match refusal {
        Refusal::Removed => Status::permission_denied(format!("member {}", head.from)),
        Refusal::Stranger(reason) => Status::failed_precondition(reason),
    })?;
    let mut assembler = Assembler::default();
    while let Some(frame) = stream.next().await {
        let messages = assembler.push(frame?).map_err(invalid)?;
        if messages.iter().any(|message| message.from != head.from) {
            return Err(invalid("a message of somebody else"));
        }
        inbox.deliver(messages);
    }
    Ok(())
}
