//! Regions born of a split are spread over the stores, and waited for.
//!
//! PD takes a region once its leader has reported it, which is a moment after its birth; so what it
//! refuses is asked for again. A region counts as spread when PD took it and no operator moves it
//! any more: it is where PD wanted it from the start, or has arrived.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_pd_client::{PdClient, PdError};
use cairn_proto::meta::Region;
use futures::StreamExt;

use super::pages::pages;
use crate::clock;

/// Regions PD is asked to spread in one request.
const REQUEST_REGIONS_MAX: usize = 256;
/// First and longest pause between two looks.
const PAUSE_MS: (u64, u64) = (20, 500);
/// Regions that PD refuses for so long while nothing moves stay where they are: there are too few
/// stores for their rules, or nobody leads them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Spreads the regions within the time; answers how many have arrived.
pub async fn scatter(
    pd: Arc<dyn PdClient>,
    regions: Vec<Region>,
    group: String,
    timeout: Duration,
) -> Result<usize, PdError> {
    let started = clock::monotonic_now();
    let Some(range) = Span::of(&regions) else { return Ok(0) };
    let mut refused: Vec<u64> = regions.iter().map(|region| region.id).collect();
    let mut moving: HashSet<u64> = HashSet::new();
    let mut progress_at = started;
    let mut pause_ms = PAUSE_MS.0;
    let mut arrived = 0;
    loop {
        let before = (refused.len(), moving.len());
        let mut left = Vec::new();
        for ids in refused.chunks(REQUEST_REGIONS_MAX) {
            let refused = pd.scatter_regions(ids.to_vec(), &group).await?;
            moving.extend(ids.iter().filter(|id| !refused.contains(id)));
            left.extend(refused);
        }
        refused = left;
        if !moving.is_empty() {
            let still = range.scattering(&pd, &moving).await?;
            arrived += moving.len() - still.len();
            moving = still;
        }
        if (refused.len(), moving.len()) != before {
            progress_at = clock::monotonic_now();
        }
        let done = refused.is_empty() && moving.is_empty();
        let hopeless = moving.is_empty() && progress_at.elapsed() >= PATIENCE;
        if done || hopeless || started.elapsed() >= timeout {
            return Ok(arrived);
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
    }
}

/// The part of the key space in which all the regions lie.
struct Span {
    start: Bytes,
    /// Start of the last region: its end may be the end of all keys.
    last: Bytes,
}

impl Span {
    fn of(regions: &[Region]) -> Option<Self> {
        let starts = || regions.iter().map(|region| &region.start_key);
        Some(Self { start: starts().min()?.clone(), last: starts().max()?.clone() })
    }

    /// Which of these are on their way still.
    async fn scattering(
        &self,
        pd: &Arc<dyn PdClient>,
        moving: &HashSet<u64>,
    ) -> Result<HashSet<u64>, PdError> {
        let end = cairn_types::keys::key_next(&self.last);
        let mut pages = pages(pd.clone(), self.start.clone(), end.into());
        let mut still = HashSet::new();
        while let Some(page) = pages.next().await {
            let page = page?;
            let on_their_way = page.iter().filter(|route| route.scattering);
            still.extend(on_their_way.map(|one| one.region.id).filter(|id| moving.contains(id)));
        }
        Ok(still)
    }
}
