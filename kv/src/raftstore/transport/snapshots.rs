//! Raft snapshots over gRPC: ask, build, stream; and the receiving side.
//!
//! Back-pressure is HTTP/2's: the sender reads the next chunk from its file when the
//! stream has taken the one before, and the receiver takes one when the last is written.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_pd_client::PdClient;
use cairn_proto::kv;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use super::grpc::connect;
use super::{RaftInbox, SnapshotReceiver};
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::snapshot::{CHUNK_BYTES, SnapshotFiles, SnapshotRoom};
use crate::raftstore::store::OutgoingSnapshot;

/// Chunks that wait for the stream.
const CHUNKS_WAITING_MAX: usize = 2;
/// A receiver that takes no chunk for so long is given up, as is a sender that gives none.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// What the receiver may take to answer at the end: it syncs the files.
const FINISH_TIMEOUT: Duration = Duration::from_secs(120);

/// Reads the files of a snapshot as chunks, one file after another.
pub(super) struct FileReader {
    files: Arc<SnapshotFiles>,
    position: usize,
    file: Option<File>,
}

impl FileReader {
    pub(super) fn new(files: Arc<SnapshotFiles>) -> FileReader {
        FileReader { files, position: 0, file: None }
    }

    /// The next chunk; `None` after the last file.
    pub(super) fn next_chunk(&mut self) -> Result<Option<kv::SnapshotChunk>, RaftStoreError> {
        while self.position < self.files.manifest().files.len() {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(File::open(self.files.path(self.position))?),
            };
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            file.take(CHUNK_BYTES as u64).read_to_end(&mut data)?;
            if !data.is_empty() {
                let checksum = crc32fast::hash(&data);
                let data = Bytes::from(data);
                return Ok(Some(kv::SnapshotChunk { data, checksum, ..Default::default() }));
            }
            self.file = None;
            self.position += 1;
        }
        Ok(None)
    }
}

/// Sends a snapshot to the store that its head names.
pub(super) async fn send(
    pd: &dyn PdClient,
    room: Arc<SnapshotRoom>,
    snapshot: Arc<OutgoingSnapshot>,
) -> Result<(), String> {
    let store_id = snapshot.head.to_peer.as_ref().map_or(0, |peer| peer.store_id);
    let mut client = connect(pd, store_id).await?;
    let request = kv::SnapshotPrecheckRequest {
        region_id: snapshot.head.region_id,
        approximate_bytes: room.approximate_bytes(&snapshot.region),
    };
    let answer = tokio::time::timeout(CHUNK_TIMEOUT, client.snapshot_precheck(request));
    let answer = answer.await.map_err(|_| "the receiver does not answer".to_owned())?;
    let refusal = answer.map_err(|status| status.to_string())?.into_inner().refusal;
    if !refusal.is_empty() {
        return Err(format!("refused: {refusal}"));
    }
    let (building, source) = (room.clone(), snapshot.clone());
    let files = tokio::task::spawn_blocking(move || building.build(&source))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;

    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let head = kv::SnapshotChunk {
        head: Some(snapshot.head.clone()),
        manifest: Some(files.manifest().clone()),
        ..Default::default()
    };
    let feeding = feed(room, files, head, sender);
    let call = client.snapshot(ReceiverStream::new(receiver));
    tokio::pin!(call);
    // The receiver may refuse in the middle: then nobody takes chunks any more.
    tokio::select! {
        answer = &mut call => answer.map(|_| ()).map_err(|status| status.to_string()),
        fed = feeding => {
            fed?;
            let answer = tokio::time::timeout(FINISH_TIMEOUT, call).await;
            let answer = answer.map_err(|_| "the receiver does not finish".to_owned())?;
            answer.map(|_| ()).map_err(|status| status.to_string())
        }
    }
}

/// Hands head and chunks to the stream, at the pace of the room.
async fn feed(
    room: Arc<SnapshotRoom>,
    files: Arc<SnapshotFiles>,
    head: kv::SnapshotChunk,
    stream: mpsc::Sender<kv::SnapshotChunk>,
) -> Result<(), String> {
    let mut next = Some(head);
    let mut reader = FileReader::new(files);
    while let Some(chunk) = next {
        let pause = room.pace(chunk.data.len() as u64);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let taken = tokio::time::timeout(CHUNK_TIMEOUT, stream.send(chunk)).await;
        taken.map_err(|_| "the receiver takes no more".to_owned())?.map_err(|_| "stream closed")?;
        let read = tokio::task::spawn_blocking(move || (reader.next_chunk(), reader));
        let (chunk, same) = read.await.map_err(|error| error.to_string())?;
        reader = same;
        next = chunk.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The store's side of the `Snapshot` rpc.
pub async fn serve_snapshot_stream<S>(
    inbox: &RaftInbox,
    mut stream: S,
) -> Result<kv::RaftDone, tonic::Status>
where
    S: Stream<Item = Result<kv::SnapshotChunk, tonic::Status>> + Unpin,
{
    let first = next_chunk(&mut stream).await?;
    let first = first.ok_or_else(|| tonic::Status::invalid_argument("empty stream"))?;
    let head = first.head.ok_or_else(|| tonic::Status::invalid_argument("no head"))?;
    let manifest = first.manifest.ok_or_else(|| tonic::Status::invalid_argument("no manifest"))?;
    let inbox = inbox.clone();
    let mut receiver = blocking(move || inbox.receive_snapshot(head, Some(manifest))).await?;
    while let Some(chunk) = next_chunk(&mut stream).await? {
        let taken = move || -> Result<SnapshotReceiver, RaftStoreError> {
            receiver.push(chunk.data, chunk.checksum)?;
            Ok(receiver)
        };
        receiver = blocking(taken).await?;
    }
    blocking(move || receiver.finish()).await?;
    Ok(kv::RaftDone {})
}

async fn next_chunk<S>(stream: &mut S) -> Result<Option<kv::SnapshotChunk>, tonic::Status>
where
    S: Stream<Item = Result<kv::SnapshotChunk, tonic::Status>> + Unpin,
{
    match tokio::time::timeout(CHUNK_TIMEOUT, stream.next()).await {
        Ok(chunk) => chunk.transpose(),
        Err(_) => Err(tonic::Status::deadline_exceeded("the sender sends no more")),
    }
}

/// Runs work on files where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RaftStoreError> + Send + 'static,
) -> Result<T, tonic::Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| tonic::Status::internal(error.to_string()))?;
    done.map_err(|error| tonic::Status::failed_precondition(error.to_string()))
}
