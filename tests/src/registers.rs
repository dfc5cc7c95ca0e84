//! Registers that clients read and write, each statement a transaction of its own; afterwards every
//! register's history must be linearizable. This finds stale reads of a leader that was replaced
//! and does not know it, and acknowledged writes that were lost.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cairn_history::linearizable::{self, Action, Op, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Client, Servers};
use crate::updates::prepare;
use crate::{HarnessError, pass};

/// Registers, few enough that clients meet on each.
const REGISTERS: usize = 4;
/// Pause between two operations of a client: histories stay short enough to be checked.
const OPERATION_PAUSE: Duration = Duration::from_millis(20);
/// Of so many operations one is a write.
const OPERATIONS_PER_WRITE: u32 = 3;

/// One client.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The servers it knows.
    pub servers: Servers,
    /// Whether it writes too, and so waits for what writes wait for.
    pub writes: bool,
}

impl Visitor {
    /// One that reads and writes.
    pub fn new(servers: &Servers) -> Self {
        Self { servers: servers.clone(), writes: true }
    }
}

/// What clients write down.
struct Notes {
    began: Instant,
    stop: AtomicBool,
    last_value: AtomicU64,
    histories: Mutex<Vec<Vec<Op>>>,
    reads: Mutex<Vec<(usize, Duration)>>,
}

/// A running load.
pub struct Registers {
    notes: Arc<Notes>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the histories say.
#[derive(Debug, Default)]
pub struct Findings {
    /// Operations in all histories.
    pub operations: usize,
    /// Registers whose history no order explains, with the operation that does not fit.
    pub broken: Vec<String>,
}

impl Registers {
    /// Makes the table over the first client's servers, and lets all clients go.
    pub async fn start(visitors: &[Visitor], seed: u64) -> Result<Self, HarnessError> {
        let rows: Vec<String> = (0..REGISTERS).map(|id| format!("({id}, 0)")).collect();
        let statements = [
            "CREATE DATABASE IF NOT EXISTS faults".to_owned(),
            "DROP TABLE IF EXISTS faults.registers".to_owned(),
            "CREATE TABLE faults.registers (id INT PRIMARY KEY, v BIGINT UNSIGNED)".to_owned(),
            format!("INSERT INTO faults.registers VALUES {}", rows.join(", ")),
        ];
        prepare(&visitors[0].servers, &statements).await?;
        let notes = Arc::new(Notes {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            last_value: AtomicU64::new(0),
            histories: Mutex::new(vec![Vec::new(); REGISTERS]),
            reads: Mutex::default(),
        });
        let tasks = visitors
            .iter()
            .enumerate()
            .map(|(number, visitor)| {
                let rng = StdRng::seed_from_u64(seed ^ number as u64);
                tokio::spawn(operate(Arc::clone(&notes), visitor.clone(), number, rng))
            })
            .collect();
        Ok(Self { notes, tasks })
    }

    /// Time since the load began.
    pub fn now(&self) -> Duration {
        self.notes.began.elapsed()
    }

    /// When one of these clients last read something, since the load began.
    pub fn last_read(&self, of: Range<usize>) -> Duration {
        let reads = self.notes.reads.lock().expect("no panic");
        let last = reads.iter().rfind(|(client, _)| of.contains(client));
        last.map(|(_, at)| *at).unwrap_or_default()
    }

    /// Longest time in which a client read nothing, since a moment.
    pub fn read_stall(&self, of: usize, from: Duration) -> Duration {
        let reads = self.notes.reads.lock().expect("no panic");
        let (mut last, mut longest) = (from, Duration::ZERO);
        for (_, at) in reads.iter().filter(|(client, at)| *client == of && *at > from) {
            longest = longest.max(*at - last);
            last = *at;
        }
        longest.max(self.now().saturating_sub(last))
    }

    /// Stops the clients and checks every history.
    pub async fn stop(mut self) -> Findings {
        self.notes.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a client does not panic");
        }
        let histories = std::mem::take(&mut *self.notes.histories.lock().expect("no panic"));
        let mut findings = Findings::default();
        for (register, history) in histories.into_iter().enumerate() {
            findings.operations += history.len();
            match linearizable::check(history) {
                Verdict::Linearizable => {}
                Verdict::Violated(reason) => {
                    findings.broken.push(format!("register {register}: {reason}"));
                }
                Verdict::Undecided => {
                    findings.broken.push(format!("register {register}: too much to search"));
                }
            }
        }
        findings
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.notes.stop.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One client.
async fn operate(notes: Arc<Notes>, visitor: Visitor, number: usize, mut rng: StdRng) {
    let mut client = Client::new(visitor.servers, number);
    let now = |notes: &Notes| notes.began.elapsed().as_nanos() as u64;
    while !notes.stop.load(Ordering::Relaxed) {
        let id = rng.random_range(0..REGISTERS);
        let invoked = now(&notes);
        let op = if visitor.writes && rng.random_ratio(1, OPERATIONS_PER_WRITE) {
            // Every written value is another one, so that a read tells which write it saw.
            let value = notes.last_value.fetch_add(1, Ordering::Relaxed) + 1;
            let statement = format!("UPDATE faults.registers SET v = {value} WHERE id = {id}");
            let (returned, action) = match client.execute(&statement).await {
                Ok(()) => (Some(now(&notes)), Action::Write(value)),
                Err(failure) if failure.is_uncertain() => (None, Action::Write(value)),
                Err(_) => (None, Action::Never(value)),
            };
            Some(Op { invoked, returned, action })
        } else {
            let query = format!("SELECT v FROM faults.registers WHERE id = {id}");
            match client.first::<u64>(&query).await {
                Ok(Some(value)) => {
                    notes.reads.lock().expect("no panic").push((number, notes.began.elapsed()));
                    Some(Op { invoked, returned: Some(now(&notes)), action: Action::Read(value) })
                }
                _ => None,
            }
        };
        if let Some(op) = op {
            notes.histories.lock().expect("no panic")[id].push(op);
        }
        pass(OPERATION_PAUSE).await;
    }
}
