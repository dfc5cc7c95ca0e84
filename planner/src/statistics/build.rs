//! From a sample of values to their distribution.
//!
//! ```text
//!  sampled values ─► sorted ─► runs of equal values ─┬─► the most frequent: top values
//!                                                    └─► the rest: buckets of equal depth
//! ```
//!
//! **Top values.** Of a sample, only what is certainly more frequent than the rest on average is worth
//! a place: its count must lie two standard deviations above that of a value drawn at random from
//! the rest (the hypergeometric test of PostgreSQL's `analyze_mcv_list`). If there are no more different
//! values than places, all of them have one. Of a table that was read as a whole, every repeated
//! value may have one, with its exact count.
//!
//! **Buckets** hold about as many rows each; a value is never in two of them.
//!
//! **Distinct values** are counted over all rows, not only the sample, by whoever gathers; no estimator
//! has to guess them from the sample. What the sample shows bounds them from below.
//!
//! **Correlation** is Spearman's coefficient of values (equal ones by handle, as an index holds them) and
//! handles, over the sample.
//!
//! Sources: Ioannidis, "The History of Histograms"; TiDB's statistics version 2.

use super::{Bucket, Distribution, TopValue, ValueKey};

/// Places for top values unless ANALYZE says otherwise.
pub const TOP_VALUES_DEFAULT: usize = 100;
/// Buckets unless ANALYZE says otherwise.
pub const BUCKETS_DEFAULT: usize = 256;

/// A value in the sample.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampledValue {
    /// The value; never NULL.
    pub key: ValueKey,
    /// Its row's place among the sampled rows, in the order of handles.
    pub position: u32,
}

/// What is known of all values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Population {
    /// Rows in which it is not NULL.
    pub valued_rows: f64,
    /// Rows in which it is NULL.
    pub null_count: f64,
    /// Different values, about.
    pub distinct_count: f64,
    /// Bytes of all of them together.
    pub total_bytes: f64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Places for top values.
    pub top_values: usize,
    /// Buckets at most.
    pub buckets: usize,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions { top_values: TOP_VALUES_DEFAULT, buckets: BUCKETS_DEFAULT }
    }
}

/// Equal values in the sample.
struct Run {
    key: ValueKey,
    rows: usize,
}

/// The distribution of values of which `sample` was drawn, in any order.
pub fn distribution(
    mut sample: Vec<SampledValue>,
    population: &Population,
    options: BuildOptions,
) -> Distribution {
    sample.sort_unstable();
    let sampled_rows = sample.len();
    let correlation = correlation(&sample);
    let runs = runs_of(sample);
    let rows = population.valued_rows.max(sampled_rows as f64);
    let is_whole = rows <= sampled_rows as f64;
    let distinct_count = match is_whole {
        true => runs.len() as f64,
        false => population.distinct_count.clamp(runs.len() as f64, rows),
    };
    let all_rows = rows + population.null_count;
    let mut built = Distribution {
        null_count: population.null_count,
        distinct_count,
        average_size_bytes: if all_rows > 0.0 { population.total_bytes / all_rows } else { 0.0 },
        correlation,
        ..Distribution::default()
    };
    if runs.is_empty() {
        return built;
    }
    let scale = rows / sampled_rows as f64;
    let is_top = choose_top(&runs, sampled_rows, rows, distinct_count, options.top_values);
    let mut rest = Vec::with_capacity(runs.len());
    for (run, is_top) in runs.into_iter().zip(is_top) {
        match is_top {
            true => built.top.push(TopValue { key: run.key, count: run.rows as f64 * scale }),
            false => rest.push(run),
        }
    }
    let rest_distinct = (distinct_count - built.top.len() as f64).max(rest.len() as f64);
    built.buckets = buckets(rest, scale, rest_distinct, options.buckets.max(1));
    built
}

fn runs_of(sorted: Vec<SampledValue>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for value in sorted {
        match runs.last_mut() {
            Some(run) if run.key == value.key => run.rows += 1,
            _ => runs.push(Run { key: value.key, rows: 1 }),
        }
    }
    runs
}

/// Which runs are top values.
fn choose_top(
    runs: &[Run],
    sampled_rows: usize,
    rows: f64,
    distinct_count: f64,
    places: usize,
) -> Vec<bool> {
    let mut is_top = vec![false; runs.len()];
    if runs.len() <= places && distinct_count <= runs.len() as f64 {
        return vec![true; runs.len()];
    }
    let mut order: Vec<usize> = (0..runs.len()).filter(|at| runs[*at].rows > 1).collect();
    // Of equally frequent values the first ones, so that the choice does not vary.
    order.sort_by_key(|at| (std::cmp::Reverse(runs[*at].rows), *at));
    order.truncate(places);
    let mut top_rows: usize = order.iter().map(|at| runs[*at].rows).sum();
    let sampled = sampled_rows as f64;
    while let Some(last) = order.last().filter(|_| rows > sampled) {
        let count = runs[*last].rows;
        top_rows -= count;
        // What a value would have if it were one of the rest.
        let others = (distinct_count - (order.len() - 1) as f64).max(1.0);
        let fraction = (1.0 - top_rows as f64 / sampled) / others;
        let expected = fraction * sampled;
        // Variance of the hypergeometric distribution.
        let population = (rows * fraction).max(1.0);
        let variance = sampled * population * (rows - population) * (rows - sampled)
            / (rows * rows * (rows - 1.0).max(1.0));
        if count as f64 > expected + 2.0 * variance.max(0.0).sqrt() + 0.5 {
            break;
        }
        order.pop();
    }
    order.into_iter().for_each(|at| is_top[at] = true);
    is_top
}

/// Buckets of about as many rows each.
fn buckets(runs: Vec<Run>, scale: f64, distinct_count: f64, buckets_max: usize) -> Vec<Bucket> {
    let sampled: usize = runs.iter().map(|run| run.rows).sum();
    // Different values in the table for one in the sample.
    let spread = distinct_count / runs.len().max(1) as f64;
    let average = sampled as f64 * scale / distinct_count.max(1.0);
    let mut buckets: Vec<Bucket> = Vec::new();
    let (mut open, mut left) = (0, sampled);
    let mut quota = sampled.div_ceil(buckets_max);
    for run in runs {
        // What is met once in a sample may stand for many values.
        let upper_count = match run.rows {
            1 => average.clamp(1.0, scale.max(1.0)),
            rows => rows as f64 * scale,
        };
        let is_full = open > 0 && open + run.rows > quota;
        match buckets.last_mut() {
            Some(bucket) if !is_full => {
                bucket.upper = run.key;
                bucket.upper_count = upper_count;
            }
            _ => {
                left -= open;
                open = 0;
                quota = left.div_ceil((buckets_max - buckets.len()).max(1));
                buckets.push(Bucket {
                    lower: run.key.clone(),
                    upper: run.key,
                    count: 0.0,
                    upper_count,
                    distinct_count: 0.0,
                });
            }
        }
        open += run.rows;
        if let Some(bucket) = buckets.last_mut() {
            bucket.count += run.rows as f64 * scale;
            bucket.distinct_count += spread;
        }
    }
    for bucket in &mut buckets {
        bucket.distinct_count = bucket.distinct_count.min(bucket.count);
    }
    buckets
}

/// Spearman's coefficient of values in their order and of their rows' positions; 0 of less than two.
fn correlation(sorted: &[SampledValue]) -> f64 {
    if sorted.len() < 2 {
        return 0.0;
    }
    let mut by_position: Vec<usize> = (0..sorted.len()).collect();
    by_position.sort_unstable_by_key(|at| sorted[*at].position);
    let count = sorted.len() as f64;
    let products: f64 =
        by_position.iter().enumerate().map(|(rank, at)| rank as f64 * *at as f64).sum();
    // Both ranks are permutations of 0..count.
    let sum = count * (count - 1.0) / 2.0;
    let squares = (count - 1.0) * count * (2.0 * count - 1.0) / 6.0;
    (count * products - sum * sum) / (count * squares - sum * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: u64) -> ValueKey {
        ValueKey(value.to_be_bytes().to_vec())
    }

    fn values(values: impl IntoIterator<Item = u64>) -> Vec<SampledValue> {
        let value = |(position, value)| SampledValue { key: key(value), position };
        (0..).zip(values).map(value).collect()
    }

    fn population(rows: f64, distinct_count: f64) -> Population {
        Population { valued_rows: rows, null_count: 0.0, distinct_count, total_bytes: rows * 8.0 }
    }

    /// Numbers that look random, below 2^32.
    fn scattered(count: u64) -> impl Iterator<Item = u64> {
        let mut numbers = cairn_executor::sample::sketch::Weights::new(7);
        (0..count).map(move |_| numbers.draw() >> 32)
    }

    /// What must be true of any distribution.
    fn check(built: &Distribution, rows: f64) {
        assert!((built.valued_rows() - rows).abs() < rows * 1e-9 + 1e-6, "{}", built.valued_rows());
        assert!(built.top.is_sorted_by(|a, b| a.key < b.key));
        for (at, bucket) in built.buckets.iter().enumerate() {
            assert!(bucket.lower <= bucket.upper);
            assert!(at == 0 || built.buckets[at - 1].upper < bucket.lower);
            assert!(bucket.upper_count <= bucket.count + 1e-6, "{bucket:?}");
            assert!(bucket.distinct_count >= 1.0 && bucket.distinct_count <= bucket.count + 1e-6);
            let is_inside = |top: &TopValue| top.key == bucket.lower || top.key == bucket.upper;
            assert!(!built.top.iter().any(is_inside));
        }
        let in_buckets: f64 = built.buckets.iter().map(|bucket| bucket.distinct_count).sum();
        let distinct = built.top.len() as f64 + in_buckets;
        assert!((distinct / built.distinct_count - 1.0).abs() < 0.01, "{distinct}");
    }

    #[test]
    fn nothing_and_one_value() {
        let nulls = Population { null_count: 7.0, ..population(0.0, 0.0) };
        let built = distribution(vec![], &nulls, BuildOptions::default());
        assert_eq!((built.null_count, built.distinct_count, built.valued_rows()), (7.0, 0.0, 0.0));
        let built = distribution(values([5]), &population(1.0, 1.0), BuildOptions::default());
        assert_eq!(built.top, [TopValue { key: key(5), count: 1.0 }]);
        check(&built, 1.0);
    }

    #[test]
    fn few_different_values_are_all_counted() {
        let sample = values((0..1_000).map(|at| at % 7));
        let built = distribution(sample, &population(1_000.0, 7.0), BuildOptions::default());
        assert!(built.buckets.is_empty());
        let counts: Vec<f64> = built.top.iter().map(|top| top.count).collect();
        assert_eq!(counts, [143.0, 143.0, 143.0, 143.0, 143.0, 143.0, 142.0]);
        check(&built, 1_000.0);
        // Of a sample too, if no other values are known.
        let sample = values((0..1_000).map(|at| at % 7));
        let built = distribution(sample, &population(50_000.0, 7.0), BuildOptions::default());
        assert_eq!((built.top.len(), built.top[0].count), (7, 143.0 * 50.0));
    }

    #[test]
    fn unique_values_fill_buckets_evenly() {
        for (sampled, rows) in [(10_000, 10_000.0), (10_000, 1_000_000.0)] {
            let built = distribution(
                values(0..sampled),
                &population(rows, rows * 1.01),
                BuildOptions::default(),
            );
            assert_eq!((built.top.len(), built.buckets.len()), (0, BUCKETS_DEFAULT));
            assert_eq!(built.distinct_count, rows);
            assert_eq!(built.correlation, 1.0);
            for bucket in &built.buckets {
                let share = bucket.count / (rows / BUCKETS_DEFAULT as f64);
                assert!((0.9..1.1).contains(&share), "{bucket:?}");
                assert_eq!(bucket.upper_count, 1.0);
            }
            check(&built, rows);
        }
    }

    #[test]
    fn frequent_values_stand_out_of_a_sample_and_chance_does_not() {
        // Half of the rows are one of five values, the others are nearly unique.
        let rows = 1_000_000.0;
        let sample = values(
            scattered(20_000).map(|value| if value % 2 == 0 { value / 2 % 5 } else { value }),
        );
        let built = distribution(sample, &population(rows, rows * 0.45), BuildOptions::default());
        assert_eq!(built.top.len(), 5, "{:?}", built.top);
        for top in &built.top {
            assert!((top.count / (rows / 10.0) - 1.0).abs() < 0.1, "{top:?}");
        }
        check(&built, rows);
        // A thousand values that are equally frequent: none is worth a place.
        let sample = values(scattered(20_000).map(|value| value % 1_000));
        let built = distribution(sample, &population(rows, 1_000.0), BuildOptions::default());
        assert!(built.top.len() < 40, "{} top values", built.top.len());
        check(&built, rows);
    }

    #[test]
    fn a_skewed_column_is_estimated_within_bounds() {
        // Zipf-like: value v is drawn about 1/v of the time.
        let rows = 500_000.0;
        let draw = |value: u64| {
            let at = (value as f64 / u32::MAX as f64) * (1_000f64).ln();
            at.exp() as u64
        };
        let sample = values(scattered(30_000).map(draw));
        let built = distribution(sample, &population(rows, 1_000.0), BuildOptions::default());
        check(&built, rows);
        let expected = |value: f64| rows * ((value + 1.0) / value).ln() / (1_000f64).ln();
        for value in [1u64, 2, 5, 10] {
            let top = built.top.iter().find(|top| top.key == key(value)).expect("a top value");
            let error = top.count / expected(value as f64) - 1.0;
            assert!(error.abs() < 0.1, "value {value}: off by {error}");
        }
        // Rows up to each bucket's end, against the true share.
        let mut below = 0.0;
        for bucket in &built.buckets {
            below += bucket.count;
            let top = built.top.iter().filter(|top| top.key <= bucket.upper);
            let found = below + top.map(|top| top.count).sum::<f64>();
            let bytes: [u8; 8] = bucket.upper.0[..].try_into().expect("eight bytes");
            let upper = u64::from_be_bytes(bytes) as f64;
            let truth = rows * (upper + 1.0).ln() / (1_000f64).ln();
            assert!((found - truth).abs() < rows * 0.01, "at {upper}: {found} for {truth}");
        }
    }

    #[test]
    fn options_bound_what_is_kept() {
        for (top_values, buckets) in [(0, 1), (3, 10), (1_000, 1_000)] {
            let options = BuildOptions { top_values, buckets };
            let sample = values(scattered(5_000).map(|value| value % 700));
            let built = distribution(sample, &population(5_000.0, 700.0), options);
            assert!(built.top.len() <= top_values && built.buckets.len() <= buckets);
            check(&built, 5_000.0);
        }
    }

    #[test]
    fn correlation_tells_how_far_values_follow_handles() {
        let of = |sample| {
            distribution(sample, &population(1_000.0, 1_000.0), BuildOptions::default()).correlation
        };
        assert_eq!(of(values(0..1_000)), 1.0);
        assert_eq!(of(values((0..1_000).rev())), -1.0);
        assert!(of(values(scattered(1_000))).abs() < 0.1);
        // Equal values lie in an index as their rows do.
        assert_eq!(of(values([3; 1_000])), 1.0);
    }
}
