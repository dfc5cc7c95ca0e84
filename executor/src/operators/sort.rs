//! `ORDER BY` over everything, in memory.
//!
//! Rows are collected into one chunk and their sort keys ([`crate::order`]) beside
//! it; what is sorted are 32-byte entries of key prefix and row id, so that most
//! comparisons touch neither keys nor rows. The sort is stable through the row id.
//!
//! **Cost** (planner): rows × log(rows) × compare + rows × copy; memory: rows,
//! keys, 32 bytes per row.
//!
//! **Left out:** spilling (error 8175 over the quota).

use async_trait::async_trait;
use cairn_expr::EvalContext;
use cairn_types::{Chunk, FieldType};

use crate::batch::RowStore;
use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::order::{OrderEncoder, OrderKeys, PREFIX_BYTES};
use crate::plan::SortDesc;
use crate::plan::fragment::check_expr;

/// Bytes of one entry.
const ENTRY_BYTES: usize = size_of::<(u128, u32)>();

/// See [`SortDesc`].
pub struct Sort {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    encoder: OrderEncoder,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
    rows: RowStore,
    /// Row ids in the order asked for, and how many were returned.
    sorted: Vec<u32>,
    returned: usize,
}

impl Sort {
    /// Sorts `input`.
    pub fn new(input: BoxOperator, desc: &SortDesc, ctx: ExecContext) -> Result<Sort> {
        let schema = input.schema().to_vec();
        desc.order_by.iter().try_for_each(|item| check_expr(&item.expr, &schema))?;
        Ok(Sort {
            rows: RowStore::new(&schema),
            input: Some(input),
            schema,
            encoder: OrderEncoder::new(&desc.order_by),
            eval: ctx.eval(),
            memory: ctx.account("Sort"),
            sizes: ctx.chunk_rows(),
            ctx,
            sorted: Vec::new(),
            returned: 0,
        })
    }

    async fn collect(&mut self, mut input: BoxOperator) -> Result<()> {
        let mut keys = OrderKeys::default();
        while let Some(chunk) = input.next().await? {
            self.ctx.check()?;
            self.encoder.encode(&chunk, &mut self.eval, &mut keys)?;
            self.rows.append(&chunk)?;
            let entries = self.rows.len() * (ENTRY_BYTES + size_of::<u32>());
            self.memory.set((self.rows.bytes() + keys.bytes() + entries) as u64)?;
        }
        self.ctx.flush_warnings(&mut self.eval);
        drop(input);
        if self.rows.len() > u32::MAX as usize {
            return Err(ExecError::invalid_plan("a sort has too many rows"));
        }
        let mut entries: Vec<(u128, u32)> =
            (0..keys.len()).map(|row| (keys.prefix(row), row as u32)).collect();
        if keys.longest() <= PREFIX_BYTES {
            entries.sort_unstable();
        } else {
            entries.sort_unstable_by(|a, b| {
                let by_prefix = a.0.cmp(&b.0);
                by_prefix
                    .then_with(|| keys.get(a.1 as usize).cmp(keys.get(b.1 as usize)))
                    .then_with(|| a.1.cmp(&b.1))
            });
        }
        self.sorted = entries.into_iter().map(|(_, row)| row).collect();
        Ok(())
    }
}

#[async_trait]
impl Operator for Sort {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if let Some(input) = self.input.take() {
            self.collect(input).await?;
        }
        self.ctx.check()?;
        let end = (self.returned + self.sizes.advance()).min(self.sorted.len());
        if self.returned == end {
            self.memory.clear();
            self.rows = RowStore::new(&self.schema);
            return Ok(None);
        }
        let chunk = self.rows.gather(&self.sorted[self.returned..end])?;
        self.returned = end;
        Ok(Some(chunk))
    }
}
