//! Heart beats of a transaction, and those of one that holds pessimistic locks: while its client
//! lives, nobody rolls it back for its age.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::TxnHeartBeatRequest;
use cairn_types::TimeStamp;
use tokio::task::AbortHandle;

use crate::backoff::Deadline;
use crate::client::KvClient;
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions, expect_response};

/// Life of a pessimistic lock without a heart beat: so long others wait for a transaction whose
/// client died.
pub(super) const LOCK_TTL_MS: u64 = 12_000;
/// Two of three may be lost.
const HEART_BEAT_EVERY: Duration = Duration::from_millis(LOCK_TTL_MS / 3);
/// A transaction that is open for longer is given up.
const TXN_AGE_MAX_MS: u64 = 3_600_000;

/// Heart beats until dropped.
pub(super) struct KeepAlive(AbortHandle);

impl KeepAlive {
    /// Keeps the transaction's primary lock alive.
    pub fn start(client: Arc<KvClient>, start_ts: TimeStamp, primary: Bytes) -> KeepAlive {
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEART_BEAT_EVERY).await;
                match beat(&client, start_ts, &primary).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => tracing::debug!(%error, "heart beat of a transaction failed"),
                }
            }
        });
        KeepAlive(beating.abort_handle())
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the transaction lives.
async fn beat(
    client: &Arc<KvClient>,
    start_ts: TimeStamp,
    primary: &Bytes,
) -> Result<bool, KvError> {
    let now = client.current_ts().await?;
    let open_ms = now.physical_ms().saturating_sub(start_ts.physical_ms());
    if open_ms > TXN_AGE_MAX_MS {
        tracing::warn!(start_ts = start_ts.0, "a transaction is open for too long");
        return Ok(false);
    }
    client.extend_lock(primary, start_ts, open_ms + LOCK_TTL_MS, HEART_BEAT_EVERY).await
}

impl KvClient {
    /// One heart beat, tried for `patience`: the primary lock lives at least `ttl_ms`, counted from
    /// `start_ts`. Answers whether it is there.
    pub(super) async fn extend_lock(
        &self,
        primary: &Bytes,
        start_ts: TimeStamp,
        ttl_ms: u64,
        patience: Duration,
    ) -> Result<bool, KvError> {
        let build = || {
            Cmd::TxnHeartBeat(TxnHeartBeatRequest {
                primary: primary.clone(),
                start_ts: start_ts.0,
                advise_ttl_ms: ttl_ms,
            })
        };
        let options = RequestOptions::default();
        let mut retrier = self.retrier_until(Deadline::after(patience));
        let sent = self.cache.send_to_key(primary, &options, &mut retrier, &build).await?;
        Ok(expect_response!(sent, TxnHeartBeat)?.error.is_none())
    }
}
