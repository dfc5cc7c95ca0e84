//! `cairn ctl`: tables for people, JSON for scripts.
//!
//! Most commands are orders to PD, which answers rows; what they are and how their
//! fields are named is the placement driver's business. [`options`] turns the command
//! line into orders.

pub mod options;
mod recover;

use std::time::Duration;

use cairn_pd_client::{GrpcPdClient, Order, PdClient, RegionRoute};
use cairn_proto::meta::Region;
use cairn_proto::pd::Member;
use cairn_types::TimeStamp;
use comfy_table::Table;
use serde_json::{Value, json};

use self::options::{
    ConfigAction, OperatorAction, RecoverAction, RegionAction, RuleAction, SchedulerAction,
};
use crate::error::StartError;
use crate::options::{CtlArgs, CtlCommand, MemberAction, endpoints};
use crate::roles::{announce, connect_pd, connect_pd_within};

/// How long a look at the members waits for one that leads: longer than an election.
const LEADER_PATIENCE: Duration = Duration::from_secs(4);
/// Regions asked for at a time.
const REGIONS_PAGE: u32 = 1_000;

/// Runs a `ctl` command.
pub async fn run(args: CtlArgs) -> Result<(), StartError> {
    if let CtlCommand::Member { action: None } = &args.command {
        announce_rows(&list_members(&args.pd).await?, args.json);
        return Ok(());
    }
    let pd = connect_pd(&args.pd).await?;
    let rows = match args.command {
        CtlCommand::Member { action } => members(&pd, action.as_ref()).await?,
        CtlCommand::Store { id, action: None } => ask(&pd, Order::Stores { id }).await?,
        CtlCommand::Store { id, action: Some(action) } => ask(&pd, action.order(id)?).await?,
        CtlCommand::Region { id, action: None } => regions(&pd, id).await?,
        CtlCommand::Region { action: Some(RegionAction::Key { key }), .. } => {
            vec![region_row(&pd.get_region(&bytes_of_hex(&key)?).await?)]
        }
        CtlCommand::Region { action: Some(action), .. } => match action.order() {
            Some(order) => ask(&pd, order).await?,
            None => Vec::new(),
        },
        CtlCommand::Operator { action } => {
            ask(&pd, action.unwrap_or(OperatorAction::List).order()).await?
        }
        CtlCommand::Scheduler { action } => {
            ask(&pd, action.unwrap_or(SchedulerAction::List).order()).await?
        }
        CtlCommand::Rule { action } => {
            ask(&pd, action.unwrap_or(RuleAction::List { group: None }).order()?).await?
        }
        CtlCommand::Hot { action } => ask(&pd, action.order()).await?,
        CtlCommand::Recover { action: RecoverAction::Meta { stores, allow_missing_stores } } => {
            recover::meta(&pd, &endpoints(&stores), allow_missing_stores).await?
        }
        CtlCommand::Recover {
            action: RecoverAction::RemoveFailedStores { stores, accept_data_loss },
        } => {
            let accepts_data_loss = accept_data_loss;
            ask(&pd, Order::RemoveFailedStores { stores, accepts_data_loss }).await?
        }
        CtlCommand::Recover { action: RecoverAction::Show } => ask(&pd, Order::Recovery).await?,
        CtlCommand::Tso { timestamp } => timestamp_parts(&pd, timestamp).await?,
        CtlCommand::Config { action } => {
            let shown = ConfigAction::Show { prefix: String::new() };
            match action.unwrap_or(shown).order() {
                Ok(order) => ask(&pd, order).await?,
                Err(prefix) => entries(&pd, &prefix).await?,
            }
        }
    };
    announce_rows(&rows, args.json);
    Ok(())
}

fn announce_rows(rows: &[Value], json: bool) {
    announce(&if json { json_text(rows) } else { table_text(rows) });
}

fn json_text(rows: &[Value]) -> String {
    serde_json::to_string_pretty(rows).unwrap_or_default()
}

/// Rows are objects with the same keys in the same order. A column in which no row has
/// anything is left out: people look for what there is.
fn table_text(rows: &[Value]) -> String {
    let Some(first) = rows.first().and_then(Value::as_object) else { return "none".to_owned() };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let shown: Vec<&String> =
        first.keys().filter(|name| !rows.iter().all(|row| is_empty(&row[name.as_str()]))).collect();
    let mut table = Table::new();
    table.set_header(&shown);
    for row in rows {
        table.add_row(shown.iter().map(|name| cell_text(name, &row[name.as_str()])));
    }
    table.to_string()
}

/// A value for people.
fn cell_text(name: &str, value: &Value) -> String {
    match value {
        Value::Number(number) if name.ends_with("_bytes") => {
            number.as_u64().map_or_else(|| number.to_string(), size_text)
        }
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts = list
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(" ")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A size for people.
fn size_text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => bytes.to_string(),
    }
}

/// The members; while nobody leads, as one of them knows the list.
async fn list_members(list: &str) -> Result<Vec<Value>, StartError> {
    match connect_pd_within(list, LEADER_PATIENCE).await {
        Ok(pd) => members(&pd, None).await,
        Err(error) => {
            let known = GrpcPdClient::members_of_any(&endpoints(list)).await;
            tracing::warn!("{error}");
            Ok(member_rows(&known.map_err(|_| error)?, 0))
        }
    }
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
    let mut rows = member_rows(&members, leader_id);
    rows.retain(|row| !only_leader || row["leader"] == true);
    Ok(rows)
}

fn member_rows(members: &[Member], leader_id: u64) -> Vec<Value> {
    let rows = members.iter().map(|member| {
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
    rows.collect()
}

/// Gives PD an order; answers its rows.
async fn ask(pd: &dyn PdClient, order: Order) -> Result<Vec<Value>, StartError> {
    let rows = pd.steer(order).await?;
    serde_json::from_str(&rows)
        .map_err(|error| StartError::Config(format!("the placement driver's answer: {error}")))
}

fn bytes_of_hex(text: &str) -> Result<Vec<u8>, StartError> {
    let bad = || StartError::Config(format!("'{text}' is no key in hex"));
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad());
    (0..text.len()).step_by(2).map(byte).collect()
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02X}")).collect()
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

async fn entries(pd: &dyn PdClient, prefix: &str) -> Result<Vec<Value>, StartError> {
    let entries = pd.get_config(prefix).await?;
    let rows = entries
        .iter()
        .map(|entry| json!({ "key": entry.key, "value": String::from_utf8_lossy(&entry.value) }));
    Ok(rows.collect())
}
