//! YCSB's core workloads: single rows of a kilobyte by key, and short scans.
//!
//! | | reads | updates | inserts | scans | read-modify-writes | records drawn by |
//! |---|---:|---:|---:|---:|---:|---|
//! | A | 50 % | 50 % | | | | Zipf |
//! | B | 95 % | 5 % | | | | Zipf |
//! | C | 100 % | | | | | Zipf |
//! | D | 95 % | | 5 % | | | latest first |
//! | E | | | 5 % | 95 % | | Zipf |
//! | F | 50 % | | | | 50 % | Zipf |
//!
//! Source: Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010. Zipf's
//! distribution (θ 0.99) is over the records that were loaded; YCSB's own generator draws from
//! ten thousand million and folds them, which is less skewed.
//!
//! A record that was loaded, or whose INSERT was answered, is always found: anything else is a
//! wrong answer and ends the run.

mod keys;
mod zipfian;

use std::sync::Arc;

use clap::{Args, ValueEnum};
use rand::Rng;
use rand::rngs::StdRng;

use crate::client::{Client, values};
use crate::clock;
use crate::error::{BenchError, Failure};
use crate::load::Batches;
use crate::options::{Action, SharedArgs};
use crate::random::{Stream, alphanumeric, generator};
use crate::workload::{Condition, Drawn, Outcome, Session, Table, Workload};
use keys::Keys;
use zipfian::Zipfian;

/// Length of a field.
const FIELD_CHARACTERS: usize = 100;
/// Longest scan in rows.
const SCAN_ROWS_MAX: u64 = 100;
/// Records that one job of loading makes.
const RECORDS_PER_JOB: u64 = 10_000;

const KINDS: &[&str] = &["read", "update", "insert", "scan", "read-modify-write"];
const READ: usize = 0;
const UPDATE: usize = 1;
const INSERT: usize = 2;
const SCAN: usize = 3;
const READ_MODIFY_WRITE: usize = 4;

const SELECT: &str = "SELECT * FROM usertable WHERE ycsb_key = ?";
const SELECT_FOR_UPDATE: &str = "SELECT * FROM usertable WHERE ycsb_key = ? FOR UPDATE";
const SELECT_RANGE: &str = "SELECT * FROM usertable WHERE ycsb_key >= ? ORDER BY ycsb_key LIMIT ?";
const INTO: &str = "usertable (ycsb_key, field0, field1, field2, field3, field4, field5, field6, \
                    field7, field8, field9)";
const INSERT_ROW: &str = "INSERT INTO usertable (ycsb_key, field0, field1, field2, field3, \
                          field4, field5, field6, field7, field8, field9) \
                          VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// One statement per field.
const UPDATES: [&str; 10] = [
    "UPDATE usertable SET field0 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field1 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field2 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field3 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field4 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field5 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field6 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field7 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field8 = ? WHERE ycsb_key = ?",
    "UPDATE usertable SET field9 = ? WHERE ycsb_key = ?",
];

/// YCSB's letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mix {
    /// Half reads, half updates.
    #[default]
    A,
    /// Mostly reads.
    B,
    /// Only reads.
    C,
    /// Reads of the latest inserts.
    D,
    /// Short scans.
    E,
    /// Reads, and changes of what was read.
    F,
}

impl Mix {
    /// How often each kind is drawn, in percent, in the order of [`KINDS`].
    fn percentages(self) -> [u32; 5] {
        match self {
            Mix::A => [50, 50, 0, 0, 0],
            Mix::B => [95, 5, 0, 0, 0],
            Mix::C => [100, 0, 0, 0, 0],
            Mix::D => [95, 0, 5, 0, 0],
            Mix::E => [0, 0, 5, 95, 0],
            Mix::F => [50, 0, 0, 0, 50],
        }
    }

    fn letter(self) -> char {
        match self {
            Mix::A => 'a',
            Mix::B => 'b',
            Mix::C => 'c',
            Mix::D => 'd',
            Mix::E => 'e',
            Mix::F => 'f',
        }
    }
}

/// `cairn bench ycsb`.
#[derive(Clone, Debug, Args)]
pub struct YcsbArgs {
    /// What to do.
    #[arg(value_enum, default_value_t)]
    pub action: Action,
    /// Options of every workload.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Which of the core workloads to run.
    #[arg(long, value_enum, default_value_t, ignore_case = true)]
    pub workload: Mix,
    /// Records to load, of a kilobyte each; give a run the same number.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub records: u64,
}

/// The workload.
#[derive(Debug)]
pub struct Ycsb {
    mix: Mix,
    records: u64,
    seed: u64,
    keys: Keys,
    zipfian: Option<Zipfian>,
}

impl Ycsb {
    /// With the sizes of the options.
    pub fn new(args: &YcsbArgs) -> Result<Self, BenchError> {
        Ok(Self {
            mix: args.workload,
            records: args.records,
            seed: args.shared.seed,
            keys: Keys::new(args.records, clock::unix_ms()),
            zipfian: None,
        })
    }
}

impl Workload for Ycsb {
    type Session = YcsbSession;

    fn name(&self) -> String {
        format!("ycsb-{}", self.mix.letter())
    }

    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn tables(&self) -> Vec<Table> {
        let fields: Vec<String> =
            (0..10).map(|n| format!("field{n} VARCHAR({FIELD_CHARACTERS})")).collect();
        let fields = fields.join(", ");
        vec![Table {
            name: "usertable",
            create: format!("CREATE TABLE usertable (ycsb_key VARCHAR(64) PRIMARY KEY, {fields})"),
        }]
    }

    fn load_jobs(&self) -> usize {
        self.records.div_ceil(RECORDS_PER_JOB) as usize
    }

    async fn load(&self, job: usize, rows: &mut Batches) -> Result<(), Failure> {
        let mut rng = generator(self.seed, Stream::Load(job));
        let first = job as u64 * RECORDS_PER_JOB;
        for number in first..(first + RECORDS_PER_JOB).min(self.records) {
            let fields: Vec<String> = (0..10).map(|_| field(&mut rng)).collect();
            let (key, fields) = (self.keys.key(number), fields.join("','"));
            rows.row(INTO, format!("'{key}','{fields}'")).await?;
        }
        Ok(())
    }

    async fn look(&mut self, client: &mut Client) -> Result<(), BenchError> {
        let last = client.rows(SELECT, values![self.keys.key(self.records - 1)]).await;
        let last = last.map_err(BenchError::failed("looking for the last record"))?;
        if last.is_empty() {
            return Err(BenchError::Options(format!(
                "fewer than {} records are loaded: --records as for `prepare`",
                self.records
            )));
        }
        self.zipfian = Some(Zipfian::new(self.records));
        Ok(())
    }

    fn session(self: &Arc<Self>, number: usize) -> YcsbSession {
        YcsbSession {
            rng: generator(self.seed, Stream::Session(number)),
            zipfian: self.zipfian.unwrap_or_else(|| Zipfian::new(self.records)),
            inputs: Inputs::default(),
            ycsb: Arc::clone(self),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        vec![
            Condition {
                name: "records",
                meaning: "no loaded record is missing",
                violations: format!(
                    "SELECT IF(COUNT(*) < {0}, {0} - COUNT(*), 0) FROM usertable",
                    self.records
                ),
            },
            Condition {
                name: "fields",
                meaning: "the first and last field are as long as they were written",
                violations: format!(
                    "SELECT COUNT(*) FROM usertable WHERE LENGTH(field0) <> {FIELD_CHARACTERS} \
                     OR LENGTH(field9) <> {FIELD_CHARACTERS} OR field0 IS NULL OR field9 IS NULL"
                ),
            },
        ]
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "mix": self.mix.letter().to_string(), "records": self.records })
    }
}

/// A field's random content.
fn field(rng: &mut StdRng) -> String {
    alphanumeric(rng, FIELD_CHARACTERS, FIELD_CHARACTERS)
}

/// What was drawn.
#[derive(Debug, Default)]
struct Inputs {
    kind: usize,
    /// The record, or where a scan begins.
    number: u64,
    key: String,
    /// Contents of the fields to write.
    fields: Vec<String>,
    /// Which field an update writes.
    field: usize,
    scan_rows: u64,
}

/// One connection.
#[derive(Debug)]
pub struct YcsbSession {
    ycsb: Arc<Ycsb>,
    rng: StdRng,
    zipfian: Zipfian,
    inputs: Inputs,
}

impl YcsbSession {
    /// Draws a kind by the mix.
    fn draw_kind(&mut self) -> usize {
        let mut drawn = self.rng.random_range(0..100);
        for (kind, percentage) in self.ycsb.mix.percentages().into_iter().enumerate() {
            if drawn < percentage {
                return kind;
            }
            drawn -= percentage;
        }
        READ
    }

    /// Draws a record that is there.
    fn draw_record(&mut self) -> u64 {
        let rank = self.zipfian.draw(&mut self.rng);
        match self.ycsb.mix {
            Mix::D => self.ycsb.keys.present() - 1 - rank,
            _ => rank,
        }
    }
}

impl Session for YcsbSession {
    fn draw(&mut self) -> Option<Drawn> {
        let kind = self.draw_kind();
        let number =
            if kind == INSERT { self.ycsb.keys.begin_insert() } else { self.draw_record() };
        let fields = match kind {
            INSERT => 10,
            UPDATE | READ_MODIFY_WRITE => 1,
            _ => 0,
        };
        self.inputs = Inputs {
            kind,
            number,
            key: self.ycsb.keys.key(number),
            fields: (0..fields).map(|_| field(&mut self.rng)).collect(),
            field: self.rng.random_range(0..UPDATES.len()),
            scan_rows: self.rng.random_range(1..=SCAN_ROWS_MAX),
        };
        Some(Drawn::at_once(kind))
    }

    async fn execute(&mut self, client: &mut Client, retried: bool) -> Result<Outcome, Failure> {
        let Inputs { kind, number, key, fields, field, scan_rows } = &self.inputs;
        let found = |found: bool| match found {
            true => Ok(Outcome::Committed),
            false => Err(Failure::Wrong(format!("record {number}, {key}, is missing"))),
        };
        match *kind {
            INSERT => {
                let row = values![key].into_iter().chain(fields.iter().map(Into::into)).collect();
                match client.change(INSERT_ROW, row).await {
                    // The attempt whose answer was lost had succeeded.
                    Err(failure) if retried && failure.is_duplicate_key() => {}
                    outcome => outcome?,
                }
                self.ycsb.keys.inserted(*number);
                Ok(Outcome::Committed)
            }
            SCAN => {
                let rows = client.rows(SELECT_RANGE, values![key, scan_rows]).await?;
                found(!rows.is_empty())
            }
            UPDATE => {
                client.change(UPDATES[*field], values![&fields[0], key]).await?;
                Ok(Outcome::Committed)
            }
            READ_MODIFY_WRITE => {
                client.begin().await?;
                let rows = client.rows(SELECT_FOR_UPDATE, values![key]).await?;
                client.change(UPDATES[*field], values![&fields[0], key]).await?;
                client.commit().await?;
                found(rows.len() == 1)
            }
            _ => found(client.rows(SELECT, values![key]).await?.len() == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_is_whole() {
        for mix in Mix::value_variants() {
            assert_eq!(mix.percentages().iter().sum::<u32>(), 100, "{mix:?}");
        }
    }
}
