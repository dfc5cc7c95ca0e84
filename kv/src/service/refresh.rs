//! Refresh of what a transaction has read, see [`refresh`](crate::txn::refresh). Only the leader
//! answers: it is whose `max_ts` keeps later commits out.

use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::read_turns::ReadTask;
use super::reads::{Reads, key_after, outside, read_error, refuse_damage};
use crate::keys::region_contains;
use crate::mvcc::ReadError;
use crate::raftstore::{RegionContext, RegionError, RegionSnapshot, Touched};
use crate::txn::refresh;

/// Single keys that are looked at on the caller's thread; more, and ranges, go to the pool.
const INLINE_POINTS_MAX: usize = 64;

impl Reads {
    /// Whether anything was committed to the spans since they were read.
    pub async fn refresh(
        &self,
        context: &RegionContext,
        request: kv::RefreshRequest,
    ) -> Result<kv::RefreshResponse, RegionError> {
        let refresh_ts = TimeStamp(request.refresh_ts);
        self.max_ts.observe(refresh_ts);
        let mut pending = self.max_ts.pending_for(refresh_ts, &[request.start_ts]);
        let holds = |span: &kv::ReadSpan, key: &[u8]| {
            key >= &span.start[..] && (span.end.is_empty() || key < &span.end[..])
        };
        pending.retain(|lock| request.spans.iter().any(|span| holds(span, &lock.key)));
        let view = self.view(context).await?;
        for span in &request.spans {
            check_inside(&view, span)?;
        }
        let is_inline =
            request.spans.len() <= INLINE_POINTS_MAX && request.spans.iter().all(refresh::is_point);
        let task = ReadTask::new(context, refresh_ts);
        let look = move || look_at(&view, &request);
        let mut response = if is_inline { look() } else { self.pool.run(task, look).await? }?;
        response.locks.extend(pending);
        Ok(response)
    }
}

fn look_at(
    view: &RegionSnapshot,
    request: &kv::RefreshRequest,
) -> Result<kv::RefreshResponse, RegionError> {
    view.load.read(request.spans.len() as u64, 0, || {
        let first = request.spans.iter().map(|span| &span.start).min();
        let last = request.spans.iter().map(|span| &span.start).max();
        Touched::Range(first.cloned().unwrap_or_default(), last.map(key_after).unwrap_or_default())
    });
    let outcome = refresh::run(&view.engine, request).map_err(ReadError::from);
    refuse_damage(outcome.as_ref().err())?;
    Ok(outcome.unwrap_or_else(|error| kv::RefreshResponse {
        error: Some(read_error(error)),
        ..kv::RefreshResponse::default()
    }))
}

fn check_inside(view: &RegionSnapshot, span: &kv::ReadSpan) -> Result<(), RegionError> {
    let region = &view.region;
    let ends_inside =
        region.end_key.is_empty() || (!span.end.is_empty() && span.end <= region.end_key);
    if region_contains(region, &span.start) && ends_inside {
        return Ok(());
    }
    Err(outside(view, &span.start))
}
