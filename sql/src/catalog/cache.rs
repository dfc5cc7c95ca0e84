//! The node's current schema, and who still uses older ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use cairn_planner::catalog::Catalog;

use super::snapshot::SchemaSnapshot;

/// The newest schema of this node.
#[derive(Debug, Default)]
pub struct SchemaCache {
    current: ArcSwap<SchemaSnapshot>,
    /// How many transactions hold each version.
    held: Mutex<BTreeMap<i64, usize>>,
    released: Notify,
    replaced: Notify,
    generation: AtomicU64,
}

/// A transaction's claim on the version it began with.
#[derive(Debug)]
pub struct VersionHold {
    /// Who counts the claim.
    cache: Option<Arc<SchemaCache>>,
    schema: Arc<SchemaSnapshot>,
    generation: u64,
}

impl VersionHold {
    /// A schema of the past, for a transaction that only reads. No schema change waits for it:
    /// it writes nothing in the old form, and what it reads is kept by the safe point.
    pub fn of_past(schema: Arc<SchemaSnapshot>) -> VersionHold {
        VersionHold { cache: None, schema, generation: 0 }
    }

    /// In which of the node's leases it was made.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The schema held.
    pub fn schema(&self) -> &Arc<SchemaSnapshot> {
        &self.schema
    }
}

impl Drop for VersionHold {
    fn drop(&mut self) {
        let Some(cache) = &self.cache else { return };
        let mut held = cache.held.lock();
        let version = self.schema.version();
        if let Some(count) = held.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                held.remove(&version);
            }
        }
        drop(held);
        cache.released.notify_waiters();
    }
}

impl SchemaCache {
    /// The newest schema, for one statement.
    pub fn current(&self) -> Arc<SchemaSnapshot> {
        self.current.load_full()
    }

    /// The newest schema, held until the claim is dropped.
    pub fn hold(self: &Arc<Self>) -> VersionHold {
        // The count is taken under the lock that `replace` takes, so a version that was
        // replaced cannot gain a new holder.
        let mut held = self.held.lock();
        let schema = self.current.load_full();
        *held.entry(schema.version()).or_default() += 1;
        drop(held);
        VersionHold { cache: Some(Arc::clone(self)), schema, generation: self.generation() }
    }

    /// Counts the leases under which the node has written rows.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The lease was over: nobody waits for what is held now.
    pub fn begin_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes `schema` the newest unless a newer one is there already.
    pub fn replace(&self, schema: SchemaSnapshot) {
        let _held = self.held.lock();
        if schema.version() >= self.current.load().version() {
            self.current.store(Arc::new(schema));
            self.replaced.notify_waiters();
        }
    }

    /// Resolves when the schema is replaced after this call. It is polled before the schema is
    /// looked at, so that no change is missed.
    pub fn next(&self) -> Notified<'_> {
        self.replaced.notified()
    }

    /// The oldest version in use here.
    pub fn oldest_version_in_use(&self) -> i64 {
        let held = self.held.lock();
        let current = self.current.load().version();
        held.keys().next().map_or(current, |oldest| current.min(*oldest))
    }

    /// Waits until nothing here uses a version older than `version`.
    pub async fn wait_until_released(&self, version: i64) {
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Registered before the check: a release in between is not missed.
            released.as_mut().enable();
            if self.oldest_version_in_use() >= version {
                return;
            }
            released.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::meta::StoredSchema;
    use super::*;

    fn schema(version: i64) -> SchemaSnapshot {
        SchemaSnapshot::new(StoredSchema { version, ..StoredSchema::default() }, &[])
    }

    #[tokio::test]
    async fn a_change_waits_for_those_who_hold_the_old_version() {
        let cache = Arc::new(SchemaCache::default());
        cache.replace(schema(1));
        let old = cache.hold();
        cache.replace(schema(2));
        let new = cache.hold();
        assert_eq!(cache.oldest_version_in_use(), 1);
        let waiting = {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { cache.wait_until_released(2).await })
        };
        drop(old);
        waiting.await.expect("woken by the release");
        assert_eq!(cache.oldest_version_in_use(), 2);
        drop(new);
    }

    #[test]
    fn an_older_schema_never_replaces_a_newer() {
        let cache = SchemaCache::default();
        cache.replace(schema(5));
        cache.replace(schema(4));
        assert_eq!(cache.current().version(), 5);
    }
}
