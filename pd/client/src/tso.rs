//! Timestamps over one stream, many callers per request.
//!
//! **Flow.** Callers queue up. The task takes everybody who waits as one batch
//! and sends one request for that many timestamps; while the answer is under way
//! the next batch gathers. So the request rate follows the round trip and not the
//! number of callers. Up to [`BATCHES_UNDER_WAY_MAX`] requests overlap.
//!
//! **Invariants.** A request is sent after its callers asked, so its timestamps
//! are greater than any they may have seen. On a broken stream the waiting
//! batches ask again; timestamps of a lost answer are never used.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::pd::{TsoRequest, TsoResponse};
use cairn_types::TimeStamp;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::channel::{CALL_TIMEOUT, Leader, LeaderChannel, unavailable};
use crate::error::PdError;

/// Callers that wait; more are refused.
const CALLERS_MAX: usize = 65_536;
/// Callers of one request.
const BATCH_MAX: usize = 16_384;
/// Requests without an answer.
const BATCHES_UNDER_WAY_MAX: usize = 4;
/// Time to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time until an answer must come. An election takes less: whoever takes longer is worth
/// asking the others about.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

type Caller = oneshot::Sender<Result<TimeStamp, PdError>>;

/// The queue in front of the stream.
pub(crate) struct TsoBatcher {
    callers: mpsc::Sender<Caller>,
}

impl TsoBatcher {
    /// Starts the task; it ends when the batcher is dropped.
    pub fn start(channel: Arc<LeaderChannel>) -> TsoBatcher {
        let (callers, queue) = mpsc::channel(CALLERS_MAX);
        let task = Task { channel, queue, batches: VecDeque::new(), under_way: 0 };
        tokio::spawn(task.run());
        TsoBatcher { callers }
    }

    /// One timestamp.
    pub async fn get(&self) -> Result<TimeStamp, PdError> {
        let (caller, answer) = oneshot::channel();
        self.callers.try_send(caller).map_err(|_| PdError::Overloaded)?;
        let timeout_ms = CALL_TIMEOUT.as_millis() as u64;
        match tokio::time::timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PdError::Unavailable("the client is stopping".into())),
            Err(_) => Err(PdError::DeadlineExceeded { timeout_ms }),
        }
    }
}

/// The open stream.
struct Stream {
    leader: Leader,
    requests: mpsc::Sender<TsoRequest>,
    responses: Streaming<TsoResponse>,
    /// Whether timestamps have come.
    answered: bool,
}

struct Task {
    channel: Arc<LeaderChannel>,
    queue: mpsc::Receiver<Caller>,
    /// Batches in the order of their requests; the first `under_way` were sent.
    batches: VecDeque<Vec<Caller>>,
    under_way: usize,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = self.channel.backoff();
        loop {
            if self.batches.is_empty() && !self.gather().await {
                return;
            }
            match self.open().await {
                Ok(mut stream) => match self.serve(&mut stream).await {
                    Some(error) => {
                        if stream.answered {
                            backoff = self.channel.backoff();
                        }
                        self.channel.forget(&stream.leader, &error);
                        self.broken(&error);
                    }
                    None => return,
                },
                Err(error) => self.broken(&error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Takes everybody who waits as a new batch; `false`: the batcher is gone.
    async fn gather(&mut self) -> bool {
        let mut batch = Vec::new();
        let count = self.queue.recv_many(&mut batch, BATCH_MAX).await;
        self.batches.push_back(batch);
        count > 0
    }

    async fn open(&self) -> Result<Stream, PdError> {
        let mut leader = self.channel.leader().await?;
        let (requests, outgoing) = mpsc::channel(BATCHES_UNDER_WAY_MAX);
        let stream = leader.stub.tso(ReceiverStream::new(outgoing));
        let opened = match tokio::time::timeout(OPEN_TIMEOUT, stream).await {
            Ok(Ok(responses)) => Ok(responses.into_inner()),
            Ok(Err(status)) => Err(unavailable(&status)),
            Err(_) => Err(PdError::Unavailable("opening the timestamp stream".into())),
        };
        match opened {
            Ok(responses) => Ok(Stream { leader, requests, responses, answered: false }),
            Err(error) => {
                self.channel.forget(&leader, &error);
                Err(error)
            }
        }
    }

    /// Sends and receives until the stream breaks; `None`: the batcher is gone.
    async fn serve(&mut self, stream: &mut Stream) -> Option<PdError> {
        loop {
            while self.under_way < self.batches.len().min(BATCHES_UNDER_WAY_MAX) {
                if let Err(error) = self.send(stream).await {
                    return Some(error);
                }
            }
            let may_send = self.under_way < BATCHES_UNDER_WAY_MAX;
            let waiting = self.under_way > 0;
            tokio::select! {
                biased;
                response = tokio::time::timeout(ANSWER_TIMEOUT, stream.responses.next()), if waiting => {
                    let result = match response {
                        Ok(Some(Ok(response))) => self.receive(&response),
                        Ok(Some(Err(status))) => Err(unavailable(&status)),
                        Ok(None) => Err(PdError::Unavailable("the stream was closed".into())),
                        Err(_) => Err(PdError::Unavailable("no timestamps in time".into())),
                    };
                    if let Err(error) = result {
                        return Some(error);
                    }
                    stream.answered = true;
                }
                open = self.gather(), if may_send => if !open {
                    return None;
                },
            }
        }
    }

    async fn send(&mut self, stream: &Stream) -> Result<(), PdError> {
        let batch = &mut self.batches[self.under_way];
        batch.retain(|caller| !caller.is_closed());
        if batch.is_empty() {
            self.batches.remove(self.under_way);
            return Ok(());
        }
        let count = batch.len() as u32;
        let request = TsoRequest { header: self.channel.header(), count };
        let sent = stream.requests.send(request).await;
        sent.map_err(|_| PdError::Unavailable("the timestamp stream was closed".into()))?;
        self.under_way += 1;
        Ok(())
    }

    fn receive(&mut self, response: &TsoResponse) -> Result<(), PdError> {
        PdError::from_header(response.header.as_ref())?;
        let count = u64::from(response.count);
        let matches = self.batches.front().is_some_and(|batch| batch.len() as u64 == count);
        if self.under_way == 0 || !matches || response.timestamp < count {
            return Err(PdError::Internal("timestamps that nobody asked for".into()));
        }
        let batch = self.batches.pop_front().unwrap_or_default();
        self.under_way -= 1;
        let first = response.timestamp - count + 1;
        for (caller, ts) in batch.into_iter().zip(first..) {
            // A caller that stopped waiting does not want to know.
            let _ = caller.send(Ok(TimeStamp(ts)));
        }
        Ok(())
    }

    /// The stream is gone. What may pass is asked again; other errors are told.
    fn broken(&mut self, error: &PdError) {
        tracing::debug!(%error, "timestamp stream");
        self.under_way = 0;
        if !error.is_retryable() {
            for caller in self.batches.drain(..).flatten() {
                let _ = caller.send(Err(error.clone()));
            }
        }
        self.batches.retain_mut(|batch| {
            batch.retain(|caller| !caller.is_closed());
            !batch.is_empty()
        });
    }
}
