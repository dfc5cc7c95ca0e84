//! TPC-H, revision 3.0: 22 queries of a wholesaler's analysts over eight tables, with the
//! validation parameters, whose answers are known.
//!
//! | file | what it holds |
//! |---|---|
//! | `schema.rs` | the tables |
//! | `load.rs` | their rows, as the standard's generator makes them |
//! | `queries.rs`, `queries/` | the queries in MySQL's words |
//! | `answers.rs` | the answers at scale factor 1, those of files, and how results are compared |
//!
//! A connection runs the queries one after the other, `--rounds` times; one connection is what
//! the standard calls a power test, several are a throughput test. Refresh functions, QphH and
//! what the standard asks of a published result besides are left out.

mod answers;
mod load;
mod queries;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::client::Client;
use crate::error::{BenchError, Failure};
use crate::load::Batches;
use crate::options::{Action, SharedArgs};
use crate::workload::{Condition, Drawn, Outcome, Session, Table, Workload};
use answers::{Answer, Answers};
use load::Part;

/// Suppliers at scale factor 1.
const SUPPLIERS: f64 = 10_000.0;

/// Names of the queries.
const KINDS: &[&str] = &[
    "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9", "q10", "q11", "q12", "q13", "q14", "q15",
    "q16", "q17", "q18", "q19", "q20", "q21", "q22",
];

/// `cairn bench tpch`.
#[derive(Clone, Debug, Args)]
pub struct TpchArgs {
    /// What to do.
    #[arg(value_enum, default_value_t)]
    pub action: Action,
    /// Options of every workload.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Scale factor to load; 1 is 8.7 million rows, about a gigabyte.
    #[arg(long, default_value_t = 1.0, value_parser = scale_factor)]
    pub scale: f64,
    /// How often each connection runs all queries; `--time` does not count then. 0: until the
    /// time is over.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// The queries to run, by number.
    #[arg(
        long,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u8).range(1..=22),
        default_values_t = 1..=22,
    )]
    pub queries: Vec<u8>,
    /// Folder with the answers to compare with, `q1.tbl` to `q22.tbl`. Those at scale factor 1
    /// are known without.
    #[arg(long, value_name = "FOLDER")]
    pub answers: Option<PathBuf>,
    /// Folder to write the results to, in the form of `--answers`.
    #[arg(long, value_name = "FOLDER")]
    pub write: Option<PathBuf>,
    /// Statement to run first on every connection, such as `SET SESSION …`; may be given several times.
    #[arg(long, value_name = "SQL")]
    pub set: Vec<String>,
}

fn scale_factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=1000.0).contains(&scale) => Ok(scale),
        _ => Err("a number from 0.001 to 1000".to_owned()),
    }
}

/// The workload.
#[derive(Debug)]
pub struct Tpch {
    scale: f64,
    rounds: u32,
    /// Indexes into [`KINDS`].
    queries: Vec<usize>,
    given: Option<PathBuf>,
    answers: Answers,
    write: Option<PathBuf>,
    set: Vec<String>,
}

impl Tpch {
    /// With what the options say.
    pub fn new(args: &TpchArgs) -> Result<Self, BenchError> {
        Ok(Self {
            scale: args.scale,
            rounds: args.rounds,
            queries: args.queries.iter().map(|number| usize::from(*number) - 1).collect(),
            given: args.answers.clone(),
            answers: Answers::default(),
            write: args.write.clone(),
            set: args.set.clone(),
        })
    }
}

impl Workload for Tpch {
    type Session = TpchSession;

    fn name(&self) -> String {
        "tpch".to_owned()
    }

    fn kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn tables(&self) -> Vec<Table> {
        schema::tables()
    }

    fn load_jobs(&self) -> usize {
        load::parts(self.scale).len()
    }

    async fn load(&self, job: usize, rows: &mut Batches) -> Result<(), Failure> {
        match load::parts(self.scale).get(job) {
            Some(Part { table, part, parts }) => {
                load::load(*table, self.scale, *part, *parts, rows).await
            }
            None => Ok(()),
        }
    }

    async fn look(&mut self, client: &mut Client) -> Result<(), BenchError> {
        let counted = client.query::<u64>("SELECT COUNT(*) FROM supplier").await;
        let counted = counted.map_err(BenchError::failed("counting suppliers"))?;
        self.scale = counted.first().copied().unwrap_or(0) as f64 / SUPPLIERS;
        if self.scale == 0.0 {
            return Err(BenchError::Options("no suppliers: `prepare` makes them".to_owned()));
        }
        self.answers = Answers::find(self.given.as_deref(), self.scale)?;
        Ok(())
    }

    fn session(self: &Arc<Self>, _number: usize) -> TpchSession {
        TpchSession { tpch: Arc::clone(self), drawn: 0, is_set: false }
    }

    fn conditions(&self) -> Vec<Condition> {
        schema::conditions(self.scale)
    }

    fn parameters(&self) -> serde_json::Value {
        serde_json::json!({ "scale": self.scale, "rounds": self.rounds, "set": self.set })
    }

    fn ends_by_itself(&self) -> bool {
        self.rounds > 0
    }

    fn remark(&self) -> Option<String> {
        Some(match self.answers.is_empty() {
            true => "no answers to compare with were given for this scale factor".to_owned(),
            false => "all answers are right".to_owned(),
        })
    }
}

/// One connection.
#[derive(Debug)]
pub struct TpchSession {
    tpch: Arc<Tpch>,
    /// Queries drawn so far.
    drawn: usize,
    /// Whether the connection has its settings.
    is_set: bool,
}

impl TpchSession {
    fn kind(&self) -> usize {
        let queries = &self.tpch.queries;
        queries[(self.drawn - 1) % queries.len()]
    }
}

impl Session for TpchSession {
    fn draw(&mut self) -> Option<Drawn> {
        let all = self.tpch.queries.len() * self.tpch.rounds as usize;
        if self.tpch.rounds > 0 && self.drawn == all {
            return None;
        }
        self.drawn += 1;
        Some(Drawn::at_once(self.kind()))
    }

    async fn execute(&mut self, client: &mut Client, retried: bool) -> Result<Outcome, Failure> {
        let kind = self.kind();
        if !self.is_set || retried {
            for statement in &self.tpch.set {
                client.text(statement).await?;
            }
            self.is_set = true;
        }
        let rows = client.texts(&queries::query(kind, self.tpch.scale)).await?;
        let found = Answer::from_rows(rows);
        if let Some(folder) = &self.tpch.write {
            found.write(folder, kind)?;
        }
        self.tpch.answers.compare(kind, &found)?;
        Ok(Outcome::Committed)
    }
}
