//! The node's part: changes of the record, who waits for whom, and what the dead left.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_kv_client::KvError;
use cairn_planner::Catalog;
use cairn_types::errno;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::entry::{Entry, LockRecord, Resolved, Scope, Stage, TableLocks, Verdict};
use super::{deadlock, lost};
use crate::catalog::meta;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::named_locks::Owner;
use crate::xa;

/// Locks of the cluster, held and waited for.
const ENTRIES_MAX: usize = 1_024;
/// Tables in all of them: the record stays below a megabyte or two.
const TABLES_MAX: usize = 16_384;
/// How often a change of the record starts over after losing to another node's. The node's own
/// changes queue.
const TRIES_MAX: usize = 100;
/// Pause after losing.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);
/// Between looks at who holds a lock up that is waited for.
const PENDING_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// First and longest pause of a session that waits for users of its tables.
const WAIT_PAUSE_MS: (u64, u64) = (2, 50);
/// Between looks for locks whose owners are gone.
const CLEAN_INTERVAL: Duration = Duration::from_secs(1);

/// The locks of a node's sessions.
#[derive(Debug, Default)]
pub struct NodeLocks {
    /// One change of the record at a time.
    changes: tokio::sync::Mutex<()>,
    /// Numbers of the entries whose sessions live.
    live: Mutex<HashSet<u64>>,
    next_number: AtomicU64,
}

/// A session's claim to an entry. What is dropped without [`OwnEntry::release`] is released by the
/// node within [`CLEAN_INTERVAL`].
#[derive(Debug)]
pub struct OwnEntry {
    domain: Arc<Domain>,
    owner: Owner,
    number: u64,
    /// The node's lease that it was taken under: behind it, others may have removed it.
    generation: u64,
}

impl Drop for OwnEntry {
    fn drop(&mut self) {
        self.domain.table_locks.live.lock().remove(&self.number);
    }
}

impl OwnEntry {
    /// A claim to an entry that is not there yet.
    pub fn new(domain: Arc<Domain>, owner: Owner) -> OwnEntry {
        let number = domain.table_locks.next_number.fetch_add(1, Ordering::Relaxed);
        domain.table_locks.live.lock().insert(number);
        let generation = domain.schema.generation();
        OwnEntry { domain, owner, number, generation }
    }

    fn is(&self, entry: &Entry) -> bool {
        entry.owner == self.owner && entry.number == self.number
    }

    fn find<'a>(&self, locks: &'a TableLocks) -> Option<&'a Resolved> {
        locks.entries().iter().find(|one| self.is(&one.entry))
    }

    /// Whether it is still there: others remove it when they believe that the node is dead.
    pub fn is_kept(&self) -> bool {
        self.generation == self.domain.schema.generation()
            && self.find(self.domain.schema.current().locks()).is_some()
    }

    /// Queues up for what is to be locked, waits, and locks it.
    pub async fn take(&self, scope: Scope) -> Result<()> {
        let add = |entries: &mut Vec<Entry>, id: i64| -> Result<bool> {
            let tables = |scope: &Scope| match scope {
                Scope::Tables(tables) => tables.len(),
                Scope::Global | Scope::Backup => 0,
            };
            let all: usize = entries.iter().map(|entry| tables(&entry.scope)).sum();
            if entries.len() >= ENTRIES_MAX || all + tables(&scope) > TABLES_MAX {
                return Err(SqlError::not_supported("so many table locks at a time"));
            }
            let (owner, number, scope) = (self.owner.clone(), self.number, scope.clone());
            let (stage, since) = (Stage::Waiting, id);
            entries.push(Entry { id, owner, number, scope, stage, since });
            Ok(true)
        };
        change(&self.domain, add).await?;
        self.wait_for_turn().await?;
        if scope == Scope::Global {
            self.advance(Stage::Closing).await?;
            self.wait_for_turn().await?;
        }
        self.advance(Stage::Held).await
    }

    async fn advance(&self, stage: Stage) -> Result<()> {
        let advance = |entries: &mut Vec<Entry>, version: i64| -> Result<bool> {
            let own = entries.iter_mut().find(|entry| self.is(entry)).ok_or_else(lost)?;
            (own.stage, own.since) = (stage, version);
            Ok(true)
        };
        change(&self.domain, advance).await
    }

    /// Until nobody is ahead of it, and nobody uses what is to be locked.
    async fn wait_for_turn(&self) -> Result<()> {
        let domain = &self.domain;
        let mut pause_ms = WAIT_PAUSE_MS.0;
        loop {
            let next = domain.schema.next();
            let schema = domain.schema.current();
            let own = self.find(schema.locks()).ok_or_else(lost)?;
            let pause = match schema.locks().queue_verdict(&own.entry) {
                Verdict::Deadlock => return Err(deadlock()),
                Verdict::Wait => CLEAN_INTERVAL,
                Verdict::Free => {
                    if self.is_let_go(own, schema.locks(), schema.version()).await? {
                        break;
                    }
                    Duration::from_millis(pause_ms)
                }
            };
            // Woken or not: look again.
            let _ = tokio::time::timeout(pause, next).await;
            pause_ms = (pause_ms * 2).min(WAIT_PAUSE_MS.1);
        }
        // Branches of distributed transactions have no session any more that uses their tables.
        let schema = domain.schema.current();
        let tables = self.find(schema.locks()).ok_or_else(lost)?.table_ids();
        xa::wait_for_branches(domain, &tables, i64::MAX).await
    }

    /// Whether no session of any node that lives is in the way, by what nodes say that know the
    /// locks of this version.
    async fn is_let_go(&self, own: &Resolved, locks: &TableLocks, version: i64) -> Result<bool> {
        let id = own.entry.id;
        if blocked_here(&self.domain, locks).contains(&id) {
            return Ok(false);
        }
        let living = self.domain.living_nodes().await?;
        Ok(living.iter().all(|(node, report)| {
            // What it said before locks changed may have been due to one that is gone.
            let knows = report.newest >= version && !report.blocks.contains(&id);
            *node == self.domain.node_id() || knows
        }))
    }

    /// Unlocks; what fails is done again by the node.
    pub async fn release(self) -> Result<()> {
        let remove = |entries: &mut Vec<Entry>, _: i64| -> Result<bool> {
            let before = entries.len();
            entries.retain(|entry| !self.is(entry));
            Ok(entries.len() < before)
        };
        change(&self.domain, remove).await
    }
}

/// Changes the record under the next schema version. `edit` gets the entries and that version, and
/// tells whether it changed any; it may run several times.
async fn change(
    domain: &Domain,
    edit: impl Fn(&mut Vec<Entry>, i64) -> Result<bool>,
) -> Result<()> {
    let _one = domain.table_locks.changes.lock().await;
    for _ in 0..TRIES_MAX {
        let Some((txn, schema)) = domain.begin_any_schema_change().await? else { continue };
        // Committed with the version, so that it is the schema's own.
        let mut locks: LockRecord = meta::table_locks(&txn).await?;
        let version = meta::bump_version(&txn).await?;
        if !edit(&mut locks.entries, version)? {
            return Ok(());
        }
        locks.version = version;
        locks.definitions = schema.definitions_version();
        meta::put_table_locks(&txn, &locks)?;
        match txn.commit().await {
            Ok(_) => {
                domain.reload_schema().await?;
                return Ok(domain.pd.notify_schema(version).await?);
            }
            Err(KvError::WriteConflict { .. }) => tokio::time::sleep(CONFLICT_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(SqlError::new(
        errno::ER_LOCK_WAIT_TIMEOUT,
        "Lock wait timeout exceeded; too many concurrent changes of table locks",
    ))
}

/// Of the locks that are waited for, those that wait for sessions of this node.
pub fn blocked_here(domain: &Domain, locks: &TableLocks) -> Vec<i64> {
    if !locks.has_pending() {
        return Vec::new();
    }
    let mut blocked = Vec::new();
    let processes = domain.processes.list();
    for one in locks.entries().iter().filter(|one| one.entry.stage != Stage::Held) {
        let owner = &one.entry.owner;
        let is_in_the_way = |process: &Arc<crate::processes::Process>| {
            let is_owner = owner.node == domain.node_id() && owner.connection == process.id.0;
            !is_owner && one.waits_for(&process.uses.lock())
        };
        if processes.iter().any(is_in_the_way) {
            blocked.push(one.entry.id);
        }
    }
    blocked
}

/// While locks are waited for, tells the other nodes whom of them this one holds up; while there
/// are any, removes those of the dead.
pub async fn keep_watch(domain: Arc<Domain>) {
    let watching = async {
        let mut told = (0, Vec::new());
        let mut cleaned_at = Instant::now();
        loop {
            let next = domain.schema.next();
            let schema = domain.schema.current();
            let locks = schema.locks();
            if locks.is_empty() {
                next.await;
                continue;
            }
            let pause = if locks.has_pending() {
                let known = (schema.version(), blocked_here(&domain, locks));
                if known != told {
                    match domain.publish_version().await {
                        Ok(()) => told = known,
                        Err(error) => tracing::warn!(%error, "cannot tell who holds up a lock"),
                    }
                }
                PENDING_POLL_INTERVAL
            } else {
                CLEAN_INTERVAL
            };
            if cleaned_at.elapsed() >= CLEAN_INTERVAL {
                cleaned_at = Instant::now();
                if let Err(error) = clean(&domain, locks).await {
                    tracing::debug!(%error, "cannot look for table locks of the dead");
                }
            }
            // Woken or not: look again.
            let _ = tokio::time::timeout(pause, next).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = domain.stop.cancelled() => {}
    }
}

/// Removes locks of sessions of this node that ended without a word, and of nodes that died.
async fn clean(domain: &Domain, locks: &TableLocks) -> Result<()> {
    let living = domain.living_nodes().await?;
    let owners: HashSet<u64> = locks.entries().iter().map(|one| one.entry.owner.node).collect();
    let own_node = domain.node_id();
    let dead: HashSet<u64> =
        owners.into_iter().filter(|node| *node != own_node && !living.contains_key(node)).collect();
    let is_left = |entry: &Entry| {
        let live = domain.table_locks.live.lock();
        let is_orphan = entry.owner.node == own_node && !live.contains(&entry.number);
        is_orphan || dead.contains(&entry.owner.node)
    };
    if !locks.entries().iter().any(|one| is_left(&one.entry)) {
        return Ok(());
    }
    let remove = |entries: &mut Vec<Entry>, _: i64| -> Result<bool> {
        let before = entries.len();
        entries.retain(|entry| !is_left(entry));
        Ok(entries.len() < before)
    };
    change(domain, remove).await
}
