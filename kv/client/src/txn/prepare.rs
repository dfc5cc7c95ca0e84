//! Transactions that are prepared: durable, certain to commit or to roll back as they are told
//! later, by anybody, after any crash (the first phase of X/Open's XA).
//!
//! Preparing prewrites every key as a commit would, never in one round, and then gives the
//! primary's lock a life without end. Others meet the locks and ask the primary, which says "alive"
//! until somebody decides. Nothing but the primary's lock decides the fate, so that whoever knows
//! a [`Prepared`] can end the transaction; it is the caller's to keep it before the locks are
//! taken, and until the transaction has ended.
//!
//! **Invariants.** After [`Preparation::lock`] succeeded no clean-up removes the locks: neither
//! for their age nor for a client that died. If it failed, or its caller crashed, locks may stand
//! that never expire: [`KvClient::roll_back_prepared`] removes them.
//!
//! **Source.** X/Open CAE Specification, "Distributed Transaction Processing: The XA
//! Specification", chapter 2.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{
    CheckTxnStatusRequest, CommitRequest, ResolveLockRequest, RollbackRequest, TxnHeartBeatRequest,
    key_error,
};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream;

use super::commit::{COMMIT_TS_ATTEMPTS_MAX, Committer};
use super::keep_alive::{LOCK_TTL_MS, keep_alive};
use super::mutations::leaves_lock;
use super::{CommitModes, CommitTerms, Transaction};
use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions, SendError, expect_response};
use crate::scope::RequestScope;

/// Life of a prepared transaction's primary lock: a thousand years. The sum with a timestamp's
/// milliseconds stays far below 64 bits.
const PREPARED_TTL_MS: u64 = 1_000 * 365 * 24 * 3_600 * 1_000;
/// Parts of the key space that are kept for a prepared or a bulk transaction. One of more keys has
/// several keys in one part.
const SPANS_MAX: usize = 256;
/// How long the locks of one region may take: there may be a million.
const RESOLVE_REGION_TIMEOUT_MS: u64 = 120_000;

/// First and last key of a part of the key space.
pub(super) type Span = (Bytes, Bytes);

/// What must be known to end a prepared transaction, or a bulk one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The transaction.
    pub start_ts: TimeStamp,
    /// The key whose lock decides; `None`: there is nothing to commit.
    pub primary: Option<Bytes>,
    /// First and last keys of parts of the key space that together hold all of its locks, in
    /// order.
    pub spans: Vec<(Bytes, Bytes)>,
}

/// A transaction that takes no more changes and is about to be prepared.
pub struct Preparation<'a> {
    transaction: &'a Transaction,
    committer: Option<Arc<Committer>>,
    prepared: Prepared,
}

impl Transaction {
    /// Ends the transaction: it will be prepared, or forgotten.
    pub async fn begin_prepare(&self) -> Result<Preparation<'_>, KvError> {
        self.end()?;
        if !self.is_trivial() {
            // As for a commit: records of conflicting writers may have been collected.
            if let Err(error) = self.snapshot.check_visible() {
                self.give_all_back().await;
                return Err(error);
            }
        }
        let scope = RequestScope { deadline: None, ..self.view.read().scope().clone() };
        let committer = {
            let (buffer, locks) = (self.buffer.read(), self.locks.as_ref());
            let terms = self.terms.lock().clone();
            let terms = CommitTerms { modes: CommitModes::TWO_PHASES, lease: None, ..terms };
            Committer::new(self.client.clone(), self.start_ts, &buffer, locks, terms, None, scope)
        };
        let committer = committer.map(Arc::new);
        let mut prepared = Prepared { start_ts: self.start_ts, primary: None, spans: Vec::new() };
        if let Some(committer) = &committer
            && committer.primary.is_some()
        {
            prepared.primary = Some(committer.primary_key());
            let mutations = committer.mutations.0.iter();
            let keys = mutations.filter(|one| leaves_lock(one)).map(|one| one.key.clone());
            prepared.spans = few_spans(keys.map(|key| (key.clone(), key)).collect());
        }
        Ok(Preparation { transaction: self, committer, prepared })
    }
}

impl Preparation<'_> {
    /// What its caller must keep before it goes on.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// Locks all keys for as long as it takes.
    pub async fn lock(self) -> Result<(), KvError> {
        let Some(committer) = &self.committer else {
            return self.transaction.hand_in_locks().await;
        };
        let outcome = committer.lock_for_ever().await;
        if let Some(locks) = &self.transaction.locks {
            // What was held has become part of the prepared transaction, or is rolled back with it.
            self.transaction.give_back(locks.give_unsure_back()).await;
        }
        outcome
    }

    /// Gives it up before anything was locked for it.
    pub async fn abandon(self) {
        self.transaction.give_all_back().await;
    }
}

impl Committer {
    async fn lock_for_ever(&self) -> Result<(), KvError> {
        let now = self.client.current_ts().await?;
        let open_ms = now.physical_ms().saturating_sub(self.start_ts.physical_ms());
        let terms = self.terms(now, open_ms);
        let primary = self.primary_key();
        let work = async {
            self.prewrite_all(terms).await?;
            // Conflicts with records that were collected meanwhile would not have been seen.
            self.client.visibility.check(self.start_ts)?;
            match self.primary {
                Some(_) => self.client.keep_for_ever(&primary, self.start_ts).await,
                None => Ok(()),
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            never = keep_alive(&self.client, self.start_ts, &primary, open_ms, LOCK_TTL_MS) => match never {},
        }
    }
}

/// Parts that hold all of these, in order and few enough to keep. Where there are too many, neighbours
/// become one: those whose keys have much in common, as there is little between them.
pub(super) fn few_spans(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    spans.dedup_by(|next, last| {
        let overlap = next.0 <= last.1;
        if overlap && next.1 > last.1 {
            last.1 = next.1.clone();
        }
        overlap
    });
    if spans.len() <= SPANS_MAX {
        return spans;
    }
    let in_common = |one: &Bytes, other: &Bytes| {
        one.iter().zip(other.iter()).take_while(|(one, other)| one == other).count()
    };
    let ends = spans.windows(2).enumerate();
    let mut gaps: Vec<(usize, usize)> =
        ends.map(|(at, pair)| (in_common(&pair[0].1, &pair[1].0), at)).collect();
    gaps.select_nth_unstable(SPANS_MAX - 1);
    gaps.truncate(SPANS_MAX - 1);
    let mut lasts: Vec<usize> = gaps.into_iter().map(|(_, at)| at).collect();
    lasts.sort_unstable();
    lasts.push(spans.len() - 1);
    let mut first = 0;
    let parts = lasts.into_iter().map(|last| {
        let part = (spans[first].0.clone(), spans[last].1.clone());
        first = last + 1;
        part
    });
    parts.collect()
}

impl KvClient {
    /// Gives a lock that stands a life without end.
    async fn keep_for_ever(&self, primary: &Bytes, start_ts: TimeStamp) -> Result<(), KvError> {
        let build = || {
            Cmd::TxnHeartBeat(TxnHeartBeatRequest {
                primary: primary.clone(),
                start_ts: start_ts.0,
                advise_ttl_ms: PREPARED_TTL_MS,
            })
        };
        let options = RequestOptions::default();
        let sent = self.cache.send_to_key(primary, &options, &mut self.retrier(), &build).await?;
        match expect_response!(sent, TxnHeartBeat)?.error.and_then(|error| error.kind) {
            None => Ok(()),
            Some(kind) => {
                let reason = format!("its lock is gone: {kind:?}");
                Err(KvError::TxnAborted { start_ts: start_ts.0, reason })
            }
        }
    }

    /// Commits a prepared transaction, now or as somebody did before. After
    /// [`KvError::TxnAborted`] it is rolled back; after other errors its fate is open, and the
    /// call may be repeated.
    pub async fn commit_prepared(&self, prepared: &Prepared) -> Result<(), KvError> {
        let Some(primary) = &prepared.primary else { return Ok(()) };
        let mut retrier = self.retrier();
        self.commit_prepared_primary(primary, prepared.start_ts, &mut retrier).await?;
        // Somebody may have been faster: secondaries follow the record, not our timestamp.
        let commit_ts = self.fate_of_prepared(primary, prepared.start_ts, &mut retrier).await?;
        self.finish_prepared(prepared, commit_ts).await;
        Ok(())
    }

    async fn commit_prepared_primary(
        &self,
        primary: &Bytes,
        start_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<(), KvError> {
        let aborted = |reason| KvError::TxnAborted { start_ts: start_ts.0, reason };
        for _ in 0..COMMIT_TS_ATTEMPTS_MAX {
            let commit_ts = self.current_ts().await?;
            let build = || {
                let keys = vec![primary.clone()];
                Cmd::Commit(CommitRequest { keys, start_ts: start_ts.0, commit_ts: commit_ts.0 })
            };
            let options = RequestOptions::default();
            let sent = self.cache.send_to_key(primary, &options, retrier, &build).await?;
            match expect_response!(sent, Commit)?.error.and_then(|error| error.kind) {
                None => return Ok(()),
                // A reader pushed the lock behind our timestamp.
                Some(key_error::Kind::CommitTsExpired(_)) => {}
                Some(kind @ key_error::Kind::TxnLockNotFound(_)) => {
                    return Err(aborted(format!("commit: {kind:?}")));
                }
                Some(kind) => return Err(KvError::Malformed(format!("commit: {kind:?}"))),
            }
        }
        Err(KvError::RegionUnavailable { reason: "readers keep pushing its timestamp".to_owned() })
    }

    /// When the transaction was committed.
    async fn fate_of_prepared(
        &self,
        primary: &Bytes,
        start_ts: TimeStamp,
        retrier: &mut Retrier,
    ) -> Result<TimeStamp, KvError> {
        let request = CheckTxnStatusRequest {
            primary_key: primary.clone(),
            lock_ts: start_ts.0,
            // Before every expiry: nothing is removed for its age.
            current_ts: 0,
            ..CheckTxnStatusRequest::default()
        };
        let response = self.check_txn_status(&request, retrier).await?;
        match response.commit_ts {
            0 => Err(KvError::Malformed(format!("not committed: {response:?}"))),
            commit_ts => Ok(TimeStamp(commit_ts)),
        }
    }

    /// Rolls a prepared transaction back, or one whose preparation did not end well. Answers false
    /// when it turns out to be committed. After an error the call may be repeated.
    pub async fn roll_back_prepared(&self, prepared: &Prepared) -> Result<bool, KvError> {
        let Some(primary) = &prepared.primary else { return Ok(true) };
        let build = || {
            let keys = vec![primary.clone()];
            Cmd::Rollback(RollbackRequest { keys, start_ts: prepared.start_ts.0 })
        };
        let options = RequestOptions::default();
        let sent = self.cache.send_to_key(primary, &options, &mut self.retrier(), &build).await?;
        let (commit_ts, is_rolled_back) =
            match expect_response!(sent, Rollback)?.error.and_then(|error| error.kind) {
                None => (TimeStamp::ZERO, true),
                Some(key_error::Kind::Committed(by)) => (TimeStamp(by.commit_ts), false),
                Some(kind) => return Err(KvError::Malformed(format!("rolling back: {kind:?}"))),
            };
        self.finish_prepared(prepared, commit_ts).await;
        Ok(is_rolled_back)
    }

    /// Brings the other locks to the primary's end. What cannot be reached is left to those who
    /// meet it: the primary tells them how.
    pub(super) async fn finish_prepared(&self, prepared: &Prepared, commit_ts: TimeStamp) {
        if let Err(error) = self.resolve_spans(prepared, commit_ts).await {
            tracing::warn!(%error, start_ts = prepared.start_ts.0, "locks are left to be resolved");
        }
    }

    /// Several regions at a time; what one of them does not do, the others do all the same.
    async fn resolve_spans(
        &self,
        prepared: &Prepared,
        commit_ts: TimeStamp,
    ) -> Result<(), KvError> {
        let mut parts = Vec::new();
        // Everything before is among the parts.
        let mut next = Bytes::new();
        'spans: for (first, last) in &prepared.spans {
            next = next.max(first.clone());
            while next <= *last {
                let region = self.cache.locate_patiently(&next, &mut self.retrier()).await?;
                let end = region.range().end;
                parts.push((next, end.clone()));
                if end.is_empty() {
                    break 'spans;
                }
                next = end;
            }
        }
        let outcomes = stream::iter(parts)
            .map(|(start, end)| self.resolve_part(prepared.start_ts, commit_ts, start, end))
            .buffer_unordered(self.config.concurrency.max(1));
        outcomes.fold(Ok(()), |all, one| std::future::ready(all.and(one))).await
    }

    /// Of the regions from `start` to `end`: one, unless it was split meanwhile.
    async fn resolve_part(
        &self,
        start_ts: TimeStamp,
        commit_ts: TimeStamp,
        start: Bytes,
        end: Bytes,
    ) -> Result<(), KvError> {
        let mut next = start;
        while end.is_empty() || next < end {
            let mut retrier = self.retrier_for(RESOLVE_REGION_TIMEOUT_MS);
            let region = self.cache.locate_patiently(&next, &mut retrier).await?;
            let region_end = region.range().end;
            let build = || {
                Cmd::ResolveLock(ResolveLockRequest {
                    start_ts: start_ts.0,
                    commit_ts: commit_ts.0,
                    keys: Vec::new(),
                })
            };
            let options = RequestOptions::default();
            let sent = self.cache.send_to_region(region, &options, &mut retrier, &build).await;
            let response = match sent {
                Ok(response) => expect_response!(response, ResolveLock)?,
                Err(SendError::Regroup) => continue,
                Err(SendError::Failed(error)) => return Err(error),
            };
            if let Some(kind) = response.error.and_then(|error| error.kind) {
                return Err(KvError::Malformed(format!("resolving a lock: {kind:?}")));
            }
            if region_end.is_empty() {
                return Ok(());
            }
            next = region_end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, Fault};

    const KEYS: [&str; 3] = ["a", "m", "x"];

    fn values(cluster: &Cluster) -> Vec<bool> {
        KEYS.iter().map(|key| cluster.value(key) == Some("1".into())).collect()
    }

    async fn prepare(client: &Arc<KvClient>) -> Prepared {
        let txn = client.begin(client.current_ts().await.expect("the mock serves"));
        for key in KEYS {
            txn.set(key.into(), "1".into()).expect("small");
        }
        let preparation = txn.begin_prepare().await.expect("nothing is in the way");
        let prepared = preparation.prepared().clone();
        preparation.lock().await.expect("locks");
        prepared
    }

    #[tokio::test(start_paused = true)]
    async fn locks_stay_until_somebody_decides() {
        for split in [&["f", "p"][..], &[]] {
            for commits in [true, false] {
                let cluster = Cluster::split_at(split);
                let client = cluster.client();
                let prepared = prepare(&client).await;
                drop(client);
                cluster.advance_ms(10 * 24 * 3_600 * 1_000);
                let other = cluster.client();
                let read = other.snapshot(other.current_ts().await.expect("the mock serves"));
                assert_eq!(read.get(b"m").await.expect("readers pass"), None);
                assert_eq!(cluster.locked_keys().len(), 3);
                match commits {
                    true => other.commit_prepared(&prepared).await.expect("commits"),
                    false => assert!(other.roll_back_prepared(&prepared).await.expect("answers")),
                }
                assert_eq!(values(&cluster), [commits; 3]);
                assert!(cluster.locked_keys().is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fate_that_is_carried_out_twice_stays_the_same() {
        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client();
        let prepared = prepare(&client).await;
        // Committed, and its caller does not hear of it: the next one takes another timestamp.
        cluster.fault("commit", Fault::LostAfter);
        client.commit_prepared(&prepared).await.expect("commits");
        client.commit_prepared(&prepared).await.expect("is committed");
        assert!(!client.roll_back_prepared(&prepared).await.expect("answers"));
        assert_eq!(values(&cluster), [true; 3]);

        let cluster = Cluster::split_at(&["f", "p"]);
        let client = cluster.client();
        let prepared = prepare(&client).await;
        cluster.fault("rollback", Fault::LostAfter);
        assert!(client.roll_back_prepared(&prepared).await.expect("answers"));
        assert!(client.roll_back_prepared(&prepared).await.expect("answers"));
        let late = client.commit_prepared(&prepared).await;
        assert!(matches!(late, Err(KvError::TxnAborted { .. })), "{late:?}");
        assert_eq!(values(&cluster), [false; 3]);
    }

    #[test]
    fn spans_hold_all_keys_and_are_bounded() {
        let key = |n: u32| Bytes::from(n.to_be_bytes().to_vec());
        let alone = |numbers: std::ops::Range<u32>| -> Vec<Span> {
            numbers.map(|n| (key(n), key(n))).collect()
        };
        assert_eq!(few_spans(alone(0..3)), alone(0..3));
        assert_eq!(few_spans(Vec::new()), []);
        // Two tables, far from each other, and parts of before.
        let mut keys = alone(0..10_001);
        keys.extend(alone(1 << 30..(1 << 30) + 1_000));
        let mut spans = few_spans(keys.clone());
        for _ in 0..2 {
            assert_eq!(spans.len(), SPANS_MAX);
            assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let holds = |key: &Bytes| spans.iter().any(|(first, last)| first <= key && key <= last);
            assert!(keys.iter().all(|(key, _)| holds(key)));
            assert!(!holds(&key(1 << 29)));
            spans.extend(alone(5_000..6_000));
            spans = few_spans(spans);
        }
    }
}
