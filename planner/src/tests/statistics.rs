//! Statistics of test tables, in a line of a script.
//!
//! ```text
//! > STATS t rows=10000; a ndv=100 range=1..1000 nulls=500 top=5:2000,7:1000; index iab ndv=100,4000
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | `rows=n` | rows when the table was analyzed |
//! | `now=n`, `modified=n` | rows now, rows changed since; default: as analyzed, none |
//! | `unanalyzed` | only counts are known |
//! | `c ndv=n` | a column's distinct values; of an index: of its first columns, `n,n,…` |
//! | `nulls=n` | rows that are NULL |
//! | `range=x..y` | a histogram of even values (integers, decimals, dates) |
//! | `top=v:n,…` | top values with their rows, NULLs and these apart from the histogram |
//! | `correlation=f` | of a column or index with the order of rows |
//! | `top=v/w:n,…` `range=x/x2..y/y2` | of an index: whole keys; buckets are even in the first column |

use std::str::FromStr;
use std::sync::Arc;

use cairn_types::codec::encode_datum_key;
use cairn_types::{Datum, Decimal, FieldType, PhysicalKind, Time};

use crate::TableInfo;
use crate::statistics::{
    Bucket, Distribution, IndexStatistics, TableStatistics, TopValue, ValueKey,
};

/// Buckets of a histogram.
const BUCKETS: i64 = 50;

type Result<T> = std::result::Result<T, String>;

/// The table's name in a line of statistics, and the rest; `None` if it is none.
pub(super) fn table_name(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("STATS ")?.split_once(' ')
}

/// What a line says of a table.
pub(super) fn parse(table: &TableInfo, line: &str) -> Result<Arc<TableStatistics>> {
    let mut statistics =
        TableStatistics { table_id: table.id, analyzed_ts: 1, ..TableStatistics::default() };
    for (at, part) in line.split(';').enumerate() {
        let mut words = part.split_whitespace();
        if at == 0 {
            counts(&mut statistics, words)?;
            continue;
        }
        let name = words.next().ok_or("an empty part")?;
        if name == "index" {
            let name = words.next().ok_or("no index")?;
            let index = table.find_index(name).ok_or("no such index")?;
            let types: Vec<&FieldType> =
                index.columns.iter().map(|part| &table.columns[part.offset].ty).collect();
            let rows = statistics.analyzed_rows;
            statistics.indexes.insert(index.id, index_statistics(&types, rows, words)?);
            continue;
        }
        let (_, column) = table.find_column(name).ok_or(format!("no column {name}"))?;
        let rows = statistics.analyzed_rows;
        statistics.columns.insert(column.id, distribution(&column.ty, rows, words)?);
    }
    Ok(Arc::new(statistics))
}

fn counts<'w>(
    statistics: &mut TableStatistics,
    words: impl Iterator<Item = &'w str>,
) -> Result<()> {
    for word in words {
        match word.split_once('=') {
            Some(("rows", value)) => {
                statistics.analyzed_rows = number(value)?;
                statistics.row_count = statistics.analyzed_rows;
            }
            Some(("now", value)) => statistics.row_count = number(value)?,
            Some(("modified", value)) => statistics.modify_count = number(value)?,
            None if word == "unanalyzed" => statistics.analyzed_ts = 0,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    Ok(())
}

fn index_statistics<'w>(
    types: &[&FieldType],
    rows: f64,
    words: impl Iterator<Item = &'w str>,
) -> Result<IndexStatistics> {
    let mut index = IndexStatistics::default();
    let mut range = None;
    for word in words {
        match word.split_once('=') {
            Some(("ndv", value)) => {
                index.distinct_prefixes = value.split(',').map(number).collect::<Result<_>>()?;
                index.keys.distinct_count = index.distinct_prefixes.last().copied().unwrap_or(0.0);
            }
            Some(("correlation", value)) => index.keys.correlation = number(value)?,
            Some(("top", value)) => {
                for value in value.split(',') {
                    let (value, count) = value.split_once(':').ok_or("a top value has a count")?;
                    let key = index_key(value, types)?;
                    index.keys.top.push(TopValue { key, count: number(count)? });
                }
                index.keys.top.sort_by(|a, b| a.key.cmp(&b.key));
            }
            Some(("range", value)) => range = value.split_once(".."),
            _ => return Err(format!("unknown word {word}")),
        }
    }
    if let Some(((low, low_rest), (high, high_rest))) =
        range.and_then(|(low, high)| low.split_once('/').zip(high.split_once('/')))
    {
        let others = rows - index.keys.valued_rows();
        let distinct = index.keys.distinct_count - index.keys.top.len() as f64;
        let ty = types[0];
        let first = buckets(ordinal(low, ty)?, ordinal(high, ty)?, others, distinct, ty)?;
        let behind = |first: &ValueKey, rest: &str| -> Result<ValueKey> {
            let rest = index_key(rest, &types[1..])?;
            Ok(ValueKey([&first.0[..], &rest.0].concat()))
        };
        for bucket in first {
            let lower = behind(&bucket.lower, low_rest)?;
            let upper = behind(&bucket.upper, high_rest)?;
            index.keys.buckets.push(Bucket { lower, upper, ..bucket });
        }
    }
    Ok(index)
}

fn distribution<'w>(
    ty: &FieldType,
    rows: f64,
    words: impl Iterator<Item = &'w str>,
) -> Result<Distribution> {
    let mut result = Distribution::default();
    let mut range = None;
    for word in words {
        match word.split_once('=') {
            Some(("ndv", value)) => result.distinct_count = number(value)?,
            Some(("nulls", value)) => result.null_count = number(value)?,
            Some(("correlation", value)) => result.correlation = number(value)?,
            Some(("range", value)) => range = value.split_once(".."),
            Some(("top", value)) => {
                for value in value.split(',') {
                    let (value, count) = value.split_once(':').ok_or("a top value has a count")?;
                    let key = key(&datum(value, ty)?, ty);
                    result.top.push(TopValue { key, count: number(count)? });
                }
                result.top.sort_by(|a, b| a.key.cmp(&b.key));
            }
            _ => return Err(format!("unknown word {word}")),
        }
    }
    if let Some((low, high)) = range {
        let others = rows - result.null_count - result.valued_rows();
        let distinct = result.distinct_count - result.top.len() as f64;
        let (low, high) = (ordinal(low, ty)?, ordinal(high, ty)?);
        result.buckets = buckets(low, high, others, distinct, ty)?;
    }
    Ok(result)
}

/// Even buckets from one number to another.
fn buckets(low: i64, high: i64, rows: f64, distinct: f64, ty: &FieldType) -> Result<Vec<Bucket>> {
    let count = BUCKETS.min(high - low + 1).min(distinct as i64).max(1);
    let start = |at: i64| low + (high - low + 1) * at / count;
    let mut buckets = Vec::new();
    for at in 0..count {
        let (rows, distinct) = (rows / count as f64, distinct / count as f64);
        buckets.push(Bucket {
            lower: key(&of_ordinal(start(at), ty)?, ty),
            upper: key(&of_ordinal(start(at + 1) - 1, ty)?, ty),
            count: rows,
            upper_count: rows / distinct,
            distinct_count: distinct,
        });
    }
    Ok(buckets)
}

/// Values between slashes.
fn index_key(text: &str, types: &[&FieldType]) -> Result<ValueKey> {
    let mut whole = ValueKey::default();
    for (value, ty) in text.split('/').zip(types) {
        whole.0.extend(key(&datum(value, ty)?, ty).0);
    }
    Ok(whole)
}

fn number(text: &str) -> Result<f64> {
    text.parse().map_err(|_| format!("no number: {text}"))
}

fn key(value: &Datum, ty: &FieldType) -> ValueKey {
    let mut key = Vec::new();
    encode_datum_key(&mut key, &value.as_ref(), ty);
    ValueKey(key)
}

/// A value as it is written.
fn datum(text: &str, ty: &FieldType) -> Result<Datum> {
    match ty.physical() {
        PhysicalKind::Bytes => Ok(Datum::Bytes(text.into())),
        _ => of_ordinal(ordinal(text, ty)?, ty),
    }
}

/// The place of a value among all of its type: days of dates, hundredths of decimals.
fn ordinal(text: &str, ty: &FieldType) -> Result<i64> {
    match ty.physical() {
        PhysicalKind::Time => {
            let parts: Vec<u16> = text.split('-').map_while(|part| part.parse().ok()).collect();
            let [year, month, day] = parts[..] else { return Err(format!("no date: {text}")) };
            let time = Time::date(year, month as u8, day as u8).map_err(|e| e.to_string())?;
            Ok(time.to_days().ok_or("no date")?.into())
        }
        PhysicalKind::Int | PhysicalKind::UInt => Ok(number(text)? as i64),
        _ => Ok((number(text)? * 100.0).round() as i64),
    }
}

fn of_ordinal(at: i64, ty: &FieldType) -> Result<Datum> {
    Ok(match ty.physical() {
        PhysicalKind::Time => Datum::Time(Time::from_days(at as u32).ok_or("no date")?),
        PhysicalKind::Int => Datum::Int(at),
        PhysicalKind::UInt => Datum::UInt(at as u64),
        _ => {
            let text = format!("{}.{:02}", at / 100, at % 100);
            Datum::Decimal(Decimal::from_str(&text).map_err(|e| e.to_string())?)
        }
    })
}
