//! Timestamps and ids: handed out from memory, below durable bounds.

use cairn_pd_client::PdError;
use cairn_types::TimeStamp;
use cairn_types::sabotage::{Bug, planted};

use crate::server::PdServer;
use crate::state::Kind;
use crate::tso::{Allocated, COUNT_MAX};

/// Ids made durable at once.
const ID_BATCH: u64 = 1_000;
/// Ids of one request.
const IDS_MAX: u32 = 100_000;

/// Ids that may be handed out without asking the log.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u64,
    /// The last of them.
    bound: u64,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids { next: 1, bound: 0 }
    }
}

impl Ids {
    /// `count` ids from memory; the first.
    fn take(&mut self, count: u64) -> Option<u64> {
        let first = self.next;
        if first + count - 1 > self.bound {
            return None;
        }
        self.next += count;
        Some(first)
    }

    /// Ids up to this one may have been handed out by others.
    pub fn skip(&mut self, used: u64) {
        self.next = self.next.max(used.saturating_add(1));
        self.bound = self.bound.max(used);
    }
}

impl PdServer {
    /// `count` consecutive timestamps without waiting; answers the last.
    pub fn try_get_ts(&self, count: u32) -> Option<TimeStamp> {
        self.check_leads().ok()?;
        match self.tso.try_alloc(count) {
            Allocated::Last(ts) => Some(ts),
            Allocated::NeedsBound(_) => None,
        }
    }

    /// `count` consecutive timestamps; answers the last.
    pub async fn get_ts(&self, count: u32) -> Result<TimeStamp, PdError> {
        if count > COUNT_MAX {
            return Err(PdError::InvalidArgument(format!("{count} timestamps at once")));
        }
        loop {
            // The lease comes first: what is allocated behind it lies above everything
            // handed out before the caller asked.
            self.check_leads()?;
            let bound_ms = match self.tso.try_alloc(count) {
                Allocated::Last(ts) => return Ok(ts),
                Allocated::NeedsBound(bound_ms) => bound_ms,
            };
            let _renewing = self.tso_renewal.lock().await;
            self.check_leads()?;
            // Somebody else may have renewed it while we waited for our turn.
            if let Allocated::Last(ts) = self.tso.try_alloc(count) {
                return Ok(ts);
            }
            self.make_bound_durable(bound_ms).await?;
        }
    }

    pub(crate) async fn make_bound_durable(&self, bound_ms: u64) -> Result<(), PdError> {
        if !planted(Bug::TsoBoundNotDurable) {
            self.replication.propose(Kind::TsoBound(bound_ms)).await?;
        }
        self.tso.raise_bound(bound_ms);
        Ok(())
    }

    /// `count` consecutive ids; answers the first.
    pub async fn alloc_ids(&self, count: u32) -> Result<u64, PdError> {
        if count == 0 || count > IDS_MAX {
            return Err(PdError::InvalidArgument(format!("{count} ids at once")));
        }
        let take = || self.ids.lock().take(u64::from(count));
        loop {
            // Not a matter of the lease: ids below a durable bound of ours are nobody
            // else's, however late we are.
            if let Some(first) = take() {
                return Ok(first);
            }
            let _renewing = self.id_renewal.lock().await;
            if let Some(first) = take() {
                return Ok(first);
            }
            let bound = self.ids.lock().bound + u64::from(count) + ID_BATCH;
            self.replication.propose(Kind::IdBound(bound)).await?;
            let mut ids = self.ids.lock();
            ids.bound = ids.bound.max(bound);
        }
    }
}
