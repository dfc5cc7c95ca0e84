//! `ANALYZE TABLE`, `DROP STATS`, `LOCK STATS`, `UNLOCK STATS`.
//!
//! **Answers.** MySQL's rows (`Table`, `Op`, `Msg_type`, `Msg_text`), one or more for each table: what is
//! wrong with one table does not keep the others from being analyzed.
//!
//! **Schema.** The table is read with the definition of the moment, and nothing holds that for as long
//! as reading takes: changes of the schema do not wait. Columns that are gone or others by the end leave
//! distributions that nobody takes for theirs.
//!
//! **Counts.** What commits told between the view that was read and the end stays counted as changed.
//!
//! Sources: MySQL 8.0 manual, 15.7.3.1 "ANALYZE TABLE Statement"; TiDB's manual, "ANALYZE".

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_executor::MemoryTracker;
use cairn_executor::sample::Sampled;
use cairn_kv_client::RequestScope;
use cairn_parser::ast::{AnalyzeScope, AnalyzeTable, ObjectName};
use cairn_planner::TableInfo;
use cairn_planner::statistics::build::BuildOptions;
use cairn_proto::kv::Priority;
use cairn_types::{Datum, TimeStamp, errno};
use tokio_util::sync::CancellationToken;

use super::gather::{self, GatherOptions, Targets};
use super::jobs::Job;
use super::record::{self, Attempts, Counts, Distributions};
use crate::clock;
use crate::domain::{Domain, in_flashback};
use crate::error::{Result, SqlError};
use crate::session::Session;
use crate::sink::ResultSink;
use crate::statement::check;
use crate::statement::show::find_table;

/// In the background, building rests so many times as long as it works.
const BACKGROUND_PAUSE: u32 = 3;
/// Bounds of what `WITH` takes, TiDB's.
const TOP_VALUES_MAX: u64 = 100_000;
const BUCKETS_MAX: u64 = 100_000;

/// Runs `ANALYZE TABLE`.
pub async fn run(
    session: &mut Session,
    analyze: &AnalyzeTable,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    session.check_present()?;
    if !analyze.partitions.is_empty() {
        return Err(SqlError::not_supported("ANALYZE of partitions"));
    }
    let options = options(session, analyze)?;
    // As every administration of tables does.
    session.commit().await?;
    session.domain.statistics.flush(&session.domain).await?;
    let mut rows = Vec::new();
    for name in &analyze.tables {
        let database = session.database_or_current(name.schema.as_deref())?;
        let shown = format!("{database}.{}", name.name);
        let mut row = |kind: &str, message: &str| {
            rows.push([&shown, "analyze", kind, message].map(Datum::text));
        };
        match one(session, name, &analyze.scope, &options).await {
            Ok(None) => row("status", "OK"),
            Ok(Some(note)) => {
                row("note", &note);
                row("status", "OK");
            }
            Err(SqlError::Mysql(error)) if error.code != errno::ER_MEM_QUOTA_EXCEEDED => {
                row("Error", &error.message);
                row("status", "Operation failed");
            }
            Err(SqlError::Kv(error)) => {
                row("Error", &error.to_string());
                row("status", "Operation failed");
            }
            Err(error) => return Err(error),
        }
    }
    session.domain.statistics.refresh(&session.domain).await?;
    sink.begin_rows(check::columns().into()).await?;
    session.found_rows = rows.len() as u64;
    session.row_count = -1;
    for row in &rows {
        sink.row(row).await?;
    }
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// Analyzes a table; answers what the user should know.
async fn one(
    session: &mut Session,
    name: &ObjectName,
    scope: &AnalyzeScope,
    options: &GatherOptions,
) -> Result<Option<String>> {
    let (database, table) = find_table(session, name)?;
    if table.is_virtual {
        return Err(SqlError::not_supported("ANALYZE of a system view"));
    }
    let no_column =
        |column: &String| unknown(errno::ER_BAD_FIELD_ERROR, "column", column, &table.name);
    for column in options.columns.iter().flatten() {
        table.find_column(column).ok_or_else(|| no_column(column))?;
    }
    let mut note = None;
    if let AnalyzeScope::Indexes(names) = scope {
        for index in names {
            let missing = || unknown(errno::ER_KEY_DOES_NOT_EXITS, "key", index, &table.name);
            table.find_index(index).ok_or_else(missing)?;
        }
        note = Some("All columns and indexes are analyzed, not only those named".to_owned());
    }
    let memory = session.statement_memory().tracker;
    let request = Request {
        database: &database,
        table,
        options,
        process_id: Some(session.process.id.0),
        scope: RequestScope { priority: Priority::Low, ..session.scope().clone() },
        cancel: session.token().clone(),
        memory,
    };
    match analyze(&session.domain, request).await? {
        Outcome::Analyzed => Ok(note),
        Outcome::Locked => Ok(Some("The table's statistics are locked".to_owned())),
    }
}

fn unknown(code: u16, what: &str, name: &str, table: &str) -> SqlError {
    let message = match what {
        "key" => format!("Key '{name}' doesn't exist in table '{table}'"),
        _ => format!("Unknown column '{name}' in '{table}'"),
    };
    SqlError::new(code, message)
}

/// What the statement and the session's variables say.
fn options(session: &Session, analyze: &AnalyzeTable) -> Result<GatherOptions> {
    let mut options = default_options(&session.domain);
    if let AnalyzeScope::Columns(columns) = &analyze.scope {
        options.columns = Some(columns.iter().map(|column| column.to_lowercase()).collect());
    }
    for (name, value) in &analyze.options {
        let wrong = || {
            let message = format!("Value of analyze option {name} is wrong: {value}");
            SqlError::new(errno::ER_WRONG_ARGUMENTS, message)
        };
        let number =
            |max: u64| value.parse::<u64>().ok().filter(|number| *number <= max).ok_or_else(wrong);
        let size = |max: u64| number(max).map(|number| number as usize);
        match name.as_str() {
            "TOPN" => options.build.top_values = size(TOP_VALUES_MAX)?,
            "BUCKETS" => options.build.buckets = size(BUCKETS_MAX)?.max(1),
            "SAMPLES" => {
                let rows = number(u64::from(cairn_executor::sample::SAMPLE_ROWS_MAX))?;
                options.sample_rows = u32::try_from(rows).map_err(|_| wrong())?.max(1);
            }
            "SAMPLERATE" => {
                let rate = value.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1.0);
                options.sample_rate = Some(rate.ok_or_else(wrong)?);
            }
            // Of TiDB's first version of statistics: there are no such sketches.
            _ => {}
        }
    }
    Ok(options)
}

/// What tables are analyzed with unless a statement says otherwise.
pub fn default_options(domain: &Domain) -> GatherOptions {
    let values = domain.variables.current();
    let skipped = values.get("tidb_analyze_skip_column_types").map_or("", String::as_str);
    let skipped = skipped.split(',').map(|name| name.trim().to_lowercase());
    GatherOptions {
        build: BuildOptions::default(),
        skipped_types: skipped.filter(|name| !name.is_empty()).collect(),
        ..GatherOptions::default()
    }
}

/// One table to analyze.
pub struct Request<'a> {
    /// Name of its database.
    pub database: &'a str,
    /// The table.
    pub table: Arc<TableInfo>,
    /// How.
    pub options: &'a GatherOptions,
    /// The connection that asked for it; none: nobody did.
    pub process_id: Option<u32>,
    /// Bounds of its requests.
    pub scope: RequestScope,
    /// Ends it.
    pub cancel: CancellationToken,
    /// Its memory.
    pub memory: Arc<MemoryTracker>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The table has new statistics.
    Analyzed,
    /// Its statistics are locked: they stay as they are.
    Locked,
}

/// Analyzes a table and stores what was found.
pub async fn analyze(domain: &Arc<Domain>, request: Request<'_>) -> Result<Outcome> {
    if domain.schema.current().is_in_flashback() {
        return Err(in_flashback());
    }
    let expected = domain.statistics.known(request.table.id).map_or(0, |known| known.rows());
    let info = match request.process_id {
        Some(_) => "analyze table",
        None => "auto analyze table",
    };
    let (columns, build) = (&request.options.columns, request.options.build);
    let info = format!(
        "{info} {} with {} buckets, {} topn, {} samples",
        if columns.is_some() { "columns" } else { "all columns" },
        build.buckets,
        build.top_values,
        request.options.sample_rows
    );
    let (database, table) = (request.database, &request.table);
    let job = Job::begin(database, &table.name, info, request.process_id, expected);
    let running = domain.statistics.jobs.begin(job);
    let outcome = gather_and_store(domain, &request, running.job()).await;
    running.end(outcome)
}

async fn gather_and_store(
    domain: &Arc<Domain>,
    request: &Request<'_>,
    job: &Job,
) -> Result<Outcome> {
    let table = &request.table;
    let read_ts = domain.now_ts().await?;
    // Held until the end, so that nothing of it is collected meanwhile.
    let snapshot = domain.kv.snapshot(read_ts);
    let before = record::counts_at(&snapshot, table.id).await?.unwrap_or_default();
    if before.is_locked {
        return Ok(Outcome::Locked);
    }
    let seed = u64::from_le_bytes(clock::random_bytes());
    let rows = before.row_count.max(0) as f64;
    let mut targets = Targets::new(table, request.options, rows, seed);
    let scope = request.scope.clone();
    let mut memory = cairn_executor::OperatorMemory::new(request.memory.clone(), "Analyze");
    let progress = |rows| job.rows.store(rows, Ordering::Relaxed);
    let mut sampled =
        gather::read(domain, table, &targets, read_ts, scope.clone(), &mut memory, progress)
            .await?;
    if request.options.is_too_small(&sampled, rows) {
        targets = Targets::new(table, request.options, sampled.rows as f64, seed);
        sampled =
            gather::read(domain, table, &targets, read_ts, scope, &mut memory, progress).await?;
    }
    let analyzed_rows = sampled.rows;
    let built = build(request, targets, sampled, read_ts).await?;
    let mut attempts = Attempts::of(domain);
    loop {
        let change = attempts.begin().await?;
        let now = change.counts(table.id).await?.unwrap_or_default();
        if domain.schema.current().table_by_id(table.id).is_none() {
            return Err(crate::session::unknown_table(request.database, &table.name));
        }
        // Another one was faster, and has read a later state.
        if now.analyzed_ts > read_ts.0 {
            return Ok(Outcome::Analyzed);
        }
        change.put_counts(table.id, after(&before, &now, read_ts.0, analyzed_rows))?;
        change.replace_distributions(table.id, &built).await?;
        if attempts.commit(change).await? {
            return Ok(Outcome::Analyzed);
        }
    }
}

/// Distributions of everything that was read, one after the other.
async fn build(
    request: &Request<'_>,
    targets: Targets,
    sampled: Sampled,
    read_ts: TimeStamp,
) -> Result<Distributions> {
    let options = request.options.build;
    let is_background = request.scope.priority == Priority::Background;
    let (targets, sampled) = (Arc::new(targets), Arc::new(sampled));
    let mut built = Distributions::new();
    for part in 0..targets.parts() {
        let begun = tokio::time::Instant::now();
        let (targets, sampled) = (Arc::clone(&targets), Arc::clone(&sampled));
        let one =
            tokio::task::spawn_blocking(move || targets.build(part, &sampled, options, read_ts));
        built.extend(one.await.map_err(|_| SqlError::Interrupted)?);
        if is_background {
            let rest = tokio::time::sleep(begun.elapsed() * BACKGROUND_PAUSE);
            let _ = request.cancel.run_until_cancelled(rest).await;
        }
        if request.cancel.is_cancelled() {
            return Err(SqlError::Interrupted);
        }
    }
    Ok(built)
}

/// The counts of a table of which `rows` were found at `read_ts`, where the counts were `before`.
fn after(before: &Counts, now: &Counts, read_ts: u64, rows: u64) -> Counts {
    // Somebody may have analyzed it meanwhile, and begun to count anew from what was found then.
    let is_same = now.analyzed_ts == before.analyzed_ts;
    let changes_before = if is_same { before.modify_count } else { 0 };
    let rows_before = if is_same { before.row_count } else { now.analyzed_rows as i64 };
    let rows_since = now.row_count.saturating_sub(rows_before);
    Counts {
        analyzed_ts: read_ts,
        analyzed_rows: rows as f64,
        row_count: i64::try_from(rows).unwrap_or(i64::MAX).saturating_add(rows_since),
        modify_count: now.modify_count.saturating_sub(changes_before).max(0),
        ..now.clone()
    }
}

/// `DROP STATS`: forgets all but the counts.
pub async fn drop_statistics(session: &Session, names: &[ObjectName]) -> Result<()> {
    for name in names {
        let (_, table) = find_table(session, name)?;
        let mut attempts = Attempts::of(&session.domain);
        loop {
            let change = attempts.begin().await?;
            let Some(counts) = change.counts(table.id).await? else { break };
            let counts = Counts { analyzed_ts: 0, analyzed_rows: 0.0, ..counts };
            change.put_counts(table.id, counts)?;
            change.replace_distributions(table.id, &Distributions::new()).await?;
            if attempts.commit(change).await? {
                break;
            }
        }
    }
    session.domain.statistics.refresh(&session.domain).await
}

/// `LOCK STATS`, `UNLOCK STATS`.
pub async fn lock(session: &mut Session, names: &[ObjectName], is_locked: bool) -> Result<()> {
    for name in names {
        let (database, table) = find_table(session, name)?;
        let domain = Arc::clone(&session.domain);
        let mut attempts = Attempts::of(&domain);
        let is_new = loop {
            let change = attempts.begin().await?;
            let counts = change.counts(table.id).await?.unwrap_or_default();
            if counts.is_locked == is_locked {
                break false;
            }
            change.put_counts(table.id, Counts { is_locked, ..counts })?;
            if attempts.commit(change).await? {
                break true;
            }
        };
        if !is_new {
            let state = if is_locked { "locked" } else { "unlocked" };
            let verb = if is_locked { "locking" } else { "unlocking" };
            let message = format!("skip {verb} {state} table: {database}.{}", table.name);
            session.warn(errno::ER_UNKNOWN_ERROR, message);
        }
    }
    session.domain.statistics.refresh(&session.domain).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_while_the_table_was_read_stays_counted() {
        let before = Counts { row_count: 100, modify_count: 40, ..Counts::default() };
        let now = Counts { row_count: 130, modify_count: 75, ..before.clone() };
        let counts = after(&before, &now, 9, 104);
        assert_eq!((counts.row_count, counts.modify_count), (134, 35));
        assert_eq!((counts.analyzed_ts, counts.analyzed_rows), (9, 104.0));
        // Another one has begun to count anew in between.
        let now = Counts { row_count: 107, modify_count: 5, analyzed_ts: 8, ..before.clone() };
        let now = Counts { analyzed_rows: 104.0, ..now };
        let counts = after(&before, &now, 9, 106);
        assert_eq!((counts.row_count, counts.modify_count), (109, 5));
    }
}
