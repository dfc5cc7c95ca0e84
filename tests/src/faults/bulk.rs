//! The load that fills disks: rows of text that does not compress, from several clients at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::HarnessError;
use crate::client::{Client, Servers};
use crate::updates::prepare;

/// Text of one row.
pub const ROW_BYTES: u64 = 16 << 10;
/// Rows of one statement, which makes it 1 MiB.
pub const ROWS_PER_STATEMENT: u64 = 64;
/// Characters of a text: six bits each, all of them harmless between quotes.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";

/// Writes `faults.bulk (id BIGINT PRIMARY KEY, v MEDIUMTEXT)`, ids without gaps from 0.
pub struct Bulk {
    writers: Vec<Writer>,
    next_id: u64,
}

struct Writer {
    client: Client,
    rng: StdRng,
    done: u64,
    failures: BTreeMap<String, u64>,
    longest: Duration,
}

impl Bulk {
    /// Makes the table, for so many writers at a time.
    pub async fn start(servers: &Servers, writers: usize) -> Result<Self, HarnessError> {
        let statements = [
            "CREATE DATABASE IF NOT EXISTS faults".to_owned(),
            "CREATE TABLE faults.bulk (id BIGINT PRIMARY KEY, v MEDIUMTEXT)".to_owned(),
        ];
        prepare(servers, &statements).await?;
        let writer = |number: usize| Writer {
            client: Client::new(servers.clone(), number),
            rng: StdRng::seed_from_u64(number as u64),
            done: 0,
            failures: BTreeMap::new(),
            longest: Duration::ZERO,
        };
        Ok(Self { writers: (0..writers).map(writer).collect(), next_id: 0 })
    }

    /// Writes about so many bytes; statements that are refused count too.
    pub async fn write(&mut self, bytes: u64) {
        let statements = bytes / (ROW_BYTES * ROWS_PER_STATEMENT);
        let count = self.writers.len() as u64;
        let first = self.next_id;
        let writing = self.writers.iter_mut().zip(0..count).map(|(writer, number)| async move {
            for statement in (number..statements).step_by(count as usize) {
                writer.insert(first + statement * ROWS_PER_STATEMENT).await;
            }
        });
        join_all(writing).await;
        self.next_id += statements * ROWS_PER_STATEMENT;
    }

    /// Rows that were tried.
    pub fn rows(&self) -> u64 {
        self.next_id
    }

    /// Statements that were done.
    pub fn done(&self) -> u64 {
        self.writers.iter().map(|writer| writer.done).sum()
    }

    /// How often which failure was seen.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (label, count) in self.writers.iter().flat_map(|writer| &writer.failures) {
            *all.entry(label.clone()).or_default() += count;
        }
        all
    }

    /// The longest that one statement took.
    pub fn longest(&self) -> Duration {
        self.writers.iter().map(|writer| writer.longest).max().unwrap_or_default()
    }
}

impl Writer {
    async fn insert(&mut self, first_id: u64) {
        let mut statement = String::from("INSERT INTO faults.bulk VALUES ");
        for id in first_id..first_id + ROWS_PER_STATEMENT {
            let comma = if id == first_id { "" } else { ", " };
            statement += &format!("{comma}({id}, '");
            for _ in 0..ROW_BYTES / 8 {
                let bits: u64 = self.rng.random();
                statement.extend((0..8).map(|n| ALPHABET[(bits >> (6 * n)) as usize % 64] as char));
            }
            statement += "')";
        }
        let began = Instant::now();
        match self.client.execute(&statement).await {
            Ok(()) => self.done += 1,
            Err(failure) => *self.failures.entry(failure.label()).or_default() += 1,
        }
        self.longest = self.longest.max(began.elapsed());
    }
}
