//! `FLASHBACK CLUSTER TO TIMESTAMP`: the data of all tables goes back to what it was.
//!
//! **Flow.**
//!
//! 1. A change of the schema writes a record of the flashback (`catalog::meta::Flashback`). Once it
//!    is through, no transaction of an older version is left on any node, and with the new version
//!    nobody reads or writes rows, or changes the schema: error 1836.
//! 2. Every table is read twice, as it was and as it is. Where the two differ, transactions of
//!    bounded size write the old state as the newest: rows and index entries alike. Nothing is
//!    taken away from the history; reads of the time in between still work.
//! 3. Another change of the schema takes the record out.
//!
//! **Interruption.** Whoever ran it may go at any moment; the record stays, and with it everybody
//! is kept out, for what is there is of two times. The statement is run again, at the same time or
//! another, and finds what still differs. Every transaction of step 2 also writes the record, so
//! that one who was only believed to be gone meets a conflict instead of writing on.
//!
//! **Prepared branches** (`crate::xa`) end before step 2: their commits ask no schema. They are waited for
//! before step 1, while everybody still works, and behind it once more for those prepared
//! meanwhile; no other one can come, for it would be of an older version.
//!
//! **The safe point** must stay below the time: this node reports it as being read before step 1,
//! looks once more behind it, and no node advances the safe point while there is a record.
//!
//! **Left out.** Definitions do not go back: if a table or database was created, changed or dropped
//! since, the statement is refused. Ids given out since are not given again; accounts and
//! variables stay as they are. The rows travel through this node.
//!
//! **Source.** TiDB's manual, "FLASHBACK CLUSTER", and its design document of 2022-09-14.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_kv_client::{KeyRange, ScanOptions, Snapshot, SnapshotScan};
use cairn_parser::ast::FlashbackTime;
use cairn_planner::Catalog;
use cairn_types::{TimeStamp, errno, keys};

use crate::catalog::{SchemaSnapshot, meta};
use crate::clock;
use crate::domain::{SCHEMA_CHANGE_TRIES, too_many_schema_changes, within_schema_wait};
use crate::error::{Result, SqlError};
use crate::gc;
use crate::session::Session;
use crate::xa;

/// Keys of one transaction at most, and bytes of them: what a store takes in well.
const BATCH_KEYS_MAX: usize = 2_048;
const BATCH_BYTES_MAX: usize = 2 << 20;
/// Pairs read at a time, of each of the two states.
const PAGE_PAIRS: u32 = 1_024;
/// How long the record keeps others off without being renewed.
const LEASE: Duration = Duration::from_secs(60);
/// It is renewed after this time, if no batch did it by the way.
const RENEW_AFTER: Duration = Duration::from_secs(20);

/// Runs `FLASHBACK CLUSTER`.
pub async fn cluster(session: &mut Session, time: &FlashbackTime) -> Result<()> {
    let past = match time {
        FlashbackTime::Timestamp(time) => session.past_of(time).await?,
        FlashbackTime::Tso(tso) => session.past_at(TimeStamp(*tso)).await?,
    };
    if past.schema.is_in_flashback() {
        return Err(refused("at that time another one was under way, or interrupted"));
    }
    let domain = &session.domain;
    let was = domain.kv.snapshot(past.read_ts);
    gc::service::report(domain).await?;
    let owner = domain.pd.alloc_ids(1).await?;
    let renewed_at = clock::monotonic_now();
    let mut work = Work { session, was, owner, is_dirty: false, renewed_at };
    match work.run().await {
        Ok(changed) => {
            tracing::info!(to = past.read_ts.0, changed, "FLASHBACK CLUSTER done");
            work.end().await
        }
        Err(error) => {
            tracing::warn!(%error, is_dirty = work.is_dirty, "FLASHBACK CLUSTER was interrupted");
            let left = if work.is_dirty { work.let_go().await } else { work.end().await };
            if let Err(error) = left {
                tracing::warn!(%error, "the record of an interrupted FLASHBACK CLUSTER stays");
            }
            Err(error)
        }
    }
}

/// One run of the statement.
struct Work<'a> {
    session: &'a Session,
    /// The state that comes back.
    was: Snapshot,
    /// Whose record it is.
    owner: u64,
    /// This run or one before it wrote something: what is there is of two times.
    is_dirty: bool,
    renewed_at: Instant,
}

/// Changes that are not written yet: values by key, `None` to delete.
#[derive(Default)]
struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.changes.push((key, value));
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_KEYS_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Work<'_> {
    /// Answers how many keys differed.
    async fn run(&mut self) -> Result<u64> {
        self.begin().await?;
        self.revert().await
    }

    /// Keeps everybody out.
    async fn begin(&mut self) -> Result<()> {
        let domain = &self.session.domain;
        self.wait_for_branches(i64::MAX).await?;
        for _ in 0..SCHEMA_CHANGE_TRIES {
            self.session.check_cancelled()?;
            let Some((txn, schema)) = domain.begin_any_schema_change().await? else { continue };
            let now_ms = txn.start_ts().physical_ms();
            self.is_dirty = false;
            if let Some(other) = meta::flashback(&txn).await? {
                if other.owner != self.owner && other.expires_at_ms > now_ms {
                    return Err(refused("another FLASHBACK CLUSTER is under way"));
                }
                self.is_dirty = other.is_dirty;
            }
            check_unchanged(&self.was, &txn.snapshot(), &schema).await?;
            meta::put_flashback(&txn, &self.record(now_ms))?;
            if domain.finish_schema_change(txn).await? {
                self.renewed_at = clock::monotonic_now();
                self.wait_for_branches(domain.schema.current().version()).await?;
                gc::service::report(domain).await?;
                // Fails with 9006 if the safe point was faster.
                return meta::version_at(&self.was).await.map(|_| ());
            }
        }
        Err(too_many_schema_changes())
    }

    /// Waits until no branch of an older version is prepared.
    async fn wait_for_branches(&self, version: i64) -> Result<()> {
        let wait = xa::wait_for_all_branches(&self.session.domain, version);
        let outcome = self.session.scope().run(within_schema_wait(wait)).await?;
        outcome.map_err(|error| match error.to_mysql().code {
            errno::ER_LOCK_WAIT_TIMEOUT => refused("prepared transactions stay, see XA RECOVER"),
            _ => error,
        })
    }

    fn record(&self, now_ms: u64) -> meta::Flashback {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        meta::Flashback {
            read_ts: self.was.start_ts().0,
            owner: self.owner,
            is_dirty: self.is_dirty,
            expires_at_ms: now_ms + lease_ms,
        }
    }

    /// Writes the old state of all tables.
    async fn revert(&mut self) -> Result<u64> {
        let domain = &self.session.domain;
        let now = domain.kv.snapshot(domain.now_ts().await?);
        let schema = domain.schema.current();
        let mut changed = 0;
        for database in schema.databases() {
            for table in schema.tables(&database.name) {
                if table.is_virtual {
                    continue;
                }
                let (start, end) = keys::table_range(table.id);
                let range = KeyRange { start: start.into(), end: end.into() };
                changed += self.revert_range(range, &now).await?;
            }
        }
        Ok(changed)
    }

    async fn revert_range(&mut self, range: KeyRange, now: &Snapshot) -> Result<u64> {
        let mut was = State::of(&self.was, range.clone());
        let mut is = State::of(now, range);
        let mut batch = Batch::default();
        let mut changed = 0;
        loop {
            if was.pairs.is_empty() || is.pairs.is_empty() {
                self.session.check_cancelled()?;
            }
            was.fill().await?;
            is.fill().await?;
            let (old_key, new_key) = (was.key(), is.key());
            let (from_old, from_new) = match (old_key, new_key) {
                (None, None) => break,
                (old, None) => (old.is_some(), false),
                (None, _) => (false, true),
                (Some(old), Some(new)) => (old <= new, new <= old),
            };
            let old = if from_old { was.pairs.pop_front() } else { None };
            let new = if from_new { is.pairs.pop_front() } else { None };
            match (old, new) {
                (Some(old), Some(new)) if old == new => {}
                (Some((key, value)), _) => batch.push(key, Some(value)),
                (None, Some((key, _))) => batch.push(key, None),
                (None, None) => {}
            }
            if batch.is_full() || self.renewed_at.elapsed() > RENEW_AFTER {
                changed += self.write(std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.changes.is_empty() {
            changed += self.write(batch).await?;
        }
        Ok(changed)
    }

    /// Writes a batch, and renews the record with it. Of those who write there is only one left
    /// that matters, another run, and its name is in the record then: after any other conflict, as
    /// with what a transaction that died has left behind, the batch is written again.
    async fn write(&mut self, batch: Batch) -> Result<u64> {
        let domain = &self.session.domain;
        let mut lost = None;
        for _ in 0..SCHEMA_CHANGE_TRIES {
            self.session.check_cancelled()?;
            let txn = domain.kv.begin(domain.now_ts().await?);
            let record = meta::flashback(&txn).await?;
            if record.is_none_or(|record| record.owner != self.owner) {
                return Err(refused("another FLASHBACK CLUSTER took over"));
            }
            self.is_dirty |= !batch.changes.is_empty();
            meta::put_flashback(&txn, &self.record(txn.start_ts().physical_ms()))?;
            for (key, value) in &batch.changes {
                match value {
                    Some(value) => txn.set(key.clone(), value.clone())?,
                    None => txn.delete(key.clone())?,
                }
            }
            match txn.commit().await {
                Ok(_) => {
                    self.renewed_at = clock::monotonic_now();
                    return Ok(batch.changes.len() as u64);
                }
                Err(error) if error.asks_for_another_look() => lost = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(lost.map_or(SqlError::Interrupted, SqlError::Kv))
    }

    /// Lets the next run begin at once; everybody else stays out.
    async fn let_go(&self) -> Result<()> {
        let domain = &self.session.domain;
        let txn = domain.kv.begin(domain.now_ts().await?);
        let Some(record) = meta::flashback(&txn).await? else { return Ok(()) };
        if record.owner == self.owner {
            meta::put_flashback(&txn, &meta::Flashback { expires_at_ms: 0, ..record })?;
            txn.commit().await?;
        }
        Ok(())
    }

    /// Lets everybody in again, if the record is this run's.
    async fn end(&self) -> Result<()> {
        let domain = &self.session.domain;
        for _ in 0..SCHEMA_CHANGE_TRIES {
            let Some((txn, _)) = domain.begin_any_schema_change().await? else { continue };
            let record = meta::flashback(&txn).await?;
            if record.is_none_or(|record| record.owner != self.owner) {
                return Ok(());
            }
            meta::delete_flashback(&txn)?;
            if domain.finish_schema_change(txn).await? {
                return Ok(());
            }
        }
        Err(too_many_schema_changes())
    }
}

/// One of the two states of a range, in key order.
struct State {
    scan: SnapshotScan,
    pairs: VecDeque<(Bytes, Bytes)>,
    is_drained: bool,
}

impl State {
    fn of(view: &Snapshot, range: KeyRange) -> State {
        let options = ScanOptions { batch_size: PAGE_PAIRS, ..ScanOptions::default() };
        State { scan: view.scan(range, options), pairs: VecDeque::new(), is_drained: false }
    }

    /// Sees to it that the next pair is at hand, if there is one.
    async fn fill(&mut self) -> Result<()> {
        if self.pairs.is_empty() && !self.is_drained {
            self.pairs = self.scan.next_batch().await?.into();
            self.is_drained = self.pairs.is_empty();
        }
        Ok(())
    }

    fn key(&self) -> Option<&Bytes> {
        self.pairs.front().map(|(key, _)| key)
    }
}

/// Error 8200 if a definition is not what it was, or is changing.
async fn check_unchanged(was: &Snapshot, is: &Snapshot, schema: &SchemaSnapshot) -> Result<()> {
    if meta::definitions(was).await? != meta::definitions(is).await? {
        return Err(refused("a table or database was created, changed or dropped since that time"));
    }
    for database in schema.databases() {
        for table in schema.tables(&database.name) {
            let columns = table.columns.iter().map(|column| column.state);
            let mut states = columns.chain(table.indices.iter().map(|index| index.state));
            if !states.all(|state| state.is_public()) {
                let name = format!("{}.{}", database.name, table.name);
                return Err(refused(&format!("table {name} is being changed")));
            }
        }
    }
    Ok(())
}

fn refused(reason: &str) -> SqlError {
    SqlError::new(errno::ER_UNSUPPORTED_DDL, format!("Unsupported FLASHBACK CLUSTER: {reason}"))
}
