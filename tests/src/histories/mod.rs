//! The load that hunts anomalies: clients whose transactions read and append to lists, at several
//! isolation levels at once; [`cairn_history::lists`] judges what they saw.
//!
//! Work goes on in rounds, each on lists of its own: in a round's end all of them are read once
//! more, and what a client was told must fit. So a history stays short enough to be judged while
//! a fault test goes on for an hour. A history that does not fit is written to a file, which
//! `cairn-history` judges again.

mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_history::lists::workload::Generator;
use cairn_history::lists::{Level, Outcome, Transaction, Violation, check, notation};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::client::{Client, Failure, Servers};
use crate::updates::prepare;
use crate::{HarnessError, eventually, pass};
use session::{Session, Way};

/// How long the lists may be unreadable in a round's end.
const LAST_READ_DEADLINE: Duration = Duration::from_secs(90);
/// Violations that are told of one round; more tell nothing new.
const TOLD_MAX: usize = 5;
/// After a statement that could not be sent, or was refused.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// What a session waits for a row that another one has locked.
const LOCK_WAIT_S: u64 = 5;

/// How the load is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients at the same time.
    pub clients: u32,
    /// What their transactions are promised.
    pub levels: Vec<Level>,
    /// How long a round goes on.
    pub round: Duration,
    /// Where histories that do not fit are left.
    pub folder: PathBuf,
    /// Decides what clients do.
    pub seed: u64,
}

impl Settings {
    /// Clients at all levels that Cairn has.
    pub fn new(folder: &Path, seed: u64) -> Self {
        Self {
            clients: 12,
            levels: vec![
                Level::ReadCommitted,
                Level::RepeatableRead,
                Level::Snapshot,
                Level::Serializable,
            ],
            round: Duration::from_secs(30),
            folder: folder.to_owned(),
            seed,
        }
    }
}

/// What all rounds have shown.
#[derive(Debug, Default)]
pub struct Findings {
    /// Rounds that were judged.
    pub rounds: u64,
    /// Transactions by outcome.
    pub committed: u64,
    /// Those that never happened.
    pub aborted: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Why transactions failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Failures that no application could simply try again.
    pub unexpected: Vec<String>,
    /// What the levels forbid, and lists that could not be read.
    pub violations: Vec<String>,
}

/// A running load.
#[derive(Debug)]
pub struct Histories {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    rounds: JoinHandle<Findings>,
}

impl Histories {
    /// Makes the table and begins the first round.
    pub async fn start(servers: &Servers, settings: Settings) -> Result<Self, HarnessError> {
        let lock_wait = format!("SET GLOBAL innodb_lock_wait_timeout = {LOCK_WAIT_S}");
        let statements = [
            "CREATE DATABASE IF NOT EXISTS history",
            "DROP TABLE IF EXISTS history.lists",
            session::TABLE,
            &lock_wait,
        ];
        prepare(servers, &statements.map(str::to_owned)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let conductor = Conductor {
            servers: servers.clone(),
            settings,
            stop: Arc::clone(&stop),
            committed: Arc::clone(&committed),
            began: Instant::now(),
            clients: Arc::new(AtomicU64::new(0)),
        };
        Ok(Self { stop, committed, rounds: tokio::spawn(conductor.run()) })
    }

    /// Transactions that were committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until `more` transactions are committed; answers whether they were.
    pub async fn await_commits(&self, more: u64, deadline: Duration) -> bool {
        let aim = self.committed() + more;
        eventually(deadline, || async { (self.committed() >= aim).then_some(()) }).await.is_some()
    }

    /// Ends the round that goes on, and answers what all of them have shown.
    pub async fn stop(mut self) -> Findings {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.rounds).await.expect("a round does not panic")
    }
}

impl Drop for Histories {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.rounds.abort();
    }
}

/// Lets rounds follow each other.
struct Conductor {
    servers: Servers,
    settings: Settings,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    began: Instant,
    clients: Arc<AtomicU64>,
}

impl Conductor {
    async fn run(self) -> Findings {
        let mut findings = Findings::default();
        while !self.stop.load(Ordering::Relaxed) {
            let round = findings.rounds + 1;
            let history = self.round(round, &mut findings).await;
            self.judge(round, history, &mut findings).await;
            findings.rounds = round;
        }
        findings
    }

    /// One round; answers its history, to which reads of all lists belong.
    async fn round(&self, round: u64, findings: &mut Findings) -> Vec<Transaction> {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let generator = Arc::new(Generator::default());
        let over = Arc::new(AtomicBool::new(false));
        // Ends with the round, also when that is dropped.
        let mut clients = JoinSet::new();
        for number in 0..self.settings.clients {
            let visitor = Visitor {
                session: self.session(round, number as usize),
                levels: self.settings.levels.clone(),
                generator: Arc::clone(&generator),
                notes: Arc::clone(&notes),
                committed: Arc::clone(&self.committed),
                over: Arc::clone(&over),
            };
            let seed = self.settings.seed ^ (round << 32) ^ u64::from(number);
            clients.spawn(visitor.work(StdRng::seed_from_u64(seed)));
        }
        let stopped = || async { self.stop.load(Ordering::Relaxed).then_some(()) };
        // Either way the round is over.
        let _ = eventually(self.settings.round, stopped).await;
        over.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client.expect("a client does not panic");
        }
        let Notes { mut history, failures } = std::mem::take(&mut *notes.lock().expect("no panic"));
        findings.note(round, &failures);
        let reader = tokio::sync::Mutex::new(self.session(round, 0));
        let keys = generator.all();
        for way in Way::ALL {
            let read = || async { reader.lock().await.read_all(&keys, way).await };
            match eventually(LAST_READ_DEADLINE, read).await {
                Some(last) => history.push(last),
                None => findings.violations.push(format!(
                    "round {round}: no read of all lists by {way:?} within {LAST_READ_DEADLINE:?}"
                )),
            }
        }
        history
    }

    fn session(&self, round: u64, first: usize) -> Session {
        // A client of its own for each session: what it is told is in an order.
        let client = self.clients.fetch_add(1, Ordering::Relaxed) as u32;
        Session::new(Client::new(self.servers.clone(), first), client, round, self.began)
    }

    async fn judge(&self, round: u64, history: Vec<Transaction>, findings: &mut Findings) {
        let count = |outcome| history.iter().filter(|one| one.outcome == outcome).count() as u64;
        findings.committed += count(Outcome::Committed);
        findings.aborted += count(Outcome::Aborted);
        findings.unknown += count(Outcome::Unknown);
        let judging = tokio::task::spawn_blocking(move || (check(&history), history));
        let (violations, history) = judging.await.expect("a checker does not panic");
        if violations.is_empty() {
            return;
        }
        let file = self.settings.folder.join(format!("round-{round}.history"));
        let written = std::fs::write(&file, notation::write(&history));
        let place = written.map_or_else(|error| error.to_string(), |()| file.display().to_string());
        let told = violations.iter().take(TOLD_MAX).map(Violation::to_string);
        let told = told.map(|violation| format!("round {round}: {violation}"));
        findings.violations.extend(told);
        let count = violations.len();
        findings.violations.push(format!("round {round}: {count} in all; history in {place}"));
    }
}

impl Findings {
    fn note(&mut self, round: u64, failures: &[Failure]) {
        /// An outdated schema, a snapshot below the safe point, and a commit of which the node itself
        /// does not know: all are tried again, the last after a look.
        const PASSING: &[u16] = &[8022, 8027, 8028, 8501, 9006];
        for failure in failures {
            *self.failures.entry(failure.label()).or_default() += 1;
            let passes = match failure {
                Failure::Refused { code, .. } => PASSING.contains(code),
                _ => false,
            };
            if !passes && !failure.is_retryable() && self.unexpected.len() < TOLD_MAX {
                self.unexpected.push(format!("round {round}: {failure:?}"));
            }
        }
    }
}

/// What the clients of a round write down.
#[derive(Debug, Default)]
struct Notes {
    history: Vec<Transaction>,
    failures: Vec<Failure>,
}

/// One client in one round.
struct Visitor {
    session: Session,
    levels: Vec<Level>,
    generator: Arc<Generator>,
    notes: Arc<Mutex<Notes>>,
    committed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Visitor {
    async fn work(mut self, mut rng: StdRng) {
        while !self.over.load(Ordering::Relaxed) {
            let draft = self.generator.draw(&mut rng, &self.levels);
            let (transaction, failure) = self.session.play(&draft, &mut rng).await;
            let is_committed = transaction.outcome == Outcome::Committed;
            {
                let mut notes = self.notes.lock().expect("no panic");
                notes.history.push(transaction);
                notes.failures.extend(failure);
            }
            if is_committed {
                self.committed.fetch_add(1, Ordering::Relaxed);
            } else {
                pass(ERROR_PAUSE).await;
            }
        }
    }
}
