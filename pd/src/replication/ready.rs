//! The rounds of a core: write, send, apply, answer; and the snapshots that cut its log.

use cairn_engine::LogBatch;
use prost::Message as _;
use raft::Ready;
use raft::eraftpb::{Entry, EntryType, Message, Snapshot};

use super::GROUP_ID;
use super::core::{Core, read_conf_change};
use super::snapshot::Position;
use crate::error::OpenError;
use crate::state::{Command, State};
use cairn_pd_client::PdError;

/// Entries after which the state is written out and the log cut.
pub(super) const SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;
/// Entries kept behind a snapshot, so that a member that was away for a moment need not
/// get the whole state.
const ENTRIES_KEPT: u64 = 1_000;

impl Core {
    /// Writes, applies and sends until Raft has nothing more to do. `send` gets what a
    /// leader may send before its own write first.
    pub fn drive(
        &mut self,
        now_ms: u64,
        send: &mut dyn FnMut(Vec<Message>),
    ) -> Result<(), OpenError> {
        let mut asked = self.leads();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            send(ready.take_messages());
            for state in ready.take_read_states() {
                if let Ok(sent_ms) = <[u8; 8]>::try_from(&state.request_ctx[..]) {
                    self.lease.renew(u64::from_le_bytes(sent_ms));
                }
            }
            if !ready.snapshot().is_empty() {
                let snapshot = ready.snapshot().clone();
                self.install(&snapshot, &ready)?;
            }
            let mut committed = ready.take_committed_entries();
            self.persist(&mut ready)?;
            send(ready.take_persisted_messages());
            let mut light = self.node.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                // Need not be durable: it is found again by the next election.
                self.local.hard_state.commit = commit;
            }
            send(light.take_messages());
            committed.extend(light.take_committed_entries());
            self.apply(committed)?;
            self.node.advance_apply();
            self.on_role_changed();
            if !asked && self.leads() {
                // The first lease of a term need not wait for a tick.
                asked = true;
                self.ask_for_lease(now_ms);
            }
        }
        self.publish();
        if self.is_leader() {
            self.show_progress();
        }
        self.snapshot_if_due()
    }

    /// Makes entries, term and vote durable.
    fn persist(&mut self, ready: &mut Ready) -> Result<(), OpenError> {
        let entries = ready.take_entries();
        if let Some(last) = entries.last() {
            self.local.last_index = last.index;
            self.node.mut_store().note_last(last.index, last.term);
            self.shared.set_last_index(last.index);
        }
        if let Some(hard_state) = ready.hs() {
            self.local.hard_state = hard_state.clone();
        }
        // A new commit index alone is worth no write.
        if !entries.is_empty() || (ready.hs().is_some() && ready.must_sync()) {
            let mut batch = LogBatch::new();
            batch.append(GROUP_ID, entries);
            batch.put_state(GROUP_ID, self.local.clone());
            self.log.write(batch, ready.must_sync())?;
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), OpenError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let at = Position { index: last.index, term: last.term };
        let mut answers = Vec::new();
        for entry in entries {
            let result = match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
                EntryType::EntryNormal => match Command::decode(&entry.data[..]) {
                    Ok(command) => self.shared.state().write().apply(command),
                    Err(error) => Err(unreadable(entry.index, &error)),
                },
                EntryType::EntryConfChange => self.apply_conf_change(&entry)?,
                EntryType::EntryConfChangeV2 => {
                    Err(PdError::Internal("a change of many members at once".into()))
                }
            };
            let id = <[u8; 8]>::try_from(&entry.context[..]).map(u64::from_le_bytes);
            if let Ok(id) = id
                && self.waiting.get(&id).is_some_and(|waiting| waiting.term == entry.term)
                && let Some(waiting) = self.waiting.remove(&id)
            {
                answers.push((waiting.answer, result));
            }
        }
        self.applied = at;
        self.node.mut_store().set_applied(at);
        self.shared.publish_state();
        self.shared.learn_addresses();
        // Only now: whoever hears that the cluster has an identity must find it.
        for (answer, result) in answers {
            let _ = answer.send(result);
        }
        Ok(())
    }

    /// The list of members and Raft's configuration change together.
    fn apply_conf_change(&mut self, entry: &Entry) -> Result<Result<(), PdError>, OpenError> {
        let (change, command) = match read_conf_change(&entry.data) {
            Ok(both) => both,
            Err(error) => return Ok(Err(unreadable(entry.index, &error))),
        };
        let result = self.shared.state().write().apply(command);
        if result.is_ok() {
            self.node.apply_conf_change(&change)?;
            self.set_only_voter();
            let members = &self.shared.state().read().members;
            tracing::info!(voters = ?members.voters(), "members of the placement driver");
            if !members.contains(self.member_id) && members.was_removed(self.member_id) {
                self.removed = true;
            }
        }
        Ok(result)
    }

    /// Replaces the whole state by the leader's. The file comes first: a crash between the
    /// two is healed when the log is opened.
    fn install(&mut self, snapshot: &Snapshot, ready: &Ready) -> Result<(), OpenError> {
        let metadata = snapshot.get_metadata();
        let at = Position { index: metadata.index, term: metadata.term };
        let state = State::decode(&snapshot.data).map_err(|_| OpenError::Corrupted {
            path: "snapshot of the leader".into(),
            reason: "state",
        })?;
        self.files.save_snapshot(&state, at)?;
        if let Some(hard_state) = ready.hs() {
            self.local.hard_state = hard_state.clone();
        }
        self.local.hard_state.commit = self.local.hard_state.commit.max(at.index);
        self.local.last_index = at.index;
        let mut batch = LogBatch::new();
        batch.clean(GROUP_ID);
        batch.put_state(GROUP_ID, self.local.clone());
        self.log.write(batch, true)?;
        *self.shared.state().write() = state;
        self.node.mut_store().restart_at(at);
        (self.applied, self.snapshot_index) = (at, at.index);
        self.set_only_voter();
        self.shared.set_last_index(at.index);
        self.shared.publish_state();
        self.shared.learn_addresses();
        tracing::info!(index = at.index, "the leader's snapshot is installed");
        Ok(())
    }

    fn snapshot_if_due(&mut self) -> Result<(), OpenError> {
        if self.applied.index < self.snapshot_index + SNAPSHOT_EVERY_ENTRIES {
            return Ok(());
        }
        self.files.save_snapshot(&self.shared.state().read(), self.applied)?;
        self.snapshot_index = self.applied.index;
        // The log begins where its storage says: at a snapshot whose term is known.
        let kept_index = self.applied.index - ENTRIES_KEPT;
        let term = self.node.raft.raft_log.term(kept_index)?;
        self.node.mut_store().cut(Position { index: kept_index, term });
        let mut batch = LogBatch::new();
        batch.compact_to(GROUP_ID, kept_index + 1);
        // The state goes along: it tells the last index of an empty log.
        batch.put_state(GROUP_ID, self.local.clone());
        self.log.write(batch, true)?;
        self.log.purge()?;
        Ok(())
    }
}

fn unreadable(index: u64, error: &dyn std::fmt::Display) -> PdError {
    PdError::Internal(format!("log entry {index}: {error}"))
}
