//! Statistics of tables: gathered, stored, known to every node, shown.
//!
//! ```text
//!  ANALYZE, auto ──► gather ──► build ──► record (meta keyspace) ──► each node: NodeStatistics
//!  commits ──► RowChanges ──► NodeStatistics.changes ──► counts ┘          │
//!                                                              planner, SHOW STATS_…, TABLES
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`record`] | what is stored, and how it is changed |
//! | [`gather`] | one table's rows, read in the stores; distributions from what was found |
//! | [`analyze`] | `ANALYZE TABLE`, `DROP STATS`, `LOCK STATS` |
//! | [`auto`] | tables that are analyzed without being asked |
//! | [`changes`] | rows that commits changed |
//! | [`jobs`], [`shown`] | `SHOW ANALYZE STATUS`, `SHOW STATS_…` |
//!
//! **What a node knows.** The counts of all tables; distributions of those that were planned for or
//! shown since it started. Every [`SqlConfig::statistics_lease`] it looks at one key to see whether
//! another node wrote something. A statement for whose tables there are distributions that the
//! node has not read yet waits for them, for [`LOAD_WAIT`] at most, and is planned once more.
//!
//! **Plans** of a table are dropped from the shared cache when it has new distributions, and
//! when it has become twice as large, or half as large, since that was done last.
//!
//! **Never analyzed** tables of fewer than [`COUNTED_ROWS_MIN`] rows are unknown to the planner, as they
//! were before anybody counted: their plans should not depend on the moment.
//!
//! [`SqlConfig::statistics_lease`]: crate::SqlConfig::statistics_lease

pub mod analyze;
pub mod auto;
pub mod changes;
pub mod gather;
pub mod jobs;
pub mod record;
pub mod shown;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_planner::catalog::IndexInfo;
use cairn_planner::plan::Plan;
use cairn_planner::statistics::{IndexStatistics, TableStatistics};
use cairn_planner::{Statistics, TableInfo};
use cairn_types::TableId;
use parking_lot::{Mutex, RwLock};

use self::changes::RowChanges;
use self::jobs::Jobs;
use self::record::{Counts, Distributions, Of};
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// Rows below which nothing but ANALYZE makes a table's size known to the planner, and below which
/// tables are not analyzed by themselves.
pub const COUNTED_ROWS_MIN: i64 = 1_000;
/// How long a statement waits for distributions that its node has not read yet.
const LOAD_WAIT: Duration = Duration::from_millis(500);
/// Counts that differ by this factor make other plans.
const GROWTH_FACTOR: f64 = 2.0;
/// Between two flushes of counted changes, in leases.
const FLUSH_LEASES: u32 = 7;

/// What a node knows of a table.
#[derive(Clone, Debug)]
pub struct Known {
    /// What was counted.
    pub counts: Counts,
    /// Once they have been read.
    pub distributions: Option<Arc<Distributions>>,
    /// Rows when plans were dropped last.
    planned_rows: i64,
    /// All of that as the planner takes it.
    planner: Arc<TableStatistics>,
}

impl Known {
    fn new(
        table: TableId,
        counts: Counts,
        distributions: Option<Arc<Distributions>>,
        planned_rows: i64,
    ) -> Known {
        let planner = Arc::new(for_planner(table, &counts, distributions.as_deref()));
        Known { counts, distributions, planned_rows, planner }
    }

    /// Whether ANALYZE has left distributions that were not read yet.
    fn is_unread(&self) -> bool {
        self.distributions.is_none() && self.counts.analyzed_ts != 0
    }

    /// Different values of the first `at + 1` columns of an index; 0: nobody knows.
    pub fn cardinality(&self, table: &TableInfo, index: &IndexInfo, at: usize) -> i64 {
        let Some(distributions) = &self.distributions else { return 0 };
        let of_index = distributions
            .get(&Of::Index(index.id))
            .and_then(|stored| stored.distinct_prefixes.get(at).copied());
        let part = index.columns.get(at).filter(|_| at == 0);
        let of_column = || {
            let id = table.columns.get(part?.offset)?.id;
            Some(distributions.get(&Of::Column(id))?.keys.distinct_count)
        };
        // Saturates.
        of_index.or_else(of_column).unwrap_or(0.0).round() as i64
    }

    /// Bytes of an average row, and of its entries in indexes.
    pub fn row_bytes(&self, table: &TableInfo) -> (f64, f64) {
        let Some(distributions) = &self.distributions else { return (0.0, 0.0) };
        let column = |offset: usize| {
            let of = Of::Column(table.columns[offset].id);
            distributions.get(&of).map_or(0.0, |stored| stored.keys.average_size_bytes)
        };
        let row = (0..table.columns.len()).map(column).sum();
        let indexes = table.indices.iter().filter(|index| table.has_entries(index));
        let parts = indexes.flat_map(|index| &index.columns);
        (row, parts.map(|part| column(part.offset)).sum())
    }

    /// Rows as people and plans want to know them.
    pub fn rows(&self) -> u64 {
        self.counts.row_count.max(0).unsigned_abs()
    }
}

/// Statistics in the planner's form.
fn for_planner(
    table_id: TableId,
    counts: &Counts,
    distributions: Option<&Distributions>,
) -> TableStatistics {
    let mut known = TableStatistics {
        table_id,
        analyzed_ts: counts.analyzed_ts,
        analyzed_rows: counts.analyzed_rows,
        row_count: counts.row_count.max(0) as f64,
        modify_count: counts.modify_count.max(0) as f64,
        ..TableStatistics::default()
    };
    for (of, stored) in distributions.into_iter().flatten() {
        match of {
            Of::Column(id) => {
                known.columns.insert(*id, stored.keys.clone());
            }
            Of::Index(id) => {
                let (keys, distinct_prefixes) =
                    (stored.keys.clone(), stored.distinct_prefixes.clone());
                known.indexes.insert(*id, IndexStatistics { keys, distinct_prefixes });
            }
        }
    }
    known
}

/// What one node knows of all tables.
#[derive(Debug, Default)]
pub struct NodeStatistics {
    tables: RwLock<HashMap<TableId, Known>>,
    /// Of the records that were read last.
    version: AtomicU64,
    /// Tables that were planned for without their distributions.
    unread: Mutex<BTreeSet<TableId>>,
    has_unread: AtomicBool,
    /// Rows that commits of this node changed, not told yet.
    changes: Mutex<BTreeMap<TableId, RowChanges>>,
    /// One refresh at a time: an older view must not replace a newer one.
    refreshes: tokio::sync::Mutex<()>,
    /// One flush at a time: who waits for one knows that all was told.
    flushes: tokio::sync::Mutex<()>,
    /// ANALYZE on this node.
    pub jobs: Jobs,
}

impl Statistics for NodeStatistics {
    fn table_statistics(&self, table: &TableInfo) -> Option<Arc<TableStatistics>> {
        if table.is_virtual {
            return None;
        }
        let tables = self.tables.read();
        let known = tables.get(&table.id)?;
        if known.counts.analyzed_ts == 0 && known.counts.row_count < COUNTED_ROWS_MIN {
            return None;
        }
        if known.is_unread() {
            self.note_unread(table.id);
        }
        Some(of_definition(known, table))
    }
}

/// What is known, without what is about columns that have other types by now.
fn of_definition(known: &Known, table: &TableInfo) -> Arc<TableStatistics> {
    let Some(distributions) = &known.distributions else { return Arc::clone(&known.planner) };
    if distributions.iter().all(|(of, stored)| stored.is_about(*of, table)) {
        return Arc::clone(&known.planner);
    }
    let mut of_table = TableStatistics::clone(&known.planner);
    for (of, _) in distributions.iter().filter(|(of, stored)| !stored.is_about(**of, table)) {
        match of {
            Of::Column(id) => drop(of_table.columns.remove(id)),
            Of::Index(id) => drop(of_table.indexes.remove(id)),
        }
    }
    Arc::new(of_table)
}

impl NodeStatistics {
    /// What is known of a table.
    pub fn known(&self, table: TableId) -> Option<Known> {
        self.tables.read().get(&table).cloned()
    }

    /// The same; distributions that were not read yet are there a little later.
    pub fn known_with_distributions(&self, table: &TableInfo) -> Option<Known> {
        let known = self.known(table.id)?;
        if known.is_unread() {
            self.note_unread(table.id);
        }
        Some(known)
    }

    fn note_unread(&self, table: TableId) {
        self.unread.lock().insert(table);
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Reads what other nodes, or this one, have written since the last time.
    pub async fn refresh(&self, domain: &Domain) -> Result<()> {
        let _guard = self.refreshes.lock().await;
        let snapshot = domain.kv.snapshot(domain.now_ts().await?);
        let version = record::version_at(&snapshot).await?;
        if version == self.version.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut before = self.tables.read().clone();
        let mut tables = HashMap::new();
        let mut stale = BTreeSet::new();
        for (table, counts) in record::all_counts(&snapshot).await? {
            let known = match before.remove(&table) {
                Some(known) if known.counts == counts => known,
                known => {
                    let is_same = |known: &Known| known.counts.analyzed_ts == counts.analyzed_ts;
                    let distributions = match &known {
                        Some(known) if is_same(known) => known.distributions.clone(),
                        // Somebody plans for it: there is no time without them.
                        Some(Known { distributions: Some(_), .. }) => {
                            Some(Arc::new(record::distributions(&snapshot, table).await?))
                        }
                        _ => None,
                    };
                    let planned_rows = known.as_ref().map_or(0, |known| known.planned_rows);
                    let is_stale = !known.as_ref().is_some_and(is_same)
                        || has_grown(planned_rows, counts.row_count);
                    let planned_rows = if is_stale { counts.row_count } else { planned_rows };
                    if is_stale {
                        stale.insert(table);
                    }
                    Known::new(table, counts, distributions, planned_rows)
                }
            };
            tables.insert(table, known);
        }
        // Dropped: nothing is known of them any more.
        stale.extend(before.into_keys());
        *self.tables.write() = tables;
        self.version.store(version, Ordering::Relaxed);
        if !stale.is_empty() {
            domain.plans.forget(|table| stale.contains(&table));
        }
        Ok(())
    }

    /// Reads the distributions of a table, if there are any that were not read yet.
    pub async fn load(&self, domain: &Domain, table: TableId) -> Result<()> {
        let _guard = self.refreshes.lock().await;
        if !self.known(table).is_some_and(|known| known.is_unread()) {
            return Ok(());
        }
        let snapshot = domain.kv.snapshot(domain.now_ts().await?);
        let distributions = Arc::new(record::distributions(&snapshot, table).await?);
        if let Some(known) = self.tables.write().get_mut(&table) {
            let (counts, planned_rows) = (known.counts.clone(), known.planned_rows);
            *known = Known::new(table, counts, Some(distributions), planned_rows);
        }
        domain.plans.forget(|other| other == table);
        Ok(())
    }

    /// Waits for distributions that the plan was made without; whether there are such: then it is to be
    /// made once more. Costs nothing where all have been read.
    pub async fn await_distributions(&self, domain: &Domain, plan: &Plan) -> bool {
        if !self.has_unread.load(Ordering::Relaxed) {
            return false;
        }
        let unread: Vec<TableId> = {
            let mut unread = self.unread.lock();
            let tables = plan.tables.iter().map(|access| access.table.id);
            let unread_now = tables.filter(|table| unread.remove(table)).collect();
            self.has_unread.store(!unread.is_empty(), Ordering::Relaxed);
            unread_now
        };
        let load = async {
            for table in &unread {
                self.load(domain, *table).await?;
            }
            Ok::<(), SqlError>(())
        };
        match tokio::time::timeout(LOAD_WAIT, load).await {
            Ok(Ok(())) => !unread.is_empty(),
            late_or_failed => {
                if let Ok(Err(error)) = late_or_failed {
                    tracing::warn!(%error, "statistics cannot be read");
                }
                // Whoever keeps statistics fresh tries again, and drops the plan made without them.
                unread.into_iter().for_each(|table| self.note_unread(table));
                false
            }
        }
    }
}

fn has_grown(planned_rows: i64, rows: i64) -> bool {
    let [small, large] =
        if planned_rows < rows { [planned_rows, rows] } else { [rows, planned_rows] };
    large >= COUNTED_ROWS_MIN && large as f64 >= small.max(1) as f64 * GROWTH_FACTOR
}

/// Keeps the node's statistics new, and tells what its commits changed, until the node stops.
pub async fn keep_fresh(domain: Arc<Domain>) {
    let lease = domain.config.statistics_lease;
    let mut turns: u32 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(lease) => {}
            () = domain.stop.cancelled() => return,
        }
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(FLUSH_LEASES)
            && let Err(error) = domain.statistics.flush(&domain).await
        {
            tracing::warn!(%error, "counts of changed rows are told later");
        }
        if let Err(error) = domain.statistics.refresh(&domain).await {
            tracing::warn!(%error, "statistics cannot be read");
        }
        let unread = std::mem::take(&mut *domain.statistics.unread.lock());
        for table in unread {
            if let Err(error) = domain.statistics.load(&domain, table).await {
                tracing::warn!(%error, "statistics cannot be read");
                domain.statistics.note_unread(table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::{ColumnId, FieldType};

    use super::record::Stored;
    use super::*;

    #[test]
    fn plans_outlive_small_changes_of_a_size() {
        for (before, now, expected) in [
            (0, 999, false),
            (0, 1_000, true),
            (1_000, 1_999, false),
            (1_000, 2_000, true),
            (5_000, 2_501, false),
            (5_000, 2_500, true),
            (5_000, -3, true),
            (10, 500, false),
        ] {
            assert_eq!(has_grown(before, now), expected, "{before} to {now}");
        }
    }

    #[test]
    fn the_planner_knows_nothing_of_columns_that_became_others() {
        let mut table = TableInfo::new(7, "t");
        for (id, ty) in [(1, FieldType::int()), (2, FieldType::varchar(9))] {
            table.columns.push(cairn_planner::ColumnInfo::new(id, format!("c{id}"), ty));
        }
        let stored = |ty| Stored { types: vec![ty], ..Stored::default() };
        let distributions = Distributions::from([
            (Of::Column(ColumnId(1)), stored(FieldType::int())),
            (Of::Column(ColumnId(2)), stored(FieldType::varchar(9))),
        ]);
        let counts = Counts { analyzed_ts: 1, row_count: 5, ..Counts::default() };
        let known = Known::new(table.id, counts, Some(Arc::new(distributions)), 0);
        let columns = |table: &TableInfo| {
            of_definition(&known, table).columns.keys().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(columns(&table), [1, 2]);
        table.columns[0].ty = FieldType::bigint();
        table.columns[1].ty = FieldType::date();
        assert_eq!(columns(&table), [1]);
        table.columns.remove(0);
        assert!(columns(&table).is_empty());
    }

    #[test]
    fn small_tables_are_unknown_until_they_are_analyzed() {
        let statistics = NodeStatistics::default();
        let table = TableInfo::new(7, "t");
        let rows = |row_count, analyzed_ts| {
            let counts = Counts { row_count, analyzed_ts, ..Counts::default() };
            let known = Known::new(table.id, counts, None, 0);
            statistics.tables.write().insert(table.id, known);
            statistics.table_statistics(&table).map(|known| known.row_count)
        };
        assert_eq!(rows(999, 0), None);
        assert_eq!(rows(1_000, 0), Some(1_000.0));
        assert!(statistics.unread.lock().is_empty());
        assert_eq!(rows(3, 1), Some(3.0));
        assert!(statistics.unread.lock().contains(&table.id), "to be read");
    }
}
