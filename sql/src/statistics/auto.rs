//! Analyzes tables that have changed much, without being asked.
//!
//! **Flow.** One node at a time does it, by a lease in the meta keyspace that it renews while it works.
//! Every [`SqlConfig::statistics_lease`] it takes the table that has changed most, in relation to its rows,
//! and goes on until none is left that has changed by more than `tidb_auto_analyze_ratio`. A table that
//! could not be analyzed waits for [`FAILURE_PAUSE`]. It does this in the background: each step rests three times as
//! long as it works, so that statements notice little of it.
//!
//! **When.** `tidb_enable_auto_analyze`, between `tidb_auto_analyze_start_time` and `…_end_time`; what is
//! under way at the end of that time goes on.
//!
//! Source: TiDB's manual, "Automatic update".
//!
//! [`SqlConfig::statistics_lease`]: crate::SqlConfig::statistics_lease

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::RequestScope;
use cairn_planner::{Catalog, TableInfo};
use cairn_proto::kv::Priority;
use cairn_types::{TableId, TimeStamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::COUNTED_ROWS_MIN;
use super::analyze::{self, Request};
use super::record::Counts;
use crate::catalog::meta::ANALYZE_LEASE_KEY;
use crate::domain::Domain;
use crate::error::Result;
use crate::gc::lease;
use crate::variables::Values;

/// How long the lease outlives its last renewal, at least.
const LEASE_SPAN_MIN: Duration = Duration::from_secs(10);
/// It outlives so many turns of its owner.
const LEASE_TURNS: u32 = 4;
/// How long a table is left alone that could not be analyzed.
const FAILURE_PAUSE: Duration = Duration::from_secs(600);
/// Memory of one table's sample and distributions.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
const MINUTES_OF_DAY: i64 = 24 * 60;

/// The variables of automatic analysis, decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoSettings {
    is_enabled: bool,
    ratio: f64,
    /// Minutes of the day, UTC.
    start: i64,
    end: i64,
}

impl AutoSettings {
    /// Decodes the global values; what cannot be decoded is a default.
    pub fn decode(values: &Values) -> AutoSettings {
        let text = |name: &str| values.get(name).map_or("", String::as_str);
        AutoSettings {
            is_enabled: text("tidb_enable_auto_analyze") != "OFF",
            ratio: text("tidb_auto_analyze_ratio").parse().unwrap_or(0.5),
            start: minute_of_day(text("tidb_auto_analyze_start_time")).unwrap_or(0),
            end: minute_of_day(text("tidb_auto_analyze_end_time")).unwrap_or(MINUTES_OF_DAY - 1),
        }
    }

    /// Whether tables are analyzed at this time; the last minute is part of it, and it may lie
    /// over midnight.
    fn is_open(&self, now: TimeStamp) -> bool {
        let minutes = i64::try_from(now.physical_ms() / 60_000).unwrap_or(0);
        let now = minutes.rem_euclid(MINUTES_OF_DAY);
        let is_between = match self.start <= self.end {
            true => self.start <= now && now <= self.end,
            false => self.start <= now || now <= self.end,
        };
        self.is_enabled && is_between
    }

    /// How much a table wants to be analyzed: the share of its rows that changed; `None`: not at all.
    fn urgency(&self, counts: &Counts) -> Option<f64> {
        let (rows, changed) = (counts.row_count, counts.modify_count);
        // A small table stays one, however often its rows change; of one that was never looked at
        // only the changes may be known.
        let size = match counts.analyzed_ts {
            0 => rows.max(changed),
            _ => rows.max(counts.analyzed_rows as i64),
        };
        if counts.is_locked || size < COUNTED_ROWS_MIN {
            return None;
        }
        if counts.analyzed_ts == 0 {
            return (changed >= COUNTED_ROWS_MIN).then_some(f64::INFINITY);
        }
        let share = changed as f64 / rows.max(1) as f64;
        (share > self.ratio && self.ratio > 0.0).then_some(share)
    }
}

/// `HH:MM ±HHMM`, as minutes of the day in UTC.
fn minute_of_day(text: &str) -> Option<i64> {
    let (time, offset) = text.trim().split_once(' ').unwrap_or((text.trim(), "+0000"));
    let (hours, minutes) = time.split_once(':')?;
    let minute = clock_minutes(hours, minutes)?;
    let (sign, digits) = match offset.trim().split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_at_checked(2)?;
    let offset = sign * clock_minutes(hours, minutes.trim_start_matches(':'))?;
    Some((minute - offset).rem_euclid(MINUTES_OF_DAY))
}

fn clock_minutes(hours: &str, minutes: &str) -> Option<i64> {
    let part = |text: &str, below: i64| {
        let number: i64 = text.parse().ok()?;
        (0..below).contains(&number).then_some(number)
    };
    Some(part(hours, 24)? * 60 + part(minutes, 60)?)
}

/// Takes part until the node stops.
pub async fn run(domain: Arc<Domain>) {
    let mut failed = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(domain.config.statistics_lease) => {}
            () = domain.stop.cancelled() => break,
        }
        let turn = tokio::select! {
            turn = take_turn(&domain, &mut failed) => turn,
            () = domain.stop.cancelled() => break,
        };
        if let Err(error) = turn {
            tracing::warn!(%error, "tables are not analyzed by themselves for now");
        }
    }
    if let Err(error) = lease::give_up(&domain, ANALYZE_LEASE_KEY).await {
        tracing::debug!(%error, "the lease of automatic analysis runs out by itself");
    }
}

/// Until when tables are left alone.
type Failed = HashMap<TableId, Instant>;

/// Analyzes what wants to be, if this node is the one to do it.
async fn take_turn(domain: &Arc<Domain>, failed: &mut Failed) -> Result<()> {
    failed.retain(|_, until| *until > Instant::now());
    loop {
        let settings = AutoSettings::decode(&domain.variables.current());
        let Some((database, table)) = next(domain, &settings, failed) else { return Ok(()) };
        let now = domain.now_ts().await?;
        if !settings.is_open(now) || !keep_lease(domain, now).await? {
            return Ok(());
        }
        // The one before may have had it analyzed a moment ago.
        domain.statistics.refresh(domain).await?;
        let counts = domain.statistics.known(table.id).map(|known| known.counts);
        if counts.and_then(|counts| settings.urgency(&counts)).is_none() {
            continue;
        }
        if let Err(error) = one(domain, &database, &table).await {
            tracing::warn!(%error, table = table.name, "a table cannot be analyzed by itself");
            failed.insert(table.id, Instant::now() + FAILURE_PAUSE);
        }
        domain.statistics.refresh(domain).await?;
    }
}

/// Takes or renews the lease.
async fn keep_lease(domain: &Domain, now: TimeStamp) -> Result<bool> {
    let span = LEASE_SPAN_MIN.max(domain.config.statistics_lease * LEASE_TURNS);
    Ok(lease::acquire(domain, ANALYZE_LEASE_KEY, now, span).await?.is_some())
}

/// The table that wants it most; of equal ones the first.
fn next(
    domain: &Domain,
    settings: &AutoSettings,
    failed: &Failed,
) -> Option<(String, Arc<TableInfo>)> {
    let schema = domain.schema.current();
    if !settings.is_enabled || schema.is_in_flashback() {
        return None;
    }
    let mut most: Option<(f64, String, Arc<TableInfo>)> = None;
    for database in schema.databases() {
        for table in schema.tables(&database.name) {
            if table.is_virtual || failed.contains_key(&table.id) {
                continue;
            }
            let counts = domain.statistics.known(table.id).map(|known| known.counts);
            let Some(urgency) = counts.and_then(|counts| settings.urgency(&counts)) else {
                continue;
            };
            if most.as_ref().is_none_or(|(other, ..)| urgency > *other) {
                most = Some((urgency, database.name.clone(), table));
            }
        }
    }
    most.map(|(_, database, table)| (database, table))
}

/// Analyzes one table and keeps the lease meanwhile; without the lease it stops.
async fn one(domain: &Arc<Domain>, database: &str, table: &Arc<TableInfo>) -> Result<()> {
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let options = analyze::default_options(domain);
    let request = Request {
        database,
        table: Arc::clone(table),
        options: &options,
        process_id: None,
        scope: RequestScope {
            cancel: Some(cancel.clone()),
            ..RequestScope::with_priority(Priority::Background)
        },
        cancel: cancel.clone(),
        memory: domain.memory.task("automatic ANALYZE", MEMORY_BYTES_MAX, cancel.clone()),
    };
    let renew = async {
        loop {
            tokio::time::sleep(domain.config.statistics_lease).await;
            let renewed = match domain.now_ts().await {
                Ok(now) => keep_lease(domain, now).await,
                Err(error) => Err(error),
            };
            match renewed {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::debug!(%error, "the lease is renewed later"),
            }
        }
    };
    tokio::select! {
        analyzed = analyze::analyze(domain, request) => analyzed.map(drop),
        () = renew => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AutoSettings {
        let values = crate::variables::GlobalVariables::new(&crate::SqlConfig::default());
        AutoSettings::decode(&values.current())
    }

    #[test]
    fn defaults_are_those_of_the_variables() {
        let expected = AutoSettings { is_enabled: true, ratio: 0.5, start: 0, end: 1_439 };
        assert_eq!(settings(), expected);
    }

    #[test]
    fn times_of_the_day_have_a_zone() {
        assert_eq!(minute_of_day("00:00 +0000"), Some(0));
        assert_eq!(minute_of_day("01:30 +0800"), Some(17 * 60 + 30));
        assert_eq!(minute_of_day("23:59 -0200"), Some(119));
        assert_eq!(minute_of_day("7:05"), Some(425));
        for bad in ["", "24:00 +0000", "1:60 +0000", "x", "1:00 0000", "1:00 +x", "1:00 é"] {
            assert_eq!(minute_of_day(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_time_may_lie_over_midnight() {
        let is_open = |start, end, minute: u64| {
            let settings = AutoSettings { start, end, ..settings() };
            settings.is_open(TimeStamp::compose((20_000 * 1_440 + minute) * 60_000, 0))
        };
        assert!(is_open(0, 1_439, 720));
        assert!(is_open(60, 120, 60) && is_open(60, 120, 120) && !is_open(60, 120, 121));
        assert!(is_open(1_380, 60, 10) && is_open(1_380, 60, 1_400) && !is_open(1_380, 60, 61));
        let off = AutoSettings { is_enabled: false, ..settings() };
        assert!(!off.is_open(TimeStamp::compose(0, 0)));
    }

    #[test]
    fn tables_want_it_when_much_of_them_changed() {
        let urgency = |row_count, modify_count, analyzed_ts| {
            let counts = Counts { row_count, modify_count, analyzed_ts, ..Counts::default() };
            settings().urgency(&counts)
        };
        assert_eq!(urgency(999, 999, 0), None, "small");
        assert_eq!(urgency(1_000, 1_000, 0), Some(f64::INFINITY), "never analyzed");
        assert_eq!(urgency(5_000, 900, 0), None, "counted since a short time");
        assert_eq!(urgency(10_000, 5_000, 1), None);
        assert_eq!(urgency(10_000, 6_000, 1), Some(0.6));
        assert_eq!(urgency(10, 1_500, 1), None, "small, and changed all the time");
        let emptied = Counts {
            analyzed_rows: 1_500.0,
            modify_count: 1_500,
            analyzed_ts: 1,
            ..Counts::default()
        };
        assert_eq!(settings().urgency(&emptied), Some(1_500.0));
        let locked = Counts { is_locked: true, modify_count: 5_000, ..Counts::default() };
        assert_eq!(settings().urgency(&locked), None);
        let never = AutoSettings { ratio: 0.0, ..settings() };
        let counts =
            Counts { row_count: 5_000, modify_count: 5_000, analyzed_ts: 1, ..Counts::default() };
        assert_eq!(never.urgency(&counts), None);
    }
}
