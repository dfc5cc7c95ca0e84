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
//! it holds, then follows what holders wait for. If that leads back to itself, it is told so
//! (error 3058). The last one to close a circle sees all of it.
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

use self::record::Owner;
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
    let (domain, token) = (Arc::clone(&session.domain), session.token().clone());
    let wait = Wait {
        domain: &domain,
        own: session.named_lock_owner(),
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
    if wait.is_noted.load(Ordering::Relaxed)
        && let Err(error) = record::note_wait(&domain, &wait.holds, &wait.own, None).await
    {
        // At worst somebody is told of a deadlock that is none.
        tracing::warn!(%error, "a wait for a named lock is still noted");
    }
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
        session
            .domain
            .named_locks
            .give_back(&session.domain, name, &session.named_lock_owner())
            .await?;
    }
    Ok(Datum::Int(1))
}

impl Session {
    /// Releases all named locks of the session; answers how often they had been taken.
    pub async fn release_named_locks(&mut self) -> Result<u64> {
        let held = std::mem::take(&mut self.named_locks.0);
        for name in held.keys() {
            self.domain.named_locks.give_back(&self.domain, name, &self.named_lock_owner()).await?;
        }
        Ok(held.values().sum())
    }

    fn named_lock_owner(&self) -> Owner {
        Owner { node: self.domain.node_id(), connection: self.process.id.0 }
    }
}

/// A session that wants one more lock.
struct Wait<'a> {
    domain: &'a Domain,
    own: Owner,
    /// Names of the locks it has.
    holds: Vec<String>,
    /// Their records say what it waits for.
    is_noted: AtomicBool,
}

impl Wait<'_> {
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
            if record::take(self.domain, name, &self.own).await? {
                let held = HeldHere { by, renewed_at: asked_at };
                locks.held.lock().insert(name.to_owned(), held);
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            if !self.holds.is_empty() && !self.is_noted.swap(true, Ordering::Relaxed) {
                record::note_wait(self.domain, &self.holds, &self.own, Some(name)).await?;
                if record::closes_circle(self.domain, name, &self.own).await? {
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
}

impl NamedLocks {
    /// From here on the lock is not renewed, whatever becomes of its record.
    async fn give_back(&self, domain: &Domain, name: &str, own: &Owner) -> Result<()> {
        self.held.lock().remove(name);
        let outcome = record::give_back(domain, name, own).await;
        self.released.notify_waiters();
        outcome
    }

    /// Renews what the node's sessions hold, until the node stops.
    pub async fn keep_renewing(domain: Arc<Domain>) {
        while !domain.stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = domain.stop.cancelled() => return,
            }
            let held: Vec<(String, ConnectionId)> = {
                let held = domain.named_locks.held.lock();
                held.iter().map(|(name, held)| (name.clone(), held.by)).collect()
            };
            let renewals = futures::stream::iter(held)
                .for_each_concurrent(RENEWALS_AT_ONCE, async |(name, by)| {
                    domain.named_locks.renew(&domain, &name, by).await
                });
            renewals.await;
        }
    }

    async fn renew(&self, domain: &Domain, name: &str, by: ConnectionId) {
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
        let Some(entry) = held.get_mut(name).filter(|entry| entry.by == by) else { return };
        let is_lost = match outcome {
            Ok(Ok(true)) => {
                entry.renewed_at = asked_at;
                false
            }
            Ok(Ok(false)) => true,
            Ok(Err(_)) | Err(_) => entry.renewed_at.elapsed() > RENEWED_WITHIN,
        };
        if is_lost {
            held.remove(name);
            drop(held);
            tracing::warn!(connection = by.0, "a named lock is lost, its connection ends");
            domain.processes.kill(by, false);
        }
    }
}

/// Until when a lock lives that is taken or renewed now.
fn lease_end_ms(now: TimeStamp) -> u64 {
    now.physical_ms().saturating_add(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX))
}
