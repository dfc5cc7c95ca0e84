//! The connections of a node: `SHOW PROCESSLIST`, `KILL`, and the limit on their number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use cairn_planner::plan::Plan;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::lock_view::OpenTransaction;
use crate::table_locks::Uses;

/// Number of a connection, as `CONNECTION_ID()` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// What a connection is doing, for `SHOW PROCESSLIST`.
#[derive(Clone, Debug)]
pub struct Activity {
    /// Who is logged in.
    pub user: String,
    /// From where.
    pub host: String,
    /// The current database.
    pub database: Option<String>,
    /// `Sleep`, `Query`, `Execute`, …
    pub command: &'static str,
    /// Text of the running statement.
    pub statement: Option<String>,
    /// What the statement waits for, as `SHOW PROCESSLIST` tells it.
    pub waits_for: Option<&'static str>,
    /// When the command began.
    pub since: Instant,
}

/// One connection as the rest of the node sees it.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub id: ConnectionId,
    activity: Mutex<Activity>,
    /// Cancels the running statement; replaced by every statement.
    statement: Mutex<CancellationToken>,
    /// The plan of its statement, or of the one before.
    plan: Mutex<Option<Arc<Plan>>>,
    /// Its transaction, once that has a timestamp.
    transaction: Mutex<Option<Arc<OpenTransaction>>>,
    /// The tables that it uses, for those who want to lock them.
    pub uses: Mutex<Uses>,
    /// Cancelled by `KILL CONNECTION` and when the node stops.
    pub connection: CancellationToken,
}

impl Process {
    /// Marks the start of a command and gives the token that stops it.
    pub fn begin(&self, command: &'static str, statement: Option<String>) -> CancellationToken {
        let token = self.connection.child_token();
        *self.statement.lock() = token.clone();
        let mut activity = self.activity.lock();
        activity.command = command;
        activity.statement = statement;
        activity.since = clock::monotonic_now();
        token
    }

    /// Marks the end of a command.
    pub fn end(&self) {
        let mut activity = self.activity.lock();
        activity.command = "Sleep";
        activity.statement = None;
        activity.since = clock::monotonic_now();
    }

    /// Tells what the statement waits for until the answer is dropped.
    pub fn wait_for(self: &Arc<Self>, what: &'static str) -> WaitShown {
        self.activity.lock().waits_for = Some(what);
        WaitShown(Arc::clone(self))
    }

    /// Tells who is logged in and where it is.
    pub fn set_identity(&self, user: &str, database: Option<&str>) {
        let mut activity = self.activity.lock();
        activity.user = user.to_owned();
        activity.database = database.map(str::to_owned);
    }

    /// Shows its transaction until the answer is dropped.
    pub fn show_transaction(self: &Arc<Self>, open: OpenTransaction) -> ShownHere {
        let open = Arc::new(open);
        *self.transaction.lock() = Some(Arc::clone(&open));
        ShownHere { process: Arc::clone(self), open }
    }

    /// Tells by which plan its statement runs.
    pub fn show_plan(&self, plan: &Arc<Plan>) {
        *self.plan.lock() = Some(Arc::clone(plan));
    }

    /// The plan of its statement, or of the last one that had a plan.
    pub fn plan(&self) -> Option<Arc<Plan>> {
        self.plan.lock().clone()
    }

    /// Its transaction, if one has begun.
    pub fn open_transaction(&self) -> Option<Arc<OpenTransaction>> {
        self.transaction.lock().clone()
    }

    /// What it is doing now.
    pub fn activity(&self) -> Activity {
        self.activity.lock().clone()
    }
}

/// A wait that its connection shows.
#[derive(Debug)]
pub struct WaitShown(Arc<Process>);

impl Drop for WaitShown {
    fn drop(&mut self) {
        self.0.activity.lock().waits_for = None;
    }
}

/// A transaction that its connection shows.
#[derive(Debug)]
pub struct ShownHere {
    process: Arc<Process>,
    open: Arc<OpenTransaction>,
}

impl std::ops::Deref for ShownHere {
    type Target = OpenTransaction;

    fn deref(&self) -> &OpenTransaction {
        &self.open
    }
}

impl Drop for ShownHere {
    fn drop(&mut self) {
        *self.process.transaction.lock() = None;
    }
}

/// All connections of a node.
#[derive(Debug)]
pub struct Processes {
    by_id: DashMap<ConnectionId, Arc<Process>>,
    next_id: AtomicU32,
    open: AtomicUsize,
    stop: CancellationToken,
}

/// Registers a connection for as long as it lives.
#[derive(Debug)]
pub struct ProcessGuard {
    processes: Arc<Processes>,
    /// The connection.
    pub process: Arc<Process>,
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        self.process.connection.cancel();
        self.processes.by_id.remove(&self.process.id);
        self.processes.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Processes {
    /// No connections yet; all end when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            by_id: DashMap::new(),
            next_id: AtomicU32::new(1),
            open: AtomicUsize::new(0),
            stop,
        })
    }

    /// A place for a new connection; `None` when `connections_max` are open.
    pub fn register(
        self: &Arc<Self>,
        host: String,
        connections_max: usize,
    ) -> Option<ProcessGuard> {
        let admitted = self
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < connections_max).then_some(open + 1)
            })
            .is_ok();
        if !admitted {
            return None;
        }
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let connection = self.stop.child_token();
        let process = Arc::new(Process {
            id,
            activity: Mutex::new(Activity {
                user: String::new(),
                host,
                database: None,
                command: "Connect",
                statement: None,
                waits_for: None,
                since: clock::monotonic_now(),
            }),
            statement: Mutex::new(connection.child_token()),
            plan: Mutex::default(),
            transaction: Mutex::default(),
            uses: Mutex::default(),
            connection,
        });
        self.by_id.insert(id, Arc::clone(&process));
        Some(ProcessGuard { processes: Arc::clone(self), process })
    }

    /// The connection of a number.
    pub fn find(&self, id: ConnectionId) -> Option<Arc<Process>> {
        self.by_id.get(&id).map(|process| Arc::clone(&process))
    }

    /// `KILL`; false when there is no such connection.
    pub fn kill(&self, id: ConnectionId, query_only: bool) -> bool {
        let Some(process) = self.by_id.get(&id) else { return false };
        if query_only {
            process.statement.lock().cancel();
        } else {
            process.connection.cancel();
        }
        true
    }

    /// Whether there is such a connection.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// All connections, by number.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let mut list: Vec<_> = self.by_id.iter().map(|entry| Arc::clone(entry.value())).collect();
        list.sort_by_key(|process| process.id);
        list
    }

    /// How many are open.
    pub fn open_count(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }
}
