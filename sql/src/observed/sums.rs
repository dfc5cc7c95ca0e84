//! What statements of one kind did together, in figures.

use serde::{Deserialize, Serialize};

use super::Ended;

/// A sum with its largest and smallest part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// All together.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// The smallest.
    pub min: u64,
}

impl Sum {
    fn add(&mut self, value: u64, is_first: bool) {
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
        self.min = if is_first { value } else { self.min.min(value) };
    }

    fn merge(&mut self, other: &Sum, is_first: bool) {
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
        self.min = if is_first { other.min } else { self.min.min(other.min) };
    }
}

/// What statements of one kind did in an interval. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// How many ended.
    pub count: u64,
    /// How many failed.
    pub errors: u64,
    /// Warnings of all.
    pub warnings: u64,
    /// From the text's arrival to the end.
    pub latency: Sum,
    /// Parsing.
    pub parse: Sum,
    /// Planning.
    pub compile: Sum,
    /// Rows sent.
    pub rows: Sum,
    /// Rows changed.
    pub affected: Sum,
    /// Peaks of memory, in bytes.
    pub memory: Sum,
    /// Peaks on disk, in bytes.
    pub disk: Sum,
    /// Coprocessor tasks.
    pub cop_tasks: Sum,
    /// Their time, all of a statement together.
    pub cop_time: Sum,
    /// Bytes of rows that stores sent.
    pub cop_bytes: Sum,
    /// Other requests to stores.
    pub requests: Sum,
    /// Times that statements started over.
    pub retries: Sum,
    /// How many found their plan in the cache.
    pub plan_cache_hits: u64,
    /// When the first ended, in microseconds since the epoch.
    pub first_seen_us: i64,
    /// When the last ended.
    pub last_seen_us: i64,
}

impl Sums {
    /// Adds a statement.
    pub fn add(&mut self, ended: &Ended<'_>) {
        let is_first = self.count == 0;
        self.count += 1;
        self.errors += u64::from(ended.error.is_some());
        self.warnings += ended.warnings;
        let values = [
            (&mut self.latency, ended.total_ns),
            (&mut self.parse, ended.measures.parse_ns),
            (&mut self.compile, ended.measures.compile_ns),
            (&mut self.rows, ended.rows_sent),
            (&mut self.affected, ended.affected_rows),
            (&mut self.memory, ended.memory_bytes),
            (&mut self.disk, ended.disk_bytes),
            (&mut self.cop_tasks, ended.requests.cop_tasks),
            (&mut self.cop_time, ended.requests.cop_ns),
            (&mut self.cop_bytes, ended.requests.cop_bytes),
            (&mut self.requests, ended.requests.requests),
            (&mut self.retries, ended.measures.retries),
        ];
        for (sum, value) in values {
            sum.add(value, is_first);
        }
        self.plan_cache_hits += u64::from(ended.measures.plan_was_cached);
        if is_first {
            self.first_seen_us = ended.ended_us;
        }
        self.last_seen_us = self.last_seen_us.max(ended.ended_us);
    }

    /// Adds what others did.
    pub fn merge(&mut self, other: &Sums) {
        let is_first = self.count == 0;
        self.count += other.count;
        self.errors += other.errors;
        self.warnings += other.warnings;
        let pairs = [
            (&mut self.latency, &other.latency),
            (&mut self.parse, &other.parse),
            (&mut self.compile, &other.compile),
            (&mut self.rows, &other.rows),
            (&mut self.affected, &other.affected),
            (&mut self.memory, &other.memory),
            (&mut self.disk, &other.disk),
            (&mut self.cop_tasks, &other.cop_tasks),
            (&mut self.cop_time, &other.cop_time),
            (&mut self.cop_bytes, &other.cop_bytes),
            (&mut self.requests, &other.requests),
            (&mut self.retries, &other.retries),
        ];
        for (sum, part) in pairs {
            sum.merge(part, is_first);
        }
        self.plan_cache_hits += other.plan_cache_hits;
        if is_first || other.first_seen_us < self.first_seen_us {
            self.first_seen_us = other.first_seen_us;
        }
        self.last_seen_us = self.last_seen_us.max(other.last_seen_us);
    }
}
