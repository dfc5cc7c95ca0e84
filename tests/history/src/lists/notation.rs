//! Histories as text, a line for each transaction, so that a person can read one that was found
//! wrong, cut it down, and have it judged again:
//!
//! ```text
//! client 2 repeatable-read committed 10..25: read 1=[1 2] 7=[]; lock 1=[1 2]; append 1 3
//! ```
//!
//! Empty lines and lines that begin with `#` are skipped.

use std::fmt;
use std::str::FromStr;

use super::{Element, Key, Level, Outcome, Statement, Transaction, View};

/// A line that is no transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} in `{line}`")]
pub struct NotationError {
    what: &'static str,
    line: String,
}

/// Writes a history down.
pub fn write(history: &[Transaction]) -> String {
    history.iter().map(|transaction| format!("{transaction}\n")).collect()
}

/// Reads a history; the number of a transaction is its place among all of them, from 0.
pub fn read(text: &str) -> Result<Vec<Transaction>, NotationError> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse).collect()
}

const LEVELS: [(Level, &str); 4] = [
    (Level::ReadCommitted, "read-committed"),
    (Level::RepeatableRead, "repeatable-read"),
    (Level::Snapshot, "snapshot"),
    (Level::Serializable, "serializable"),
];

const OUTCOMES: [(Outcome, &str); 3] = [
    (Outcome::Committed, "committed"),
    (Outcome::Aborted, "aborted"),
    (Outcome::Unknown, "unknown"),
];

const VIEWS: [(View, &str); 2] = [(View::Plain, "read"), (View::Locking, "lock")];

fn word<T: PartialEq>(words: &[(T, &'static str)], value: &T) -> &'static str {
    words.iter().find(|(other, _)| other == value).map_or("?", |(_, word)| word)
}

fn value<T: Copy>(words: &[(T, &str)], word: Option<&str>) -> Option<T> {
    words.iter().find(|(_, other)| Some(*other) == word).map(|(value, _)| *value)
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&LEVELS, self))
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = word(&OUTCOMES, &self.outcome);
        let Transaction { client, level, began, ended, .. } = self;
        write!(f, "client {client} {level} {outcome} {began}..{ended}:")?;
        for (position, statement) in self.statements.iter().enumerate() {
            f.write_str(if position == 0 { " " } else { "; " })?;
            match statement {
                Statement::Append { key, element } => write!(f, "append {} {}", key.0, element.0)?,
                Statement::Read { view, lists } => {
                    f.write_str(word(&VIEWS, view))?;
                    for (key, list) in lists {
                        let list: Vec<String> =
                            list.iter().map(|element| element.0.to_string()).collect();
                        write!(f, " {}=[{}]", key.0, list.join(" "))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Transaction {
    type Err = NotationError;

    fn from_str(line: &str) -> Result<Self, NotationError> {
        let wrong = |what| NotationError { what, line: line.to_owned() };
        let (head, tail) = line.split_once(':').ok_or_else(|| wrong("no colon"))?;
        let mut words = head.split_whitespace();
        let client = (words.next() == Some("client")).then(|| words.next()?.parse().ok()).flatten();
        let client = client.ok_or_else(|| wrong("no client"))?;
        let level = value(&LEVELS, words.next()).ok_or_else(|| wrong("no level"))?;
        let outcome = value(&OUTCOMES, words.next()).ok_or_else(|| wrong("no outcome"))?;
        let span = words.next().and_then(|span| span.split_once(".."));
        let span = span.and_then(|(began, ended)| Some((began.parse().ok()?, ended.parse().ok()?)));
        let (began, ended) = span.ok_or_else(|| wrong("no beginning and end"))?;
        let statements = tail.split(';').map(str::trim).filter(|text| !text.is_empty());
        let statements = statements
            .map(|text| statement(text).ok_or_else(|| wrong("no statement")))
            .collect::<Result<_, _>>()?;
        Ok(Transaction { client, level, began, ended, outcome, statements })
    }
}

fn statement(text: &str) -> Option<Statement> {
    let (verb, rest) = text.split_once(' ')?;
    if verb == "append" {
        let (key, element) = rest.split_once(' ')?;
        let (key, element) = (Key(key.parse().ok()?), Element(element.parse().ok()?));
        return Some(Statement::Append { key, element });
    }
    let view = value(&VIEWS, Some(verb))?;
    let lists = rest.trim_end().strip_suffix(']')?.split(']').map(|list| {
        let (key, elements) = list.trim().split_once("=[")?;
        let elements = elements.split_whitespace().map(|element| element.parse().ok().map(Element));
        Some((Key(key.parse().ok()?), elements.collect::<Option<_>>()?))
    });
    Some(Statement::Read { view, lists: lists.collect::<Option<_>>()? })
}
