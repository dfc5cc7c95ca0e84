//! What clients do to lists. Each *shape* of a transaction hunts another anomaly, all with the
//! same statements on the same lists, so that they also meet each other:
//!
//! * **mixed**: a few reads and appends of any lists; Elle's list-append, finds what there is.
//! * **fork**: one append, or a read of all lists; long forks and reads that go back.
//! * **skew**: reads two lists and appends to one of them; the two doctors on call.
//! * **grow**: one append to a new list, or a read of the newest ones; a set, with phantoms.
//! * **update**: locks a list, reads another one, appends to the first; lost updates.
//!
//! Lists go out of use as new ones begin, so that none grows without bound.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Element, Key, Level, View};

/// Lists in use at the same time: few, so that transactions meet.
const LISTS: u64 = 8;
/// Appends until the oldest list goes out of use and a new one begins.
const APPENDS_PER_LIST: u64 = 12;
/// The newest lists of the shape *grow* that are read together.
const NEWEST: u64 = 24;
/// Where the lists of the shape *grow* begin.
const GROWN: u64 = 1 << 24;

/// What a statement is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read these lists at once.
    Read {
        /// How.
        view: View,
        /// Which; sorted.
        keys: Vec<Key>,
    },
    /// Append an element.
    Append {
        /// To which list.
        key: Key,
        /// What.
        element: Element,
    },
}

/// A transaction to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it is promised.
    pub level: Level,
    /// What it does.
    pub asks: Vec<Ask>,
}

/// Draws transactions; shared by all clients of a history.
#[derive(Debug, Default)]
pub struct Generator {
    appended: AtomicU64,
    grown: AtomicU64,
}

impl Generator {
    /// The next transaction, at one of these levels.
    pub fn draw(&self, rng: &mut impl Rng, levels: &[Level]) -> Draft {
        let level = levels.choose(rng).copied().unwrap_or(Level::RepeatableRead);
        let asks = match rng.random_range(0..10) {
            0..4 => (0..rng.random_range(1..=4)).map(|_| self.any(rng)).collect(),
            4 | 5 if rng.random_bool(0.4) => vec![self.append(self.some_list(rng))],
            4 | 5 => vec![read(View::Plain, self.in_use().map(Key).collect())],
            6 => {
                let (one, other) = (self.some_list(rng), self.some_list(rng));
                let to = if rng.random_bool(0.5) { one } else { other };
                vec![read(View::Plain, vec![one]), read(View::Plain, vec![other]), self.append(to)]
            }
            7 | 8 => vec![self.grow(rng)],
            _ => {
                let (one, other) = (self.some_list(rng), self.some_list(rng));
                vec![
                    read(View::Locking, vec![one]),
                    read(View::Plain, vec![other]),
                    self.append(one),
                ]
            }
        };
        Draft { level, asks }
    }

    /// Every list that was ever used: to be read in the end.
    pub fn all(&self) -> Vec<Key> {
        let grown = self.grown.load(Ordering::Relaxed);
        (0..self.in_use().end).chain(GROWN..GROWN + grown).map(Key).collect()
    }

    fn in_use(&self) -> Range<u64> {
        let first = self.appended.load(Ordering::Relaxed) / APPENDS_PER_LIST;
        first..first + LISTS
    }

    fn some_list(&self, rng: &mut impl Rng) -> Key {
        Key(rng.random_range(self.in_use()))
    }

    fn append(&self, key: Key) -> Ask {
        Ask::Append { key, element: self.element() }
    }

    fn element(&self) -> Element {
        Element(self.appended.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn any(&self, rng: &mut impl Rng) -> Ask {
        if rng.random_bool(0.5) {
            return self.append(self.some_list(rng));
        }
        let view = if rng.random_bool(0.3) { View::Locking } else { View::Plain };
        let mut keys: Vec<Key> =
            (0..rng.random_range(1..=3)).map(|_| self.some_list(rng)).collect();
        keys.sort_unstable();
        keys.dedup();
        read(view, keys)
    }

    fn grow(&self, rng: &mut impl Rng) -> Ask {
        if rng.random_bool(0.5) {
            let key = Key(GROWN + self.grown.fetch_add(1, Ordering::Relaxed));
            return Ask::Append { key, element: self.element() };
        }
        let end = GROWN + self.grown.load(Ordering::Relaxed).max(1);
        read(View::Plain, (end.saturating_sub(NEWEST).max(GROWN)..end).map(Key).collect())
    }
}

fn read(view: View, keys: Vec<Key>) -> Ask {
    Ask::Read { view, keys }
}
