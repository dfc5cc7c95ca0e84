//! A small cluster in memory for the unit tests of this crate: a placement driver
//! and stores that keep Percolator's rules, with faults on order.
//!
//! Every store answers from the same data; what differs is who leads a region. A
//! fault is meant for the next request of a kind, so that a test reads as a
//! script: what goes wrong, what the client must make of it, what was sent.

mod async_commit;
mod locks;
mod pd;
mod refresh;

pub use async_commit::AsyncLock;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::kv::kv_request::Cmd as Request;
use cairn_proto::kv::kv_response::Cmd as Response;
use cairn_proto::kv::region_error::Kind as RegionKind;
use cairn_proto::kv::*;
use cairn_proto::meta::{Peer, Region, RegionEpoch, Store};
use cairn_types::TimeStamp;
use futures::StreamExt;
use futures::stream;
use parking_lot::Mutex;

use self::locks::Locks;
use self::pd::MockPd;
use crate::transport::{CoprocessorStream, KvStoreService, StoreConnector, TransportError};
use crate::{ClientConfig, KvClient};

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused.
    Region(RegionKind),
    /// It never arrives.
    LostBefore,
    /// It is executed, but the answer is lost.
    LostAfter,
    /// The region splits at the key first.
    Split(&'static str),
    /// The leader moves to the store first.
    LeaderTo(u64),
    /// A prewrite leaves ordinary locks.
    NoAsyncCommit,
}

#[derive(Clone, Debug)]
struct Lock {
    start_ts: u64,
    primary: Bytes,
    ttl_ms: u64,
    op: MutationOp,
    value: Bytes,
    txn_size: u64,
    min_commit_ts: u64,
    is_pessimistic: bool,
    is_shared: bool,
    for_update_ts: u64,
    use_async_commit: bool,
    secondaries: Vec<Bytes>,
    generation: u64,
}

#[derive(Clone, Debug)]
struct Version {
    commit_ts: u64,
    start_ts: u64,
    value: Option<Bytes>,
}

#[derive(Default)]
struct Inner {
    regions: Vec<(Region, u64)>,
    next_id: u64,
    locks: Locks,
    versions: BTreeMap<Bytes, Vec<Version>>,
    rollbacks: BTreeSet<(Bytes, u64)>,
    /// Who waits for whom.
    waits: BTreeSet<(u64, u64)>,
    faults: VecDeque<(&'static str, Fault)>,
    page_faults: VecDeque<usize>,
    /// Digests of tables that stores know.
    tables: BTreeSet<(u64, Bytes)>,
    /// Regions as PD still believes them to be, for so many answers.
    old_news: (u32, Vec<(Region, u64)>),
    /// PD has no leader: it gives no timestamps.
    pd_is_away: bool,
    calls: Vec<String>,
}

/// The cluster.
pub struct Cluster {
    inner: Mutex<Inner>,
    clock: AtomicU64,
}

/// Rows of one coprocessor page.
pub const PAGE_ROWS: usize = 2;
/// First timestamp.
const START_MS: u64 = 1_000_000;
/// Bytes after which an answer to a scan takes no more pairs.
const SCAN_BYTES_MAX: usize = 8;

impl Cluster {
    /// One region over everything on stores 1 to 3, led by store 1.
    pub fn new() -> Arc<Cluster> {
        let cluster = Cluster {
            inner: Mutex::default(),
            clock: AtomicU64::new(TimeStamp::compose(START_MS, 0).0),
        };
        {
            let mut inner = cluster.inner.lock();
            inner.next_id = 100;
            let region = Region {
                id: 1,
                epoch: Some(RegionEpoch { conf_ver: 1, version: 1 }),
                peers: peers(10),
                ..Region::default()
            };
            inner.regions.push((region, 1));
        }
        Arc::new(cluster)
    }

    /// A cluster split at the keys.
    pub fn split_at(keys: &[&'static str]) -> Arc<Cluster> {
        let cluster = Cluster::new();
        for key in keys {
            cluster.inner.lock().split(key.as_bytes());
        }
        cluster
    }

    /// A client of the cluster.
    pub fn client(self: &Arc<Cluster>) -> Arc<KvClient> {
        self.client_with(ClientConfig::default())
    }

    /// A client with settings.
    pub fn client_with(self: &Arc<Cluster>, config: ClientConfig) -> Arc<KvClient> {
        KvClient::new(Arc::new(MockPd(self.clone())), Arc::new(Connector(self.clone())), config)
    }

    /// The next request of the kind goes wrong.
    pub fn fault(&self, kind: &'static str, fault: Fault) {
        self.inner.lock().faults.push_back((kind, fault));
    }

    /// The next answers of PD are of now, whatever happens to regions.
    pub fn delay_pd(&self, answers: u32) {
        let mut inner = self.inner.lock();
        inner.old_news = (answers, inner.regions.clone());
    }

    /// PD gives timestamps or does not.
    pub fn set_pd_away(&self, is_away: bool) {
        self.inner.lock().pd_is_away = is_away;
    }

    /// The next coprocessor stream breaks behind so many pages.
    pub fn break_stream_behind(&self, pages: usize) {
        self.inner.lock().page_faults.push_back(pages);
    }

    /// Stores drop the tables that they were sent.
    pub fn forget_tables(&self) {
        self.inner.lock().tables.clear();
    }

    /// Requests since the last time, as `kind@store`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().calls)
    }

    /// A lock of a transaction that went away.
    pub fn leave_lock(&self, key: &str, primary: &str, start_ts: TimeStamp, ttl_ms: u64) {
        let lock = Lock {
            start_ts: start_ts.0,
            primary: Bytes::copy_from_slice(primary.as_bytes()),
            ttl_ms,
            op: MutationOp::OpPut,
            value: "left".into(),
            txn_size: 2,
            min_commit_ts: 0,
            is_pessimistic: false,
            is_shared: false,
            for_update_ts: 0,
            use_async_commit: false,
            secondaries: Vec::new(),
            generation: 0,
        };
        self.inner.lock().locks.insert(&Bytes::copy_from_slice(key.as_bytes()), lock);
    }

    /// A lock that a living transaction does not count on any more.
    pub fn leave_pessimistic_lock(
        &self,
        key: &str,
        primary: &str,
        start_ts: TimeStamp,
        ttl_ms: u64,
    ) {
        self.leave_lock(key, primary, start_ts, ttl_ms);
        let key = Bytes::copy_from_slice(key.as_bytes());
        if let Some(lock) = self.inner.lock().locks.of_mut(&key, start_ts.0) {
            (lock.op, lock.is_pessimistic, lock.for_update_ts) =
                (MutationOp::OpLock, true, start_ts.0);
        }
    }

    /// The key whose lock decides the fate of whoever has locked the key.
    pub fn primary_of(&self, key: &str) -> Option<Bytes> {
        self.inner.lock().locks.holders(key.as_bytes()).next().map(|lock| lock.primary.clone())
    }

    /// Keys that are locked.
    pub fn locked_keys(&self) -> Vec<Bytes> {
        self.inner.lock().locks.keys()
    }

    /// The newest committed value.
    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.inner.lock().read(key.as_bytes(), u64::MAX)
    }

    /// Writes a value as a transaction of its own.
    pub fn put(&self, key: &str, value: &str) {
        let (start_ts, commit_ts) = (self.ts().0, self.ts().0);
        let version =
            Version { commit_ts, start_ts, value: Some(Bytes::copy_from_slice(value.as_bytes())) };
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.inner.lock().versions.entry(key).or_default().push(version);
    }

    /// The primary of a transaction, committed.
    pub fn put_committed(&self, key: &str, start_ts: TimeStamp) {
        let version =
            Version { commit_ts: self.ts().0, start_ts: start_ts.0, value: Some("left".into()) };
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.inner.lock().versions.entry(key).or_default().push(version);
    }

    /// A fresh timestamp.
    pub fn ts(&self) -> TimeStamp {
        TimeStamp(self.clock.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Time passes.
    pub fn advance_ms(&self, ms: u64) {
        self.clock.fetch_add(TimeStamp::compose(ms, 0).0, Ordering::SeqCst);
    }
}

fn peers(first_id: u64) -> Vec<Peer> {
    (1..=3).map(|store_id| Peer { id: first_id + store_id, store_id, role: 0 }).collect()
}

/// Position of the region that holds the key.
fn region_of(regions: &[(Region, u64)], key: &[u8]) -> usize {
    let holds = |(region, _): &(Region, u64)| {
        key >= &region.start_key[..] && (region.end_key.is_empty() || key < &region.end_key[..])
    };
    regions.iter().position(holds).expect("regions cover everything")
}

impl Inner {
    fn region_of(&self, key: &[u8]) -> usize {
        region_of(&self.regions, key)
    }

    /// The region keeps the right part, as in the stores.
    fn split(&mut self, key: &[u8]) {
        let at = self.region_of(key);
        if self.regions[at].0.start_key == key {
            return;
        }
        self.next_id += 10;
        let id = self.next_id;
        let (parent, leader) = &mut self.regions[at];
        if let Some(epoch) = &mut parent.epoch {
            epoch.version += 1;
        }
        let left = Region {
            id,
            start_key: std::mem::replace(&mut parent.start_key, Bytes::copy_from_slice(key)),
            end_key: Bytes::copy_from_slice(key),
            epoch: parent.epoch,
            peers: peers(id),
        };
        let leader = *leader;
        self.regions.insert(at, (left, leader));
    }

    /// The region error of a request that came to the wrong place.
    fn check(&self, context: &Context, store: u64) -> Option<RegionKind> {
        let found = self.regions.iter().find(|(region, _)| region.id == context.region_id);
        let Some((region, leader)) = found else {
            return Some(RegionKind::RegionNotFound(RegionNotFound {
                region_id: context.region_id,
            }));
        };
        let has_peer = region.peers.iter().any(|peer| peer.store_id == store);
        if *leader != store && !(context.replica_read && has_peer) {
            let leader = region.peers.iter().find(|peer| peer.store_id == *leader).copied();
            return Some(RegionKind::NotLeader(NotLeader { region_id: region.id, leader }));
        }
        (region.epoch != context.epoch).then(|| {
            let current_regions = self.regions.iter().map(|(region, _)| region.clone()).collect();
            RegionKind::EpochNotMatch(EpochNotMatch { current_regions })
        })
    }

    /// Whether every key is in the region of the request: the mock insists.
    fn check_keys<'a>(&self, context: &Context, keys: impl Iterator<Item = &'a Bytes>) {
        for key in keys {
            assert_eq!(self.regions[self.region_of(key)].0.id, context.region_id, "{key:?}");
        }
    }

    fn read(&self, key: &[u8], version: u64) -> Option<Bytes> {
        let versions = self.versions.get(key)?;
        let visible = versions.iter().filter(|found| found.commit_ts <= version);
        visible.max_by_key(|found| found.commit_ts)?.value.clone()
    }

    fn lock_error(&self, key: &[u8], context: &Context, version: u64) -> Option<KeyError> {
        let lock = self.locks.holders(key).next()?;
        let is_later = lock.use_async_commit && lock.min_commit_ts > version;
        let past =
            lock.start_ts >= version || is_later || context.resolved_locks.contains(&lock.start_ts);
        let silent = past || lock.op == MutationOp::OpLock;
        (!silent).then(|| locked(key, lock))
    }

    fn get(&self, context: &Context, request: &GetRequest) -> GetResponse {
        let error = self.lock_error(&request.key, context, request.version);
        let value = self.read(&request.key, request.version);
        let not_found = value.is_none();
        GetResponse { error, value: value.unwrap_or_default(), not_found }
    }

    fn pairs<'a>(
        &self,
        context: &Context,
        keys: impl Iterator<Item = &'a Bytes>,
        version: u64,
    ) -> Vec<KvPair> {
        let pair = |key: &Bytes| {
            let error = self.lock_error(key, context, version);
            let value = self.read(key, version);
            (error.is_some() || value.is_some()).then(|| KvPair {
                error,
                key: key.clone(),
                value: value.unwrap_or_default(),
            })
        };
        keys.filter_map(pair).collect()
    }

    fn own_pairs(&self, context: &Context, request: &BatchGetRequest) -> Vec<KvPair> {
        let mut pairs = Vec::new();
        for key in &request.keys {
            match self.locks.of(key, request.version) {
                Some(own) if own.op == MutationOp::OpDelete => {}
                Some(own) => {
                    let value = own.value.clone();
                    pairs.push(KvPair { error: None, key: key.clone(), value });
                }
                None => {
                    pairs.extend(self.pairs(context, std::iter::once(key), request.version));
                }
            }
        }
        pairs
    }

    fn scan(&self, context: &Context, request: &ScanRequest) -> ScanResponse {
        let mut pairs = self.scanned(context, request);
        let mut bytes = 0;
        let fits = pairs.iter().take_while(|pair| {
            let has_room = bytes < SCAN_BYTES_MAX;
            bytes += pair.key.len() + pair.value.len();
            has_room
        });
        let count = fits.count();
        let is_cut = count < pairs.len();
        pairs.truncate(count);
        ScanResponse { pairs, is_cut }
    }

    fn scanned(&self, context: &Context, request: &ScanRequest) -> Vec<KvPair> {
        let locked = self.locks.keys();
        let mut keys: Vec<&Bytes> = self.versions.keys().chain(&locked).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| {
            **key >= request.start_key && (request.end_key.is_empty() || **key < request.end_key)
        });
        if request.reverse {
            keys.reverse();
        }
        let mut pairs = self.pairs(context, keys.into_iter(), request.version);
        pairs.truncate(request.limit as usize);
        pairs
    }

    fn commit_of(&self, key: &[u8], start_ts: u64) -> Option<u64> {
        let versions = self.versions.get(key)?;
        versions.iter().find(|found| found.start_ts == start_ts).map(|found| found.commit_ts)
    }

    fn prewrite(&mut self, request: &PrewriteRequest) -> PrewriteResponse {
        let start_ts = request.start_ts;
        let errors: Vec<KeyError> = request
            .mutations
            .iter()
            .filter_map(|mutation| self.prewrite_error(mutation, request))
            .collect();
        let keys = request.mutations.iter().map(|mutation| &mutation.key);
        if let Some(commit_ts) = keys.clone().find_map(|key| self.commit_of(key, start_ts)) {
            let one_pc_commit_ts = if request.try_one_pc { commit_ts } else { 0 };
            let min_commit_ts = if request.use_async_commit { commit_ts } else { 0 };
            let generation = request.generation;
            return PrewriteResponse {
                min_commit_ts,
                one_pc_commit_ts,
                generation,
                ..Default::default()
            };
        }
        if !errors.is_empty() {
            return PrewriteResponse { errors, ..Default::default() };
        }
        let locks = request.mutations.iter().filter(|one| one.op() != MutationOp::OpCheckNotExists);
        for mutation in locks {
            let own = self.locks.of(&mutation.key, start_ts);
            let stays = |lock: &Lock| !lock.is_pessimistic && lock.generation >= request.generation;
            if own.is_some_and(stays) {
                continue;
            }
            let held_ttl_ms = own.map_or(0, |own| own.ttl_ms);
            let is_primary = mutation.key == request.primary;
            let secondaries = request.secondaries.iter().filter(|_| is_primary);
            let lock = Lock {
                start_ts,
                primary: request.primary.clone(),
                ttl_ms: request.lock_ttl_ms.max(held_ttl_ms),
                op: mutation.op(),
                value: mutation.value.clone(),
                txn_size: request.txn_size,
                min_commit_ts: request.min_commit_ts,
                is_pessimistic: false,
                is_shared: mutation.is_shared,
                for_update_ts: request.for_update_ts,
                use_async_commit: request.use_async_commit,
                secondaries: secondaries.cloned().collect(),
                generation: request.generation,
            };
            self.locks.insert(&mutation.key, lock);
        }
        let own = keys.filter_map(|key| self.locks.of(key, start_ts));
        let asynchronous =
            own.map(|lock| if lock.use_async_commit { lock.min_commit_ts } else { 0 });
        let asynchronous: Vec<u64> = asynchronous.collect();
        let generation = request.generation;
        let mut response = PrewriteResponse { generation, ..Default::default() };
        if !asynchronous.contains(&0) {
            response.min_commit_ts = asynchronous.into_iter().max().unwrap_or(0);
        }
        if request.try_one_pc {
            response.min_commit_ts = 0;
            response.one_pc_commit_ts = request.min_commit_ts;
            for mutation in &request.mutations {
                self.commit_key(&mutation.key, start_ts, request.min_commit_ts);
            }
        }
        response
    }

    fn prewrite_error(&self, mutation: &Mutation, request: &PrewriteRequest) -> Option<KeyError> {
        let (key, start_ts) = (&mutation.key, request.start_ts);
        let own = self.locks.of(key, start_ts);
        if mutation.is_locked && own.is_none() {
            let lost = TxnLockNotFound { key: key.clone(), start_ts };
            return Some(KeyError { kind: Some(key_error::Kind::TxnLockNotFound(lost)) });
        }
        // A lock of a later time came after the one that the transaction knows of.
        let is_guarded =
            own.is_some_and(|own| !own.is_pessimistic || own.for_update_ts <= mutation.locked_ts);
        let seen_up_to = match mutation.is_locked {
            true if is_guarded => u64::MAX,
            true => mutation.locked_ts,
            false => start_ts.max(request.for_update_ts),
        };
        if let Some(refusal) = self.locks.refusal(key, start_ts, mutation.is_shared) {
            return Some(refusal);
        }
        let rolled_back = self.rollbacks.contains(&(key.clone(), start_ts));
        let newest = self.versions.get(key).and_then(|all| all.iter().max_by_key(|v| v.commit_ts));
        if rolled_back || newest.is_some_and(|newest| newest.commit_ts > seen_up_to) {
            let newest = newest.cloned().unwrap_or(Version { commit_ts: 0, start_ts, value: None });
            let conflict = WriteConflict {
                key: key.clone(),
                start_ts,
                conflict_start_ts: newest.start_ts,
                conflict_commit_ts: newest.commit_ts,
                ..WriteConflict::default()
            };
            return Some(KeyError { kind: Some(key_error::Kind::Conflict(conflict)) });
        }
        let insert = matches!(mutation.op(), MutationOp::OpInsert | MutationOp::OpCheckNotExists);
        let exists = match own.filter(|own| own.generation > 0) {
            Some(own) if own.generation >= request.generation => false,
            Some(own) => own.op != MutationOp::OpDelete,
            None => self.read(key, seen_up_to).is_some(),
        };
        (insert && exists).then(|| KeyError {
            kind: Some(key_error::Kind::AlreadyExist(AlreadyExist { key: key.clone() })),
        })
    }

    fn commit_key(&mut self, key: &Bytes, start_ts: u64, commit_ts: u64) {
        let Some(lock) = self.locks.remove(key, start_ts) else { return };
        let value = match lock.op {
            MutationOp::OpPut | MutationOp::OpInsert => Some(lock.value.clone()),
            _ => None,
        };
        if lock.op != MutationOp::OpLock {
            let version = Version { commit_ts, start_ts, value };
            self.versions.entry(key.clone()).or_default().push(version);
        }
    }

    fn commit(&mut self, request: &CommitRequest) -> CommitResponse {
        let CommitRequest { start_ts, commit_ts, .. } = *request;
        for key in &request.keys {
            let kind = match self.locks.of(key, start_ts) {
                Some(lock) if commit_ts < lock.min_commit_ts => {
                    key_error::Kind::CommitTsExpired(CommitTsExpired {
                        start_ts,
                        attempted_commit_ts: commit_ts,
                        key: key.clone(),
                        min_commit_ts: lock.min_commit_ts,
                    })
                }
                Some(_) => continue,
                None if self.commit_of(key, start_ts).is_some() => continue,
                None => {
                    key_error::Kind::TxnLockNotFound(TxnLockNotFound { key: key.clone(), start_ts })
                }
            };
            return CommitResponse { error: Some(KeyError { kind: Some(kind) }) };
        }
        for key in &request.keys {
            self.commit_key(key, start_ts, commit_ts);
        }
        CommitResponse::default()
    }

    fn roll_back(&mut self, key: &Bytes, start_ts: u64) {
        self.locks.remove(key, start_ts);
        self.rollbacks.insert((key.clone(), start_ts));
    }

    fn rollback(&mut self, request: &RollbackRequest) -> RollbackResponse {
        for key in &request.keys {
            if let Some(commit_ts) = self.commit_of(key, request.start_ts) {
                let kind = key_error::Kind::Committed(Committed { commit_ts });
                return RollbackResponse { error: Some(KeyError { kind: Some(kind) }) };
            }
            self.roll_back(key, request.start_ts);
        }
        RollbackResponse::default()
    }

    fn check_txn_status(&mut self, request: &CheckTxnStatusRequest) -> CheckTxnStatusResponse {
        let key = &request.primary_key;
        let mut response = CheckTxnStatusResponse::default();
        if let Some(lock) = self.locks.of_mut(key, request.lock_ts) {
            let expires = TimeStamp(lock.start_ts).physical_ms() + lock.ttl_ms;
            if lock.primary != *key {
                response.lock_ttl_ms = lock.ttl_ms;
                response.lock_info = info(key, lock);
                return response;
            }
            if lock.use_async_commit && !request.force_sync_commit {
                if TimeStamp(request.current_ts).physical_ms() >= expires {
                    response.set_action(TxnAction::TtlExpireAsyncCommit);
                }
                response.lock_ttl_ms = lock.ttl_ms;
                response.lock_info = info(key, lock);
                return response;
            }
            if TimeStamp(request.current_ts).physical_ms() < expires {
                response.lock_ttl_ms = lock.ttl_ms;
                if request.caller_start_ts > 0 {
                    if request.caller_start_ts != u64::MAX {
                        lock.min_commit_ts = lock.min_commit_ts.max(request.caller_start_ts + 1);
                    }
                    response.set_action(TxnAction::MinCommitTsPushed);
                }
                return response;
            }
            self.roll_back(key, request.lock_ts);
            response.set_action(TxnAction::TtlExpireRollback);
        } else if let Some(commit_ts) = self.commit_of(key, request.lock_ts) {
            response.commit_ts = commit_ts;
        } else if self.rollbacks.contains(&(key.clone(), request.lock_ts)) {
            response.set_action(TxnAction::LockNotExistRollback);
        } else if request.rollback_if_not_exist && request.resolving_pessimistic_lock {
            response.set_action(TxnAction::LockNotExistDoNothing);
        } else if request.rollback_if_not_exist {
            self.roll_back(key, request.lock_ts);
            response.set_action(TxnAction::LockNotExistRollback);
        } else {
            let missing = TxnNotFound { start_ts: request.lock_ts, primary_key: key.clone() };
            response.error = Some(KeyError { kind: Some(key_error::Kind::TxnNotFound(missing)) });
        }
        response
    }

    fn resolve_lock(
        &mut self,
        context: &Context,
        request: &ResolveLockRequest,
    ) -> ResolveLockResponse {
        let mut keys = request.keys.clone();
        if keys.is_empty() {
            let is_here = |key: &[u8]| self.regions[self.region_of(key)].0.id == context.region_id;
            let ours = self.locks.iter().filter(|(_, lock)| lock.start_ts == request.start_ts);
            let ours = ours.filter(|(key, _)| is_here(key));
            keys = ours.map(|(key, _)| key.clone()).collect();
        }
        for key in &keys {
            if request.commit_ts > 0 {
                self.commit_key(key, request.start_ts, request.commit_ts);
            } else {
                self.roll_back(key, request.start_ts);
            }
        }
        ResolveLockResponse::default()
    }

    fn execute(&mut self, context: &Context, request: &Request) -> Response {
        match request {
            Request::Get(get) => {
                self.check_keys(context, std::iter::once(&get.key));
                Response::Get(self.get(context, get))
            }
            Request::BatchGet(get) => {
                self.check_keys(context, get.keys.iter());
                let pairs = match get.own_writes {
                    true => self.own_pairs(context, get),
                    false => self.pairs(context, get.keys.iter(), get.version),
                };
                Response::BatchGet(BatchGetResponse { pairs })
            }
            Request::Scan(scan) => Response::Scan(self.scan(context, scan)),
            Request::Prewrite(prewrite) => {
                self.check_keys(context, prewrite.mutations.iter().map(|one| &one.key));
                Response::Prewrite(self.prewrite(prewrite))
            }
            Request::Commit(commit) => {
                self.check_keys(context, commit.keys.iter());
                Response::Commit(self.commit(commit))
            }
            Request::Rollback(rollback) => {
                self.check_keys(context, rollback.keys.iter());
                Response::Rollback(self.rollback(rollback))
            }
            Request::CheckTxnStatus(check) => {
                Response::CheckTxnStatus(self.check_txn_status(check))
            }
            Request::ScanLock(scan) => Response::ScanLock(self.scan_lock(scan)),
            Request::CheckSecondaryLocks(check) => {
                self.check_keys(context, check.keys.iter());
                Response::CheckSecondaryLocks(self.check_secondary_locks(check))
            }
            Request::ResolveLock(resolve) => {
                Response::ResolveLock(self.resolve_lock(context, resolve))
            }
            Request::PessimisticRollback(rollback) => {
                self.check_keys(context, rollback.keys.iter());
                Response::PessimisticRollback(self.pessimistic_rollback(rollback))
            }
            Request::DetectDeadlock(detect) => {
                Response::DetectDeadlock(self.detect_deadlock(detect))
            }
            Request::Refresh(refresh) => {
                self.check_keys(context, refresh.spans.iter().map(|span| &span.start));
                Response::Refresh(self.refresh(refresh))
            }
            Request::TxnHeartBeat(beat) => Response::TxnHeartBeat(self.heart_beat(beat)),
            Request::SplitRegion(split) => {
                for key in &split.keys {
                    self.split(key);
                }
                let regions = self.regions.iter().map(|(region, _)| region.clone()).collect();
                Response::SplitRegion(SplitRegionResponse { regions })
            }
            other => panic!("the mock store has no {other:?}"),
        }
    }

    /// Takes the fault meant for the kind and applies what precedes execution.
    fn take_fault(&mut self, kind: &str, context: &Context) -> Option<Fault> {
        let at = self.faults.iter().position(|(wanted, _)| *wanted == kind)?;
        let (_, fault) = self.faults.remove(at)?;
        match &fault {
            Fault::Split(key) => self.split(key.as_bytes()),
            Fault::LeaderTo(store) => {
                let found =
                    self.regions.iter_mut().find(|(region, _)| region.id == context.region_id);
                if let Some((_, leader)) = found {
                    *leader = *store;
                }
            }
            _ => {}
        }
        Some(fault)
    }
}

fn locked(key: &[u8], lock: &Lock) -> KeyError {
    let info = LockInfo {
        key: Bytes::copy_from_slice(key),
        primary: lock.primary.clone(),
        start_ts: lock.start_ts,
        ttl_ms: lock.ttl_ms,
        txn_size: lock.txn_size,
        min_commit_ts: lock.min_commit_ts,
        kind: match lock.is_pessimistic {
            true => LockKind::Pessimistic.into(),
            false => LockKind::Put.into(),
        },
        for_update_ts: lock.for_update_ts,
        use_async_commit: lock.use_async_commit,
        secondaries: lock.secondaries.clone(),
        is_shared: lock.is_shared,
        ..LockInfo::default()
    };
    KeyError { kind: Some(key_error::Kind::Locked(info)) }
}

fn info(key: &[u8], lock: &Lock) -> Option<LockInfo> {
    match locked(key, lock).kind {
        Some(key_error::Kind::Locked(info)) => Some(info),
        _ => None,
    }
}

fn kind_of(request: &Request) -> &'static str {
    match request {
        Request::Get(_) => "get",
        Request::BatchGet(_) => "batch_get",
        Request::Scan(_) => "scan",
        Request::Prewrite(_) => "prewrite",
        Request::Commit(_) => "commit",
        Request::Rollback(_) => "rollback",
        Request::CheckTxnStatus(_) => "check_txn_status",
        Request::CheckSecondaryLocks(_) => "check_secondary_locks",
        Request::ResolveLock(_) => "resolve_lock",
        Request::TxnHeartBeat(_) => "txn_heart_beat",
        Request::Refresh(_) => "refresh",
        Request::PessimisticLock(_) => "pessimistic_lock",
        Request::PessimisticRollback(_) => "pessimistic_rollback",
        Request::DetectDeadlock(_) => "detect_deadlock",
        Request::SplitRegion(_) => "split_region",
        _ => "other",
    }
}

/// One store of the cluster.
struct MockStore {
    id: u64,
    cluster: Arc<Cluster>,
}

impl MockStore {
    fn lost(&self) -> TransportError {
        let address = self.id.to_string();
        TransportError::ConnectionLost { address, reason: "on order".into() }
    }

    fn unreachable(&self) -> TransportError {
        let address = self.id.to_string();
        TransportError::Unreachable { address, reason: "on order".into() }
    }
}

fn region_error(kind: RegionKind) -> Option<RegionError> {
    Some(RegionError { message: String::new(), kind: Some(kind) })
}

#[async_trait]
impl KvStoreService for MockStore {
    async fn call(&self, request: KvRequest) -> Result<KvResponse, TransportError> {
        let context = request.context.unwrap_or_default();
        let cmd = request.cmd.expect("a command");
        let kind = kind_of(&cmd);
        let fault = {
            let mut inner = self.cluster.inner.lock();
            inner.calls.push(format!("{kind}@{}", self.id));
            let fault = inner.take_fault(kind, &context);
            match &fault {
                Some(Fault::Region(kind)) => {
                    return Ok(KvResponse { region_error: region_error(kind.clone()), cmd: None });
                }
                Some(Fault::LostBefore) => return Err(self.unreachable()),
                _ => {}
            }
            if let Some(kind) = inner.check(&context, self.id) {
                return Ok(KvResponse { region_error: region_error(kind), cmd: None });
            }
            fault
        };
        let mut cmd = cmd;
        if let (Request::Prewrite(prewrite), Some(Fault::NoAsyncCommit)) = (&mut cmd, &fault) {
            prewrite.use_async_commit = false;
        }
        let response = match &cmd {
            Request::PessimisticLock(lock) => self.lock_patiently(&context, lock).await,
            cmd => self.cluster.inner.lock().execute(&context, cmd),
        };
        match fault {
            Some(Fault::LostAfter) => Err(self.lost()),
            _ => Ok(KvResponse { region_error: None, cmd: Some(response) }),
        }
    }

    fn try_get_now(&self, context: &Context, key: &Bytes, version: u64) -> Option<KvResponse> {
        let inner = self.cluster.inner.lock();
        if version != u64::MAX || inner.check(context, self.id).is_some() {
            return None;
        }
        let get = inner.get(context, &GetRequest { key: key.clone(), version });
        Some(KvResponse { region_error: None, cmd: Some(Response::Get(get)) })
    }

    /// Keys of the ranges, each behind a comma; a fragment with an operator is
    /// taken for an aggregate and gives its pages without marks.
    async fn coprocessor(
        &self,
        request: CoprocessorRequest,
    ) -> Result<CoprocessorStream, TransportError> {
        let context = request.context.unwrap_or_default();
        let fragment = request.fragment.unwrap_or_default();
        let aggregate = !fragment.operators.is_empty();
        let desc = fragment.settings.is_some();
        let mut inner = self.cluster.inner.lock();
        inner.calls.push(format!("coprocessor@{}", self.id));
        for table in &request.tables {
            let name = (self.id, table.digest.clone());
            if !table.rows.is_empty() {
                inner.calls.push(format!("rows@{}", self.id));
                inner.tables.insert(name);
            } else if !inner.tables.contains(&name) {
                let response =
                    CoprocessorResponse { unknown_table: true, ..CoprocessorResponse::default() };
                return Ok(stream::iter([Ok(response)]).boxed());
            }
        }
        match inner.take_fault("coprocessor", &context) {
            Some(Fault::LostBefore) => return Err(self.unreachable()),
            Some(Fault::Region(kind)) => {
                let response = CoprocessorResponse {
                    region_error: region_error(kind),
                    ..CoprocessorResponse::default()
                };
                return Ok(stream::iter([Ok(response)]).boxed());
            }
            _ => {}
        }
        if let Some(kind) = inner.check(&context, self.id) {
            let response = CoprocessorResponse {
                region_error: region_error(kind),
                ..CoprocessorResponse::default()
            };
            return Ok(stream::iter([Ok(response)]).boxed());
        }
        let mut keys = Vec::new();
        for range in &request.ranges {
            inner.check_keys(&context, std::iter::once(&range.start));
            let scan = ScanRequest {
                start_key: range.start.clone(),
                end_key: range.end.clone(),
                limit: u32::MAX,
                version: request.start_ts,
                ..ScanRequest::default()
            };
            for pair in inner.scanned(&context, &scan) {
                if let Some(key_error::Kind::Locked(lock)) = pair.error.and_then(|e| e.kind) {
                    let response = CoprocessorResponse {
                        locked: Some(lock),
                        ..CoprocessorResponse::default()
                    };
                    return Ok(stream::iter([Ok(response)]).boxed());
                }
                keys.push(pair.key);
            }
        }
        if desc {
            keys.reverse();
        }
        let mut pages: Vec<Result<CoprocessorResponse, TransportError>> = Vec::new();
        for page in keys.chunks(PAGE_ROWS) {
            let chunk: Vec<u8> = page.iter().flat_map(|key| [b",", &key[..]].concat()).collect();
            let mut response =
                CoprocessorResponse { chunk: chunk.into(), ..CoprocessorResponse::default() };
            if let Some(last) = page.last()
                && !aggregate
            {
                response.next_start =
                    if desc { last.clone() } else { crate::client::key_after(last) };
            }
            pages.push(Ok(response));
        }
        if let Some(behind) = inner.page_faults.pop_front() {
            pages.truncate(behind);
            pages.push(Err(self.lost()));
        } else {
            pages.push(Ok(CoprocessorResponse {
                summaries: Some(ExecSummaries::default()),
                ..CoprocessorResponse::default()
            }));
        }
        Ok(stream::iter(pages).boxed())
    }

    async fn store_info(&self) -> Result<StoreInfoResponse, TransportError> {
        Ok(StoreInfoResponse { store_id: self.id, regions: Vec::new() })
    }
}

struct Connector(Arc<Cluster>);

impl StoreConnector for Connector {
    fn connect(&self, store: &Store) -> Arc<dyn KvStoreService> {
        Arc::new(MockStore { id: store.id, cluster: self.0.clone() })
    }
}
