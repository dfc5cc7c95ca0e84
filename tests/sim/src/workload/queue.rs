//! A queue: elements are pushed, and popped by deleting them. None is popped twice, none is
//! lost, and what was popped never shows again, whatever garbage collection removes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_kv::mvcc::SHORT_VALUE_BYTES_MAX;
use cairn_kv_client::{KeyRange, KvClient, KvError};
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Outcome, fresh_view, scan_all};
use crate::world::{Dice, World};

/// Elements are spread over so many places, so that they lie in several regions.
const PLACES: u32 = 12;
/// A value may be long: it then lies in another column family.
const LONG_VALUE_BYTES: usize = SHORT_VALUE_BYTES_MAX + 1;

/// What is known of the elements, by their number.
#[derive(Default)]
pub struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    elements: Vec<Element>,
    done: u64,
}

struct Element {
    push: Outcome,
    /// Pops that may have happened, or did.
    pops: u32,
    /// A pop was acknowledged.
    is_gone: bool,
}

impl Queue {
    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.inner.lock().done
    }

    /// Pushes, pops or scans.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let choice = world.roll(Dice::Workload, |rng| rng.random_range(0..10));
        // What failed was noted.
        let _ = match choice {
            0..4 => self.push(world, client).await,
            4..8 => self.pop(world, client).await,
            _ => self.scan(world, client).await.map(|_| ()),
        };
    }

    /// One of each.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        self.push(world, client).await?;
        self.pop(world, client).await?;
        self.scan(world, client).await.map(|_| ())
    }

    async fn push(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let number = {
            let mut inner = self.inner.lock();
            // Its client may die: then nobody knows.
            inner.elements.push(Element { push: Outcome::Unknown, pops: 0, is_gone: false });
            inner.elements.len() - 1
        };
        let (place, is_long) =
            world.roll(Dice::Workload, |rng| (rng.random_range(0..PLACES), rng.random_bool(0.2)));
        let result = async {
            let txn = client.begin(client.current_ts().await?);
            let value = if is_long { "x".repeat(LONG_VALUE_BYTES) } else { "x".to_owned() };
            txn.insert(Bytes::from(format!("q{place:02}-{number:05}")), Bytes::from(value))?;
            txn.commit().await
        };
        let result = result.await;
        let outcome = Outcome::of(&result);
        world.note(format_args!("push {number} {outcome:?}"));
        let mut inner = self.inner.lock();
        inner.elements[number].push = outcome;
        inner.done += u64::from(outcome == Outcome::Done);
        result.map(|_| ())
    }

    async fn pop(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let (start_ts, seen) = self.scan(world, client).await?;
        let seen: Vec<(usize, Bytes)> = seen.into_iter().collect();
        let Some((number, key)) = world.roll(Dice::Workload, |rng| seen.choose(rng).cloned())
        else {
            return Ok(());
        };
        self.inner.lock().elements[number].pops += 1;
        let result = async {
            let txn = client.begin(start_ts);
            txn.delete(key)?;
            txn.commit().await
        };
        let result = result.await;
        let outcome = Outcome::of(&result);
        world.note(format_args!("pop {number} {outcome:?}"));
        let mut inner = self.inner.lock();
        let element = &mut inner.elements[number];
        match outcome {
            Outcome::Done if element.is_gone => world.fail(format!("{number} was popped twice")),
            Outcome::Done => element.is_gone = true,
            Outcome::Failed => element.pops -= 1,
            Outcome::Unknown => {}
        }
        inner.done += u64::from(outcome == Outcome::Done);
        result.map(|_| ())
    }

    /// What the queue holds, with the timestamp of the view.
    async fn scan(
        &self,
        world: &World,
        client: &Arc<KvClient>,
    ) -> Result<(cairn_types::TimeStamp, BTreeMap<usize, Bytes>), KvError> {
        let (must, must_not): (Vec<bool>, Vec<bool>) = {
            let inner = self.inner.lock();
            let known = |element: &Element| (element.push == Outcome::Done, element.is_gone);
            inner.elements.iter().map(known).unzip()
        };
        let view = fresh_view(client).await?;
        let ts = view.start_ts();
        let mut seen = BTreeMap::new();
        for (key, _) in scan_all(&view, KeyRange::new("q", "r"), false).await? {
            let number = std::str::from_utf8(&key).ok().and_then(|key| key[4..].parse().ok());
            let Some(number) = number else {
                world.fail(format!("a foreign key {}", key.escape_ascii()));
                continue;
            };
            seen.insert(number, key);
        }
        world.note(format_args!("queue of {}", seen.len()));
        let inner = self.inner.lock();
        for number in (0..must.len()).filter(|number| seen.contains_key(number)) {
            if must_not[number] {
                world.fail(format!("{number} was popped; a scan at {ts} sees it again"));
            }
        }
        for number in (0..must.len()).filter(|number| !seen.contains_key(number)) {
            if must[number] && inner.elements[number].pops == 0 {
                world.fail(format!("{number} was pushed; a scan at {ts} misses it"));
            }
        }
        Ok((ts, seen))
    }

    /// A last scan, and a look at what should never have shown.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let (_, seen) = self.scan(world, client).await?;
        let inner = self.inner.lock();
        for number in seen.into_keys() {
            if inner.elements.get(number).is_none_or(|element| element.push == Outcome::Failed) {
                world.fail(format!("{number} was refused and showed all the same"));
            }
        }
        Ok(())
    }
}
