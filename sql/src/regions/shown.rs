//! Rows of `SHOW TABLE … REGIONS`, with TiDB's columns.

use std::sync::Arc;

use cairn_pd_client::{PdClient, PdError, RegionRoute};
use cairn_planner::catalog::{IndexInfo, TableInfo};
use cairn_types::{Datum, keys};
use futures::StreamExt;

use super::key_text::key_text;
use super::pages::pages;

/// Columns, in the form `SHOW` takes them.
pub const COLUMNS: &[&str] = &[
    "REGION_ID:i",
    "START_KEY:t",
    "END_KEY:t",
    "LEADER_ID:i",
    "LEADER_STORE_ID:i",
    "PEERS:t",
    "SCATTERING:i",
    "WRITTEN_BYTES:i",
    "READ_BYTES:i",
    "APPROXIMATE_SIZE(MB):i",
    "APPROXIMATE_KEYS:i",
    "SCHEDULING_CONSTRAINTS:t",
    "SCHEDULING_STATE",
];
/// Regions shown at most.
const REGIONS_MAX: usize = 100_000;
const MIB: u64 = 1 << 20;

/// The regions that hold something of a table, or of one of its indexes.
pub async fn rows(
    pd: &Arc<dyn PdClient>,
    table: &TableInfo,
    index: Option<&IndexInfo>,
) -> Result<Vec<Vec<Datum>>, PdError> {
    let (start, end) = match index {
        Some(index) => keys::index_range(table.id, index.id),
        None => keys::table_range(table.id),
    };
    let mut pages = pages(pd.clone(), start.into(), end.into());
    let mut rows = Vec::new();
    while let Some(page) = pages.next().await {
        rows.extend(page?.iter().map(|route| row(route, !table.common_handle)));
        if rows.len() >= REGIONS_MAX {
            break;
        }
    }
    Ok(rows)
}

fn row(route: &RegionRoute, int_handles: bool) -> Vec<Datum> {
    let region = &route.region;
    let peers: Vec<String> = region.peers.iter().map(|peer| peer.id.to_string()).collect();
    let leader = route.leader.as_ref();
    let int = |value: u64| Datum::Int(value as i64);
    vec![
        int(region.id),
        Datum::text(key_text(&region.start_key, int_handles)),
        Datum::text(key_text(&region.end_key, int_handles)),
        leader.map_or(Datum::Null, |leader| int(leader.id)),
        leader.map_or(Datum::Null, |leader| int(leader.store_id)),
        Datum::text(peers.join(", ")),
        int(u64::from(route.scattering)),
        int(route.flow.written_bytes),
        int(route.flow.read_bytes),
        int(route.approximate_size_bytes.div_ceil(MIB)),
        int(route.approximate_keys),
        Datum::text(""),
        Datum::text(""),
    ]
}
