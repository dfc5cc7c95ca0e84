//! `SHOW STATS_META`, `STATS_HISTOGRAMS`, `STATS_BUCKETS`, `STATS_TOPN`, `STATS_HEALTHY`, `STATS_LOCKED`,
//! `SHOW ANALYZE STATUS`: TiDB's columns.
//!
//! Values are told as SQL prints them. Keys of text whose collation takes several spellings for one do not
//! tell them; then one of the spellings in the sample stands for all. `ANALYZE STATUS` is of the node that
//! is asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_parser::ast::ShowKind;
use cairn_planner::statistics::{Distribution, ValueKey};
use cairn_planner::{Catalog, TableInfo};
use cairn_types::codec::{decode_datum_key, flag, skip_datum_key};
use cairn_types::time::TimeKind;
use cairn_types::{Datum, FieldType, TimeStamp, TimeZone, TypeCode};

use super::Known;
use super::jobs::Job;
use super::record::{Distributions, Of, Stored};
use crate::error::Result;
use crate::session::Session;

/// What is shown, by its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Counts.
    Meta,
    /// One row for each distribution.
    Histograms,
    /// Buckets.
    Buckets,
    /// Most frequent values.
    TopN,
    /// How far the counts have gone since ANALYZE.
    Healthy,
    /// Tables whose statistics are locked.
    Locked,
    /// ANALYZE, running and ended.
    AnalyzeStatus,
}

impl Shown {
    /// Whether that is what a `SHOW` asks for.
    pub fn of(what: &ShowKind) -> Option<Shown> {
        let ShowKind::Other(words) = what else { return None };
        Some(match words.as_str() {
            "STATS_META" => Shown::Meta,
            "STATS_HISTOGRAMS" => Shown::Histograms,
            "STATS_BUCKETS" => Shown::Buckets,
            "STATS_TOPN" => Shown::TopN,
            "STATS_HEALTHY" => Shown::Healthy,
            "STATS_LOCKED" => Shown::Locked,
            "ANALYZE STATUS" => Shown::AnalyzeStatus,
            _ => return None,
        })
    }

    /// Columns, as `SHOW` writes them.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Shown::Meta => &[
                "Db_name",
                "Table_name",
                "Partition_name",
                "Update_time:d",
                "Modify_count:i",
                "Row_count:i",
                "Last_analyze_time:d",
            ],
            Shown::Histograms => &[
                "Db_name",
                "Table_name",
                "Partition_name",
                "Column_name",
                "Is_index:i",
                "Update_time:d",
                "Distinct_count:i",
                "Null_count:i",
                "Avg_col_size:f",
                "Correlation:f",
                "Load_status",
                "Total_mem_usage:i",
                "Hist_mem_usage:i",
                "Topn_mem_usage:i",
                "Cms_mem_usage:i",
            ],
            Shown::Buckets => &[
                "Db_name",
                "Table_name",
                "Partition_name",
                "Column_name",
                "Is_index:i",
                "Bucket_id:i",
                "Count:i",
                "Repeats:i",
                "Lower_Bound:t",
                "Upper_Bound:t",
                "Ndv:i",
            ],
            Shown::TopN => &[
                "Db_name",
                "Table_name",
                "Partition_name",
                "Column_name",
                "Is_index:i",
                "Value:t",
                "Count:i",
            ],
            Shown::Healthy => &["Db_name", "Table_name", "Partition_name", "Healthy:i"],
            Shown::Locked => &["Db_name", "Table_name", "Partition_name", "Status"],
            Shown::AnalyzeStatus => &[
                "Table_schema",
                "Table_name",
                "Partition_name",
                "Job_info:t",
                "Processed_rows:i",
                "Start_time:d",
                "End_time:d",
                "State",
                "Fail_reason:t",
                "Instance",
                "Process_ID:u",
                "Remaining_seconds:i",
                "Progress:f",
                "Estimated_total_rows:i",
            ],
        }
    }

    fn wants_distributions(self) -> bool {
        matches!(self, Shown::Histograms | Shown::Buckets | Shown::TopN)
    }
}

/// The rows of a `SHOW`.
pub async fn rows(session: &Session, shown: Shown) -> Result<Vec<Vec<Datum>>> {
    let zone = &session.settings().time_zone;
    if shown == Shown::AnalyzeStatus {
        let jobs = session.domain.statistics.jobs.all();
        let instance = &session.domain.config.addr;
        let row = |job: &Arc<Job>| job_row(job, &instance.to_string(), zone);
        return Ok(jobs.iter().rev().map(row).collect());
    }
    let (statistics, schema) = (&session.domain.statistics, session.schema());
    // What other nodes wrote a moment ago counts too.
    statistics.refresh(&session.domain).await?;
    let mut rows = Vec::new();
    for database in schema.databases() {
        for table in schema.tables(&database.name) {
            if table.is_virtual || statistics.known(table.id).is_none() {
                continue;
            }
            if shown.wants_distributions() {
                statistics.load(&session.domain, table.id).await?;
            }
            let Some(known) = statistics.known(table.id) else { continue };
            let of = TableRows { database: &database.name, table: &table, known: &known, zone };
            of.add(shown, &mut rows);
        }
    }
    Ok(rows)
}

struct TableRows<'a> {
    database: &'a str,
    table: &'a TableInfo,
    known: &'a Known,
    zone: &'a TimeZone,
}

impl TableRows<'_> {
    fn add(&self, shown: Shown, rows: &mut Vec<Vec<Datum>>) {
        let counts = &self.known.counts;
        match shown {
            Shown::Meta => rows.push(self.row([
                self.time(counts.version),
                Datum::Int(counts.modify_count),
                Datum::Int(counts.row_count.max(0)),
                self.time(counts.analyzed_ts),
            ])),
            Shown::Healthy if counts.analyzed_ts != 0 => {
                rows.push(self.row([Datum::Int(healthy(counts.row_count, counts.modify_count))]));
            }
            Shown::Locked if counts.is_locked => rows.push(self.row([Datum::text("locked")])),
            Shown::Histograms | Shown::Buckets | Shown::TopN => {
                let none = Distributions::new();
                let distributions = self.known.distributions.as_deref().unwrap_or(&none);
                for (of, stored) in distributions {
                    if stored.is_about(*of, self.table) {
                        self.add_distribution(shown, *of, stored, rows);
                    }
                }
            }
            Shown::Healthy | Shown::Locked | Shown::AnalyzeStatus => {}
        }
    }

    fn add_distribution(&self, shown: Shown, of: Of, stored: &Stored, rows: &mut Vec<Vec<Datum>>) {
        let (name, is_index) = match of {
            Of::Column(id) => (self.table.column_by_id(id).map(|(_, column)| &column.name), 0),
            Of::Index(id) => {
                let index = self.table.indices.iter().find(|index| index.id == id);
                (index.map(|index| &index.name), 1)
            }
        };
        let head = [Datum::text(name.map_or("", String::as_str)), Datum::Int(is_index)];
        let with = |tail: Vec<Datum>| self.row(head.iter().cloned().chain(tail));
        let keys = &stored.keys;
        match shown {
            Shown::Histograms => {
                let (buckets, top) = memory_bytes(keys);
                rows.push(with(vec![
                    self.time(stored.analyzed_ts),
                    rounded(keys.distinct_count),
                    rounded(keys.null_count),
                    Datum::Double((keys.average_size_bytes * 1_000.0).round() / 1_000.0),
                    Datum::Double((keys.correlation * 10_000.0).round() / 10_000.0),
                    Datum::text("allLoaded"),
                    Datum::Int(buckets + top),
                    Datum::Int(buckets),
                    Datum::Int(top),
                    Datum::Int(0),
                ]));
            }
            Shown::Buckets => {
                let mut count = 0.0;
                for (at, bucket) in (0..).zip(&keys.buckets) {
                    count += bucket.count;
                    rows.push(with(vec![
                        Datum::Int(at),
                        rounded(count),
                        rounded(bucket.upper_count),
                        Datum::text(self.text(stored, &bucket.lower)),
                        Datum::text(self.text(stored, &bucket.upper)),
                        rounded(bucket.distinct_count),
                    ]));
                }
            }
            _ => rows.extend(keys.top.iter().map(|value| {
                with(vec![Datum::text(self.text(stored, &value.key)), rounded(value.count)])
            })),
        }
    }

    fn row(&self, tail: impl IntoIterator<Item = Datum>) -> Vec<Datum> {
        let head = [self.database, &self.table.name, ""].map(Datum::text);
        head.into_iter().chain(tail).collect()
    }

    /// The time of a timestamp; NULL of none.
    fn time(&self, ts: u64) -> Datum {
        match ts {
            0 => Datum::Null,
            ts => time_of(TimeStamp(ts).physical_ms().saturating_mul(1_000) as i64, self.zone),
        }
    }

    fn text(&self, stored: &Stored, key: &ValueKey) -> String {
        if let Some(text) = stored.texts.get(key) {
            return text.clone();
        }
        if let ([ty], Some(local)) = (&stored.types[..], local_time(stored, key, self.zone)) {
            let mut text = Vec::new();
            cairn_types::write_text(&mut text, local.as_ref(), ty);
            return String::from_utf8_lossy(&text).into_owned();
        }
        value_text(&key.0, &stored.types)
    }
}

/// A TIMESTAMP, which is stored in UTC, in the session's time zone.
fn local_time(stored: &Stored, key: &ValueKey, zone: &TimeZone) -> Option<Datum> {
    let ty = stored.types.first().filter(|ty| ty.code == TypeCode::Timestamp)?;
    match decode_datum_key(&mut &key.0[..], ty).ok()? {
        Datum::Time(time) => time.to_zone(&TimeZone::utc(), zone).map(Datum::Time),
        _ => None,
    }
}

fn time_of(micros: i64, zone: &TimeZone) -> Datum {
    zone.from_unix_micros(micros, TimeKind::DateTime, 0).map_or(Datum::Null, Datum::Time)
}

fn rounded(count: f64) -> Datum {
    // Saturates.
    Datum::Int(count.round() as i64)
}

/// Percent of the rows that are as they were when they were analyzed.
fn healthy(rows: i64, changed: i64) -> i64 {
    match (rows, changed) {
        (_, ..=0) => 100,
        (rows, changed) if changed >= rows => 0,
        (rows, changed) => ((1.0 - changed as f64 / rows as f64) * 100.0) as i64,
    }
}

/// Bytes of buckets and of top values.
fn memory_bytes(keys: &Distribution) -> (i64, i64) {
    let bucket = size_of::<cairn_planner::statistics::Bucket>();
    let top = size_of::<cairn_planner::statistics::TopValue>();
    let buckets = keys.buckets.iter().map(|b| bucket + b.lower.0.len() + b.upper.0.len());
    let top = keys.top.iter().map(|value| top + value.key.0.len());
    (buckets.sum::<usize>() as i64, top.sum::<usize>() as i64)
}

/// A key of columns of these types as people read it. What it does not tell is in hexadecimal.
pub fn value_text(key: &[u8], types: &[FieldType]) -> String {
    let mut rest = key;
    let part = |ty: &FieldType| {
        let whole = rest;
        match skip_datum_key(rest) {
            Ok(len) => rest = &rest[len..],
            // It was cut off here.
            Err(_) => rest = &[],
        }
        if whole.first() == Some(&flag::NULL) {
            return "NULL".to_owned();
        }
        match decode_datum_key(&mut &whole[..], ty) {
            Ok(value) => {
                let mut text = Vec::new();
                cairn_types::write_text(&mut text, value.as_ref(), ty);
                match String::from_utf8(text) {
                    Ok(text) => text,
                    Err(bytes) => hexadecimal(bytes.as_bytes()),
                }
            }
            Err(_) => hexadecimal(&whole[..whole.len() - rest.len()]),
        }
    };
    let parts: Vec<String> = types.iter().map(part).collect();
    match &parts[..] {
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

fn job_row(job: &Job, instance: &str, zone: &TimeZone) -> Vec<Datum> {
    let end = job.end();
    let rows = job.rows.load(Ordering::Relaxed);
    let progress = job.progress();
    let ran_s = (crate::clock::unix_micros() - job.started_micros) as f64 / 1e6;
    let is_known = end.is_none() && job.expected_rows > 0 && progress > 0.0;
    let remaining = is_known.then(|| rounded(ran_s * (1.0 - progress) / progress));
    let ended = end.as_ref().map(|end| time_of(end.at_micros, zone));
    let failure = end.as_ref().and_then(|end| end.failure.as_deref()).map(Datum::text);
    vec![
        Datum::text(&job.database),
        Datum::text(&job.table),
        Datum::text(""),
        Datum::text(&job.info),
        Datum::Int(rows as i64),
        time_of(job.started_micros, zone),
        ended.unwrap_or(Datum::Null),
        Datum::text(job.state()),
        failure.unwrap_or(Datum::Null),
        Datum::text(instance),
        job.process_id.map_or(Datum::Null, |id| Datum::UInt(u64::from(id))),
        remaining.unwrap_or(Datum::Null),
        Datum::Double(progress),
        Datum::Int(job.expected_rows as i64),
    ]
}

#[cfg(test)]
mod tests {
    use cairn_types::DatumRef;
    use cairn_types::codec::encode_key;

    use super::*;

    #[test]
    fn keys_are_told_as_values() {
        let types = [FieldType::int(), FieldType::decimal(10, 2), FieldType::varchar(9)];
        let price: cairn_types::Decimal = "7.50".parse().expect("a decimal");
        let values = [DatumRef::Int(-3), DatumRef::Decimal(price), DatumRef::Bytes(b"Ab")];
        let mut key = Vec::new();
        encode_key(&mut key, values.into_iter().zip(&types));
        let text = value_text(&key, &types);
        assert!(text.starts_with("(-3, 7.50, 0x02"), "{text}");
        assert_eq!(value_text(&key[..9], &types[..1]), "-3");
        assert_eq!(value_text(&[flag::NULL, flag::NULL], &types[..2]), "(NULL, NULL)");
        // A key that was cut off.
        let text = value_text(&key[..11], &types);
        assert!(text.starts_with("(-3, 0x"), "{text}");
    }

    #[test]
    fn health_is_the_share_that_has_not_changed() {
        let shares = [(100, 0), (100, 25), (100, 100), (0, 5), (3, 1), (0, 0)];
        let healthy: Vec<i64> =
            shares.iter().map(|(rows, changed)| healthy(*rows, *changed)).collect();
        assert_eq!(healthy, [100, 75, 0, 0, 66, 100]);
    }
}
