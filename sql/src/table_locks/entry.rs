//! Table locks as they are stored, and which of them exclude each other.

use std::collections::HashMap;

use cairn_types::TableId;
use serde::{Deserialize, Serialize};

use super::uses::{UseKind, Uses};
use crate::named_locks::Owner;

/// The stored form: all locks of tables in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// The schema version that wrote the record.
    pub version: i64,
    /// The last version before it that changed more than locks.
    pub definitions: i64,
    /// In the order in which they were asked for.
    pub entries: Vec<Entry>,
}

/// What a session has locked, or waits to lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The schema version that added it: whoever comes later waits for it.
    pub id: i64,
    /// Whose it is.
    pub owner: Owner,
    /// Which of the owner's it is.
    pub number: u64,
    /// What is locked.
    pub scope: Scope,
    /// How far it is.
    pub stage: Stage,
    /// The schema version that brought it there.
    pub since: i64,
}

/// How far a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The owner waits. Nobody new may get ahead of it; but the global lock keeps out schema changes
    /// only, for it may wait long: for schema changes, and for tables locked for writing.
    Waiting,
    /// The global lock waits for commits under way and keeps out new ones.
    Closing,
    /// The owner has it.
    Held,
}

/// What is locked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// `LOCK TABLES`: some tables, each once.
    Tables(Vec<TableLock>),
    /// `FLUSH TABLES WITH READ LOCK`: nobody commits a change.
    Global,
    /// `LOCK INSTANCE FOR BACKUP`: nobody changes definitions or accounts.
    Backup,
}

/// One table of `LOCK TABLES`. By name: the owner may empty a table, which then has another id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLock {
    /// The database's name in lower case.
    pub database: String,
    /// The table's name in lower case.
    pub table: String,
    /// `WRITE`.
    pub write: bool,
}

impl Scope {
    /// Whether two sessions cannot have both.
    pub fn excludes(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::Tables(own), Scope::Tables(others)) => own.iter().any(|own| {
                let is_same =
                    |other: &&TableLock| other.table == own.table && other.database == own.database;
                others.iter().find(is_same).is_some_and(|other| own.write || other.write)
            }),
            (Scope::Tables(tables), Scope::Global) | (Scope::Global, Scope::Tables(tables)) => {
                tables.iter().any(|table| table.write)
            }
            _ => false,
        }
    }
}

/// What a session is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A statement that reads.
    Read,
    /// A statement that changes or locks rows.
    Write,
    /// To commit changes.
    Commit,
    /// To change definitions or accounts.
    SchemaChange,
}

/// Whether a session may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Free,
    /// Somebody's lock is in the way.
    Wait,
    /// Whoever holds the lock waits for this transaction.
    Deadlock,
}

/// An entry with the tables that its names mean.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// As it is stored.
    pub entry: Entry,
    /// Whether each table is locked for writing.
    tables: HashMap<TableId, bool>,
}

impl Resolved {
    /// The tables.
    pub fn table_ids(&self) -> Vec<TableId> {
        self.tables.keys().copied().collect()
    }

    fn is_used(&self, uses: &[(TableId, UseKind)]) -> bool {
        !self.tables.is_empty()
            && uses.iter().any(|(table, kind)| match self.tables.get(table) {
                Some(write) => *write || *kind != UseKind::Read,
                None => false,
            })
    }

    /// Whether the owner has to wait for a session that does this now.
    pub fn waits_for(&self, uses: &Uses) -> bool {
        match self.entry.scope {
            Scope::Tables(_) => self.is_used(uses.tables()),
            Scope::Global if self.entry.stage == Stage::Closing => uses.is_committing,
            Scope::Global | Scope::Backup => uses.is_changing_schema,
        }
    }

    fn is_in_the_way(&self, new: &[(TableId, UseKind)], intent: Intent) -> bool {
        match self.entry.scope {
            Scope::Tables(_) => self.is_used(new),
            Scope::Global if self.entry.stage == Stage::Waiting => intent == Intent::SchemaChange,
            Scope::Global => intent != Intent::Read,
            Scope::Backup => intent == Intent::SchemaChange,
        }
    }
}

/// All table locks at one schema version.
#[derive(Clone, Debug, Default)]
pub struct TableLocks(Vec<Resolved>);

impl TableLocks {
    /// Entries with the tables that `find` knows by database and name.
    pub fn resolve(
        entries: Vec<Entry>,
        find: impl Fn(&str, &str) -> Option<TableId>,
    ) -> TableLocks {
        let resolve = |entry: Entry| {
            let tables = match &entry.scope {
                Scope::Tables(tables) => tables
                    .iter()
                    .filter_map(|lock| Some((find(&lock.database, &lock.table)?, lock.write)))
                    .collect(),
                Scope::Global | Scope::Backup => HashMap::new(),
            };
            Resolved { entry, tables }
        };
        TableLocks(entries.into_iter().map(resolve).collect())
    }

    /// In the order in which they were asked for.
    pub fn entries(&self) -> &[Resolved] {
        &self.0
    }

    /// Whether nobody has or wants a lock.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody waits for a lock.
    pub fn has_pending(&self) -> bool {
        self.0.iter().any(|one| one.entry.stage != Stage::Held)
    }

    /// Whether a session may go on with `intent` and with the uses of tables from `mark` on, which
    /// are new.
    pub fn look(&self, who: &Owner, uses: &Uses, mark: usize, intent: Intent) -> Verdict {
        let own: Vec<&Entry> =
            self.0.iter().map(|one| &one.entry).filter(|entry| entry.owner == *who).collect();
        let is_waiting = |one: &Resolved| one.entry.stage == Stage::Waiting;
        // The session's transaction holds up somebody's lock.
        let old = &uses.tables()[..mark];
        let is_waited_for = || self.others(who).any(|one| is_waiting(one) && one.is_used(old));
        // Who holds a lock may wait for another one, and for the session.
        let is_waited_for_by = |owner: &Owner| {
            let waits = |one: &Resolved| one.entry.owner == *owner && is_waiting(one);
            self.0.iter().any(|one| waits(one) && one.is_used(old))
        };
        let mut verdict = Verdict::Free;
        for one in self.others(who) {
            if !one.is_in_the_way(&uses.tables()[mark..], intent) {
                continue;
            }
            let queues_behind = |earlier: &&Entry| {
                earlier.id < one.entry.id && earlier.scope.excludes(&one.entry.scope)
            };
            // It waits for this session, and so long it is no obstacle to it.
            if own.iter().any(queues_behind) {
                continue;
            }
            if (is_waiting(one) && is_waited_for()) || is_waited_for_by(&one.entry.owner) {
                return Verdict::Deadlock;
            }
            verdict = Verdict::Wait;
        }
        verdict
    }

    fn others<'a>(&'a self, who: &'a Owner) -> impl Iterator<Item = &'a Resolved> {
        self.0.iter().filter(move |one| one.entry.owner != *who)
    }

    /// What an entry has to wait for among those before it.
    pub fn queue_verdict(&self, own: &Entry) -> Verdict {
        let mut verdict = Verdict::Free;
        for Resolved { entry, .. } in self.others(&own.owner) {
            if entry.id >= own.id || !entry.scope.excludes(&own.scope) {
                continue;
            }
            let waits_for_own = |mine: &Resolved| {
                mine.entry.owner == own.owner
                    && mine.entry.id < entry.id
                    && mine.entry.scope.excludes(&entry.scope)
            };
            if entry.stage == Stage::Waiting && self.0.iter().any(waits_for_own) {
                return Verdict::Deadlock;
            }
            verdict = Verdict::Wait;
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: Owner = Owner { node: 1, connection: 1 };
    const BOB: Owner = Owner { node: 1, connection: 2 };
    const CYD: Owner = Owner { node: 2, connection: 1 };

    fn tables(locks: &[(&str, bool)]) -> Scope {
        let lock = |(table, write): &(&str, bool)| TableLock {
            database: "d".to_owned(),
            table: (*table).to_owned(),
            write: *write,
        };
        Scope::Tables(locks.iter().map(lock).collect())
    }

    fn entry(id: i64, owner: Owner, scope: Scope, stage: Stage) -> Entry {
        Entry { id, owner, number: 0, scope, stage, since: id }
    }

    /// Tables t1 and t2 have the ids 1 and 2.
    fn locks(entries: Vec<Entry>) -> TableLocks {
        TableLocks::resolve(entries, |_, table| table[1..].parse().ok().map(TableId))
    }

    fn uses(of: &[(i64, UseKind)]) -> Uses {
        let mut uses = Uses::default();
        of.iter().for_each(|(table, kind)| uses.add(TableId(*table), *kind));
        uses
    }

    /// What Bob, who uses tables already, is told of one more.
    fn told(
        locks: &TableLocks,
        old: &[(i64, UseKind)],
        new: (i64, UseKind),
        intent: Intent,
    ) -> Verdict {
        let mut uses = uses(old);
        let mark = uses.tables().len();
        uses.add(TableId(new.0), new.1);
        locks.look(&BOB, &uses, mark, intent)
    }

    #[test]
    fn locks_of_one_table_exclude_each_other_unless_both_read() {
        let (read, write) = (tables(&[("t1", false)]), tables(&[("t1", true)]));
        assert!(!read.excludes(&read) && read.excludes(&write) && write.excludes(&write));
        assert!(!write.excludes(&tables(&[("t2", true)])));
        assert!(write.excludes(&Scope::Global) && Scope::Global.excludes(&write));
        assert!(!read.excludes(&Scope::Global) && !Scope::Global.excludes(&Scope::Global));
        assert!(!Scope::Backup.excludes(&write) && !Scope::Backup.excludes(&Scope::Backup));
    }

    #[test]
    fn statements_wait_for_locks_of_their_tables() {
        use UseKind::{Read, Write};
        let held = locks(vec![entry(5, ADA, tables(&[("t1", false), ("t2", true)]), Stage::Held)]);
        assert_eq!(told(&held, &[], (1, Read), Intent::Read), Verdict::Free);
        assert_eq!(told(&held, &[], (1, Write), Intent::Write), Verdict::Wait);
        assert_eq!(told(&held, &[], (2, Read), Intent::Read), Verdict::Wait);
        assert_eq!(told(&held, &[], (3, Write), Intent::Write), Verdict::Free);
        // What it used before the lock was asked for it goes on using.
        assert_eq!(told(&held, &[(1, Write)], (1, Write), Intent::Write), Verdict::Free);
        let closed = locks(vec![entry(5, ADA, Scope::Global, Stage::Held)]);
        assert_eq!(told(&closed, &[], (1, Read), Intent::Read), Verdict::Free);
        assert_eq!(told(&closed, &[(1, Write)], (1, Write), Intent::Write), Verdict::Wait);
    }

    #[test]
    fn a_transaction_that_blocks_a_waiting_lock_does_not_wait_for_one() {
        use UseKind::{Read, Write};
        let pending =
            locks(vec![entry(5, ADA, tables(&[("t1", true), ("t2", true)]), Stage::Waiting)]);
        assert_eq!(told(&pending, &[(1, Read)], (2, Read), Intent::Read), Verdict::Deadlock);
        assert_eq!(told(&pending, &[(1, Read)], (1, Write), Intent::Write), Verdict::Deadlock);
        assert_eq!(told(&pending, &[], (2, Read), Intent::Read), Verdict::Wait);
        // The global lock waits for commits alone: there is no circle.
        let global = entry(6, CYD, Scope::Global, Stage::Closing);
        let one = entry(5, ADA, tables(&[("t1", true)]), Stage::Waiting);
        let queue = locks(vec![one, global]);
        assert_eq!(told(&queue, &[(1, Read)], (3, Write), Intent::Write), Verdict::Wait);
    }

    #[test]
    fn the_global_lock_closes_in_steps() {
        let bob = |stage| {
            let queue = locks(vec![entry(6, CYD, Scope::Global, stage)]);
            let [read, write, commit, change] =
                [Intent::Read, Intent::Write, Intent::Commit, Intent::SchemaChange]
                    .map(|intent| queue.look(&BOB, &Uses::default(), 0, intent) == Verdict::Wait);
            let [committing, changing] =
                [(true, false), (false, true)].map(|(commits, changes)| {
                    let mut uses = Uses::default();
                    (uses.is_committing, uses.is_changing_schema) = (commits, changes);
                    queue.entries()[0].waits_for(&uses)
                });
            ([read, write, commit, change], [committing, changing])
        };
        assert_eq!(bob(Stage::Waiting), ([false, false, false, true], [false, true]));
        assert_eq!(bob(Stage::Closing), ([false, true, true, true], [true, false]));
        assert_eq!(bob(Stage::Held).0, [false, true, true, true]);
    }

    #[test]
    fn who_locked_first_does_not_wait_for_those_behind() {
        use UseKind::Read;
        let queue = locks(vec![
            entry(5, BOB, Scope::Global, Stage::Held),
            entry(6, ADA, tables(&[("t1", true)]), Stage::Waiting),
        ]);
        assert_eq!(told(&queue, &[], (1, Read), Intent::Read), Verdict::Free);
        assert_eq!(queue.queue_verdict(&queue.entries()[1].entry), Verdict::Wait);
        let mut entries: Vec<Entry> = queue.entries().iter().map(|one| one.entry.clone()).collect();
        entries.push(entry(7, BOB, tables(&[("t1", false)]), Stage::Waiting));
        let queue = locks(entries);
        assert_eq!(queue.queue_verdict(&queue.entries()[2].entry), Verdict::Deadlock);
    }
}
