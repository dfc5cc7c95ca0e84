//! What a statement reads from: a snapshot, or a transaction with its own writes.

use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::KeyRange;
use cairn_kv_client::{Snapshot, Transaction};
use cairn_planner::plan::Plan;
use cairn_types::TimeStamp;

use crate::error::Result;
use crate::session::Session;

/// A read view of one statement. Cheap to clone.
#[derive(Clone)]
pub enum ReadView {
    /// Committed data at one timestamp.
    Snapshot(Snapshot),
    /// The same, under the writes of a transaction.
    Transaction(Arc<Transaction>),
}

/// The client's form of a range.
pub fn client_range(range: &KeyRange) -> cairn_kv_client::KeyRange {
    cairn_kv_client::KeyRange { start: range.start.clone(), end: range.end.clone() }
}

impl ReadView {
    /// The view of a plan that only reads. One without tables reads nothing: it opens no
    /// transaction and takes no timestamp.
    pub async fn of_plan(session: &mut Session, plan: &Plan) -> Result<ReadView> {
        if plan.tables.is_empty() {
            return Ok(ReadView::Snapshot(session.domain.kv.snapshot(TimeStamp::MAX)));
        }
        ReadView::of_session(session).await
    }

    /// The view of a statement that only reads: one of the past, the open transaction's, or a fresh
    /// one.
    pub async fn of_session(session: &mut Session) -> Result<ReadView> {
        if let Some(past) = session.past_view()? {
            return Ok(ReadView::Snapshot(past));
        }
        if let Some((transaction, _)) = session.reading_transaction().await? {
            return Ok(ReadView::Transaction(transaction));
        }
        let scope = session.scope().clone();
        let start_ts = scope.run(session.domain.now_ts()).await??;
        let view = session.domain.kv.snapshot(start_ts).within(scope);
        Ok(ReadView::Snapshot(view.reading(session.read_from())))
    }

    /// The committed data below.
    pub fn snapshot(&self) -> Snapshot {
        match self {
            ReadView::Snapshot(snapshot) => snapshot.clone(),
            ReadView::Transaction(transaction) => transaction.snapshot(),
        }
    }

    /// The timestamp of the committed data.
    pub fn start_ts(&self) -> TimeStamp {
        match self {
            ReadView::Snapshot(snapshot) => snapshot.start_ts(),
            ReadView::Transaction(transaction) => transaction.snapshot().start_ts(),
        }
    }

    /// The value of a key.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(match self {
            ReadView::Snapshot(snapshot) => snapshot.get(key).await?,
            ReadView::Transaction(transaction) => transaction.get(key).await?,
        })
    }

    /// Whether the transaction itself wrote within one of the ranges.
    pub fn is_dirty(&self, range: &KeyRange) -> bool {
        match self {
            ReadView::Snapshot(_) => false,
            ReadView::Transaction(transaction) => {
                !transaction.buffered_range(&client_range(range), false, 1).is_empty()
            }
        }
    }
}
