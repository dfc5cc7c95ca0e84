//! `cairn ctl`: tables for people, JSON for scripts.

use cairn_pd_client::{GrpcPdClient, PdClient, RegionRoute};
use cairn_proto::meta::{Region, StoreState};
use cairn_types::TimeStamp;
use comfy_table::Table;
use serde_json::{Value, json};

use crate::error::StartError;
use crate::options::{CtlArgs, CtlCommand, MemberAction};
use crate::roles::{announce, connect_pd};

/// Regions asked for at a time.
const REGIONS_PAGE: u32 = 1_000;

/// Runs a `ctl` command.
pub async fn run(args: CtlArgs) -> Result<(), StartError> {
    let pd = connect_pd(&args.pd).await?;
    let rows = match &args.command {
        CtlCommand::Member { action } => members(&pd, action.as_ref()).await?,
        CtlCommand::Store { id } => stores(&pd, *id).await?,
        CtlCommand::Region { id } => regions(&pd, *id).await?,
        CtlCommand::Tso { timestamp } => timestamp_parts(&pd, *timestamp).await?,
        CtlCommand::Config { prefix } => config(&pd, prefix.as_deref().unwrap_or("")).await?,
    };
    announce(&if args.json { json_text(&rows) } else { table_text(&rows) });
    Ok(())
}

fn json_text(rows: &[Value]) -> String {
    serde_json::to_string_pretty(rows).unwrap_or_default()
}

/// Rows are objects with the same keys in the same order.
fn table_text(rows: &[Value]) -> String {
    let Some(first) = rows.first().and_then(Value::as_object) else { return "none".to_owned() };
    let mut table = Table::new();
    table.set_header(first.keys());
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts = list
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(" ")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    };
    for row in rows.iter().filter_map(Value::as_object) {
        table.add_row(row.values().map(cell));
    }
    table.to_string()
}

async fn members(
    pd: &GrpcPdClient,
    action: Option<&MemberAction>,
) -> Result<Vec<Value>, StartError> {
    match action {
        Some(MemberAction::Remove { member }) => {
            let warning = pd.remove_member(member).await?;
            if !warning.is_empty() {
                tracing::warn!("{warning}");
            }
        }
        Some(MemberAction::Transfer { member }) => pd.transfer_member(member).await?,
        Some(MemberAction::Leader) | None => {}
    }
    let (members, leader) = pd.members().await?;
    let leader_id = leader.map_or(0, |leader| leader.member_id);
    let only_leader = matches!(action, Some(MemberAction::Leader));
    let shown = members.iter().filter(|member| !only_leader || member.member_id == leader_id);
    let rows = shown.map(|member| {
        json!({
            "name": member.name,
            "id": member.member_id,
            "address": member.client_url,
            "role": if member.learner { "learner" } else { "voter" },
            "leader": member.member_id == leader_id,
            "healthy": member.healthy,
            "log_index": member.log_index,
        })
    });
    Ok(rows.collect())
}

async fn stores(pd: &dyn PdClient, only: Option<u64>) -> Result<Vec<Value>, StartError> {
    let stores = pd.get_all_stores().await?;
    let rows = stores.iter().filter(|(store, _)| only.is_none_or(|id| id == store.id));
    let rows = rows.map(|(store, stats)| {
        let state = StoreState::try_from(store.state).map_or("?", |state| state.as_str_name());
        let labels: Vec<String> =
            store.labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
        json!({
            "id": store.id,
            "address": store.address,
            "state": state,
            "regions": stats.region_count,
            "leaders": stats.leader_count,
            "used_bytes": stats.used_bytes,
            "labels": labels,
            "version": store.version,
        })
    });
    Ok(rows.collect())
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn region_row(route: &RegionRoute) -> Value {
    let Region { id, start_key, end_key, epoch, peers } = &route.region;
    let epoch = epoch.unwrap_or_default();
    let pending: Vec<u64> = route.pending_peers.iter().map(|peer| peer.id).collect();
    let down: Vec<u64> = route
        .down_peers
        .iter()
        .filter_map(|stats| stats.peer.as_ref())
        .map(|peer| peer.id)
        .collect();
    let peer_texts: Vec<String> = peers
        .iter()
        .map(|peer| {
            let learner = if peer.role == 0 { "" } else { "(learner)" };
            format!("{}@{}{learner}", peer.id, peer.store_id)
        })
        .collect();
    json!({
        "id": id,
        "start_key": hex(start_key),
        "end_key": hex(end_key),
        "epoch": format!("{}/{}", epoch.conf_ver, epoch.version),
        "leader_store": route.leader.as_ref().map(|leader| leader.store_id),
        "peers": peer_texts,
        "pending": pending,
        "down": down,
        "size_bytes": route.approximate_size_bytes,
        "keys": route.approximate_keys,
    })
}

async fn regions(pd: &dyn PdClient, only: Option<u64>) -> Result<Vec<Value>, StartError> {
    if let Some(id) = only {
        return Ok(vec![region_row(&pd.get_region_by_id(id).await?)]);
    }
    let mut rows = Vec::new();
    let mut start: Vec<u8> = Vec::new();
    loop {
        let page = pd.scan_regions(&start, b"", REGIONS_PAGE).await?;
        rows.extend(page.iter().map(region_row));
        match page.last() {
            Some(last)
                if !last.region.end_key.is_empty() && page.len() == REGIONS_PAGE as usize =>
            {
                start = last.region.end_key.to_vec();
            }
            _ => return Ok(rows),
        }
    }
}

async fn timestamp_parts(pd: &dyn PdClient, given: Option<u64>) -> Result<Vec<Value>, StartError> {
    let timestamp = match given {
        Some(timestamp) => TimeStamp(timestamp),
        None => pd.get_ts().await?,
    };
    Ok(vec![json!({
        "timestamp": timestamp.0,
        "physical_ms": timestamp.physical_ms(),
        "logical": timestamp.logical(),
    })])
}

async fn config(pd: &dyn PdClient, prefix: &str) -> Result<Vec<Value>, StartError> {
    let entries = pd.get_config(prefix).await?;
    let rows = entries
        .iter()
        .map(|entry| json!({ "key": entry.key, "value": String::from_utf8_lossy(&entry.value) }));
    Ok(rows.collect())
}
