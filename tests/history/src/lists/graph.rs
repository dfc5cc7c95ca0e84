//! The moments of all transactions, and which came before which.
//!
//! A transaction is a chain of *moments*: its reads and appends, and its commit, at the end. What
//! its level promises is how many moments it has:
//!
//! ```text
//! read committed     statement₁ → statement₂ → … → commit    each sees what is there then
//! repeatable read    snapshot → statement₁ → … → commit      plain reads are of the first moment
//! snapshot           snapshot → commit
//! serializable       commit                                  all at once
//! ```
//!
//! A serializable transaction that did not commit is taken for one at repeatable read: only its COMMIT
//! finds out that it cannot have happened at once.
//!
//! Between transactions A and B that touch one list:
//!
//! * **ww**, A appended right before B: `commit(A) → append(B)`, since B locked the list when it
//!   appended; at the level *snapshot* `commit(A) → snapshot(B)`, for otherwise the two were
//!   concurrent and B had to abort.
//! * **wr**, B read what A appended last: `commit(A) → read(B)`.
//! * **rw**, A read the list, and B appended the next element: `read(A) → commit(B)`. What A
//!   appended to, or locked, stays as it was until A's end: `commit(A) → commit(B)`. A lock counts if
//!   A appended something: then COMMIT looks whether the locks are still there.
//! * **time**, A's client was told of the commit before B's sent its first statement:
//!   `commit(A) → first moment of B`.
//!
//! A transaction that was aborted has no commit, but what it read counts, except in lists to which
//! it had appended.
//!
//! A history that fits its levels gives a graph without cycles, since all of these hold for the
//! times at which things really happened. With one moment for each transaction this is Adya's
//! serialization graph; with two it is the start-ordered graph of his PL-SI, as in Cerone and
//! Gotsman, "Analysing Snapshot Isolation", PODC 2016. Levels may be mixed in one history.

use std::collections::{BTreeMap, HashMap};

use super::reads::{Orders, before_own};
use super::{Element, Key, Level, Outcome, Statement, Transaction, View};

/// Why one moment came before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Within one transaction.
    Statement,
    /// Appended before, to this list.
    Ww(Key),
    /// Read what the other appended, in this list.
    Wr(Key),
    /// Did not see what the other appended, to this list.
    Rw(Key),
    /// Had ended before the other began.
    Time,
}

/// The graph of moments.
#[derive(Debug, Default)]
pub struct Graph {
    /// For each moment those that came after it.
    pub after: Vec<Vec<(usize, Why)>>,
    /// Whose each moment is; `None`: a moment of the clock, between all that ended before it and
    /// all that began after it.
    pub whose: Vec<Option<usize>>,
}

impl Graph {
    fn moment(&mut self, whose: Option<usize>) -> usize {
        self.after.push(Vec::new());
        self.whose.push(whose);
        self.after.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, why: Why) {
        if from != to {
            self.after[from].push((to, why));
        }
    }
}

/// The moments of one transaction.
#[derive(Clone, Debug)]
struct Moments {
    first: usize,
    /// Of each statement.
    statements: Vec<usize>,
    /// When it took effect, if it did.
    commit: Option<usize>,
}

/// Builds the graph of all transactions.
pub fn build(history: &[Transaction], orders: &Orders) -> Graph {
    let mut graph = Graph::default();
    let moments: Vec<Option<Moments>> = history
        .iter()
        .enumerate()
        .map(|(at, transaction)| add_moments(&mut graph, transaction, at, orders.took_effect[at]))
        .collect();
    let writers: BTreeMap<Key, Vec<usize>> = orders
        .seen
        .iter()
        .map(|(key, order)| {
            let by = |element| orders.appends.get(element).map(|append| append.by);
            (*key, order.iter().filter_map(by).collect())
        })
        .collect();
    let building = Building { history, orders, moments: &moments, writers: &writers };
    building.add_writes(&mut graph);
    building.add_reads(&mut graph);
    building.add_time(&mut graph);
    graph
}

/// `None` for a transaction of which nothing is known.
fn add_moments(
    graph: &mut Graph,
    transaction: &Transaction,
    at: usize,
    took_effect: bool,
) -> Option<Moments> {
    let mut chain = Vec::new();
    let mut next = || {
        let moment = graph.moment(Some(at));
        if let Some(before) = chain.last() {
            graph.edge(*before, moment, Why::Statement);
        }
        chain.push(moment);
        moment
    };
    let level = match transaction.level {
        Level::Serializable if !took_effect => Level::RepeatableRead,
        level => level,
    };
    let shared = match level {
        Level::ReadCommitted => None,
        Level::RepeatableRead | Level::Snapshot | Level::Serializable => Some(next()),
    };
    let statements = transaction
        .statements
        .iter()
        .map(|statement| match (level, statement, shared) {
            (Level::Snapshot | Level::Serializable, _, Some(shared))
            | (Level::RepeatableRead, Statement::Read { view: View::Plain, .. }, Some(shared)) => {
                shared
            }
            _ => next(),
        })
        .collect();
    let commit = took_effect.then(|| match (level, shared) {
        (Level::Serializable, Some(shared)) => shared,
        _ => next(),
    });
    Some(Moments { first: *chain.first()?, statements, commit })
}

/// A list as one statement read it.
struct Seen<'a> {
    at: usize,
    key: Key,
    view: View,
    list: &'a [Element],
    /// What its transaction had appended itself.
    own: &'a [Element],
}

/// What the edges are made of.
struct Building<'a> {
    history: &'a [Transaction],
    orders: &'a Orders,
    moments: &'a [Option<Moments>],
    /// Who appended the elements of each list, in its order.
    writers: &'a BTreeMap<Key, Vec<usize>>,
}

impl Building<'_> {
    fn commit(&self, at: usize) -> Option<usize> {
        self.moments[at].as_ref()?.commit
    }

    /// Who was the next to append to a list that had so many elements.
    fn next_writers(&self, key: Key, len: usize) -> &[usize] {
        let writers = self.writers.get(&key).map_or(&[][..], Vec::as_slice);
        let unseen = || self.orders.unseen.get(&key).map_or(&[][..], Vec::as_slice);
        writers.get(len..=len).unwrap_or_else(unseen)
    }

    fn add_writes(&self, graph: &mut Graph) {
        for (key, order) in &self.orders.seen {
            for pair in order.windows(2) {
                let by = |element| self.orders.appends.get(element).map(|append| append.by);
                let (Some(before), Some(next)) = (by(&pair[0]), by(&pair[1])) else { continue };
                let (Some(from), Some(to)) = (self.commit(before), self.append(next, pair[1]))
                else {
                    continue;
                };
                if before != next {
                    graph.edge(from, to, Why::Ww(*key));
                }
            }
        }
    }

    /// When a transaction appended an element.
    fn append(&self, at: usize, element: Element) -> Option<usize> {
        let is_it = |statement: &Statement| match statement {
            Statement::Append { element: other, .. } => *other == element,
            Statement::Read { .. } => false,
        };
        let position = self.history[at].statements.iter().position(is_it)?;
        Some(self.moments[at].as_ref()?.statements[position])
    }

    fn add_reads(&self, graph: &mut Graph) {
        for (at, transaction) in self.history.iter().enumerate() {
            let Some(moments) = &self.moments[at] else { continue };
            let mut own: HashMap<Key, Vec<Element>> = HashMap::new();
            for (statement, moment) in transaction.statements.iter().zip(&moments.statements) {
                match statement {
                    Statement::Append { key, element } => {
                        own.entry(*key).or_default().push(*element);
                    }
                    Statement::Read { view, lists } => {
                        for (key, list) in lists {
                            let own = own.get(key).map_or(&[][..], Vec::as_slice);
                            let seen = Seen { at, key: *key, view: *view, list, own };
                            self.add_read(graph, &seen, *moment);
                        }
                    }
                }
            }
        }
    }

    fn add_read(&self, graph: &mut Graph, seen: &Seen<'_>, moment: usize) {
        let Some(base) = before_own(seen.list, seen.own) else { return };
        let Some((from, to)) = self.span(seen, moment) else { return };
        let by = base.last().and_then(|last| self.orders.appends.get(last));
        if let Some(wrote) = by.and_then(|append| self.commit(append.by)) {
            graph.edge(wrote, from, Why::Wr(seen.key));
        }
        for next in self.next_writers(seen.key, base.len()) {
            if let (true, Some(wrote)) = (*next != seen.at, self.commit(*next)) {
                graph.edge(to, wrote, Why::Rw(seen.key));
            }
        }
    }

    /// From when to when what was read stood like that; `None` when nothing says.
    fn span(&self, seen: &Seen<'_>, moment: usize) -> Option<(usize, usize)> {
        let level = self.history[seen.at].level;
        let commit = self.commit(seen.at);
        if !seen.own.is_empty() {
            // The list was locked before the first own element came to it, which may be later than
            // the snapshot; a conflict would have aborted an optimistic transaction.
            let is_newest = (level, seen.view) == (Level::RepeatableRead, View::Plain);
            return commit.map(|commit| (if is_newest { commit } else { moment }, commit));
        }
        // What does not exist cannot be locked.
        let is_locked = seen.view == View::Locking && !seen.list.is_empty();
        let is_checked = level == Level::Snapshot || self.has_appended(seen.at);
        Some((moment, commit.filter(|_| is_locked && is_checked).unwrap_or(moment)))
    }

    fn has_appended(&self, at: usize) -> bool {
        let appends = |statement: &Statement| matches!(statement, Statement::Append { .. });
        self.history[at].statements.iter().any(appends)
    }

    /// A chain of clock moments, one for each end, so that the edges are as many as transactions
    /// and not as many as pairs.
    fn add_time(&self, graph: &mut Graph) {
        let is_committed = |transaction: &Transaction| transaction.outcome == Outcome::Committed;
        // At the same time a beginning comes first: the two are concurrent.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (at, transaction) in self.history.iter().enumerate() {
            events.push((transaction.began, false, at));
            if is_committed(transaction) {
                events.push((transaction.ended, true, at));
            }
        }
        events.sort_unstable();
        let mut clock: Option<usize> = None;
        for (_, is_end, at) in events {
            let Some(moments) = &self.moments[at] else { continue };
            match (is_end, moments.commit) {
                (true, Some(commit)) => {
                    let moment = graph.moment(None);
                    if let Some(before) = clock {
                        graph.edge(before, moment, Why::Time);
                    }
                    graph.edge(commit, moment, Why::Time);
                    clock = Some(moment);
                }
                (true, None) => {}
                (false, _) => {
                    if let Some(before) = clock {
                        graph.edge(before, moments.first, Why::Time);
                    }
                }
            }
        }
    }
}
