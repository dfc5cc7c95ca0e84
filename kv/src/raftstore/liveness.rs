//! Whether other stores live: told per pair of stores, not per region.
//!
//! A region without traffic *rests*: no tick, no heartbeat, no timer. Ten thousand idle
//! regions then cost what their pairs of stores cost: one small message each way every
//! other tick. What a region's own heartbeats gave is kept:
//!
//! | needed | awake region | resting region |
//! |---|---|---|
//! | followers notice a dead leader | silence of the leader for 10 to 15 ticks | silence of its **store** for 10 ticks |
//! | nobody votes while the leader may hold a lease | election timer of the follower | the follower's **promise** |
//! | the leader's lease | heartbeats and entries a quorum answered | **beats** that the stores of a quorum answered |
//! | a leader without a quorum steps down | check-quorum | it is woken when stores stop answering, and checks at once |
//!
//! **Flow.** A leader that was idle for a while asks every follower to rest (`RestAsk`: term,
//! *number*, last index). A follower that has all of it, committed, follows this leader and
//! knows no higher number promises and says so. Once all have (or their stores have been
//! silent for long and a quorum is left), the leader stops its clock too. From then on the
//! store sends beats to theirs, each with the time of sending; every answer carries the
//! answering store's *incarnation* (number of its start, durable) and its *support epoch*.
//!
//! ```text
//!  store A (leader)                            store B (follower)
//!  RestAsk(term 7, number 3, index 42)  ---->  promise(7, 3): no ticks, no votes
//!                                       <----  agreed, incarnation 2, epoch 5
//!  beat(sent t1)                        ---->  silence of A := 0
//!  lease until t1 + lease               <----  heard t1, incarnation 2, epoch 5
//!            ... 10 ticks of silence ...
//!                                              epoch 6: every promise to A ends
//! ```
//!
//! **A promise** is "no vote and no candidacy against this leader". It ends only
//! 1. when the follower's store has heard nothing of the leader's for an election timeout,
//!    or hears that it started anew: all promises to that store end and the support epoch
//!    grows;
//! 2. with a message of this leader that carries a higher number: the leader is awake and
//!    its own heartbeats count from here on;
//! 3. when the leader itself asks for a vote in a later term: it leads no more;
//! 4. when Raft moves the follower to another term or leader.
//!
//! **Why the lease is safe.** The leader reads locally until `t + lease` only if the stores of
//! a quorum answered a beat sent at `t`, in the incarnation and epoch in which their peers
//! promised. Take a member of that quorum. It heard the beat after `t`; by 1 it does not end
//! its promise before an election timeout of *its own ticks* has passed since, which come no
//! faster than time, and `lease` is shorter by two ticks and a twentieth
//! ([`super::config::RaftStoreConfig::lease`]). Ending 2 means the leader woke: it stopped
//! counting beats before it sent that message, and a peer that hears its leader starts its
//! election timer anew. In 3 and 4 the leader was deposed, or handed over, which withdraws
//! its lease for the rest of the term; nobody else can be elected meanwhile, because any
//! quorum holds a member that promised. If the follower's store crashes, its promise is
//! forgotten, but a started store does not vote for an election timeout, and its new
//! incarnation ends the leader's trust in the old answers. Nothing here reads a wall clock,
//! and a store that was stopped (SIGSTOP, a hung disk) sees its lease run out by its
//! monotonic clock before it can serve from it.
//!
//! **Why nothing is stuck.** A leader wakes, with a higher number, as soon as Raft wants to
//! send anything, a peer asks for a vote, a member's store stops answering or changes epoch,
//! or a store it did without is heard again; awake it heartbeats, which frees followers (2)
//! however many messages were lost before. A follower whose leader's peer stepped down while
//! its store lives is freed by that peer's candidacy (3). Old messages do no harm: an ask
//! of a lower number than was seen is refused, an answer of a lower number is ignored.
//!
//! **Storms.** When a store dies, thousands of promises end at one tick. Ranks by region id
//! spread the first candidacies over the voters, so that two rarely stand against each
//! other; each store starts at most [`CAMPAIGNS_PER_TICK_MAX`] elections per tick and wakes
//! at most [`WAKES_PER_TICK_MAX`] leaders. What had to wait comes first in the next tick, so
//! that elections without hope (of a store that is heard and hears nothing) keep no region
//! from its turn.
//!
//! **Left out.** Beats go to every store that shares a resting region: with hundreds of
//! stores this is a full mesh, at ten small messages per second and pair.
//!
//! **Sources.** Raft dissertation, sections 4.2.3 and 6.4.1; CockroachDB's store liveness and
//! leader leases (support epochs); TiKV's hibernated regions (what stays awake there, an
//! election timer per region, does not here).
//!
//! **Concurrency.** Owned by the Raft thread; readers see [`RestLease`] only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_proto::{kv, meta};
use prost::Message as _;

use super::clock::MonotonicTime;
use super::config::RaftStoreConfig;
use super::disk::HEALTHY_SCORE;

/// Elections one store starts in one tick: enough for 10,000 regions within two seconds,
/// few enough that a round stays short.
pub const CAMPAIGNS_PER_TICK_MAX: usize = 512;
/// Resting leaders woken in one tick because of other stores.
pub const WAKES_PER_TICK_MAX: usize = 1024;
/// Leaders that begin to ask in one tick.
pub const ASKS_PER_TICK_MAX: usize = 1024;
/// Asks and answers of one message.
const ENTRIES_PER_BEAT: usize = 1024;
/// A store silent for so long is done without: its peers may be missing when a region
/// goes to rest.
pub const ABSENT_TICKS: u32 = 100;
/// Beats go on for so long after an ask, whatever comes of it.
const BEATS_AFTER_ASK_TICKS: u32 = 100;

/// Support of one store, as it was given: answers of another incarnation or epoch do not
/// count for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Who supports.
    pub store_id: u64,
    /// Number of its start.
    pub incarnation: u64,
    /// Grows whenever it withdraws support.
    pub epoch: u64,
}

/// On whom a resting leader relies.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RestKey {
    /// Stores of voters that promised.
    pub voters: Vec<Grant>,
    /// How many of them make a quorum, together with the leader.
    pub needed: usize,
    /// Stores of learners that promised.
    pub learners: Vec<Grant>,
    /// Stores of members that were silent for long.
    pub absent: Vec<u64>,
}

impl RestKey {
    fn relies_on(&self, store_id: u64) -> bool {
        self.voters.iter().chain(&self.learners).any(|grant| grant.store_id == store_id)
    }
}

/// The lease of all resting leaders that rely on the same stores.
#[derive(Debug)]
pub struct RestLease {
    key: RestKey,
    valid_until: AtomicU64,
}

impl RestLease {
    /// Until when its leaders may read locally.
    pub fn valid_until(&self) -> MonotonicTime {
        MonotonicTime(self.valid_until.load(Ordering::SeqCst))
    }

    /// On whom its leaders rely.
    pub fn key(&self) -> &RestKey {
        &self.key
    }
}

/// One other store.
#[derive(Debug, Default)]
struct Link {
    /// Its incarnation as heard last; 0 = not yet.
    incarnation: u64,
    /// Of our support for it.
    support_epoch: u64,
    /// Our ticks since anything came from it.
    silent_ticks: u32,
    heard_at: MonotonicTime,
    /// Its support for us: incarnation and epoch.
    granted: (u64, u64),
    /// When the newest beat it answered was sent, in that grant.
    granted_sent: MonotonicTime,
    /// Our ticks since an answer.
    unanswered_ticks: u32,
    /// Slow score of its disk, as it told last.
    slow_score: u32,
    beats_left: u32,
    beat_due: bool,
    /// Incarnation and time of a beat to answer.
    heard_beat: Option<(u64, u64)>,
    asks: Vec<kv::RestAsk>,
    answers: Vec<kv::RestAnswer>,
}

/// Support that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Of which store.
    pub store_id: u64,
    /// Ticks of its silence.
    pub silent_ticks: u32,
}

/// All other stores, as far as something was heard of them or asked.
pub struct Links {
    store_id: u64,
    incarnation: u64,
    timeout_ticks: u32,
    beat_ticks: u64,
    lease: Duration,
    slow_score: u32,
    links: BTreeMap<u64, Link>,
    groups: BTreeMap<RestKey, Arc<RestLease>>,
    answered: bool,
}

impl Links {
    /// Nothing heard yet.
    pub fn new(store_id: u64, config: &RaftStoreConfig) -> Links {
        Links {
            store_id,
            incarnation: 0,
            timeout_ticks: config.election_timeout_ticks as u32,
            beat_ticks: config.heartbeat_ticks as u64,
            lease: config.lease(),
            slow_score: 1,
            links: BTreeMap::new(),
            groups: BTreeMap::new(),
            answered: false,
        }
    }

    /// The store knows the number of its start.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// The slow score that beats tell.
    pub fn set_slow_score(&mut self, score: u32) {
        self.slow_score = score;
        if score > 1 {
            // Also those that rest on nothing here: leaders may be about to come here.
            self.links.values_mut().for_each(|link| link.beats_left = BEATS_AFTER_ASK_TICKS);
        }
    }

    /// Whether leaders may go to that store.
    pub fn is_healthy(&self, store_id: u64) -> bool {
        let healthy =
            |link: &Link| link.slow_score < HEALTHY_SCORE && link.silent_ticks < self.timeout_ticks;
        self.links.get(&store_id).is_some_and(healthy)
    }

    fn link(&mut self, store_id: u64) -> &mut Link {
        let fresh = || Link { support_epoch: 1, ..Link::default() };
        self.links.entry(store_id).or_insert_with(fresh)
    }

    /// Anything came from the store.
    pub fn heard(&mut self, store_id: u64, now: MonotonicTime) {
        let link = self.link(store_id);
        link.silent_ticks = 0;
        link.heard_at = now;
    }

    /// When anything came from the store last.
    pub fn heard_at(&self, store_id: u64) -> MonotonicTime {
        self.links.get(&store_id).map_or(MonotonicTime(0), |link| link.heard_at)
    }

    /// Whether the store has been silent for so long that it is done without.
    pub fn is_absent(&mut self, store_id: u64) -> bool {
        self.link(store_id).silent_ticks >= ABSENT_TICKS
    }

    /// Whether the store answers our beats.
    pub fn answers(&self, store_id: u64) -> bool {
        let answers = |link: &Link| link.unanswered_ticks < self.timeout_ticks;
        self.links.get(&store_id).is_some_and(answers)
    }

    /// Takes a store's beat. `None`: it is of an earlier start and to be ignored. Else
    /// whether the store started anew, which ends all promises to it.
    pub fn on_beat(
        &mut self,
        store_id: u64,
        beat: &kv::StoreBeat,
        now: MonotonicTime,
    ) -> Option<Option<Withdrawal>> {
        let own_incarnation = self.incarnation;
        let link = self.link(store_id);
        if beat.incarnation == 0 || beat.incarnation < link.incarnation {
            return None;
        }
        let silent_ticks = link.silent_ticks;
        let mut restarted = None;
        if beat.incarnation > link.incarnation {
            if link.incarnation != 0 {
                link.support_epoch += 1;
                restarted = Some(Withdrawal { store_id, silent_ticks });
            }
            link.incarnation = beat.incarnation;
        }
        link.silent_ticks = 0;
        link.heard_at = now;
        link.slow_score = beat.slow_score;
        if beat.sent_ns > 0 {
            link.heard_beat = Some((beat.incarnation, beat.sent_ns));
        }
        let granted = (beat.incarnation, beat.support_epoch);
        if granted > link.granted {
            link.granted = granted;
            link.granted_sent = MonotonicTime(0);
        }
        // A time of the future is none of ours.
        let heard_own = beat.heard_incarnation == own_incarnation && beat.heard_sent_ns <= now.0;
        if granted == link.granted && heard_own && beat.heard_sent_ns > 0 {
            link.granted_sent = link.granted_sent.max(MonotonicTime(beat.heard_sent_ns));
            link.unanswered_ticks = 0;
            self.answered = true;
        }
        Some(restarted)
    }

    /// The support of a store as it stands.
    pub fn grant(&self, store_id: u64) -> Grant {
        let (incarnation, epoch) = self.links.get(&store_id).map_or((0, 0), |link| link.granted);
        Grant { store_id, incarnation, epoch }
    }

    /// Asks a follower to rest.
    pub fn ask(&mut self, store_id: u64, ask: kv::RestAsk) {
        let link = self.link(store_id);
        link.asks.push(ask);
        link.beats_left = BEATS_AFTER_ASK_TICKS;
        // Its answer brings the first lease along.
        link.beat_due = true;
    }

    /// Answers a leader's ask.
    pub fn answer(&mut self, store_id: u64, answer: kv::RestAnswer) {
        self.link(store_id).answers.push(answer);
    }

    /// One tick: whose support ends now.
    pub fn tick(&mut self, ticks: u64) -> Vec<Withdrawal> {
        self.groups.retain(|_, lease| Arc::strong_count(lease) > 1);
        let beats = ticks.is_multiple_of(self.beat_ticks);
        let mut withdrawals = Vec::new();
        for (&store_id, link) in &mut self.links {
            link.silent_ticks = link.silent_ticks.saturating_add(1);
            link.unanswered_ticks = link.unanswered_ticks.saturating_add(1);
            if link.silent_ticks == self.timeout_ticks {
                link.support_epoch += 1;
                let silent_ticks = link.silent_ticks;
                withdrawals.push(Withdrawal { store_id, silent_ticks });
            }
            link.beats_left = link.beats_left.saturating_sub(1);
            let relies = || self.groups.keys().any(|key| key.relies_on(store_id));
            if beats && (link.beats_left > 0 || relies()) {
                link.beat_due = true;
            }
        }
        withdrawals
    }

    /// The lease of leaders that rely on these stores.
    pub fn group(&mut self, key: RestKey, now: MonotonicTime) -> Arc<RestLease> {
        let fresh = || Arc::new(RestLease { key: key.clone(), valid_until: AtomicU64::new(0) });
        let lease = self.groups.entry(key.clone()).or_insert_with(fresh).clone();
        self.extend(&lease, now);
        lease
    }

    /// Groups whose stores do not stand as they did: their leaders must wake.
    pub fn broken_groups(&self) -> Vec<Arc<RestLease>> {
        self.groups.values().filter(|lease| self.is_broken(&lease.key)).cloned().collect()
    }

    fn is_broken(&self, key: &RestKey) -> bool {
        let lost = |grant: &Grant| self.grant(grant.store_id) != *grant;
        let unanswered = |grant: &Grant| !self.answers(grant.store_id);
        let back = |store_id: &u64| {
            self.links.get(store_id).is_some_and(|link| link.silent_ticks < ABSENT_TICKS)
        };
        key.voters.iter().chain(&key.learners).any(|grant| lost(grant) || unanswered(grant))
            || key.absent.iter().any(back)
    }

    /// Extends leases by what was answered.
    pub fn extend_leases(&mut self, now: MonotonicTime, ticked: bool) {
        if std::mem::take(&mut self.answered) || ticked {
            self.groups.values().for_each(|lease| self.extend(lease, now));
        }
    }

    fn extend(&self, lease: &RestLease, now: MonotonicTime) {
        let sent = match lease.key.needed {
            // Nobody else votes.
            0 => now,
            needed => {
                let answered = lease.key.voters.iter().map(|grant| {
                    let link = self.links.get(&grant.store_id);
                    link.filter(|_| self.grant(grant.store_id) == *grant)
                        .map_or(MonotonicTime(0), |link| link.granted_sent)
                });
                let mut times: Vec<MonotonicTime> = answered.collect();
                times.sort_unstable_by(|a, b| b.cmp(a));
                times.get(needed - 1).copied().unwrap_or_default()
            }
        };
        if sent > MonotonicTime(0) {
            lease.valid_until.fetch_max(sent.plus(self.lease).0, Ordering::SeqCst);
        }
    }

    /// What is to be told now, as messages of region 0.
    pub fn take_messages(&mut self, now: MonotonicTime) -> Vec<kv::RaftMessage> {
        let mut messages = Vec::new();
        for (&store_id, link) in &mut self.links {
            while link.beat_due
                || link.heard_beat.is_some()
                || !link.asks.is_empty()
                || !link.answers.is_empty()
            {
                let asks = link.asks.len().min(ENTRIES_PER_BEAT);
                let answers = link.answers.len().min(ENTRIES_PER_BEAT);
                let (heard_incarnation, heard_sent_ns) = link.heard_beat.take().unwrap_or((0, 0));
                let beat = kv::StoreBeat {
                    incarnation: self.incarnation,
                    support_epoch: link.support_epoch,
                    sent_ns: if std::mem::take(&mut link.beat_due) { now.0 } else { 0 },
                    heard_incarnation,
                    heard_sent_ns,
                    slow_score: self.slow_score,
                    asks: link.asks.drain(..asks).collect(),
                    answers: link.answers.drain(..answers).collect(),
                };
                let store = |store_id| Some(meta::Peer { store_id, ..meta::Peer::default() });
                messages.push(kv::RaftMessage {
                    from_peer: store(self.store_id),
                    to_peer: store(store_id),
                    message: beat.encode_to_vec().into(),
                    ..kv::RaftMessage::default()
                });
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests;
