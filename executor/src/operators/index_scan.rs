//! Reads an index's entries in the order of their keys.
//!
//! A column comes from the key where its bytes give it back, else from the entry's
//! value (see [`crate::index_entry`]). The handle stands in the key or in the
//! value.
//!
//! **Cost** (planner): entries × (next + bytes of the entry).

use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::codec::{flag, key_is_restorable, skip_datum_key};
use cairn_types::keys::{decode_index_key, decode_index_value};
use cairn_types::row::{RowView, append_value};
use cairn_types::{Chunk, FieldType, Handle};

use super::local_time::LocalTime;
use super::rows::{append_key_column, append_owned_handle, find_parts};
use super::scan::RangeScanner;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::Operator;
use crate::plan::fragment::check_scan_columns;
use crate::plan::{IndexScanDesc, ScanColumn};
use crate::source::{KeyRange, KvSource};

/// See [`IndexScanDesc`].
pub struct IndexScan {
    schema: Vec<FieldType>,
    local_time: LocalTime,
    scanner: RangeScanner,
    decoder: EntryDecoder,
}

impl IndexScan {
    /// Reads the entries whose keys lie in `ranges` (ascending, not overlapping).
    pub fn new(
        desc: &IndexScanDesc,
        ranges: Vec<KeyRange>,
        source: Arc<dyn KvSource>,
        ctx: ExecContext,
    ) -> Result<IndexScan> {
        check_scan_columns(&desc.columns, desc.handle_types.len())?;
        let schema: Vec<FieldType> = desc.columns.iter().map(|column| column.ty.clone()).collect();
        Ok(IndexScan {
            local_time: LocalTime::new(&schema, &ctx.eval.time_zone),
            schema,
            scanner: RangeScanner::new(source, ranges, desc.desc, ctx),
            decoder: EntryDecoder::new(desc),
        })
    }
}

#[async_trait]
impl Operator for IndexScan {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(pairs) = self.scanner.next().await? else { return Ok(None) };
        let mut chunk = Chunk::new(&self.schema, pairs.len());
        for (key, value) in pairs.iter() {
            self.decoder.append(key, value, &mut chunk)?;
        }
        self.local_time.convert(&mut chunk);
        Ok(Some(chunk))
    }
}

/// Decodes entries into the columns of a chunk.
struct EntryDecoder {
    columns: Vec<ScanColumn>,
    restorable: Vec<bool>,
    /// The first so many columns are the index's; known from the first entry on.
    indexed: Option<usize>,
    handle_types: Vec<FieldType>,
    parts: Vec<usize>,
}

impl EntryDecoder {
    fn new(desc: &IndexScanDesc) -> EntryDecoder {
        EntryDecoder {
            indexed: None,
            restorable: desc.columns.iter().map(|column| key_is_restorable(&column.ty)).collect(),
            columns: desc.columns.clone(),
            handle_types: desc.handle_types.clone(),
            parts: Vec::new(),
        }
    }

    fn append(&mut self, key: &[u8], value: &[u8], out: &mut Chunk) -> Result<()> {
        let mut rest = decode_index_key(key)?.columns;
        let entry = decode_index_value(value)?;
        let stored = entry.columns.map(RowView::parse).transpose()?;
        let indexed = match self.indexed {
            Some(indexed) => indexed,
            None => self.count_indexed(rest, entry.handle.is_some())?,
        };
        for at in 0..indexed {
            let wanted = &self.columns[at];
            let column = &mut out.columns[at];
            if self.restorable[at] {
                append_key_column(column, &mut rest, &wanted.ty)?;
                continue;
            }
            let is_null = rest.first() == Some(&flag::NULL);
            let length = skip_datum_key(rest)?;
            rest = &rest[length..];
            if is_null {
                column.push_null();
                continue;
            }
            match stored.as_ref().and_then(|row| row.get(wanted.id)) {
                Some(Some(bytes)) => append_value(column, bytes, &wanted.ty)?,
                Some(None) => column.push_null(),
                None => return Err(NO_VALUE),
            }
        }
        if indexed == self.columns.len() {
            if self.columns.is_empty() {
                out.set_rows_without_columns(out.num_rows() + 1);
            }
            return Ok(());
        }
        let handle = match entry.handle {
            Some(handle) => handle,
            None if self.handle_types.is_empty() => {
                let Some((_, mut bytes)) = rest.split_first() else { return Err(NO_HANDLE) };
                Handle::Int(cairn_types::codec::decode_i64(&mut bytes)?)
            }
            None if rest.is_empty() => return Err(NO_HANDLE),
            None => Handle::Common(rest.to_vec()),
        };
        self.append_handle(&handle, stored.as_ref(), out)
    }

    /// Number of the index's columns: those in the key without the handle. A column
    /// of the index may be one of the handle too, so flags of columns do not tell.
    fn count_indexed(&mut self, key: &[u8], handle_in_value: bool) -> Result<usize> {
        let (mut at, mut count, mut last) = (0, 0usize, flag::MAX);
        while at < key.len() {
            last = key[at];
            at += skip_datum_key(&key[at..])?;
            count += 1;
        }
        let of_handle = match (handle_in_value, self.handle_types.len()) {
            (true, _) => 0,
            (false, 0) => 1,
            // No column of a primary key is NULL: a zero behind them only pads the
            // handle (see `Handle::common`).
            (false, columns) => columns + usize::from(last == flag::NULL),
        };
        let indexed = count.checked_sub(of_handle).ok_or(NO_HANDLE)?;
        if indexed > self.columns.len() {
            return Err(ExecError::invalid_plan(
                "an index scan must name all columns of the index",
            ));
        }
        self.indexed = Some(indexed);
        Ok(indexed)
    }

    /// Appends what is wanted of the handle.
    fn append_handle(
        &mut self,
        handle: &Handle,
        stored: Option<&RowView<'_>>,
        out: &mut Chunk,
    ) -> Result<()> {
        if let Handle::Common(bytes) = handle {
            find_parts(bytes, self.handle_types.len(), &mut self.parts)?;
        }
        for at in self.indexed.unwrap_or(0)..self.columns.len() {
            let wanted = &self.columns[at];
            let column = &mut out.columns[at];
            if wanted.is_handle {
                append_owned_handle(column, handle)?;
                continue;
            }
            match stored.and_then(|row| row.get(wanted.id)) {
                Some(Some(bytes)) => append_value(column, bytes, &wanted.ty)?,
                Some(None) => column.push_null(),
                None => {
                    let (Some(part), Handle::Common(bytes)) = (wanted.handle_part, handle) else {
                        return Err(NO_VALUE);
                    };
                    let mut bytes = &bytes[self.parts[part]..];
                    append_key_column(column, &mut bytes, &wanted.ty)?;
                }
            }
        }
        Ok(())
    }
}

const NO_VALUE: ExecError = ExecError::Corrupted("an index entry lacks a column");
const NO_HANDLE: ExecError = ExecError::Corrupted("an index entry lacks its handle");
