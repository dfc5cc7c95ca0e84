//! Where `SPLIT TABLE` cuts: from values to keys.
//!
//! | statement | cut at |
//! |---|---|
//! | `BY` | each value, and for an index where it begins and ends |
//! | `BETWEEN … REGIONS n` | `n - 1` keys evenly between the bounds, where the table begins, and between indexes and rows |
//!
//! Integer handles are spaced as numbers. Everything else is spaced by its key bytes: of the bytes
//! behind what both bounds have in common, as many as a `u128` holds are taken for one number, which
//! is exact for integers and times and fair for text. Such keys need not belong to any value.

use bytes::Bytes;
use cairn_parser::ast::{Expr, SplitPoints};
use cairn_planner::catalog::{ColumnInfo, IndexInfo, TableInfo};
use cairn_types::{Datum, FieldType, Handle, MysqlError, errno, keys};

use crate::dml::assign::Assigner;
use crate::error::{Result, SqlError};
use crate::record;
use crate::session::Session;
use crate::statement::plan;

/// Regions of one `BETWEEN`: TiDB's `split-region-max-num`.
const REGIONS_MAX: u64 = 1_000;
/// Values of one `BY`.
const VALUE_LISTS_MAX: usize = 10_000;
/// A region holds at least so many integer handles.
const HANDLES_MIN: u128 = 1_000;
/// Name of the hidden handle.
const ROW_ID: &str = "_tidb_rowid";
/// Bytes that [`between`] takes for a number.
const NUMBER_BYTES: usize = size_of::<u128>();

/// The keys a statement cuts at.
pub async fn split_keys(
    session: &mut Session,
    table: &TableInfo,
    index: Option<&IndexInfo>,
    points: &SplitPoints,
) -> Result<Vec<Bytes>> {
    let target = match index {
        None => Target::rows(table),
        Some(index) => Target::index(table, index),
    };
    let mut cuts = target.borders();
    match points {
        SplitPoints::By(lists) => {
            if lists.len() > VALUE_LISTS_MAX {
                return Err(unknown(format!("more than {VALUE_LISTS_MAX} values to split at")));
            }
            for (at, list) in lists.iter().enumerate() {
                let row = at + 1;
                if !target.takes(list.len()) {
                    return Err(SqlError::new(
                        errno::ER_WRONG_VALUE_COUNT_ON_ROW,
                        format!("Column count doesn't match value count at row {row}"),
                    ));
                }
                let values = target.convert(session, list, row).await?;
                cuts.push(target.key(&values));
            }
        }
        SplitPoints::Between { lower, upper, regions } => {
            let kind = target.kind();
            target.check_bound(lower, "lower")?;
            target.check_bound(upper, "upper")?;
            let lower = target.convert(session, lower, 1).await?;
            let upper = target.convert(session, upper, 1).await?;
            if *regions > REGIONS_MAX {
                let reason = format!("Split {kind} region num exceeded the limit {REGIONS_MAX}");
                return Err(unknown(reason));
            }
            if *regions == 0 {
                return Err(unknown(format!("Split {kind} region num should more than 0")));
            }
            cuts.extend(target.evenly((&lower, &upper), *regions as usize)?);
        }
    }
    Ok(cuts.into_iter().map(Bytes::from).collect())
}

fn unknown(message: String) -> SqlError {
    SqlError::new(errno::ER_UNKNOWN_ERROR, message)
}

fn invalid_ranges(reason: String) -> SqlError {
    SqlError::new(
        errno::ER_INVALID_SPLIT_REGION_RANGES,
        format!("Failed to split region ranges: {reason}"),
    )
}

/// What is cut: the rows of a table, or one of its indexes.
struct Target<'a> {
    table: &'a TableInfo,
    index: Option<&'a IndexInfo>,
    /// The columns values are given for, with the prefix an index keeps of them.
    columns: Vec<(ColumnInfo, Option<u32>)>,
}

impl<'a> Target<'a> {
    fn rows(table: &'a TableInfo) -> Self {
        let offsets = match table.handle_column() {
            Some(offset) => vec![offset],
            None => table.common_handle_columns(),
        };
        let mut columns: Vec<_> =
            offsets.into_iter().map(|offset| (table.columns[offset].clone(), None)).collect();
        if columns.is_empty() {
            columns.push((ColumnInfo::new(0, ROW_ID, FieldType::bigint()), None));
        }
        Self { table, index: None, columns }
    }

    fn index(table: &'a TableInfo, index: &'a IndexInfo) -> Self {
        let columns = index.columns.iter();
        let columns =
            columns.map(|part| (table.columns[part.offset].clone(), part.prefix_length)).collect();
        Self { table, index: Some(index), columns }
    }

    fn kind(&self) -> &'static str {
        if self.index.is_some() { "index" } else { "table" }
    }

    /// As error messages name it.
    fn name(&self) -> String {
        match self.index {
            Some(index) => format!("index `{}`", index.name),
            None => format!("table `{}`", self.table.name),
        }
    }

    /// Whether so many values name a point: an index takes the first of its columns, too.
    fn takes(&self, values: usize) -> bool {
        match self.index {
            Some(_) => values <= self.columns.len(),
            None => values == self.columns.len(),
        }
    }

    fn check_bound(&self, values: &[Expr], which: &str) -> Result<()> {
        let name = self.name();
        match self.index {
            None if !self.takes(values.len()) => Err(unknown(format!(
                "Split table region {which} value count should be {}",
                self.columns.len()
            ))),
            Some(_) if values.is_empty() => {
                Err(unknown(format!("Split {name} region {which} value count should more than 0")))
            }
            Some(_) if !self.takes(values.len()) => Err(unknown(format!(
                "Split {name} region column count doesn't match value count at {which}"
            ))),
            _ => Ok(()),
        }
    }

    /// Values as their columns hold them, TIMESTAMPs as rows have them.
    async fn convert(
        &self,
        session: &mut Session,
        exprs: &[Expr],
        row: usize,
    ) -> Result<Vec<Datum>> {
        if exprs.is_empty() {
            return Ok(Vec::new());
        }
        let given = plan::evaluate_all(session, exprs).await?;
        let mut assigner = Assigner::new(&session.eval_context(), false);
        let zone = session.settings().time_zone.clone();
        let mut values = Vec::with_capacity(given.len());
        for ((value, from), (column, _)) in given.into_iter().zip(&self.columns) {
            let value = assigner.convert(column, value, &from, row as u64)?;
            if value.is_null() && self.index.is_none() {
                return Err(MysqlError::new(
                    errno::ER_BAD_NULL_ERROR,
                    format!("Column '{}' cannot be null", column.name),
                )
                .into());
            }
            values.push(record::handle_part_to_stored(column, &value, &zone).into_owned());
        }
        session.take_row_warnings(&mut assigner.warnings);
        Ok(values)
    }

    /// Where the target itself begins and ends, as far as its regions shall hold nothing else.
    fn borders(&self) -> Vec<Vec<u8>> {
        let table = self.table.id;
        let entries = || self.table.indices.iter().filter(|index| self.table.has_entries(index));
        match self.index {
            None if entries().next().is_none() => vec![keys::table_prefix(table)],
            None => vec![keys::table_prefix(table), keys::row_prefix(table)],
            Some(index) => {
                let is_first = entries().all(|other| other.id >= index.id);
                let (start, end) = keys::index_range(table, index.id);
                vec![if is_first { keys::table_prefix(table) } else { start }, end]
            }
        }
    }

    /// The key of a point.
    fn key(&self, values: &[Datum]) -> Vec<u8> {
        let parts = values.iter().zip(&self.columns);
        match self.index {
            Some(index) => {
                let parts = parts.map(|(value, (column, prefix))| {
                    (record::index_part(value, &column.ty, *prefix), &column.ty)
                });
                keys::encode_index_key(self.table.id, index.id, parts, None)
            }
            None => {
                let handle = match values {
                    [Datum::Int(value)] if !self.table.common_handle => Handle::Int(*value),
                    [Datum::UInt(value)] if !self.table.common_handle => Handle::Int(*value as i64),
                    _ => {
                        record::common_handle(parts.map(|(value, (column, _))| (value, &column.ty)))
                    }
                };
                keys::encode_row_key(self.table.id, &handle)
            }
        }
    }

    /// The keys that make `regions` parts of what lies between the bounds.
    fn evenly(&self, (lower, upper): (&[Datum], &[Datum]), regions: usize) -> Result<Vec<Vec<u8>>> {
        let too_small = |least: u128, step: u128| {
            invalid_ranges(format!(
                "the region size is too small, expected at least {least}, but got {step}"
            ))
        };
        let wrong_order = || {
            invalid_ranges(format!(
                "Split {} region lower value {} should less than the upper value {}",
                self.name(),
                self.shown(lower),
                self.shown(upper),
            ))
        };
        let is_int = self.index.is_none() && !self.table.common_handle;
        if is_int && let (Some(from), Some(to)) = (as_number(lower), as_number(upper)) {
            let span = u128::try_from(to - from).unwrap_or(0);
            if span == 0 {
                return Err(wrong_order());
            }
            let step = span / regions as u128;
            if step < HANDLES_MIN {
                return Err(too_small(HANDLES_MIN, step));
            }
            let handle = |at: usize| Handle::Int((from + (step * at as u128) as i128) as i64);
            let table = self.table.id;
            return Ok((1..regions).map(|at| keys::encode_row_key(table, &handle(at))).collect());
        }
        let (from, to) = (self.key(lower), self.key(upper));
        if from >= to {
            return Err(wrong_order());
        }
        between(&from, &to, regions).ok_or_else(|| too_small(1, 0))
    }

    /// Values in an error message.
    fn shown(&self, values: &[Datum]) -> String {
        let shown = values.iter().zip(&self.columns).map(|(value, (column, _))| {
            let mut text = Vec::new();
            match value {
                Datum::Null => text.extend_from_slice(b"NULL"),
                value => cairn_types::write_text(&mut text, value.as_ref(), &column.ty),
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let shown: Vec<String> = shown.collect();
        match self.index.is_none() && shown.len() == 1 {
            true => shown.concat(),
            false => format!("({})", shown.join(",")),
        }
    }
}

/// The one integer of a handle.
fn as_number(values: &[Datum]) -> Option<i128> {
    match values {
        [Datum::Int(value)] => Some(i128::from(*value)),
        [Datum::UInt(value)] => Some(i128::from(*value)),
        _ => None,
    }
}

/// Keys that cut what lies between two keys into so many parts; `None` if there are not so many
/// keys of this length.
fn between(lower: &[u8], upper: &[u8], parts: usize) -> Option<Vec<Vec<u8>>> {
    let common = lower.iter().zip(upper).take_while(|(one, other)| one == other).count();
    let width = (lower.len().max(upper.len()) - common).min(NUMBER_BYTES);
    let number = |key: &[u8]| {
        let bytes = key[common..].iter().copied().chain(std::iter::repeat(0)).take(width);
        bytes.fold(0_u128, |number, byte| number << 8 | u128::from(byte))
    };
    let (from, to) = (number(lower), number(upper));
    let step = to.saturating_sub(from) / parts as u128;
    if step == 0 {
        return None;
    }
    let key = |at: usize| {
        let bytes = (from + step * at as u128).to_be_bytes();
        [&lower[..common], &bytes[NUMBER_BYTES - width..]].concat()
    };
    Some((1..parts).map(key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_between_lie_evenly() {
        let shown = |lower: &[u8], upper: &[u8], parts| between(lower, upper, parts);
        // Behind what both have in common, bytes count as a number.
        assert_eq!(
            shown(&[7, 1, 0], &[7, 1, 100], 4),
            Some(vec![vec![7, 1, 25], vec![7, 1, 50], vec![7, 1, 75],])
        );
        // The shorter one is filled up.
        assert_eq!(shown(&[7], &[7, 2, 0], 2), Some(vec![vec![7, 1, 0]]));
        assert_eq!(shown(&[0], &[255], 1), Some(vec![]));
        assert_eq!(shown(&[3, 0], &[3, 2], 3), None);
        // Wider than a number: the first bytes decide.
        let (lower, upper) = ([0; 40], [255; 40]);
        let cuts = between(&lower, &upper, 256).expect("there is room");
        assert_eq!(cuts.len(), 255);
        assert!(cuts.is_sorted() && lower[..] < cuts[0][..] && cuts[254][..] < upper[..]);
        assert!(cuts.iter().enumerate().all(|(at, cut)| usize::from(cut[0]) == at), "{cuts:?}");
    }
}
