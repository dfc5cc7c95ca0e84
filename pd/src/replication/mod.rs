//! The replicated log of the placement driver: propose → persist → apply.
//!
//! **Flow.** Callers hand commands to one thread that owns the Raft node. It takes
//! whatever waits as one round, proposes it, writes the new entries with one
//! fsync, applies what is committed and answers the callers. So a hundred
//! concurrent commands cost one fsync.
//!
//! **Invariants.** A caller is answered only after its command is durable and
//! applied. Entries are applied in log order, each once per life; what the
//! snapshot file holds is not applied again. If the disk fails the thread stops:
//! an answer is never given on memory alone.
//!
//! **Left out.** The group has one member: no messages are sent and no elections
//! are lost. Members are the Raft group's, so adding some changes this module only.

mod snapshot_file;
mod storage;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use cairn_engine::{LogBatch, RaftLocalState, RaftLog};
use cairn_pd_client::PdError;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use raft::RawNode;
use raft::eraftpb::Entry;
use slog::o;
use tokio::sync::oneshot;

use crate::error::OpenError;
use crate::state::{Command, State};
use snapshot_file::SnapshotFile;
use storage::LogStorage;

/// The one group of this log.
const GROUP_ID: u64 = 1;
/// The one member of the group.
const MEMBER_ID: u64 = 1;
/// Commands that wait for the thread.
const QUEUE_MAX: usize = 4096;
/// Commands of one round.
const ROUND_MAX: usize = 1024;
/// Bytes of one command.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Raft's clock.
const TICK: Duration = Duration::from_millis(100);
/// Entries after which the state is written out and the log cut.
const SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;

/// A command on its way, and who waits for it.
struct Proposal {
    command: Box<Command>,
    answer: oneshot::Sender<Result<(), PdError>>,
}

enum Input {
    Proposal(Proposal),
    Stop,
}

/// The handle to the log and the state behind it.
pub struct Replication {
    state: Arc<RwLock<State>>,
    inputs: SyncSender<Input>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Where the log and the snapshot live.
pub struct ReplicationParts {
    /// The entries.
    pub log: Arc<dyn RaftLog>,
    /// Folder of the snapshot file; `None`: the log is never cut (tests).
    pub snapshot_dir: Option<PathBuf>,
}

impl Replication {
    /// Loads the state, starts the thread, returns when every earlier command is
    /// applied.
    pub fn open(parts: ReplicationParts) -> Result<Replication, OpenError> {
        let file = parts.snapshot_dir.map(SnapshotFile::new);
        let (state, at) = match &file {
            Some(file) => file.load()?,
            None => (State::default(), snapshot_file::Position::default()),
        };
        let state = Arc::new(RwLock::new(state));
        let storage = LogStorage::new(parts.log.clone(), GROUP_ID, MEMBER_ID, at);
        let config = raft::Config {
            applied: at.index,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::new(MEMBER_ID)
        };
        let logger = slog::Logger::root(slog::Discard, o!());
        let mut worker = Worker {
            node: RawNode::new(&config, storage, &logger)?,
            log: parts.log,
            state: state.clone(),
            file,
            snapshot_index: at.index,
            applied_index: at.index,
            local: RaftLocalState::default(),
            waiting: HashMap::new(),
            next_id: 1,
        };
        worker.local = worker.node.store().local_state()?;
        worker.node.campaign()?;
        worker.drain()?;
        let (inputs, receiver) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("pd-log".into())
            .spawn(move || worker.run(&receiver))
            .map_err(|source| OpenError::Io { path: "thread".into(), source })?;
        Ok(Replication { state, inputs, thread: Mutex::new(Some(thread)) })
    }

    /// The state as applied so far.
    pub fn state(&self) -> &RwLock<State> {
        &self.state
    }

    /// Carries the command out on every member; returns when it is durable and
    /// applied here.
    pub async fn propose(&self, command: impl Into<Command>) -> Result<(), PdError> {
        let (answer, answered) = oneshot::channel();
        let input = Input::Proposal(Proposal { command: Box::new(command.into()), answer });
        self.inputs.try_send(input).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => PdError::Overloaded,
            std::sync::mpsc::TrySendError::Disconnected(_) => stopped(),
        })?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Stops the thread and waits for it; commands under way are finished.
    pub fn stop(&self) {
        // The thread may have stopped by itself.
        let _ = self.inputs.send(Input::Stop);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log thread of the placement driver panicked");
        }
    }
}

fn stopped() -> PdError {
    PdError::Unavailable("the placement driver is stopping".into())
}

/// The thread that owns the Raft node.
struct Worker {
    node: RawNode<LogStorage>,
    log: Arc<dyn RaftLog>,
    state: Arc<RwLock<State>>,
    file: Option<SnapshotFile>,
    snapshot_index: u64,
    applied_index: u64,
    local: RaftLocalState,
    waiting: HashMap<u64, oneshot::Sender<Result<(), PdError>>>,
    next_id: u64,
}

impl Worker {
    fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let mut stop = false;
            match inputs.recv_timeout(TICK) {
                Ok(Input::Proposal(first)) => {
                    self.propose(first);
                    stop = self.propose_waiting(inputs);
                }
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => stop = true,
                Err(RecvTimeoutError::Timeout) => {
                    self.node.tick();
                }
            }
            if let Err(error) = self.drain().and_then(|()| self.snapshot_if_due()) {
                tracing::error!(%error, "the placement driver cannot keep its log; it stops");
                return;
            }
            if stop {
                return;
            }
        }
    }

    /// Takes what waits into the same round; `true`: stop behind it.
    fn propose_waiting(&mut self, inputs: &Receiver<Input>) -> bool {
        for _ in 1..ROUND_MAX {
            match inputs.try_recv() {
                Ok(Input::Proposal(proposal)) => self.propose(proposal),
                Ok(Input::Stop) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    fn propose(&mut self, Proposal { command, answer }: Proposal) {
        let data = command.encode_to_vec();
        let id = self.next_id;
        self.next_id += 1;
        let result = if data.len() > COMMAND_BYTES_MAX {
            Err(PdError::InvalidArgument(format!("a command of {} bytes", data.len())))
        } else {
            let proposed = self.node.propose(id.to_le_bytes().to_vec(), data);
            proposed.map_err(|error| PdError::NotLeader(error.to_string()))
        };
        match result {
            Ok(()) => {
                self.waiting.insert(id, answer);
            }
            // A caller that stopped waiting does not want to know.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Persists and applies until Raft has nothing more to do.
    fn drain(&mut self) -> Result<(), OpenError> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.apply(ready.take_committed_entries());
            let entries = ready.take_entries();
            let mut batch = LogBatch::new();
            if let Some(last) = entries.last() {
                self.local.last_index = last.index;
                self.node.mut_store().note_last(last.index, last.term);
            }
            if let Some(hard_state) = ready.hs() {
                self.local.hard_state = hard_state.clone();
            }
            if !entries.is_empty() || ready.hs().is_some() {
                batch.append(GROUP_ID, entries);
                batch.put_state(GROUP_ID, self.local.clone());
                self.log.write(batch, ready.must_sync())?;
            }
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                // Need not be durable: it is found again by the next election.
                self.local.hard_state.commit = commit;
            }
            self.apply(light.take_committed_entries());
            self.node.advance_apply();
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied_index = entry.index;
            if entry.data.is_empty() {
                continue;
            }
            let result = match Command::decode(&entry.data[..]) {
                Ok(command) => self.state.write().apply(command),
                Err(error) => Err(PdError::Internal(format!("log entry {}: {error}", entry.index))),
            };
            let id = <[u8; 8]>::try_from(&entry.context[..]).map(u64::from_le_bytes);
            if let Some(answer) = id.ok().and_then(|id| self.waiting.remove(&id)) {
                let _ = answer.send(result);
            }
        }
    }

    fn snapshot_if_due(&mut self) -> Result<(), OpenError> {
        let Some(file) = &self.file else { return Ok(()) };
        if self.applied_index < self.snapshot_index + SNAPSHOT_EVERY_ENTRIES {
            return Ok(());
        }
        let index = self.applied_index;
        let term = self.node.raft.raft_log.term(index)?;
        let at = snapshot_file::Position { index, term };
        file.save(&self.state.read(), at)?;
        self.snapshot_index = index;
        self.node.mut_store().cut(at);
        let mut batch = LogBatch::new();
        batch.compact_to(GROUP_ID, index + 1);
        // The state goes along: it tells the last index of an empty log.
        batch.put_state(GROUP_ID, self.local.clone());
        self.log.write(batch, true)?;
        self.log.purge()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::{MemoryRaftLog, RaftEngineLog, RaftEngineOptions};

    use super::*;
    use crate::state::Kind;

    async fn propose(replication: &Replication, kind: Kind) {
        replication.propose(kind).await.expect("applied");
    }

    #[tokio::test]
    async fn many_commands_share_a_sync() {
        let log = Arc::new(MemoryRaftLog::new());
        let parts = ReplicationParts { log: log.clone(), snapshot_dir: None };
        let replication = Replication::open(parts).expect("opens");
        let syncs = log.sync_count();
        let commands = (1..=500).map(|bound| propose(&replication, Kind::IdBound(bound)));
        futures::future::join_all(commands).await;
        assert_eq!(replication.state().read().id_bound, 500);
        assert!(log.sync_count() - syncs < 400, "{}", log.sync_count() - syncs);
        replication.stop();
        let after = replication.propose(Kind::IdBound(501)).await;
        assert!(matches!(after, Err(PdError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_restart_finds_everything() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = || {
            let log = RaftEngineLog::open(&dir.path().join("log"), &RaftEngineOptions::default());
            let parts = ReplicationParts {
                log: Arc::new(log.expect("opens")),
                snapshot_dir: Some(dir.path().to_owned()),
            };
            Replication::open(parts).expect("opens")
        };
        let commands = SNAPSHOT_EVERY_ENTRIES + 100;
        for life in 0..3u64 {
            let replication = open();
            assert_eq!(replication.state().read().id_bound, life * commands);
            let range = life * commands + 1..=(life + 1) * commands;
            let commands = range.map(|bound| propose(&replication, Kind::IdBound(bound)));
            let mut rounds: Vec<_> = commands.collect();
            while !rounds.is_empty() {
                let rest = rounds.split_off(rounds.len().min(1000));
                futures::future::join_all(rounds).await;
                rounds = rest;
            }
            replication.stop();
        }
        assert!(dir.path().join("state.snapshot").exists());
    }
}
