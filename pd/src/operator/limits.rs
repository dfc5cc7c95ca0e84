//! How fast stores take and give replicas: a bucket of tokens per store and
//! direction.
//!
//! A large region costs a whole token, a small one a part: what is limited is the
//! copying of data. A bucket holds a minute's tokens at most, and may go below zero
//! by one operator.

use std::collections::HashMap;

use crate::config::ScheduleConfig;

/// Regions below these sizes cost so many tokens.
const SMALL: (u64, f64) = (20 << 20, 0.2);
const TINY: (u64, f64) = (1 << 20, 0.02);
const MINUTE_MS: f64 = 60_000.0;
/// A bucket is never smaller than this, so that a low rate is not a stop.
const BUCKET_MIN: f64 = 1.0;

/// Tokens that moving one replica costs.
pub fn cost(size_bytes: u64) -> f64 {
    match size_bytes {
        size if size < TINY.0 => TINY.1,
        size if size < SMALL.0 => SMALL.1,
        _ => 1.0,
    }
}

/// Which way a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the store.
    Add,
    /// From the store.
    Remove,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_ms: u64,
}

/// The buckets of all stores.
#[derive(Debug, Default)]
pub struct StoreLimits {
    buckets: HashMap<(u64, Direction), Bucket>,
    /// Rates set for single stores, per minute.
    rates: HashMap<(u64, Direction), f64>,
}

impl StoreLimits {
    /// Rates for single stores; those left out follow the settings.
    pub fn set_rates(&mut self, rates: HashMap<(u64, Direction), f64>) {
        self.rates = rates;
    }

    /// Replicas per minute; `None`: no limit.
    pub fn rate(&self, store_id: u64, way: Direction, config: &ScheduleConfig) -> Option<f64> {
        let common = match way {
            Direction::Add => config.store_limit_add,
            Direction::Remove => config.store_limit_remove,
        };
        let rate = self.rates.get(&(store_id, way)).copied().unwrap_or(common);
        (rate > 0.0).then_some(rate)
    }

    fn filled(&self, key: (u64, Direction), rate: f64, now_ms: u64) -> f64 {
        let most = rate.max(BUCKET_MIN);
        match self.buckets.get(&key) {
            Some(bucket) => {
                let ms = now_ms.saturating_sub(bucket.filled_ms) as f64;
                (bucket.tokens + ms * rate / MINUTE_MS).min(most)
            }
            None => most,
        }
    }

    /// Whether the store's tokens are spent.
    pub fn is_spent(
        &self,
        store_id: u64,
        way: Direction,
        config: &ScheduleConfig,
        now_ms: u64,
    ) -> bool {
        self.rate(store_id, way, config)
            .is_some_and(|rate| self.filled((store_id, way), rate, now_ms) <= 0.0)
    }

    /// Pays for one replica.
    pub fn take(
        &mut self,
        store_id: u64,
        way: Direction,
        size_bytes: u64,
        (config, now_ms): (&ScheduleConfig, u64),
    ) {
        let Some(rate) = self.rate(store_id, way, config) else { return };
        let tokens = self.filled((store_id, way), rate, now_ms) - cost(size_bytes);
        self.buckets.insert((store_id, way), Bucket { tokens, filled_ms: now_ms });
    }

    /// Forgets stores that are gone.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.buckets.retain(|(store_id, _), _| keep(*store_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time() {
        let config = ScheduleConfig { store_limit_add: 2.0, ..ScheduleConfig::default() };
        let mut limits = StoreLimits::default();
        let spent =
            |limits: &StoreLimits, now_ms| limits.is_spent(1, Direction::Add, &config, now_ms);
        for _ in 0..2 {
            assert!(!spent(&limits, 0));
            limits.take(1, Direction::Add, 100 << 20, (&config, 0));
        }
        assert!(spent(&limits, 0));
        assert!(spent(&limits, 0) && !spent(&limits, 1));
        assert!(!limits.is_spent(1, Direction::Remove, &config, 0));
        assert!(!limits.is_spent(2, Direction::Add, &config, 0));
        // Small regions cost a fifth, tiny ones next to nothing.
        for _ in 0..9 {
            limits.take(2, Direction::Add, 2 << 20, (&config, 0));
        }
        assert!(!limits.is_spent(2, Direction::Add, &config, 0));
        limits.take(2, Direction::Add, 2 << 20, (&config, 0));
        limits.take(2, Direction::Add, 0, (&config, 0));
        assert!(limits.is_spent(2, Direction::Add, &config, 0));
        assert!(!limits.is_spent(2, Direction::Add, &config, 60_000));
    }

    #[test]
    fn one_store_may_have_its_own_rate() {
        let config = ScheduleConfig::default();
        let mut limits = StoreLimits::default();
        limits.set_rates(HashMap::from([((1, Direction::Add), 0.0), ((2, Direction::Add), 7.0)]));
        assert_eq!(limits.rate(1, Direction::Add, &config), None);
        assert_eq!(limits.rate(2, Direction::Add, &config), Some(7.0));
        assert_eq!(limits.rate(3, Direction::Add, &config), Some(config.store_limit_add));
    }
}
