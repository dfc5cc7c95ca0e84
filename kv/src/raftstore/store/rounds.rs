//! One round: what every ready peer wants, in one log write.

use std::collections::BTreeSet;

use cairn_engine::LogOp;
use cairn_types::sabotage::{Bug, planted};

use super::{Effects, StoreCore};
use crate::raftstore::apply::ApplyTask;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::error::RaftStoreError;
use crate::raftstore::metrics::add;
use crate::raftstore::peer::ReadyEffects;
use crate::raftstore::{RegionSnapshot, ReplicaView};

/// Rounds of log writes in one call: a single voter commits at once, which makes the next
/// peers ready.
const WRITES_PER_ROUND_MAX: usize = 4;

impl StoreCore {
    /// Ends the round: writes, sends, applies.
    pub fn finish_round(
        &mut self,
        now: MonotonicTime,
        effects: &mut dyn Effects,
    ) -> Result<(), RaftStoreError> {
        let beats = self.links.take_messages(now);
        add(&self.metrics.beats_sent, beats.len() as u64);
        self.outbox.messages.extend(beats);
        self.flush(effects);
        for _ in 0..WRITES_PER_ROUND_MAX {
            let dirty = std::mem::take(&mut self.dirty);
            if dirty.is_empty() && self.log.is_empty() {
                break;
            }
            self.write_round(dirty, now, effects)?;
        }
        self.flush(effects);
        Ok(())
    }

    /// Whether another round would do something at once.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn write_round(
        &mut self,
        dirty: BTreeSet<u64>,
        now: MonotonicTime,
        effects: &mut dyn Effects,
    ) -> Result<(), RaftStoreError> {
        let mut log = std::mem::take(&mut self.log);
        let mut must_sync = false;
        let mut collected = Vec::with_capacity(dirty.len());
        for region_id in dirty {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            if peer.is_disturbed() {
                // Before its messages leave: they tell that it is awake.
                self.wake(region_id, now);
            }
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            if peer.wants_read_index() {
                self.last_read_id += 1;
                let guard = self.regions.guard();
                let question = peer.ask_read_index(self.last_read_id, guard, now);
                self.outbox.messages.extend(question);
            }
            if peer.has_unissued_reads() {
                peer.issue_reads(now, false);
            }
            if peer.has_ready() {
                let ready = peer.collect_ready(&mut log, now);
                must_sync |= ready.must_sync;
                if ready.install.is_none() {
                    collected.push(region_id);
                }
                self.take_effects(region_id, ready);
            }
            self.answer_reads(region_id, now);
            self.note_role(region_id);
        }
        self.flush(effects);
        if !log.is_empty() {
            let appended: usize = log
                .ops()
                .iter()
                .map(|(_, op)| match op {
                    LogOp::Append(entries) => entries.len(),
                    _ => 0,
                })
                .sum();
            must_sync &= !planted(Bug::AnswerBeforeSync);
            self.engines.log.write(log, must_sync)?;
            add(&self.metrics.rounds, 1);
            add(&self.metrics.log_syncs, u64::from(must_sync));
            add(&self.metrics.appended_entries, appended as u64);
        }
        for region_id in collected {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let rest = peer.advance();
            if peer.has_ready() {
                self.dirty.insert(region_id);
            }
            self.take_effects(region_id, rest);
            self.answer_reads(region_id, now);
        }
        self.flush(effects);
        Ok(())
    }

    pub(super) fn take_effects(&mut self, region_id: u64, ready: ReadyEffects) {
        self.outbox.messages.extend(ready.early);
        self.outbox.messages.extend(ready.late);
        self.outbox.snapshots.extend(ready.snapshots);
        self.outbox.apply.extend(ready.committed.into_iter().map(ApplyTask::Entries));
        if let Some(snapshot) = ready.install {
            self.begin_install(region_id, &snapshot);
        }
    }

    fn answer_reads(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let reads = peer.take_confirmed_reads();
        let replica_reads = peer.take_replica_reads();
        self.outbox.messages.extend(peer.take_answers());
        peer.publish();
        if reads.is_empty() && replica_reads.is_empty() {
            return;
        }
        let engine = self.engines.kv.snapshot();
        for (read, pending) in replica_reads {
            match peer.check_replica_read(&read.context, now) {
                Ok(()) => {
                    let region = peer.region().clone();
                    let load = peer.delegate.load.clone();
                    let locks = peer.delegate.locks.clone();
                    let (term, engine, is_live) = (0, engine.clone(), false);
                    let snapshot = RegionSnapshot { region, term, engine, load, locks, is_live };
                    // The caller may have gone away.
                    let _ = read.answer.send(Ok(ReplicaView { snapshot, pending }));
                }
                Err(error) => read.fail(error),
            }
        }
        for read in reads {
            match peer.check_leader(&read.context, now) {
                Ok(()) => {
                    let snapshot = RegionSnapshot {
                        region: peer.region().clone(),
                        term: peer.term(),
                        engine: engine.clone(),
                        load: peer.delegate.load.clone(),
                        locks: peer.delegate.locks.clone(),
                        is_live: false,
                    };
                    // The caller may have gone away.
                    let _ = read.answer.send(Ok(snapshot));
                }
                Err(error) => read.fail(error),
            }
        }
    }

    /// Keeps account of who leads and who is awake.
    fn note_role(&mut self, region_id: u64) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        if !peer.is_leader() {
            self.led.remove(&region_id);
        } else if self.led.insert(region_id) {
            add(&self.metrics.leaderships, 1);
        }
        if !peer.is_quiet() {
            self.awake.insert(region_id);
        }
    }

    /// Hands everything gathered to its way out.
    fn flush(&mut self, effects: &mut dyn Effects) {
        let outbox = std::mem::take(&mut self.outbox);
        if !outbox.messages.is_empty() {
            add(&self.metrics.messages_sent, outbox.messages.len() as u64);
            effects.send(outbox.messages);
        }
        for snapshot in outbox.snapshots {
            self.send_snapshot(snapshot, effects);
        }
        if !outbox.apply.is_empty() {
            effects.apply(outbox.apply);
        }
        outbox.background.into_iter().for_each(|job| effects.background(job));
        outbox.pd.into_iter().for_each(|event| effects.pd(event));
    }
}
