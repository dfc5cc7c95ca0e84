//! How a run is reported: lines of progress, a table at the end, the same as JSON.
//!
//! Names of JSON's fields are stable; units stand last (`_ms`, `_s`, `_per_s`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::figures::{Counted, Phase};
use crate::histogram::Snapshot;
use crate::load::CheckResult;
use crate::workload::Headline;

/// One interval of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// When it ended, from the begin of the measurement.
    pub elapsed_s: f64,
    /// Transactions that ended well.
    pub count: u64,
    /// The same per second.
    pub rate_per_s: f64,
    /// Attempts that failed.
    pub errors: u64,
    /// Half were at least as fast.
    pub p50_ms: f64,
    /// 95 % were.
    pub p95_ms: f64,
    /// 99 % were.
    pub p99_ms: f64,
}

impl Interval {
    /// The difference of two moments, `length` apart.
    pub fn new(elapsed: Duration, length: Duration, now: &Counted, then: &Counted) -> Self {
        let all = match then.latencies.is_empty() {
            true => now.all(),
            false => now.all().since(&then.all()),
        };
        Self {
            elapsed_s: rounded(elapsed.as_secs_f64()),
            count: all.count(),
            rate_per_s: rounded(all.count() as f64 / length.as_secs_f64()),
            errors: now.error_count() - then.error_count(),
            p50_ms: all.quantile_ms(0.5),
            p95_ms: all.quantile_ms(0.95),
            p99_ms: all.quantile_ms(0.99),
        }
    }
}

/// How an interval is shown while the run goes on.
pub fn progress_line(interval: &Interval, phase: Phase) -> String {
    format!(
        "[{:>7.1} s] {:>10.1} per second  {:>5} errors  p50 {:.2}  p95 {:.2}  p99 {:.2} ms{}",
        interval.elapsed_s,
        interval.rate_per_s,
        interval.errors,
        interval.p50_ms,
        interval.p95_ms,
        interval.p99_ms,
        if phase == Phase::WarmUp { "  (warm-up)" } else { "" },
    )
}

/// Figures of one kind of transactions, or of all.
#[derive(Clone, Debug, Serialize)]
pub struct KindSummary {
    /// The kind.
    pub name: String,
    /// How many ended well.
    pub count: u64,
    /// How many of them took themselves back, as they were to.
    pub rolled_back: u64,
    /// How many per second.
    pub rate_per_s: f64,
    /// Average latency.
    pub avg_ms: f64,
    /// Half were at least as fast; and so on.
    pub p50_ms: f64,
    /// 90 % were.
    pub p90_ms: f64,
    /// 95 % were.
    pub p95_ms: f64,
    /// 99 % were.
    pub p99_ms: f64,
    /// 99.9 % were.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl KindSummary {
    /// Summarizes latencies that were recorded in `seconds`.
    pub fn new(name: &str, latencies: &Snapshot, rolled_back: u64, seconds: f64) -> Self {
        Self {
            name: name.to_owned(),
            count: latencies.count(),
            rolled_back,
            rate_per_s: rate(latencies.count(), seconds),
            avg_ms: rounded(latencies.average_ms()),
            p50_ms: latencies.quantile_ms(0.5),
            p90_ms: latencies.quantile_ms(0.9),
            p95_ms: latencies.quantile_ms(0.95),
            p99_ms: latencies.quantile_ms(0.99),
            p999_ms: latencies.quantile_ms(0.999),
            max_ms: latencies.max_ms(),
        }
    }
}

/// Per second, in three digits behind the point; 0 if no time passed.
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

/// Three digits behind the point.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Everything that is said of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The workload.
    pub workload: String,
    /// What the server says it is.
    pub server_version: String,
    /// `prepared` or `text`.
    pub protocol: &'static str,
    /// Connections.
    pub threads: usize,
    /// Where all randomness began.
    pub seed: u64,
    /// The workload's sizes.
    pub parameters: serde_json::Value,
    /// Time before measuring.
    pub warmup_s: f64,
    /// Time measured.
    pub time_s: f64,
    /// Whether the run was stopped before its time.
    pub interrupted: bool,
    /// The error that ended the run, if any.
    pub error: Option<String>,
    /// Figures of all kinds together.
    pub total: KindSummary,
    /// Figures of each kind.
    pub transactions: Vec<KindSummary>,
    /// What the workload's standard asks for.
    #[serde(flatten)]
    pub headline: Option<Headline>,
    /// Attempts that failed, by the server's number or a word.
    pub errors: BTreeMap<String, u64>,
    /// Transactions that failed with an error that was ignored.
    pub given_up: u64,
    /// Transactions that had not ended some time after the end.
    pub unfinished: usize,
    /// The run, interval by interval.
    pub intervals: Vec<Interval>,
    /// The checks after the run.
    pub checks: Vec<CheckResult>,
}

impl Summary {
    /// The table at the end of a run.
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} on {}, {} connections, {} statements, {:.1} s\n",
            self.workload, self.server_version, self.threads, self.protocol, self.time_s
        );
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<18}{:>9}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "count", "per second", "avg ms", "p50", "p90", "p95", "p99", "p99.9", "max"
        );
        let all = (self.transactions.len() > 1).then_some(&self.total);
        // A mix need not have all kinds.
        for kind in self.transactions.iter().filter(|kind| kind.count > 0).chain(all) {
            let _ = writeln!(
                text,
                "{:<18}{:>9}{:>12.1}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
                kind.name,
                kind.count,
                kind.rate_per_s,
                kind.avg_ms,
                kind.p50_ms,
                kind.p90_ms,
                kind.p95_ms,
                kind.p99_ms,
                kind.p999_ms,
                kind.max_ms
            );
        }
        for kind in self.transactions.iter().filter(|kind| kind.rolled_back > 0) {
            let _ = writeln!(text, "{}: {} rolled back as intended", kind.name, kind.rolled_back);
        }
        let errors = match self.errors.is_empty() {
            true => "none".to_owned(),
            false => {
                let counts = self.errors.iter().map(|(code, count)| format!("{code}: {count}"));
                counts.collect::<Vec<_>>().join(", ")
            }
        };
        let _ = writeln!(text, "errors: {errors}");
        if self.given_up > 0 {
            let _ = writeln!(text, "{} transactions failed and were given up", self.given_up);
        }
        if self.unfinished > 0 {
            let _ = writeln!(text, "{} transactions did not end", self.unfinished);
        }
        if let Some(headline) = self.headline {
            let _ = write!(text, "tpmC: {:.1}", headline.tpmc);
            if let Some(efficiency) = headline.efficiency_percent {
                let _ = write!(text, ", efficiency: {efficiency:.1} %");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

    #[test]
    fn an_interval_is_the_difference_of_two_moments() {
        let histogram = Histogram::default();
        let counted = |errors: u64| Counted {
            latencies: vec![histogram.snapshot()],
            rolled_back: vec![0],
            errors: BTreeMap::from([("1213".to_owned(), errors)]),
            given_up: 0,
        };
        histogram.record(Duration::from_millis(50));
        let then = counted(3);
        for _ in 0..20 {
            histogram.record(Duration::from_millis(1));
        }
        let two_s = Duration::from_secs(2);
        let interval = Interval::new(Duration::from_secs(4), two_s, &counted(5), &then);
        assert_eq!((interval.count, interval.errors, interval.rate_per_s), (20, 2, 10.0));
        assert!(interval.p99_ms < 1.1, "{interval:?}");
        let line = progress_line(&interval, Phase::Measured);
        assert!(line.contains("10.0 per second") && line.contains("2 errors"), "{line}");
    }
}
