//! Recovery after stores were lost for good: ordered, watched, and what it found.

use cairn_pd_client::PdError;
use cairn_proto::meta::{Region, Store, StoreState};
use cairn_types::codec::decode_i64;
use cairn_types::keys::TABLE_PREFIX;
use serde_json::{Value, json};

use super::{ROWS_MAX, refused};
use crate::server::PdServer;
use crate::state::recovery::{Recovery, RecoveryStage};

impl PdServer {
    pub(super) async fn remove_failed_stores(
        &self,
        mut stores: Vec<u64>,
        accepts_data_loss: bool,
    ) -> Result<Vec<Value>, PdError> {
        stores.sort_unstable();
        stores.dedup();
        self.check_failed_stores(&stores)?;
        if !accepts_data_loss {
            return Err(refused(
                "what only these stores had is lost for good, and they can never come back: \
                 say so with --accept-data-loss",
            ));
        }
        self.begin_recovery(stores).await?;
        Ok(self.recovery_rows())
    }

    fn check_failed_stores(&self, stores: &[u64]) -> Result<(), PdError> {
        let now_ms = self.clock.monotonic_ms();
        let state = self.shared().state().read();
        let cluster = self.cluster.lock();
        if state.running_recovery().is_some() {
            return Err(refused("a recovery is under way: see `ctl recover show`"));
        }
        if stores.is_empty() {
            return Err(refused("which stores?"));
        }
        for id in stores {
            let store = state.stores.get(id);
            let store = store.ok_or_else(|| PdError::StoreNotFound(format!("store {id}")))?;
            if cluster.is_heard(store, now_ms) {
                let silence_s = cluster.silence_ms(*id, now_ms) / 1_000;
                return Err(refused(format!(
                    "store {id} was heard {silence_s} s ago (or the placement driver has just \
                     started): a failed store is silent for {} s",
                    cluster.view().config.disconnected_ms() / 1_000
                )));
            }
        }
        let lives =
            |store: &Store| store.state() != StoreState::Tombstone && !stores.contains(&store.id);
        if !state.stores.values().any(lives) {
            return Err(refused("no store would be left"));
        }
        Ok(())
    }

    /// One row about the whole, then one per region and range that people should look at.
    pub(super) fn recovery_rows(&self) -> Vec<Value> {
        let state = self.shared().state().read();
        let Some(recovery) = &state.recovery else { return Vec::new() };
        let mut details = vec![format!(
            "{} regions forced, {} lost, {} peers removed",
            recovery.forced.len(),
            recovery.created.len(),
            recovery.removed.len()
        )];
        if recovery.runs() {
            let (silent, waits) = self.recovery_waits(&state);
            if !silent.is_empty() {
                let ids: Vec<String> = silent.iter().map(u64::to_string).collect();
                details.push(format!("waiting for the report of store {}", ids.join(", ")));
            }
            details.extend(waits.into_iter().take(WAITS_SHOWN_MAX));
        }
        if !recovery.reason.is_empty() {
            details.push(recovery.reason.clone());
        }
        let mut rows = vec![summary(recovery, &details.join("; "))];
        let forced = recovery.forced.iter().filter_map(|one| {
            let detail = "its last writes may be missing";
            Some(region_row("suspect", one.region.as_ref()?, one.store_id, detail))
        });
        let created = recovery.created.iter().map(|region| {
            let store_id = region.peers.first().map_or(0, |peer| peer.store_id);
            region_row("lost", region, store_id, "nothing was left; an empty region took its place")
        });
        let removed = recovery.removed.iter().filter_map(|one| {
            let detail = "a peer of an older state of this range, or without data, was removed";
            Some(region_row("removed", one.region.as_ref()?, one.store_id, detail))
        });
        rows.extend(created.chain(forced).chain(removed).take(ROWS_MAX));
        rows
    }
}

/// Regions that are waited for, in the summary.
const WAITS_SHOWN_MAX: usize = 8;

fn summary(recovery: &Recovery, detail: &str) -> Value {
    let state = match recovery.stage() {
        RecoveryStage::Collecting => "collecting",
        RecoveryStage::Forcing => "forcing",
        RecoveryStage::Creating => "creating",
        RecoveryStage::Finished => "finished",
        RecoveryStage::Failed => "failed",
    };
    let ended = (recovery.ended_unix_ms > 0).then_some(recovery.ended_unix_ms);
    json!({
        "what": "recovery",
        "state": state,
        "stores": recovery.failed_stores,
        "region": Value::Null,
        "start_key": Value::Null,
        "end_key": Value::Null,
        "tables": Value::Null,
        "detail": detail,
        "began_unix_ms": recovery.began_unix_ms,
        "ended_unix_ms": ended,
    })
}

fn region_row(what: &str, region: &Region, store_id: u64, detail: &str) -> Value {
    json!({
        "what": what,
        "state": Value::Null,
        "stores": [store_id],
        "region": region.id,
        "start_key": hex(&region.start_key),
        "end_key": hex(&region.end_key),
        "tables": tables(region),
        "detail": detail,
        "began_unix_ms": Value::Null,
        "ended_unix_ms": Value::Null,
    })
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Ids of the tables the range may hold rows of, as `7`, `7-9` or `7-`; empty if it cannot be
/// told.
fn tables(region: &Region) -> String {
    let table_of = |key: &[u8]| {
        let mut rest = key.strip_prefix(&[TABLE_PREFIX])?;
        decode_i64(&mut rest).ok()
    };
    match (table_of(&region.start_key), table_of(&region.end_key)) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first}-{last}"),
        (Some(first), None) => format!("{first}-"),
        (None, Some(last)) => format!("-{last}"),
        (None, None) => String::new(),
    }
}
