//! Refresh at a store of one region: what counts as a change, and what an answer holds.

use std::sync::Arc;

use bytes::Bytes;
use cairn_kv_client::KvStoreService;
use cairn_proto::kv::{self, key_error, kv_request::Cmd, kv_response, region_error};

use super::testing::MemoryKv;
use crate::service::StoreService;
use crate::txn::refresh::{LOCKS_PER_ANSWER, RECORDS_PER_ANSWER};

struct Store {
    kv: Arc<MemoryKv>,
    service: Arc<StoreService>,
}

impl Store {
    fn new() -> Store {
        let kv = MemoryKv::new();
        Store { service: kv.service(), kv }
    }

    async fn call(&self, cmd: Cmd) -> kv::KvResponse {
        let request = kv::KvRequest { context: Some(self.kv.context()), cmd: Some(cmd) };
        self.service.call(request).await.expect("served here")
    }

    async fn prewrite(&self, op: kv::MutationOp, keys: &[String], start_ts: u64) {
        let mutation = |key: &String| kv::Mutation {
            op: op.into(),
            key: Bytes::from(key.clone()),
            value: "v".into(),
            ..Default::default()
        };
        let request = kv::PrewriteRequest {
            mutations: keys.iter().map(mutation).collect(),
            primary: Bytes::from(keys[0].clone()),
            start_ts,
            lock_ttl_ms: 60_000,
            ..kv::PrewriteRequest::default()
        };
        match self.call(Cmd::Prewrite(request)).await.cmd {
            Some(kv_response::Cmd::Prewrite(response)) => assert_eq!(response.errors, []),
            other => panic!("{other:?}"),
        }
    }

    async fn write(&self, op: kv::MutationOp, keys: &[String], start_ts: u64, commit_ts: u64) {
        self.prewrite(op, keys, start_ts).await;
        let keys = keys.iter().map(|key| Bytes::from(key.clone())).collect();
        let commit = kv::CommitRequest { keys, start_ts, commit_ts };
        match self.call(Cmd::Commit(commit)).await.cmd {
            Some(kv_response::Cmd::Commit(response)) => assert_eq!(response.error, None),
            other => panic!("{other:?}"),
        }
    }

    async fn refresh(&self, spans: &[kv::ReadSpan], refresh_ts: u64) -> kv::RefreshResponse {
        let request = kv::RefreshRequest { start_ts: 7, refresh_ts, spans: spans.to_vec() };
        match self.call(Cmd::Refresh(request)).await.cmd {
            Some(kv_response::Cmd::Refresh(response)) => response,
            other => panic!("{other:?}"),
        }
    }
}

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn span(start: &str, end: &str, read_ts: u64) -> kv::ReadSpan {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    kv::ReadSpan { start: bytes(start), end: bytes(end), read_ts }
}

/// The changed key, if there is one.
fn changed(response: &kv::RefreshResponse) -> Option<(&str, u64)> {
    match response.error.as_ref()?.kind.as_ref()? {
        key_error::Kind::Conflict(conflict) => {
            let key = std::str::from_utf8(&conflict.key).expect("keys are text here");
            Some((key, conflict.conflict_commit_ts))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn puts_and_deletes_between_the_timestamps_are_changes() {
    let store = Store::new();
    store.write(kv::MutationOp::OpPut, &keys(&["b", "d"]), 10, 20).await;
    store.write(kv::MutationOp::OpDelete, &keys(&["b"]), 30, 40).await;
    store.write(kv::MutationOp::OpLock, &keys(&["b", "d"]), 50, 60).await;
    for (start, end) in [("b", "b\0"), ("a", "c"), ("", ""), ("b", "c")] {
        for (read_ts, refresh_ts, expected) in [
            (15, 19, None),
            (15, 25, Some(("b", 20))),
            (20, 39, None),
            (39, 45, Some(("b", 40))),
            (40, 70, None),
            (15, 70, Some(("b", 40))),
        ] {
            let response = store.refresh(&[span(start, end, read_ts)], refresh_ts).await;
            let told = format!("{start}..{end} {read_ts} {refresh_ts}");
            assert_eq!(changed(&response), expected, "{told}");
            assert_eq!(response.spans_done, u32::from(expected.is_none()), "{told}");
        }
    }
    let apart = [span("a", "a\0", 1), span("c", "d", 1), span("d", "d\0", 20), span("e", "", 1)];
    let response = store.refresh(&apart, 70).await;
    assert_eq!((changed(&response), response.spans_done), (None, 4));
}

#[tokio::test]
async fn locks_that_may_commit_below_are_told() {
    let store = Store::new();
    store.prewrite(kv::MutationOp::OpPut, &keys(&["b"]), 10).await;
    store.prewrite(kv::MutationOp::OpLock, &keys(&["c"]), 11).await;
    store.prewrite(kv::MutationOp::OpPut, &keys(&["d"]), 30).await;
    // The asking transaction's own.
    store.prewrite(kv::MutationOp::OpPut, &keys(&["e"]), 7).await;
    let lock = kv::PessimisticLockRequest {
        keys: vec!["f".into()],
        primary: "f".into(),
        start_ts: 12,
        for_update_ts: 12,
        lock_ttl_ms: 60_000,
        ..kv::PessimisticLockRequest::default()
    };
    store.call(Cmd::PessimisticLock(lock)).await;
    let points: Vec<_> =
        ["b", "c", "d", "e", "f"].iter().map(|key| span(key, &format!("{key}\0"), 9)).collect();
    for spans in [vec![span("a", "", 9)], points] {
        let response = store.refresh(&spans, 20).await;
        let told: Vec<_> =
            response.locks.iter().map(|lock| (&lock.key[..], lock.start_ts)).collect();
        assert_eq!(told, [(&b"b"[..], 10)]);
        assert_eq!(response.spans_done as usize, spans.len());
    }
}

#[tokio::test]
async fn nothing_commits_below_in_one_round_any_more() {
    let store = Store::new();
    store.refresh(&[span("a", "", 9)], 1_000).await;
    assert!(store.service.max_read_ts().0 >= 1_000);
}

#[tokio::test]
async fn long_answers_come_in_pieces() {
    let store = Store::new();
    let all: Vec<String> = (0..RECORDS_PER_ANSWER + 100).map(|at| format!("k{at:06}")).collect();
    for part in all.chunks(1_000) {
        store.write(kv::MutationOp::OpPut, part, 10, 20).await;
    }
    let response = store.refresh(&[span("a", "b", 1), span("k", "", 20)], 30).await;
    assert_eq!((response.spans_done, changed(&response)), (1, None));
    assert_eq!(response.next_start, all[RECORDS_PER_ANSWER]);
    let rest = kv::ReadSpan { start: response.next_start, ..span("", "", 20) };
    let response = store.refresh(&[rest], 30).await;
    assert_eq!((response.spans_done, response.next_start.is_empty()), (1, true));

    let locked = &all[..LOCKS_PER_ANSWER + 1];
    store.prewrite(kv::MutationOp::OpPut, locked, 25).await;
    let response = store.refresh(&[span("k", "", 20)], 30).await;
    assert_eq!((response.spans_done, response.locks.len()), (0, LOCKS_PER_ANSWER));
    let rest = kv::ReadSpan { start: response.next_start, ..span("", "", 20) };
    let response = store.refresh(&[rest], 30).await;
    assert_eq!(response.locks.len(), 1);
}

#[tokio::test]
async fn spans_outside_the_region_are_refused() {
    let store = Store::new();
    let mut region = (**store.kv.region.lock()).clone();
    region.start_key = "b".into();
    region.end_key = "d".into();
    *store.kv.region.lock() = Arc::new(region);
    for (span, is_inside) in [
        (span("b", "d", 1), true),
        (span("a", "c", 1), false),
        (span("c", "e", 1), false),
        (span("c", "", 1), false),
    ] {
        let request = kv::RefreshRequest { start_ts: 7, refresh_ts: 9, spans: vec![span] };
        let response = store.call(Cmd::Refresh(request.clone())).await;
        let kind = response.region_error.and_then(|error| error.kind);
        let is_refused = matches!(kind, Some(region_error::Kind::KeyNotInRegion(_)));
        assert_eq!(is_refused, !is_inside, "{request:?}");
    }
}
