//! Talks to PD: reports go out, steps come back to the Raft thread.
//!
//! Reports may be lost or late; the next ones repeat them. PD is not needed for reads,
//! writes or elections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_pd_client::PdClient;
use cairn_proto::{meta, pd};
use futures::StreamExt;

use super::RegionContext;
use super::apply::Callback;
use super::router::split_pieces;
use super::store::{PdEvent, StoreMessage};
use super::worker::Mailbox;

/// Reports of regions on their way at one time.
const CONCURRENT_REPORTS: usize = 8;
/// PD may take that long for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that wait for PD.
pub(super) const EVENTS_MAX: usize = 256;

/// Handles events until the Raft thread ends.
pub(super) async fn run(
    pd: Arc<dyn PdClient>,
    mut events: tokio::sync::mpsc::Receiver<PdEvent>,
    mailbox: Mailbox,
) {
    while let Some(event) = events.recv().await {
        match event {
            PdEvent::Regions(reports) => {
                futures::stream::iter(reports)
                    .for_each_concurrent(CONCURRENT_REPORTS, |report| {
                        report_region(pd.as_ref(), report, &mailbox)
                    })
                    .await;
            }
            PdEvent::Store(stats) => {
                let wanted = timed("store heartbeat", pd.store_heartbeat(stats)).await;
                if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty())
                    && mailbox.try_send(StoreMessage::ReportRegions(wanted)).is_err()
                {
                    tracing::debug!("mailbox is full: PD will ask again");
                }
            }
            PdEvent::AskSplit(context, region, keys) => {
                ask_split(pd.as_ref(), context, region, keys, &mailbox).await;
            }
            PdEvent::ReportSplit(regions) => {
                timed("report of a split", pd.report_split(regions)).await;
            }
        }
    }
}

async fn timed<T>(
    what: &str,
    call: impl Future<Output = Result<T, cairn_pd_client::PdError>>,
) -> Option<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, what, "PD");
            None
        }
        Err(_) => {
            tracing::warn!(what, "PD does not answer");
            None
        }
    }
}

async fn report_region(pd: &dyn PdClient, report: pd::RegionHeartbeatRequest, mailbox: &Mailbox) {
    let Some(response) = timed("region heartbeat", pd.region_heartbeat(report)).await else {
        return;
    };
    if response.step.is_some() && mailbox.try_send(StoreMessage::PdStep(response)).is_err() {
        tracing::debug!("mailbox is full: PD will repeat its step");
    }
}

async fn ask_split(
    pd: &dyn PdClient,
    context: RegionContext,
    region: meta::Region,
    keys: Vec<Bytes>,
    mailbox: &Mailbox,
) {
    let count = keys.len() as u32;
    let Some(ids) = timed("ids for a split", pd.ask_split(region, count)).await else { return };
    if ids.len() != keys.len() {
        tracing::warn!("PD gave {} ids for {count} regions", ids.len());
        return;
    }
    let split =
        StoreMessage::Split { context, pieces: split_pieces(keys, ids), callback: Callback::None };
    if mailbox.try_send(split).is_err() {
        tracing::debug!("mailbox is full: the region is split later");
    }
}
