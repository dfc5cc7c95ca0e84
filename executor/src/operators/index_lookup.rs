//! Reads the rows that index entries point to.
//!
//! The handles of an input chunk are read at once ([`KvSource::batch_get`]); rows
//! come out in the order of the handles. A row the source may not read (another
//! store leads its region) is left out, and its key goes to
//! [`ExecContext::remote_row_keys`]: the caller reads it and runs what stands above
//! the lookup over it.
//!
//! An entry without its row is skipped: at one timestamp that cannot be, but the
//! view of a transaction's own writes may pass it.
//!
//! **Cost** (planner): handles × (get + bytes of the row).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_types::keys::encode_row_key_to;
use cairn_types::{Chunk, Column, DatumRef, FieldType, Handle, TableId};

use super::local_time::LocalTime;
use super::rows::{ROW_PREFIX_LEN, RowDecoder};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};
use crate::plan::IndexLookupDesc;
use crate::plan::fragment::check_scan_columns;
use crate::source::{KvSource, RowRead};

/// See [`IndexLookupDesc`].
pub struct IndexLookup {
    input: BoxOperator,
    source: Arc<dyn KvSource>,
    table_id: TableId,
    int_handle: bool,
    schema: Vec<FieldType>,
    local_time: LocalTime,
    decoder: RowDecoder,
    ctx: ExecContext,
}

impl IndexLookup {
    /// Reads the rows of the handles in the last column of `input`.
    pub fn new(
        input: BoxOperator,
        desc: &IndexLookupDesc,
        source: Arc<dyn KvSource>,
        ctx: ExecContext,
    ) -> Result<IndexLookup> {
        check_scan_columns(&desc.columns, desc.handle_types.len())?;
        if input.schema().is_empty() {
            return Err(ExecError::invalid_plan("an index lookup needs a handle column"));
        }
        let schema: Vec<FieldType> = desc.columns.iter().map(|column| column.ty.clone()).collect();
        Ok(IndexLookup {
            local_time: LocalTime::new(&schema, &ctx.eval.time_zone),
            input,
            source,
            table_id: desc.table_id,
            int_handle: desc.handle_types.is_empty(),
            schema,
            decoder: RowDecoder::new(&desc.columns, &desc.handle_types),
            ctx,
        })
    }

    /// Keys of the rows that `handles` name at the chunk's selected rows.
    fn row_keys(&self, chunk: &Chunk, handles: &Column) -> Result<Vec<Bytes>> {
        let mut keys = Vec::with_capacity(chunk.num_selected());
        for row in chunk.selected() {
            let handle = match handles.get(row) {
                DatumRef::Int(handle) if self.int_handle => Handle::Int(handle),
                DatumRef::UInt(handle) if self.int_handle => Handle::Int(handle as i64),
                DatumRef::Bytes(handle) if !self.int_handle => Handle::common(handle.to_vec()),
                _ => return Err(ExecError::invalid_plan("the last column is not the handle")),
            };
            let mut key = Vec::new();
            encode_row_key_to(&mut key, self.table_id, &handle);
            keys.push(key.into());
        }
        Ok(keys)
    }
}

#[async_trait]
impl Operator for IndexLookup {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(entries) = self.input.next().await? else { return Ok(None) };
        self.ctx.check()?;
        let Some(handles) = entries.columns.last() else {
            return Err(ExecError::Corrupted("a chunk has the wrong number of columns"));
        };
        let keys = self.row_keys(&entries, handles)?;
        let rows = self.source.batch_get(&keys).await?;
        let mut chunk = Chunk::new(&self.schema, rows.len());
        let mut remote = Vec::new();
        for (key, row) in keys.into_iter().zip(rows) {
            match row {
                RowRead::Found(value) => {
                    self.decoder.append(&key[ROW_PREFIX_LEN..], &value, &mut chunk)?;
                }
                RowRead::Missing => {}
                RowRead::Remote => remote.push(key),
            }
        }
        if !remote.is_empty() {
            self.ctx.remote_row_keys.push(remote);
        }
        self.local_time.convert(&mut chunk);
        Ok(Some(chunk))
    }
}
