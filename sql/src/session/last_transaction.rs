//! `@@tidb_last_txn_info`: what became of the session's last transaction that wrote something.
//!
//! The value is TiDB's JSON object, field by field; there is one scope. Pipelined transactions are
//! those of `tidb_dml_type = 'bulk'`.

use cairn_kv_client::{CommitInfo, CommitKind, KvError};
use cairn_types::TimeStamp;
use serde::Serialize;

/// The last transaction, as TiDB shows it.
#[derive(Debug, Serialize)]
pub struct LastTransaction {
    txn_scope: &'static str,
    start_ts: u64,
    commit_ts: u64,
    txn_commit_mode: &'static str,
    async_commit_fallback: bool,
    one_pc_fallback: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    pipelined: bool,
    flush_wait_ms: u64,
}

impl LastTransaction {
    /// After COMMIT of the transaction that began at `start_ts`.
    pub fn new(start_ts: TimeStamp, is_bulk: bool, outcome: &Result<CommitInfo, KvError>) -> Self {
        let flush_wait = |info: &CommitInfo| info.flush_wait.map(|wait| wait.as_millis());
        let info = outcome.as_ref().ok();
        Self {
            txn_scope: "global",
            start_ts: start_ts.0,
            commit_ts: info.map_or(0, |info| info.commit_ts.0),
            txn_commit_mode: match info.map(|info| info.kind) {
                Some(CommitKind::OnePhase) => "1pc",
                Some(CommitKind::Async) => "async_commit",
                Some(CommitKind::TwoPhases) | None => "2pc",
            },
            async_commit_fallback: info.is_some_and(|info| info.async_commit_fallback),
            one_pc_fallback: info.is_some_and(|info| info.one_pc_fallback),
            error: outcome.as_ref().err().map(KvError::to_string),
            pipelined: is_bulk,
            flush_wait_ms: info.and_then(flush_wait).map_or(0, |ms| ms as u64),
        }
    }

    /// The variable's value.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_tidb_shows_it() {
        let info = CommitInfo {
            commit_ts: TimeStamp(12),
            kind: CommitKind::Async,
            one_pc_fallback: false,
            async_commit_fallback: false,
            flush_wait: None,
        };
        assert_eq!(
            LastTransaction::new(TimeStamp(7), false, &Ok(info)).to_json(),
            r#"{"txn_scope":"global","start_ts":7,"commit_ts":12,"txn_commit_mode":"async_commit","async_commit_fallback":false,"one_pc_fallback":false,"pipelined":false,"flush_wait_ms":0}"#
        );
        let failed = Err(KvError::TxnEnded { start_ts: 7 });
        let json = LastTransaction::new(TimeStamp(7), false, &failed).to_json();
        assert!(json.contains(r#""commit_ts":0,"txn_commit_mode":"2pc""#), "{json}");
        assert!(json.contains(r#""error":""#), "{json}");
    }
}
