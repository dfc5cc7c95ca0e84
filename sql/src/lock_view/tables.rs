//! The tables of `information_schema` about transactions and their locks.
//!
//! Source: TiDB's documentation, `TIDB_TRX`, `DATA_LOCK_WAITS`, `DEADLOCKS`.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_executor::ExecContext;
use cairn_parser::SqlMode;
use cairn_types::time::TimeKind;
use cairn_types::{Datum, TimeStamp, TimeZone};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::deadlocks::Deadlock;
use super::key_info::key_info;
use super::{OpenTransaction, Phase, nodes, related_tables};
use crate::catalog::SchemaSnapshot;
use crate::clock;
use crate::domain::Domain;
use crate::error::Result;
use crate::infoschema::Rows;
use crate::observed::digest::from_tag;
use crate::processes::Process;

/// Where the status port shows the node's transactions.
pub const TRANSACTIONS_PATH: &str = "/lock_view/transactions";
/// The circles it remembers.
pub const DEADLOCKS_PATH: &str = "/lock_view/deadlocks";
/// Texts of its digests.
pub const DIGESTS_PATH: &str = "/lock_view/digests";

/// Tables whose ids a transaction shows.
const RELATED_TABLES_MAX: usize = 64;

/// The tables made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockTable {
    /// Open transactions of this node, or of all.
    Transactions {
        /// Of all nodes.
        cluster: bool,
    },
    /// Who waits in the queues of the stores.
    DataLockWaits,
    /// Circles of waits that this node remembers, or all.
    Deadlocks {
        /// Of all nodes.
        cluster: bool,
    },
}

/// A transaction as the status port shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownTransaction {
    start_ts: u64,
    state: String,
    digest: Option<String>,
    digest_text: Option<String>,
    /// For how long its statement has been asking for locks.
    waiting_us: Option<i64>,
    keys: u64,
    bytes: u64,
    session: u32,
    user: String,
    database: Option<String>,
    all_digests: Vec<String>,
    table_ids: Vec<i64>,
}

impl LockTable {
    /// The table of a name, if it is made here.
    pub fn find(database: &str, table: &str) -> Option<Self> {
        if !database.eq_ignore_ascii_case("information_schema") {
            return None;
        }
        match table {
            "TIDB_TRX" => Some(Self::Transactions { cluster: false }),
            "CLUSTER_TIDB_TRX" => Some(Self::Transactions { cluster: true }),
            "DATA_LOCK_WAITS" => Some(Self::DataLockWaits),
            "DEADLOCKS" => Some(Self::Deadlocks { cluster: false }),
            "CLUSTER_DEADLOCKS" => Some(Self::Deadlocks { cluster: true }),
            _ => None,
        }
    }

    /// Its rows; times are in the statement's zone, nodes that do not answer are its warnings.
    pub async fn rows(
        self,
        domain: Arc<Domain>,
        schema: Arc<SchemaSnapshot>,
        exec: ExecContext,
    ) -> Result<Rows> {
        let asking = Asking { domain, schema, exec };
        match self {
            Self::Transactions { cluster } => asking.transactions(cluster).await,
            Self::DataLockWaits => asking.data_lock_waits().await,
            Self::Deadlocks { cluster } => asking.deadlocks(cluster).await,
        }
    }
}

/// One statement that reads one of the tables.
struct Asking {
    domain: Arc<Domain>,
    schema: Arc<SchemaSnapshot>,
    exec: ExecContext,
}

impl Asking {
    /// What this node knows, and with `cluster` what the others do, each by its name.
    async fn gather<T: DeserializeOwned>(
        &self,
        own: T,
        path: &str,
        cluster: bool,
    ) -> Result<Vec<(String, T)>> {
        let path = cluster.then_some(path);
        nodes::gather(&self.domain, &self.exec, own, path).await
    }

    async fn transactions(&self, cluster: bool) -> Result<Rows> {
        let own = transactions(&self.domain);
        let zone = &self.exec.eval.time_zone;
        let nodes = self.gather(own, TRANSACTIONS_PATH, cluster).await?;
        let rows = nodes.iter().flat_map(|(instance, list)| {
            list.iter().map(move |one| (instance, transaction_row(one, zone)))
        });
        Ok(nodes::with_instance(rows, cluster))
    }

    async fn data_lock_waits(&self) -> Result<Rows> {
        let mut waits = self.domain.kv.lock_waits().await?;
        waits.sort_by_key(|wait| (wait.holder, wait.waiter));
        let digest = |tag: &[u8]| from_tag(tag).map(|digest| digest.to_string());
        let texts = self.texts(waits.iter().filter_map(|wait| digest(&wait.tag))).await?;
        let row = |wait: &cairn_kv_client::LockWaiting| {
            let digest = digest(&wait.tag);
            let text = digest.as_ref().and_then(|digest| texts.get(digest));
            vec![
                hex(&wait.key),
                opt(key_info(&self.schema, &wait.key)),
                Datum::UInt(wait.waiter.0),
                Datum::UInt(wait.holder.0),
                opt(digest.as_deref()),
                opt(text.map(String::as_str)),
            ]
        };
        Ok(waits.iter().map(row).collect())
    }

    async fn deadlocks(&self, cluster: bool) -> Result<Rows> {
        let own = self.domain.deadlocks.all();
        let nodes: Vec<(String, Vec<Deadlock>)> = self.gather(own, DEADLOCKS_PATH, cluster).await?;
        let waits = nodes.iter().flat_map(|(_, list)| list).flat_map(|one| &one.waits);
        let texts = self.texts(waits.filter_map(|wait| wait.digest.clone())).await?;
        let zone = &self.exec.eval.time_zone;
        let mut rows = Vec::new();
        for (instance, list) in &nodes {
            for deadlock in list {
                for wait in &deadlock.waits {
                    let text = wait.digest.as_ref().and_then(|digest| texts.get(digest));
                    let row = vec![
                        Datum::UInt(deadlock.id),
                        time(deadlock.occurred_at_us, zone),
                        Datum::Int(0),
                        Datum::UInt(wait.waiter),
                        opt(wait.digest.as_deref()),
                        opt(text.map(String::as_str)),
                        hex(&wait.key),
                        opt(key_info(&self.schema, &wait.key)),
                        Datum::UInt(wait.holder),
                    ];
                    rows.push((instance, row));
                }
            }
        }
        Ok(nodes::with_instance(rows.into_iter(), cluster))
    }

    /// Texts of digests; other nodes are asked if this one does not know all of them.
    async fn texts(
        &self,
        mut digests: impl Iterator<Item = String>,
    ) -> Result<HashMap<String, String>> {
        let mut known = self.domain.digests.all();
        if digests.all(|digest| known.contains_key(&digest)) {
            return Ok(known);
        }
        let own = HashMap::<String, String>::new();
        for (_, texts) in self.gather(own, DIGESTS_PATH, true).await? {
            known.extend(texts);
        }
        Ok(known)
    }
}

/// The open transactions of this node.
pub fn transactions(domain: &Domain) -> Vec<ShownTransaction> {
    let processes = domain.processes.list();
    let shown = processes.iter().filter_map(|process| {
        let open = process.open_transaction()?;
        Some(shown_transaction(domain, process, &open))
    });
    shown.collect()
}

fn shown_transaction(
    domain: &Domain,
    process: &Process,
    open: &OpenTransaction,
) -> ShownTransaction {
    let transaction = &open.transaction;
    let activity = process.activity();
    let (current, all) = open.statements();
    // Nobody's passwords are in the statements of a transaction.
    let mode = SqlMode::default();
    let running = current.map(|text| domain.digests.normal(&text, &mode));
    let waiting = transaction.locking_for();
    let state = match open.phase() {
        Phase::Committing => "Committing",
        Phase::RollingBack => "RollingBack",
        Phase::Open if waiting.is_some() => "LockWaiting",
        Phase::Open if running.is_some() => "Running",
        Phase::Open => "Idle",
    };
    let all_digests = all.iter().map(|text| domain.digests.normal(text, &mode).digest);
    ShownTransaction {
        start_ts: transaction.start_ts().0,
        state: state.to_owned(),
        digest: running.as_ref().map(|normal| normal.digest.to_string()),
        digest_text: running.map(|normal| normal.text.to_string()),
        waiting_us: waiting.map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
        keys: transaction.len() as u64,
        bytes: transaction.size_bytes(),
        session: process.id.0,
        user: activity.user,
        database: activity.database,
        all_digests: all_digests.map(|digest| digest.to_string()).collect(),
        table_ids: related_tables(transaction, RELATED_TABLES_MAX),
    }
}

fn transaction_row(one: &ShownTransaction, zone: &TimeZone) -> Vec<Datum> {
    let started_us = i64::try_from(TimeStamp(one.start_ts).physical_ms()).unwrap_or(0) * 1_000;
    let waiting_since = one.waiting_us.map(|us| clock::unix_micros().saturating_sub(us));
    vec![
        Datum::UInt(one.start_ts),
        time(started_us, zone),
        opt(one.digest.as_deref()),
        opt(one.digest_text.as_deref()),
        Datum::text(one.state.clone()),
        waiting_since.map_or(Datum::Null, |us| time(us, zone)),
        Datum::UInt(one.keys),
        Datum::UInt(one.bytes),
        Datum::UInt(one.session.into()),
        Datum::text(one.user.clone()),
        opt(one.database.as_deref()),
        Datum::text(serde_json::json!(one.all_digests).to_string()),
        Datum::text(serde_json::json!(one.table_ids).to_string()),
        one.waiting_us.map_or(Datum::Null, |us| Datum::Double(us as f64 / 1e6)),
    ]
}

fn time(unix_us: i64, zone: &TimeZone) -> Datum {
    zone.from_unix_micros(unix_us, TimeKind::DateTime, 6).map_or(Datum::Null, Datum::Time)
}

fn opt(text: Option<impl Into<String>>) -> Datum {
    text.map_or(Datum::Null, Datum::text)
}

fn hex(key: &[u8]) -> Datum {
    Datum::text(key.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
}
