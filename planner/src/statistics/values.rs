//! How many rows have a value, or one between two bounds: a column's or an index's distribution
//! looked up by memcomparable keys.
//!
//! | question | answer |
//! |---|---|
//! | `= key`, a top value | its count |
//! | `= key`, a bucket's upper bound | `upper_count` |
//! | `= key`, within a bucket | (`count` − `upper_count`) / (`distinct_count` − 1) |
//! | `= key`, between buckets | rows of the histogram / its distinct values |
//! | `= ?` | rows that are not NULL / distinct values |
//! | between two keys | top values between them + whole buckets + parts of the outer ones |
//!
//! Within a bucket values are taken to be spread evenly: the part below a key is read from the
//! bytes behind the common prefix of both bounds, as a fraction (decimals and doubles as the
//! numbers they are).
//!
//! **Growth.** Counts are scaled by `row_count / analyzed_rows`. A column that had a different
//! value in each row gets new ones with each row, one with few values does not: distinct values
//! grow with the share of distinct values among rows.
//!
//! **Beyond the known values.** Fresh rows (`modify_count`, or the growth if that is more) may all
//! lie behind the last value: keys and times of day do. So a range beyond it is met by as many
//! of them as it covers of the space they would fill at the known density, and by a hundredth of
//! them at least; so is a single value, unless values are unique. TiDB's estimate fails here in
//! both directions (its issues 46552, 56273, 67093); the floor bounds how wrong it can be.
//!
//! **Sources.** Ioannidis, "The History of Histograms", section 4 (end-biased: exact counts beside
//! equi-depth buckets); PostgreSQL's `convert_to_scalar` (text as fractions).

use cairn_types::codec::{decode_decimal, decode_f64, flag};

use super::{Bucket, Distribution, TableStatistics};

/// The part of fresh rows that a condition beyond all known values is taken to meet at least.
const FRESH_FLOOR: f64 = 0.01;
/// Rows per value up to which a column counts as unique.
const UNIQUE_ROWS_MAX: f64 = 1.5;

/// A distribution at the table's present size.
#[derive(Clone, Copy, Debug)]
pub struct Values<'s> {
    distribution: &'s Distribution,
    analyzed_rows: f64,
    rows: f64,
    modified: f64,
}

/// One end of a range of keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyBound<'k> {
    /// The key, or a prefix of keys.
    pub key: &'k [u8],
    /// Whether rows with that very key are below a range that begins here, or in one that ends
    /// here.
    pub with_key: bool,
}

impl<'s> Values<'s> {
    /// A distribution of a table's column or index.
    pub fn new(table: &TableStatistics, distribution: &'s Distribution) -> Values<'s> {
        Values {
            distribution,
            analyzed_rows: table.analyzed_rows.max(1.0),
            rows: table.row_count.max(0.0),
            modified: table.modify_count,
        }
    }

    /// Whether ranges can be told apart.
    pub fn has_histogram(&self) -> bool {
        !self.distribution.top.is_empty() || !self.distribution.buckets.is_empty()
    }

    fn scale(&self) -> f64 {
        self.rows / self.analyzed_rows
    }

    /// Rows that may have values which were unknown when the table was analyzed.
    pub fn fresh_rows(&self) -> f64 {
        self.modified.max(self.rows - self.analyzed_rows).clamp(0.0, self.rows)
    }

    /// Rows that are NULL.
    pub fn null_rows(&self) -> f64 {
        (self.distribution.null_count * self.scale()).min(self.rows)
    }

    /// Rows that are not NULL.
    pub fn valued_rows(&self) -> f64 {
        (self.rows - self.null_rows()).max(0.0)
    }

    /// Different values besides NULL.
    pub fn distinct(&self) -> f64 {
        let known = self.distribution.distinct_count;
        let valued = (self.analyzed_rows - self.distribution.null_count).max(1.0);
        let share = (known / valued).min(1.0);
        (known * (1.0 + (self.scale() - 1.0) * share)).max(1.0)
    }

    /// Rows per value, on average.
    pub fn average_rows(&self) -> f64 {
        self.valued_rows() / self.distinct()
    }

    /// Rows that have a value.
    pub fn equal_rows(&self, key: &[u8]) -> f64 {
        let top = &self.distribution.top;
        if let Ok(at) = top.binary_search_by(|value| value.key.0.as_slice().cmp(key)) {
            return top[at].count * self.scale();
        }
        if !self.has_histogram() {
            return self.average_rows();
        }
        let buckets = &self.distribution.buckets;
        let rows = match buckets.get(self.first_bucket_to(key)) {
            Some(bucket) if bucket.upper.0 == key => bucket.upper_count,
            Some(bucket) if bucket.lower.0.as_slice() <= key => inner_rows(bucket),
            Some(_) if self.is_beyond(key) => return self.fresh_value_rows(),
            Some(_) => self.bucket_average(),
            None if self.is_beyond(key) || buckets.is_empty() => return self.fresh_value_rows(),
            None => self.bucket_average(),
        };
        rows * self.scale()
    }

    /// Rows of the histogram per value.
    fn bucket_average(&self) -> f64 {
        let buckets = &self.distribution.buckets;
        let rows: f64 = buckets.iter().map(|bucket| bucket.count).sum();
        let distinct: f64 = buckets.iter().map(|bucket| bucket.distinct_count).sum();
        rows / distinct.max(1.0)
    }

    /// Rows of a value that was not there when the table was analyzed.
    fn fresh_value_rows(&self) -> f64 {
        let fresh = self.fresh_rows();
        let average = self.average_rows();
        match average <= UNIQUE_ROWS_MAX {
            true => average.min(fresh.max(1.0)),
            false => average.max(fresh * FRESH_FLOOR).min(fresh),
        }
    }

    fn first_bucket_to(&self, key: &[u8]) -> usize {
        self.distribution.buckets.partition_point(|bucket| bucket.upper.0.as_slice() < key)
    }

    /// The smallest and the largest known value.
    fn known_bounds(&self) -> Option<(&'s [u8], &'s [u8])> {
        let Distribution { top, buckets, .. } = self.distribution;
        let lowest = [top.first().map(|v| &v.key), buckets.first().map(|b| &b.lower)];
        let highest = [top.last().map(|v| &v.key), buckets.last().map(|b| &b.upper)];
        let lowest = lowest.into_iter().flatten().min()?;
        let highest = highest.into_iter().flatten().max()?;
        Some((&lowest.0, &highest.0))
    }

    fn is_beyond(&self, key: &[u8]) -> bool {
        self.known_bounds().is_none_or(|(low, high)| key < low || key > high)
    }

    /// Rows between two bounds, without NULLs; `None` if no histogram tells.
    pub fn rows_between(&self, low: KeyBound<'_>, high: KeyBound<'_>) -> Option<f64> {
        let (lowest, highest) = self.known_bounds()?;
        if low.key > high.key {
            return Some(0.0);
        }
        let below = |bound: KeyBound<'_>| match bound.with_key {
            true => self.known_rows_below(bound.key) + self.known_equal_rows(bound.key),
            false => self.known_rows_below(bound.key),
        };
        let known = (below(high) - below(low)).max(0.0) * self.scale();
        let fresh = self.fresh_rows_beyond(low.key, high.key, lowest, highest);
        Some((known + fresh).min(self.valued_rows()))
    }

    fn known_equal_rows(&self, key: &[u8]) -> f64 {
        let top = &self.distribution.top;
        if let Ok(at) = top.binary_search_by(|value| value.key.0.as_slice().cmp(key)) {
            return top[at].count;
        }
        match self.distribution.buckets.get(self.first_bucket_to(key)) {
            Some(bucket) if bucket.upper.0 == key => bucket.upper_count,
            Some(bucket) if bucket.lower.0.as_slice() <= key => {
                let above = bucket.count - rows_below(bucket, key) - bucket.upper_count;
                inner_rows(bucket).min(above.max(0.0))
            }
            _ => 0.0,
        }
    }

    fn known_rows_below(&self, key: &[u8]) -> f64 {
        let Distribution { top, buckets, .. } = self.distribution;
        let tops = top.iter().take_while(|value| value.key.0.as_slice() < key);
        let at = self.first_bucket_to(key);
        let whole: f64 = buckets[..at].iter().map(|bucket| bucket.count).sum();
        let part = buckets.get(at).map_or(0.0, |bucket| rows_below(bucket, key));
        tops.map(|value| value.count).sum::<f64>() + whole + part
    }

    /// Fresh rows in the part of a range that lies beyond all known values.
    fn fresh_rows_beyond(&self, low: &[u8], high: &[u8], lowest: &[u8], highest: &[u8]) -> f64 {
        let fresh = self.fresh_rows();
        if fresh <= 0.0 || low >= lowest && high <= highest {
            return 0.0;
        }
        if low == high {
            return self.fresh_value_rows();
        }
        // How far fresh rows reach beyond the known values, in widths of those.
        let reach = fresh / self.analyzed_rows.max(1.0);
        let share = |near: f64, far: f64| ((far - near) / reach).clamp(FRESH_FLOOR, 1.0);
        let mut rows: f64 = 0.0;
        if high > highest {
            let place = |key: &[u8]| match key.first() {
                Some(&flag::MAX) | None => f64::INFINITY,
                _ => (place_of(key, lowest, highest) - 1.0).clamp(0.0, reach),
            };
            rows = fresh * share(place(low.max(highest)), place(high).min(reach));
        }
        if low < lowest {
            let place = |key: &[u8]| match key.first() {
                Some(&(flag::NULL | flag::NOT_NULL_MIN)) | None => f64::INFINITY,
                _ => (-place_of(key, lowest, highest)).clamp(0.0, reach),
            };
            // A range without a lower end holds what is known; that more came below is rare.
            let open = low.first().is_none_or(|first| *first <= flag::NOT_NULL_MIN);
            let part = match open && high >= lowest {
                true => FRESH_FLOOR,
                false => share(place(high.min(lowest)), place(low).min(reach)),
            };
            rows = rows.max(fresh * part);
        }
        rows
    }
}

/// Rows of a value within a bucket.
fn inner_rows(bucket: &Bucket) -> f64 {
    match bucket.distinct_count > 1.0 {
        true => (bucket.count - bucket.upper_count).max(0.0) / (bucket.distinct_count - 1.0),
        false => bucket.count,
    }
}

/// Rows of a bucket below a key that is not above it.
fn rows_below(bucket: &Bucket, key: &[u8]) -> f64 {
    if key <= bucket.lower.0.as_slice() {
        return 0.0;
    }
    let inner = (bucket.count - bucket.upper_count).max(0.0);
    inner * place_of(key, &bucket.lower.0, &bucket.upper.0).clamp(0.0, 1.0)
}

/// Where a key lies between two others: 0 at the lower, 1 at the upper; outside of that beyond
/// them.
fn place_of(key: &[u8], lower: &[u8], upper: &[u8]) -> f64 {
    let keys = [key, lower, upper];
    let [key, lower, upper] = match keys.map(number) {
        [Some(key), Some(lower), Some(upper)] => [key, lower, upper],
        _ => {
            let common = keys[1].iter().zip(keys[2]).take_while(|(a, b)| a == b).count();
            let common = keys[0].iter().zip(keys[1]).take(common).take_while(|(a, b)| a == b);
            let common = common.count();
            keys.map(|key| bytes_number(&key[common.min(key.len())..]))
        }
    };
    match upper > lower {
        true => (key - lower) / (upper - lower),
        false => 0.5,
    }
}

/// The number that a key of one decimal or double begins with: their bytes are no even scale.
fn number(key: &[u8]) -> Option<f64> {
    let (first, mut rest) = key.split_first()?;
    match *first {
        flag::DECIMAL => decode_decimal(&mut rest).ok().map(|decimal| decimal.to_f64()),
        flag::DOUBLE => decode_f64(&mut rest).ok(),
        _ => None,
    }
}

/// The first bytes as a number.
fn bytes_number(bytes: &[u8]) -> f64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first) as f64
}

#[cfg(test)]
mod tests {
    use cairn_types::codec::encode_datum_key;
    use cairn_types::{Datum, FieldType};
    use proptest::prelude::*;

    use super::*;
    use crate::statistics::{TopValue, ValueKey};

    fn key(value: i64) -> Vec<u8> {
        let mut key = Vec::new();
        encode_datum_key(&mut key, &Datum::Int(value).as_ref(), &FieldType::bigint());
        key
    }

    /// Values 1 to 1000 ten times each, in ten buckets; 2000 a thousand times; 500 NULLs.
    fn table() -> (TableStatistics, Distribution) {
        let bucket = |at: i64| Bucket {
            lower: ValueKey(key(at * 100 + 1)),
            upper: ValueKey(key(at * 100 + 100)),
            count: 1000.0,
            upper_count: 10.0,
            distinct_count: 100.0,
        };
        let distribution = Distribution {
            null_count: 500.0,
            distinct_count: 1001.0,
            top: vec![TopValue { key: ValueKey(key(2000)), count: 1000.0 }],
            buckets: (0..10).map(bucket).collect(),
            ..Distribution::default()
        };
        let table = TableStatistics {
            analyzed_ts: 1,
            analyzed_rows: 11_500.0,
            row_count: 11_500.0,
            ..TableStatistics::default()
        };
        (table, distribution)
    }

    fn between(values: Values<'_>, low: i64, high: i64) -> f64 {
        let (low, high) = (key(low), key(high));
        let low = KeyBound { key: &low, with_key: false };
        values.rows_between(low, KeyBound { key: &high, with_key: true }).unwrap()
    }

    fn above(values: Values<'_>, low: i64) -> f64 {
        let low = key(low);
        let low = KeyBound { key: &low, with_key: true };
        values.rows_between(low, KeyBound { key: &[flag::MAX], with_key: false }).unwrap()
    }

    /// What ANALYZE would know of values: the few most frequent, and buckets of equal height.
    fn described(
        mut values: Vec<i64>,
        top: usize,
        depth: usize,
    ) -> (TableStatistics, Distribution) {
        values.sort_unstable();
        let mut counted: Vec<(i64, f64)> = Vec::new();
        for value in &values {
            match counted.last_mut() {
                Some((last, count)) if last == value => *count += 1.0,
                _ => counted.push((*value, 1.0)),
            }
        }
        let mut frequent = counted.clone();
        frequent.sort_by(|a, b| b.1.total_cmp(&a.1));
        frequent.truncate(top);
        frequent.sort_by_key(|(value, _)| *value);
        let top_value =
            |(value, count): &(i64, f64)| TopValue { key: ValueKey(key(*value)), count: *count };
        let mut distribution = Distribution {
            distinct_count: counted.len() as f64,
            top: frequent.iter().map(top_value).collect(),
            ..Distribution::default()
        };
        let others: Vec<(i64, f64)> =
            counted.into_iter().filter(|one| !frequent.contains(one)).collect();
        for group in others.chunks(depth) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            distribution.buckets.push(Bucket {
                lower: ValueKey(key(first.0)),
                upper: ValueKey(key(last.0)),
                count: group.iter().map(|one| one.1).sum(),
                upper_count: last.1,
                distinct_count: group.len() as f64,
            });
        }
        let rows = values.len() as f64;
        let table = TableStatistics {
            analyzed_ts: 1,
            analyzed_rows: rows,
            row_count: rows,
            ..TableStatistics::default()
        };
        (table, distribution)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whole buckets and top values are exact, so an error is within the two outer buckets.
        #[test]
        fn ranges_are_wrong_by_their_outer_buckets_at_most(
            values in proptest::collection::vec(-40i64..40, 1..300),
            bounds in (-50i64..50, -50i64..50),
            grown in 1.0f64..3.0,
        ) {
            let (low, high) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
            let truth = values.iter().filter(|v| (low..=high).contains(*v)).count() as f64;
            let (mut table, distribution) = described(values, 3, 5);
            let widest = distribution.buckets.iter().map(|b| b.count).fold(0.0, f64::max);
            let estimate = between(Values::new(&table, &distribution), low, high);
            prop_assert!((estimate - truth).abs() <= 2.0 * widest + 0.01, "{estimate} {truth}");

            table.row_count = (table.analyzed_rows * grown).floor();
            table.modify_count = table.row_count - table.analyzed_rows;
            let values = Values::new(&table, &distribution);
            for estimate in [between(values, low, high), values.equal_rows(&key(low))] {
                prop_assert!((0.0..=table.row_count + 0.01).contains(&estimate), "{estimate}");
            }
        }

        /// Keys of other types than the column's, as after a change of its type, are no error.
        #[test]
        fn any_bytes_may_be_asked_for(
            values in proptest::collection::vec(-40i64..40, 1..50),
            low in proptest::collection::vec(0u8..=255, 0..12),
            high in proptest::collection::vec(0u8..=255, 0..12),
        ) {
            let (mut table, distribution) = described(values, 3, 5);
            table.modify_count = 20.0;
            let values = Values::new(&table, &distribution);
            let bound = |key| KeyBound { key, with_key: true };
            let between = values.rows_between(bound(&low), bound(&high)).unwrap_or(0.0);
            for estimate in [between, values.equal_rows(&low)] {
                prop_assert!((0.0..=table.row_count + 0.01).contains(&estimate), "{estimate}");
            }
        }
    }

    #[test]
    fn values_that_are_known() {
        let (table, distribution) = table();
        let values = Values::new(&table, &distribution);
        assert_eq!(values.equal_rows(&key(2000)), 1000.0);
        assert_eq!(values.equal_rows(&key(100)), 10.0);
        assert_eq!(values.equal_rows(&key(57)), 10.0);
        assert_eq!(values.equal_rows(&key(1500)), 10.0, "as the histogram's others");
        assert_eq!(values.null_rows(), 500.0);
        assert!((values.average_rows() - 11_000.0 / 1001.0).abs() < 0.01);
    }

    #[test]
    fn ranges_of_whole_buckets_and_parts() {
        let (table, distribution) = table();
        let values = Values::new(&table, &distribution);
        for (low, high, rows) in
            [(1, 100, 1000.0), (1, 1000, 10_000.0), (51, 150, 1000.0), (7, 7, 10.0)]
        {
            let estimate = between(values, low, high);
            assert!((estimate - rows).abs() <= rows * 0.02, "{low}..{high}: {estimate}");
        }
        assert_eq!(between(values, 1, 3000), 11_000.0);
        assert_eq!(between(values, 1900, 2000), 1000.0);
        assert_eq!(between(values, 9, 3), 0.0);
        assert_eq!(above(values, 2000), 0.0);
    }

    #[test]
    fn counts_grow_with_the_table() {
        let (mut table, distribution) = table();
        table.row_count = 23_000.0;
        table.modify_count = 11_500.0;
        let values = Values::new(&table, &distribution);
        assert_eq!(values.equal_rows(&key(2000)), 2000.0);
        assert_eq!(values.null_rows(), 1000.0);
        assert!(values.distinct() < 1200.0, "values come again: {}", values.distinct());
    }

    #[test]
    fn fresh_rows_beyond_the_last_value_are_not_overlooked() {
        let (mut table, distribution) = table();
        for fresh in [100.0, 11_500.0, 1_150_000.0] {
            table.row_count = table.analyzed_rows + fresh;
            table.modify_count = fresh;
            let values = Values::new(&table, &distribution);
            for low in [2000, 2001, 5000, 1_000_000_000] {
                let estimate = above(values, low);
                assert!(estimate >= fresh * 0.01, "> {low} of {fresh} fresh rows: {estimate}");
            }
            assert!(above(values, 2000) >= fresh * 0.5);
            assert!(between(values, 3000, 3000) >= fresh * 0.01, "all may have one new value");
            assert!(between(values, -50, -10) >= fresh * 0.01);
        }
    }

    #[test]
    fn unique_values_stay_unique() {
        let (mut table, mut distribution) = table();
        distribution.distinct_count = 11_000.0;
        table.row_count = 1_000_000.0;
        table.modify_count = 988_500.0;
        let values = Values::new(&table, &distribution);
        assert!(values.equal_rows(&key(9_999_999)) <= 2.0);
        assert!(values.distinct() > 900_000.0);
    }

    #[test]
    fn without_a_histogram_values_are_average() {
        let (table, mut distribution) = table();
        distribution.buckets.clear();
        distribution.top.clear();
        let values = Values::new(&table, &distribution);
        assert_eq!(values.equal_rows(&key(5)), values.average_rows());
        let (low, high) = (key(1), key(2));
        let bound = |key| KeyBound { key, with_key: false };
        assert_eq!(values.rows_between(bound(&low), bound(&high)), None);
    }

    #[test]
    fn decimals_and_text_are_read_as_fractions() {
        let of = |value: Datum, ty: &FieldType| {
            let mut key = Vec::new();
            encode_datum_key(&mut key, &value.as_ref(), ty);
            key
        };
        let double = |value: f64| of(Datum::Double(value), &FieldType::double());
        assert!((place_of(&double(55.0), &double(10.0), &double(100.0)) - 0.5).abs() < 1e-9);
        let text = |value: &str| of(Datum::Bytes(value.into()), &FieldType::varchar(9));
        let place = place_of(&text("customer#5"), &text("customer#0"), &text("customer#9"));
        assert!((0.4..0.7).contains(&place), "{place}");
    }
}
