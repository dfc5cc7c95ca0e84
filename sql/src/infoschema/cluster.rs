//! Virtual tables whose rows PD knows: regions, their peers, stores; with TiDB's columns.
//!
//! Regions come page by page while the statement reads them.
//!
//! Source: TiDB's documentation, `TIKV_REGION_STATUS`, `TIKV_REGION_PEERS`, `TIKV_STORE_STATUS`.

use std::sync::Arc;

use bytes::Bytes;
use cairn_pd_client::{Order, PdClient, PdError, RegionRoute};
use cairn_planner::Catalog;
use cairn_planner::catalog::TableInfo;
use cairn_proto::meta::PeerRole;
use cairn_types::time::TimeKind;
use cairn_types::{Datum, TableId, TimeZone, keys};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::Value;

use super::Rows;
use crate::catalog::SchemaSnapshot;
use crate::regions::pages::pages;

const MIB: u64 = 1 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

/// The virtual tables made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterTable {
    /// One row per region and table or index that it holds something of.
    RegionStatus,
    /// One row per peer.
    RegionPeers,
    /// One row per store.
    StoreStatus,
}

impl ClusterTable {
    /// The table of a name, if it is made here.
    pub fn find(database: &str, table: &str) -> Option<Self> {
        if !database.eq_ignore_ascii_case("information_schema") {
            return None;
        }
        match table {
            "TIKV_REGION_STATUS" => Some(Self::RegionStatus),
            "TIKV_REGION_PEERS" => Some(Self::RegionPeers),
            "TIKV_STORE_STATUS" => Some(Self::StoreStatus),
            _ => None,
        }
    }

    /// Its rows, in groups, as they are asked for; times are in the zone.
    pub fn rows(
        self,
        pd: Arc<dyn PdClient>,
        schema: &SchemaSnapshot,
        zone: TimeZone,
    ) -> BoxStream<'static, Result<Rows, PdError>> {
        match self {
            Self::RegionStatus => {
                let tables = KeySpace::of(schema);
                let rows = move |page: &[RegionRoute]| {
                    page.iter().flat_map(|route| tables.status_rows(route)).collect()
                };
                region_rows(pd, rows)
            }
            Self::RegionPeers => region_rows(pd, |page| page.iter().flat_map(peer_rows).collect()),
            Self::StoreStatus => stream::once(async move { store_rows(&*pd, &zone).await }).boxed(),
        }
    }
}

/// All regions in key order, as rows.
fn region_rows(
    pd: Arc<dyn PdClient>,
    rows: impl Fn(&[RegionRoute]) -> Rows + Send + 'static,
) -> BoxStream<'static, Result<Rows, PdError>> {
    let pages = pages(pd, Bytes::new(), Bytes::new());
    pages.map(move |page| page.map(|page| rows(&page))).boxed()
}

/// Stored tables by the part of the key space that they have.
struct KeySpace {
    tables: Vec<(TableId, String, Arc<TableInfo>)>,
}

impl KeySpace {
    fn of(schema: &SchemaSnapshot) -> Self {
        let mut tables = Vec::new();
        for database in schema.databases() {
            let stored = schema.tables(&database.name).into_iter().filter(|one| !one.is_virtual);
            tables.extend(stored.map(|table| (table.id, database.name.clone(), table)));
        }
        tables.sort_by_key(|(id, ..)| *id);
        Self { tables }
    }

    /// Tables that may have keys in the region.
    fn tables_in(&self, route: &RegionRoute) -> &[(TableId, String, Arc<TableInfo>)] {
        let region = &route.region;
        let ends_before = |id: TableId| keys::table_range(id).1[..] <= region.start_key[..];
        let begins_behind = |id: TableId| {
            !region.end_key.is_empty() && keys::table_prefix(id)[..] >= region.end_key[..]
        };
        let first = self.tables.partition_point(|(id, ..)| ends_before(*id));
        let count = self.tables[first..].partition_point(|(id, ..)| !begins_behind(*id));
        &self.tables[first..first + count]
    }

    /// A region that holds several things has a row for each, one that holds none has one.
    fn status_rows(&self, route: &RegionRoute) -> Rows {
        let mut rows = Rows::new();
        for (id, database, table) in self.tables_in(route) {
            let holds = |(start, end): (Vec<u8>, Vec<u8>)| {
                let region = &route.region;
                end[..] > region.start_key[..]
                    && (region.end_key.is_empty() || start[..] < region.end_key[..])
            };
            let public = table.indices.iter().filter(|index| index.state.is_public());
            for index in public.filter(|index| table.has_entries(index)) {
                if holds(keys::index_range(*id, index.id)) {
                    let held = Held { database, table, index: Some((index.id.0, &index.name)) };
                    rows.push(status_row(route, Some(&held)));
                }
            }
            if holds(keys::row_range(*id)) {
                rows.push(status_row(route, Some(&Held { database, table, index: None })));
            }
        }
        if rows.is_empty() {
            rows.push(status_row(route, None));
        }
        rows
    }
}

/// What a region holds something of.
struct Held<'a> {
    database: &'a str,
    table: &'a TableInfo,
    index: Option<(i64, &'a str)>,
}

fn int(value: u64) -> Datum {
    Datum::Int(value as i64)
}

fn opt(value: Option<Datum>) -> Datum {
    value.unwrap_or(Datum::Null)
}

fn hex(key: &[u8]) -> Datum {
    Datum::text(key.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
}

fn status_row(route: &RegionRoute, held: Option<&Held<'_>>) -> Vec<Datum> {
    let region = &route.region;
    let epoch = region.epoch.unwrap_or_default();
    let index = held.and_then(|held| held.index);
    vec![
        int(region.id),
        hex(&region.start_key),
        hex(&region.end_key),
        opt(held.map(|held| Datum::Int(held.table.id.0))),
        opt(held.map(|held| Datum::text(held.database))),
        opt(held.map(|held| Datum::text(held.table.name.clone()))),
        int(u64::from(index.is_some())),
        opt(index.map(|(id, _)| Datum::Int(id))),
        opt(index.map(|(_, name)| Datum::text(name))),
        int(0),
        Datum::Null,
        Datum::Null,
        int(epoch.conf_ver),
        int(epoch.version),
        int(route.flow.written_bytes),
        int(route.flow.read_bytes),
        int(route.approximate_size_bytes.div_ceil(MIB)),
        int(route.approximate_keys),
        Datum::Null,
        Datum::Null,
    ]
}

fn peer_rows(route: &RegionRoute) -> Rows {
    let leader = route.leader.as_ref().map(|leader| leader.id);
    let row = |peer: &cairn_proto::meta::Peer| {
        let down = route.down_peers.iter().find(|down| down.peer.is_some_and(|p| p.id == peer.id));
        let pending = route.pending_peers.iter().any(|pending| pending.id == peer.id);
        let status = match (down, pending) {
            (Some(_), _) => "DOWN",
            (None, true) => "PENDING",
            (None, false) => "NORMAL",
        };
        vec![
            int(route.region.id),
            int(peer.id),
            int(peer.store_id),
            int(u64::from(peer.role() == PeerRole::Learner)),
            int(u64::from(leader == Some(peer.id))),
            Datum::text(status),
            int(down.map_or(0, |down| down.down_s)),
        ]
    };
    route.region.peers.iter().map(row).collect()
}

async fn store_rows(pd: &dyn PdClient, zone: &TimeZone) -> Result<Rows, PdError> {
    let answer = pd.steer(Order::Stores { id: None }).await?;
    let stores: Vec<Value> = serde_json::from_str(&answer)
        .map_err(|error| PdError::Internal(format!("stores: {error}")))?;
    Ok(stores.iter().map(|store| store_row(store, zone)).collect())
}

/// A store as `ctl store` shows it, in TiDB's columns.
fn store_row(store: &Value, zone: &TimeZone) -> Vec<Datum> {
    let text = |name: &str| opt(store[name].as_str().map(Datum::text));
    let count = |name: &str| opt(store[name].as_i64().map(Datum::Int));
    let number = |name: &str| opt(store[name].as_f64().map(Datum::Double));
    let mib = |name: &str| opt(store[name].as_u64().map(|bytes| int(bytes.div_ceil(MIB))));
    let gib = |name: &str| {
        let bytes = store[name].as_u64();
        opt(bytes.map(|bytes| Datum::text(format!("{:.2}GiB", bytes as f64 / GIB))))
    };
    let time = |unix_ms: Option<i64>| {
        let micros = unix_ms.filter(|ms| *ms > 0).and_then(|ms| ms.checked_mul(1_000));
        let time = micros.and_then(|us| zone.from_unix_micros(us, TimeKind::DateTime, 0));
        opt(time.map(Datum::Time))
    };
    let state = store["state"].as_str().unwrap_or_default();
    let state_number = cairn_proto::meta::StoreState::from_str_name(state);
    let labels = store["labels"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let labels: Vec<Value> = labels
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| serde_json::json!({ "key": key, "value": value }))
        .collect();
    let (started_ms, heard_ms) =
        (store["started_unix_ms"].as_i64(), store["last_heartbeat_ms"].as_i64());
    let uptime_s =
        heard_ms.zip(started_ms).map(|(heard, started)| (heard - started).max(0) / 1_000);
    vec![
        count("id"),
        text("address"),
        opt(state_number.map(|state| Datum::Int(state as i64))),
        Datum::text(capitalised(state)),
        Datum::text(Value::Array(labels).to_string()),
        text("version"),
        gib("capacity_bytes"),
        gib("available_bytes"),
        count("leaders"),
        number("leader_weight"),
        number("leader_score"),
        // PD counts leaders, not what they hold.
        Datum::Null,
        count("regions"),
        number("region_weight"),
        number("region_score"),
        mib("used_bytes"),
        time(started_ms),
        time(heard_ms),
        opt(uptime_s.map(|s| Datum::text(duration_text(s)))),
    ]
}

/// `UP` as `Up`.
fn capitalised(name: &str) -> String {
    let (first, rest) = name.split_at(name.len().min(1));
    format!("{first}{}", rest.to_lowercase())
}

/// `26h3m5s`.
fn duration_text(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use cairn_planner::catalog::{IndexInfo, SchemaState};
    use cairn_proto::meta::Region;
    use cairn_types::IndexId;

    use super::*;

    fn table(id: i64, indices: &[(i64, &str)]) -> (TableId, String, Arc<TableInfo>) {
        let mut table = TableInfo::new(id, format!("t{id}"));
        let index = |(id, name): &(i64, &str)| IndexInfo {
            id: IndexId(*id),
            name: (*name).to_owned(),
            columns: Vec::new(),
            unique: false,
            primary: false,
            invisible: false,
            comment: String::new(),
            state: SchemaState::Public,
        };
        table.indices = indices.iter().map(index).collect();
        (TableId(id), "d".to_owned(), Arc::new(table))
    }

    /// `table.index` of each row, by the region's borders.
    fn held(tables: &KeySpace, start: Vec<u8>, end: Vec<u8>) -> String {
        let region =
            Region { id: 7, start_key: start.into(), end_key: end.into(), ..Region::default() };
        let route = RegionRoute { region, ..RegionRoute::default() };
        let shown = |value: &Datum| match value.as_bytes() {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => "-".to_owned(),
        };
        let rows = tables.status_rows(&route);
        let rows = rows.iter().map(|row| format!("{}.{}", shown(&row[5]), shown(&row[8])));
        rows.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_region_has_a_row_for_all_that_it_holds() {
        let tables = KeySpace { tables: vec![table(1, &[(1, "i"), (2, "j")]), table(5, &[])] };
        let all = |start, end| held(&tables, start, end);
        assert_eq!(all(vec![], vec![]), "t1.i t1.j t1.- t5.-");
        assert_eq!(all(vec![], keys::table_prefix(TableId(1))), "-.-");
        assert_eq!(all(keys::table_prefix(TableId(2)), keys::table_prefix(TableId(3))), "-.-");
        assert_eq!(all(keys::row_prefix(TableId(1)), vec![]), "t1.- t5.-");
        let (start, end) = keys::index_range(TableId(1), IndexId(2));
        assert_eq!(all(start.clone(), end), "t1.j");
        assert_eq!(all(start, keys::row_prefix(TableId(5))), "t1.j t1.-");
        assert_eq!(all(keys::table_prefix(TableId(6)), vec![]), "-.-");
    }

    #[test]
    fn a_store_is_shown_in_columns_of_tidb() {
        let store = serde_json::json!({
            "id": 4, "address": "h:1", "state": "UP", "labels": ["zone=z1"], "version": "0.1.0",
            "capacity_bytes": 3_u64 << 30, "available_bytes": 1_u64 << 29, "leaders": 2,
            "leader_weight": 1.0, "leader_score": 2.0, "regions": 3,
            "region_weight": 1.0, "region_score": 3.5, "used_bytes": 5 << 20,
            "started_unix_ms": 1_000_000, "last_heartbeat_ms": 4_661_000,
        });
        let shown = store_row(&store, &TimeZone::utc());
        let shown: Vec<String> = shown
            .iter()
            .map(|value| match value {
                Datum::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Datum::Time(time) => time.to_string(),
                Datum::Int(value) => value.to_string(),
                Datum::Double(value) => value.to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        let expected = "4|h:1|0|Up|[{\"key\":\"zone\",\"value\":\"z1\"}]|0.1.0|3.00GiB|0.50GiB|2|1|2|Null|3|1|3.5|5|\
             1970-01-01 00:16:40|1970-01-01 01:17:41|1h1m1s";
        assert_eq!(shown.join("|"), expected);
    }
}
