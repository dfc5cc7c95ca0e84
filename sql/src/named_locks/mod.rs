//! `GET_LOCK` and its kin: locks by name, held by a session, over all SQL nodes.
//!
//! **Data.** A record in the meta keyspace for each name, changed by transactions of its own,
//! never by the session's: who has the lock and until when. The node renews the records of its
//! sessions; those of a node that died run out. What is held is counted by the session: the same
//! one may take a lock several times.
//!
//! **Waiting.** A session looks again and again, at growing pauses; whoever waits on the node of
//! the holder is woken. The next one is whoever looks first: there is no queue.
//!
//! **Invariants.** A session that lost a lock, because its node could not renew it, loses its
//! connection too: to its client nothing else says so.
//!
//! **Deadlocks.** Who holds locks and must wait for another one first writes that into the records
//! it holds, then, with each look, follows what holders wait for. Where that leads back to itself, the
//! last of the circle by node and connection is told so (error 3058), and the others wait on.
//!
//! Source: MySQL 8.0 manual, 14.14 "Locking Functions".

mod record;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_planner::plan::NamedLockCall;
use cairn_types::{Datum, MysqlError, TimeStamp, errno};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::record::Owner;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::processes::ConnectionId;
use crate::session::{Session, fold_name};

/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;
/// How long a lock lives without being renewed.
const LEASE: Duration = Duration::from_secs(10);
/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Renewals under way at one time.
const RENEWALS_AT_ONCE: usize = 32;
/// Between looks for locks that could not be renewed.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// A node that could not renew for so long has lost its locks. Shorter than the lease by the
/// drift we allow clocks.
const RENEWED_WITHIN: Duration = Duration::from_secs(8);
/// First and longest pause of a session that waits.
const WAIT_PAUSE_MS: (u64, u64) = (5, 250);
/// A lock without a limit of time is waited for this long: about three years, a timer's bound.
const WAIT_MAX: Duration = Duration::from_secs(100_000_000);

/// The locks of a node's sessions.
#[derive(Default)]
pub struct NamedLocks {
    held: Mutex<HashMap<String, HeldHere>>,
    released: Notify,
}

/// A lock that a session of this node holds.
struct HeldHere {
    by: ConnectionId,
    renewed_at: Instant,
}

/// The locks of a session: how often it took each.
#[derive(Debug, Default)]
pub struct SessionLocks(HashMap<String, u64>);

/// Does what a locking function asks for; answers its value. `args` are its arguments: a text
/// and a number.
pub async fn call(session: &mut Session, call: NamedLockCall, args: &[Datum]) -> Result<Datum> {
    if call == NamedLockCall::ReleaseAll {
        return Ok(Datum::Int(session.release_named_locks().await? as i64));
    }
    let name = lock_name(args.first())?;
    match call {
        NamedLockCall::Get => get(session, name, args.get(1)).await,
        NamedLockCall::Release => release(session, &name).await,
        NamedLockCall::IsFree => {
            Ok(Datum::Int(record::find(&session.domain, &name).await?.is_none().into()))
        }
        NamedLockCall::IsUsed => {
            let held = record::find(&session.domain, &name).await?;
            Ok(held.map_or(Datum::Null, |held| Datum::UInt(held.by.connection.into())))
        }
        NamedLockCall::ReleaseAll => Ok(Datum::Null),
    }
}

fn lock_name(arg: Option<&Datum>) -> Result<String> {
    let wrong = |name: &str| {
        SqlError::Mysql(MysqlError::with_args(errno::ER_USER_LOCK_WRONG_NAME, &[&name]))
    };
    let Some(Datum::Bytes(bytes)) = arg else { return Err(wrong("NULL")) };
    let name = String::from_utf8_lossy(bytes);
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(wrong(&name));
    }
    Ok(fold_name(&name))
}

/// 1: the session has it; 0: not in time; NULL: for a time of NULL.
async fn get(session: &mut Session, name: String, timeout: Option<&Datum>) -> Result<Datum> {
    let timeout = match timeout {
        Some(Datum::Double(seconds)) if *seconds < 0.0 => WAIT_MAX,
        Some(Datum::Double(seconds)) => {
            Duration::try_from_secs_f64(seconds.round()).map_or(WAIT_MAX, |time| time.min(WAIT_MAX))
        }
        _ => return Ok(Datum::Null),
    };
    if let Some(count) = session.named_locks.0.get_mut(&name) {
        *count += 1;
        return Ok(Datum::Int(1));
    }
    let token = session.token().clone();
    let wait = Wait {
        domain: Arc::clone(&session.domain),
        own: session.owner(),
        holds: session.named_locks.0.keys().cloned().collect(),
        is_noted: AtomicBool::new(false),
    };
    let taken = tokio::select! {
        biased;
        () = token.cancelled() => Err(SqlError::Interrupted),
        taken = wait.take(&name, session.process.id, timeout) => taken,
    };
    if matches!(taken, Ok(true)) {
        session.named_locks.0.insert(name, 1);
    }
    wait.end().await;
    Ok(Datum::Int(taken?.into()))
}

/// 1: released; 0: somebody else has it; NULL: nobody has.
async fn release(session: &mut Session, name: &str) -> Result<Datum> {
    let Some(count) = session.named_locks.0.get_mut(name) else {
        let held = record::find(&session.domain, name).await?;
        return Ok(held.map_or(Datum::Null, |_| Datum::Int(0)));
    };
    *count -= 1;
    if *count == 0 {
        session.named_locks.0.remove(name);
        session.domain.named_locks.give_back(&session.domain, name, &session.owner()).await?;
    }
    Ok(Datum::Int(1))
}

impl Session {
    /// Releases all named locks of the session; answers how often they had been taken. What
    /// cannot be released is not renewed either.
    pub async fn release_named_locks(&mut self) -> Result<u64> {
        let held = std::mem::take(&mut self.named_locks.0);
        let own = self.owner();
        held.keys().for_each(|name| self.domain.named_locks.forget(name, &own));
        let mut outcome = Ok(held.values().sum());
        for name in held.keys() {
            if let Err(error) = self.domain.named_locks.give_back(&self.domain, name, &own).await {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// The session as the cluster knows it.
    pub fn owner(&self) -> Owner {
        Owner { node: self.domain.node_id(), connection: self.process.id.0 }
    }
}

/// A session that wants one more lock.
struct Wait {
    domain: Arc<Domain>,
    own: Owner,
    /// Names of the locks it has.
    holds: Vec<String>,
    /// Their records say what it waits for.
    is_noted: AtomicBool,
}

impl Wait {
    /// Takes the lock; tells whether it came in time.
    async fn take(&self, name: &str, by: ConnectionId, timeout: Duration) -> Result<bool> {
        let locks = &self.domain.named_locks;
        let deadline = Instant::now() + timeout;
        let mut pause_ms = WAIT_PAUSE_MS.0;
        loop {
            let released = locks.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            let asked_at = Instant::now();
            if record::take(&self.domain, name, &self.own).await? {
                let held = HeldHere { by, renewed_at: asked_at };
                let lost = locks.held.lock().insert(name.to_owned(), held);
                if let Some(lost) = lost.filter(|lost| lost.by != by) {
                    // Its time was over before anybody here noticed.
                    self.domain.end_holder(lost.by);
                }
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            if !self.holds.is_empty() {
                if !self.is_noted.swap(true, Ordering::Relaxed) {
                    record::note_wait(&self.domain, &self.holds, &self.own, Some(name)).await?;
                }
                if record::must_give_up(&self.domain, name, &self.own).await? {
                    let code = errno::ER_USER_LOCK_DEADLOCK;
                    return Err(SqlError::Mysql(MysqlError::with_args(code, &[])));
                }
            }
            let pause = Duration::from_millis(pause_ms).min(left);
            // Woken or not: look again.
            let _ = tokio::time::timeout(pause, released).await;
            pause_ms = (pause_ms * 2).min(WAIT_PAUSE_MS.1);
        }
    }

    /// The session waits no longer.
    async fn end(&self) {
        if self.is_noted.swap(false, Ordering::Relaxed) {
            clear_note(&self.domain, &self.holds, &self.own).await;
        }
    }
}

impl Drop for Wait {
    /// Whoever runs the statement may lose patience and let go of it.
    fn drop(&mut self) {
        if self.is_noted.load(Ordering::Relaxed) {
            let (domain, own) = (Arc::clone(&self.domain), self.own.clone());
            let holds = std::mem::take(&mut self.holds);
            tokio::spawn(async move { clear_note(&domain, &holds, &own).await });
        }
    }
}

async fn clear_note(domain: &Domain, holds: &[String], own: &Owner) {
    if let Err(error) = record::note_wait(domain, holds, own, None).await {
        // At worst somebody is told of a deadlock that is none.
        tracing::warn!(%error, "a wait for a named lock is still noted");
    }
}

impl Domain {
    fn end_holder(&self, holder: ConnectionId) {
        tracing::warn!(connection = holder.0, "a named lock is lost, its connection ends");
        self.processes.kill(holder, false);
    }
}

impl NamedLocks {
    /// From here on the lock is not renewed for that session.
    fn forget(&self, name: &str, own: &Owner) {
        let mut held = self.held.lock();
        if held.get(name).is_some_and(|entry| entry.by.0 == own.connection) {
            held.remove(name);
        }
    }

    /// Frees the lock; what fails runs out.
    async fn give_back(&self, domain: &Domain, name: &str, own: &Owner) -> Result<()> {
        self.forget(name, own);
        let outcome = record::give_back(domain, name, own).await;
        self.released.notify_waiters();
        outcome
    }

    /// Renews what the node's sessions hold, until the node stops.
    pub async fn keep_renewing(domain: Arc<Domain>) {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                let held: Vec<(String, ConnectionId, Instant)> = {
                    let held = domain.named_locks.held.lock();
                    let entry = |(name, held): (&String, &HeldHere)| {
                        (name.clone(), held.by, held.renewed_at)
                    };
                    held.iter().map(entry).collect()
                };
                let renewals = futures::stream::iter(held).for_each_concurrent(
                    RENEWALS_AT_ONCE,
                    async |(name, by, since)| {
                        domain.named_locks.renew(&domain, &name, by, since).await;
                    },
                );
                renewals.await;
            }
        };
        let watching = async {
            loop {
                tokio::time::sleep(WATCH_EVERY).await;
                domain.named_locks.drop_expired(&domain);
            }
        };
        tokio::select! {
            () = renewing => {}
            () = watching => {}
            () = domain.stop.cancelled() => {}
        }
    }

    /// One renewal of a lock that was held like this a moment ago.
    async fn renew(&self, domain: &Domain, name: &str, by: ConnectionId, since: Instant) {
        let asked_at = Instant::now();
        let own = Owner { node: domain.node_id(), connection: by.0 };
        if !domain.processes.is_open(by) {
            // Its task ended without a word.
            if let Err(error) = self.give_back(domain, name, &own).await {
                tracing::debug!(%error, "a named lock is left to expire");
            }
            return;
        }
        let outcome = tokio::time::timeout(RENEW_EVERY, record::renew(domain, name, &own)).await;
        let mut held = self.held.lock();
        // Released meanwhile, or taken anew.
        let is_same = |entry: &&mut HeldHere| entry.by == by && entry.renewed_at == since;
        let Some(entry) = held.get_mut(name).filter(is_same) else { return };
        match outcome {
            Ok(Ok(true)) => entry.renewed_at = asked_at,
            Ok(Ok(false)) => {
                held.remove(name);
                drop(held);
                domain.end_holder(by);
            }
            Ok(Err(error)) => tracing::debug!(%error, "a named lock is not renewed"),
            Err(_) => tracing::debug!("a named lock is not renewed in time"),
        }
    }

    /// Ends sessions whose locks could not be renewed: others may have them soon.
    fn drop_expired(&self, domain: &Domain) {
        let mut lost = Vec::new();
        self.held.lock().retain(|_, entry| {
            let is_alive = entry.renewed_at.elapsed() <= RENEWED_WITHIN;
            if !is_alive {
                lost.push(entry.by);
            }
            is_alive
        });
        lost.into_iter().for_each(|holder| domain.end_holder(holder));
    }
}

/// Until when a lock lives that is taken or renewed now.
fn lease_end_ms(now: TimeStamp) -> u64 {
    now.physical_ms().saturating_add(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX))
}
