//! Transactions on lists: each statement reads lists, or appends one element to one.
//!
//! Why lists: every element is appended once, so whoever reads a list learns not only which
//! transaction wrote last, but every one before it and in which order (Kingsbury and Alvaro,
//! "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020). Long forks,
//! write skew, sets and monotonic reads are no checkers of their own but other mixes of the same
//! statements: see [`workload`].
//!
//! [`check`] first looks at each read alone ([`reads`]), then for cycles of all transactions
//! ([`graph`]). A history can be written down and read again as text ([`notation`]).

mod cycles;
mod graph;
pub mod notation;
mod reads;
pub mod workload;

use std::fmt;

/// A list's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// What is appended; no two appends of a history have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub u64);

/// What a transaction was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// Plain reads see one snapshot; locking reads, and rows the transaction has written, are the
    /// newest (MySQL's and TiDB's pessimistic REPEATABLE READ).
    RepeatableRead,
    /// Snapshot isolation: all reads see one snapshot, and of two concurrent writers of a list one
    /// aborts (TiDB's optimistic transactions).
    Snapshot,
    /// As if transactions ran one after the other.
    Serializable,
}

/// How a statement reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A plain SELECT.
    Plain,
    /// `FOR UPDATE` or `FOR SHARE`: what it finds stays as it is until the transaction ends.
    Locking,
}

/// What a statement did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// It read these lists, all at one moment.
    Read {
        /// How.
        view: View,
        /// What it saw.
        lists: Vec<(Key, Vec<Element>)>,
    },
    /// It appended an element.
    Append {
        /// To which list.
        key: Key,
        /// What.
        element: Element,
    },
}

/// What the client was told in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Committed,
    /// It never happened.
    Aborted,
    /// Nobody knows.
    Unknown,
}

/// A transaction as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who.
    pub client: u32,
    /// What was promised.
    pub level: Level,
    /// When its first statement was sent, on a clock that all clients share.
    pub began: u64,
    /// When its client was told the outcome.
    pub ended: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What it did, in order, as far as it came.
    pub statements: Vec<Statement>,
}

/// What no order of the transactions explains, by the names of Adya, "Weak Consistency: A
/// Generalized Theory and Optimistic Implementations for Distributed Transactions", MIT 1999.
/// `after_its_end` cycles need the fact that one transaction had ended before another began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// An element that nobody appended, or one twice in a list.
    Garbage,
    /// A transaction does not see what it wrote itself.
    OwnWriteUnseen,
    /// G1a: an aborted transaction's element was read.
    AbortedRead,
    /// G1b: a list was read between two appends of one transaction.
    IntermediateRead,
    /// Two reads saw the elements of a list in different orders.
    IncompatibleOrder,
    /// G0: transactions overwrote each other's writes.
    WriteCycle {
        /// Only with what clients' clocks say.
        after_its_end: bool,
    },
    /// G1c: information flowed in a circle.
    CircularFlow {
        /// Only with what clients' clocks say.
        after_its_end: bool,
    },
    /// G-single: one read missed something that it should have seen.
    ReadSkew {
        /// Only with what clients' clocks say.
        after_its_end: bool,
    },
    /// G2-item: several reads missed each other's writes (write skew, long fork).
    WriteSkew {
        /// Only with what clients' clocks say.
        after_its_end: bool,
    },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, after_its_end) = match *self {
            Anomaly::Garbage => ("garbage", false),
            Anomaly::OwnWriteUnseen => ("own write unseen", false),
            Anomaly::AbortedRead => ("G1a aborted read", false),
            Anomaly::IntermediateRead => ("G1b intermediate read", false),
            Anomaly::IncompatibleOrder => ("incompatible order", false),
            Anomaly::WriteCycle { after_its_end } => ("G0 write cycle", after_its_end),
            Anomaly::CircularFlow { after_its_end } => ("G1c circular flow", after_its_end),
            Anomaly::ReadSkew { after_its_end } => ("G-single read skew", after_its_end),
            Anomaly::WriteSkew { after_its_end } => ("G2-item write skew", after_its_end),
        };
        f.write_str(name)?;
        if after_its_end { f.write_str(" in real time") } else { Ok(()) }
    }
}

/// Something that the levels forbid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it is called.
    pub anomaly: Anomaly,
    /// Why, a line for each step.
    pub steps: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.steps.join("; "))
    }
}

/// Judges a history; `T3` in what it tells is the transaction at index 3.
///
/// Reads that are wrong by themselves are told alone: the order they tell of is none to build on.
/// Time and memory are linear in the number of elements read.
///
/// # Panics
///
/// When an element was appended twice: then the history says nothing.
pub fn check(history: &[Transaction]) -> Vec<Violation> {
    let (orders, violations) = reads::look(history);
    if violations.is_empty() {
        return cycles::find(history, &graph::build(history, &orders));
    }
    violations
}
