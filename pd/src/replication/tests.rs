//! Members without threads: a network in memory that delays, loses and cuts, on time
//! that moves in small steps; and the loop around one member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_engine::{MemoryRaftLog, RaftEngineLog, RaftEngineOptions};
use cairn_pd_client::PdError;
use raft::eraftpb::{Message, MessageType};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::ready::SNAPSHOT_EVERY_ENTRIES;
use super::transport::NoTransport;
use super::*;
use crate::clock::SystemClock;
use crate::state::{Kind, MemberInfo};

/// Time moves by so much.
const STEP_MS: u64 = 10;

/// A member's disk, and its core while it lives.
struct Member {
    log: Arc<MemoryRaftLog>,
    files: Arc<MemoryFiles>,
    founders: Members,
    life: Option<(Core, Arc<Shared>)>,
    next_tick_ms: u64,
    /// Its clock's idea of a tick: clocks differ by a few per cent.
    tick_ms: u64,
}

/// A message on its way.
struct Wire {
    arrives_ms: u64,
    message: Message,
}

type Answers = Vec<(u64, oneshot::Receiver<Result<(), PdError>>)>;

/// The members and what is between them.
struct Net {
    now_ms: u64,
    members: BTreeMap<u64, Member>,
    wires: Vec<Wire>,
    /// Pairs (from, to) that lose everything.
    cut: BTreeSet<(u64, u64)>,
    loss_percent: u32,
    delay_ms_max: u64,
    rng: StdRng,
    /// Id bounds proposed, and how it went.
    answers: Answers,
    acknowledged: u64,
    proposed: u64,
}

fn founders(count: u64) -> Members {
    let named = (1..=count).map(|id| (format!("pd-{id}"), format!("host-{id}:1"))).collect();
    Members::found(named).expect("valid")
}

impl Net {
    fn new(count: u64, seed: u64) -> Net {
        let mut net = Net {
            now_ms: 1_000,
            members: BTreeMap::new(),
            wires: Vec::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            delay_ms_max: 1,
            rng: StdRng::seed_from_u64(seed),
            answers: Vec::new(),
            acknowledged: 0,
            proposed: 0,
        };
        for id in 1..=count {
            net.add(id, founders(count));
            net.start(id);
        }
        net
    }

    fn add(&mut self, id: u64, founders: Members) {
        let member = Member {
            log: Arc::default(),
            files: Arc::default(),
            founders,
            life: None,
            next_tick_ms: 0,
            tick_ms: self.rng.random_range(97..=103),
        };
        self.members.insert(id, member);
    }

    fn start(&mut self, id: u64) {
        let (now_ms, seed) = (self.now_ms, self.rng.random());
        let phase_ms = self.rng.random_range(0..100);
        let member = self.members.get_mut(&id).expect("known");
        let parts = CoreParts {
            member_id: id,
            founders: member.founders.clone(),
            log: member.log.clone(),
            files: member.files.clone(),
            seed,
        };
        member.life = Some(Core::open(parts, now_ms).expect("opens"));
        member.next_tick_ms = now_ms + phase_ms;
    }

    /// The power fails: what was not synced is lost.
    fn kill(&mut self, id: u64) {
        let member = self.members.get_mut(&id).expect("known");
        member.life = None;
        member.log.crash();
    }

    fn living(&self) -> Vec<u64> {
        let living = self.members.iter().filter(|(_, member)| member.life.is_some());
        living.map(|(id, _)| *id).collect()
    }

    fn core(&mut self, id: u64) -> &mut Core {
        &mut self.members.get_mut(&id).and_then(|one| one.life.as_mut()).expect("lives").0
    }

    fn shared(&self, id: u64) -> &Arc<Shared> {
        &self.members[&id].life.as_ref().expect("lives").1
    }

    /// Who may serve now: one at most, whatever happens.
    fn serving(&self) -> Option<u64> {
        let open: Vec<u64> = self
            .living()
            .into_iter()
            .filter(|id| self.shared(*id).gate().is_open(self.now_ms))
            .collect();
        assert!(open.len() <= 1, "two leaders serve at {}: {open:?}", self.now_ms);
        open.first().copied()
    }

    /// Lets time pass; the server's part, taking terms over, is done at once.
    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        let (due, later): (Vec<Wire>, Vec<Wire>) =
            self.wires.drain(..).partition(|wire| wire.arrives_ms <= now_ms);
        self.wires = later;
        for Wire { message, .. } in due {
            let lost = self.cut.contains(&(message.from, message.to));
            let receiver = self.members.get_mut(&message.to);
            if let Some((core, _)) = receiver.and_then(|one| one.life.as_mut())
                && !lost
            {
                core.step(message, now_ms);
            }
        }
        for id in self.living() {
            let member = self.members.get_mut(&id).expect("known");
            let (core, shared) = member.life.as_mut().expect("lives");
            if member.next_tick_ms <= now_ms {
                member.next_tick_ms = now_ms + member.tick_ms;
                core.tick(now_ms);
            }
            let status = shared.status();
            if status.leads && !status.open {
                core.open_gate(status.term);
            }
            let mut sent = Vec::new();
            core.drive(now_ms, &mut |messages| sent.extend(messages)).expect("the disk is well");
            for message in sent {
                if self.rng.random_range(0..100) >= self.loss_percent {
                    let delay_ms = self.rng.random_range(1..=self.delay_ms_max);
                    self.wires.push(Wire { arrives_ms: now_ms + delay_ms, message });
                }
            }
            self.serving();
        }
        self.collect_answers();
    }

    fn collect_answers(&mut self) {
        let acknowledged = &mut self.acknowledged;
        self.answers.retain_mut(|(bound, answer)| match answer.try_recv() {
            Ok(Ok(())) => {
                *acknowledged = (*acknowledged).max(*bound);
                false
            }
            Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => false,
            Err(oneshot::error::TryRecvError::Empty) => true,
        });
    }

    fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Net) -> bool) {
        let deadline_ms = self.now_ms + 60_000;
        while !holds(self) {
            assert!(self.now_ms < deadline_ms, "within a minute: {what}");
            self.step();
        }
    }

    fn run_ms(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.step();
        }
    }

    fn await_leader(&mut self) -> u64 {
        self.run_until("somebody serves", |net| net.serving().is_some());
        self.serving().expect("just seen")
    }

    fn propose(&mut self, to: u64, kind: Kind) -> oneshot::Receiver<Result<(), PdError>> {
        let (answer, answered) = oneshot::channel();
        let term = self.shared(to).status().term;
        self.core(to).propose(Proposal { command: Box::new(kind.into()), term, answer });
        answered
    }

    /// Proposes the next id bound.
    fn write(&mut self, to: u64) {
        self.proposed += 1;
        let bound = self.proposed;
        let answered = self.propose(to, Kind::IdBound(bound));
        self.answers.push((bound, answered));
    }

    /// Proposes at whoever leads until it is carried out.
    fn change(&mut self, kind: &Kind) {
        let leader = self.await_leader();
        let mut answered = self.propose(leader, kind.clone());
        self.run_until("the change is applied", |_| match answered.try_recv() {
            Ok(outcome) => {
                outcome.expect("a valid change");
                true
            }
            Err(_) => false,
        });
    }

    fn id_bound(&self, id: u64) -> u64 {
        self.shared(id).state().read().id_bound
    }

    /// Everybody lives, hears everybody and holds the same.
    fn heal(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
        self.delay_ms_max = 1;
        let dead: Vec<u64> =
            self.members.iter().filter(|(_, one)| one.life.is_none()).map(|(id, _)| *id).collect();
        for id in dead {
            self.start(id);
        }
        let leader = self.await_leader();
        self.write(leader);
        let last = self.proposed;
        self.run_until("all members hold the same", |net| {
            net.living().iter().all(|id| net.id_bound(*id) >= last) || {
                if let Some(leader) = net.serving()
                    && net.answers.is_empty()
                    && net.id_bound(leader) < last
                {
                    let answered = net.propose(leader, Kind::IdBound(last));
                    net.answers.push((last, answered));
                }
                false
            }
        });
    }
}

#[test]
fn three_members_elect_one_and_the_next_when_it_dies() {
    let mut net = Net::new(3, 1);
    let first = net.await_leader();
    net.write(first);
    net.run_until("it is acknowledged", |net| net.acknowledged == 1);
    let begun_ms = net.now_ms;
    net.kill(first);
    let second = net.await_leader();
    assert_ne!(first, second);
    assert!(net.now_ms - begun_ms < 2_500, "{} ms without a leader", net.now_ms - begun_ms);
    assert_eq!(net.id_bound(second), 1);
    net.write(second);
    net.start(first);
    net.run_until("the one that was away has it", |net| net.id_bound(first) == 2);
    // A fresh group needs no time-out.
    let mut fresh = Net::new(5, 2);
    fresh.await_leader();
    assert!(fresh.now_ms < 1_500, "{}", fresh.now_ms);
}

#[test]
fn a_leader_cut_off_stops_before_the_next_one_begins() {
    for both_ways in [true, false] {
        let mut net = Net::new(3, 7);
        let first = net.await_leader();
        for other in net.living() {
            net.cut.insert((first, other));
            if both_ways {
                net.cut.insert((other, first));
            }
        }
        // `step` asserts that no two serve.
        net.run_until("another one serves", |net| net.serving().is_some_and(|id| id != first));
        net.write(first);
        net.heal();
    }
}

/// Whatever is lost, late, cut or killed: never two leaders serve, nothing that was
/// acknowledged is lost, and in the end all hold the same.
#[test]
fn faults_by_seed() {
    for seed in 0..40 {
        let count = if seed % 4 == 0 { 5 } else { 3 };
        let mut net = Net::new(count, seed);
        for _ in 0..30 {
            let (living, all) = (net.living(), net.members.keys().copied().collect::<Vec<u64>>());
            let pick = |net: &mut Net, of: &[u64]| *of.choose(&mut net.rng).expect("some");
            let (one, other) = (pick(&mut net, &all), pick(&mut net, &all));
            match net.rng.random_range(0..10) {
                0 => {
                    net.cut.insert((one, other));
                }
                1 => {
                    net.cut = all.iter().flat_map(|x| [(one, *x), (*x, one)]).collect();
                }
                2 => net.cut.clear(),
                3 => net.loss_percent = net.rng.random_range(0..30),
                4 => net.delay_ms_max = net.rng.random_range(1..400),
                5 if living.contains(&one) => {
                    net.kill(one);
                    // Often it is back before anybody noticed.
                    if net.rng.random_bool(0.5) {
                        net.start(one);
                    }
                }
                6 | 7 if !living.contains(&one) => net.start(one),
                8 => {
                    if let Some(leader) = net.serving() {
                        net.core(leader).transfer(other);
                    }
                }
                _ => (net.loss_percent, net.delay_ms_max) = (0, 1),
            }
            for _ in 0..net.rng.random_range(1..200) {
                net.step();
                if let Some(leader) = net.serving()
                    && net.rng.random_bool(0.2)
                {
                    net.write(leader);
                }
            }
        }
        let acknowledged = net.acknowledged;
        net.heal();
        for id in net.living() {
            assert!(net.id_bound(id) >= acknowledged, "seed {seed}: member {id} lost something");
        }
    }
}

#[test]
fn a_hand_over_takes_no_election_time_and_one_that_fails_ends_the_term() {
    let mut net = Net::new(3, 11);
    let first = net.await_leader();
    let to = *net.living().iter().find(|id| **id != first).expect("another");
    let begun_ms = net.now_ms;
    net.core(first).transfer(to);
    assert_eq!(net.serving(), None, "the old leader stops at once");
    net.run_until("it was handed over", |net| net.serving() == Some(to));
    assert!(net.now_ms - begun_ms < 300, "{} ms", net.now_ms - begun_ms);
    // To somebody who does not hear: the leader may not serve on in that term.
    net.cut.insert((to, first));
    net.run_ms(100);
    let term = net.shared(to).status().term;
    net.core(to).transfer(first);
    net.run_until("somebody serves in another term", |net| {
        net.serving().is_some_and(|id| net.shared(id).status().term > term)
    });
}

#[test]
fn a_new_member_gets_a_snapshot_catches_up_votes_and_one_goes() {
    let mut net = Net::new(3, 5);
    let leader = net.await_leader();
    for _ in 0..SNAPSHOT_EVERY_ENTRIES / 100 + 5 {
        for _ in 0..100 {
            net.write(leader);
        }
        net.run_until("written", |net| net.answers.is_empty());
    }
    let (first, _) = cairn_engine::RaftLog::bounds(&*net.members[&leader].log, GROUP_ID)
        .expect("there are entries");
    assert!(first > 1, "the log was cut");
    let member = MemberInfo { id: 4, name: "pd-4".into(), ..MemberInfo::default() };
    net.change(&Kind::AddLearner(member));
    net.add(4, founders(3));
    net.start(4);
    let written = net.proposed;
    net.run_until("the new member holds everything", |net| net.id_bound(4) == written);
    assert!(
        cairn_engine::RaftLog::bounds(&*net.members[&4].log, GROUP_ID)
            .is_none_or(|(first, _)| first > 1)
    );
    net.change(&Kind::PromoteMember(4));
    // It counts: with two of four gone nothing is decided.
    let gone: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    net.kill(gone[0]);
    net.write(leader);
    net.run_until("three of four decide", |net| net.acknowledged == net.proposed);
    net.start(gone[0]);
    net.change(&Kind::RemoveMember(gone[1]));
    net.run_until("the removed one knows", |net| net.shared(gone[1]).status().removed);
    net.kill(gone[1]);
    net.members.remove(&gone[1]);
    // It restarts from its own snapshot and log.
    net.kill(4);
    net.start(4);
    net.heal();
    let voters = net.shared(4).state().read().members.voters();
    assert!(voters.contains(&4) && !voters.contains(&gone[1]), "{voters:?}");
}

#[test]
fn a_member_that_began_alone_takes_others_in() {
    let mut net = Net::new(0, 9);
    net.add(1, Members::default());
    net.start(1);
    net.run_until("it leads", |net| net.serving() == Some(1));
    net.write(1);
    for id in [2, 3] {
        let member = MemberInfo { id, name: format!("pd-{id}"), ..MemberInfo::default() };
        net.change(&Kind::AddLearner(member));
        net.add(id, Members::default());
        net.start(id);
        net.run_until("it has everything", |net| net.id_bound(id) == 1);
        net.change(&Kind::PromoteMember(id));
    }
    net.kill(1);
    let leader = net.await_leader();
    assert_ne!(leader, 1);
    net.write(leader);
    net.heal();
}

#[test]
fn junk_of_peers_is_refused() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut net = Net::new(3, 3);
    let leader = net.await_leader();
    net.write(leader);
    net.run_ms(500);
    let kinds = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgPropose,
        MessageType::MsgHup,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgTransferLeader,
    ];
    for _ in 0..20_000 {
        let mut message = Message::default();
        message.set_msg_type(*kinds.choose(&mut rng).expect("some"));
        message.from = rng.random_range(0..5);
        message.to = rng.random_range(0..4);
        message.term = rng.random_range(0..4);
        message.log_term = rng.random_range(0..4);
        // Behind what is committed: what contradicts that is a broken member, and stops it.
        message.index = rng.random_range(3..20);
        message.commit = rng.random_range(0..20);
        message.reject = rng.random_bool(0.5);
        message.reject_hint = rng.random_range(0..9);
        if rng.random_bool(0.1) {
            message.mut_snapshot().data = vec![0xff; 3].into();
            message.mut_snapshot().mut_metadata().index = rng.random_range(0..9);
            message.mut_snapshot().mut_metadata().term = rng.random_range(0..3);
        }
        let now_ms = net.now_ms;
        for id in 1..=3 {
            net.core(id).step(message.clone(), now_ms);
            net.core(id).drive(now_ms, &mut |_| {}).expect("the disk is well");
        }
    }
}

// ---- the loop around one member ----

fn parts(log: Arc<dyn RaftLog>, files: Arc<dyn MemberFiles>) -> ReplicationParts {
    ReplicationParts {
        identity: Identity { member_id: 1, token: 1 },
        founders: Members::default(),
        log,
        files,
        clock: Arc::new(SystemClock::new()),
        transport: Arc::new(NoTransport),
        driver: Driver::Thread,
        seed: 1,
        name: "pd-1".into(),
        address: String::new(),
    }
}

async fn open(parts: ReplicationParts) -> Replication {
    let replication = Replication::open(parts).expect("opens");
    let term = replication.shared().status().term;
    replication.open_gate(term).expect("runs");
    replication
}

async fn propose(replication: &Replication, kind: Kind) {
    replication.propose(kind).await.expect("applied");
}

#[tokio::test]
async fn many_commands_share_a_sync() {
    let log = Arc::new(MemoryRaftLog::new());
    let replication = open(parts(log.clone(), Arc::new(MemoryFiles::new()))).await;
    let syncs = log.sync_count();
    let commands = (1..=500).map(|bound| propose(&replication, Kind::IdBound(bound)));
    futures::future::join_all(commands).await;
    assert_eq!(replication.shared().state().read().id_bound, 500);
    assert!(log.sync_count() - syncs < 400, "{}", log.sync_count() - syncs);
    let stale = replication.propose_in(77, Kind::IdBound(9_000)).await;
    assert!(matches!(stale, Err(PdError::NotLeader(_))), "{stale:?}");
    replication.stop().await;
    let after = replication.propose(Kind::IdBound(501)).await;
    assert!(matches!(after, Err(PdError::Unavailable(_))));
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let dir = tempfile::tempdir().expect("a folder");
    let commands = SNAPSHOT_EVERY_ENTRIES + 100;
    for life in 0..3u64 {
        let log = RaftEngineLog::open(&dir.path().join("log"), &RaftEngineOptions::default());
        let files = Arc::new(DirFiles::new(dir.path().to_owned()));
        let replication = open(parts(Arc::new(log.expect("opens")), files)).await;
        assert_eq!(replication.shared().state().read().id_bound, life * commands);
        let range = life * commands + 1..=(life + 1) * commands;
        let commands = range.map(|bound| propose(&replication, Kind::IdBound(bound)));
        let mut rounds: Vec<_> = commands.collect();
        while !rounds.is_empty() {
            let rest = rounds.split_off(rounds.len().min(1000));
            futures::future::join_all(rounds).await;
            rounds = rest;
        }
        replication.stop().await;
    }
    assert!(dir.path().join("state.snapshot").exists());
}
