//! `TRACE`: runs a statement and tells how long each step took.
//!
//! Steps are parsing, planning, every operator with everything below it, and every request to a store, in a tree:
//! requests of a reader stand below it, others below the execution. As in TiDB the formats are `row`, `json` and `log`.
//!
//! Operators tell when they were first called and how long all calls took together, so that siblings may overlap.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_kv_client::RequestSpan;
use cairn_parser::ast::{ParsedStatement, Trace};
use cairn_planner::OutputColumn;
use cairn_planner::plan::Plan;
use cairn_types::time::TimeKind;
use cairn_types::{Datum, FieldType, TimeZone};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::explain::NoSink;
use super::explain::analyze::{bytes_text, duration_text};
use super::explain::formats::ER_UNKNOWN_EXPLAIN_FORMAT;
use super::{Parameters, dispatch};
use crate::clock;
use crate::error::{Result, SqlError};
use crate::execution::Watch;
use crate::session::Session;
use crate::sink::ResultSink;

/// What TRACE prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Row,
    Json,
    Log,
}

impl Format {
    fn of(trace: &Trace) -> Result<Format> {
        match trace.format.as_deref() {
            None | Some("row") => Ok(Format::Row),
            Some("json") => Ok(Format::Json),
            Some("log") => Ok(Format::Log),
            Some(other) => Err(SqlError::new(
                ER_UNKNOWN_EXPLAIN_FORMAT,
                format!("Unknown TRACE format name: '{other}', it should be one of row, json, log"),
            )),
        }
    }
}

/// One step, with those that it is made of.
#[derive(Clone, Debug)]
struct Span {
    name: String,
    /// Nanoseconds after the statement began.
    start_ns: u64,
    duration_ns: u64,
    /// What is known of it besides.
    about: String,
    children: Vec<Span>,
}

impl Span {
    fn new(name: impl Into<String>, start_ns: u64, duration_ns: u64) -> Span {
        let (name, about, children) = (name.into(), String::new(), Vec::new());
        Span { name, start_ns, duration_ns, about, children }
    }
}

/// Result columns.
pub fn columns(trace: &Trace) -> Result<Vec<OutputColumn>> {
    let names: &[&str] = match Format::of(trace)? {
        Format::Row => &["operation", "startTS", "duration"],
        Format::Json => &["operation"],
        Format::Log => &["Time", "Event", "Tags"],
    };
    Ok(names.iter().map(|name| OutputColumn::computed(*name, FieldType::longtext())).collect())
}

/// Runs a `TRACE`, which `parsed` holds.
pub fn run<'a>(
    session: &'a mut Session,
    (trace, parsed): (&'a Trace, &'a ParsedStatement),
    text: &'a str,
    parameters: &'a Parameters,
    sink: &'a mut dyn ResultSink,
) -> BoxFuture<'a, Result<()>> {
    // In a box: statements that run others are a circle of types.
    Box::pin(run_traced(session, trace, parsed, text, parameters, sink))
}

async fn run_traced(
    session: &mut Session,
    trace: &Trace,
    parsed: &ParsedStatement,
    text: &str,
    parameters: &Parameters,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let format = Format::of(trace)?;
    let began_us = clock::unix_micros();
    let (start, start_ns) = (Instant::now(), clock::monotonic_nanos());
    let watch = session.begin_watch();
    let target = ParsedStatement {
        statement: (*trace.statement).clone(),
        parameter_count: parsed.parameter_count,
        range: parsed.range.clone(),
        as_of: parsed.as_of.clone(),
    };
    dispatch(session, &target, text, parameters, &mut NoSink).await?;
    let total_ns = clock::monotonic_nanos().saturating_sub(start_ns);
    let tracing = Tracing { start, start_ns, watch };
    let root = tracing.root(session, total_ns);
    let zone = session.settings().time_zone.clone();
    sink.begin_rows(columns(trace)?.into()).await?;
    for row in rows(format, &root, began_us, &zone) {
        let row: Vec<Datum> = row.into_iter().map(Datum::text).collect();
        sink.row(&row).await?;
    }
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// What was watched, with the moment when it began by both clocks.
struct Tracing {
    start: Instant,
    start_ns: u64,
    watch: Arc<Watch>,
}

impl Tracing {
    fn root(&self, session: &Session, total_ns: u64) -> Span {
        let measures = &session.measures;
        let mut root = Span::new("trace", 0, total_ns + measures.parse_ns);
        root.children.push(Span::new("session.ParseSQL", 0, measures.parse_ns));
        let compile = Span::new("planner.Optimize", measures.parse_ns, measures.compile_ns);
        let cached = if measures.plan_was_cached { "plan from the cache" } else { "" };
        root.children.push(Span { about: cached.to_owned(), ..compile });
        let before_ns = measures.parse_ns + measures.compile_ns;
        let run_ns = root.duration_ns.saturating_sub(before_ns);
        let mut run = Span::new("executor.Run", before_ns, run_ns);
        if let Some(plan) = &session.statement_plan {
            self.operators(plan, &mut run, measures.parse_ns);
        }
        let of_readers: u64 =
            self.watch.readers().values().map(|log| log.spans().len() as u64).sum();
        let all = self.watch.requests.spans();
        let shown = all.iter().filter(|span| of_readers == 0 || span.name != "Cop");
        run.children.extend(shown.map(|span| self.request(span, measures.parse_ns)));
        run.children.sort_by_key(|span| span.start_ns);
        root.children.push(run);
        root
    }

    /// Operators that ran, as they stand in the plan.
    fn operators(&self, plan: &Plan, run: &mut Span, offset_ns: u64) {
        let summaries: BTreeMap<usize, _> = self.watch.stats.summaries().into_iter().collect();
        let logs = self.watch.readers();
        let mut path: Vec<(usize, Span)> = Vec::new();
        let close = |path: &mut Vec<(usize, Span)>, run: &mut Span, level: usize| {
            while let Some((_, done)) = path.pop_if(|(above, _)| *above >= level) {
                let parent = path.last_mut().map_or(&mut *run, |(_, parent)| parent);
                parent.children.push(done);
            }
        };
        for line in cairn_planner::explain(plan) {
            let id = line.operator.filter(|_| line.fragment.is_none());
            let Some((id, summary)) = id.and_then(|id| Some((id, summaries.get(&id)?))) else {
                continue;
            };
            close(&mut path, run, line.level);
            let start_ns = summary.start_ns.saturating_sub(self.start_ns) + offset_ns;
            let mut span = Span::new(format!("{}_{id}", line.name), start_ns, summary.time_ns);
            span.about = format!("rows:{}, loops:{}", summary.rows, summary.loops);
            let requests = logs.get(&id).map(|log| log.spans()).unwrap_or_default();
            span.children.extend(requests.iter().map(|one| self.request(one, offset_ns)));
            path.push((line.level, span));
        }
        close(&mut path, run, 0);
    }

    fn request(&self, request: &RequestSpan, offset_ns: u64) -> Span {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let start_ns = nanos(request.start.saturating_duration_since(self.start)) + offset_ns;
        let mut span =
            Span::new(format!("rpc.{}", request.name), start_ns, nanos(request.duration));
        span.about = format!("region:{}, store:{}", request.region_id, request.store_id);
        if request.bytes > 0 {
            span.about += &format!(", rows:{}, bytes:{}", request.rows, bytes_text(request.bytes));
        }
        if !request.answered {
            span.about += ", no answer";
        }
        span
    }
}

fn rows(format: Format, root: &Span, began_us: i64, zone: &TimeZone) -> Vec<Vec<String>> {
    match format {
        Format::Row => {
            let mut rows = Vec::new();
            tree_rows(root, "", None, &|start_ns| time_text(began_us, start_ns, zone), &mut rows);
            rows
        }
        Format::Json => vec![vec![json!([json_of(root, began_us)]).to_string()]],
        Format::Log => {
            let mut events = Vec::new();
            log_events(root, &mut events);
            events.sort_by_key(|(at_ns, ..)| *at_ns);
            let row = |(at_ns, event, tags): (u64, String, String)| {
                vec![time_text(began_us, at_ns, zone), event, tags]
            };
            events.into_iter().map(row).collect()
        }
    }
}

fn tree_rows(
    span: &Span,
    prefix: &str,
    is_last: Option<bool>,
    time: &dyn Fn(u64) -> String,
    rows: &mut Vec<Vec<String>>,
) {
    let (branch, below) = match is_last {
        None => ("", ""),
        Some(true) => ("└─", "  "),
        Some(false) => ("├─", "│ "),
    };
    let about = if span.about.is_empty() { String::new() } else { format!(" {{{}}}", span.about) };
    rows.push(vec![
        format!("{prefix}{branch}{}{about}", span.name),
        time(span.start_ns),
        duration_text(span.duration_ns),
    ]);
    let prefix = format!("{prefix}{below}");
    let count = span.children.len();
    for (at, child) in span.children.iter().enumerate() {
        tree_rows(child, &prefix, Some(at + 1 == count), time, rows);
    }
}

fn json_of(span: &Span, began_us: i64) -> Value {
    let mut object = json!({
        "operation": span.name,
        "start_us": began_us + (span.start_ns / 1_000) as i64,
        "duration_ns": span.duration_ns,
    });
    if !span.about.is_empty() {
        object["tags"] = span.about.clone().into();
    }
    if !span.children.is_empty() {
        let children = span.children.iter().map(|child| json_of(child, began_us));
        object["children"] = children.collect();
    }
    object
}

fn log_events(span: &Span, events: &mut Vec<(u64, String, String)>) {
    events.push((span.start_ns, format!("--- start span {} ---", span.name), span.about.clone()));
    span.children.iter().for_each(|child| log_events(child, events));
    let end_ns = span.start_ns + span.duration_ns;
    let end = format!("--- end span {} ---", span.name);
    events.push((end_ns, end, duration_text(span.duration_ns)));
}

fn time_text(began_us: i64, start_ns: u64, zone: &TimeZone) -> String {
    let at_us = began_us + (start_ns / 1_000) as i64;
    let time = zone.from_unix_micros(at_us, TimeKind::DateTime, 6);
    let text = time.map_or_else(String::new, |time| time.to_string());
    // As in TiDB: the day is today.
    text.split_once(' ').map_or(text.clone(), |(_, clock)| clock.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Span {
        let mut root = Span::new("trace", 0, 5_000);
        let mut run = Span::new("executor.Run", 1_000, 4_000);
        run.about = "rows:1".to_owned();
        run.children.push(Span::new("rpc.Get", 2_000, 1_500));
        root.children = vec![Span::new("session.ParseSQL", 0, 1_000), run];
        root
    }

    #[test]
    fn rows_show_the_tree() {
        let rows = rows(Format::Row, &root(), 0, &TimeZone::utc());
        let operations: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        let expected = ["trace", "├─session.ParseSQL", "└─executor.Run {rows:1}", "  └─rpc.Get"];
        assert_eq!(operations, expected);
        assert_eq!(rows[3][1..], ["00:00:00.000002".to_owned(), "1.5µs".to_owned()]);
    }

    #[test]
    fn logs_are_in_the_order_of_time() {
        let rows = rows(Format::Log, &root(), 0, &TimeZone::utc());
        assert_eq!(rows.len(), 8);
        assert_eq!(rows[0][1], "--- start span trace ---");
        assert!(rows.is_sorted_by_key(|row| row[0].clone()));
    }

    #[test]
    fn json_is_nested() {
        let rows = rows(Format::Json, &root(), 7, &TimeZone::utc());
        let value: Value = serde_json::from_str(&rows[0][0]).expect("JSON");
        assert_eq!(value[0]["children"][1]["children"][0]["operation"], "rpc.Get");
        assert_eq!(value[0]["start_us"], 7);
    }
}
