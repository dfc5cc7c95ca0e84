//! The last circles of waits that this node's transactions closed.

use std::collections::VecDeque;

use cairn_kv_client::LockWaiting;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::observed::digest::from_tag;

/// Circles remembered; TiDB's `deadlock-history-capacity` is 10.
const HISTORY_MAX: usize = 32;
/// Waits of a circle that are kept: the last ones, of which the victim's own is one.
const WAITS_MAX: usize = 64;

/// A circle of waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlock {
    /// Its number on this node.
    pub id: u64,
    /// When it was found, by this node's clock.
    pub occurred_at_us: i64,
    /// Who waited for whom; the last one was told to give up.
    pub waits: Vec<Wait>,
}

/// One wait of a circle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The transaction that waited.
    pub waiter: u64,
    /// The one that it waited for.
    pub holder: u64,
    /// The key.
    pub key: Vec<u8>,
    /// The waiter's statement.
    pub digest: Option<String>,
}

/// The circles, oldest forgotten first.
#[derive(Debug, Default)]
pub struct Deadlocks(Mutex<History>);

#[derive(Debug, Default)]
struct History {
    found: u64,
    last: VecDeque<Deadlock>,
}

impl Deadlocks {
    /// Remembers a circle.
    pub fn note(&self, circle: &[LockWaiting]) {
        let wait = |wait: &LockWaiting| Wait {
            waiter: wait.waiter.0,
            holder: wait.holder.0,
            key: wait.key.to_vec(),
            digest: from_tag(&wait.tag).map(|digest| digest.to_string()),
        };
        let kept = &circle[circle.len().saturating_sub(WAITS_MAX)..];
        let mut history = self.0.lock();
        history.found += 1;
        let deadlock = Deadlock {
            id: history.found,
            occurred_at_us: clock::unix_micros(),
            waits: kept.iter().map(wait).collect(),
        };
        if history.last.len() == HISTORY_MAX {
            history.last.pop_front();
        }
        history.last.push_back(deadlock);
    }

    /// Those remembered, in the order they were found.
    pub fn all(&self) -> Vec<Deadlock> {
        self.0.lock().last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cairn_types::TimeStamp;

    use super::*;

    #[test]
    fn the_history_is_bounded() {
        let wait = |n| LockWaiting {
            waiter: TimeStamp(n),
            holder: TimeStamp(n + 1),
            key: Bytes::from_static(b"k"),
            tag: Bytes::new(),
        };
        let circle: Vec<LockWaiting> = (0..2 * WAITS_MAX as u64).map(wait).collect();
        let deadlocks = Deadlocks::default();
        for _ in 0..=HISTORY_MAX {
            deadlocks.note(&circle);
        }
        let all = deadlocks.all();
        assert_eq!((all.len(), all[0].id), (HISTORY_MAX, 2));
        assert_eq!(all[0].waits.len(), WAITS_MAX);
        assert_eq!(all[0].waits.last().map(|wait| wait.waiter), Some(2 * WAITS_MAX as u64 - 1));
    }
}
