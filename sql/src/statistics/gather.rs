//! Reads a table in the stores, and makes distributions of what was found.
//!
//! **Flow.** One fragment, a table scan with a sample above it, runs over all rows: each region's task
//! counts, and sends its counts, sketches and part of the sample ([`cairn_executor::sample`]). They are
//! merged here, and columns and indexes are built from the sample one by one, on a thread
//! for such work. The stores do this behind other reads (low priority), and where nobody asked for it one
//! region after the other in the background.
//!
//! **What is gathered.** Columns, but for types that nobody looks for by value
//! (`tidb_analyze_skip_column_types`, unless an index holds them; JSON never), and keys of indexes of
//! several columns or of prefixes. All rows are read, since counts and sketches are of all; only the
//! sample is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::plan::{OpDesc, SampleColumn, SampleDesc, ScanColumn, TableScanDesc};
use cairn_executor::sample::{self, Counts, SAMPLE_ROWS_MAX, SampleMerger, Sampled, SampledRow};
use cairn_executor::{EvalSettings, Fragment, OperatorMemory};
use cairn_expr::EvalContext;
use cairn_kv_client::{DistScanRequest, KeyRange, RequestScope};
use cairn_planner::TableInfo;
use cairn_planner::catalog::{IndexColumn, IndexInfo};
use cairn_planner::statistics::ValueKey;
use cairn_planner::statistics::build::{self, BuildOptions, Population, SampledValue};
use cairn_proto::kv::Priority;
use cairn_types::{
    Chunk, ColumnId, Datum, FieldType, IndexId, MysqlError, PhysicalKind, TimeStamp, errno, keys,
};

use super::record::{Of, Stored};
use super::shown::value_text;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::record;

/// Rows of a sample unless ANALYZE says otherwise.
pub const SAMPLE_ROWS_DEFAULT: u32 = 30_000;
/// Bytes that the distributions of a table take where they are stored, about: all of them are written in
/// one transaction.
const TABLE_BYTES_MAX: usize = 32 << 20;
/// Those of one of them.
const DISTRIBUTION_BYTES_MAX: usize = 512 << 10;
/// Regions that are read at once. Each task sends what it gathered when it has read its region, and
/// holds that until then.
const REGIONS_AT_ONCE: usize = 4;
/// Of an index key of several columns, so many bytes count.
const INDEX_KEY_BYTES_MAX: usize = 512;
/// Where a table has so many times the rows of its sample, tasks leave out rows that will hardly be in it.
const FLOOR_FACTOR: f64 = 10.0;
/// They keep this many times the rows that are wanted.
const FLOOR_MARGIN: f64 = 3.0;

/// How a table is analyzed.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherOptions {
    /// `WITH n SAMPLES`.
    pub sample_rows: u32,
    /// `WITH f SAMPLERATE`: this fraction of the rows, however many.
    pub sample_rate: Option<f64>,
    /// `WITH n TOPN`, `WITH n BUCKETS`.
    pub build: BuildOptions,
    /// `COLUMNS a, b`: these, and those of indexes. Lower case.
    pub columns: Option<Vec<String>>,
    /// Types that are left out, lower case.
    pub skipped_types: Vec<String>,
}

impl Default for GatherOptions {
    fn default() -> Self {
        Self {
            sample_rows: SAMPLE_ROWS_DEFAULT,
            sample_rate: None,
            build: BuildOptions::default(),
            columns: None,
            skipped_types: Vec::new(),
        }
    }
}

/// What is read of a table, and what is made of it.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Columns of the scan, by offset in the table.
    scanned: Vec<usize>,
    desc: SampleDesc,
    columns: Vec<ColumnTarget>,
    indexes: Vec<IndexTarget>,
}

#[derive(Clone, Debug)]
struct ColumnTarget {
    id: ColumnId,
    ty: FieldType,
    /// Place among the sampled columns.
    at: usize,
    is_unique: bool,
}

#[derive(Clone, Debug)]
struct IndexTarget {
    id: IndexId,
    types: Vec<FieldType>,
    /// Places among the sampled columns.
    parts: Vec<usize>,
    /// Places among the groups of the first two parts, the first three, and so on.
    groups: Vec<usize>,
    is_unique: bool,
}

impl Targets {
    /// What `options` want of a table; `rows`: how many it may have.
    pub fn new(table: &TableInfo, options: &GatherOptions, rows: f64, seed: u64) -> Targets {
        let indexes = || table.indices.iter().filter(|index| index.state.is_public());
        let mut targets = Targets {
            scanned: Vec::new(),
            desc: SampleDesc {
                columns: Vec::new(),
                groups: Vec::new(),
                sample_rows: options.sample_rows.clamp(1, SAMPLE_ROWS_MAX),
                weight_min: floor(options, rows),
                seed,
            },
            columns: Vec::new(),
            indexes: Vec::new(),
        };
        if options.sample_rate.is_some() {
            targets.desc.sample_rows = SAMPLE_ROWS_MAX;
        }
        let is_indexed =
            |offset| indexes().any(|index| index.columns.iter().any(|part| part.offset == offset));
        let alone = |index: &IndexInfo, offset: usize| {
            let only = IndexColumn { offset, prefix_length: None };
            index.unique && index.columns == [only]
        };
        for (offset, column) in table.public_columns() {
            let ty = &column.ty;
            let name = column.name.to_lowercase();
            let is_wanted = options.columns.as_ref().is_none_or(|names| names.contains(&name))
                && !options.skipped_types.iter().any(|skipped| skipped == ty.name());
            if ty.physical() == PhysicalKind::Json || !(is_wanted || is_indexed(offset)) {
                continue;
            }
            let at = targets.sampled(offset, None);
            let is_unique = indexes().any(|index| alone(index, offset));
            let column = ColumnTarget { id: column.id, ty: ty.clone(), at, is_unique };
            targets.columns.push(column);
        }
        for index in indexes() {
            targets.add_index(table, index);
        }
        targets
    }

    fn add_index(&mut self, table: &TableInfo, index: &IndexInfo) {
        if let [IndexColumn { prefix_length: None, .. }] = index.columns[..] {
            return;
        }
        let column = |part: &IndexColumn| &table.columns[part.offset].ty;
        let types: Vec<FieldType> = index.columns.iter().map(|part| column(part).clone()).collect();
        if types.iter().any(|ty| ty.physical() == PhysicalKind::Json) {
            return;
        }
        let parts = index.columns.iter();
        let parts: Vec<usize> =
            parts.map(|part| self.sampled(part.offset, part.prefix_length)).collect();
        let mut groups = Vec::new();
        for count in 2..=parts.len() {
            let wanted = &parts[..count];
            let known = self.desc.groups.iter().position(|group| group == wanted);
            groups.push(known.unwrap_or_else(|| {
                self.desc.groups.push(wanted.to_vec());
                self.desc.groups.len() - 1
            }));
        }
        let is_unique = index.unique && types.iter().all(|ty| ty.not_null);
        self.indexes.push(IndexTarget { id: index.id, types, parts, groups, is_unique });
    }

    /// The place of a column, or of a prefix, among what is sampled.
    fn sampled(&mut self, offset: usize, prefix_chars: Option<u32>) -> usize {
        let known = self.scanned.iter().position(|scanned| *scanned == offset);
        let input = known.unwrap_or_else(|| {
            self.scanned.push(offset);
            self.scanned.len() - 1
        });
        let column = SampleColumn { input, prefix_chars };
        let known = self.desc.columns.iter().position(|sampled| *sampled == column);
        known.unwrap_or_else(|| {
            self.desc.columns.push(column);
            self.desc.columns.len() - 1
        })
    }

    fn fragment(&self, table: &TableInfo) -> Fragment {
        let handle_parts = table.common_handle_columns();
        let stored = |offset: &usize| {
            let column = &table.columns[*offset];
            if table.handle_column() == Some(*offset) {
                return ScanColumn::handle(column.id, column.ty.clone());
            }
            let default = record::constant_default(column, column.origin_default.as_ref());
            let stored = ScanColumn::new(column.id, column.ty.clone()).with_default(default);
            match handle_parts.iter().position(|part| part == offset) {
                Some(part) => stored.with_handle_part(part),
                None => stored,
            }
        };
        let scan = TableScanDesc {
            table_id: table.id,
            columns: self.scanned.iter().map(stored).collect(),
            desc: false,
            handle_types: handle_parts.iter().map(|at| table.columns[*at].ty.clone()).collect(),
        };
        let operators = vec![OpDesc::TableScan(scan), OpDesc::Sample(self.desc.clone())];
        // In UTC, as keys of indexes are.
        Fragment { operators, settings: EvalSettings::from_context(&EvalContext::default()) }
    }
}

/// Of all weights, those up to here are not sampled.
fn floor(options: &GatherOptions, rows: f64) -> u64 {
    let wanted = f64::from(options.sample_rows);
    let rate = match options.sample_rate {
        Some(rate) => rate,
        None if rows > wanted * FLOOR_FACTOR => wanted * FLOOR_MARGIN / rows,
        None => 1.0,
    };
    // Saturates.
    ((1.0 - rate.clamp(0.0, 1.0)) * u64::MAX as f64) as u64
}

impl GatherOptions {
    /// Whether the table was thought to have `rows` and has so few that the sample lacks some: it
    /// is to be read once more.
    pub fn is_too_small(&self, sampled: &Sampled, rows: f64) -> bool {
        let wanted = u64::from(self.sample_rows).min(sampled.rows);
        let is_short = (sampled.sample.len() as u64) < wanted;
        self.sample_rate.is_none() && is_short && rows > 2.0 * sampled.rows as f64
    }
}

/// Reads the table as it was at `read_ts`; `progress` is told how many rows were read.
pub async fn read(
    domain: &Domain,
    table: &TableInfo,
    targets: &Targets,
    read_ts: TimeStamp,
    scope: RequestScope,
    memory: &mut OperatorMemory,
    progress: impl Fn(u64),
) -> Result<Sampled> {
    let fragment = targets.fragment(table);
    let types = fragment.validate()?;
    let (start, end) = keys::row_range(table.id);
    let ranges = vec![KeyRange { start: start.into(), end: end.into() }];
    let concurrency = match scope.priority {
        Priority::Background => 1,
        _ => REGIONS_AT_ONCE,
    };
    let request = DistScanRequest {
        scope,
        concurrency,
        ..DistScanRequest::new(read_ts, Arc::new(fragment.to_proto()?), ranges)
    };
    let mut scan = domain.kv.dist_scan(request);
    let mut merger = SampleMerger::new(&targets.desc);
    while let Some(page) = scan.next().await {
        let page = page?;
        if page.chunk.is_empty() {
            continue;
        }
        let chunk = Chunk::decode(&page.chunk, &types).map_err(|error| damaged(&error))?;
        for row in chunk.selected() {
            if let Datum::Bytes(part) = &chunk.row(row)[0] {
                merger.add(part)?;
            }
        }
        progress(merger.rows());
        memory.set(merger.bytes() as u64)?;
    }
    Ok(merger.finish())
}

fn damaged(error: &dyn std::fmt::Display) -> SqlError {
    let message = format!("a store sent counts that do not decode: {error}");
    SqlError::Mysql(MysqlError::new(errno::ER_UNKNOWN_ERROR, message))
}

impl Targets {
    /// How many distributions there are to build.
    pub fn parts(&self) -> usize {
        self.columns.len() + self.indexes.len()
    }

    /// One of them, of what was read.
    pub fn build(
        &self,
        part: usize,
        sampled: &Sampled,
        options: BuildOptions,
        analyzed_ts: TimeStamp,
    ) -> Option<(Of, Stored)> {
        let bytes_max = DISTRIBUTION_BYTES_MAX.min(TABLE_BYTES_MAX / self.parts().max(1));
        if let Some(column) = self.columns.get(part) {
            let types = vec![column.ty.clone()];
            let counts = &sampled.columns[column.at];
            let parts = [column.at];
            let of = Part { sampled, parts: &parts, types: &types, is_unique: column.is_unique };
            let stored = of.build_within(bytes_max, counts, options, analyzed_ts);
            return Some((Of::Column(column.id), stored));
        }
        let index = self.indexes.get(part.checked_sub(self.columns.len())?)?;
        let counts = match index.groups.last() {
            Some(group) => &sampled.groups[*group],
            None => &sampled.columns[index.parts[0]],
        };
        let parts = &index.parts;
        let of = Part { sampled, parts, types: &index.types, is_unique: index.is_unique };
        let mut stored = of.build_within(bytes_max, counts, options, analyzed_ts);
        let groups = index.groups.iter().map(|group| &sampled.groups[*group]);
        let prefixes = std::iter::once(&sampled.columns[index.parts[0]]).chain(groups);
        let rows = sampled.rows as f64;
        stored.distinct_prefixes =
            prefixes.map(|counts| counts.distinct.estimate().min(rows)).collect();
        if let Some(whole) = stored.distinct_prefixes.last_mut() {
            *whole = stored.keys.distinct_count;
        }
        Some((Of::Index(index.id), stored))
    }
}

/// Bytes that a distribution takes as JSON, about: keys are hexadecimal.
fn stored_bytes(stored: &Stored) -> usize {
    /// Names of fields and numbers.
    const ENTRY_BYTES: usize = 96;
    let top = stored.keys.top.iter().map(|top| 2 * top.key.0.len());
    let bounds = stored.keys.buckets.iter().map(|one| 2 * (one.lower.0.len() + one.upper.0.len()));
    let texts = stored.texts.iter().map(|(key, text)| 2 * key.0.len() + text.len());
    top.chain(bounds).chain(texts).map(|bytes| bytes + ENTRY_BYTES).sum()
}

/// A column, or an index's columns together.
struct Part<'a> {
    sampled: &'a Sampled,
    parts: &'a [usize],
    types: &'a [FieldType],
    is_unique: bool,
}

impl Part<'_> {
    /// With fewer values and buckets if they are so long that they take more than `bytes_max`.
    fn build_within(
        &self,
        bytes_max: usize,
        counts: &Counts,
        mut options: BuildOptions,
        analyzed_ts: TimeStamp,
    ) -> Stored {
        loop {
            let stored = self.build(counts, options, analyzed_ts);
            if stored_bytes(&stored) <= bytes_max || options.top_values.max(options.buckets) <= 1 {
                return stored;
            }
            options.top_values /= 2;
            options.buckets = (options.buckets / 2).max(1);
        }
    }

    fn build(&self, counts: &Counts, options: BuildOptions, analyzed_ts: TimeStamp) -> Stored {
        let rows = self.sampled.rows as f64;
        let valued_rows = rows - counts.null_count as f64;
        let total_bytes: u64 =
            self.parts.iter().map(|at| self.sampled.columns[*at].total_bytes).sum();
        let population = Population {
            valued_rows,
            null_count: counts.null_count as f64,
            distinct_count: if self.is_unique { valued_rows } else { counts.distinct.estimate() },
            total_bytes: total_bytes as f64,
        };
        let values = (0..).zip(&self.sampled.sample).filter_map(|(position, row)| {
            let key = self.key(row)?;
            Some(SampledValue { key, position })
        });
        let keys = build::distribution(values.collect(), &population, options);
        let mut stored = Stored {
            analyzed_ts: analyzed_ts.0,
            types: self.types.to_vec(),
            keys,
            ..Stored::default()
        };
        if self.types.iter().any(sample::has_texts) {
            stored.texts = self.texts(&stored);
        }
        stored
    }

    /// The key of a row; `None` where all is NULL.
    fn key(&self, row: &SampledRow) -> Option<ValueKey> {
        let is_null = |key: &Bytes| key.first() == Some(&cairn_types::codec::flag::NULL);
        if self.parts.iter().all(|at| is_null(&row.keys[*at])) {
            return None;
        }
        let mut key = Vec::new();
        self.parts.iter().for_each(|at| key.extend_from_slice(&row.keys[*at]));
        key.truncate(if self.parts.len() > 1 { INDEX_KEY_BYTES_MAX } else { usize::MAX });
        Some(ValueKey(key))
    }

    /// What people read in the place of keys that are kept.
    fn texts(&self, stored: &Stored) -> BTreeMap<ValueKey, String> {
        let top = stored.keys.top.iter().map(|value| &value.key);
        let bounds = stored.keys.buckets.iter().flat_map(|bucket| [&bucket.lower, &bucket.upper]);
        let mut wanted: std::collections::BTreeSet<&ValueKey> = top.chain(bounds).collect();
        let mut texts = BTreeMap::new();
        for row in &self.sampled.sample {
            if let Some(key) = self.key(row)
                && wanted.remove(&key)
            {
                let text = self.text(row);
                texts.insert(key, text);
            }
        }
        texts
    }

    fn text(&self, row: &SampledRow) -> String {
        let part = |(at, ty): (&usize, &FieldType)| match &row.texts[*at] {
            text if !text.is_empty() => String::from_utf8_lossy(text).into_owned(),
            _ => value_text(&row.keys[*at], std::slice::from_ref(ty)),
        };
        let parts: Vec<String> = self.parts.iter().zip(self.types).map(part).collect();
        match &parts[..] {
            [one] => one.clone(),
            several => format!("({})", several.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_planner::ColumnInfo;

    use super::*;

    fn table() -> TableInfo {
        let mut table = TableInfo::new(7, "t");
        let types = [
            FieldType::bigint().with_not_null(),
            FieldType::varchar(20),
            FieldType::longtext(),
            FieldType::json(),
        ];
        for (id, ty) in (1..).zip(types) {
            table.columns.push(ColumnInfo::new(id, format!("c{id}"), ty));
        }
        let index = |id, parts: &[(usize, Option<u32>)], unique| IndexInfo {
            id: IndexId(id),
            name: format!("i{id}"),
            columns: parts
                .iter()
                .map(|(offset, prefix_length)| IndexColumn {
                    offset: *offset,
                    prefix_length: *prefix_length,
                })
                .collect(),
            unique,
            primary: id == 1,
            invisible: false,
            comment: String::new(),
            state: Default::default(),
        };
        table.indices = vec![
            index(1, &[(0, None)], true),
            index(2, &[(1, None), (0, None)], false),
            index(3, &[(1, Some(3))], false),
        ];
        table.pk_is_handle = true;
        table
    }

    #[test]
    fn columns_prefixes_and_groups_are_sampled_once_each() {
        let options =
            GatherOptions { skipped_types: vec!["longtext".into()], ..GatherOptions::default() };
        let targets = Targets::new(&table(), &options, 0.0, 1);
        assert_eq!(targets.scanned, [0, 1]);
        let sampled: Vec<_> =
            targets.desc.columns.iter().map(|column| (column.input, column.prefix_chars)).collect();
        assert_eq!(sampled, [(0, None), (1, None), (1, Some(3))]);
        assert_eq!(targets.desc.groups, [[1, 0]]);
        let unique: Vec<bool> = targets.columns.iter().map(|column| column.is_unique).collect();
        assert_eq!(unique, [true, false]);
        let indexes: Vec<i64> = targets.indexes.iter().map(|index| index.id.0).collect();
        assert_eq!(indexes, [2, 3]);
        assert!(targets.fragment(&table()).validate().is_ok());
    }

    #[test]
    fn chosen_columns_come_with_those_of_indexes() {
        let options =
            GatherOptions { columns: Some(vec!["c3".into()]), ..GatherOptions::default() };
        assert_eq!(Targets::new(&table(), &options, 0.0, 1).scanned, [0, 1, 2]);
    }

    #[test]
    fn large_tables_send_less_than_whole_samples() {
        let share = |rows, rate| {
            let options = GatherOptions { sample_rate: rate, ..GatherOptions::default() };
            1.0 - floor(&options, rows) as f64 / u64::MAX as f64
        };
        let rounded = |share: f64| (share * 1_000.0).round() / 1_000.0;
        assert_eq!(rounded(share(0.0, None)), 1.0);
        assert_eq!(rounded(share(250_000.0, None)), 1.0);
        assert_eq!(rounded(share(9_000_000.0, None)), 0.01);
        assert_eq!(rounded(share(9_000_000.0, Some(0.5))), 0.5);
        assert_eq!(rounded(share(1.0, Some(7.0))), 1.0);
    }
}
