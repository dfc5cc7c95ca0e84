//! The SQL node's row source: committed pairs merged with the transaction's own writes.
//!
//! Used when a fragment must see uncommitted writes, or when its rows must come in an
//! order that several stores together would not keep.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::{KeyRange, KvBatch, KvScan, KvSource, RowRead};
use cairn_kv_client::txn::BufferedPair;
use cairn_kv_client::{KvMap, ScanOptions, SnapshotScan};
use cairn_types::keys::is_index_key;

use super::kv_error;
use super::own_rows::OwnRows;
use super::view::{ReadView, client_range};

/// Pairs asked of the stores, and of the buffer, at a time.
const BATCH_PAIRS: usize = 1_024;
/// The same where few are wanted: what a filter lets pass is not known.
const FEW_PAIRS: u64 = 32;

type Result<T> = cairn_executor::Result<T>;

/// [`KvSource`] over a [`ReadView`].
pub struct TransactionSource {
    view: ReadView,
    own_rows: Option<OwnRows>,
    batch_size: u32,
}

impl TransactionSource {
    /// A source that reads `view`; `own_rows` of the index whose entries are scanned; about
    /// `limit` rows are wanted.
    pub fn new(view: ReadView, own_rows: Option<OwnRows>, limit: Option<u64>) -> Self {
        let most = BATCH_PAIRS as u64;
        let batch_size = limit.unwrap_or(most).clamp(FEW_PAIRS, most) as u32;
        Self { view, own_rows, batch_size }
    }

    async fn found(&self, keys: &[Bytes]) -> Result<KvMap> {
        if let Some(own_rows) = &self.own_rows
            && keys.first().is_some_and(|key| is_index_key(key))
        {
            return own_rows.entries(keys).await;
        }
        let found = match &self.view {
            ReadView::Snapshot(snapshot) => snapshot.batch_get(keys).await,
            ReadView::Transaction(transaction) => transaction.batch_get(keys).await,
        };
        found.map_err(kv_error)
    }
}

#[async_trait]
impl KvSource for TransactionSource {
    async fn scan(&self, range: KeyRange, desc: bool) -> Result<Box<dyn KvScan>> {
        let options =
            ScanOptions { reverse: desc, batch_size: self.batch_size, ..ScanOptions::default() };
        let committed = self.view.snapshot().scan(client_range(&range), options);
        Ok(Box::new(MergedScan {
            view: self.view.clone(),
            own_rows: self.own_rows.clone(),
            committed,
            committed_pairs: Vec::new().into_iter().peekable(),
            committed_done: false,
            own_rest: Some(range),
            own_pairs: Vec::new().into_iter().peekable(),
            desc,
        }))
    }

    async fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<RowRead>> {
        let found = self.found(keys).await?;
        let read = |key| match found.get(key) {
            Some(value) => RowRead::Found(Bytes::clone(value)),
            None => RowRead::Missing,
        };
        Ok(keys.iter().map(read).collect())
    }
}

/// Two sorted streams merged; on equal keys the transaction's own write counts. Under
/// [`OwnRows`] the entry's row decides: a key of a unique index may come twice then, of a row
/// that had it when the transaction began and of the one that the transaction gave it to.
struct MergedScan {
    view: ReadView,
    own_rows: Option<OwnRows>,
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

    /// Whether the transaction hides a committed pair; `is_own`: it has the key too.
    fn hides(&self, (key, value): &(Bytes, Bytes), is_own: bool) -> Result<bool> {
        match &self.own_rows {
            Some(own_rows) => own_rows.replace(key, value),
            None => Ok(is_own),
        }
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
        // It may hold pairs of other ranges already.
        let full = out.len().saturating_add(limit);
        while out.len() < full {
            self.refill().await?;
            let Some(side) = self.next_side() else { return Ok(false) };
            if side == Ordering::Greater {
                if let Some(BufferedPair { key, value: Some(value) }) = self.own_pairs.next() {
                    out.push(&key, &value);
                }
            } else if let Some(pair) = self.committed_pairs.next()
                && !self.hides(&pair, side == Ordering::Equal)?
            {
                out.push(&pair.0, &pair.1);
            }
        }
        Ok(true)
    }
}
