//! What the queries answer, and how results are compared with it.
//!
//! Answers stand in the form of the standard's own: a line of column names, then a line per row,
//! values separated by `|` and padded with spaces. Numbers there are rounded to two digits, so
//! they agree within a hundredth.

use std::fmt::Write;
use std::path::Path;

use tpchgen::q_and_a::answers_sf1;

use super::KINDS;
use crate::error::{BenchError, Failure};

/// How far two numbers may be apart: both are rounded somewhere, here or by the standard.
const TOLERANCE: f64 = 0.0101;
/// And in relation to their size.
const TOLERANCE_RELATIVE: f64 = 1e-9;

/// Rows as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    rows: Vec<Vec<String>>,
}

impl Answer {
    /// The rows that a server answered; NULL is written as it is.
    pub fn from_rows(rows: Vec<Vec<Option<String>>>) -> Answer {
        let text = |value: Option<String>| value.map_or("NULL".to_owned(), |v| v.trim().to_owned());
        Answer { rows: rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect() }
    }

    fn parse(text: &str) -> Answer {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).skip(1);
        let row = |line: &str| line.split('|').map(|value| value.trim().to_owned()).collect();
        Answer { rows: lines.map(row).collect() }
    }

    /// Writes the rows to `q<number>.tbl` in a folder.
    pub fn write(&self, folder: &Path, kind: usize) -> Result<(), Failure> {
        let mut text = format!("{} of TPC-H\n", KINDS[kind]);
        for row in &self.rows {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", row.join("|"));
        }
        let path = folder.join(format!("{}.tbl", KINDS[kind]));
        std::fs::write(&path, text)
            .map_err(|error| Failure::Driver(format!("cannot write {}: {error}", path.display())))
    }

    /// Whether all rows are the same. Those that ORDER BY leaves in any order may come in any.
    fn agrees(&self, other: &Answer) -> Result<(), String> {
        if self.rows.len() != other.rows.len() {
            return Err(format!("{} rows, not {}", other.rows.len(), self.rows.len()));
        }
        let Err(first) = same_rows(&self.rows, &other.rows) else { return Ok(()) };
        let sorted = |answer: &Answer| {
            let mut rows = answer.rows.clone();
            rows.sort();
            rows
        };
        same_rows(&sorted(self), &sorted(other)).map_err(|_| first)
    }
}

fn same_rows(expected: &[Vec<String>], found: &[Vec<String>]) -> Result<(), String> {
    for (number, (expected, found)) in expected.iter().zip(found).enumerate() {
        let same = expected.len() == found.len()
            && expected.iter().zip(found).all(|(expected, found)| same_value(expected, found));
        if !same {
            let (expected, found) = (expected.join("|"), found.join("|"));
            return Err(format!("row {}: {found}\nexpected: {expected}", number + 1));
        }
    }
    Ok(())
}

fn same_value(expected: &str, found: &str) -> bool {
    if expected == found {
        return true;
    }
    match (expected.parse::<f64>(), found.parse::<f64>()) {
        (Ok(expected), Ok(found)) => {
            (expected - found).abs() <= TOLERANCE.max(expected.abs() * TOLERANCE_RELATIVE)
        }
        _ => false,
    }
}

/// The answers to all queries, if they are known.
#[derive(Debug, Default)]
pub struct Answers {
    /// By query; empty: not known.
    by_query: Vec<Answer>,
}

impl Answers {
    /// Those of a folder, or the standard's own at scale factor 1.
    pub fn find(folder: Option<&Path>, scale: f64) -> Result<Answers, BenchError> {
        let read = |number: usize| -> Result<Option<Answer>, BenchError> {
            match folder {
                Some(folder) => {
                    let path = folder.join(format!("{}.tbl", KINDS[number]));
                    let text = std::fs::read_to_string(&path).map_err(|error| {
                        BenchError::Options(format!("cannot read {}: {error}", path.display()))
                    })?;
                    Ok(Some(Answer::parse(&text)))
                }
                None if scale == 1.0 => {
                    Ok(answers_sf1::answer(number as i32 + 1).map(Answer::parse))
                }
                None => Ok(None),
            }
        };
        let all: Option<Vec<Answer>> =
            (0..KINDS.len()).map(read).collect::<Result<_, BenchError>>()?;
        Ok(Answers { by_query: all.unwrap_or_default() })
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_query.is_empty()
    }

    /// Compares a result with the answer, if that is known.
    pub fn compare(&self, kind: usize, found: &Answer) -> Result<(), Failure> {
        let Some(expected) = self.by_query.get(kind) else { return Ok(()) };
        let differs = |what| Failure::Wrong(format!("{}: {what}", KINDS[kind]));
        expected.agrees(found).map_err(differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer::parse(&format!("names\n{text}"))
    }

    #[test]
    fn numbers_agree_within_a_hundredth_and_texts_as_they_are() {
        let known = answer("A  |25.52 |10\nB|1.00|2\n");
        assert_eq!(known.agrees(&answer("A|25.522006|10\nB|1.0|2")), Ok(()));
        assert_eq!(known.agrees(&answer("B|1.0|2\nA|25.522006|10")), Ok(()));
        assert!(known.agrees(&answer("A|25.54|10\nB|1.00|2")).is_err());
        assert!(known.agrees(&answer("A|25.52|10")).is_err());
        assert!(known.agrees(&answer("a|25.52|10\nB|1.00|2")).is_err());
    }

    #[test]
    fn all_answers_at_scale_factor_1_are_known() {
        let answers = Answers::find(None, 1.0).unwrap();
        assert_eq!(answers.by_query.len(), 22);
        assert!(answers.by_query.iter().all(|answer| !answer.rows.is_empty()));
        assert!(Answers::find(None, 0.1).unwrap().is_empty());
    }
}
