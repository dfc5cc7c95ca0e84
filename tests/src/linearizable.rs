//! Whether what clients saw of a register can be explained by one order of all operations that
//! respects real time (Herlihy and Wing).
//!
//! **Method.** Wing and Gong's search with Lowe's memory of states already tried: take any
//! operation that began before the first unfinished one ended, apply it, go on; back up when a
//! read does not fit.
//!
//! A write without a known end may take effect at any later time, or never. Since every value is
//! written once, reads tell: one whose value nobody saw is left out, the others took effect before
//! the first read that saw them ended.
//!
//! Sources: Wing, Gong 1993; Lowe, "Testing for linearizability", 2017.

use std::collections::{HashMap, HashSet};

/// States tried before the search is given up: far more than a history of a few thousand
/// operations with a dozen clients needs.
const STATES_MAX: usize = 5_000_000;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read this value.
    Read(u64),
    /// Wrote this value.
    Write(u64),
}

/// One operation on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked for.
    pub began: u64,
    /// When it was answered; `None` when nobody knows whether it took effect.
    pub ended: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// The answer of [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none.
    Broken {
        /// The first operation that could not be placed.
        operation: Operation,
    },
    /// The search was given up.
    Undecided,
}

/// Checks one register that holds `initial` at first. Operations are in the order they began, and
/// no value is written twice.
pub fn check(initial: u64, operations: &[Operation]) -> Verdict {
    let operations = settled(operations);
    assert!(operations.is_sorted_by_key(|(operation, _)| operation.began));
    let mut search =
        Search { operations: &operations, done: vec![false; operations.len()], first: 0 };
    let mut tried = HashSet::new();
    // What was applied, and the value before it.
    let mut path: Vec<(usize, u64)> = Vec::new();
    let (mut value, mut next, mut furthest) = (initial, 0, 0);
    while search.first < operations.len() {
        furthest = furthest.max(search.first);
        match search.candidate(next, value) {
            Some((at, new_value)) => {
                search.set(at, true);
                if tried.insert((search.state(), new_value)) {
                    path.push((at, value));
                    (value, next) = (new_value, search.first);
                } else {
                    search.set(at, false);
                    next = at + 1;
                }
                if tried.len() > STATES_MAX {
                    return Verdict::Undecided;
                }
            }
            None => match path.pop() {
                Some((at, old_value)) => {
                    search.set(at, false);
                    (value, next) = (old_value, at + 1);
                }
                None => return Verdict::Broken { operation: operations[furthest].0 },
            },
        }
    }
    Verdict::Linearizable
}

/// The operations that took effect, with when each had done so at the latest.
fn settled(operations: &[Operation]) -> Vec<(Operation, u64)> {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for operation in operations {
        if let (Action::Read(value), Some(ended)) = (operation.action, operation.ended) {
            let first = seen.entry(value).or_insert(ended);
            *first = ended.min(*first);
        }
    }
    let end = |operation: &Operation| match (operation.ended, operation.action) {
        (Some(ended), _) => Some(ended),
        (None, Action::Write(value)) => seen.get(&value).copied(),
        (None, Action::Read(_)) => None,
    };
    operations.iter().filter_map(|operation| Some((*operation, end(operation)?))).collect()
}

struct Search<'a> {
    operations: &'a [(Operation, u64)],
    done: Vec<bool>,
    /// The first operation that is not done.
    first: usize,
}

impl Search<'_> {
    fn set(&mut self, at: usize, done: bool) {
        self.done[at] = done;
        if done {
            while self.done.get(self.first) == Some(&true) {
                self.first += 1;
            }
        } else {
            self.first = self.first.min(at);
        }
    }

    /// What tells this state from others: everything before `first` is done, and which behind it.
    fn state(&self) -> (usize, Vec<u32>) {
        let last = self.done.iter().rposition(|done| *done).map_or(0, |at| at + 1);
        let behind = (self.first..last.max(self.first)).filter(|at| self.done[*at]);
        (self.first, behind.map(|at| at as u32).collect())
    }

    /// The next operation at or behind `from` that may come now, and the value after it.
    fn candidate(&self, from: usize, value: u64) -> Option<(usize, u64)> {
        // Nothing may come before an operation that ended before it began.
        let mut first_end = u64::MAX;
        for at in self.first..self.operations.len() {
            let (operation, ended) = &self.operations[at];
            if self.done[at] {
                continue;
            }
            if operation.began > first_end {
                return None;
            }
            first_end = first_end.min(*ended);
            if at < from {
                continue;
            }
            match operation.action {
                Action::Write(new_value) => return Some((at, new_value)),
                Action::Read(seen) if seen == value => return Some((at, value)),
                Action::Read(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(began: u64, ended: u64, value: u64) -> Operation {
        Operation { began, ended: Some(ended), action: Action::Read(value) }
    }

    fn write(began: u64, ended: impl Into<Option<u64>>, value: u64) -> Operation {
        Operation { began, ended: ended.into(), action: Action::Write(value) }
    }

    #[test]
    fn overlapping_operations_may_come_in_any_order() {
        let history = [write(0, 10, 1), read(1, 3, 0), read(4, 9, 1), read(11, 12, 1)];
        assert_eq!(check(0, &history), Verdict::Linearizable);
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)];
        assert_eq!(check(0, &history), Verdict::Broken { operation: read(4, 5, 1) });
        // Seen by one client, a value may not be unseen by a later one.
        let history = [write(0, 10, 1), read(1, 2, 1), read(3, 4, 0)];
        assert!(matches!(check(0, &history), Verdict::Broken { .. }));
    }

    #[test]
    fn an_uncertain_write_may_come_late_or_never() {
        let never = [write(0, None, 1), read(5, 6, 0), read(7, 8, 0)];
        assert_eq!(check(0, &never), Verdict::Linearizable);
        let late = [write(0, None, 1), read(5, 6, 0), read(7, 8, 1), read(9, 10, 1)];
        assert_eq!(check(0, &late), Verdict::Linearizable);
        let twice = [write(0, None, 1), read(5, 6, 1), write(7, 8, 2), read(9, 10, 1)];
        assert!(matches!(check(0, &twice), Verdict::Broken { .. }));
    }

    #[test]
    fn a_lost_write_is_found_among_many() {
        let mut history = Vec::new();
        for n in 0..200 {
            let began = n * 10;
            history.push(write(began, began + 15, n + 1));
            history.push(read(began + 16, began + 18, n + 1));
        }
        history.sort_by_key(|operation| operation.began);
        assert_eq!(check(0, &history), Verdict::Linearizable);
        history.push(read(3_000, 3_001, 199));
        assert!(matches!(check(0, &history), Verdict::Broken { .. }));
    }
}
