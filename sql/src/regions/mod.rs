//! What a user steers and sees of regions: `SPLIT TABLE`, `SHOW TABLE … REGIONS`.
//!
//! **Flow.** [`points`] turns the values of a `SPLIT` into keys; the KV client cuts the regions
//! there; [`scatter`] has PD spread what was born and waits for it. [`shown`] shows regions as PD tells of them ([`pages`]);
//! [`key_text`] writes their borders for people, as TiDB does.
//!
//! Source: TiDB's documentation, "Split Region" and "SHOW TABLE REGIONS".

pub mod key_text;
pub mod pages;
pub mod points;
pub mod scatter;
pub mod shown;

use std::time::Duration;

use cairn_parser::ast::SplitTable;
use cairn_planner::Catalog;
use cairn_planner::OutputColumn;
use cairn_planner::catalog::{IndexInfo, TableInfo};
use cairn_types::{Datum, FieldType, errno};

use crate::clock;
use crate::error::{Result, SqlError};
use crate::session::{Session, unknown_table};
use crate::sink::ResultSink;

/// Result columns of `SPLIT TABLE`.
pub fn split_columns() -> Vec<OutputColumn> {
    let definition = |name: &str, ty| OutputColumn::computed(name, ty);
    vec![
        definition("TOTAL_SPLIT_REGION", FieldType::bigint()),
        definition("SCATTER_FINISH_RATIO", FieldType::double()),
    ]
}

/// `SPLIT TABLE …`: answers how many regions were born, and which part of them has been spread.
pub async fn split(
    session: &mut Session,
    split: &SplitTable,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let started = clock::monotonic_now();
    let database = session.database_or_current(split.table.schema.as_deref())?.to_owned();
    let table = session.schema().table(&database, &split.table.name);
    let table = table.ok_or_else(|| unknown_table(&database, &split.table.name))?;
    let index = target(&table, &split.partitions, split.index.as_deref())?;
    let keys = points::split_keys(session, &table, index, &split.how).await?;
    let settings = SplitSettings::of(session);
    let (domain, token) = (session.domain.clone(), session.token().clone());
    let cutting = domain.kv.split_regions(keys, settings.timeout);
    let born = tokio::select! {
        () = token.cancelled() => return Err(SqlError::Interrupted),
        born = cutting => born?,
    };
    let total = born.len();
    let group = match settings.whole_cluster {
        true => "global".to_owned(),
        false => format!("table {}", table.id.0),
    };
    let left = settings.timeout.saturating_sub(started.elapsed());
    let scattering = scatter::scatter(domain.pd.clone(), born, group, left);
    let finished = if settings.waits {
        tokio::select! {
            () = token.cancelled() => return Err(SqlError::Interrupted),
            finished = scattering => finished?,
        }
    } else {
        let stop = domain.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = scattering => if let Err(error) = outcome {
                    tracing::warn!(%error, "regions of a split stay where they were born");
                }
            }
        });
        0
    };
    let ratio = if total == 0 { 0.0 } else { finished as f64 / total as f64 };
    sink.begin_rows(split_columns().into()).await?;
    sink.row(&[Datum::Int(total as i64), Datum::Double(ratio)]).await?;
    session.found_rows = 1;
    session.row_count = -1;
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// The index a statement about a table's regions means, if it means one.
pub fn target<'a>(
    table: &'a TableInfo,
    partitions: &[String],
    index: Option<&str>,
) -> Result<Option<&'a IndexInfo>> {
    if table.is_virtual {
        return Err(SqlError::not_supported("regions of a system view"));
    }
    if !partitions.is_empty() {
        return Err(SqlError::new(
            errno::ER_PARTITION_CLAUSE_ON_NONPARTITIONED,
            "PARTITION () clause on non partitioned table",
        ));
    }
    let Some(name) = index else { return Ok(None) };
    let index = table.find_index(name).filter(|index| index.state.is_public());
    let no_key = |message: String| SqlError::new(errno::ER_KEY_DOES_NOT_EXITS, message);
    match index {
        None => Err(no_key(format!("Key '{name}' doesn't exist in table '{}'", table.name))),
        Some(index) if !table.has_entries(index) => Err(no_key(format!(
            "Key '{name}' is clustered: its entries are the rows of table '{}'",
            table.name
        ))),
        Some(index) => Ok(Some(index)),
    }
}

/// What the session says of its splits.
struct SplitSettings {
    /// `tidb_wait_split_region_finish`.
    waits: bool,
    /// `tidb_wait_split_region_timeout`: for cutting and spreading together.
    timeout: Duration,
    /// `tidb_scatter_region` is `global`: regions are spread with all others that are spread so,
    /// not only with their table's.
    whole_cluster: bool,
}

impl SplitSettings {
    fn of(session: &Session) -> Self {
        let get = |name: &str| session.variables.get(name).unwrap_or_default();
        let timeout_s = get("tidb_wait_split_region_timeout").parse().unwrap_or(0);
        Self {
            waits: get("tidb_wait_split_region_finish") == "ON",
            timeout: Duration::from_secs(timeout_s),
            whole_cluster: get("tidb_scatter_region") == "global",
        }
    }
}
