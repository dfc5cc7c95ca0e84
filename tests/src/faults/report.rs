//! What a case measured, held against its criterion.

use std::time::Duration;

use serde_json::{Value, json};

use crate::updates::Stretch;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every criterion was met.
    Passed,
    /// Some was not.
    Failed,
    /// It could not be tried, for this reason.
    Skipped(String),
}

/// One measured thing.
#[derive(Clone, Debug)]
struct Figure {
    what: String,
    value: String,
    /// What it had to be, unless it is only told.
    criterion: Option<String>,
    met: bool,
}

/// The figures of one case.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    details: Vec<String>,
    skipped: Option<String>,
}

impl Report {
    /// A case that cannot be tried here.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self { skipped: Some(reason.into()), ..Self::default() }
    }

    /// A time that has a limit.
    pub fn at_most(&mut self, what: &str, value: Duration, limit: Duration) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value: seconds(value),
            criterion: Some(format!("≤ {}", seconds(limit))),
            met: value <= limit,
        });
    }

    /// A share in percent that has a lower limit.
    pub fn at_least_percent(&mut self, what: &str, percent: f64, limit: f64) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value: format!("{percent:.0} %"),
            criterion: Some(format!("≥ {limit:.0} %")),
            met: percent >= limit,
        });
    }

    /// Something that must be so.
    pub fn holds(&mut self, what: &str, is_so: bool) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value: if is_so { "yes" } else { "no" }.to_owned(),
            criterion: Some("yes".to_owned()),
            met: is_so,
        });
    }

    /// Something that must not be found.
    pub fn none(&mut self, what: &str, found: Vec<String>) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value: found.len().to_string(),
            criterion: Some("0".to_owned()),
            met: found.is_empty(),
        });
        self.details.extend(found.into_iter().map(|found| format!("{what}: {found}")));
    }

    /// A figure without a criterion.
    pub fn tell(&mut self, what: &str, value: impl ToString) {
        self.figures.push(Figure {
            what: what.to_owned(),
            value: value.to_string(),
            criterion: None,
            met: true,
        });
    }

    /// How long the load stood still, and its speed.
    pub fn stall(&mut self, what: &str, stretch: &Stretch, limit: Duration) {
        self.at_most(&format!("{what}: stall"), stretch.stall, limit);
        self.tell("worst client", seconds(stretch.worst_client));
    }

    /// How the case ended.
    pub fn outcome(&self) -> Outcome {
        match &self.skipped {
            Some(reason) => Outcome::Skipped(reason.clone()),
            None if self.figures.iter().all(|figure| figure.met) => Outcome::Passed,
            None => Outcome::Failed,
        }
    }

    /// What went wrong in detail.
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// All figures in a line; those that missed their criterion are marked.
    pub fn line(&self) -> String {
        if let Some(reason) = &self.skipped {
            return reason.clone();
        }
        let shown = self.figures.iter().map(|figure| {
            let mark = if figure.met { "" } else { " MISSED" };
            match &figure.criterion {
                Some(criterion) => {
                    format!("{} {} ({criterion}){mark}", figure.what, figure.value)
                }
                None => format!("{} {}", figure.what, figure.value),
            }
        });
        shown.collect::<Vec<_>>().join("; ")
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "what": figure.what,
                "value": figure.value,
                "criterion": figure.criterion,
                "met": figure.met,
            })
        });
        json!({
            "figures": figures.collect::<Vec<_>>(),
            "details": self.details,
            "skipped": self.skipped,
        })
    }
}

/// A time as people read it.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
