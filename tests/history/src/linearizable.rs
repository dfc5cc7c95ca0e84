//! Whether the history of one register can be explained by operations that happened one
//! at a time, each between its beginning and its end.
//!
//! The search takes operations that may come next and goes back when it is stuck; what
//! was tried (the set of operations taken, and the value they left) is not tried again.
//! Finding an order is hard in general, so the search is bounded.
//!
//! Source: Lowe, "Testing for linearizability", 2017; Wing & Gong 1993.

use std::collections::HashSet;

use foldhash::fast::FixedState;

/// Steps of one search.
const STEPS_MAX: u64 = 2_000_000;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It saw the value; 0 is the one before every write.
    Read(u64),
    /// It wrote the value, which no other operation writes.
    Write(u64),
    /// It was refused: nobody may see its value.
    Never(u64),
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// When it began.
    pub invoked: u64,
    /// When it ended; `None`: nobody knows whether it happened, or when.
    pub returned: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order exists.
    Linearizable,
    /// None exists.
    Violated(String),
    /// The search was given up.
    Undecided,
}

/// Judges the history of one register.
pub fn check(ops: Vec<Op>) -> Verdict {
    let read: HashSet<u64> = ops.iter().filter_map(Op::value_read).collect();
    let mut kept = Vec::new();
    for op in ops {
        match op.action {
            Action::Never(value) if read.contains(&value) => {
                return Verdict::Violated(format!("{value} was refused and read all the same"));
            }
            Action::Never(_) => {}
            // Nobody saw it: it may have happened last, or not at all.
            Action::Write(value) if op.returned.is_none() && !read.contains(&value) => {}
            _ => kept.push(op),
        }
    }
    Search::new(kept).run()
}

impl Op {
    fn value_read(&self) -> Option<u64> {
        match self.action {
            Action::Read(value) => Some(value),
            _ => None,
        }
    }

    /// The value afterwards, if the operation fits the value before.
    fn step(&self, value: u64) -> Option<u64> {
        match self.action {
            Action::Read(seen) => (seen == value).then_some(value),
            Action::Write(new) => Some(new),
            Action::Never(_) => None,
        }
    }
}

/// One end of an operation in the linked list of events.
#[derive(Clone, Copy)]
struct Event {
    op: usize,
    is_call: bool,
    next: usize,
    prev: usize,
}

struct Search {
    ops: Vec<Op>,
    /// Event 0 is the list's head.
    events: Vec<Event>,
    /// Position of each operation's return.
    returns: Vec<usize>,
    taken: Vec<u64>,
}

impl Search {
    fn new(ops: Vec<Op>) -> Search {
        let mut ends: Vec<(u64, bool, usize)> = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            ends.push((op.invoked, true, number));
            ends.push((op.returned.unwrap_or(u64::MAX), false, number));
        }
        // At one moment a return comes before a call.
        ends.sort_unstable();
        let count = ends.len();
        let head = Event { op: usize::MAX, is_call: true, next: 1.min(count), prev: 0 };
        let mut events = vec![head];
        let mut returns = vec![0; ops.len()];
        for (position, (_, is_call, op)) in ends.into_iter().enumerate() {
            let at = position + 1;
            let next = if at == count { 0 } else { at + 1 };
            events.push(Event { op, is_call, next, prev: at - 1 });
            if !is_call {
                returns[op] = at;
            }
        }
        let taken = vec![0; ops.len().div_ceil(64)];
        Search { ops, events, returns, taken }
    }

    fn run(mut self) -> Verdict {
        let mut tried: HashSet<(Vec<u64>, u64), FixedState> = HashSet::default();
        let mut stack: Vec<(usize, u64)> = Vec::new();
        let mut deepest: (usize, Option<usize>) = (0, None);
        let mut value = 0;
        let mut at = self.events[0].next;
        for _ in 0..STEPS_MAX {
            if self.events[0].next == 0 {
                return Verdict::Linearizable;
            }
            let event = self.events[at];
            if event.is_call {
                if let Some(after) = self.ops[event.op].step(value) {
                    self.taken[event.op / 64] |= 1 << (event.op % 64);
                    if tried.insert((self.taken.clone(), after)) {
                        stack.push((at, value));
                        value = after;
                        self.unlink(at);
                        at = self.events[0].next;
                        continue;
                    }
                    self.taken[event.op / 64] &= !(1 << (event.op % 64));
                }
                at = event.next;
                continue;
            }
            // An operation ended before it could be taken.
            if stack.len() >= deepest.0 {
                deepest = (stack.len(), Some(event.op));
            }
            let Some((call, before)) = stack.pop() else {
                return Verdict::Violated(self.explain(deepest));
            };
            let op = self.events[call].op;
            self.taken[op / 64] &= !(1 << (op % 64));
            self.relink(call);
            value = before;
            at = self.events[call].next;
        }
        Verdict::Undecided
    }

    /// Takes an operation's two events out of the list.
    fn unlink(&mut self, call: usize) {
        for at in [call, self.returns[self.events[call].op]] {
            let Event { next, prev, .. } = self.events[at];
            self.events[prev].next = next;
            self.events[next].prev = prev;
        }
    }

    /// Puts them back; in the reverse order of [`Search::unlink`].
    fn relink(&mut self, call: usize) {
        for at in [self.returns[self.events[call].op], call] {
            let Event { next, prev, .. } = self.events[at];
            self.events[prev].next = at;
            self.events[next].prev = at;
        }
    }

    /// The operation at which the longest attempt ended, and what ran beside it.
    fn explain(&self, (depth, stuck): (usize, Option<usize>)) -> String {
        let Some(stuck) = stuck.map(|op| &self.ops[op]) else { return "no order exists".into() };
        let beside = self.ops.iter().filter(|op| {
            let ends = op.returned.unwrap_or(u64::MAX);
            *op != stuck && op.invoked < stuck.returned.unwrap_or(u64::MAX) && ends > stuck.invoked
        });
        let beside: Vec<String> = beside.take(12).map(|op| format!("{op:?}")).collect();
        let count = self.ops.len();
        format!("after {depth} of {count} operations {stuck:?} fits nowhere; beside it {beside:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(invoked: u64, returned: u64, action: Action) -> Op {
        let returned = (returned > 0).then_some(returned);
        Op { invoked, returned, action }
    }

    #[test]
    fn orders_that_exist_are_found() {
        let history = vec![
            op(1, 10, Action::Write(1)),
            op(2, 3, Action::Read(0)),
            op(4, 5, Action::Read(1)),
            op(6, 0, Action::Write(2)),
            op(7, 8, Action::Read(1)),
            op(11, 12, Action::Read(2)),
            op(13, 0, Action::Write(3)),
            op(14, 15, Action::Never(4)),
        ];
        assert_eq!(check(history), Verdict::Linearizable);
        assert_eq!(check(Vec::new()), Verdict::Linearizable);
    }

    #[test]
    fn stale_reads_lost_writes_and_ghosts_are_seen() {
        let stale =
            vec![op(1, 2, Action::Write(1)), op(3, 4, Action::Write(2)), op(5, 6, Action::Read(1))];
        let lost = vec![op(1, 2, Action::Write(1)), op(3, 4, Action::Read(0))];
        let back =
            vec![op(1, 20, Action::Write(1)), op(2, 3, Action::Read(1)), op(4, 5, Action::Read(0))];
        let ghost = vec![op(1, 2, Action::Never(1)), op(3, 4, Action::Read(1))];
        let unwritten = vec![op(3, 4, Action::Read(9))];
        for history in [stale, lost, back, ghost, unwritten] {
            assert!(matches!(check(history.clone()), Verdict::Violated(_)), "{history:?}");
        }
    }

    #[test]
    fn long_histories_with_many_at_once_are_decided() {
        let mut history = Vec::new();
        for round in 0..200u64 {
            let base = round * 100 + 1;
            for writer in 0..5 {
                let value = round * 10 + writer + 1;
                history.push(op(base + writer, base + 50 + writer, Action::Write(value)));
            }
            history.push(op(base + 60, base + 61, Action::Read(round * 10 + 3)));
        }
        assert_eq!(check(history), Verdict::Linearizable);
    }
}
