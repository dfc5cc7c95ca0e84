//! Parents and their children, as foreign keys would have them: whoever adds a child shares the parent's
//! lock meanwhile, and a parent goes only under a lock of its own, once it has no children. So no view
//! shows a child without its parent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_kv_client::{KeyRange, KvClient, KvError, LockOptions, LockWait, Snapshot, Transaction};
use parking_lot::Mutex;
use rand::Rng;

use super::{Outcome, fresh_view, scan_all};
use crate::world::{Dice, World};

/// Few, so that clients meet.
const FAMILIES: u32 = 3;
/// How long a lock is waited for: longer than that of a dead client stands.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// What is known of the families.
#[derive(Default)]
pub struct Families {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// How the birth of each child ended, by its number.
    births: Vec<Outcome>,
    done: u64,
}

/// What is done to a family.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A parent comes, if there is none.
    Found,
    /// A child comes, if there is a parent.
    Bear,
    /// A child goes, if there is one.
    Leave,
    /// The parent goes, if there are no children.
    End,
}

fn parent_of(family: u32) -> Bytes {
    Bytes::from(format!("f{family:02}"))
}

/// Behind the parent, and perhaps in another region.
fn child_of(family: u32, number: usize) -> Bytes {
    Bytes::from(format!("f{family:02}-{number:05}"))
}

fn children_of(family: u32) -> KeyRange {
    KeyRange::new(format!("f{family:02}-"), format!("f{family:02}."))
}

impl Families {
    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.inner.lock().done
    }

    /// Changes a family, or looks at all.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let (family, choice) = world
            .roll(Dice::Workload, |rng| (rng.random_range(0..FAMILIES), rng.random_range(0..20)));
        let act = match choice {
            0..3 => Act::Found,
            3..9 => Act::Bear,
            9..13 => Act::Leave,
            13..17 => Act::End,
            _ => {
                // What failed will be looked at by another one.
                let _ = self.look(world, client).await;
                return;
            }
        };
        let _ = self.change(world, client, family, act).await;
    }

    /// One of each.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        for act in [Act::Found, Act::Bear, Act::Leave, Act::End] {
            self.change(world, client, 0, act).await?;
        }
        self.look(world, client).await
    }

    async fn change(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        family: u32,
        act: Act,
    ) -> Result<(), KvError> {
        let number = match act {
            Act::Bear => {
                let mut inner = self.inner.lock();
                // Its client may die: then nobody knows.
                inner.births.push(Outcome::Unknown);
                inner.births.len() - 1
            }
            Act::Found | Act::Leave | Act::End => 0,
        };
        let txn = client.begin_pessimistic(client.current_ts().await?);
        let changed = change(client, &txn, family, act, number).await;
        let result = match changed {
            Ok(true) => txn.commit().await.map(|_| true),
            Ok(false) => txn.rollback().await.map(|()| false),
            Err(error) => {
                txn.rollback().await?;
                Err(error)
            }
        };
        let outcome = match result {
            Ok(false) => Outcome::Failed,
            _ => Outcome::of(&result),
        };
        world.note(format_args!("f{family:02} {act:?} {number} {outcome:?}"));
        let mut inner = self.inner.lock();
        if let Act::Bear = act {
            inner.births[number] = outcome;
        }
        inner.done += u64::from(outcome == Outcome::Done);
        result.map(drop)
    }

    /// Every child in a view has its parent there.
    async fn look(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let view = fresh_view(client).await?;
        let ts = view.start_ts();
        let found = scan_all(&view, KeyRange::new("f", "g"), false).await?;
        let keys: BTreeSet<Bytes> = found.into_iter().map(|(key, _)| key).collect();
        world.note(format_args!("families of {}", keys.len()));
        let mut inner = self.inner.lock();
        inner.done += 1;
        for key in &keys {
            let Some((parent, number)) = split(key) else { continue };
            let number: Option<usize> =
                std::str::from_utf8(number).ok().and_then(|n| n.parse().ok());
            let birth = number.and_then(|number| inner.births.get(number));
            if birth.is_none_or(|birth| *birth == Outcome::Failed) {
                world.fail(format!("{} was never born", key.escape_ascii()));
            }
            if !keys.contains(parent) {
                world.fail(format!("{} has no parent at {ts}", key.escape_ascii()));
            }
        }
        Ok(())
    }

    /// A last look.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        self.look(world, client).await
    }
}

/// A child's parent and number.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = key.iter().position(|byte| *byte == b'-')?;
    Some((&key[..at], &key[at + 1..]))
}

/// Answers whether there is something to commit. As a statement does: starts over when what was
/// locked had been changed.
async fn change(
    client: &Arc<KvClient>,
    txn: &Transaction,
    family: u32,
    act: Act,
    number: usize,
) -> Result<bool, KvError> {
    let parent = parent_of(family);
    let alone = LockOptions::new(LockWait::AtMost(LOCK_WAIT));
    loop {
        txn.begin_statement(client.current_ts().await?);
        let options = match act {
            Act::Bear => alone.clone().shared(),
            Act::Found | Act::Leave | Act::End => alone.clone(),
        };
        let view = txn.snapshot();
        let locked = match act {
            Act::Leave => first_child(&view, family).await?,
            Act::Found | Act::Bear | Act::End => Some(parent.clone()),
        };
        let Some(locked) = locked else { return Ok(false) };
        txn.lock_now(vec![locked.clone()], &options).await?;
        let is_there = view.get(&locked).await?.is_some();
        // Read behind the lock, at the statement's timestamp: what came later is a conflict.
        let has_children = match act {
            Act::End => first_child(&view, family).await?.is_some(),
            Act::Found | Act::Bear | Act::Leave => false,
        };
        if txn.take_conflict() {
            continue;
        }
        match act {
            Act::Found if !is_there => txn.set(locked, "parent".into())?,
            Act::Bear if is_there => txn.insert(child_of(family, number), "child".into())?,
            Act::Leave if is_there => txn.delete(locked)?,
            Act::End if is_there && !has_children => txn.delete(locked)?,
            Act::Found | Act::Bear | Act::Leave | Act::End => return Ok(false),
        }
        return Ok(true);
    }
}

async fn first_child(view: &Snapshot, family: u32) -> Result<Option<Bytes>, KvError> {
    let children = scan_all(view, children_of(family), false).await?;
    Ok(children.into_iter().next().map(|(key, _)| key))
}
