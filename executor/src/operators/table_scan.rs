//! Reads a table's rows in the order of their keys.
//!
//! Values are decoded straight into the columns of a chunk; columns that nobody
//! asks for are not looked at, nor is the value if only handles or a count are
//! wanted.
//!
//! **Cost** (planner): rows × (seek or next + bytes of the row).

use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use super::local_time::LocalTime;
use super::rows::{ROW_PREFIX_LEN, RowDecoder};
use super::scan::RangeScanner;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::Operator;
use crate::plan::TableScanDesc;
use crate::plan::fragment::check_scan_columns;
use crate::source::{KeyRange, KvSource};

/// See [`TableScanDesc`].
pub struct TableScan {
    schema: Vec<FieldType>,
    local_time: LocalTime,
    scanner: RangeScanner,
    decoder: RowDecoder,
}

impl TableScan {
    /// Reads the rows whose keys lie in `ranges` (ascending, not overlapping).
    pub fn new(
        desc: &TableScanDesc,
        ranges: Vec<KeyRange>,
        source: Arc<dyn KvSource>,
        ctx: ExecContext,
    ) -> Result<TableScan> {
        check_scan_columns(&desc.columns, desc.handle_types.len())?;
        let schema: Vec<FieldType> = desc.columns.iter().map(|column| column.ty.clone()).collect();
        Ok(TableScan {
            local_time: LocalTime::new(&schema, &ctx.eval.time_zone),
            schema,
            scanner: RangeScanner::new(source, ranges, desc.desc, ctx),
            decoder: RowDecoder::new(&desc.columns, &desc.handle_types),
        })
    }
}

#[async_trait]
impl Operator for TableScan {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(pairs) = self.scanner.next().await? else { return Ok(None) };
        let mut chunk = Chunk::new(&self.schema, pairs.len());
        for (key, value) in pairs.iter() {
            let handle = key.get(ROW_PREFIX_LEN..).ok_or(NOT_A_ROW)?;
            self.decoder.append(handle, value, &mut chunk)?;
        }
        self.local_time.convert(&mut chunk);
        Ok(Some(chunk))
    }
}

const NOT_A_ROW: ExecError = ExecError::Corrupted("a scanned key is not a row key");
