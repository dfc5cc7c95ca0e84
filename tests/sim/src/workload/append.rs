//! Groups of keys inserted together: acknowledged ones stay, refused ones never show, and
//! no scan sees a part of one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_kv::mvcc::SHORT_VALUE_BYTES_MAX;
use cairn_kv_client::{KeyRange, KvClient, KvError};
use parking_lot::Mutex;
use rand::Rng;

use super::{Outcome, fresh_view, scan_all};
use crate::world::{Dice, World};

/// Keys of one group.
const GROUP_MAX: usize = 4;
/// Keys of a large group: enough that its locks in a region are resolved all at once.
const LARGE_GROUP: (usize, usize) = (16, 40);
/// Keys are spread over so many places, so that groups cross regions.
const PLACES: u32 = 12;
/// A value may be long: it then lies in another column family.
const LONG_VALUE_BYTES: usize = SHORT_VALUE_BYTES_MAX + 1;

/// What was inserted.
#[derive(Default)]
pub struct Appends {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Size and outcome of every group, by its number.
    groups: Vec<(usize, Outcome)>,
    /// Groups that some scan saw.
    seen: BTreeSet<usize>,
    done: u64,
}

impl Appends {
    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.inner.lock().done
    }

    /// Inserts a group, or scans.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let (scans, reverse) =
            world.roll(Dice::Workload, |rng| (rng.random_bool(0.25), rng.random_bool(0.3)));
        if !scans {
            let places = world.roll(Dice::Workload, |rng| {
                let size = match rng.random_bool(0.1) {
                    true => rng.random_range(LARGE_GROUP.0..=LARGE_GROUP.1),
                    false => rng.random_range(1..=GROUP_MAX),
                };
                (0..size).map(|_| rng.random_range(0..PLACES)).collect()
            });
            // What failed was noted.
            let _ = self.insert(world, client, places).await;
        } else if self.scan(world, client, reverse).await.is_ok() {
            self.inner.lock().done += 1;
        }
    }

    /// A group that lies everywhere.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        self.insert(world, client, (0..PLACES).collect()).await?;
        self.scan(world, client, false).await
    }

    async fn insert(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        places: Vec<u32>,
    ) -> Result<(), KvError> {
        let size = places.len();
        let group = {
            let mut inner = self.inner.lock();
            // Its client may die: then nobody knows.
            inner.groups.push((size, Outcome::Unknown));
            inner.groups.len() - 1
        };
        let result = async {
            let txn = client.begin(client.current_ts().await?);
            for (member, place) in places.into_iter().enumerate() {
                let is_long = world.roll(Dice::Workload, |rng| rng.random_bool(0.2));
                let key = format!("g{place:02}-{group:05}-{member:02}");
                let fill = if is_long { "x".repeat(LONG_VALUE_BYTES) } else { String::new() };
                txn.insert(Bytes::from(key), Bytes::from(format!("{group} {size} {fill}")))?;
            }
            txn.commit().await
        };
        let result = result.await;
        let outcome = Outcome::of(&result);
        world.note(format_args!("group {group} of {size} {outcome:?}"));
        let mut inner = self.inner.lock();
        inner.groups[group].1 = outcome;
        inner.done += u64::from(outcome == Outcome::Done);
        result.map(|_| ())
    }

    async fn scan(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        reverse: bool,
    ) -> Result<(), KvError> {
        let acknowledged: Vec<usize> = {
            let inner = self.inner.lock();
            let done = |(_, (_, outcome)): &(usize, &(usize, Outcome))| *outcome == Outcome::Done;
            inner.groups.iter().enumerate().filter(done).map(|(group, _)| group).collect()
        };
        let view = fresh_view(client).await?;
        let pairs = scan_all(&view, KeyRange::new("g", "h"), reverse).await?;
        let ts = view.start_ts();
        let sorted = pairs.windows(2).all(|two| (two[0].0 < two[1].0) != reverse);
        if !sorted {
            world.fail(format!("scan at {ts} is out of order or doubled"));
        }
        let mut members: BTreeMap<usize, usize> = BTreeMap::new();
        for (key, value) in &pairs {
            let text = String::from_utf8_lossy(value);
            match text.split(' ').next().and_then(|group| group.parse().ok()) {
                Some(group) => *members.entry(group).or_default() += 1,
                None => world.fail(format!("{} holds {value:?}", key.escape_ascii())),
            }
        }
        world.note(format_args!("scan of {} pairs", pairs.len()));
        let mut inner = self.inner.lock();
        for (group, count) in &members {
            let size = inner.groups.get(*group).map_or(0, |(size, _)| *size);
            if *count != size {
                world.fail(format!("scan at {ts} sees {count} of {size} keys of group {group}"));
            }
            inner.seen.insert(*group);
        }
        for group in acknowledged.into_iter().filter(|group| !members.contains_key(group)) {
            world.fail(format!("group {group} was acknowledged; a scan at {ts} misses it"));
        }
        Ok(())
    }

    /// A last scan, and a look at what should never have shown.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        self.scan(world, client, false).await?;
        self.scan(world, client, true).await?;
        let inner = self.inner.lock();
        for group in inner.seen.iter().filter(|group| inner.groups[**group].1 == Outcome::Failed) {
            world.fail(format!("group {group} was refused and showed all the same"));
        }
        Ok(())
    }
}
