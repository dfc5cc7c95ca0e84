//! Regions as PD tells of them: page by page, so that a cluster of 100,000 regions takes no more
//! memory than one of a thousand. A page is one picture of them, a walk over pages is not.

use std::sync::Arc;

use bytes::Bytes;
use cairn_pd_client::{PdClient, PdError, RegionRoute};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

/// Regions PD tells of in one answer.
const PAGE_REGIONS: u32 = 1_024;

/// Regions that overlap `[start, end)` in key order; an empty end is the end of all keys.
pub fn pages(
    pd: Arc<dyn PdClient>,
    start: Bytes,
    end: Bytes,
) -> BoxStream<'static, Result<Vec<RegionRoute>, PdError>> {
    let next = move |from: Option<Bytes>| {
        let (pd, end) = (pd.clone(), end.clone());
        async move {
            let Some(from) = from else { return Ok(None) };
            let page = pd.scan_regions(&from, &end, PAGE_REGIONS).await?;
            let border = page.last().map(|route| route.region.end_key.clone());
            // A border that does not lead on would be asked for for ever.
            let leads_on = |border: &Bytes| *border > from && (end.is_empty() || *border < end);
            Ok(Some((page, border.filter(leads_on))))
        }
    };
    stream::try_unfold(Some(start), next).boxed()
}
