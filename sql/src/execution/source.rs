//! The SQL node's row source: committed pairs merged with the transaction's own writes.
//!
//! Used when a fragment must see uncommitted writes, or when its rows must come in an
//! order that several stores together would not keep.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::{KeyRange, KvBatch, KvScan, KvSource, RowRead};
use cairn_kv_client::txn::BufferedPair;
use cairn_kv_client::{ScanOptions, SnapshotScan};

use super::kv_error;
use super::view::{ReadView, client_range};

/// Pairs asked of the stores, and of the buffer, at a time.
const BATCH_PAIRS: usize = 1_024;

type Result<T> = cairn_executor::Result<T>;

/// [`KvSource`] over a [`ReadView`].
pub struct TransactionSource {
    view: ReadView,
}

impl TransactionSource {
    /// A source that reads `view`.
    pub fn new(view: ReadView) -> Self {
        Self { view }
    }
}

#[async_trait]
impl KvSource for TransactionSource {
    async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>> {
        let options =
            ScanOptions { reverse: desc, batch_size: BATCH_PAIRS as u32, ..ScanOptions::default() };
        let committed = self.view.snapshot().scan(client_range(&range), options);
        Ok(Box::new(MergedScan {
            view: self.view.clone(),
            committed,
            committed_pairs: Vec::new().into_iter().peekable(),
            committed_done: false,
            own_rest: Some(range),
            own_pairs: Vec::new().into_iter().peekable(),
            desc,
        }))
    }

    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>> {
        let found = match &self.view {
            ReadView::Snapshot(snapshot) => snapshot.batch_get(keys).await,
            ReadView::Transaction(transaction) => transaction.batch_get(keys).await,
        };
        let found = found.map_err(kv_error)?;
        let read = |key| match found.get(key) {
            Some(value) => RowRead::Found(Bytes::clone(value)),
            None => RowRead::Missing,
        };
        Ok(keys.iter().map(read).collect())
    }
}

/// Two sorted streams merged; on equal keys the transaction's own write counts.
struct MergedScan {
    view: ReadView,
    committed: SnapshotScan,
    committed_pairs: std::iter::Peekable<std::vec::IntoIter<(Bytes, Bytes)>>,
    committed_done: bool,
    /// What of the range the buffer has not been asked for.
    own_rest: Option<KeyRange>,
    own_pairs: std::iter::Peekable<std::vec::IntoIter<BufferedPair>>,
    desc: bool,
}

impl MergedScan {
    async fn refill(&mut self) -> Result<()> {
        if self.committed_pairs.peek().is_none() && !self.committed_done {
            let pairs = self.committed.next_batch().await.map_err(kv_error)?;
            self.committed_done = pairs.is_empty();
            self.committed_pairs = pairs.into_iter().peekable();
        }
        if self.own_pairs.peek().is_none()
            && let Some(range) = self.own_rest.take()
            && let ReadView::Transaction(transaction) = &self.view
        {
            let pairs = transaction.buffered_range(&client_range(&range), self.desc, BATCH_PAIRS);
            if pairs.len() == BATCH_PAIRS
                && let Some(last) = pairs.last()
            {
                self.own_rest = Some(self.behind(range, &last.key));
            }
            self.own_pairs = pairs.into_iter().peekable();
        }
        Ok(())
    }

    /// What remains of `range` behind `key`.
    fn behind(&self, range: KeyRange, key: &Bytes) -> KeyRange {
        if self.desc {
            return KeyRange { start: range.start, end: key.clone() };
        }
        KeyRange { start: KeyRange::point(key).end, end: range.end }
    }

    /// The order of the next committed pair against the next own one.
    fn next_side(&mut self) -> Option<std::cmp::Ordering> {
        use std::cmp::Ordering;
        match (self.committed_pairs.peek(), self.own_pairs.peek()) {
            (None, None) => None,
            (Some(_), None) => Some(Ordering::Less),
            (None, Some(_)) => Some(Ordering::Greater),
            (Some((committed, _)), Some(own)) if self.desc => Some(own.key.cmp(committed)),
            (Some((committed, _)), Some(own)) => Some(committed.cmp(&own.key)),
        }
    }
}

#[async_trait]
impl KvScan for MergedScan {
    async fn next_batch(&mut self, out: &mut KvBatch, limit: usize) -> Result<bool> {
        use std::cmp::Ordering;
        while out.len() < limit {
            self.refill().await?;
            let Some(side) = self.next_side() else { return Ok(false) };
            let committed =
                if side == Ordering::Greater { None } else { self.committed_pairs.next() };
            let own = if side == Ordering::Less { None } else { self.own_pairs.next() };
            match (own, committed) {
                (Some(BufferedPair { key, value: Some(value) }), _) => out.push(&key, &value),
                (Some(_), _) => {}
                (None, Some((key, value))) => out.push(&key, &value),
                (None, None) => return Ok(false),
            }
        }
        Ok(true)
    }
}
