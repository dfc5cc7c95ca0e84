//! Runs a fragment's operators and cuts their output into pages.
//!
//! Small chunks are gathered, so that a selective filter does not send a message
//! per handful of rows; pages grow, so that a short answer comes at once and a
//! long one in few messages.

use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::{BoxOperator, ExecContext, ExecError, Fragment, OpDesc, RuntimeStats};
use cairn_proto::kv;
use cairn_types::Chunk;
use tokio::sync::mpsc;

use super::source::SourceError;
use crate::mvcc::ReadError;
use crate::raftstore::RegionError;

/// Rows of the first page when the request does not say.
const PAGE_ROWS_DEFAULT: usize = 256;
/// Rows of the largest page.
const PAGE_ROWS_MAX: usize = 8192;
/// A page also ends at this size.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Or with this many keys of rows that the caller must read.
const PAGE_REMOTE_KEYS_MAX: usize = 1024;

/// The channel of a task's pages.
pub type Pages = mpsc::Sender<kv::CoprocessorResponse>;

/// A fragment under way.
pub struct PageRunner {
    operator: BoxOperator,
    context: ExecContext,
    stats: Arc<RuntimeStats>,
    operators: usize,
    is_resumable: bool,
    /// Rows since the last page.
    gathered: Option<Chunk>,
    remote_row_keys: Vec<Bytes>,
    page_rows: usize,
}

impl PageRunner {
    /// Runs `operator`, built of `fragment` in `context`; `page_rows` 0 is the default.
    pub fn new(
        fragment: &Fragment,
        operator: BoxOperator,
        context: ExecContext,
        stats: Arc<RuntimeStats>,
        page_rows: u32,
    ) -> PageRunner {
        let page_rows = match page_rows {
            0 => PAGE_ROWS_DEFAULT,
            rows => (rows as usize).min(PAGE_ROWS_MAX),
        };
        PageRunner {
            operator,
            context,
            stats,
            operators: fragment.operators.len(),
            is_resumable: fragment.operators.iter().all(keeps_position),
            gathered: None,
            remote_row_keys: Vec::new(),
            page_rows,
        }
    }

    /// Sends every page; the last one has the summaries, or the error.
    pub async fn run(mut self, pages: &Pages) {
        loop {
            if pages.is_closed() {
                return;
            }
            match self.operator.next().await {
                Ok(Some(chunk)) => {
                    self.gather(chunk);
                    if self.is_full() {
                        let page = self.page(true);
                        if pages.send(page).await.is_err() {
                            return;
                        }
                        self.page_rows = (self.page_rows * 2).min(PAGE_ROWS_MAX);
                    }
                }
                Ok(None) => {
                    let mut page = self.page(false);
                    page.summaries = Some(self.summaries());
                    let _ = pages.send(page).await;
                    return;
                }
                Err(error) => {
                    self.fail(error, pages).await;
                    return;
                }
            }
        }
    }

    /// What was done before an error stays done, where the caller can go on.
    async fn fail(&mut self, error: ExecError, pages: &Pages) {
        // Of rows behind the last answer: whoever goes on from there finds them again.
        drop(self.context.remote_row_keys.take());
        if self.is_resumable && (self.gathered.is_some() || !self.remote_row_keys.is_empty()) {
            let page = self.page(true);
            if pages.send(page).await.is_err() {
                return;
            }
        }
        let _ = pages.send(error_response(error)).await;
    }

    fn take_remote_keys(&mut self) {
        self.remote_row_keys.extend(self.context.remote_row_keys.take());
    }

    fn gather(&mut self, mut chunk: Chunk) {
        self.take_remote_keys();
        if chunk.num_selected() == 0 {
            return;
        }
        match &mut self.gathered {
            Some(gathered) => gathered.append_chunk(&chunk),
            None => {
                chunk.compact();
                self.gathered = Some(chunk);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.remote_row_keys.len() >= PAGE_REMOTE_KEYS_MAX
            || self.gathered.as_ref().is_some_and(|chunk| {
                chunk.num_rows() >= self.page_rows || chunk.memory_bytes() >= PAGE_BYTES_MAX
            })
    }

    /// What was gathered, as a page. `goes_on`: others follow.
    fn page(&mut self, goes_on: bool) -> kv::CoprocessorResponse {
        // Where a filter let nothing pass, no chunk has brought them.
        self.take_remote_keys();
        let mut bytes = Vec::new();
        if let Some(chunk) = self.gathered.take() {
            chunk.encode(&mut bytes);
        }
        let warnings = self.context.warnings.lock().take();
        let warning = |warning: &cairn_types::Warning| kv::CopWarning {
            mysql_code: warning.code.into(),
            message: warning.message.clone(),
        };
        let position = self.context.scan_position.get().filter(|_| goes_on && self.is_resumable);
        kv::CoprocessorResponse {
            chunk: bytes.into(),
            remote_row_keys: std::mem::take(&mut self.remote_row_keys),
            warnings: warnings.list().iter().map(warning).collect(),
            next_start: position.unwrap_or_default(),
            ..Default::default()
        }
    }

    fn summaries(&self) -> kv::ExecSummaries {
        let mut operators = vec![kv::ExecSummary::default(); self.operators];
        for (place, summary) in self.stats.summaries() {
            if let Some(slot) = operators.get_mut(place) {
                let (rows, loops, time_ns) = (summary.rows, summary.loops, summary.time_ns);
                *slot = kv::ExecSummary { rows, loops, time_ns };
            }
        }
        kv::ExecSummaries { operators }
    }
}

/// Whether an operator gives its input's rows on as they come, or rows made of them.
fn keeps_position(operator: &OpDesc) -> bool {
    matches!(
        operator,
        OpDesc::TableScan(_)
            | OpDesc::IndexScan(_)
            | OpDesc::IndexLookup(_)
            | OpDesc::Selection(_)
            | OpDesc::Projection(_)
            | OpDesc::Limit(_)
            // It holds the position while it has more rows of what was scanned.
            | OpDesc::HashJoin(_)
    )
}

/// The answer of a task that failed.
pub fn error_response(error: ExecError) -> kv::CoprocessorResponse {
    let mut response = kv::CoprocessorResponse::default();
    match &error {
        ExecError::Cancelled => {
            response.region_error = Some(RegionError::DeadlineExceeded.into());
            return response;
        }
        _ => {
            match error.source_as::<SourceError>() {
                Some(SourceError(ReadError::Locked(info))) => {
                    response.locked = Some((**info).clone());
                    return response;
                }
                Some(SourceError(error)) if error.is_damage() => {
                    // Another store will lead the region soon.
                    response.region_error = Some(RegionError::busy("data is damaged here").into());
                    return response;
                }
                _ => {}
            }
        }
    }
    let mysql = error.to_mysql();
    response.other_error =
        Some(kv::CopError { mysql_code: mysql.code.into(), message: mysql.message });
    response
}
