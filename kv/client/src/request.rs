//! Sends a command to the region it belongs to, whatever happens on the way.
//!
//! **Flow.** Look the region up, call the store of its leader, read the region
//! error and correct the route, wait as its kind demands, try again. Every
//! attempt runs under the request's [`Retrier`]: one deadline, one budget.
//!
//! | answer | what happens |
//! |---|---|
//! | `NotLeader` with a hint | follow it at once (a few times), keep the region |
//! | `NotLeader` without | next voter, wait for the election |
//! | `EpochNotMatch` | take over the reported regions; the caller regroups its keys |
//! | `RegionNotFound`, `KeyNotInRegion` | forget the region, ask PD |
//! | `MergeInProgress` | forget the region, wait, ask PD who holds the keys now |
//! | `ServerIsBusy` | reads: ask another voter at once; else wait at least as long as the store says. Both are paid from the budget |
//! | any, of a replica that does not lead | the leader is asked ([`crate::replicas`]); what a replica says of the route counts only if it is newer |
//! | `StaleCommand`, `DeadlineExceeded` | outcome unknown: noted in the retrier |
//! | `StoreNotMatch` | ask PD for the store's address |
//! | no answer | next voter; outcome noted as unknown if the request may have left |
//!
//! A statement that was cancelled or is out of time ([`crate::scope`]) ends the request at once,
//! and with it what a store does for it.
//!
//! **Invariants.** A command is only ever repeated here if it is idempotent in the
//! store, and all of them are. What an unknown outcome means for a *commit* is
//! decided in [`crate::txn`], which reads [`Retrier::maybe_executed`].

use std::sync::Arc;
use std::time::Duration;

use cairn_pd_client::PdError;
use cairn_proto::kv::region_error::Kind;
use cairn_proto::kv::{Context, KvRequest, KvResponse, RegionError, kv_request};
use tokio::time::Instant;

use crate::backoff::{BackoffKind, Retrier};
use crate::error::KvError;
use crate::region_cache::{CachedRegion, RegionCache};
use crate::replicas::{Hops, ReadFrom};
use crate::request_log::{RequestSpan, command_name};
use crate::transport::TransportError;

/// A command as requests carry it.
pub(crate) use kv_request::Cmd;

/// Leader hints followed without waiting; two stores that each name the other
/// must not spin.
const HINTS_FOLLOWED_AT_ONCE: u32 = 3;
/// Of so many failed attempts, one asks PD for the route again.
const ATTEMPTS_PER_RELOAD: u32 = 3;

/// What all attempts of a request carry besides the route.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestOptions {
    /// Locks that may be read past.
    pub resolved_locks: Vec<u64>,
    /// Do not repeat the request once an attempt may have taken effect.
    pub stop_when_uncertain: bool,
    /// The command reads, and may be answered by a peer that does not lead: whom it asks first.
    pub reads: Option<ReadFrom>,
}

impl RequestOptions {
    pub(crate) fn hops(&self) -> Hops {
        Hops::new(self.reads.unwrap_or_default())
    }
}

/// Why a request to one region ended without a response.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The region has changed its range: group the keys anew.
    Regroup,
    /// Nothing more can be done.
    Failed(KvError),
}

impl From<KvError> for SendError {
    fn from(error: KvError) -> SendError {
        SendError::Failed(error)
    }
}

/// What to do after a failed attempt.
struct Remedy {
    wait: Option<BackoffKind>,
    at_least: Duration,
}

impl Remedy {
    fn at_once() -> Remedy {
        Remedy { wait: None, at_least: Duration::ZERO }
    }

    fn wait(kind: BackoffKind) -> Remedy {
        Remedy { wait: Some(kind), at_least: Duration::ZERO }
    }
}

impl RegionCache {
    /// [`RegionCache::locate`] that waits for PD to come back, within the deadline.
    pub(crate) async fn locate_patiently(
        &self,
        key: &[u8],
        retrier: &mut Retrier,
    ) -> Result<Arc<CachedRegion>, KvError> {
        if let Some(region) = self.cached(key) {
            return Ok(region);
        }
        loop {
            let left = retrier.deadline().remaining();
            let located = tokio::time::timeout(left, self.locate(key));
            match retrier.scope().run(located).await? {
                Ok(Ok(region)) => return Ok(region),
                Ok(Err(error)) => wait_for_pd(error, retrier).await?,
                Err(_) => {
                    let reason = "PD did not tell the region in time".into();
                    return Err(KvError::RegionUnavailable { reason });
                }
            }
        }
    }

    /// Sends a command about one key; `build` makes the message of each attempt.
    pub(crate) async fn send_to_key(
        &self,
        key: &[u8],
        options: &RequestOptions,
        retrier: &mut Retrier,
        build: &(dyn Fn() -> Cmd + Send + Sync),
    ) -> Result<KvResponse, KvError> {
        loop {
            let region = self.locate_patiently(key, retrier).await?;
            match self.send_to_region(region, options, retrier, build).await {
                Ok(response) => return Ok(response),
                Err(SendError::Regroup) => {}
                Err(SendError::Failed(error)) => return Err(error),
            }
        }
    }

    /// Sends a command to one region as long as the region keeps its shape.
    pub(crate) async fn send_to_region(
        &self,
        mut region: Arc<CachedRegion>,
        options: &RequestOptions,
        retrier: &mut Retrier,
        build: &(dyn Fn() -> Cmd + Send + Sync),
    ) -> Result<KvResponse, SendError> {
        let mut hops = options.hops();
        if let Some(replica) = self.choose(&region, &hops).await {
            region = replica;
        }
        loop {
            let attempt = self.attempt(&region, options, retrier, build());
            let mut response = match retrier.scope().run(attempt).await? {
                Ok(response) => response,
                Err(error) => {
                    retrier.scope().check()?;
                    if let Some(elsewhere) = self.after_silence(&region, &mut hops).await {
                        region = elsewhere;
                        continue;
                    }
                    self.after_transport_error(&region, &error, retrier).await?;
                    stop_if_uncertain(options, retrier, || error.to_string())?;
                    region = self.same_region(&region, retrier).await?;
                    continue;
                }
            };
            let Some(error) = response.region_error.take() else { return Ok(response) };
            if region.replica_read {
                self.after_refusal(&region, error, &mut hops, retrier).await?;
                region = self.same_region(&region, retrier).await?;
                if let Some(replica) = self.choose(&region, &hops).await {
                    region = replica;
                }
                continue;
            }
            if options.reads.is_some()
                && let Some(follower) = read_elsewhere(&region, &error, &mut hops, retrier)
            {
                region = follower;
                continue;
            }
            let misplaced = matches!(error.kind, Some(Kind::KeyNotInRegion(_)));
            self.after_region_error(&region, error, retrier).await?;
            if misplaced {
                // The region may well keep its shape: it is the keys that belong elsewhere.
                return Err(SendError::Regroup);
            }
            stop_if_uncertain(options, retrier, || "the answer is lost".into())?;
            region = self.same_region(&region, retrier).await?;
        }
    }

    async fn attempt(
        &self,
        region: &CachedRegion,
        options: &RequestOptions,
        retrier: &Retrier,
        cmd: Cmd,
    ) -> Result<KvResponse, TransportError> {
        let deadline = retrier.deadline();
        let service = self.service_of(region).await?;
        let context = self.context_of(region, options, retrier);
        let timeout_ms = u64::from(context.timeout_ms);
        let log = retrier.scope().log.as_ref();
        let noted = log.map(|log| (log, command_name(&cmd), log.is_detailed().then(Instant::now)));
        let request = KvRequest { context: Some(context), cmd: Some(cmd) };
        let answer = match tokio::time::timeout(deadline.remaining(), service.call(request)).await {
            Ok(result) => result,
            Err(_) => Err(TransportError::DeadlineExceeded {
                address: format!("store {}", region.leader.store_id),
                timeout_ms,
            }),
        };
        if let Some((log, (name, is_write), start)) = noted {
            let answered = answer.is_ok();
            log.note(is_write, || RequestSpan::until_now(name, region, start, answered));
        }
        answer
    }

    /// The connection to the region's leader; a store that PD does not know counts
    /// as unreachable.
    pub(crate) async fn service_of(
        &self,
        region: &CachedRegion,
    ) -> Result<Arc<dyn crate::KvStoreService>, TransportError> {
        let store_id = region.leader.store_id;
        self.store(store_id).await.map_err(|error| TransportError::Unreachable {
            address: format!("store {store_id}"),
            reason: error.to_string(),
        })
    }

    /// The context of a request that leaves now.
    pub(crate) fn context_of(
        &self,
        region: &CachedRegion,
        options: &RequestOptions,
        retrier: &Retrier,
    ) -> Context {
        let mut context = region.context();
        context.timeout_ms = retrier.deadline().remaining_ms();
        context.resolved_locks.clone_from(&options.resolved_locks);
        context.set_priority(retrier.scope().priority);
        context
    }

    /// The region anew, if it still has the range and members it had.
    async fn same_region(
        &self,
        region: &CachedRegion,
        retrier: &mut Retrier,
    ) -> Result<Arc<CachedRegion>, SendError> {
        let fresh = self.locate_patiently(&region.region.start_key, retrier).await?;
        if fresh.same_shape(region) { Ok(fresh) } else { Err(SendError::Regroup) }
    }

    /// Corrects the route after a request without an answer and waits.
    pub(crate) async fn after_transport_error(
        &self,
        region: &CachedRegion,
        error: &TransportError,
        retrier: &mut Retrier,
    ) -> Result<(), KvError> {
        tracing::debug!(region = region.id(), %error, "request failed on its way");
        // A request that never left puts no load on anybody: its repeat is free.
        let kind = if error.maybe_executed() {
            retrier.note_maybe_executed();
            BackoffKind::Transport
        } else {
            BackoffKind::NoLeader
        };
        if retrier.count_failure().is_multiple_of(ATTEMPTS_PER_RELOAD) {
            self.invalidate(region.id());
            self.recheck_store(region.leader.store_id);
        } else {
            self.try_next_peer(region);
        }
        retrier.wait(kind, Duration::ZERO, || error.to_string()).await
    }

    /// A replica that does not lead could not answer. It may be behind, so that of the route only
    /// a newer shape of the region is news.
    pub(crate) async fn after_refusal(
        &self,
        region: &CachedRegion,
        error: RegionError,
        hops: &mut Hops,
        retrier: &mut Retrier,
    ) -> Result<(), KvError> {
        tracing::debug!(region = region.id(), ?error, "a replica refused");
        hops.note_refused(region.leader.store_id);
        match error.kind {
            // Then both have too much to do.
            Some(Kind::ServerIsBusy(_)) if hops.leader_is_busy => {
                self.after_region_error(region, error, retrier).await?;
            }
            Some(Kind::EpochNotMatch(mismatch)) => {
                let leader = self.cached(&region.region.start_key).map(|known| known.leader);
                let store_id = leader.unwrap_or(region.leader).store_id;
                self.insert_reported(mismatch.current_regions, store_id);
            }
            Some(Kind::StoreNotMatch(_)) => self.recheck_store(region.leader.store_id),
            _ => {}
        }
        Ok(())
    }

    /// Corrects the route after a region error and waits if that helps.
    pub(crate) async fn after_region_error(
        &self,
        region: &CachedRegion,
        error: RegionError,
        retrier: &mut Retrier,
    ) -> Result<(), KvError> {
        tracing::debug!(region = region.id(), ?error, "region error");
        let reason = if error.message.is_empty() {
            format!("region {}: {:?}", region.id(), error.kind)
        } else {
            format!("region {}: {}", region.id(), error.message)
        };
        let failures = retrier.count_failure();
        let remedy = self.remedy(region, error, failures, retrier)?;
        match remedy.wait {
            Some(kind) => retrier.wait(kind, remedy.at_least, || reason).await,
            None if retrier.deadline().is_over() => {
                retrier.scope().check()?;
                Err(KvError::RegionUnavailable { reason })
            }
            None => Ok(()),
        }
    }

    fn remedy(
        &self,
        region: &CachedRegion,
        error: RegionError,
        failures: u32,
        retrier: &mut Retrier,
    ) -> Result<Remedy, KvError> {
        let patience = if failures <= HINTS_FOLLOWED_AT_ONCE {
            Remedy::at_once()
        } else {
            Remedy::wait(BackoffKind::StaleRoute)
        };
        Ok(match error.kind {
            Some(Kind::NotLeader(not_leader)) => match not_leader.leader {
                Some(leader) if leader.id != 0 && leader.id != region.leader.id => {
                    self.set_leader(region.id(), leader);
                    patience
                }
                _ => {
                    if failures.is_multiple_of(ATTEMPTS_PER_RELOAD) {
                        self.invalidate(region.id());
                    } else {
                        self.try_next_peer(region);
                    }
                    Remedy::wait(BackoffKind::NoLeader)
                }
            },
            Some(Kind::EpochNotMatch(mismatch)) => {
                self.invalidate(region.id());
                self.insert_reported(mismatch.current_regions, region.leader.store_id);
                patience
            }
            Some(Kind::RegionNotFound(_)) => {
                self.invalidate(region.id());
                Remedy::wait(BackoffKind::NoLeader)
            }
            Some(Kind::KeyNotInRegion(_)) => {
                self.invalidate(region.id());
                patience
            }
            Some(Kind::ServerIsBusy(busy)) => Remedy {
                wait: Some(BackoffKind::ServerBusy),
                at_least: Duration::from_millis(u64::from(busy.backoff_ms)),
            },
            Some(Kind::StaleCommand(_) | Kind::DeadlineExceeded(_)) => {
                retrier.note_maybe_executed();
                Remedy::wait(BackoffKind::StaleRoute)
            }
            Some(Kind::StoreNotMatch(_)) => {
                self.recheck_store(region.leader.store_id);
                self.invalidate(region.id());
                Remedy::wait(BackoffKind::StaleRoute)
            }
            Some(Kind::MergeInProgress(_)) => {
                // Refused before it was proposed. PD hears of the merged region at once.
                self.invalidate(region.id());
                Remedy::wait(BackoffKind::StaleRoute)
            }
            Some(Kind::DiskFull(full)) => {
                return Err(KvError::DiskFull { store_id: full.store_id });
            }
            None => {
                self.invalidate(region.id());
                Remedy::wait(BackoffKind::NoLeader)
            }
        })
    }
}

/// Where a read goes instead when the leader's store has too much to do: to another voter, which
/// asks its leader up to where it may answer. Only once: then the others are likely to have as
/// much to do.
pub(crate) fn read_elsewhere(
    region: &CachedRegion,
    error: &RegionError,
    hops: &mut Hops,
    retrier: &Retrier,
) -> Option<Arc<CachedRegion>> {
    if !matches!(error.kind, Some(Kind::ServerIsBusy(_))) || hops.has_failed() {
        return None;
    }
    let follower = region.at_follower().filter(|_| retrier.pay_repeat())?;
    hops.leader_is_busy = true;
    Some(Arc::new(follower))
}

fn stop_if_uncertain(
    options: &RequestOptions,
    retrier: &Retrier,
    reason: impl FnOnce() -> String,
) -> Result<(), KvError> {
    if options.stop_when_uncertain && retrier.maybe_executed() {
        return Err(KvError::RegionUnavailable { reason: reason() });
    }
    Ok(())
}

/// Waits after a failed question to PD, if asking again may help.
pub(crate) async fn wait_for_pd(error: PdError, retrier: &mut Retrier) -> Result<(), KvError> {
    let passing = error.is_retryable()
        || matches!(error, PdError::RegionNotFound(_) | PdError::NotBootstrapped);
    if !passing {
        return Err(error.into());
    }
    let shown = error.to_string();
    match retrier.wait(BackoffKind::Pd, Duration::ZERO, || shown).await {
        Err(KvError::RegionUnavailable { .. }) => Err(error.into()),
        outcome => outcome,
    }
}

/// Takes the expected kind of response out of an answer.
macro_rules! expect_response {
    ($response:expr, $kind:ident) => {
        match $response.cmd {
            Some(cairn_proto::kv::kv_response::Cmd::$kind(response)) => Ok(response),
            _ => Err($crate::error::KvError::Malformed(
                concat!("expected a response to ", stringify!($kind)).into(),
            )),
        }
    };
}
pub(crate) use expect_response;
