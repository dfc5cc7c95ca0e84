//! Transfers between accounts: in every view, money is neither made nor lost. Some views are of the past,
//! which any replica may show. Some transfers are bulk transactions that pass the money from account to
//! account: they flush writes early, and write most accounts twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_kv_client::{
    BulkOptions, KeyRange, KvClient, KvError, ReadFrom, ReplicaRead, Snapshot, Transaction,
};
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::time::Instant;

use super::{Outcome, fresh_view, number, scan_all};
use crate::world::{Dice, World};

/// What an account begins with.
const OPENING: u64 = 100;
/// How far back views of the past reach; the safe point of garbage collection is further behind,
/// also when a sum takes as long again.
const PAST: Duration = Duration::from_secs(3);

/// The bank's rules and counts.
pub struct Bank {
    accounts: u32,
    done: Mutex<u64>,
    /// At which sums were made, the newest last.
    recent: Mutex<VecDeque<(Instant, TimeStamp)>>,
}

fn key_of(account: u32) -> Bytes {
    Bytes::from(format!("a{account:02}"))
}

impl Bank {
    /// A bank without accounts.
    pub fn new(accounts: u32) -> Bank {
        Bank { accounts, done: Mutex::new(0), recent: Mutex::default() }
    }

    /// Operations that were done.
    pub fn done(&self) -> u64 {
        *self.done.lock()
    }

    /// Opens all accounts.
    pub async fn open(&self, client: &Arc<KvClient>) -> Result<(), KvError> {
        let txn = client.begin(client.current_ts().await?);
        for account in 0..self.accounts {
            txn.set(key_of(account), Bytes::from(OPENING.to_string()))?;
        }
        txn.commit().await.map(|_| ())
    }

    /// Transfers, or sums.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let (from, to, part, sums) = world.roll(Dice::Workload, |rng| {
            let accounts = 0..self.accounts;
            let (from, to) = (rng.random_range(accounts.clone()), rng.random_range(accounts));
            (from, to, rng.random_range(1..=20), rng.random_bool(0.4))
        });
        if sums || from == to {
            let scans = part % 2 == 0;
            if self.sum(world, client, scans).await.is_ok() {
                *self.done.lock() += 1;
            }
            return;
        }
        // What failed was noted.
        let _ = self.transfer(world, client, (from, to), part).await;
    }

    /// Transfers between every account and the next.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        for account in 1..self.accounts {
            self.transfer(world, client, (account - 1, account), 1).await?;
        }
        self.sum(world, client, true).await
    }

    async fn transfer(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        (from, to): (u32, u32),
        amount: u64,
    ) -> Result<(), KvError> {
        let result = self.try_transfer(world, client, (from, to), amount).await;
        let outcome = Outcome::of(&result);
        world.note(format_args!("a{from:02} -> a{to:02} {amount} {outcome:?}"));
        *self.done.lock() += u64::from(outcome == Outcome::Done);
        result
    }

    async fn try_transfer(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        (from, to): (u32, u32),
        amount: u64,
    ) -> Result<(), KvError> {
        let start_ts = client.current_ts().await?;
        if amount % 8 != 7 {
            let txn = client.begin(start_ts);
            pass_on(world, &txn, (from, to), amount).await?;
            return txn.commit().await.map(|_| ());
        }
        let options = BulkOptions { flush_bytes: 1 << 20, flush_keys: 1 + amount as usize % 3 };
        let txn = client.begin_bulk(start_ts, options);
        let mut amount = amount;
        let mut at = from;
        while at != to {
            let next = if at < to { at + 1 } else { at - 1 };
            let passed = async {
                amount = pass_on(world, &txn, (at, next), amount).await?;
                txn.flush_if_full().await
            };
            if let Err(error) = passed.await {
                txn.rollback().await?;
                return Err(error);
            }
            at = next;
        }
        txn.commit().await.map(|_| ())
    }

    async fn sum(&self, world: &World, client: &Arc<KvClient>, scans: bool) -> Result<(), KvError> {
        let (began, view) = (Instant::now(), self.view(world, client).await?);
        let keys: Vec<Bytes> = (0..self.accounts).map(key_of).collect();
        let balances: Vec<u64> = if scans {
            let pairs = scan_all(&view, KeyRange::new("a", "b"), coin(world)).await?;
            pairs.iter().map(|(key, value)| number(world, key, Some(value))).collect()
        } else {
            let found = view.batch_get(&keys).await?;
            keys.iter().map(|key| number(world, key, found.get(key))).collect()
        };
        let (sum, expected) = (balances.iter().sum::<u64>(), u64::from(self.accounts) * OPENING);
        world.note(format_args!("sum {balances:?}"));
        // What took too long may be collected garbage.
        if sum != expected && (!view.read_from().is_stale || began.elapsed() < PAST) {
            let ts = view.start_ts();
            world.fail(format!("bank: {balances:?} at {ts} sum to {sum}, not {expected}"));
        }
        Ok(())
    }

    /// A view of now, or of a moment at which somebody made a sum.
    async fn view(&self, world: &World, client: &Arc<KvClient>) -> Result<Snapshot, KvError> {
        let past = {
            let mut recent = self.recent.lock();
            while recent.front().is_some_and(|(since, _)| since.elapsed() >= PAST) {
                recent.pop_front();
            }
            world.roll(Dice::Workload, |rng| {
                rng.random_bool(0.5).then(|| recent.iter().choose(rng).copied()).flatten()
            })
        };
        if let Some((_, read_ts)) = past {
            return Ok(client.snapshot(read_ts).reading(ReadFrom::stale(ReplicaRead::Leader)));
        }
        let view = fresh_view(client).await?;
        self.recent.lock().push_back((Instant::now(), view.start_ts()));
        Ok(view)
    }

    /// A last sum.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        for scans in [true, false] {
            self.recent.lock().clear();
            self.sum(world, client, scans).await?;
        }
        Ok(())
    }
}

/// Moves as much as there is, at most `amount`; answers how much.
async fn pass_on(
    world: &World,
    txn: &Transaction,
    (from, to): (u32, u32),
    amount: u64,
) -> Result<u64, KvError> {
    let keys = [key_of(from), key_of(to)];
    let mut balances = [0, 0];
    for (key, balance) in keys.iter().zip(&mut balances) {
        *balance = number(world, key, txn.get(key).await?.as_ref());
    }
    let amount = amount.min(balances[0]);
    let [from_key, to_key] = keys;
    txn.set(from_key, Bytes::from((balances[0] - amount).to_string()))?;
    txn.set(to_key, Bytes::from((balances[1] + amount).to_string()))?;
    Ok(amount)
}

/// A coin.
fn coin(world: &World) -> bool {
    world.roll(Dice::Workload, |rng| rng.random_bool(0.5))
}
