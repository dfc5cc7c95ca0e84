//! The store's part in liveness: beats in and out, regions that go to rest and wake.
//!
//! Why and how is told in [`crate::raftstore::liveness`].

use std::sync::Arc;

use cairn_proto::kv;
use prost::Message as _;

use super::StoreCore;
use crate::raftstore::clock::MonotonicTime;
use crate::raftstore::liveness::{ASKS_PER_TICK_MAX, RestLease, WAKES_PER_TICK_MAX, Withdrawal};
use crate::raftstore::metrics::add;
use crate::raftstore::peer::{Elections, Heard};

impl StoreCore {
    /// A message of a store, not of a region.
    pub(super) fn on_beat(
        &mut self,
        message: &kv::RaftMessage,
        now: MonotonicTime,
    ) -> Result<(), &'static str> {
        let store_id = message.from_peer.map_or(0, |peer| peer.store_id);
        let to_store = message.to_peer.map_or(0, |peer| peer.store_id);
        if store_id == 0 || store_id == self.store_id || to_store != self.store_id {
            return Err("addresses of a beat");
        }
        if !message.closed.is_empty() {
            self.on_closed(&message.closed);
            return Ok(());
        }
        let beat =
            kv::StoreBeat::decode(message.message.clone()).map_err(|_| "undecodable beat")?;
        let restarted = self.links.on_beat(store_id, &beat, now).ok_or("beat of the past")?;
        if let Some(withdrawal) = restarted {
            self.withdraw(withdrawal);
        }
        self.links.extend_leases(now, false);
        for ask in &beat.asks {
            let agreed = match self.peers.get_mut(&ask.region_id) {
                Some(peer) => peer.on_rest_ask(ask, store_id),
                None => false,
            };
            let answer = kv::RestAnswer {
                region_id: ask.region_id,
                from_peer_id: ask.to_peer_id,
                term: ask.term,
                number: ask.number,
                agreed,
            };
            self.links.answer(store_id, answer);
        }
        let grant = self.links.grant(store_id);
        if (grant.incarnation, grant.epoch) != (beat.incarnation, beat.support_epoch) {
            // What was promised then has ended.
            return Ok(());
        }
        for answer in &beat.answers {
            if let Some(peer) = self.peers.get_mut(&answer.region_id) {
                peer.on_rest_answer(answer, grant);
                self.rest_if_agreed(answer.region_id, now);
            }
        }
        Ok(())
    }

    /// One tick of the pairs of stores.
    pub(super) fn liveness_tick(&mut self, now: MonotonicTime) {
        for withdrawal in self.links.tick(self.ticks) {
            self.withdraw(withdrawal);
        }
        self.links.extend_leases(now, true);
        let mut wakes = WAKES_PER_TICK_MAX;
        for lease in self.links.broken_groups() {
            self.wake_group(&lease, &mut wakes, now);
        }
    }

    /// Peers that promised to rest under leaders of a store are free again.
    fn withdraw(&mut self, withdrawal: Withdrawal) {
        let Withdrawal { store_id, silent_ticks } = withdrawal;
        let rng = &mut self.rng;
        let mut draw = |low: usize, high: usize| rand::Rng::random_range(rng, low..high);
        let mut elections = Elections {
            draw: &mut draw,
            min_ticks: self.config.election_timeout_ticks,
            budget: 0,
            started: 0,
            refused: None,
        };
        let mut ids: Vec<u64> = self.peers.keys().copied().collect();
        // The order decides who draws which random number.
        ids.sort_unstable();
        let mut freed = 0;
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.end_promise(store_id, silent_ticks) {
                peer.draw_by_rank(&mut elections);
                self.awake.insert(id);
                freed += 1;
            }
        }
        if freed > 0 {
            add(&self.metrics.support_withdrawn, 1);
            tracing::info!(store = store_id, silent_ticks, freed, "store is silent: peers wake");
        }
    }

    fn wake_group(&mut self, lease: &Arc<RestLease>, wakes: &mut usize, now: MonotonicTime) {
        let resting = self.peers.values().filter(|peer| peer.rests_on(lease));
        let mut ids: Vec<u64> = resting.map(|peer| peer.region_id).collect();
        ids.sort_unstable();
        ids.truncate(*wakes);
        *wakes -= ids.len();
        for id in ids {
            self.wake(id, now);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.ping();
                self.dirty.insert(id);
            }
        }
    }

    /// Ends a leader's rest.
    pub(super) fn wake(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&region_id).filter(|peer| peer.is_resting()) else {
            return;
        };
        let links = &self.links;
        peer.wake(now, &|store_id| Heard {
            at: links.heard_at(store_id),
            answers: links.answers(store_id),
        });
        self.awake.insert(region_id);
        add(&self.metrics.wakes, 1);
    }

    /// Leaders that were idle for long ask their followers to rest.
    pub(super) fn ask_to_rest(&mut self, idle: Vec<u64>, now: MonotonicTime) {
        for region_id in idle.into_iter().take(ASKS_PER_TICK_MAX) {
            let Some(peer) = self.peers.get_mut(&region_id) else { continue };
            let links = &mut self.links;
            let Some(asks) = peer.begin_asking(&mut |store_id| links.is_absent(store_id)) else {
                continue;
            };
            for (store_id, ask) in asks {
                self.links.ask(store_id, ask);
            }
            self.rest_if_agreed(region_id, now);
        }
    }

    /// The leader rests once everybody it needs has promised.
    pub(super) fn rest_if_agreed(&mut self, region_id: u64, now: MonotonicTime) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let links = &self.links;
        let Some(key) = peer.can_rest(&self.config, &|store_id| links.grant(store_id)) else {
            return;
        };
        peer.rest(self.links.group(key, now));
        self.awake.remove(&region_id);
        self.report_when_idle(region_id, now);
    }
}
