//! The tables about statements that have ended, of `information_schema`, and one of MySQL's `performance_schema`.
//!
//! Source: TiDB's documentation, `STATEMENTS_SUMMARY`, `SLOW_QUERY`. Columns about things that are not measured here are left
//! out; `COP_BYTES` and `REQUESTS` are ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_executor::ExecContext;
use cairn_types::time::TimeKind;
use cairn_types::{Datum, TimeZone};

use super::slow_log::format::SlowQuery;
use super::summary::Shown;
use super::sums::{Sum, Sums};
use crate::clock;
use crate::domain::Domain;
use crate::error::Result;
use crate::infoschema::Rows;
use crate::lock_view::nodes;

/// Where the status port shows the sums of this interval.
pub const SUMMARY_PATH: &str = "/statements/summary";
/// Those of past intervals too.
pub const HISTORY_PATH: &str = "/statements/history";
/// Kinds that found no room.
pub const EVICTED_PATH: &str = "/statements/evicted";
/// Slow statements.
pub const SLOW_PATH: &str = "/statements/slow";

/// The tables made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementTable {
    /// Sums over kinds of statements.
    Summary {
        /// Those of past intervals too.
        history: bool,
        /// Of all nodes.
        cluster: bool,
    },
    /// The same by digest alone, as MySQL shows it.
    ByDigest,
    /// How many kinds found no room.
    Evicted {
        /// Of all nodes.
        cluster: bool,
    },
    /// Statements that took long.
    SlowQuery {
        /// Of all nodes.
        cluster: bool,
    },
}

impl StatementTable {
    /// The table of a name, if it is made here.
    pub fn find(database: &str, table: &str) -> Option<Self> {
        if database == "performance_schema" {
            return (table == "events_statements_summary_by_digest").then_some(Self::ByDigest);
        }
        if !database.eq_ignore_ascii_case("information_schema") {
            return None;
        }
        let (name, cluster) = match table.strip_prefix("CLUSTER_") {
            Some(name) => (name, true),
            None => (table, false),
        };
        match name {
            "STATEMENTS_SUMMARY" => Some(Self::Summary { history: false, cluster }),
            "STATEMENTS_SUMMARY_HISTORY" => Some(Self::Summary { history: true, cluster }),
            "STATEMENTS_SUMMARY_EVICTED" => Some(Self::Evicted { cluster }),
            "SLOW_QUERY" => Some(Self::SlowQuery { cluster }),
            _ => None,
        }
    }

    /// Its rows; times are in the statement's zone, nodes that do not answer are its warnings.
    pub async fn rows(self, domain: Arc<Domain>, exec: ExecContext) -> Result<Rows> {
        let zone = exec.eval.time_zone.clone();
        let now_us = clock::unix_micros();
        match self {
            Self::Summary { history, cluster } => {
                let (own, path) = match history {
                    true => (domain.summaries.history(now_us), HISTORY_PATH),
                    false => (domain.summaries.current(now_us), SUMMARY_PATH),
                };
                let path = cluster.then_some(path);
                let all = nodes::gather(&domain, &exec, own, path).await?;
                Ok(rows_of(&all, cluster, |shown| summary_row(shown, &zone)))
            }
            Self::ByDigest => Ok(by_digest(&domain.summaries.history(now_us), &zone)),
            Self::Evicted { cluster } => {
                let own = domain.summaries.evicted(now_us);
                let path = cluster.then_some(EVICTED_PATH);
                let all = nodes::gather(&domain, &exec, own, path).await?;
                Ok(rows_of(&all, cluster, |(begin_s, end_s, count)| {
                    vec![
                        time(begin_s * 1_000_000, 0, &zone),
                        time(end_s * 1_000_000, 0, &zone),
                        Datum::UInt(*count),
                    ]
                }))
            }
            Self::SlowQuery { cluster } => {
                let own = domain.slow_log.read().await;
                let path = cluster.then_some(SLOW_PATH);
                let all = nodes::gather(&domain, &exec, own, path).await?;
                Ok(rows_of(&all, cluster, |query| slow_row(query, &zone)))
            }
        }
    }
}

fn rows_of<T>(
    all: &[(String, Vec<T>)],
    cluster: bool,
    row: impl Fn(&T) -> Vec<Datum> + Copy,
) -> Rows {
    let rows =
        all.iter().flat_map(|(instance, list)| list.iter().map(move |one| (instance, row(one))));
    nodes::with_instance(rows, cluster)
}

fn summary_row(shown: &Shown, zone: &TimeZone) -> Vec<Datum> {
    let sums = &shown.sums;
    let average = |sum: &Sum| Datum::UInt(sum.sum / sums.count.max(1));
    let exact = |sum: &Sum| Datum::Double(sum.sum as f64 / sums.count.max(1) as f64);
    let max = |sum: &Sum| Datum::UInt(sum.max);
    vec![
        time(shown.begin_s * 1_000_000, 0, zone),
        time(shown.end_s * 1_000_000, 0, zone),
        text(&shown.kind),
        shown.database.as_deref().map_or(Datum::Null, text),
        shown.digest.as_deref().map_or(Datum::Null, text),
        text(&shown.text),
        opt(&shown.tables),
        opt(&shown.indexes),
        opt(&shown.sample_user),
        Datum::UInt(sums.count),
        Datum::UInt(sums.errors),
        Datum::UInt(sums.warnings),
        Datum::UInt(sums.latency.sum),
        max(&sums.latency),
        Datum::UInt(sums.latency.min),
        average(&sums.latency),
        average(&sums.parse),
        max(&sums.parse),
        average(&sums.compile),
        max(&sums.compile),
        Datum::UInt(sums.cop_tasks.sum),
        average(&sums.cop_time),
        max(&sums.cop_time),
        Datum::UInt(sums.cop_bytes.sum),
        Datum::UInt(sums.requests.sum),
        Datum::UInt(sums.retries.sum),
        average(&sums.memory),
        max(&sums.memory),
        average(&sums.disk),
        max(&sums.disk),
        exact(&sums.rows),
        Datum::UInt(sums.rows.min),
        max(&sums.rows),
        exact(&sums.affected),
        Datum::Int(i64::from(shown.is_prepared)),
        Datum::Int(i64::from(sums.plan_cache_hits > 0)),
        Datum::UInt(sums.plan_cache_hits),
        time(sums.first_seen_us, 0, zone),
        time(sums.last_seen_us, 0, zone),
        text(&shown.sample),
        text(&shown.plan_digest),
        text(&shown.plan),
    ]
}

/// A database and a digest.
type Kind<'a> = (Option<&'a str>, Option<&'a str>);

/// Sums over all intervals and plans; times are in picoseconds.
fn by_digest(all: &[Shown], zone: &TimeZone) -> Rows {
    const PICOS_PER_NANO: u64 = 1_000;
    let mut sums: BTreeMap<Kind<'_>, (&Shown, Sums)> = BTreeMap::new();
    for shown in all {
        let key = (shown.database.as_deref(), shown.digest.as_deref());
        sums.entry(key).or_insert_with(|| (shown, Sums::default())).1.merge(&shown.sums);
    }
    let picos = |ns: u64| Datum::UInt(ns.saturating_mul(PICOS_PER_NANO));
    let row = |((database, digest), (shown, sums)): (Kind<'_>, (&Shown, Sums))| {
        vec![
            database.map_or(Datum::Null, text),
            digest.map_or(Datum::Null, text),
            digest.map_or(Datum::Null, |_| text(&shown.text)),
            Datum::UInt(sums.count),
            picos(sums.latency.sum),
            picos(sums.latency.min),
            picos(sums.latency.sum / sums.count.max(1)),
            picos(sums.latency.max),
            Datum::UInt(sums.errors),
            Datum::UInt(sums.warnings),
            Datum::UInt(sums.affected.sum),
            Datum::UInt(sums.rows.sum),
            time(sums.first_seen_us, 6, zone),
            time(sums.last_seen_us, 6, zone),
            text(&shown.sample),
            Datum::UInt(sums.memory.max),
        ]
    };
    sums.into_iter().map(row).collect()
}

fn slow_row(query: &SlowQuery, zone: &TimeZone) -> Vec<Datum> {
    let flag = |is: bool| Datum::Int(i64::from(is));
    vec![
        time(query.ended_us, 6, zone),
        Datum::UInt(query.start_ts),
        text(&query.user),
        text(&query.host),
        Datum::UInt(query.connection.into()),
        Datum::Double(query.query_s),
        Datum::Double(query.parse_s),
        Datum::Double(query.compile_s),
        text(&query.database),
        text(&query.kind),
        opt(&query.index_names),
        text(&query.digest),
        Datum::UInt(query.cop_tasks),
        Datum::Double(query.cop_time_s),
        Datum::Double(query.cop_time_max_s),
        Datum::UInt(query.cop_bytes),
        Datum::UInt(query.requests),
        Datum::UInt(query.memory_bytes),
        Datum::UInt(query.disk_bytes),
        Datum::UInt(query.retries),
        flag(query.is_prepared),
        flag(query.plan_was_cached),
        flag(query.succeeded),
        Datum::UInt(query.rows_sent),
        Datum::UInt(query.affected_rows),
        text(&query.plan),
        text(&query.plan_digest),
        text(&query.text),
    ]
}

fn text(value: &str) -> Datum {
    Datum::text(value)
}

fn opt(value: &str) -> Datum {
    if value.is_empty() { Datum::Null } else { Datum::text(value) }
}

fn time(unix_us: i64, digits: u8, zone: &TimeZone) -> Datum {
    zone.from_unix_micros(unix_us, TimeKind::DateTime, digits).map_or(Datum::Null, Datum::Time)
}
