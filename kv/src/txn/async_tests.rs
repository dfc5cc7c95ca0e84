//! Async commits, their recoveries and their repeated requests in random order: whoever has an
//! opinion on what became of the transaction has the same.

use bytes::Bytes;
use cairn_proto::kv::{self, TxnAction};
use cairn_types::TimeStamp;
use proptest::prelude::*;

use super::tests::Store;
use super::{check_secondary_locks, check_txn_status, resolve_lock};

const START_TS: u64 = 10;
/// The transaction's keys; the first one is the primary. Each is a region of its own.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// By then every lock is expired.
const LATE: u64 = u64::MAX - 1;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A prewrite of one key arrives, perhaps not for the first time. Without a timestamp chosen
    /// the lock is an ordinary one.
    Prewrite { key: usize, chosen_ts: Option<u64> },
    /// Somebody who recovers the transaction has asked the primary.
    AskPrimary { who: usize },
    /// He asks for the next of the others.
    AskNext { who: usize },
    /// He tells one key what became of it, if he knows.
    Resolve { who: usize, key: usize },
}

fn arbitrary_step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    // Few timestamps, so that they meet; seldom none.
    let chosen_ts = prop_oneof![1 => Just(None), 8 => (11u64..20).prop_map(Some)];
    prop_oneof![
        4 => (key(), chosen_ts).prop_map(|(key, chosen_ts)| Step::Prewrite { key, chosen_ts }),
        1 => (0usize..2).prop_map(|who| Step::AskPrimary { who }),
        3 => (0usize..2).prop_map(|who| Step::AskNext { who }),
        2 => ((0usize..2), key()).prop_map(|(who, key)| Step::Resolve { who, key }),
    ]
}

/// Committed at the timestamp, or rolled back.
type Fate = Option<u64>;

/// Somebody who recovers the transaction, as the client does.
#[derive(Default)]
struct Recovery {
    /// The primary's lock was seen.
    commit_ts: Option<u64>,
    next: usize,
    fate: Option<Fate>,
}

impl Recovery {
    fn ask_primary(&mut self, store: &Store, force_sync_commit: bool) {
        let request = kv::CheckTxnStatusRequest {
            primary_key: KEYS[0].into(),
            lock_ts: START_TS,
            current_ts: LATE,
            rollback_if_not_exist: true,
            force_sync_commit,
            ..Default::default()
        };
        let (status, _) = store.run(|reader, txn| check_txn_status::run(reader, txn, &request));
        let status = status.unwrap();
        if status.action() == TxnAction::TtlExpireAsyncCommit {
            self.commit_ts = Some(status.lock_info.unwrap().min_commit_ts);
            self.next = 1;
        } else {
            assert_eq!(status.lock_ttl_ms, 0, "its time is over");
            self.fate = Some((status.commit_ts > 0).then_some(status.commit_ts));
        }
    }

    fn ask_next(&mut self, store: &Store) {
        let Some(commit_ts) = self.commit_ts.filter(|_| self.fate.is_none()) else { return };
        let request = kv::CheckSecondaryLocksRequest {
            keys: vec![KEYS[self.next].into()],
            start_ts: START_TS,
            only_look: false,
        };
        let (found, _) =
            store.run(|reader, txn| Ok(check_secondary_locks::run(reader, txn, &request)?));
        let found = found.unwrap();
        match found.locks.first() {
            _ if found.commit_ts > 0 => self.fate = Some(Some(found.commit_ts)),
            None => self.fate = Some(None),
            Some(lock) if !lock.use_async_commit => self.ask_primary(store, true),
            Some(lock) => {
                let commit_ts = commit_ts.max(lock.min_commit_ts);
                self.commit_ts = Some(commit_ts);
                self.next += 1;
                if self.next == KEYS.len() {
                    self.fate = Some(Some(commit_ts));
                }
            }
        }
    }

    fn resolve(&self, store: &Store, key: usize) {
        let Some(fate) = self.fate else { return };
        let commit_ts = TimeStamp(fate.unwrap_or(0));
        let keys = [Bytes::from(KEYS[key])];
        let (done, _) = store
            .run(|reader, txn| resolve_lock::run(reader, txn, START_TS.into(), commit_ts, &keys));
        done.unwrap();
    }
}

fn prewrite(store: &Store, key: usize, chosen_ts: Option<u64>) -> kv::PrewriteResponse {
    let secondaries = KEYS[1..].iter().map(|key| Bytes::from(*key)).filter(|_| key == 0);
    let request = kv::PrewriteRequest {
        mutations: vec![kv::Mutation {
            key: KEYS[key].into(),
            value: "v".into(),
            ..Default::default()
        }],
        primary: KEYS[0].into(),
        start_ts: START_TS,
        use_async_commit: true,
        secondaries: secondaries.collect(),
        ..Default::default()
    };
    store.prewrite(&request, chosen_ts.map(TimeStamp)).0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn all_agree_on_the_fate(steps in proptest::collection::vec(arbitrary_step(), 1..60)) {
        let store = Store::default();
        let mut recoveries = [Recovery::default(), Recovery::default()];
        // What the client knows: the answers to its prewrites, the first that was not lost.
        let mut answers = [None; KEYS.len()];
        let mut refused = false;
        for step in steps {
            match step {
                Step::Prewrite { key, chosen_ts } => {
                    let response = prewrite(&store, key, chosen_ts);
                    if response.errors.is_empty() {
                        let answer = answers[key].get_or_insert(response.min_commit_ts);
                        // Once committed the answer is the commit timestamp.
                        prop_assert!(*answer <= response.min_commit_ts);
                        prop_assert!(*answer > 0 || response.min_commit_ts == 0);
                    } else {
                        refused = true;
                    }
                }
                Step::AskPrimary { who } => {
                    if recoveries[who].fate.is_none() {
                        recoveries[who].ask_primary(&store, false);
                    }
                }
                Step::AskNext { who } => recoveries[who].ask_next(&store),
                Step::Resolve { who, key } => recoveries[who].resolve(&store, key),
            }
        }
        let mut fates: Vec<Fate> = recoveries.iter().filter_map(|one| one.fate).collect();
        let answers: Option<Vec<u64>> = answers.into_iter().collect();
        if let Some(answers) = answers
            && answers.iter().all(|answer| *answer > 0)
        {
            // The client has told its caller.
            fates.push(answers.into_iter().max());
        }
        if refused {
            fates.push(None);
        }
        // Somebody who comes last.
        let mut last = Recovery::default();
        last.ask_primary(&store, false);
        while last.fate.is_none() {
            last.ask_next(&store);
        }
        fates.extend(last.fate);
        prop_assert!(fates.windows(2).all(|pair| pair[0] == pair[1]), "{fates:?}");
        let fate = fates[0];
        for (key, name) in KEYS.iter().enumerate() {
            last.resolve(&store, key);
            // Nothing that comes late changes anything.
            prewrite(&store, key, Some(30));
            let read = store.reader().get(name.as_bytes(), 1_000.into(), &[START_TS]).unwrap();
            prop_assert_eq!(read.is_some(), fate.is_some());
        }
    }
}
