//! Rows that commits changed, counted by table.
//!
//! A statement counts into its transaction's [`Tally`]; going back to a savepoint takes the counts
//! back too, and a commit adds them to the node's. The node tells them now and then, in one small
//! transaction, and when it stops; a node that dies has not told those of the last seconds.
//! What ANALYZE has read and a node tells afterwards counts twice: for these few seconds' changes the
//! numbers are off until the table is analyzed again.
//!
//! **Left out.** Branches of distributed transactions: whoever commits them did not write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_kv_client::KvError;
use cairn_types::TableId;
use parking_lot::Mutex;

use super::NodeStatistics;
use super::record::{Attempts, Counts};
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// Changed rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowChanges {
    /// New rows.
    pub inserted: u64,
    /// Rows that have other values.
    pub updated: u64,
    /// Rows that are gone.
    pub deleted: u64,
}

impl RowChanges {
    fn add(&mut self, other: RowChanges) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }

    /// What becomes of the counts.
    fn apply(&self, counts: &Counts) -> Counts {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let grown = signed(self.inserted).saturating_sub(signed(self.deleted));
        let all = self.inserted.saturating_add(self.updated).saturating_add(self.deleted);
        Counts {
            row_count: counts.row_count.saturating_add(grown),
            modify_count: counts.modify_count.saturating_add(signed(all)),
            ..counts.clone()
        }
    }
}

/// Changed rows by table.
pub type Changes = BTreeMap<TableId, RowChanges>;

/// Where the statements of one transaction count.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Changes>>);

impl Tally {
    /// Counts rows of a table.
    pub fn count(&self, table: TableId, changed: RowChanges) {
        self.0.lock().entry(table).or_default().add(changed);
    }

    /// What was counted so far, to go back to.
    pub fn so_far(&self) -> Changes {
        self.0.lock().clone()
    }

    /// Forgets what was counted since.
    pub fn go_back(&self, to: Changes) {
        *self.0.lock() = to;
    }
}

impl NodeStatistics {
    /// A transaction has committed.
    pub fn note_commit(&self, tally: &Tally) {
        let counted = std::mem::take(&mut *tally.0.lock());
        self.add(counted);
    }

    fn add(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let mut all = self.changes.lock();
        for (table, changed) in changes {
            all.entry(table).or_default().add(changed);
        }
    }

    /// Tells all changes that were counted here.
    pub async fn flush(&self, domain: &Domain) -> Result<()> {
        let _guard = self.flushes.lock().await;
        let changes = std::mem::take(&mut *self.changes.lock());
        if changes.is_empty() {
            return Ok(());
        }
        let told = tell(domain, &changes).await;
        match &told {
            // They may be stored: rather too few counted than twice as many.
            Err(SqlError::Kv(KvError::UndeterminedCommit { .. })) | Ok(()) => {}
            Err(_) => self.add(changes),
        }
        told
    }
}

async fn tell(domain: &Domain, changes: &Changes) -> Result<()> {
    let mut attempts = Attempts::of(domain);
    loop {
        let change = attempts.begin().await?;
        let schema = domain.schema.current();
        // Of a table that is gone nothing is kept.
        let known = changes.iter().filter(|(table, _)| schema.table_by_id(**table).is_some());
        let mut is_any = false;
        for (table, changed) in known {
            let counts = change.counts(*table).await?.unwrap_or_default();
            change.put_counts(*table, changed.apply(&counts))?;
            is_any = true;
        }
        if !is_any || attempts.commit(change).await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_undone_counts_nothing() {
        let tally = Tally::default();
        let insert = RowChanges { inserted: 1, ..RowChanges::default() };
        tally.count(TableId(1), insert);
        let before = tally.so_far();
        tally.count(TableId(1), RowChanges { deleted: 2, ..RowChanges::default() });
        tally.count(TableId(2), insert);
        tally.go_back(before);
        let statistics = NodeStatistics::default();
        statistics.note_commit(&tally);
        statistics.note_commit(&tally);
        assert_eq!(*statistics.changes.lock(), Changes::from([(TableId(1), insert)]));
    }

    #[test]
    fn changes_move_both_counts() {
        let counts = Counts { row_count: 10, modify_count: 3, ..Counts::default() };
        let changed = RowChanges { inserted: 5, updated: 7, deleted: 20 }.apply(&counts);
        assert_eq!((changed.row_count, changed.modify_count), (-5, 35));
    }
}
