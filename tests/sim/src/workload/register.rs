//! Single keys, read and written by transactions of one key: each must be linearizable.

use std::sync::Arc;

use bytes::Bytes;
use cairn_history::linearizable::{self, Action, Op, Verdict};
use cairn_kv_client::{KvClient, KvError};
use parking_lot::Mutex;
use rand::Rng;

use super::{Focus, Outcome, number, some_view};
use crate::world::{Dice, World};

/// The registers' history.
pub struct Registers {
    keys: u32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Values are unique: every read tells which write it saw.
    next_value: u64,
    /// Key and operation.
    ops: Vec<(u32, Op)>,
    done: u64,
}

/// A register's raw key.
pub fn key_of(number: u32) -> Bytes {
    Bytes::from(format!("r{number:02}"))
}

impl Registers {
    /// Registers without a value.
    pub fn new(keys: u32) -> Registers {
        Registers { keys, inner: Mutex::default() }
    }

    /// Operations that were done.
    pub fn done(&self) -> u64 {
        self.inner.lock().done
    }

    /// Reads or writes a register.
    pub async fn act(&self, world: &World, client: &Arc<KvClient>) {
        let key = world.roll(Dice::Workload, |rng| rng.random_range(0..self.keys));
        self.act_on(world, client, key, false).await;
    }

    /// Does to one of these registers what the focus allows.
    pub async fn act_in(&self, world: &World, client: &Arc<KvClient>, focus: Focus) {
        let key = match focus.registers.len() {
            1 => focus.registers.start,
            _ => world.roll(Dice::Workload, |rng| rng.random_range(focus.registers)),
        };
        self.act_on(world, client, key, focus.reads_only).await;
    }

    async fn act_on(&self, world: &World, client: &Arc<KvClient>, key: u32, reads_only: bool) {
        let reads = reads_only || world.roll(Dice::Workload, |rng| rng.random_bool(0.55));
        // What failed was noted; the next operation is another one.
        let _ = match reads {
            true => self.read(world, client, key).await,
            false => self.write(world, client, key).await,
        };
    }

    /// Writes every register.
    pub async fn probe(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        for key in 0..self.keys {
            self.write(world, client, key).await?;
        }
        Ok(())
    }

    async fn read(&self, world: &World, client: &Arc<KvClient>, key: u32) -> Result<(), KvError> {
        let invoked = world.moment();
        let value = some_view(world, client).await?.get(&key_of(key)).await?;
        let value = number(world, &key_of(key), value.as_ref());
        world.note(format_args!("r{key:02} = {value}"));
        let action = Action::Read(value);
        let op = Op { invoked, returned: Some(world.moment()), action };
        let mut inner = self.inner.lock();
        inner.done += 1;
        inner.ops.push((key, op));
        Ok(())
    }

    /// Writes this one.
    pub async fn write(
        &self,
        world: &World,
        client: &Arc<KvClient>,
        key: u32,
    ) -> Result<(), KvError> {
        let value = {
            let mut inner = self.inner.lock();
            inner.next_value += 1;
            inner.next_value
        };
        let invoked = world.moment();
        // Until its end is known it may have happened: its client may die meanwhile.
        let position = {
            let op = Op { invoked, returned: None, action: Action::Write(value) };
            let mut inner = self.inner.lock();
            inner.ops.push((key, op));
            inner.ops.len() - 1
        };
        let result = async {
            let start_ts = client.current_ts().await?;
            let txn = client.begin(start_ts);
            txn.set(key_of(key), Bytes::from(value.to_string()))?;
            txn.commit().await
        };
        let result = result.await;
        let outcome = Outcome::of(&result);
        world.note(format_args!("r{key:02} := {value} {outcome:?} {}", shown(&result)));
        let mut inner = self.inner.lock();
        match outcome {
            Outcome::Done => {
                inner.ops[position].1.returned = Some(world.moment());
                inner.done += 1;
            }
            Outcome::Failed => inner.ops[position].1.action = Action::Never(value),
            Outcome::Unknown => {}
        }
        result.map(|_| ())
    }

    /// Reads every register once more and looks for an order that explains the history.
    pub async fn judge(&self, world: &World, client: &Arc<KvClient>) -> Result<(), KvError> {
        for key in 0..self.keys {
            let invoked = world.moment();
            let value = super::fresh_view(client).await?.get(&key_of(key)).await?;
            let value = number(world, &key_of(key), value.as_ref());
            let op = Op { invoked, returned: Some(world.moment()), action: Action::Read(value) };
            self.inner.lock().ops.push((key, op));
        }
        let inner = self.inner.lock();
        for key in 0..self.keys {
            let ops = inner.ops.iter().filter(|(of, _)| *of == key).map(|(_, op)| op.clone());
            match linearizable::check(ops.collect()) {
                Verdict::Linearizable => {}
                Verdict::Undecided => world.note(format_args!("r{key:02}: too hard to decide")),
                Verdict::Violated(reason) => {
                    world.fail(format!("register r{key:02} is not linearizable: {reason}"));
                }
            }
        }
        Ok(())
    }
}

/// What a failed write was told.
fn shown<T>(result: &Result<T, KvError>) -> String {
    result.as_ref().err().map(ToString::to_string).unwrap_or_default()
}
