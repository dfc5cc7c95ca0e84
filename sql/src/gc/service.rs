//! What PD is told about timestamps in use, and what it tells of the safe point.
//!
//! **Data.** Entries of PD's configuration:
//!
//! | key | value |
//! |---|---|
//! | `sql/gc/in_use/{service}` | oldest timestamp in use, when the report expires (PD's milliseconds), announced safe point that the service obeys |
//! | `sql/gc/announced` | the announced safe point |
//!
//! Every SQL node is a service; so may be a backup that must not lose its snapshot. Times
//! are PD's, so that clocks of nodes do not matter. Whoever is silent until its report
//! expires is not waited for: by then it presumes the worst itself ([`LastWord`]).

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::pd::ConfigEntry;
use cairn_types::{TimeStamp, errno};

use super::GcSettings;
use crate::clock;
use crate::domain::Domain;
use crate::error::{Result, SqlError};

const PREFIX: &str = "sql/gc/";
const IN_USE_PREFIX: &str = "sql/gc/in_use/";
const ANNOUNCED_KEY: &str = "sql/gc/announced";
/// How often a node reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// One report, with its answer, takes this long at most.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a report counts, by PD's time.
const REPORT_TTL_MS: u64 = 13_000;
/// Silence after which a node presumes that the safe point moves on without it. With one
/// more interval and timeout, and a jump of PD's time, it is still shorter than the life of a
/// report.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Between looks at the other nodes' reports.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// All nodes answer within the life of a report, or do not count any more.
const SEEN_TIMEOUT: Duration = Duration::from_secs(20);

/// A service's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Oldest timestamp it reads at.
    pub oldest: TimeStamp,
    /// From this time of PD on the report does not count.
    pub expires_at_ms: u64,
    /// It reads nothing below this safe point any more.
    pub obeys: TimeStamp,
}

impl Report {
    fn encode(&self) -> bytes::Bytes {
        format!("{} {} {}", self.oldest.0, self.expires_at_ms, self.obeys.0).into()
    }

    fn decode(value: &[u8]) -> Option<Report> {
        let mut numbers = std::str::from_utf8(value).ok()?.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let report = Report {
            oldest: TimeStamp(next()?),
            expires_at_ms: next()?,
            obeys: TimeStamp(next()?),
        };
        Some(report)
    }
}

/// When PD was last heard, and what its time was.
#[derive(Clone, Copy, Debug)]
struct LastWord {
    /// Since boot, before the question was sent: PD's clock cannot be ahead of what follows from it,
    /// but for a jump.
    asked_at: Duration,
    pd_ms: u64,
}

impl LastWord {
    /// The safe point that PD may have by now without this node's knowledge.
    fn presumed_safe_point(&self, now: Duration, settings: &GcSettings) -> Option<TimeStamp> {
        let silence = now.saturating_sub(self.asked_at);
        let [silence_ms, jump_ms] =
            [silence, clock::PD_JUMP_MAX].map(|span| span.as_millis() as u64);
        let pd_now = TimeStamp::compose(self.pd_ms + silence_ms + jump_ms, 0);
        (silence > SILENCE_MAX).then(|| settings.horizon(pd_now))
    }
}

fn key_of(domain: &Domain) -> String {
    format!("{IN_USE_PREFIX}sql-{}", domain.node_id())
}

/// Reports until the node stops.
pub async fn keep_reporting(domain: Arc<Domain>) {
    let mut last: Option<LastWord> = None;
    while !domain.stop.is_cancelled() {
        let asked_at = clock::since_boot();
        match tokio::time::timeout(REPORT_TIMEOUT, report(&domain)).await {
            Ok(Ok(pd_now)) => last = Some(LastWord { asked_at, pd_ms: pd_now.physical_ms() }),
            Ok(Err(error)) => tracing::warn!(%error, "cannot tell PD which timestamps are in use"),
            Err(_) => tracing::warn!("PD does not take reports of timestamps in use"),
        }
        let settings = GcSettings::decode(&domain.variables.current());
        let presumed =
            last.and_then(|last| last.presumed_safe_point(clock::since_boot(), &settings));
        if let Some(safe_point) = presumed {
            domain.kv.raise_safe_point(safe_point);
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
            () = domain.stop.cancelled() => break,
        }
    }
    let gone = ConfigEntry { key: key_of(&domain), value: bytes::Bytes::new() };
    if let Err(error) = domain.pd.put_config(vec![gone]).await {
        tracing::debug!(%error, "the report of timestamps in use runs out by itself");
    }
}

/// Obeys the announced safe point and says so; answers PD's time.
pub async fn report(domain: &Domain) -> Result<TimeStamp> {
    let now = domain.now_ts().await?;
    for entry in domain.pd.get_config(ANNOUNCED_KEY).await? {
        if let Some(announced) = parse_timestamp(&entry.value) {
            domain.kv.raise_safe_point(announced);
        }
    }
    let obeys = domain.kv.safe_point();
    let report = Report {
        // Timestamps taken from now on are above `now`.
        oldest: domain.kv.oldest_open_ts().unwrap_or(now).min(now),
        expires_at_ms: now.physical_ms() + REPORT_TTL_MS,
        obeys,
    };
    let entry = ConfigEntry { key: key_of(domain), value: report.encode() };
    domain.pd.put_config(vec![entry]).await?;
    Ok(now)
}

fn parse_timestamp(value: &[u8]) -> Option<TimeStamp> {
    std::str::from_utf8(value).ok()?.parse().ok().map(TimeStamp)
}

/// The reports that count now; those that ran out are removed.
pub async fn living(domain: &Domain, now: TimeStamp) -> Result<Vec<Report>> {
    let mut living = Vec::new();
    let mut gone = Vec::new();
    for entry in domain.pd.get_config(IN_USE_PREFIX).await? {
        match Report::decode(&entry.value) {
            Some(report) if report.expires_at_ms > now.physical_ms() => living.push(report),
            _ => gone.push(ConfigEntry { key: entry.key, value: bytes::Bytes::new() }),
        }
    }
    if !gone.is_empty() {
        domain.pd.put_config(gone).await?;
    }
    Ok(living)
}

/// Tells every node to read nothing below `safe_point`.
pub async fn announce(domain: &Domain, safe_point: TimeStamp) -> Result<()> {
    let known = domain.pd.get_config(PREFIX).await?;
    let known = known.iter().find(|entry| entry.key == ANNOUNCED_KEY);
    if known.and_then(|entry| parse_timestamp(&entry.value)) >= Some(safe_point) {
        return Ok(());
    }
    let value = safe_point.0.to_string().into();
    domain.pd.put_config(vec![ConfigEntry { key: ANNOUNCED_KEY.to_owned(), value }]).await?;
    report(domain).await.map(|_| ())
}

/// Waits until every living node obeys.
pub async fn wait_until_seen(domain: &Domain, safe_point: TimeStamp) -> Result<()> {
    let everyone = async {
        loop {
            let now = domain.now_ts().await?;
            let reports = living(domain, now).await?;
            if reports.iter().all(|report| report.obeys >= safe_point) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(SEEN_TIMEOUT, everyone).await.unwrap_or_else(|_| {
        Err(SqlError::new(
            errno::ER_LOCK_WAIT_TIMEOUT,
            "a service that reports to PD does not obey the announced safe point",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Report { oldest: TimeStamp(7), expires_at_ms: 8, obeys: TimeStamp(9) };
        assert_eq!(Report::decode(&report.encode()), Some(report));
        for bad in ["", "1 2", "1 2 x", "\u{ff}"] {
            assert_eq!(Report::decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_node_cut_off_presumes_that_the_safe_point_follows_the_clock() {
        let values = crate::variables::GlobalVariables::new(&crate::SqlConfig::default());
        let settings = GcSettings::decode(&values.current());
        let asked_at = Duration::from_secs(7);
        let last = LastWord { asked_at, pd_ms: 1_000_000 };
        let after = |silence_s| {
            last.presumed_safe_point(asked_at + Duration::from_secs(silence_s), &settings)
        };
        assert_eq!(after(6), None);
        assert_eq!(after(60), Some(TimeStamp::compose(1_000_000 + 63_000 - 600_000, 0)));
        let latest = SILENCE_MAX + REPORT_INTERVAL + REPORT_TIMEOUT + clock::PD_JUMP_MAX;
        assert!(latest.as_millis() < u128::from(REPORT_TTL_MS), "before others go on without it");
    }
}
