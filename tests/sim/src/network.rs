//! Links between processes: delay, loss, doubling, partitions.
//!
//! Raft messages are single datagrams here: each may be lost, late, doubled or overtaken,
//! as the Raft store must bear. Calls and snapshots run over connections as TCP makes
//! them: nothing of them is lost silently, but a connection breaks, before the
//! request arrived or after it was carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::world::{Dice, Node, World};

/// How links behave while nothing is cut.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Shortest way of a message.
    pub delay_min_ms: u64,
    /// Longest way in good weather; messages overtake each other in between.
    pub delay_max_ms: u64,
    /// One message of so many is much later; 0 = none.
    pub late_one_in: u32,
    /// How late.
    pub late_ms: u64,
    /// One message of so many is lost; 0 = none.
    pub lost_one_in: u32,
    /// One message of so many arrives twice; 0 = none.
    pub doubled_one_in: u32,
    /// Connections over a cut link are refused at once instead of hanging.
    pub cut_refuses: bool,
}

#[derive(Default)]
struct Links {
    weather: Weather,
    /// Directed pairs between which nothing arrives, and how many faults want that.
    cut: BTreeMap<(Node, Node), u32>,
    /// Extra delay of everything a process sends or receives.
    slow: BTreeMap<Node, u64>,
    /// Told when the process asks for a vote.
    candidates: BTreeMap<Node, Arc<Notify>>,
}

/// All links.
#[derive(Default)]
pub struct Network {
    links: Mutex<Links>,
}

/// A connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Network {
    /// From now on the weather is this.
    pub fn set_weather(&self, weather: Weather) {
        self.links.lock().weather = weather;
    }

    /// From now on nothing is lost, late or doubled.
    pub fn calm(&self) {
        let weather = &mut self.links.lock().weather;
        (weather.late_one_in, weather.lost_one_in, weather.doubled_one_in) = (0, 0, 0);
    }

    /// Nothing arrives from one at the other any more.
    pub fn cut(&self, from: Node, to: Node) {
        *self.links.lock().cut.entry((from, to)).or_default() += 1;
    }

    /// One fault less wants the link cut.
    pub fn mend(&self, from: Node, to: Node) {
        let mut links = self.links.lock();
        if let Some(count) = links.cut.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                links.cut.remove(&(from, to));
            }
        }
    }

    /// Everything a process sends or receives takes longer; 0: no longer.
    pub fn slow_down(&self, node: Node, by_ms: u64) {
        self.links.lock().slow.insert(node, by_ms);
    }

    /// All links are whole.
    pub fn heal(&self) {
        let mut links = self.links.lock();
        links.cut.clear();
        links.slow.clear();
    }

    /// A process asks another one for its vote.
    pub fn note_candidate(&self, node: Node) {
        if let Some(asks) = self.links.lock().candidates.get(&node) {
            asks.notify_waiters();
        }
    }

    /// Waits until the process asks another one for its vote.
    pub async fn asked_for_votes(&self, node: Node) {
        let asks = self.links.lock().candidates.entry(node).or_default().clone();
        asks.notified().await;
    }

    /// Whether messages arrive.
    pub fn connects(&self, from: Node, to: Node) -> bool {
        !self.links.lock().cut.contains_key(&(from, to))
    }

    fn delay(&self, world: &World, from: Node, to: Node) -> Duration {
        let links = self.links.lock();
        let weather = links.weather;
        let slow = [from, to].map(|node| links.slow.get(&node).copied().unwrap_or(0));
        let extra = slow[0] + slow[1];
        drop(links);
        let late = one_in(world, weather.late_one_in);
        let delay = world.millis(Dice::Network, weather.delay_min_ms, weather.delay_max_ms);
        let late_ms = if late { weather.late_ms } else { 0 };
        delay + Duration::from_millis(extra + late_ms)
    }

    /// When a datagram arrives: never, once or twice.
    pub fn datagram(&self, world: &World, from: Node, to: Node) -> Vec<Duration> {
        let weather = self.links.lock().weather;
        if !self.connects(from, to) || one_in(world, weather.lost_one_in) {
            return Vec::new();
        }
        let mut arrivals = vec![self.delay(world, from, to)];
        if one_in(world, weather.doubled_one_in) {
            arrivals.push(self.delay(world, from, to));
        }
        arrivals
    }

    /// Carries something over a connection; tells after a while if it broke.
    pub async fn carry(&self, world: &World, from: Node, to: Node) -> Result<(), Broken> {
        // A lost packet is sent again: it only costs time.
        let weather = self.links.lock().weather;
        let resent = one_in(world, weather.lost_one_in);
        sleep(self.delay(world, from, to)).await;
        if resent {
            sleep(world.millis(Dice::Network, 50, 300)).await;
        }
        if self.connects(from, to) {
            return Ok(());
        }
        if !weather.cut_refuses {
            // The sender hears nothing until keep-alive gives up.
            sleep(world.millis(Dice::Network, 500, 2_000)).await;
        }
        Err(Broken)
    }
}

fn one_in(world: &World, count: u32) -> bool {
    count > 0 && world.roll(Dice::Network, |rng| rng.random_range(0..count) == 0)
}
