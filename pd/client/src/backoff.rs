//! Waiting between attempts, and how many repeats a client may cause at all.
//!
//! A [`Backoff`] belongs to one call: it doubles its delay from a base to a cap
//! and takes a random half off, so that clients that failed together do not come
//! back together. A [`RetryBudget`] belongs to one client: each first attempt
//! earns a tenth of a token and each repeat costs one, so that repeats add at
//! most 10 % to the load of a tier that is already in trouble.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Price of one repeat, in the budget's unit.
const RETRY_COST: i64 = 10;
/// What one first attempt earns: a tenth of a repeat.
const CALL_EARNS: i64 = 1;

/// Bounds the repeats of one client to a share of its calls.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: AtomicI64,
    tokens_max: i64,
}

impl RetryBudget {
    /// A budget that starts full with `retries_max` repeats saved up; a burst of
    /// that many is allowed after a quiet time.
    pub fn new(retries_max: u32) -> RetryBudget {
        let tokens_max = i64::from(retries_max) * RETRY_COST;
        RetryBudget { tokens: AtomicI64::new(tokens_max), tokens_max }
    }

    /// Counts a first attempt.
    pub fn earn(&self) {
        if self.tokens.load(Ordering::Relaxed) < self.tokens_max {
            self.tokens.fetch_add(CALL_EARNS, Ordering::Relaxed);
        }
    }

    /// Pays for a repeat; `false` means that the repeat must not happen.
    pub fn spend(&self) -> bool {
        self.tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                (tokens >= RETRY_COST).then(|| tokens - RETRY_COST)
            })
            .is_ok()
    }
}

/// Exponential delays with jitter for one call.
#[derive(Debug)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    attempts: u32,
    rng: SmallRng,
}

impl Backoff {
    /// Delays grow from `base_ms` to `cap_ms`; equal seeds give equal delays.
    pub fn new(base_ms: u64, cap_ms: u64, seed: u64) -> Backoff {
        Backoff { base_ms, cap_ms, attempts: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Number of delays handed out so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next delay: half of it fixed, half of it random.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.base_ms.saturating_mul(1 << self.attempts.min(20)).min(self.cap_ms);
        self.attempts = self.attempts.saturating_add(1);
        let half = full / 2;
        Duration::from_millis(half + self.rng.random_range(0..=full - half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let mut backoff = Backoff::new(10, 100, 7);
        let bounds = [(5, 10), (10, 20), (20, 40), (40, 80), (50, 100), (50, 100)];
        for (low, high) in bounds {
            let delay_ms = backoff.next_delay().as_millis() as u64;
            assert!((low..=high).contains(&delay_ms), "{delay_ms} not in {low}..={high}");
        }
    }

    #[test]
    fn budget_allows_a_tenth() {
        let budget = RetryBudget::new(2);
        assert!(budget.spend() && budget.spend() && !budget.spend());
        for _ in 0..100 {
            budget.earn();
            while budget.spend() {}
        }
        for _ in 0..9 {
            budget.earn();
        }
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend());
    }
}
