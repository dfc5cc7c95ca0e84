//! Heart beats of a transaction that holds locks: while its client lives, nobody rolls it back
//! for its age.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::TxnHeartBeatRequest;
use cairn_types::TimeStamp;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::backoff::Deadline;
use crate::client::KvClient;
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions, expect_response};

/// Life of a pessimistic lock without a heart beat: so long others wait for a transaction whose
/// client died. Longer than a region is without a leader when its own dies (two seconds), for
/// nobody can beat then, and than a new leader of PD may be ahead of the last one (three seconds).
pub(super) const LOCK_TTL_MS: u64 = 6_000;
const HEART_BEAT_EVERY: Duration = Duration::from_secs(1);
/// Between one that failed and the next.
const REPEAT_EVERY: Duration = Duration::from_millis(200);
/// How long a beat waits for PD's time; behind it, our own clock has to do.
const CLOCK_PATIENCE: Duration = Duration::from_millis(200);
/// A transaction that is open for longer is given up, unless it is about to commit.
pub(super) const TXN_AGE_MAX_MS: u64 = 3_600_000;
/// The same for a bulk transaction, which nobody holds open by mistake: as long as garbage collection
/// waits for one (`tidb_gc_max_wait_time`).
pub(super) const BULK_AGE_MAX_MS: u64 = 86_400_000;

/// Heart beats until dropped.
pub(super) struct KeepAlive {
    beating: AbortHandle,
    is_over: Arc<AtomicBool>,
}

impl KeepAlive {
    /// Keeps the locks of an open transaction alive, as [`keep_alive`] does, until it is too old.
    pub fn start(
        client: Arc<KvClient>,
        start_ts: TimeStamp,
        primary: Bytes,
        open_ms: u64,
        age_max_ms: u64,
    ) -> KeepAlive {
        let left_ms = age_max_ms.saturating_sub(open_ms);
        let is_over = Arc::new(AtomicBool::new(false));
        let beating = {
            let is_over = is_over.clone();
            async move {
                let beating =
                    beat(&client, start_ts, &primary, open_ms, LOCK_TTL_MS, Some(&is_over));
                if tokio::time::timeout(Duration::from_millis(left_ms), beating).await.is_err() {
                    tracing::warn!(start_ts = start_ts.0, "a transaction is open for too long");
                    is_over.store(true, Ordering::Release);
                }
            }
        };
        KeepAlive { beating: tokio::spawn(beating).abort_handle(), is_over }
    }

    /// Whether the transaction cannot be committed any more: its primary's lock stood once and is
    /// gone, or nobody keeps it alive since it is too old.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Keeps the lock of a transaction's primary alive, for `life_ms` at a time. The transaction has
/// been open for `open_ms` by PD's clock.
pub(super) async fn keep_alive(
    client: &KvClient,
    start_ts: TimeStamp,
    primary: &Bytes,
    open_ms: u64,
    life_ms: u64,
) -> Infallible {
    beat(client, start_ts, primary, open_ms, life_ms, None).await
}

/// As [`keep_alive`]; `is_over` is told once a lock that stood is gone.
async fn beat(
    client: &KvClient,
    start_ts: TimeStamp,
    primary: &Bytes,
    open_ms: u64,
    life_ms: u64,
    is_over: Option<&AtomicBool>,
) -> Infallible {
    let mut has_stood = false;
    let mut age = Age { start_ts, open_ms, at: Instant::now() };
    let mut pause = HEART_BEAT_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let ttl_ms = age.read(client).await.saturating_add(life_ms);
        let beat = client.extend_lock(primary, start_ts, ttl_ms);
        pause = match beat.await {
            Ok(stands) => {
                if let Some(is_over) = is_over.filter(|_| has_stood && !stands) {
                    is_over.store(true, Ordering::Release);
                }
                has_stood |= stands;
                HEART_BEAT_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "heart beat of a transaction failed");
                REPEAT_EVERY
            }
        };
    }
}

/// How long a transaction has been open, by PD's clock.
struct Age {
    start_ts: TimeStamp,
    open_ms: u64,
    /// When that was so.
    at: Instant,
}

impl Age {
    /// Does not depend on PD: who waits for its next leader keeps his locks.
    async fn read(&mut self, client: &KvClient) -> u64 {
        match tokio::time::timeout(CLOCK_PATIENCE, client.current_ts()).await {
            Ok(Ok(now)) => {
                self.open_ms = now.physical_ms().saturating_sub(self.start_ts.physical_ms());
                self.at = Instant::now();
                self.open_ms
            }
            Ok(Err(_)) | Err(_) => {
                let since_ms = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.open_ms.saturating_add(since_ms)
            }
        }
    }
}

impl KvClient {
    /// One heart beat, tried until the next is due: the primary lock lives at least `ttl_ms`,
    /// counted from `start_ts`. `false`: a lock that is not there may yet come (it is under way), or was
    /// removed by others, which the commit will find out.
    async fn extend_lock(
        &self,
        primary: &Bytes,
        start_ts: TimeStamp,
        ttl_ms: u64,
    ) -> Result<bool, KvError> {
        let build = || {
            Cmd::TxnHeartBeat(TxnHeartBeatRequest {
                primary: primary.clone(),
                start_ts: start_ts.0,
                advise_ttl_ms: ttl_ms,
            })
        };
        let options = RequestOptions::default();
        let mut retrier = self.retrier_until(Deadline::after(HEART_BEAT_EVERY));
        let sent = self.cache.send_to_key(primary, &options, &mut retrier, &build).await?;
        expect_response!(sent, TxnHeartBeat).map(|response| response.error.is_none())
    }
}
