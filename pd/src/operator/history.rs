//! What was done, and why: the last operators that ended.

use std::collections::{BTreeMap, VecDeque};

use super::OperatorKind;

/// Operators remembered.
const HISTORY_MAX: usize = 4_096;

/// How an operator ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// Every step was done.
    Finished,
    /// A step became impossible.
    Cancelled,
    /// It took too long.
    TimedOut,
    /// Somebody cancelled it, or something more urgent came.
    Replaced,
}

impl Ending {
    /// Every way to end.
    pub const ALL: [Ending; 4] =
        [Ending::Finished, Ending::Cancelled, Ending::TimedOut, Ending::Replaced];

    /// Name in tools and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Finished => "finished",
            Ending::Cancelled => "cancelled",
            Ending::TimedOut => "timed_out",
            Ending::Replaced => "replaced",
        }
    }
}

/// One operator that ended.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Grows by one with each.
    pub number: u64,
    /// The region.
    pub region_id: u64,
    /// Why it was.
    pub kind: OperatorKind,
    /// The reason in words, with the figures it rested on.
    pub reason: String,
    /// Its steps in words.
    pub steps: Vec<String>,
    /// Steps that were done.
    pub steps_done: usize,
    /// How it ended.
    pub ending: Ending,
    /// Why it ended so, unless it finished.
    pub ending_reason: String,
    /// When it began, by the wall clock.
    pub began_unix_ms: u64,
    /// How long it ran.
    pub took_ms: u64,
}

/// The last operators, and how many there were of each kind.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    next_number: u64,
    counts: BTreeMap<(OperatorKind, Ending), u64>,
}

impl History {
    /// Takes one in; the oldest goes.
    pub fn push(&mut self, mut entry: Entry) {
        *self.counts.entry((entry.kind, entry.ending)).or_default() += 1;
        entry.number = self.next_number;
        self.next_number += 1;
        if self.entries.len() == HISTORY_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    /// How many ended how.
    pub fn counts(&self) -> impl Iterator<Item = (OperatorKind, Ending, u64)> {
        self.counts.iter().map(|((kind, ending), count)| (*kind, *ending, *count))
    }

    /// How many ended so, of all kinds.
    pub fn count(&self, ending: Ending) -> u64 {
        self.counts().filter(|(_, how, _)| *how == ending).map(|(_, _, count)| count).sum()
    }
}
