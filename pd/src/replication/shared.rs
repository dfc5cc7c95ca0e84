//! What a member shows of itself to the rest of its process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_proto::pd::RaftHead;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::state::{MemberInfo, State};

/// Role and term, as tasks watch them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Raft's term.
    pub term: u64,
    /// The leader as far as this member knows; zero: nobody.
    pub leader_id: u64,
    /// This member leads and has applied everything of earlier terms.
    pub leads: bool,
    /// This member may serve as the leader, while its lease lasts.
    pub open: bool,
    /// This member belongs to the group no more.
    pub removed: bool,
    /// The loop has ended.
    pub stopped: bool,
}

/// How far another member is, as the leader knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Last entry it is known to hold.
    pub matched: u64,
    /// When it was heard last, by the monotonic clock; zero: never.
    pub heard_ms: u64,
    /// It needs a snapshot and does not have it yet.
    pub needs_snapshot: bool,
}

/// A member that was not heard for so long is not well.
pub const SILENT_AFTER_MS: u64 = 3_000;

impl Progress {
    /// Whether the member was heard lately.
    pub fn is_well(&self, now_ms: u64) -> bool {
        self.heard_ms > 0 && now_ms.saturating_sub(self.heard_ms) < SILENT_AFTER_MS
    }
}

/// Open while this member may serve as the leader. Asked for every timestamp.
#[derive(Debug, Default)]
pub struct Gate {
    open_until_ms: AtomicU64,
}

impl Gate {
    /// Whether the lease holds at the time. A stall between this question and the answer
    /// to the caller does no harm: whoever got a later timestamp elsewhere in between
    /// did so after this caller had asked.
    pub fn is_open(&self, now_ms: u64) -> bool {
        now_ms < self.open_until_ms.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, until_ms: u64) {
        self.open_until_ms.store(until_ms, Ordering::Release);
    }
}

/// State, role and addresses of a member.
#[derive(Debug)]
pub struct Shared {
    member_id: u64,
    state: RwLock<State>,
    gate: Gate,
    status: watch::Sender<Status>,
    schema: watch::Sender<i64>,
    cluster_id: AtomicU64,
    last_index: AtomicU64,
    progress: Mutex<BTreeMap<u64, Progress>>,
    addresses: Mutex<BTreeMap<u64, String>>,
    introductions: Mutex<BTreeMap<u64, MemberInfo>>,
}

impl Shared {
    pub(super) fn new(member_id: u64, state: State) -> Shared {
        let shared = Shared {
            member_id,
            gate: Gate::default(),
            status: watch::Sender::default(),
            schema: watch::Sender::new(state.schema_version),
            cluster_id: AtomicU64::new(state.cluster_id),
            last_index: AtomicU64::new(0),
            progress: Mutex::default(),
            addresses: Mutex::default(),
            introductions: Mutex::default(),
            state: RwLock::new(state),
        };
        shared.learn_addresses();
        shared
    }

    /// This member's id in the group.
    pub fn member_id(&self) -> u64 {
        self.member_id
    }

    /// The state as applied so far.
    pub fn state(&self) -> &RwLock<State> {
        &self.state
    }

    /// Whether this member may serve as the leader.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The role, now and when it changes.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The role now.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// The newest schema version applied here, now and when it changes.
    pub fn watch_schema(&self) -> watch::Receiver<i64> {
        self.schema.subscribe()
    }

    /// Identity of the cluster; zero until this member knows it.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Acquire)
    }

    /// Last entry of this member's log.
    pub fn last_index(&self) -> u64 {
        self.last_index.load(Ordering::Relaxed)
    }

    /// How far the others are; empty unless this member leads.
    pub fn progress(&self) -> BTreeMap<u64, Progress> {
        self.progress.lock().clone()
    }

    /// Where a member is reached; empty when nobody said.
    pub fn address(&self, member_id: u64) -> String {
        self.addresses.lock().get(&member_id).cloned().unwrap_or_default()
    }

    /// A member told its address, or an operator did.
    pub fn note_address(&self, member_id: u64, address: &str) {
        if !address.is_empty() {
            self.addresses.lock().insert(member_id, address.to_owned());
        }
    }

    /// Another member introduced itself.
    pub(super) fn note_introduction(&self, head: &RaftHead) {
        let told = MemberInfo {
            id: head.from,
            name: head.name.clone(),
            address: head.address.clone(),
            token: head.token,
            learner: false,
        };
        self.introductions.lock().insert(head.from, told);
    }

    /// What members told of themselves and the list of members does not say yet.
    pub fn take_news(&self) -> Vec<MemberInfo> {
        let state = self.state.read();
        let told = std::mem::take(&mut *self.introductions.lock());
        let differs = |told: &MemberInfo| match state.members.get(told.id) {
            Some(known) => {
                (&known.name, &known.address, known.token)
                    != (&told.name, &told.address, told.token)
            }
            None => false,
        };
        told.into_values().filter(differs).collect()
    }

    /// Where the leader is reached; empty when nobody leads.
    pub fn leader_address(&self) -> String {
        self.address(self.status().leader_id)
    }

    /// Whoever is not known yet is reached as the list of members says. Those who told
    /// themselves know better.
    pub(super) fn learn_addresses(&self) {
        let state = self.state.read();
        let mut addresses = self.addresses.lock();
        for member in state.members.iter().filter(|member| !member.address.is_empty()) {
            addresses.entry(member.id).or_insert_with(|| member.address.clone());
        }
    }

    pub(super) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    pub(super) fn set_progress(&self, progress: BTreeMap<u64, Progress>) {
        *self.progress.lock() = progress;
    }

    pub(super) fn set_last_index(&self, index: u64) {
        self.last_index.store(index, Ordering::Relaxed);
    }

    /// Something was applied: what is watched may have changed.
    pub(super) fn publish_state(&self) {
        let (cluster_id, newest) = {
            let state = self.state.read();
            (state.cluster_id, state.schema_version)
        };
        self.cluster_id.store(cluster_id, Ordering::Release);
        self.schema.send_if_modified(|version| {
            let grown = newest > *version;
            *version = newest.max(*version);
            grown
        });
    }
}
