//! The leader's lease: until when it may read without asking its followers.
//!
//! A follower that hears from its leader refuses to vote for anybody else for an
//! election timeout (check-quorum with pre-vote). So a leader that knows a quorum heard
//! something it *sent* at time `t` is alone until `t` + election timeout; the lease is
//! shorter by more than clocks drift ([`super::config::RaftStoreConfig::lease`]).
//!
//! **Invariants**
//! - Renewed from the time of sending, never of the answer.
//! - Withdrawn when leadership is being handed over, for the rest of the term: a
//!   delayed `MsgTimeoutNow` lets a follower campaign in spite of the rule above.
//! - Not valid from a split's proposal until it is applied here: peers of the new
//!   region elsewhere may elect a leader before this store has applied it.
//!
//! Source: Raft dissertation, section 6.4.1.

use std::collections::VecDeque;
use std::time::Duration;

use super::clock::MonotonicTime;

/// Bookkeeping of one leader's lease.
#[derive(Debug)]
pub struct Lease {
    duration: Duration,
    /// Last index proposed at a time; a quorum that stores it heard us after that.
    proposed: VecDeque<(u64, MonotonicTime)>,
    valid_until: MonotonicTime,
    /// Until the term ends.
    withdrawn: bool,
    /// A split that was proposed and is not applied here yet; 0 = none.
    split_index: u64,
}

impl Lease {
    /// A lease that is not valid.
    pub fn new(duration: Duration) -> Lease {
        Lease {
            duration,
            proposed: VecDeque::new(),
            valid_until: MonotonicTime(0),
            withdrawn: false,
            split_index: 0,
        }
    }

    /// Entries up to `index` are sent to followers not before `now`.
    pub fn on_proposed(&mut self, index: u64, now: MonotonicTime) {
        match self.proposed.back_mut() {
            Some((last, time)) if *time == now => *last = index,
            _ => self.proposed.push_back((index, now)),
        }
    }

    /// A quorum stored entries up to `commit_index`.
    pub fn on_committed(&mut self, commit_index: u64) {
        let mut sent = None;
        while self.proposed.front().is_some_and(|(index, _)| *index <= commit_index) {
            sent = self.proposed.pop_front();
        }
        if let Some((_, time)) = sent {
            self.renew(time);
        }
    }

    /// A quorum answered a heartbeat sent at `sent`.
    pub fn renew(&mut self, sent: MonotonicTime) {
        self.valid_until = self.valid_until.max(sent.plus(self.duration));
    }

    /// What was renewed elsewhere counts here too.
    pub fn take_over(&mut self, valid_until: MonotonicTime) {
        self.valid_until = self.valid_until.max(valid_until);
    }

    /// Whether local reads are allowed at all, if a quorum was heard from.
    pub fn may_read(&self) -> bool {
        !self.withdrawn && self.split_index == 0
    }

    /// Gives memory back.
    pub fn shrink(&mut self) {
        self.proposed.shrink_to_fit();
    }

    /// No local reads until the term ends.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// A split was proposed at `index`.
    pub fn block_until_applied(&mut self, index: u64) {
        self.split_index = index;
    }

    /// Entries up to `applied_index` are applied here.
    pub fn on_applied(&mut self, applied_index: u64) {
        if applied_index >= self.split_index {
            self.split_index = 0;
        }
    }

    /// The term or the role changed.
    pub fn reset(&mut self) {
        self.proposed.clear();
        self.valid_until = MonotonicTime(0);
        self.withdrawn = false;
        self.split_index = 0;
    }

    /// Until when local reads are allowed; zero if they are not.
    pub fn valid_until(&self) -> MonotonicTime {
        if self.may_read() { self.valid_until } else { MonotonicTime(0) }
    }

    /// Whether less than half of the lease is left.
    pub fn wants_renewal(&self, now: MonotonicTime) -> bool {
        self.valid_until <= now.plus(self.duration / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: fn(u64) -> MonotonicTime = |ms| MonotonicTime(ms * 1_000_000);

    #[test]
    fn renewed_from_the_time_of_sending() {
        let mut lease = Lease::new(Duration::from_millis(700));
        lease.on_proposed(6, AT(100));
        lease.on_proposed(7, AT(100));
        lease.on_proposed(8, AT(400));
        assert_eq!(lease.valid_until(), AT(0));
        lease.on_committed(6);
        assert_eq!(lease.valid_until(), AT(0), "index 7 was sent in the same round");
        lease.on_committed(7);
        assert_eq!(lease.valid_until(), AT(800));
        lease.on_committed(9);
        assert_eq!(lease.valid_until(), AT(1100));
        lease.renew(AT(200));
        assert_eq!(lease.valid_until(), AT(1100), "an old answer does not shorten it");
    }

    #[test]
    fn withdrawn_for_the_rest_of_the_term() {
        let mut lease = Lease::new(Duration::from_millis(700));
        lease.renew(AT(100));
        lease.withdraw();
        lease.renew(AT(200));
        assert_eq!(lease.valid_until(), AT(0));
        lease.reset();
        lease.renew(AT(300));
        assert_eq!(lease.valid_until(), AT(1000));
    }

    #[test]
    fn not_valid_while_a_split_is_applied() {
        let mut lease = Lease::new(Duration::from_millis(700));
        lease.renew(AT(100));
        lease.block_until_applied(9);
        assert_eq!(lease.valid_until(), AT(0));
        lease.on_applied(8);
        assert_eq!(lease.valid_until(), AT(0));
        lease.on_applied(9);
        assert_eq!(lease.valid_until(), AT(800));
    }
}
