//! Until when a leader may serve without asking the others.
//!
//! A member that hears from a leader votes for nobody else for [`ELECTION_TICKS`] of its
//! own clock, and neither does one that has just started (it may have promised so before
//! it died). So a leader that knows a majority heard something it *sent* at time `t` is
//! alone until `t` plus that long. The lease is shorter by what clocks may drift and by
//! the one tick that may follow right behind the message.
//!
//! **Invariants**
//! - Renewed from the time of sending, never of the answer.
//! - Withdrawn for the rest of the term when leadership is being handed over: whoever
//!   takes over campaigns in spite of the rule above.
//! - Times are the monotonic clock's: setting the wall clock changes nothing.
//!
//! Source: Raft dissertation, section 6.4.1.

use super::{ELECTION_TICKS, TICK};

/// How long a lease lasts from the sending of what renewed it.
pub const LEASE_MS: u64 = 700;

/// A vote is refused for at least so long after a leader was heard: the first of the
/// ticks may come at once.
const VOTE_REFUSED_MS: u64 = (ELECTION_TICKS as u64 - 1) * TICK.as_millis() as u64;
/// A tenth for clocks of different speed, and more.
const _: () = assert!(LEASE_MS + LEASE_MS / 10 < VOTE_REFUSED_MS);

/// Bookkeeping of one leader's lease.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until_ms: u64,
    withdrawn: bool,
}

impl Lease {
    /// A majority answered what was sent at `sent_ms`.
    pub fn renew(&mut self, sent_ms: u64) {
        self.until_ms = self.until_ms.max(sent_ms + LEASE_MS);
    }

    /// None until the term ends.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Whether it was withdrawn in this term.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// The term or the role changed.
    pub fn reset(&mut self) {
        *self = Lease::default();
    }

    /// The first moment at which it is over; zero: there is none. The only voter needs
    /// nobody's promise.
    pub fn until_ms(&self, only_voter: bool) -> u64 {
        match (self.withdrawn, only_voter) {
            (true, _) => 0,
            (false, true) => u64::MAX,
            (false, false) => self.until_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_from_the_sending_and_ends_with_a_hand_over() {
        let mut lease = Lease::default();
        assert_eq!((lease.until_ms(false), lease.until_ms(true)), (0, u64::MAX));
        lease.renew(1_000);
        lease.renew(900);
        assert_eq!(lease.until_ms(false), 1_700, "an old answer does not shorten it");
        lease.withdraw();
        lease.renew(2_000);
        assert_eq!((lease.until_ms(false), lease.until_ms(true)), (0, 0));
        lease.reset();
        lease.renew(3_000);
        assert_eq!(lease.until_ms(false), 3_700);
    }
}
