//! What a workload is: tables, rows, sessions that draw and execute transactions, and
//! conditions that the data always meet.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::client::Client;
use crate::error::{BenchError, Failure};
use crate::load::Batches;

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What makes it.
    pub create: String,
}

/// A condition of the data.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Its short name.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// A query whose one number says how often the data contradict it.
    pub violations: String,
}

/// What the standard of a workload reports besides rates and latencies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Headline {
    /// NewOrder transactions that committed, per minute.
    pub tpmc: f64,
    /// Share of what the standard allows at most (12.86 per warehouse), if terminals waited as
    /// it demands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency_percent: Option<f64>,
}

/// A transaction that was drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// Its kind: an index into [`Workload::kinds`].
    pub kind: usize,
    /// Pause before it.
    pub keying: Duration,
    /// Pause after it.
    pub thinking: Duration,
}

impl Drawn {
    /// A transaction without pauses.
    pub fn at_once(kind: usize) -> Self {
        Self { kind, keying: Duration::ZERO, thinking: Duration::ZERO }
    }
}

/// How a transaction ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Committed,
    /// Taken back, because that is what it was to do.
    RolledBack,
}

/// What one connection does.
pub trait Session: Send + 'static {
    /// Draws the next transaction with all its inputs; `None`: its work is done.
    fn draw(&mut self) -> Option<Drawn>;

    /// Executes what was drawn last. Called again with the same inputs after a failure that
    /// passes; `retried` then says that an earlier attempt may have taken effect.
    fn execute(
        &mut self,
        client: &mut Client,
        retried: bool,
    ) -> impl Future<Output = Result<Outcome, Failure>> + Send;
}

/// A workload.
pub trait Workload: Send + Sync + 'static {
    /// What its connections do.
    type Session: Session;

    /// Its name, also that of its database.
    fn name(&self) -> String;
    /// The kinds of its transactions.
    fn kinds(&self) -> &'static [&'static str];
    /// Its tables, in the order in which they are made.
    fn tables(&self) -> Vec<Table>;
    /// How many independent jobs load its rows.
    fn load_jobs(&self) -> usize;
    /// Does one of them.
    fn load(
        &self,
        job: usize,
        rows: &mut Batches,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Looks at what the database holds, before a run or a check.
    fn look(&mut self, client: &mut Client) -> impl Future<Output = Result<(), BenchError>> + Send;
    /// What the n-th connection does.
    fn session(self: &Arc<Self>, number: usize) -> Self::Session;
    /// The conditions of its data.
    fn conditions(&self) -> Vec<Condition>;
    /// Its sizes, for the summary.
    fn parameters(&self) -> serde_json::Value;
    /// Whether sessions end by themselves: a run lasts until then, and no longer than its time
    /// otherwise.
    fn ends_by_itself(&self) -> bool {
        false
    }
    /// What is to be said of the figures, if anything.
    fn remark(&self) -> Option<String> {
        None
    }
    /// The figures that its standard asks for: `committed` counts by kind, over `seconds`.
    fn headline(&self, _committed: &[u64], _seconds: f64) -> Option<Headline> {
        None
    }
}
