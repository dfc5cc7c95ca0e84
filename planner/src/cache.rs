//! The plan cache: immutable plans shared by all sessions of a node.
//!
//! A plan is good for one schema version, one current database, one `sql_mode`, one
//! connection collation and one list of parameter types: all of that is the key. What
//! differs from run to run is in the plan's slots; index ranges are derived from them
//! anew each time ([`crate::ranger::build_key_ranges`]). Old schema versions are not
//! evicted: nobody asks for them any more, and the cache drops what is not asked for.
//!
//! **Statistics** are no part of the key: look-ups must not pay for them. When those of a table are new
//! its plans are dropped, and plans that were being made meanwhile are not kept ([`Generation`]).
//!
//! **Concurrency.** Look-ups take a shard's read lock for the time of an `Arc` clone.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_expr::SqlMode;
use cairn_types::{Collation, FieldType, TableId};

use crate::context::PlanOptions;
use crate::plan::Plan;

/// Plans kept by default: a node's working set of distinct statements.
pub const PLAN_CACHE_ENTRIES_DEFAULT: usize = 4096;

/// What a cached plan depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanKey {
    /// Version of the schema it was made for.
    pub schema_version: i64,
    /// The current database.
    pub database: Option<Arc<str>>,
    /// The statement: its text, or its text without literals.
    pub statement: Arc<str>,
    /// `sql_mode`.
    pub sql_mode: SqlMode,
    /// `collation_connection`.
    pub collation: Collation,
    /// Types of its parameters.
    pub param_types: Vec<FieldType>,
    /// Settings of the optimiser.
    pub options: PlanOptions,
}

/// A bounded, shared map from statements to plans.
pub struct PlanCache {
    plans: quick_cache::sync::Cache<PlanKey, Arc<Plan>>,
    generation: AtomicU64,
}

/// Which statistics a plan was made with; taken before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

impl PlanCache {
    /// An empty cache of at most `entries` plans.
    pub fn new(entries: usize) -> PlanCache {
        PlanCache {
            plans: quick_cache::sync::Cache::new(entries.max(1)),
            generation: AtomicU64::new(0),
        }
    }

    /// The plan of a statement, if it is known.
    pub fn get(&self, key: &PlanKey) -> Option<Arc<Plan>> {
        self.plans.get(key)
    }

    /// The statistics that a plan made from now on knows.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// Keeps a plan; one that must not be used again is not kept, nor one of older statistics.
    pub fn insert(&self, key: PlanKey, plan: Arc<Plan>, generation: Generation) {
        if !plan.cacheable || self.generation() != generation {
            return;
        }
        self.plans.insert(key.clone(), plan);
        // Whoever forgets plans at this moment may have passed this place already.
        if self.generation() != generation {
            self.plans.remove(&key);
        }
    }

    /// Drops the plans that read or write tables for which `is_stale` says so.
    pub fn forget(&self, is_stale: impl Fn(TableId) -> bool) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.plans.retain(|_, plan| !plan.tables.iter().any(|access| is_stale(access.table.id)));
    }

    /// Plans kept.
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether no plan is kept.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Drops all plans.
    pub fn clear(&self) {
        self.plans.clear();
    }
}

impl Default for PlanCache {
    fn default() -> PlanCache {
        PlanCache::new(PLAN_CACHE_ENTRIES_DEFAULT)
    }
}

impl PlanKey {
    /// A number for logs: equal keys have equal numbers within a process.
    pub fn digest(&self) -> u64 {
        foldhash::fast::FixedState::default().hash_one(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TableInfo;
    use crate::identity::PlanIdentity;
    use crate::plan::{AccessKind, PhysicalOp, PhysicalPlan, PlanKind, TableAccess};

    fn key(statement: &str) -> PlanKey {
        PlanKey {
            schema_version: 1,
            database: None,
            statement: statement.into(),
            sql_mode: SqlMode::default(),
            collation: Collation::default(),
            param_types: Vec::new(),
            options: PlanOptions::default(),
        }
    }

    fn plan_of(tables: &[i64]) -> Arc<Plan> {
        let access = |id: &i64| TableAccess {
            db: "d".to_owned(),
            table: Arc::new(TableInfo::new(*id, format!("t{id}"))),
            alias: format!("t{id}"),
            kind: AccessKind::Select,
        };
        let op = PhysicalOp::Dual { rows: 1 };
        let root = PhysicalPlan { id: 1, op, children: vec![], row_count: 1.0, schema: vec![] };
        Arc::new(Plan {
            kind: PlanKind::Query(root),
            subplans: Vec::new(),
            columns: [].into(),
            param_count: 0,
            slot_count: 0,
            cacheable: true,
            tables: tables.iter().map(access).collect(),
            identity: PlanIdentity::default(),
        })
    }

    #[test]
    fn plans_of_a_table_are_forgotten_and_others_stay() {
        let cache = PlanCache::new(100);
        for (statement, tables) in
            [("one", &[1][..]), ("both", &[2, 1]), ("two", &[2]), ("none", &[])]
        {
            cache.insert(key(statement), plan_of(tables), cache.generation());
        }
        cache.forget(|table| table == TableId(1));
        let is_kept = |statement: &&str| cache.get(&key(statement)).is_some();
        let kept: Vec<&str> = ["one", "both", "two", "none"].into_iter().filter(is_kept).collect();
        assert_eq!(kept, ["two", "none"]);
    }

    #[test]
    fn a_plan_that_was_made_with_older_statistics_is_not_kept() {
        let cache = PlanCache::new(100);
        let before = cache.generation();
        cache.forget(|table| table == TableId(1));
        cache.insert(key("one"), plan_of(&[1]), before);
        assert!(cache.get(&key("one")).is_none());
        cache.insert(key("one"), plan_of(&[1]), cache.generation());
        assert!(cache.get(&key("one")).is_some());
    }
}
