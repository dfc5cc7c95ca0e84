//! What happens to a cluster of real processes on hosts of their own when a process is killed or
//! stopped, a network is cut, a disk is slow, full or wrong, a clock jumps.
//!
//! Each case ([`CASES`]) starts a cluster ([`cluster`]) on hosts ([`hosts`]), puts load on it, makes
//! something go wrong, and holds what clients saw against its criterion. The program `cairn-faults`
//! runs them and prints a line for each; a few short ones are part of `make test`.

pub mod bulk;
mod cases;
pub mod cluster;
pub mod hosts;
pub mod proxy;
mod report;
pub mod shim;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use crate::HarnessError;

pub use cases::CASES;
pub use report::{Outcome, Report};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Seconds that a fault lasts, for cases whose length is a matter of taste.
    pub seconds: Option<u64>,
    /// Rounds of a case that repeats itself.
    pub rounds: Option<u64>,
    /// Mebibytes that cases write which fill stores.
    pub mib: Option<u64>,
    /// Decides what is random.
    pub seed: u64,
}

impl Settings {
    /// The time to go on: the one asked for, or a short one.
    pub fn span(&self, short: Duration) -> Duration {
        self.seconds.map_or(short, Duration::from_secs)
    }

    /// The rounds to go: those asked for, or a few.
    pub fn rounds(&self, few: u64) -> u64 {
        self.rounds.unwrap_or(few)
    }

    /// The bytes to write: those asked for, or a few.
    pub fn bytes(&self, few: u64) -> u64 {
        self.mib.map_or(few, |mib| mib << 20)
    }
}

/// What a case works with.
#[derive(Debug)]
pub struct Stage {
    /// For data and logs; stays when the case fails.
    pub folder: PathBuf,
    /// How long and how often.
    pub settings: Settings,
}

/// A case at work.
pub type Running = Pin<Box<dyn Future<Output = Result<Report, HarnessError>> + Send>>;

/// One thing that goes wrong.
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub about: &'static str,
    /// Short enough for every run of the tests.
    pub quick: bool,
    /// Does it.
    pub run: fn(Stage) -> Running,
}
