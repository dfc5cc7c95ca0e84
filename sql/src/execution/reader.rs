//! Readers: a fragment over key ranges, run by the stores or here.
//!
//! A fragment runs here when the transaction wrote into its ranges, or into the table of an
//! index (the stores do not know those writes), when it looks rows up by index entries and must keep their
//! order (rows of several stores would come out of order), or when a SERIALIZABLE transaction must know
//! more of what it reads than stores tell.
//!
//! Of a fragment with joins the lower part alone may run there, see [`super::broadcast`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::operators::ChunkSource;
use cairn_executor::plan::OpDesc;
use cairn_executor::{
    BoxOperator, EvalSettings, ExecContext, ExecError, Fragment, KeyRange, KvSource, OperatorMemory,
};
use cairn_kv_client::{
    DistScan, DistScanRequest, KvClient, ReadFrom, RequestScope, ScanPage, ScanTables,
};
use cairn_planner::plan::{CopInfo, Reader};
use cairn_types::keys::prefix_next;
use cairn_types::{Chunk, FieldType, MysqlError, TimeStamp};
use futures::StreamExt;

use super::builder::BuildContext;
use super::kv_error;
use super::own_rows::OwnRows;
use super::source::TransactionSource;
use super::view::client_range;

/// Row keys read by one request of the second step.
const REMOTE_KEYS_BATCH: usize = 1_024;

/// What a value is taken for, as nobody counts them.
const COLUMN_BYTES_GUESS: u64 = 16;

/// What expressions of a fragment need of the session.
pub fn eval_settings(exec: &ExecContext) -> EvalSettings {
    let eval = &exec.eval;
    EvalSettings {
        // Only zones without a name travel by offset, and all of ours have one.
        time_zone_offset_s: 0,
        time_zone_name: eval.time_zone.name().to_owned(),
        sql_mode: eval.sql_mode.0,
        div_precision_increment: u32::from(eval.div_precision_increment),
        now_micros: eval.now_micros,
    }
}

/// Builds the operator that runs a reader's fragment.
pub fn build(reader: &Reader, context: &BuildContext) -> cairn_executor::Result<BoxOperator> {
    let read = Read::new(reader, context);
    let fragment = read.fragment.clone();
    read.start(reader, context, fragment, ScanTables::default())
}

/// A reader's fragment with what this run reads and its parameters.
pub(super) struct Read {
    /// The operators, bound.
    pub fragment: Fragment,
    ranges: Vec<KeyRange>,
    /// Rows after which the fragment stops.
    limit: Option<u64>,
    /// The SQL node runs it, see the module documentation.
    pub is_local: bool,
}

impl Read {
    pub fn new(reader: &Reader, context: &BuildContext) -> Read {
        let mut eval = context.exec.eval.clone();
        let ranges = super::builder::key_ranges(reader, context, &mut eval);
        let fragment = reader.fragment(&mut eval, eval_settings(&context.exec));
        let looks_up = fragment.operators.iter().any(|op| matches!(op, OpDesc::IndexLookup(_)));
        let limit = reader.limit.as_ref().map(|limit| limit.total(&eval.params));
        // What a SERIALIZABLE transaction reads is noted here: the rows that stores would look up by
        // themselves, and how far a scan came that ends with its limit.
        let is_noted = context.view.snapshot().reads().is_some() && (looks_up || limit.is_some());
        let is_local =
            is_dirty(reader, &ranges, context) || (looks_up && reader.keep_order) || is_noted;
        Read { fragment, ranges, limit, is_local }
    }

    /// Starts `fragment`, which is the one of this read or the lower part of it.
    pub fn start(
        &self,
        reader: &Reader,
        context: &BuildContext,
        fragment: Fragment,
        tables: ScanTables,
    ) -> cairn_executor::Result<BoxOperator> {
        let ends = |op: &OpDesc| matches!(op, OpDesc::Limit(_) | OpDesc::TopN(_));
        let limit = self.limit.filter(|_| fragment.operators.iter().any(ends));
        match self.is_local {
            true => self.start_here(reader, context, &fragment, limit),
            false => self.start_in_stores(reader, context, &fragment, limit, tables),
        }
    }

    fn start_here(
        &self,
        reader: &Reader,
        context: &BuildContext,
        fragment: &Fragment,
        limit: Option<u64>,
    ) -> cairn_executor::Result<BoxOperator> {
        let mut ranges = self.ranges.clone();
        let index = reader.index.as_deref();
        let own_rows = index.and_then(|index| OwnRows::of(&context.view, &reader.table, index));
        if own_rows.is_some() && index.is_some_and(|index| index.unique) {
            // A whole key may have two entries then, which a read of that key does not show.
            for range in ranges.iter_mut().filter(|range| range.is_point()) {
                *range = KeyRange::new(range.start.clone(), prefix_next(&range.start));
            }
        }
        let source: Arc<dyn KvSource> =
            Arc::new(TransactionSource::new(context.view.clone(), own_rows, limit));
        cairn_executor::build_fragment(fragment, ranges, source, context.exec.clone())
    }

    fn start_in_stores(
        &self,
        reader: &Reader,
        context: &BuildContext,
        fragment: &Fragment,
        limit: Option<u64>,
        tables: ScanTables,
    ) -> cairn_executor::Result<BoxOperator> {
        let snapshot = context.view.snapshot();
        let types = fragment.validate()?;
        let info = reader.info.iter().take(fragment.operators.len()).cloned().collect();
        let scan = DistributedRead {
            kv: Arc::clone(&context.kv),
            exec: context.exec.clone(),
            start_ts: snapshot.start_ts(),
            scope: context.reader_scope(snapshot.scope()),
            from: snapshot.read_from(),
            remote: match Reader::remote_fragment(fragment) {
                Some(fragment) => Some(Arc::new(fragment.to_proto()?)),
                None => None,
            },
            tables: tables.clone(),
            scan: None,
            remote_keys: VecDeque::new(),
            memory: context.exec.account("IndexLookUp"),
            types: types.clone(),
            info,
            finished_primary: false,
            concurrency: context.scan_concurrency,
        };
        let request = DistScanRequest {
            keep_order: reader.keep_order,
            desc: reader.desc,
            concurrency: context.scan_concurrency,
            limit_hint: limit,
            scope: scan.scope.clone(),
            reads: snapshot.reads().cloned(),
            from: scan.from,
            answer_bytes: answer_bytes(&scan.info, limit),
            tables,
            ..DistScanRequest::new(
                context.view.start_ts(),
                Arc::new(fragment.to_proto()?),
                self.ranges.iter().map(client_range).collect(),
            )
        };
        let scan = DistributedRead { scan: Some(context.kv.dist_scan(request)), ..scan };
        let stream = futures::stream::unfold(Some(scan), |state| async move {
            let mut scan = state?;
            match scan.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(scan))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Box::new(ChunkSource::new(types, stream.boxed(), context.exec.clone())))
    }
}

/// About how large a fragment's rows are together, as the plan guesses their number.
fn answer_bytes(info: &[CopInfo], limit: Option<u64>) -> u64 {
    let Some(top) = info.last() else { return 0 };
    // What is beyond the range of the number is as large as can be.
    let rows = (top.row_count as u64).min(limit.unwrap_or(u64::MAX));
    rows.saturating_mul(top.schema.len() as u64 * COLUMN_BYTES_GUESS)
}

/// What a row key takes.
fn key_bytes(key: &Bytes) -> usize {
    size_of::<Bytes>() + key.len()
}

/// Whether the transaction itself wrote what the reader may read. An index may have other entries
/// than the snapshot's wherever rows of the table were changed.
fn is_dirty(reader: &Reader, ranges: &[KeyRange], context: &BuildContext) -> bool {
    let (start, end) = cairn_types::keys::table_range(reader.table.id);
    context.view.is_dirty(&KeyRange::new(start, end))
        && (reader.index.is_some() || ranges.iter().any(|range| context.view.is_dirty(range)))
}

/// A fragment under way in the stores, with its second step for rows that the first
/// step's stores did not lead.
struct DistributedRead {
    kv: Arc<KvClient>,
    exec: ExecContext,
    start_ts: TimeStamp,
    scope: RequestScope,
    from: ReadFrom,
    /// The second step's fragment.
    remote: Option<Arc<cairn_proto::cop::Fragment>>,
    /// What both steps' fragments join their rows with.
    tables: ScanTables,
    scan: Option<DistScan>,
    remote_keys: VecDeque<Bytes>,
    /// Of those keys.
    memory: OperatorMemory,
    types: Vec<FieldType>,
    info: Vec<CopInfo>,
    finished_primary: bool,
    concurrency: usize,
}

impl DistributedRead {
    async fn next(&mut self) -> Result<Option<Chunk>, ExecError> {
        loop {
            if let Some(scan) = &mut self.scan {
                match scan.next().await {
                    Some(Ok(page)) => {
                        if let Some(chunk) = self.accept(page)? {
                            return Ok(Some(chunk));
                        }
                        continue;
                    }
                    Some(Err(error)) => return Err(kv_error(error)),
                    None => {
                        self.scan = None;
                        self.finished_primary = true;
                    }
                }
            }
            let Some(remote) = self.remote.clone().filter(|_| !self.remote_keys.is_empty()) else {
                return Ok(None);
            };
            let count = self.remote_keys.len().min(REMOTE_KEYS_BATCH);
            let mut keys: Vec<Bytes> = self.remote_keys.drain(..count).collect();
            self.memory.shrink(keys.iter().map(key_bytes).sum());
            keys.sort_unstable();
            keys.dedup();
            let ranges = keys.iter().map(|key| client_range(&KeyRange::point(key))).collect();
            let request = DistScanRequest {
                concurrency: self.concurrency,
                scope: self.scope.clone(),
                from: self.from,
                answer_bytes: count as u64 * self.types.len() as u64 * COLUMN_BYTES_GUESS,
                tables: self.tables.clone(),
                ..DistScanRequest::new(self.start_ts, remote, ranges)
            };
            self.scan = Some(self.kv.dist_scan(request));
        }
    }

    /// Takes a page apart; `None` when it holds no rows.
    fn accept(&mut self, page: ScanPage) -> Result<Option<Chunk>, ExecError> {
        self.memory.grow(page.remote_row_keys.iter().map(key_bytes).sum())?;
        self.remote_keys.extend(page.remote_row_keys);
        for warning in page.warnings {
            let code = u16::try_from(warning.mysql_code).unwrap_or(u16::MAX);
            self.exec.warn(MysqlError::new(code, warning.message));
        }
        if let (Some(stats), Some(summaries)) = (&self.exec.stats, page.summaries) {
            // The second step leaves the index scan out: its operators are the last ones.
            let skip = self.info.len().saturating_sub(summaries.operators.len());
            for (info, summary) in self.info.iter().skip(skip).zip(summaries.operators) {
                let counters = stats.operator(info.id, info.name);
                counters.add_task(summary.rows, summary.loops, summary.time_ns);
            }
        }
        if page.chunk.is_empty() {
            return Ok(None);
        }
        let chunk = Chunk::decode(&page.chunk, &self.types).map_err(|error| {
            let mysql = MysqlError::new(
                cairn_types::errno::ER_UNKNOWN_ERROR,
                format!("a store sent rows that do not decode: {error}"),
            );
            ExecError::source(error, mysql)
        })?;
        Ok((chunk.num_rows() > 0).then_some(chunk))
    }
}
