//! Which read views are open, and which timestamps are too old to be read.
//!
//! Garbage collection keeps what the oldest open view sees: a SQL node tells the placement
//! driver [`KvClient::oldest_open_ts`], and learns from it below which timestamp versions
//! may be gone ([`KvClient::raise_safe_point`]). An answer counts only if its view is still
//! above that point *after* the answer came; so no reader is given a value that
//! collection made wrong.
//!
//! [`KvClient::oldest_open_ts`]: crate::KvClient::oldest_open_ts
//! [`KvClient::raise_safe_point`]: crate::KvClient::raise_safe_point

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_types::TimeStamp;
use parking_lot::Mutex;

use crate::error::KvError;

/// What the views of one client share.
#[derive(Debug, Default)]
pub(crate) struct Visibility {
    safe_point: AtomicU64,
    /// Timestamps of open views, with how many there are.
    open: Mutex<BTreeMap<TimeStamp, usize>>,
}

impl Visibility {
    /// Registers a view until the guard is dropped. The newest versions are never
    /// collected, so [`TimeStamp::MAX`] needs no guard.
    pub(crate) fn open(self: &Arc<Self>, start_ts: TimeStamp) -> Option<OpenView> {
        if start_ts.is_max() {
            return None;
        }
        *self.open.lock().entry(start_ts).or_default() += 1;
        Some(OpenView { visibility: Arc::clone(self), start_ts })
    }

    pub(crate) fn oldest(&self) -> Option<TimeStamp> {
        self.open.lock().keys().next().copied()
    }

    pub(crate) fn safe_point(&self) -> TimeStamp {
        TimeStamp(self.safe_point.load(Ordering::Acquire))
    }

    pub(crate) fn raise(&self, safe_point: TimeStamp) {
        self.safe_point.fetch_max(safe_point.0, Ordering::AcqRel);
    }

    /// Whether everything that a view at `start_ts` shows is still there.
    pub(crate) fn check(&self, start_ts: TimeStamp) -> Result<(), KvError> {
        let safe_point = self.safe_point();
        if start_ts >= safe_point {
            return Ok(());
        }
        Err(KvError::GcTooEarly {
            reason: format!(
                "the transaction starts at {}, the GC safe point is {}",
                start_ts.0, safe_point.0
            ),
        })
    }
}

/// A view that holds the safe point back.
#[derive(Debug)]
pub(crate) struct OpenView {
    visibility: Arc<Visibility>,
    start_ts: TimeStamp,
}

impl Drop for OpenView {
    fn drop(&mut self) {
        let mut open = self.visibility.open.lock();
        if let Some(count) = open.get_mut(&self.start_ts) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.start_ts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    #[test]
    fn the_oldest_of_the_open_views_counts() {
        let visibility = Arc::new(Visibility::default());
        assert!(visibility.open(TimeStamp::MAX).is_none());
        let first = visibility.open(TimeStamp(5));
        let again = visibility.open(TimeStamp(5));
        let later = visibility.open(TimeStamp(7));
        drop(first);
        assert_eq!(visibility.oldest(), Some(TimeStamp(5)));
        drop(again);
        assert_eq!(visibility.oldest(), Some(TimeStamp(7)));
        drop(later);
        assert_eq!(visibility.oldest(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn below_the_safe_point_nothing_is_read_or_committed() {
        let cluster = Cluster::new();
        let client = cluster.client();
        let txn = client.begin(client.current_ts().await.expect("the mock serves"));
        let range = crate::KeyRange { start: "a".into(), end: "z".into() };
        txn.set("a".into(), "1".into()).expect("small");
        assert_eq!(client.oldest_open_ts(), Some(txn.start_ts()));
        client.raise_safe_point(txn.start_ts());
        assert_eq!(txn.get(b"b").await.expect("at the safe point itself"), None);
        client.raise_safe_point(txn.start_ts().next());
        let mut scan = txn.snapshot().scan(range, crate::ScanOptions::default());
        let refused = [
            txn.get(b"b").await.expect_err("too old").mysql_code(),
            txn.batch_get(&["b".into()]).await.expect_err("too old").mysql_code(),
            scan.next_batch().await.expect_err("too old").mysql_code(),
            txn.commit().await.expect_err("too old").mysql_code(),
        ];
        assert_eq!(refused, [9006; 4]);
        assert_eq!(cluster.value("a"), None);
        // The newest versions stay readable.
        assert_eq!(client.snapshot(TimeStamp::MAX).get(b"a").await.expect("newest"), None);
    }
}
