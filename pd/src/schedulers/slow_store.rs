//! The one store whose disk is sick: it loses its leaders until it has been quick for
//! a while.
//!
//! Only one at a time, and never when most stores look slow: then it is not a store
//! that is sick but the load, and moving leaders would make it worse.

use std::time::Duration;

use crate::view::{ClusterView, StoreView};

/// Scores up to this are quick.
const QUICK_SCORE: u32 = 10;
/// Slow reports in a row before leaders move.
const SLOW_FOR: Duration = Duration::from_secs(3);

/// What is known of the sick store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowStore {
    /// The store that lost its leaders.
    pub evicted: Option<u64>,
    /// The store that looks slow, and since when.
    suspect: Option<(u64, u64)>,
    /// Since when the sick store has been quick.
    quick_since_ms: Option<u64>,
}

impl SlowStore {
    /// Looks at the stores again; tells in words what it makes of them.
    pub fn look(&mut self, cluster: &ClusterView, now_ms: u64) -> String {
        if let Some(evicted) = self.evicted {
            return self.look_at_sick(evicted, cluster, now_ms);
        }
        let bound = cluster.config.slow_store_score as u32;
        let heard = || cluster.stores.values().filter(|store| store.is_up());
        let mut slow = heard().filter(|store| store.slow_score >= bound);
        let (first, more) = (slow.next(), slow.next());
        let Some(first) = first else {
            self.suspect = None;
            return format!("no store is slow ({} up)", heard().count());
        };
        // With two stores, either may be the sick one: what is slow is still known.
        if more.is_some() || heard().count() < 2 {
            self.suspect = None;
            return "more than one store is slow: none is singled out".to_owned();
        }
        let since = match self.suspect {
            Some((store_id, since_ms)) if store_id == first.id => since_ms,
            _ => now_ms,
        };
        self.suspect = Some((first.id, since));
        if now_ms.saturating_sub(since) < SLOW_FOR.as_millis() as u64 {
            return format!("store {} looks slow: score {}", first.id, first.slow_score);
        }
        self.suspect = None;
        self.evicted = Some(first.id);
        format!("store {} is slow: score {}", first.id, first.slow_score)
    }

    fn look_at_sick(&mut self, evicted: u64, cluster: &ClusterView, now_ms: u64) -> String {
        let Some(store) = cluster.stores.get(&evicted).filter(|store| !store.is_leaving()) else {
            *self = SlowStore::default();
            return format!("store {evicted} is gone");
        };
        if !is_quick(store) {
            self.quick_since_ms = None;
            return format!("store {evicted} is slow: score {}", store.slow_score);
        }
        let since = *self.quick_since_ms.get_or_insert(now_ms);
        let recovery_ms = cluster.config.slow_store_recovery.as_millis() as u64;
        if now_ms.saturating_sub(since) >= recovery_ms {
            *self = SlowStore::default();
            return format!("store {evicted} has recovered");
        }
        format!("store {evicted} recovers: score {}", store.slow_score)
    }
}

fn is_quick(store: &StoreView) -> bool {
    store.is_up() && store.slow_score <= QUICK_SCORE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Situation;

    #[test]
    fn one_sick_store_is_found_and_recovers() {
        let mut situation = Situation::new();
        for id in 1..=3 {
            situation.add_store(id);
        }
        let mut slow = SlowStore::default();
        let cluster = &mut situation.cluster;
        let score = |cluster: &mut ClusterView, id: u64, score: u32| {
            cluster.stores.get_mut(&id).expect("told").slow_score = score;
        };
        assert_eq!(slow.look(cluster, 0), "no store is slow (3 up)");
        score(cluster, 2, 90);
        assert_eq!(slow.look(cluster, 0), "store 2 looks slow: score 90");
        assert_eq!(slow.look(cluster, 2_000), "store 2 looks slow: score 90");
        assert_eq!(slow.look(cluster, 3_000), "store 2 is slow: score 90");
        assert_eq!(slow.evicted, Some(2));
        score(cluster, 2, 5);
        assert_eq!(slow.look(cluster, 4_000), "store 2 recovers: score 5");
        score(cluster, 2, 50);
        assert_eq!(slow.look(cluster, 20_000), "store 2 is slow: score 50");
        score(cluster, 2, 1);
        slow.look(cluster, 30_000);
        assert_eq!(slow.look(cluster, 60_000), "store 2 has recovered");
        assert_eq!(slow.evicted, None);
        // A slow cluster is not a sick store.
        score(cluster, 1, 90);
        score(cluster, 2, 90);
        slow.look(cluster, 70_000);
        let told = slow.look(cluster, 80_000);
        assert_eq!(told, "more than one store is slow: none is singled out");
        assert_eq!(slow.evicted, None);
    }
}
