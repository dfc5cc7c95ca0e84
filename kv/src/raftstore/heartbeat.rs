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
/// Peers of one page of a report: well below a message's bound, with long keys too.
const PEERS_PER_PAGE: usize = 1_000;
/// PD may take that long for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that wait for PD.
pub(super) const EVENTS_MAX: usize = 256;

/// Handles events until the Raft thread ends.
pub(super) async fn run(
    store_id: u64,
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
                let answer = timed("store heartbeat", pd.store_heartbeat(stats)).await;
                let pd::StoreHeartbeatResponse { wanted_regions, recovery, .. } =
                    answer.unwrap_or_default();
                let wanted = (!wanted_regions.is_empty())
                    .then_some(StoreMessage::ReportRegions(wanted_regions));
                let orders = recovery.map(StoreMessage::Recover);
                for message in wanted.into_iter().chain(orders) {
                    if mailbox.try_send(message).is_err() {
                        tracing::debug!("mailbox is full: PD will ask again");
                    }
                }
            }
            PdEvent::Peers { round, peers } => {
                report_peers(pd.as_ref(), store_id, round, peers).await;
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

/// Page by page; a page that is lost makes PD ask for the whole report again.
async fn report_peers(
    pd: &dyn PdClient,
    store_id: u64,
    round: u64,
    mut peers: Vec<pd::PeerReport>,
) {
    for page in 0.. {
        let rest = peers.split_off(peers.len().min(PEERS_PER_PAGE));
        let ends = rest.is_empty();
        let request = pd::ReportPeersRequest { header: None, store_id, round, page, ends, peers };
        if timed("report of peers", pd.report_peers(request)).await.is_none() || ends {
            return;
        }
        peers = rest;
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
