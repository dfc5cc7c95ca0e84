//! When a peer stands for election.
//!
//! Raft's library draws timeouts from the process's randomness; here they come from the
//! store's generator, so that one seed gives one run.

use cairn_proto::meta;
use raft::StateRole;

use super::Peer;
use crate::raftstore::state::find_peer;

/// First candidacies that found no majority are repeated so soon, in ticks: a pre-vote
/// changes nothing, and the others may just not have noticed the silence yet.
const RETRY_TICKS: std::ops::Range<usize> = 3..6;
/// After so many, a candidate waits a full timeout.
const QUICK_RETRIES: u32 = 3;

/// What a peer remembers of its elections.
pub(super) struct ElectionTimer {
    /// Term and role when the timeout was drawn.
    drawn_for: (u64, StateRole),
    timeout_ticks: usize,
    /// Candidacies since a leader was known.
    candidacies: u32,
}

impl ElectionTimer {
    pub(super) fn new() -> ElectionTimer {
        ElectionTimer {
            drawn_for: (u64::MAX, StateRole::Follower),
            timeout_ticks: 0,
            candidacies: 0,
        }
    }
}

/// How elections are started in one tick.
pub struct Elections<'a> {
    /// Draws in `[low, high)`.
    pub draw: &'a mut dyn FnMut(usize, usize) -> usize,
    /// Of an election timeout.
    pub min_ticks: usize,
    /// Elections that may still start in this tick.
    pub budget: usize,
    /// Elections that were started.
    pub started: u64,
    /// The first region that would have stood for election when the budget was spent.
    pub refused: Option<u64>,
}

impl Peer {
    /// One tick of Raft; followers that promised to rest do without.
    pub fn tick(&mut self, elections: &mut Elections<'_>) {
        if self.installing || self.is_still() {
            return;
        }
        let raft = &mut self.node.raft;
        let drawn_for = (raft.term, raft.state);
        if drawn_for != self.elections.drawn_for {
            self.elections.drawn_for = drawn_for;
            let min_ticks = elections.min_ticks;
            // A follower leaves the others a tick to notice what it noticed.
            let first = min_ticks + usize::from(raft.state == StateRole::Follower);
            let ticks = (elections.draw)(first, min_ticks * 3 / 2 + 1);
            self.elections.timeout_ticks = ticks;
        }
        // Raft draws one of its own whenever it changes its role, also when it has changed
        // back since the last tick.
        raft.set_randomized_election_timeout(self.elections.timeout_ticks);
        if raft.state == StateRole::Leader || !raft.promotable() {
            self.node.tick();
            return;
        }
        if raft.state == StateRole::Follower && raft.leader_id != raft::INVALID_ID {
            self.elections.candidacies = 0;
        }
        let stands = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if stands && elections.budget == 0 {
            elections.refused.get_or_insert(self.region_id);
            return;
        }
        self.node.tick();
        if stands {
            elections.budget -= 1;
            elections.started += 1;
            self.elections.candidacies = self.elections.candidacies.saturating_add(1);
            let raft = &mut self.node.raft;
            if raft.state == StateRole::PreCandidate && self.elections.candidacies <= QUICK_RETRIES
            {
                let ticks = (elections.draw)(RETRY_TICKS.start, RETRY_TICKS.end);
                // The pre-candidate's own timeout must not be drawn over this.
                self.elections.drawn_for = (raft.term, raft.state);
                raft.election_elapsed = raft.randomized_election_timeout().saturating_sub(ticks);
            }
        }
    }

    /// Chooses the timeout of a peer whose leader fell silent, by its rank among voters.
    pub fn draw_by_rank(&mut self, elections: &mut Elections<'_>) {
        let Some(own) = find_peer(self.region(), self.peer_id).cloned() else { return };
        let leader_id = self.node.raft.leader_id;
        let voters = self
            .region()
            .peers
            .iter()
            .filter(|member| member.role() == meta::PeerRole::Voter && member.id != leader_id);
        let mut ids: Vec<u64> = voters.map(|member| member.id).collect();
        ids.sort_unstable();
        let Some(position) = ids.iter().position(|id| *id == own.id) else { return };
        let count = ids.len();
        // Ids come in steps: mixed (Fibonacci hashing), so that no voter is preferred.
        let mixed = self.region_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let rank = (position + mixed as usize) % count;
        // One tick is left to the others to notice the silence.
        let first = elections.min_ticks + 1;
        let width = elections.min_ticks / 2;
        let low = first + rank * width / count;
        let high = (first + (rank + 1) * width / count).max(low + 1);
        let ticks = (elections.draw)(low, high);
        let raft = &mut self.node.raft;
        self.elections.drawn_for = (raft.term, raft.state);
        self.elections.timeout_ticks = ticks.min(elections.min_ticks * 3 / 2);
        raft.set_randomized_election_timeout(self.elections.timeout_ticks);
    }
}
