//! Counters raised by read-modify-write: no raise is lost or doubled, none goes back. Every other
//! one is raised under a pessimistic lock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_kv_client::{KvClient, KvError, LockOptions, LockWait, Transaction};
use parking_lot::Mutex;
use rand::Rng;

use super::{Outcome, fresh_view, number, some_view};
use crate::world::{Dice, World};

/// What is known of the counters.
pub struct Counters {
    inner: Mutex<Vec<Counter>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Raises that were acknowledged.
    acknowledged: u64,
    /// Raises under way, or of which nobody knows.
    open: u64,
    /// Highest value anybody was answered.
    highest: u64,
    reads: u64,
}

/// How long a raise waits for the lock of another one: longer than that of a dead client stands.
const LOCK_WAIT: Duration = Duration::from_secs(20);

async fn raise_optimistically(
    world: &World,
    client: &Arc<KvClient>,
    counter: u32,
) -> Result<u64, KvError> {
    let txn = client.begin(client.current_ts().await?);
    let key = key_of(counter);
    let value = number(world, &key, txn.get(&key).await?.as_ref());
    txn.set(key, Bytes::from((value + 1).to_string()))?;
    txn.commit().await?;
    Ok(value + 1)
}

async fn raise_locked(world: &World, client: &Arc<KvClient>, counter: u32) -> Result<u64, KvError> {
    let txn = client.begin_pessimistic(client.current_ts().await?);
    match lock_and_raise(world, client, &txn, counter).await {
        Ok(value) => txn.commit().await.map(|_| value),
        Err(error) => {
            txn.rollback().await?;
            Err(error)
        }
    }
}

/// As a statement does: starts over when the counter was changed before it was locked.
async fn lock_and_raise(
    world: &World,
    client: &Arc<KvClient>,
    txn: &Transaction,
    counter: u32,
) -> Result<u64, KvError> {
    let (key, options) = (key_of(counter), LockOptions::new(LockWait::AtMost(LOCK_WAIT)));
    txn.begin_statement(client.current_ts().await?);
    let mut statement = txn.checkpoint();
    loop {
        let value = number(world, &key, txn.get(&key).await?.as_ref());
        txn.set(key.clone(), Bytes::from((value + 1).to_string()))?;
        txn.want_lock(|| key.clone());
        txn.lock_wanted(&options).await?;
        if !txn.take_conflict() {
            txn.release(statement);
            return Ok(value + 1);
        }
        statement = txn.start_over(statement);
        txn.begin_statement(client.current_ts().await?);
    }
}

fn key_of(number: u32) -> Bytes {
    Bytes::from(format!("c{number:02}"))
}

impl Counters {
    /// Counters at zero.
    pub fn new(count: u32) -> Counters {
        Counters { inner: Mutex::new(vec![Counter::default(); count as usize]) }
    }

    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.inner.lock().iter().map(|counter| counter.acknowledged + counter.reads).sum()
    }

    /// Raises or reads a counter.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let count = self.inner.lock().len() as u32;
        let (counter, reads) =
            world.roll(Dice::Workload, |rng| (rng.random_range(0..count), rng.random_bool(0.4)));
        // What failed was noted.
        let _ = match reads {
            true => self.read(world, client, counter).await,
            false => self.raise(world, client, counter).await,
        };
    }

    /// Raises and reads every counter.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let count = self.inner.lock().len() as u32;
        for counter in 0..count {
            self.raise(world, client, counter).await?;
            self.read(world, client, counter).await?;
        }
        Ok(())
    }

    async fn raise(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        counter: u32,
    ) -> Result<(), KvError> {
        let at = counter as usize;
        self.inner.lock()[at].open += 1;
        let result = match counter % 2 {
            0 => raise_optimistically(world, client, counter).await,
            _ => raise_locked(world, client, counter).await,
        };
        let outcome = Outcome::of(&result);
        world.note(format_args!("c{counter:02} +1 {outcome:?} {:?}", result.as_ref().ok()));
        let mut inner = self.inner.lock();
        match outcome {
            Outcome::Done => {
                inner[at].open -= 1;
                inner[at].acknowledged += 1;
                let raised_to = result.as_ref().copied().unwrap_or(0);
                inner[at].highest = inner[at].highest.max(raised_to);
            }
            Outcome::Failed => inner[at].open -= 1,
            Outcome::Unknown => {}
        }
        result.map(|_| ())
    }

    async fn read(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        counter: u32,
    ) -> Result<(), KvError> {
        let at = counter as usize;
        let before = self.inner.lock()[at];
        let key = key_of(counter);
        let value = some_view(world, client).await?.get(&key).await?;
        let value = number(world, &key, value.as_ref());
        world.note(format_args!("c{counter:02} = {value}"));
        let floor = before.acknowledged.max(before.highest);
        if value < floor {
            world.fail(format!("counter c{counter:02} shows {value} after {floor}"));
        }
        let mut inner = self.inner.lock();
        inner[at].highest = inner[at].highest.max(value);
        inner[at].reads += 1;
        Ok(())
    }

    /// The last values must be explained by the raises.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        let counters = self.inner.lock().clone();
        for (number_of, counter) in counters.iter().enumerate() {
            let key = key_of(number_of as u32);
            let value = fresh_view(client).await?.get(&key).await?;
            let value = number(world, &key, value.as_ref());
            let (low, high) = (counter.acknowledged, counter.acknowledged + counter.open);
            if !(low..=high).contains(&value) {
                world.fail(format!("counter c{number_of:02} ends at {value}, not {low}..={high}"));
            }
        }
        Ok(())
    }
}
