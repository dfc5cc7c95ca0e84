//! Reads one task to its end, over region errors, locks and broken connections.
//!
//! **Exactly once.** A store marks pages at row boundaries with the place where
//! reading goes on (`next_start`). Such a page is delivered, and what lies before
//! that place is struck off what remains; after an error the task starts again
//! with what remains. Pages without the mark (aggregates, sorted rows) are held
//! back until the task or a marked page ends them; after an error they are
//! dropped and computed again. Only a task that holds back more than
//! [`HELD_BYTES_MAX`] gives that up: it delivers, and an error is then final.
//!
//! **Noting.** What is struck off was read, and so was the whole part of a request that delivers pages
//! without a mark, before they are delivered.
//!
//! **Tables** that the fragment joins with are sent to each store once, see [`super::tables`].
//!
//! **Regions.** What remains is cut by the region of its first key whenever a
//! request is sent, so splits and merges need no special case.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::cop::Fragment;
use cairn_proto::kv::{
    CoprocessorRequest, CoprocessorResponse, ExecSummaries, KeyRange as ProtoRange, Priority,
};
use futures::StreamExt;
use tokio::time::Instant;

use super::tables::ScanTables;
use super::{DistScanRequest, ScanPage};
use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::KvError;
use crate::region_cache::{CachedRegion, KeyRange};
use crate::replicas::Hops;
use crate::request::{read_elsewhere, wait_for_pd};
use crate::request_log::RequestSpan;
use crate::scope::RequestScope;
use crate::snapshot::Snapshot;
use crate::transport::{CoprocessorStream, TransportError};

/// Bytes of pages held back until their task ends.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Time until the next page of a task must arrive.
const PAGE_TIMEOUT_MS: u64 = 60_000;
/// The same for a task in the background, which rests most of the time.
const BACKGROUND_PAGE_TIMEOUT_MS: u64 = 600_000;
/// Ranges of one request.
const RANGES_MAX: usize = 4096;
/// Largest first page a limit asks for.
const FIRST_PAGE_ROWS_MAX: u64 = 1024;

/// A request under way.
struct Running {
    region: Arc<CachedRegion>,
    /// What the request covers.
    part: Vec<KeyRange>,
    stream: CoprocessorStream,
    start: Instant,
    /// Bytes of the rows that have come.
    bytes: u64,
}

/// Reads the pages of a list of ranges.
pub(super) struct TaskReader {
    client: Arc<KvClient>,
    snapshot: Snapshot,
    fragment: Arc<Fragment>,
    desc: bool,
    page_rows: u32,
    tables: ScanTables,
    /// How often a store did not know them.
    tables_unknown: u32,
    /// What remains, ascending.
    rest: VecDeque<KeyRange>,
    running: Option<Running>,
    /// Where the next request goes instead of where it usually would.
    elsewhere: Option<Arc<CachedRegion>>,
    /// Since the last page.
    hops: Hops,
    answer_bytes: u64,
    retrier: Retrier,
    held: Vec<ScanPage>,
    held_bytes: usize,
    /// Pages were delivered that a repeat would deliver again.
    beyond_repeat: bool,
    ready: VecDeque<ScanPage>,
}

impl TaskReader {
    pub fn new(
        client: Arc<KvClient>,
        request: &DistScanRequest,
        ranges: Vec<KeyRange>,
    ) -> TaskReader {
        let snapshot = client.snapshot(request.start_ts).within(request.scope.clone());
        let snapshot = snapshot.noting(request.reads.clone()).reading(request.from);
        let options = snapshot.options(request.answer_bytes);
        let page_rows = request.limit_hint.unwrap_or(0).min(FIRST_PAGE_ROWS_MAX);
        TaskReader {
            retrier: client.retrier_for(page_timeout_ms(&request.scope)).within(&request.scope),
            client,
            snapshot,
            fragment: request.fragment.clone(),
            desc: request.desc,
            page_rows: page_rows as u32,
            tables: request.tables.clone(),
            tables_unknown: 0,
            rest: ranges.into(),
            running: None,
            elsewhere: None,
            hops: options.hops(),
            answer_bytes: request.answer_bytes,
            held: Vec::new(),
            held_bytes: 0,
            beyond_repeat: false,
            ready: VecDeque::new(),
        }
    }

    /// The next page; `None` when the task has ended.
    pub async fn next_page(&mut self) -> Result<Option<ScanPage>, KvError> {
        loop {
            if let Some(page) = self.ready.pop_front() {
                self.snapshot.check_visible()?;
                return Ok(Some(page));
            }
            let Some(mut running) = self.running.take() else {
                if self.rest.is_empty() {
                    self.snapshot.check_visible()?;
                    return Ok(None);
                }
                self.begin().await?;
                continue;
            };
            let wait =
                tokio::time::timeout(self.retrier.deadline().remaining(), running.stream.next());
            match self.retrier.scope().run(wait).await? {
                Ok(Some(Ok(response))) => self.take(running, response).await?,
                Ok(Some(Err(error))) => self.broken(&running.region, error).await?,
                Ok(None) => self.end(&running),
                Err(_) => self.broken(&running.region, late(&running.region)).await?,
            }
        }
    }

    /// Sends the request for what remains in the first region.
    async fn begin(&mut self) -> Result<(), KvError> {
        let mut region = self.first_region().await?;
        let options = self.snapshot.options(self.answer_bytes);
        let elsewhere = self.elsewhere.take().filter(|elsewhere| elsewhere.same_shape(&region));
        let chosen = match elsewhere {
            Some(elsewhere) => Some(elsewhere),
            None => self.client.cache.choose(&region, &self.hops).await,
        };
        if let Some(replica) = chosen {
            region = replica;
        }
        let part = self.part_in(&region);
        if part.is_empty() {
            // The route changed between lookups.
            return Ok(());
        }
        let context = self.client.cache.context_of(&region, &options, &self.retrier);
        let ranges = part
            .iter()
            .map(|range| ProtoRange { start: range.start.clone(), end: range.end.clone() });
        let sending = self.tables.for_store(region.leader.store_id);
        let sending = self.retrier.scope().run(sending).await?;
        let request = CoprocessorRequest {
            context: Some(context),
            start_ts: self.snapshot.start_ts().0,
            fragment: Some((*self.fragment).clone()),
            ranges: ranges.collect(),
            page_rows: self.page_rows,
            tables: sending.tables(),
        };
        let start = Instant::now();
        let opened = match self.client.cache.service_of(&region).await {
            Ok(service) => {
                let opening = service.coprocessor(request);
                let opening = tokio::time::timeout(self.retrier.deadline().remaining(), opening);
                let opened = self.retrier.scope().run(opening).await?;
                opened.unwrap_or_else(|_| Err(late(&region)))
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(stream) => {
                sending.taken();
                self.running = Some(Running { region, part, stream, start, bytes: 0 });
                Ok(())
            }
            Err(error) => {
                // Others may send them meanwhile.
                drop(sending);
                self.broken(&region, error).await
            }
        }
    }

    async fn first_region(&mut self) -> Result<Arc<CachedRegion>, KvError> {
        let cache = &self.client.cache;
        if !self.desc {
            let start = self.rest.front().map(|range| range.start.clone()).unwrap_or_default();
            return cache.locate_patiently(&start, &mut self.retrier).await;
        }
        let end = self.rest.back().map(|range| range.end.clone()).unwrap_or_default();
        loop {
            match self.retrier.scope().run(cache.locate_before(&end)).await? {
                Ok(region) => return Ok(region),
                Err(error) => wait_for_pd(error, &mut self.retrier).await?,
            }
        }
    }

    /// What remains within the region, ascending; at most [`RANGES_MAX`] ranges,
    /// counted from where the scan goes on.
    fn part_in(&self, region: &CachedRegion) -> Vec<KeyRange> {
        let bounds = region.range();
        let clip = |range: &KeyRange| {
            let part = range.intersect(&bounds);
            (!part.is_empty()).then_some(part)
        };
        if self.desc {
            let mut part: Vec<KeyRange> =
                self.rest.iter().rev().map_while(clip).take(RANGES_MAX).collect();
            part.reverse();
            part
        } else {
            self.rest.iter().map_while(clip).take(RANGES_MAX).collect()
        }
    }

    /// Takes in one response; puts the request back unless it is over.
    async fn take(
        &mut self,
        mut running: Running,
        response: CoprocessorResponse,
    ) -> Result<(), KvError> {
        if let Some(error) = response.region_error {
            self.drop_held(|| format!("{error:?}"))?;
            let cache = &self.client.cache;
            let region = &running.region;
            if region.replica_read {
                let (hops, retrier) = (&mut self.hops, &mut self.retrier);
                return cache.after_refusal(region, error, hops, retrier).await;
            }
            self.elsewhere = read_elsewhere(region, &error, &mut self.hops, &self.retrier);
            if self.elsewhere.is_some() {
                return Ok(());
            }
            return cache.after_region_error(region, error, &mut self.retrier).await;
        }
        if let Some(lock) = response.locked {
            self.drop_held(|| "a lock of another transaction".into())?;
            self.snapshot.clear_locks(&[lock], &mut self.retrier).await?;
            self.hops = self.snapshot.options(self.answer_bytes).hops();
            return Ok(());
        }
        if response.unknown_table {
            self.drop_held(|| "a store forgot a table".into())?;
            self.tables_unknown += 1;
            let store_id = running.region.leader.store_id;
            return self.tables.are_unknown_to(store_id, self.tables_unknown).await;
        }
        if let Some(error) = response.other_error {
            // It tells of rows, too.
            self.note_read(&running.part);
            return Err(KvError::Cop {
                mysql_code: u16::try_from(error.mysql_code).unwrap_or_default(),
                message: error.message,
            });
        }
        self.retrier = self
            .client
            .retrier_for(page_timeout_ms(self.snapshot.scope()))
            .within(self.snapshot.scope());
        if self.hops.has_failed() {
            self.hops = self.snapshot.options(self.answer_bytes).hops();
        }
        let last = response.summaries.is_some();
        self.held_bytes += response.chunk.len();
        running.bytes += response.chunk.len() as u64;
        if let Some(summaries) = &response.summaries {
            self.note_task(&running, summaries);
        }
        self.held.push(ScanPage {
            chunk: response.chunk,
            remote_row_keys: response.remote_row_keys,
            warnings: response.warnings,
            summaries: response.summaries,
        });
        if last {
            self.end(&running);
            return Ok(());
        }
        if !response.next_start.is_empty() {
            self.strike_off(&response.next_start);
            self.deliver_held();
            self.beyond_repeat = false;
        } else if self.held_bytes > HELD_BYTES_MAX {
            self.note_read(&running.part);
            self.beyond_repeat = true;
            self.deliver_held();
        }
        self.running = Some(running);
        Ok(())
    }

    /// Tells the statement's log what the request cost.
    fn note_task(&self, running: &Running, summaries: &ExecSummaries) {
        let Some(log) = &self.snapshot.scope().log else { return };
        let rows = summaries.operators.last().map_or(0, |top| top.rows);
        let span = RequestSpan::until_now("Cop", &running.region, Some(running.start), true);
        log.note_task(&RequestSpan { bytes: running.bytes, rows, ..span });
    }

    fn note_read(&self, ranges: &[KeyRange]) {
        let Some(reads) = self.snapshot.reads() else { return };
        for range in ranges {
            reads.record(range.clone(), self.snapshot.start_ts());
        }
    }

    /// The request's part is done.
    fn end(&mut self, running: &Running) {
        self.deliver_held();
        self.beyond_repeat = false;
        let edge = if self.desc { running.part.first() } else { running.part.last() };
        let Some(edge) = edge else { return };
        if self.desc {
            if edge.start.is_empty() {
                self.strike_all();
            } else {
                self.strike_off(&edge.start.clone());
            }
        } else if edge.end.is_empty() {
            self.strike_all();
        } else {
            self.strike_off(&edge.end.clone());
        }
    }

    fn strike_all(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.note_read(rest.as_slices().0);
        self.note_read(rest.as_slices().1);
    }

    /// Strikes off what lies before `next` (descending: at or behind it).
    fn strike_off(&mut self, next: &Bytes) {
        let before = KeyRange { start: Bytes::new(), end: next.clone() };
        let behind = KeyRange { start: next.clone(), end: Bytes::new() };
        let (read, remains) = if self.desc { (behind, before) } else { (before, behind) };
        let pop = if self.desc { VecDeque::pop_back } else { VecDeque::pop_front };
        while let Some(range) = pop(&mut self.rest) {
            self.note_read(&[range.intersect(&read)]);
            let part = range.intersect(&remains);
            if !part.is_empty() {
                if self.desc {
                    self.rest.push_back(part);
                } else {
                    self.rest.push_front(part);
                }
                break;
            }
        }
    }

    async fn broken(
        &mut self,
        region: &CachedRegion,
        error: TransportError,
    ) -> Result<(), KvError> {
        // A statement that is over says nothing about the store.
        self.retrier.scope().check()?;
        self.drop_held(|| error.to_string())?;
        let cache = &self.client.cache;
        self.elsewhere = cache.after_silence(region, &mut self.hops).await;
        if self.elsewhere.is_some() {
            return Ok(());
        }
        cache.after_transport_error(region, &error, &mut self.retrier).await
    }

    fn deliver_held(&mut self) {
        self.ready.extend(self.held.drain(..));
        self.held_bytes = 0;
    }

    /// The request failed: what it gave without a mark is computed again.
    fn drop_held(&mut self, reason: impl FnOnce() -> String) -> Result<(), KvError> {
        if self.beyond_repeat {
            return Err(KvError::RegionUnavailable { reason: reason() });
        }
        self.held.clear();
        self.held_bytes = 0;
        Ok(())
    }
}

fn page_timeout_ms(scope: &RequestScope) -> u64 {
    match scope.priority {
        Priority::Background => BACKGROUND_PAGE_TIMEOUT_MS,
        _ => PAGE_TIMEOUT_MS,
    }
}

/// No page came in time.
fn late(region: &CachedRegion) -> TransportError {
    TransportError::DeadlineExceeded {
        address: format!("store {}", region.leader.store_id),
        timeout_ms: PAGE_TIMEOUT_MS,
    }
}
