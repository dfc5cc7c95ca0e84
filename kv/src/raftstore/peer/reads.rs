//! Reads that need a quorum to confirm the leader (ReadIndex), in batches.
//!
//! Reads of one round share one request. A request is confirmed with an index: once
//! apply has reached it, an engine snapshot holds everything that was acknowledged before
//! the read began. The quorum's answer also renews the lease, from the time of asking.
//!
//! Source: Raft dissertation, section 6.4.

use std::collections::VecDeque;

use cairn_types::sabotage::{Bug, planted};
use raft::ReadState;

use super::replica_reads::RemoteRead;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RegionError;
use crate::raftstore::lease::Lease;
use crate::raftstore::{RegionContext, RegionSnapshot};

/// Requests that may wait for the quorum; more reads wait for the next one.
const ISSUED_BATCHES_MAX: usize = 64;

/// A read and who waits for it.
pub struct PendingRead {
    /// Where the caller thinks the region is.
    pub context: RegionContext,
    /// The caller.
    pub answer: tokio::sync::oneshot::Sender<Result<RegionSnapshot, RegionError>>,
}

impl PendingRead {
    /// Answers with an error.
    pub fn fail(self, error: RegionError) {
        // The caller may have gone away.
        let _ = self.answer.send(Err(error));
    }
}

struct Batch {
    id: u64,
    sent: MonotonicTime,
    confirmed_index: Option<u64>,
    reads: Vec<PendingRead>,
    remote: Vec<RemoteRead>,
}

/// Reads of one leader.
#[derive(Default)]
pub(super) struct ReadQueue {
    unissued: Vec<PendingRead>,
    /// Followers' questions.
    unissued_remote: Vec<RemoteRead>,
    issued: VecDeque<Batch>,
    last_id: u64,
}

impl ReadQueue {
    pub(super) fn push(&mut self, read: PendingRead) {
        self.unissued.push(read);
    }

    pub(super) fn shrink(&mut self) {
        self.unissued.shrink_to_fit();
        self.unissued_remote.shrink_to_fit();
        self.issued.shrink_to_fit();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nothing_unissued() && self.issued.is_empty()
    }

    fn nothing_unissued(&self) -> bool {
        self.unissued.is_empty() && self.unissued_remote.is_empty()
    }

    pub(super) fn push_remote(&mut self, remote: RemoteRead) {
        self.unissued_remote.push(remote);
    }

    pub(super) fn has_unissued(&self) -> bool {
        !self.nothing_unissued() && self.issued.len() < ISSUED_BATCHES_MAX
    }

    /// The context of a new request, if there is a reason for one.
    pub(super) fn issue(&mut self, now: MonotonicTime, renew: bool) -> Option<Vec<u8>> {
        let renew = renew && self.issued.is_empty();
        if self.issued.len() >= ISSUED_BATCHES_MAX || (self.nothing_unissued() && !renew) {
            return None;
        }
        self.last_id += 1;
        let reads = std::mem::take(&mut self.unissued);
        let remote = std::mem::take(&mut self.unissued_remote);
        self.issued.push_back(Batch {
            id: self.last_id,
            sent: now,
            confirmed_index: None,
            reads,
            remote,
        });
        Some(self.last_id.to_le_bytes().to_vec())
    }

    /// The quorum answered; gives followers' questions that it answers.
    pub(super) fn on_read_states(
        &mut self,
        states: Vec<ReadState>,
        lease: &mut Lease,
    ) -> Vec<(RemoteRead, u64)> {
        let mut confirmed = Vec::new();
        for state in states {
            let Ok(id) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) else { continue };
            let id = u64::from_le_bytes(id);
            if let Some(batch) = self.issued.iter_mut().find(|batch| batch.id == id) {
                batch.confirmed_index = Some(state.index);
                lease.renew(batch.sent);
                let remote = std::mem::take(&mut batch.remote);
                confirmed.extend(remote.into_iter().map(|remote| (remote, state.index)));
            }
        }
        confirmed
    }

    /// Confirmed reads whose index is applied.
    pub(super) fn take_confirmed(&mut self, applied_index: u64) -> Vec<PendingRead> {
        let mut reads = Vec::new();
        let done = |batch: &Batch| {
            batch.confirmed_index.is_some_and(|confirmed_index| {
                confirmed_index <= applied_index || planted(Bug::ReadBeforeApply)
            })
        };
        while self.issued.front().is_some_and(done) {
            reads.extend(self.issued.pop_front().map(|batch| batch.reads).unwrap_or_default());
        }
        reads
    }

    pub(super) fn drop_expired(&mut self, now: MonotonicTime) {
        let queues = self.issued.iter_mut().map(|batch| &mut batch.reads);
        for reads in queues.chain(std::iter::once(&mut self.unissued)) {
            let expired = |read: &mut PendingRead| {
                read.answer.is_closed()
                    || read.context.deadline.is_some_and(|deadline| deadline.has_passed(now))
            };
            for read in reads.extract_if(.., expired) {
                read.fail(RegionError::DeadlineExceeded);
            }
        }
    }

    pub(super) fn fail_all(&mut self, error: &RegionError) {
        // Their followers ask again.
        self.unissued_remote.clear();
        let issued = std::mem::take(&mut self.issued).into_iter().flat_map(|batch| batch.reads);
        for read in issued.chain(std::mem::take(&mut self.unissued)) {
            read.fail(error.clone());
        }
    }
}
