//! The replicated log of the placement driver: propose → persist → commit → apply.
//!
//! | module | what it holds |
//! |---|---|
//! | [`core`] | one member as a state machine: messages, ticks and proposals in, messages out |
//! | `runner` | the loop around it, on a thread of its own or as a task |
//! | [`shared`] | what the rest of the process sees: state, role, the gate of the leader |
//! | [`lease`] | until when a leader may serve without asking |
//! | [`storage`], [`files`], [`snapshot`] | log, identity and snapshots of a member |
//! | [`transport`] | ways to other members: gRPC, or mailboxes in one process |
//!
//! **Flow.** Callers hand commands to the runner. It takes whatever waits as one round,
//! steps the core, sends what a leader may send at once, writes the new entries with one
//! fsync, sends the rest, applies what is committed and answers the callers. So a hundred
//! concurrent commands cost one fsync per member.
//!
//! **Invariants**
//! - A caller is answered only after its command is durable on a majority and applied
//!   here. Entries are applied in log order, each once per life; what a snapshot holds is
//!   not applied again.
//! - If the disk fails the member stops: an answer is never given on memory alone.
//! - A proposal is made once. When leadership is lost its caller hears so, and cannot
//!   know whether it will be carried out: every command may be repeated.
//! - A leader serves only while its [`Gate`](shared::Gate) is open: its lease holds and
//!   the server has taken the term over.
//! - A member that heard a leader, or has just started, votes for nobody else for an
//!   election timeout.
//!
//! **Concurrency.** One loop owns the core; the rest of the process sends it requests and
//! reads [`Shared`]. Clock, network, disk and randomness come in from outside, so that
//! members also run in a simulation ([`Driver::Task`]).

pub mod core;
pub mod files;
pub mod lease;
mod ready;
mod runner;
pub mod shared;
pub mod snapshot;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_engine::RaftLog;
use cairn_pd_client::PdError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::error::OpenError;
use crate::state::Command;
use crate::state::members::Members;

pub use self::core::{Core, CoreParts, Proposal};
pub use files::{DirFiles, Identity, MemberFiles, MemoryFiles};
pub use shared::{Progress, Shared, Status};
pub use transport::{GrpcTransport, Inbox, LocalNetwork, Transport};

/// Raft's clock.
pub const TICK: Duration = Duration::from_millis(100);
/// A member without a leader for so long may campaign.
pub const ELECTION_TICKS: usize = 10;

/// The one group of this log.
pub(crate) const GROUP_ID: u64 = 1;
/// Requests that wait for the core.
const REQUESTS_MAX: usize = 4096;
/// Batches of messages of other members that wait for the core.
const BATCHES_MAX: usize = 1024;

/// What the core is asked to do by its own process.
pub(crate) enum Request {
    /// Carry a command out.
    Propose(Proposal),
    /// Let another member lead.
    Transfer(u64),
    /// The server has taken the term over and may serve.
    Open(u64),
    /// Messages to the member were lost.
    Unreachable(u64),
    /// The others say that this member was removed.
    Removed,
    /// Finish what is under way and stop.
    Stop,
}

/// Where a member's loop runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// On a thread of its own: the disk may take its time.
    #[default]
    Thread,
    /// As a task of the runtime at hand, by its clock: simulations and tests pause it.
    Task,
}

/// What a member stands on.
pub struct ReplicationParts {
    /// Its id in the group.
    pub identity: Identity,
    /// Members before the first entry of the log.
    pub founders: Members,
    /// The entries.
    pub log: Arc<dyn RaftLog>,
    /// Identity and snapshots.
    pub files: Arc<dyn MemberFiles>,
    /// Monotonic time of the lease.
    pub clock: Arc<dyn Clock>,
    /// The way to other members.
    pub transport: Arc<dyn Transport>,
    /// Where the loop runs.
    pub driver: Driver,
    /// Seed of election timeouts.
    pub seed: u64,
    /// Name and address, as told to other members.
    pub name: String,
    /// Where other members reach this one.
    pub address: String,
}

/// The loop under way.
enum Running {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// The handle to the log and the state behind it.
pub struct Replication {
    shared: Arc<Shared>,
    /// The term that the server has taken over.
    opened_term: AtomicU64,
    requests: mpsc::Sender<Request>,
    inbox: Inbox,
    running: Mutex<Option<Running>>,
}

impl Replication {
    /// Loads the state and starts the loop. A sole member leads on return, and has
    /// applied every earlier command.
    pub fn open(parts: ReplicationParts) -> Result<Replication, OpenError> {
        let now_ms = parts.clock.monotonic_ms();
        let (core, shared) = Core::open(
            CoreParts {
                member_id: parts.identity.member_id,
                founders: parts.founders,
                log: parts.log,
                files: parts.files,
                seed: parts.seed,
            },
            now_ms,
        )?;
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let (messages, batches) = mpsc::channel(BATCHES_MAX);
        let inbox = Inbox::new(
            transport::Introduction {
                identity: parts.identity,
                name: parts.name,
                address: parts.address,
            },
            shared.clone(),
            messages,
            requests.clone(),
        );
        parts.transport.attach(parts.identity.member_id, inbox.clone());
        let runner =
            runner::Runner::new(core, shared.clone(), parts.transport, parts.clock, batches);
        let running = runner.start(parts.driver, waiting)?;
        Ok(Replication {
            shared,
            opened_term: AtomicU64::new(0),
            requests,
            inbox,
            running: Mutex::new(Some(running)),
        })
    }

    /// What the member shows of itself.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where messages of other members come in.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Carries the command out on a majority, in the term that was taken over last;
    /// returns when it is durable there and applied here. After
    /// [`PdError::Unavailable`] it may still be carried out.
    pub async fn propose(&self, command: impl Into<Command>) -> Result<(), PdError> {
        self.propose_in(self.opened_term.load(Ordering::Acquire), command).await
    }

    /// As [`Replication::propose`], in a term of the caller's.
    pub async fn propose_in(&self, term: u64, command: impl Into<Command>) -> Result<(), PdError> {
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal { command: Box::new(command.into()), term, answer };
        self.request(Request::Propose(proposal))?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Hands leadership over; the gate is closed from then on.
    pub(crate) fn transfer(&self, to: u64) -> Result<(), PdError> {
        self.request(Request::Transfer(to))
    }

    /// The server has taken the term over: its gate opens.
    pub(crate) fn open_gate(&self, term: u64) -> Result<(), PdError> {
        self.opened_term.store(term, Ordering::Release);
        self.request(Request::Open(term))
    }

    fn request(&self, request: Request) -> Result<(), PdError> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PdError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }

    /// Stops the loop and waits for it; commands under way are finished as far as this
    /// member alone can.
    pub async fn stop(&self) {
        // The loop may have stopped by itself.
        let _ = self.requests.send(Request::Stop).await;
        let running = self.running.lock().take();
        let ended = match running {
            Some(Running::Task(task)) => task.await.is_ok(),
            // Joining a thread blocks.
            Some(Running::Thread(thread)) => {
                let joined = tokio::task::spawn_blocking(move || thread.join().is_ok());
                joined.await.unwrap_or(false)
            }
            None => true,
        };
        if !ended {
            tracing::error!("the log of the placement driver ended with a panic");
        }
    }
}

fn stopped() -> PdError {
    PdError::Unavailable("the placement driver is stopping".into())
}
