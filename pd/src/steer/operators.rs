//! Operators: what is under way, what was done and why, and those begun by hand.

use bytes::Bytes;
use cairn_pd_client::PdError;
use cairn_pd_client::order::NewOperator;
use cairn_proto::meta::PeerRole;
use serde_json::{Value, json};

use super::refused;
use crate::cluster::Cluster;
use crate::operator::builder::{self, Wanted};
use crate::operator::history::Entry;
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::placement::from_hex;
use crate::server::PdServer;
use crate::state::State;
use crate::view::RegionView;

/// Regions of one request to scatter.
const SCATTER_MAX: usize = 10_000;

impl PdServer {
    pub(crate) fn operator_rows(&self) -> Vec<Value> {
        let now_ms = self.now().ms;
        let cluster = self.cluster.lock();
        let rows = cluster.operators().map(|running| {
            let operator = &running.operator;
            json!({
                "region_id": operator.region_id,
                "kind": operator.kind.name(),
                "priority": operator.priority.name(),
                "steps": operator.steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "step": running.step,
                "age_ms": now_ms.saturating_sub(running.admitted_ms),
                "reason": operator.reason,
            })
        });
        rows.collect()
    }

    pub(super) fn operator_history(&self, region_id: Option<u64>, limit: usize) -> Vec<Value> {
        let cluster = self.cluster.lock();
        let wanted = |entry: &&Entry| region_id.is_none_or(|id| id == entry.region_id);
        cluster.history().newest().filter(wanted).take(limit).map(history_row).collect()
    }

    pub(super) fn cancel_operator(&self, region_id: u64) -> Result<Vec<Value>, PdError> {
        let now = self.now();
        match self.cluster.lock().cancel(region_id, now) {
            true => Ok(vec![json!({ "cancelled": region_id })]),
            false => Err(refused(format!("region {region_id} has no operator"))),
        }
    }

    pub(super) async fn add_operator(&self, new: NewOperator) -> Result<Vec<Value>, PdError> {
        let operators = {
            let now = self.now();
            let state = self.shared().state().read();
            let mut cluster = self.cluster.lock();
            cluster.refresh(&state, now);
            match &new {
                NewOperator::MergeRegion { source_id, target_id } => {
                    cluster.merge_by_hand(&state, (*source_id, *target_id))?
                }
                NewOperator::ScatterRegion { region_id } => {
                    let group = format!("region {region_id}");
                    let scattered = cluster.scatter(&state, (*region_id, &group), now)?;
                    scattered.into_iter().collect()
                }
                _ => vec![by_hand(&new, &state, &cluster)?],
            }
        };
        let region_ids: Vec<u64> = operators.iter().map(|operator| operator.region_id).collect();
        if !region_ids.is_empty() && !self.admit(operators).await? {
            return Err(refused(format!("an operator of region {region_ids:?} is under way")));
        }
        let rows = self.operator_rows().into_iter();
        let ours = |row: &Value| region_ids.iter().any(|id| row["region_id"] == *id);
        Ok(rows.filter(ours).collect())
    }

    /// Spreads regions of a group; answers those that could not be spread now.
    pub async fn scatter_regions(
        &self,
        region_ids: &[u64],
        group: &str,
    ) -> Result<Vec<u64>, PdError> {
        if region_ids.len() > SCATTER_MAX || group.len() > 256 {
            return Err(refused(format!("{} regions to scatter at once", region_ids.len())));
        }
        let mut left = Vec::new();
        for region_id in region_ids {
            let operator = {
                let state = self.shared().state().read();
                self.cluster.lock().scatter(&state, (*region_id, group), self.now())
            };
            match operator {
                Ok(None) => {}
                Ok(Some(operator)) => {
                    if !self.admit(vec![operator]).await? {
                        left.push(*region_id);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a region is not scattered");
                    left.push(*region_id);
                }
            }
        }
        Ok(left)
    }
}

fn history_row(entry: &Entry) -> Value {
    json!({
        "number": entry.number,
        "region_id": entry.region_id,
        "kind": entry.kind.name(),
        "ending": entry.ending.name(),
        "ending_reason": entry.ending_reason,
        "began_unix_ms": entry.began_unix_ms,
        "took_ms": entry.took_ms,
        "steps": entry.steps,
        "steps_done": entry.steps_done,
        "reason": entry.reason,
    })
}

/// The operator of one region that somebody asks for.
fn by_hand(new: &NewOperator, state: &State, cluster: &Cluster) -> Result<Operator, PdError> {
    let store = |id: u64| match cluster.view().stores.contains_key(&id) {
        true => Ok(id),
        false => Err(PdError::StoreNotFound(format!("store {id}"))),
    };
    let find = |region_id: u64| cluster.found(state, region_id);
    let has_peer = |region: &RegionView<'_>, store_id: u64| match region.peer_on(store_id) {
        Some(peer) => Ok(*peer),
        None => Err(refused(format!("region {} has no peer on store {store_id}", region.id()))),
    };
    let free_of = |region: &RegionView<'_>, store_id: u64| match region.peer_on(store_id) {
        None => Ok(()),
        Some(_) => {
            Err(refused(format!("region {} has a peer on store {store_id} already", region.id())))
        }
    };
    let (region, wanted) = match new {
        NewOperator::TransferLeader { region_id, store_id } => {
            let region = find(*region_id)?;
            if has_peer(&region, store(*store_id)?)?.role() == PeerRole::Learner {
                return Err(refused(format!("the peer on store {store_id} does not vote")));
            }
            (region, Wanted { leader: Some(*store_id), ..Wanted::of(&region) })
        }
        NewOperator::AddPeer { region_id, store_id } => {
            let region = find(*region_id)?;
            free_of(&region, store(*store_id)?)?;
            (region, Wanted::of(&region).with(*store_id, PeerRole::Voter))
        }
        NewOperator::AddLearner { region_id, store_id } => {
            let region = find(*region_id)?;
            free_of(&region, store(*store_id)?)?;
            (region, Wanted::of(&region).with(*store_id, PeerRole::Learner))
        }
        NewOperator::RemovePeer { region_id, store_id } => {
            let region = find(*region_id)?;
            has_peer(&region, *store_id)?;
            (region, Wanted::of(&region).without(*store_id))
        }
        NewOperator::TransferPeer { region_id, from, to } => {
            let region = find(*region_id)?;
            has_peer(&region, *from)?;
            free_of(&region, store(*to)?)?;
            (region, Wanted::of(&region).replace(*from, *to))
        }
        NewOperator::TransferRegion { region_id, stores } => {
            let region = find(*region_id)?;
            let mut wanted = Wanted::default();
            for id in stores {
                wanted = wanted.with(store(*id)?, PeerRole::Voter);
            }
            (region, wanted)
        }
        NewOperator::SplitRegion { region_id, keys } => {
            return split_by_hand(&find(*region_id)?, keys);
        }
        NewOperator::MergeRegion { .. } | NewOperator::ScatterRegion { .. } => {
            return Err(PdError::Internal("not an operator of one region".into()));
        }
    };
    let steps = builder::steps(&region, &wanted, cluster.view())
        .map_err(|reason| refused(format!("region {}: {reason}", region.id())))?;
    if steps.is_empty() {
        return Err(refused(format!("region {} is so already", region.id())));
    }
    Ok(Operator::new(region.id(), OperatorKind::Admin, steps).because("by hand"))
}

fn split_by_hand(region: &RegionView<'_>, keys: &[String]) -> Result<Operator, PdError> {
    let inside = |key: &Bytes| {
        *key > region.region.start_key
            && (region.region.end_key.is_empty() || *key < region.region.end_key)
    };
    let read = |text: &String| {
        let key = from_hex(text).ok_or_else(|| refused(format!("'{text}' is no key in hex")))?;
        match inside(&key) {
            true => Ok(key),
            false => Err(refused(format!("key {text} does not lie inside region {}", region.id()))),
        }
    };
    let mut keys = keys.iter().map(read).collect::<Result<Vec<Bytes>, PdError>>()?;
    keys.sort();
    keys.dedup();
    let version = region.region.epoch.unwrap_or_default().version;
    let steps = vec![OpStep::Split { keys, version }];
    Ok(Operator::new(region.id(), OperatorKind::Admin, steps).because("by hand"))
}
