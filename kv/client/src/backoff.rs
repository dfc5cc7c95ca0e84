//! Kind-specific waiting between attempts, under one deadline and one budget.
//!
//! Each kind of trouble has its own exponential series: a lost leader is back in
//! a second, a busy store wants longer pauses, a lock is usually gone within
//! milliseconds. The series share the request's deadline. Repeats that cause load
//! on a store in trouble are paid from the client's [`RetryBudget`]; waiting for
//! a lock or following a leader hint is ordinary work and free. Requests that took long
//! are logged with what they waited for.

use std::sync::Arc;
use std::time::Duration;

use cairn_pd_client::backoff::{Backoff, RetryBudget};
use cairn_proto::kv::Priority;
use tokio::time::Instant;

use crate::error::KvError;
use crate::scope::RequestScope;

/// What went wrong, as far as waiting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackoffKind {
    /// The region has no known leader; an election takes about a second.
    NoLeader,
    /// The cached route is old; it was just replaced.
    StaleRoute,
    /// The store has too much to do.
    ServerBusy,
    /// The store cannot be reached.
    Transport,
    /// A lock of a living transaction stands in the way.
    Lock,
    /// PD is unreachable or knows no region for the key yet.
    Pd,
}

const KINDS: [BackoffKind; 6] = [
    BackoffKind::NoLeader,
    BackoffKind::StaleRoute,
    BackoffKind::ServerBusy,
    BackoffKind::Transport,
    BackoffKind::Lock,
    BackoffKind::Pd,
];
/// A request that goes on for longer after its first failed attempt is logged.
const SLOW_REQUEST: Duration = Duration::from_secs(3);

impl BackoffKind {
    /// First and longest delay, in milliseconds.
    fn bounds_ms(self) -> (u64, u64) {
        match self {
            BackoffKind::NoLeader => (10, 500),
            BackoffKind::StaleRoute => (2, 200),
            BackoffKind::ServerBusy => (50, 3_000),
            BackoffKind::Transport => (20, 2_000),
            BackoffKind::Lock => (2, 300),
            BackoffKind::Pd => (50, 2_000),
        }
    }

    /// Whether a repeat is extra load that the budget must cover.
    fn costs_budget(self) -> bool {
        matches!(self, BackoffKind::ServerBusy | BackoffKind::Transport)
    }
}

/// Until when a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Deadline {
        Deadline(Instant::now() + timeout)
    }

    /// Time left; zero when it is over.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the time is over.
    pub fn is_over(self) -> bool {
        self.remaining().is_zero()
    }

    /// Time left in the form requests carry it; at least 1, since 0 means "default".
    pub fn remaining_ms(self) -> u32 {
        u32::try_from(self.remaining().as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

/// The waiting state of one request with all its attempts.
#[derive(Debug)]
pub struct Retrier {
    deadline: Deadline,
    scope: RequestScope,
    budget: Arc<RetryBudget>,
    seed: u64,
    series: [Option<Backoff>; KINDS.len()],
    waited: [Duration; KINDS.len()],
    /// When the first attempt failed; without a failure no clock is read.
    failed_at: Option<Instant>,
    failures: u32,
    maybe_executed: bool,
}

impl Retrier {
    /// Starts a request; counts it as a first attempt.
    pub fn new(deadline: Deadline, budget: Arc<RetryBudget>, seed: u64) -> Retrier {
        budget.earn();
        Retrier {
            deadline,
            scope: RequestScope::default(),
            budget,
            seed,
            series: Default::default(),
            waited: Default::default(),
            failed_at: None,
            failures: 0,
            maybe_executed: false,
        }
    }

    /// Ends with the scope, if that is earlier.
    #[must_use]
    pub fn within(mut self, scope: &RequestScope) -> Retrier {
        self.deadline = scope.deadline.map_or(self.deadline, |end| end.min(self.deadline));
        self.scope = scope.clone();
        self
    }

    /// Has the scope's log note what the request costs; its bounds are not the request's.
    #[must_use]
    pub fn noting(mut self, scope: &RequestScope) -> Retrier {
        self.scope.log = scope.log.clone();
        self
    }

    /// What the request is a part of.
    pub fn scope(&self) -> &RequestScope {
        &self.scope
    }

    /// An attempt ended without a certain answer.
    pub fn note_maybe_executed(&mut self) {
        self.maybe_executed = true;
    }

    /// Whether some attempt may have taken effect without telling.
    pub fn maybe_executed(&self) -> bool {
        self.maybe_executed
    }

    /// Counts a failed attempt; answers how many there were.
    pub fn count_failure(&mut self) -> u32 {
        self.failed_at.get_or_insert_with(Instant::now);
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// Until when the request may go on.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether something of this kind was waited for.
    pub fn has_waited(&self, kind: BackoffKind) -> bool {
        self.series[kind as usize].is_some()
    }

    /// Pays for a repeat that causes load, but waits for nothing.
    pub fn pay_repeat(&self) -> bool {
        self.budget.spend()
    }

    /// Waits as the kind demands, at least `at_least`. Fails when the deadline
    /// would pass or the budget is spent; `reason` then says what was in the way.
    pub async fn wait(
        &mut self,
        kind: BackoffKind,
        at_least: Duration,
        reason: impl FnOnce() -> String,
    ) -> Result<(), KvError> {
        let (base_ms, cap_ms) = kind.bounds_ms();
        let seed = self.seed;
        let series = self.series[kind as usize]
            .get_or_insert_with(|| Backoff::new(base_ms, cap_ms, seed ^ kind as u64));
        let delay = series.next_delay().max(at_least);
        let first = series.attempts() == 1;
        if delay >= self.deadline.remaining() {
            // Whose time it is that does not suffice.
            let is_statements = self.scope.deadline.is_some_and(|end| end <= self.deadline);
            return Err(match is_statements {
                true => KvError::StatementTimeout,
                false => exhausted(kind, reason()),
            });
        }
        // The first repeat of a request is free: without it, one restarted store
        // would fail every client whose budget another store has spent.
        // What stands behind everything else is refused first, and may wait: its repeats are
        // rare by the pauses between them.
        let is_behind = matches!(self.scope.priority, Priority::Low | Priority::Background);
        let pays = kind.costs_budget() && !is_behind;
        if pays && !self.budget.spend() && !first {
            return Err(exhausted(kind, format!("retry budget is spent: {}", reason())));
        }
        self.waited[kind as usize] += delay;
        self.scope.run(tokio::time::sleep(delay)).await
    }
}

impl Drop for Retrier {
    fn drop(&mut self) {
        let took = self.failed_at.map(|at| at.elapsed()).unwrap_or_default();
        if took < SLOW_REQUEST {
            return;
        }
        let waited = KINDS.iter().zip(&self.waited).filter(|(_, waited)| !waited.is_zero());
        let waited: Vec<_> = waited.collect();
        tracing::warn!(?took, failures = self.failures, ?waited, "slow request to the stores");
    }
}

fn exhausted(kind: BackoffKind, reason: String) -> KvError {
    match kind {
        BackoffKind::ServerBusy => KvError::ServerBusy { reason },
        BackoffKind::Lock => KvError::DeadlineExceeded { reason },
        BackoffKind::NoLeader
        | BackoffKind::StaleRoute
        | BackoffKind::Transport
        | BackoffKind::Pd => KvError::RegionUnavailable { reason },
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadline_bounds_all_kinds_together() {
        let budget = Arc::new(RetryBudget::new(1000));
        let mut retrier = Retrier::new(Deadline::after(Duration::from_secs(1)), budget, 1);
        let begin = Instant::now();
        let mut waits = 0;
        let error = loop {
            let kind = if waits % 2 == 0 { BackoffKind::NoLeader } else { BackoffKind::Lock };
            match retrier.wait(kind, Duration::ZERO, || "x".into()).await {
                Ok(()) => waits += 1,
                Err(error) => break error,
            }
        };
        assert!(begin.elapsed() <= Duration::from_secs(1));
        assert!(waits > 5, "{waits}");
        assert!(matches!(
            error,
            KvError::RegionUnavailable { .. } | KvError::DeadlineExceeded { .. }
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_that_is_over_is_not_waited_for() {
        let budget = Arc::new(RetryBudget::new(1000));
        let end = Deadline::after(Duration::from_millis(300));
        let cancel = CancellationToken::new();
        let scope = RequestScope {
            deadline: Some(end),
            cancel: Some(cancel.clone()),
            ..RequestScope::default()
        };
        let retrier = || {
            let own = Deadline::after(Duration::from_secs(20));
            Retrier::new(own, budget.clone(), 1).within(&scope)
        };
        let mut late = retrier();
        assert!(late.deadline() == end, "requests carry the statement's time");
        let error = loop {
            let wait = late.wait(BackoffKind::Transport, Duration::ZERO, String::new);
            if let Err(error) = wait.await {
                break error;
            }
        };
        assert_eq!(error, KvError::StatementTimeout);
        let mut killed = retrier();
        cancel.cancel();
        let wait = killed.wait(BackoffKind::NoLeader, Duration::ZERO, String::new);
        assert_eq!(wait.await, Err(KvError::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_budget_ends_repeats() {
        let budget = Arc::new(RetryBudget::new(2));
        let deadline = Deadline::after(Duration::from_secs(3600));
        let mut retrier = Retrier::new(deadline, budget.clone(), 1);
        for _ in 0..2 {
            let wait = retrier.wait(BackoffKind::ServerBusy, Duration::ZERO, || "b".into());
            wait.await.expect("within the budget");
        }
        let wait = retrier.wait(BackoffKind::ServerBusy, Duration::ZERO, || "b".into());
        assert!(matches!(wait.await, Err(KvError::ServerBusy { .. })));
    }
}
