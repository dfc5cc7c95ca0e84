//! Moves the safe point below which stores may collect old versions.
//!
//! ```text
//!       collected          kept: somebody may read it
//! ──────────────────┬──────────────────────────────────────────► timestamps
//!              safe point = min(now − tidb_gc_life_time, oldest open transaction)
//! ```
//!
//! **Flow.** Every node reports to PD the oldest timestamp that it reads at
//! ([`service`]). One node at a time owns the collection ([`lease`]); every
//! `tidb_gc_run_interval` it
//!
//! 1. computes the next safe point ([`GcSettings::target`]),
//! 2. announces it and waits until every living node refuses to read below it,
//! 3. resolves all locks below it: a lock that outlived the commit record of its primary
//!    could no longer be told committed from rolled back,
//! 4. moves PD's safe point, which the stores follow,
//! 5. has the stores destroy what was dropped before it ([`ranges`]).
//!
//! **Invariants**
//! - The safe point never passes a transaction that its node reported, for
//!   `tidb_gc_max_wait_time` at most, nor a prepared branch ([`crate::xa`]).
//! - No answer is used that was read below an announced safe point: a node that PD does not
//!   hear from presumes that the safe point follows the clock.
//! - Every step may be repeated, and by two owners at once: each safe point that was ever
//!   computed stays right, and PD's only grows.
//!
//! **Source.** TiDB's GC worker (`pkg/store/gcworker`): the same steps and variables.

pub mod lease;
pub mod ranges;
pub mod service;

use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::KeyRange;
use cairn_types::TimeStamp;

use crate::catalog::meta::GC_LEASE_KEY;
use crate::domain::Domain;
use crate::error::Result;
use crate::variables::{Values, duration};
use crate::xa;

/// Bounds of the pause between two looks at the lease, a quarter of the run interval.
const TURN_PAUSE_MIN: Duration = Duration::from_millis(250);
const TURN_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The lease outlives so many turns of its owner.
const LEASE_TURNS: u32 = 3;
/// Reports of transactions are so old at most, or taken for missing: nothing younger
/// than this is ever collected, however short the life time.
const REPORT_LAG: Duration = Duration::from_secs(3);

/// The variables of garbage collection, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcSettings {
    /// `tidb_gc_enable`.
    pub enabled: bool,
    /// `tidb_gc_run_interval`.
    pub run_interval: Duration,
    /// `tidb_gc_life_time`.
    pub life_time: Duration,
    /// `tidb_gc_max_wait_time`.
    pub max_wait_time: Duration,
}

impl GcSettings {
    /// Decodes the global values; those are normalised, so what cannot be decoded is a
    /// default.
    pub fn decode(values: &Values) -> GcSettings {
        const DEFAULT: Duration = Duration::from_secs(600);
        const DAY_S: u64 = 24 * 60 * 60;
        let text = |name: &str| values.get(name).map_or("", String::as_str);
        GcSettings {
            enabled: text("tidb_gc_enable") != "OFF",
            run_interval: duration::parse(text("tidb_gc_run_interval")).unwrap_or(DEFAULT),
            life_time: duration::parse(text("tidb_gc_life_time")).unwrap_or(DEFAULT),
            max_wait_time: Duration::from_secs(
                text("tidb_gc_max_wait_time").parse().unwrap_or(DAY_S),
            ),
        }
    }

    fn pause(&self) -> Duration {
        (self.run_interval / 4).clamp(TURN_PAUSE_MIN, TURN_PAUSE_MAX)
    }

    /// What lies further back than this is old, unless somebody still reads it.
    pub fn horizon(&self, now: TimeStamp) -> TimeStamp {
        before(now, self.life_time.max(REPORT_LAG))
    }

    /// The safe point for this moment: the horizon, but not above the oldest timestamp that
    /// somebody still reads at, unless that is older than `max_wait_time`.
    pub fn target(&self, now: TimeStamp, in_use: impl IntoIterator<Item = TimeStamp>) -> TimeStamp {
        let horizon = self.horizon(now);
        let oldest_honoured = before(now, self.max_wait_time.max(self.life_time));
        let in_use = in_use.into_iter().filter(|start_ts| *start_ts >= oldest_honoured);
        in_use.fold(horizon, TimeStamp::min)
    }
}

fn before(now: TimeStamp, span: Duration) -> TimeStamp {
    let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    TimeStamp::compose(now.physical_ms().saturating_sub(span_ms), 0)
}

/// Takes part in the collection until the node stops.
pub async fn run(domain: Arc<Domain>) {
    loop {
        let settings = GcSettings::decode(&domain.variables.current());
        tokio::select! {
            () = tokio::time::sleep(settings.pause()) => {}
            () = domain.stop.cancelled() => break,
        }
        let turn = tokio::select! {
            turn = take_turn(&domain) => turn,
            () = domain.stop.cancelled() => break,
        };
        if let Err(error) = turn {
            domain.metrics.gc_failures.inc();
            tracing::warn!(%error, "garbage collection did not advance");
        }
    }
    if let Err(error) = lease::give_up(&domain, GC_LEASE_KEY).await {
        tracing::debug!(%error, "the lease of garbage collection runs out by itself");
    }
}

/// Renews or takes over the lease, and advances the safe point when that is due.
async fn take_turn(domain: &Domain) -> Result<()> {
    let settings = GcSettings::decode(&domain.variables.current());
    let now = domain.now_ts().await?;
    let Some(lease) =
        lease::acquire(domain, GC_LEASE_KEY, now, settings.pause() * LEASE_TURNS).await?
    else {
        return Ok(());
    };
    if let Err(error) = xa::finish_left_behind(domain).await {
        tracing::warn!(%error, "branches that a crash left behind stay for the next turn");
    }
    let since_run_ms = now.physical_ms().saturating_sub(lease.last_run_ms);
    if !settings.enabled || u128::from(since_run_ms) < settings.run_interval.as_millis() {
        return Ok(());
    }
    let Some(safe_point) = advance(domain, &settings, now).await? else { return Ok(()) };
    match ranges::destroy_dropped(domain, safe_point).await {
        Ok(ranges) if ranges > 0 => tracing::info!(ranges, "dropped tables and indexes destroyed"),
        Ok(_) => {}
        // A store that is away must not keep versions from being collected.
        Err(error) => tracing::warn!(%error, "dropped tables and indexes stay for the next run"),
    }
    lease::note_run(domain, GC_LEASE_KEY, now).await?;
    domain.metrics.gc_runs.inc();
    Ok(())
}

/// Moves the safe point as far as it may go; answers the one in force, or `None` while the cluster
/// is in a flashback.
async fn advance(
    domain: &Domain,
    settings: &GcSettings,
    now: TimeStamp,
) -> Result<Option<TimeStamp>> {
    let target = match announce_target(domain, settings, now).await? {
        Announced::Target(target) => target,
        Announced::Nothing(in_force) => return Ok(Some(in_force)),
        Announced::InFlashback => return Ok(None),
    };
    service::wait_until_seen(domain, target).await?;
    // A transaction at the target itself is not in the way.
    let everything = KeyRange { start: bytes::Bytes::new(), end: bytes::Bytes::new() };
    let locks = domain.kv.resolve_locks_below(target.prev(), everything).await?;
    let safe_point = domain.pd.update_gc_safe_point(target).await?;
    let physical_ms = i64::try_from(safe_point.physical_ms()).unwrap_or(i64::MAX);
    domain.metrics.gc_safe_point_ms.set(physical_ms);
    tracing::info!(safe_point = safe_point.0, locks, "garbage collection advanced");
    Ok(Some(safe_point))
}

/// What became of a round's target.
enum Announced {
    /// Nodes have been told to obey it.
    Target(TimeStamp),
    /// It is not above the safe point in force.
    Nothing(TimeStamp),
    /// A flashback needs its past, and may be run again by a node that reports nothing yet.
    InFlashback,
}

/// Computes the next safe point and announces it. The schema is held meanwhile: a flashback that begins
/// waits for that, and so sees the announcement when it looks at the safe point, before it
/// writes anything.
async fn announce_target(
    domain: &Domain,
    settings: &GcSettings,
    now: TimeStamp,
) -> Result<Announced> {
    let hold = domain.schema.hold();
    if hold.schema().is_in_flashback() {
        return Ok(Announced::InFlashback);
    }
    let reports = service::living(domain, now).await?;
    let target = settings.target(now, reports.iter().map(|report| report.oldest));
    // Asked behind the reports: what is in neither was prepared later and is younger. However old
    // it is, nobody but its client ends it.
    let target = xa::oldest(domain).await?.map_or(target, |oldest| target.min(oldest));
    let in_force = domain.pd.get_gc_safe_point().await?;
    if target <= in_force {
        return Ok(Announced::Nothing(in_force));
    }
    // Whoever changes the schema waits for this node no longer than that.
    domain.check_schema_lease()?;
    service::announce(domain, target).await?;
    Ok(Announced::Target(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000_000_000;

    fn settings() -> GcSettings {
        GcSettings {
            enabled: true,
            run_interval: Duration::from_secs(600),
            life_time: Duration::from_secs(600),
            max_wait_time: Duration::from_secs(3_600),
        }
    }

    fn ago_s(seconds: u64) -> TimeStamp {
        TimeStamp::compose(NOW_MS - seconds * 1_000, 0)
    }

    #[test]
    fn open_transactions_hold_the_safe_point_back_for_a_while() {
        let target = |in_use: &[TimeStamp]| settings().target(ago_s(0), in_use.iter().copied());
        assert_eq!(target(&[]), ago_s(600));
        assert_eq!(target(&[ago_s(5)]), ago_s(600));
        assert_eq!(target(&[ago_s(5), ago_s(700), ago_s(900)]), ago_s(900));
        assert_eq!(target(&[ago_s(3_600)]), ago_s(3_600));
        assert_eq!(target(&[ago_s(3_601), ago_s(650)]), ago_s(650), "waited for long enough");
    }

    #[test]
    fn what_cannot_be_reported_yet_is_never_collected() {
        let short = GcSettings { life_time: Duration::ZERO, ..settings() };
        assert_eq!(short.target(ago_s(0), []), ago_s(3));
    }

    #[test]
    fn defaults_are_those_of_the_variables() {
        let defaults = crate::variables::GlobalVariables::new(&crate::SqlConfig::default());
        let expected = GcSettings { max_wait_time: Duration::from_secs(86_400), ..settings() };
        assert_eq!(GcSettings::decode(&defaults.current()), expected);
    }
}
