//! Point reads: rows by their whole key, without the coprocessor.
//!
//! **Hot path.** `SELECT … WHERE pk = ?` in autocommit takes no timestamp from PD (it reads
//! the newest committed version, which is one consistent row), builds no chunk, and writes
//! the stored bytes of each column straight into the packet.

use std::sync::Arc;

use bytes::Bytes;
use cairn_executor::operators::ChunkSource;
use cairn_executor::{BoxOperator, ExecError};
use cairn_expr::{EvalContext, Expr};
use cairn_kv_client::{LockOptions, RequestScope};
use cairn_parser::ast::IsolationLevel;
use cairn_planner::plan::{PhysicalPlan, Plan, PointAccess, PointGet, RowLock};
use cairn_planner::ranger::{PointKey, point_key};
use cairn_proto::kv::Priority;
use cairn_types::{Chunk, Datum, Handle, TimeStamp};
use futures::StreamExt;

use super::builder::BuildContext;
use super::own_rows::OwnRows;
use super::slots;
use super::view::ReadView;
use crate::error::{Result, SqlError};
use crate::protocol::resultset::RowWriter;
use crate::record;
use crate::session::Session;
use crate::sink::ResultSink;

/// Runs a plan that is one point read.
pub async fn run_point_get(
    session: &mut Session,
    plan: &Arc<Plan>,
    get: &PointGet,
    parameters: &[Datum],
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let mut eval = session.eval_context();
    eval.params = slots(plan, parameters).into();
    // A read through a unique index takes two steps that must agree on the time, and the newest
    // version of one row is in no order with reads of others. Only its leader knows that.
    let is_serializable = session.settings().isolation == IsolationLevel::Serializable;
    let needs_time = get.access.index.is_some() || session.reads_past() || is_serializable;
    let view = match needs_time || !session.read_from().points_ask_leader() {
        true => ReadView::of_session(session).await?,
        false => newest_view(session).await?,
    };
    let found = match plan_key(&get.access, &get.key, &mut eval)? {
        Some(key) => find_row(&get.access, &key, &view).await?,
        None => None,
    };
    let row = match found {
        Some(row) => keep_row(&get.access, row, &mut eval)?,
        None => None,
    };
    sink.begin_rows(Arc::clone(&plan.columns)).await?;
    session.found_rows = 0;
    if let Some((handle, value)) = row {
        session.found_rows = 1;
        let (access, zone) = (&get.access, eval.time_zone.clone());
        let mut write = |out: &mut Vec<u8>, format| {
            let mut writer = RowWriter::begin(format, access.columns.len(), out);
            record::write_row(access, &handle, &value, &zone, &mut writer, out)
        };
        sink.raw_row(&mut write).await?;
    }
    session.row_count = -1;
    session.take_warnings(&mut eval);
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

/// The view of one row: the open transaction's, or the newest version, without a timestamp.
async fn newest_view(session: &mut Session) -> Result<ReadView> {
    if let Some((transaction, _)) = session.reading_transaction().await? {
        return Ok(ReadView::Transaction(transaction));
    }
    let newest = session.domain.kv.snapshot(TimeStamp::MAX);
    Ok(ReadView::Snapshot(newest.within(point_scope(session.scope()))))
}

/// Where a statement does not say otherwise, a read of one row goes before all others, as in
/// TiDB: it costs next to nothing, and many wait for it.
fn point_scope(scope: &RequestScope) -> RequestScope {
    let priority = match scope.priority {
        Priority::Normal => Priority::High,
        priority => priority,
    };
    RequestScope { priority, ..scope.clone() }
}

/// The stored row behind a whole key.
pub async fn find_row(
    access: &PointAccess,
    key: &PointKey,
    view: &ReadView,
) -> Result<Option<(Handle, Bytes)>> {
    let handle = match key {
        PointKey::Row(handle) => handle.clone(),
        PointKey::Index(index_key) => {
            let own_rows =
                access.index.as_ref().and_then(|index| OwnRows::of(view, &access.table, index));
            let entry = match own_rows {
                Some(own_rows) => {
                    let key = Bytes::copy_from_slice(index_key);
                    own_rows.entries(std::slice::from_ref(&key)).await?.remove(&key)
                }
                None => view.get(index_key).await?,
            };
            let Some(entry) = entry else { return Ok(None) };
            record::handle_of_unique_entry(&access.table, &entry)?
        }
    };
    let key = cairn_types::keys::encode_row_key(access.table.id, &handle);
    Ok(view.get(&key).await?.map(|value| (handle, value)))
}

fn plan_key(
    access: &PointAccess,
    key: &[Expr],
    eval: &mut EvalContext,
) -> Result<Option<PointKey>> {
    point_key(access, key, eval).map_err(|error| SqlError::Mysql(error.to_mysql()))
}

/// The row, if the plan's other conditions hold for it.
fn keep_row(
    access: &PointAccess,
    row: (Handle, Bytes),
    eval: &mut EvalContext,
) -> Result<Option<(Handle, Bytes)>> {
    if access.conditions.is_empty() {
        return Ok(Some(row));
    }
    let mut chunk = record::point_chunk(access);
    chunk.push_row(&record::point_row(access, &row.0, &row.1, &eval.time_zone)?);
    cairn_expr::eval_filter(&access.conditions, &mut chunk, eval)
        .map_err(|error| SqlError::Mysql(error.to_mysql()))?;
    Ok((chunk.num_selected() > 0).then_some(row))
}

/// Point reads inside a larger plan: an operator that yields the rows found.
pub fn operator(
    access: &PointAccess,
    keys: Vec<Vec<Expr>>,
    lock: Option<RowLock>,
    plan: &PhysicalPlan,
    context: &BuildContext,
) -> cairn_executor::Result<BoxOperator> {
    let (access, view) = (access.clone(), context.view.clone());
    let lock = lock.map(|lock| crate::dml::lock::options(lock, context));
    let mut eval = context.exec.eval.clone();
    let rows = async move {
        let chunk = read_chunk(&access, &keys, lock.as_ref(), &view, &mut eval).await;
        chunk.map_err(|error| ExecError::from(error.to_mysql()))
    };
    let stream = futures::stream::once(rows).boxed();
    Ok(Box::new(ChunkSource::new(plan.types(), stream, context.exec.clone())))
}

/// The rows of a plan that is one point read, for a change of them: without operator and chunk.
pub async fn gather(get: &PointGet, context: &BuildContext) -> Result<Vec<Vec<Datum>>> {
    let access = &get.access;
    let lock = get.lock.map(|wait| crate::dml::lock::options(wait, context));
    let mut eval = context.exec.eval.clone();
    let keys = std::slice::from_ref(&get.key);
    if !access.conditions.is_empty() {
        let chunk = read_chunk(access, keys, lock.as_ref(), &context.view, &mut eval).await?;
        return Ok(chunk.selected().map(|at| chunk.row(at)).collect());
    }
    let rows = read_rows(access, keys, lock.as_ref(), &context.view, &mut eval).await?;
    rows.iter()
        .map(|(handle, value)| record::point_row(access, handle, value, &eval.time_zone))
        .collect()
}

/// The rows of these keys for which the plan's other conditions hold.
async fn read_chunk(
    access: &PointAccess,
    keys: &[Vec<Expr>],
    lock: Option<&LockOptions>,
    view: &ReadView,
    eval: &mut EvalContext,
) -> Result<Chunk> {
    let mut chunk = record::point_chunk(access);
    for (handle, value) in read_rows(access, keys, lock, view, eval).await? {
        chunk.push_row(&record::point_row(access, &handle, &value, &eval.time_zone)?);
    }
    if !access.conditions.is_empty() {
        cairn_expr::eval_filter(&access.conditions, &mut chunk, eval)
            .map_err(|error| SqlError::Mysql(error.to_mysql()))?;
    }
    Ok(chunk)
}

/// The stored rows of these keys, each once, locked if that is asked.
async fn read_rows(
    access: &PointAccess,
    keys: &[Vec<Expr>],
    lock: Option<&LockOptions>,
    view: &ReadView,
    eval: &mut EvalContext,
) -> Result<Vec<(Handle, Bytes)>> {
    let mut rows = Vec::with_capacity(keys.len());
    let mut lock_keys = Vec::new();
    for key in keys {
        let Some(key) = plan_key(access, key, eval)? else { continue };
        let found = find_row(access, &key, view).await?;
        if lock.is_some() {
            let found = found.as_ref().map(|row| &row.0);
            lock_keys.push(crate::dml::lock::point_lock_key(access, &key, found));
        }
        rows.extend(found.map(|row| (lock_keys.len(), row)));
    }
    let mut skipped = Vec::new();
    if let (Some(options), ReadView::Transaction(transaction)) = (lock, view) {
        skipped = transaction.lock_now(lock_keys.clone(), options).await?;
    }
    let is_skipped = |locked: usize| {
        !skipped.is_empty() && locked > 0 && skipped.contains(&lock_keys[locked - 1])
    };
    rows.retain(|(locked, _)| !is_skipped(*locked));
    if rows.len() > 1 {
        let mut seen = std::collections::HashSet::with_capacity(rows.len());
        rows.retain(|(_, (handle, _))| seen.insert(handle.clone()));
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}
