//! What workers count: latencies by kind, errors by code; apart for warm-up and measurement.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::histogram::{Histogram, Snapshot};
use crate::workload::Outcome;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Before measuring.
    WarmUp,
    /// Measuring.
    Measured,
    /// What ends now counts no more.
    Over,
}

/// One kind of transactions.
#[derive(Debug, Default)]
struct Kind {
    latency: Histogram,
    rolled_back: AtomicU64,
}

/// Everything that is counted in one phase.
#[derive(Debug)]
pub struct Figures {
    kinds: Vec<Kind>,
    errors: Mutex<BTreeMap<String, u64>>,
    given_up: AtomicU64,
}

/// [`Figures`] at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Latencies by kind.
    pub latencies: Vec<Snapshot>,
    /// By kind, how many of them took themselves back.
    pub rolled_back: Vec<u64>,
    /// Failures by code.
    pub errors: BTreeMap<String, u64>,
    /// Transactions that were not tried again.
    pub given_up: u64,
}

impl Counted {
    /// Latencies of all kinds.
    pub fn all(&self) -> Snapshot {
        let mut all = Snapshot::default();
        self.latencies.iter().for_each(|latencies| all.add(latencies));
        all
    }

    /// Failures of all codes.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Figures {
    fn new(kinds: usize) -> Self {
        Self {
            kinds: (0..kinds).map(|_| Kind::default()).collect(),
            errors: Mutex::default(),
            given_up: AtomicU64::new(0),
        }
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let errors = self.errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Counted {
            latencies: self.kinds.iter().map(|kind| kind.latency.snapshot()).collect(),
            rolled_back: self.kinds.iter().map(|kind| kind.rolled_back.load(Relaxed)).collect(),
            errors: errors.clone(),
            given_up: self.given_up.load(Relaxed),
        }
    }
}

/// Counts what happens in the phase in which it ends.
#[derive(Debug)]
pub struct Recorder {
    phase: AtomicU8,
    warm_up: Figures,
    measured: Figures,
}

impl Recorder {
    /// For this many kinds; begins with the warm-up.
    pub fn new(kinds: usize) -> Self {
        Self {
            phase: AtomicU8::new(Phase::WarmUp as u8),
            warm_up: Figures::new(kinds),
            measured: Figures::new(kinds),
        }
    }

    /// Goes on to a phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// The figures of a phase; after the end, those of the measurement.
    pub fn figures(&self, phase: Phase) -> &Figures {
        match phase {
            Phase::WarmUp => &self.warm_up,
            Phase::Measured | Phase::Over => &self.measured,
        }
    }

    /// Where what happens now is counted.
    fn current(&self) -> Option<&Figures> {
        match self.phase.load(Relaxed) {
            phase if phase == Phase::WarmUp as u8 => Some(&self.warm_up),
            phase if phase == Phase::Measured as u8 => Some(&self.measured),
            _ => None,
        }
    }

    /// A transaction ended well.
    pub fn success(&self, kind: usize, latency: Duration, outcome: Outcome) {
        let Some(figures) = self.current() else { return };
        let kind = &figures.kinds[kind];
        kind.latency.record(latency);
        if outcome == Outcome::RolledBack {
            kind.rolled_back.fetch_add(1, Relaxed);
        }
    }

    /// An attempt failed.
    pub fn failure(&self, label: String) {
        let Some(figures) = self.current() else { return };
        let mut errors = figures.errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *errors.entry(label).or_default() += 1;
    }

    /// A transaction was given up.
    pub fn given_up(&self) {
        if let Some(figures) = self.current() {
            figures.given_up.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_while_measuring_is_measured() {
        let recorder = Recorder::new(2);
        let succeed = |kind| recorder.success(kind, Duration::from_millis(1), Outcome::RolledBack);
        succeed(0);
        recorder.enter(Phase::Measured);
        succeed(1);
        recorder.failure("1213".to_owned());
        recorder.enter(Phase::Over);
        succeed(1);
        recorder.failure("1213".to_owned());
        let measured = recorder.figures(Phase::Measured).counted();
        assert_eq!(measured.latencies.iter().map(Snapshot::count).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(measured.rolled_back, [0, 1]);
        assert_eq!(measured.error_count(), 1);
        assert_eq!(recorder.figures(Phase::WarmUp).counted().all().count(), 1);
    }
}
