//! What all sessions of a SQL node share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_kv_client::{KvClient, Snapshot, Transaction};
use cairn_pd_client::PdClient;
use cairn_planner::catalog::Catalog;
use cairn_proto::pd::ConfigEntry;
use cairn_types::{TableId, TimeStamp, errno};
use futures::StreamExt;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::accounts::{Account, Accounts};
use crate::auto_id::AutoIds;
use crate::catalog::{SchemaCache, SchemaHistory, SchemaSnapshot, meta};
use crate::clock;
use crate::config::SqlConfig;
use crate::error::{Result, SqlError};
use crate::gc;
use crate::infoschema;
use crate::lock_view::deadlocks::Deadlocks;
use crate::lock_view::nodes;
use crate::memory::NodeMemory;
use crate::metrics::Metrics;
use crate::named_locks::NamedLocks;
use crate::observed::digest::DigestTexts;
use crate::observed::slow_log::SlowLog;
use crate::observed::summary::Summaries;
use crate::processes::Processes;
use crate::protocol::auth::PasswordKey;
use crate::schema_lease::{NodeReport, Nodes, SchemaLease};
use crate::statistics::{self, NodeStatistics};
use crate::table_locks::{self, NodeLocks};
use crate::variables::GlobalVariables;
use crate::xa::{self, OpenBranches};

/// Error 1836: `Running in read-only mode`.
const ER_READ_ONLY_MODE: u16 = 1836;
/// PD keys under which nodes say which schema version they have left behind.
const NODE_VERSION_PREFIX: &str = "sql/schema_version/";
/// How often a node says so when nothing changes.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a schema change waits for transactions that use the old schema (MySQL's
/// `lock_wait_timeout` is a year; ours tells the operator earlier).
const SCHEMA_WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Between looks whether sessions are left when a node stops.
const SIGN_OFF_PAUSE: Duration = Duration::from_millis(20);
/// Pause between looks at the other nodes.
const SCHEMA_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a schema change starts over after losing to another one.
pub const SCHEMA_CHANGE_TRIES: usize = 100;
/// Pause before it does: locks of tables come and go in a few milliseconds.
const SCHEMA_CHANGE_PAUSE: Duration = Duration::from_millis(5);

/// A schema change lost to others too often.
pub fn too_many_schema_changes() -> SqlError {
    SqlError::new(
        errno::ER_LOCK_DEADLOCK,
        "Deadlock found when trying to get lock; too many concurrent schema changes",
    )
}

/// Error 1836: rows are of two times, and neither they nor definitions may be used.
pub fn in_flashback() -> SqlError {
    SqlError::new(
        ER_READ_ONLY_MODE,
        "Running in read-only mode: FLASHBACK CLUSTER is under way, or was interrupted and must be \
         run again",
    )
}

/// Shared state of a node.
pub struct Domain {
    /// Settings.
    pub config: SqlConfig,
    /// The key-value tier.
    pub kv: Arc<KvClient>,
    /// The placement driver.
    pub pd: Arc<dyn PdClient>,
    /// The newest schema.
    pub schema: Arc<SchemaCache>,
    /// Schemas of the past that were read lately.
    pub history: SchemaHistory,
    /// Who may log in.
    pub accounts: Accounts,
    /// Global system variables.
    pub variables: GlobalVariables,
    /// Open connections.
    pub processes: Arc<Processes>,
    /// AUTO_INCREMENT and hidden row ids.
    pub auto_ids: AutoIds,
    /// Locks by name of this node's sessions.
    pub named_locks: NamedLocks,
    /// Table locks of this node's sessions.
    pub table_locks: NodeLocks,
    /// Names of branches that sessions of this node have not prepared yet.
    pub open_branches: OpenBranches,
    /// Circles of waits that this node's transactions closed.
    pub deadlocks: Deadlocks,
    /// What digests of statements stand for.
    pub digests: DigestTexts,
    /// What statements of one kind did together.
    pub summaries: Summaries,
    /// Statements that took long.
    pub slow_log: SlowLog,
    /// Plans shared by all sessions.
    pub plans: cairn_planner::cache::PlanCache,
    /// What is known of tables' rows.
    pub statistics: NodeStatistics,
    /// Memory and temporary files of all statements of the node.
    pub memory: NodeMemory,
    /// Counters.
    pub metrics: Metrics,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
    /// Cancelled once the other nodes know that this one has stopped.
    pub signed_off: CancellationToken,
    /// When the node started.
    pub started_at: Instant,
    node_id: u64,
    password_key: OnceCell<Arc<PasswordKey>>,
    schema_lease: SchemaLease,
    nodes: Nodes,
    reloads: tokio::sync::Mutex<()>,
    statements: AtomicU64,
}

impl std::fmt::Debug for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domain").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

impl Domain {
    /// Loads the schema (creating the first account and the `test` database of a new
    /// cluster) and starts the background tasks.
    pub async fn open(
        config: SqlConfig,
        kv: Arc<KvClient>,
        pd: Arc<dyn PdClient>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>> {
        let node_id = pd.alloc_ids(1).await?;
        let variables = GlobalVariables::new(&config);
        let domain = Arc::new(Self {
            memory: NodeMemory::new(&config, &variables.current()),
            auto_ids: AutoIds::default(),
            named_locks: NamedLocks::default(),
            table_locks: NodeLocks::default(),
            open_branches: OpenBranches::default(),
            deadlocks: Deadlocks::default(),
            digests: DigestTexts::default(),
            summaries: Summaries::new(&variables.current(), clock::unix_micros()),
            slow_log: SlowLog::new(&config, &variables.current()),
            plans: cairn_planner::cache::PlanCache::new(config.plan_cache_entries),
            statistics: NodeStatistics::default(),
            schema: Arc::default(),
            history: SchemaHistory::default(),
            accounts: Accounts::default(),
            processes: Processes::new(stop.clone()),
            metrics: Metrics::default(),
            started_at: clock::monotonic_now(),
            node_id,
            password_key: OnceCell::new(),
            schema_lease: SchemaLease::default(),
            nodes: Nodes::default(),
            reloads: tokio::sync::Mutex::new(()),
            statements: AtomicU64::new(0),
            variables,
            config,
            kv,
            pd,
            stop,
            signed_off: CancellationToken::new(),
        });
        domain.reload_schema().await?;
        if domain.schema.current().version() == 0 {
            domain.initialise_cluster().await?;
        }
        domain.publish_version().await?;
        gc::service::report(&domain).await?;
        // Changes that ended before others knew of this node did not wait for it.
        domain.reload_schema().await?;
        // Without them plans are worse, and right: no reason not to start.
        if let Err(error) = domain.statistics.refresh(&domain).await {
            tracing::warn!(%error, "statistics cannot be read");
        }
        tokio::spawn(Self::follow_schema(Arc::clone(&domain)));
        tokio::spawn(Self::publish_versions(Arc::clone(&domain)));
        tokio::spawn(gc::service::keep_reporting(Arc::clone(&domain)));
        tokio::spawn(gc::run(Arc::clone(&domain)));
        tokio::spawn(NamedLocks::keep_renewing(Arc::clone(&domain)));
        tokio::spawn(table_locks::keep_watch(Arc::clone(&domain)));
        tokio::spawn(statistics::keep_fresh(Arc::clone(&domain)));
        tokio::spawn(statistics::auto::run(Arc::clone(&domain)));
        tokio::spawn(NodeMemory::watch(Arc::clone(&domain)));
        tokio::spawn(SlowLog::keep_writing(Arc::clone(&domain)));
        Ok(domain)
    }

    /// First schema of a new cluster. Several nodes may try; one commits first and the
    /// others find its work.
    async fn initialise_cluster(self: &Arc<Self>) -> Result<()> {
        let id = self.pd.alloc_ids(1).await?;
        let outcome = self
            .change_schema(|txn, schema| {
                if schema.version() > 0 {
                    return Ok(());
                }
                meta::put_account(txn, &Account::initial_root())?;
                let test = cairn_planner::catalog::DatabaseInfo {
                    id: cairn_types::SchemaId(id as i64),
                    name: "test".to_owned(),
                    collation: cairn_types::Collation::default(),
                };
                meta::put_database(txn, &test)
            })
            .await;
        outcome.map(|_| ())
    }

    // --- schema -------------------------------------------------------------------------

    /// Reads the newest schema and makes it current.
    pub async fn reload_schema(&self) -> Result<Arc<SchemaSnapshot>> {
        // One reload at a time: the second finds the first's work.
        let _guard = self.reloads.lock().await;
        let snapshot = self.kv.snapshot(self.kv.current_ts().await?);
        let current = self.schema.current();
        let stored = meta::whole_version_at(&snapshot).await?;
        if current.version() > 0 && stored.definitions == current.definitions_version() {
            self.schema.replace(current.with_locks(stored.number, stored.locks));
            return Ok(self.schema.current());
        }
        let stored = meta::load(&snapshot).await?;
        self.accounts.replace(stored.accounts.clone());
        self.variables.replace(&stored.variables);
        self.memory.apply(&self.variables.current());
        self.summaries.apply(&self.variables.current());
        self.slow_log.apply(&self.variables.current());
        self.schema.replace(SchemaSnapshot::new(stored, &infoschema::databases()));
        Ok(self.schema.current())
    }

    /// The schema at the time of a view.
    pub async fn schema_at(&self, view: &Snapshot) -> Result<Arc<SchemaSnapshot>> {
        let version = meta::whole_version_at(view).await?.definitions;
        let current = self.schema.current();
        if current.definitions_version() == version {
            return Ok(current);
        }
        if let Some(known) = self.history.get(version) {
            return Ok(known);
        }
        let stored = meta::load(view).await?;
        let schema = Arc::new(SchemaSnapshot::new(stored, &infoschema::databases()));
        self.history.insert(Arc::clone(&schema));
        Ok(schema)
    }

    /// Runs one schema change to its end: commits what `build` writes together with the
    /// next version, and waits until no node uses an older one. `build` may run several
    /// times, each with the newest schema.
    pub async fn change_schema<T>(
        self: &Arc<Self>,
        build: impl Fn(&Transaction, &SchemaSnapshot) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..SCHEMA_CHANGE_TRIES {
            let Some((txn, schema)) = self.begin_schema_change().await? else { continue };
            let outcome = build(&txn, &schema)?;
            if self.finish_schema_change(txn).await? {
                return Ok(outcome);
            }
        }
        Err(too_many_schema_changes())
    }

    /// The transaction of a schema change with the schema that it changes; `None` if that is
    /// changing at this moment.
    pub async fn begin_schema_change(&self) -> Result<Option<(Transaction, Arc<SchemaSnapshot>)>> {
        let begun = self.begin_any_schema_change().await?;
        match &begun {
            Some((_, schema)) if schema.is_in_flashback() => Err(in_flashback()),
            _ => Ok(begun),
        }
    }

    /// The same, also while the cluster is in a flashback.
    pub async fn begin_any_schema_change(
        &self,
    ) -> Result<Option<(Transaction, Arc<SchemaSnapshot>)>> {
        let txn = self.kv.begin(self.kv.current_ts().await?);
        let stored_version = meta::version(&txn).await?;
        let mut schema = self.schema.current();
        if schema.version() != stored_version {
            schema = self.reload_schema().await?;
        }
        if schema.version() == stored_version {
            return Ok(Some((txn, schema)));
        }
        tokio::time::sleep(SCHEMA_CHANGE_PAUSE).await;
        Ok(None)
    }

    /// Commits a schema change under the next version and waits until no node uses an older one.
    /// False if another change was faster: start over, [`SCHEMA_CHANGE_TRIES`] times at most.
    pub async fn finish_schema_change(&self, txn: Transaction) -> Result<bool> {
        let tables = meta::changed_tables(&txn);
        let version = meta::bump_version(&txn).await?;
        // So that one that must wait too long has changed nothing.
        within_schema_wait(xa::wait_for_branches(self, &tables, version)).await?;
        match txn.commit().await {
            Ok(_) => {}
            Err(cairn_kv_client::KvError::WriteConflict { .. }) => {
                tokio::time::sleep(SCHEMA_CHANGE_PAUSE).await;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.reload_schema().await?;
        self.pd.notify_schema(version).await?;
        self.wait_for_version(version, &tables).await?;
        Ok(true)
    }

    /// Waits until no transaction on any node uses a schema older than `version`, and no prepared
    /// branch has written the tables under one.
    async fn wait_for_version(&self, version: i64, tables: &[TableId]) -> Result<()> {
        let everyone = async {
            self.schema.wait_until_released(version).await;
            self.publish_version().await?;
            while !self.others_reached(version).await? {
                tokio::time::sleep(SCHEMA_POLL_INTERVAL).await;
            }
            // Asked last: what is prepared has its record before it lets the version go.
            xa::wait_for_branches(self, tables, version).await
        };
        within_schema_wait(everyone).await
    }

    async fn others_reached(&self, version: i64) -> Result<bool> {
        let now = self.see_nodes().await?;
        Ok(self.nodes.have_reached(version, now))
    }

    /// What the nodes that live said last of themselves, by number.
    pub async fn living_nodes(&self) -> Result<HashMap<u64, NodeReport>> {
        let now = self.see_nodes().await?;
        Ok(self.nodes.living(now))
    }

    /// Tells the other nodes which version is the oldest in use here, and which table locks wait
    /// for sessions of this node.
    pub async fn publish_version(&self) -> Result<()> {
        let reload = || async { self.reload_schema().await.map(drop) };
        self.schema_lease.keep(&self.schema, reload, || self.tell_version()).await
    }

    async fn tell_version(&self) -> Result<()> {
        let schema = self.schema.current();
        let report = NodeReport {
            oldest: self.schema.oldest_version_in_use(),
            at_ms: clock::unix_micros() / 1_000,
            newest: schema.version(),
            blocks: table_locks::blocked_here(self, schema.locks()),
        };
        let key = format!("{NODE_VERSION_PREFIX}{}", self.node_id);
        let entry = ConfigEntry { key, value: report.encode() };
        Ok(self.pd.put_config(vec![entry, nodes::entry(self)]).await?)
    }

    /// Looks at which versions the nodes use; answers when it began, since boot.
    async fn see_nodes(&self) -> Result<Duration> {
        let asked_at = clock::since_boot();
        let entries = self.pd.get_config(NODE_VERSION_PREFIX).await?;
        // What is new may have been made just now.
        self.nodes.see(&entries, NODE_VERSION_PREFIX, clock::since_boot());
        Ok(asked_at)
    }

    /// How much longer other nodes certainly wait for what was held in this generation.
    pub fn schema_lease_left(&self, generation: u64) -> Duration {
        self.schema_lease.left_of(&self.schema, generation)
    }

    /// Refuses to write when other nodes may have stopped waiting for this one.
    pub fn check_schema_lease(&self) -> Result<()> {
        self.check_schema_lease_of(self.schema.generation())
    }

    /// The same for what was held in this generation.
    pub fn check_schema_lease_of(&self, generation: u64) -> Result<()> {
        if !self.schema_lease_left(generation).is_zero() {
            return Ok(());
        }
        Err(SqlError::new(
            errno::ER_INFO_SCHEMA_EXPIRED,
            "Information schema is out of date: schema failed to update in 1 lease, please make \
             sure this node can connect to PD",
        ))
    }

    async fn publish_versions(domain: Arc<Self>) {
        while !domain.stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
                () = domain.stop.cancelled() => break,
            }
            if let Err(error) = domain.publish_version().await {
                tracing::warn!(%error, "cannot tell PD which schema is in use");
            }
            // So that a node that died long ago is known when the schema is changed.
            if let Err(error) = domain.see_nodes().await {
                tracing::debug!(%error, "PD does not tell which schemas are in use");
            }
        }
        // Sessions that are still at it commit under the lease: others wait for them.
        while !domain.processes.list().is_empty() {
            if let Err(error) = domain.publish_version().await {
                tracing::debug!(%error, "cannot tell PD which schema is in use");
            }
            tokio::time::sleep(SIGN_OFF_PAUSE).await;
        }
        if let Err(error) = domain.statistics.flush(&domain).await {
            tracing::debug!(%error, "the last changed rows are not counted");
        }
        let entry = ConfigEntry {
            key: format!("{NODE_VERSION_PREFIX}{}", domain.node_id),
            value: bytes::Bytes::new(),
        };
        if let Err(error) = domain.pd.put_config(vec![entry, nodes::gone(&domain)]).await {
            tracing::debug!(%error, "could not sign off from PD");
        }
        domain.signed_off.cancel();
    }

    /// Reloads the schema whenever PD says that it changed.
    async fn follow_schema(domain: Arc<Self>) {
        while !domain.stop.is_cancelled() {
            match domain.pd.watch_schema().await {
                Ok(mut versions) => loop {
                    let version = tokio::select! {
                        version = versions.next() => version,
                        () = domain.stop.cancelled() => return,
                    };
                    let Some(version) = version else { break };
                    domain.schema_changed(version).await;
                },
                Err(error) => tracing::warn!(%error, "cannot watch the schema"),
            }
            tokio::select! {
                () = tokio::time::sleep(PUBLISH_INTERVAL) => {}
                () = domain.stop.cancelled() => return,
            }
        }
    }

    async fn schema_changed(&self, version: i64) {
        if self.schema.current().version() >= version {
            return;
        }
        if let Err(error) = self.reload_schema().await {
            tracing::warn!(%error, "cannot reload the schema");
            return;
        }
        if let Err(error) = self.publish_version().await {
            tracing::warn!(%error, "cannot tell PD which schema is in use");
        }
    }

    // --- other shared services ----------------------------------------------------------

    /// Number of the node, never used before.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// A fresh timestamp.
    pub async fn now_ts(&self) -> Result<TimeStamp> {
        Ok(self.kv.current_ts().await?)
    }

    /// The key for passwords over plain connections, made when first needed.
    pub async fn password_key(&self) -> Result<Arc<PasswordKey>> {
        let make = || async {
            let made = tokio::task::spawn_blocking(clock::generate_password_key).await;
            made.ok().flatten().map(Arc::new).ok_or_else(|| {
                SqlError::new(errno::ER_UNKNOWN_ERROR, "cannot make the server's RSA key")
            })
        };
        Ok(Arc::clone(self.password_key.get_or_try_init(make).await?))
    }

    /// Counts a statement.
    pub fn count_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// Statements since the start.
    pub fn statement_count(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> u64 {
        self.started_at.elapsed().as_secs()
    }

    /// The answer to `COM_STATISTICS`.
    pub fn statistics_line(&self) -> String {
        format!(
            "Uptime: {}  Threads: {}  Questions: {}  Slow queries: {}  Opens: 0  Flush tables: 0  \
             Open tables: 0  Queries per second avg: 0.000",
            self.uptime_s(),
            self.processes.open_count(),
            self.statement_count(),
            self.slow_log.count(),
        )
    }
}

/// What a schema change waits for, for as long as it may.
pub async fn within_schema_wait(wait: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(SCHEMA_WAIT_TIMEOUT, wait).await.unwrap_or_else(|_| {
        Err(SqlError::new(
            errno::ER_LOCK_WAIT_TIMEOUT,
            "Lock wait timeout exceeded; a transaction still uses the table's old definition",
        ))
    })
}
