//! `ORDER BY … LIMIT n`: the first rows in an order, without sorting the rest.
//!
//! A heap holds the keys of the best rows so far, the worst on top; a row whose key
//! is not below that one is dropped at once. The rows themselves lie in a
//! [`RowStore`] that is cleaned up when it holds as many dropped as kept rows. Of
//! equal rows the earlier wins.
//!
//! If memory is refused, what is kept and what follows are handed to a [`Sort`], which can go to disk, and the first
//! rows of that are taken.
//!
//! **Cost** (planner): rows × key + kept rows × log(n); memory: about 2 × n rows.

use std::collections::BinaryHeap;

use async_trait::async_trait;
use cairn_expr::EvalContext;
use cairn_types::{Chunk, FieldType};

use super::{ChunkSource, Limit, Sort, UnionAll};
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::Result;
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::order::{OrderEncoder, OrderKeys};
use crate::plan::fragment::check_expr;
use crate::plan::{LimitDesc, SortDesc, TopNDesc};
use crate::spill::must_spill;

/// Dropped rows that are kept before the first clean-up.
const GARBAGE_ROWS_MIN: usize = 4096;

/// A kept row: by key, then by arrival. The greatest is the first to go.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    key: Box<[u8]>,
    arrival: u64,
    row: u32,
}

/// See [`TopNDesc`].
pub struct TopN {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    desc: TopNDesc,
    encoder: OrderEncoder,
    offset: usize,
    keep: usize,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
    heap: BinaryHeap<Kept>,
    key_bytes: usize,
    arrived: u64,
    rows: RowStore,
    sorted: Vec<u32>,
    returned: usize,
    /// What does the work if there are too many rows to keep.
    sort: Option<BoxOperator>,
}

impl TopN {
    /// The first rows of `input`.
    pub fn new(input: BoxOperator, desc: &TopNDesc, ctx: ExecContext) -> Result<TopN> {
        let schema = input.schema().to_vec();
        desc.order_by.iter().try_for_each(|item| check_expr(&item.expr, &schema))?;
        let keep = usize::try_from(desc.offset.saturating_add(desc.limit)).unwrap_or(usize::MAX);
        Ok(TopN {
            rows: RowStore::new(&schema),
            input: Some(input),
            schema,
            desc: desc.clone(),
            encoder: OrderEncoder::new(&desc.order_by),
            offset: usize::try_from(desc.offset).unwrap_or(usize::MAX),
            keep: if desc.limit == 0 { 0 } else { keep },
            eval: ctx.eval(),
            memory: ctx.account("TopN"),
            sizes: ctx.chunk_rows(),
            ctx,
            heap: BinaryHeap::new(),
            key_bytes: 0,
            arrived: 0,
            sorted: Vec::new(),
            returned: 0,
            sort: None,
        })
    }

    async fn collect(&mut self, mut input: BoxOperator) -> Result<()> {
        if self.keep == 0 {
            return Ok(());
        }
        while let Some(chunk) = input.next().await? {
            self.ctx.check()?;
            if self.add(&batch::dense(chunk))? {
                return self.sort_all(input);
            }
        }
        self.ctx.flush_warnings(&mut self.eval);
        let kept = std::mem::take(&mut self.heap).into_sorted_vec();
        self.sorted = kept.into_iter().skip(self.offset).map(|kept| kept.row).collect();
        Ok(())
    }

    /// Lets a sort do what follows.
    fn sort_all(&mut self, rest: BoxOperator) -> Result<()> {
        self.ctx.flush_warnings(&mut self.eval);
        let kept = std::mem::take(&mut self.heap).into_sorted_vec();
        let kept: Vec<u32> = kept.into_iter().map(|kept| kept.row).collect();
        let kept = kept.chunks(self.sizes.max()).map(|rows| self.rows.gather(rows));
        let kept: Result<Vec<Chunk>> = kept.collect();
        let kept = ChunkSource::from_chunks(self.schema.clone(), kept?, self.ctx.clone());
        self.rows = RowStore::new(&self.schema);
        self.memory.clear();
        let all = Box::new(UnionAll::new(self.schema.clone(), vec![Box::new(kept), rest]));
        let order_by = self.desc.order_by.clone();
        let sort = Sort::new(all, &SortDesc { order_by }, self.ctx.clone())?;
        let limit = LimitDesc { offset: self.desc.offset, limit: self.desc.limit };
        self.sort = Some(Box::new(Limit::new(Box::new(sort), &limit)));
        Ok(())
    }

    /// Keeps what is worth it; true: that is more than memory holds.
    fn add(&mut self, chunk: &Chunk) -> Result<bool> {
        let mut keys = OrderKeys::default();
        self.encoder.encode(chunk, &mut self.eval, &mut keys)?;
        let mut taken = Vec::new();
        for row in 0..keys.len() {
            self.arrived += 1;
            let key = keys.get(row);
            if self.heap.len() == self.keep {
                let worst = self.heap.peek().expect("something is kept");
                if key >= &*worst.key {
                    continue;
                }
                self.key_bytes -= worst.key.len();
                self.heap.pop();
            }
            let stored = (self.rows.len() + taken.len()) as u32;
            taken.push(row as u32);
            self.key_bytes += key.len();
            self.heap.push(Kept { key: key.into(), arrival: self.arrived, row: stored });
        }
        match taken.len() == chunk.num_rows() {
            true => self.rows.append(chunk)?,
            false if taken.is_empty() => {}
            false => self.rows.append(&batch::gather(chunk, &taken)?)?,
        }
        if self.rows.len() >= 2 * self.heap.len() + GARBAGE_ROWS_MIN {
            self.clean_up()?;
        }
        let entries = self.heap.capacity() * size_of::<Kept>();
        let bytes = self.rows.bytes() + self.key_bytes + entries;
        must_spill(&mut self.memory, self.ctx.spill.as_ref(), 0, bytes)
    }

    /// Drops the rows that are no longer in the heap.
    fn clean_up(&mut self) -> Result<()> {
        let mut kept = std::mem::take(&mut self.heap).into_vec();
        let rows: Vec<u32> = kept.iter().map(|kept| kept.row).collect();
        self.rows.retain(&rows)?;
        kept.iter_mut().enumerate().for_each(|(row, kept)| kept.row = row as u32);
        self.heap = kept.into();
        Ok(())
    }
}

#[async_trait]
impl Operator for TopN {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if let Some(input) = self.input.take() {
            self.collect(input).await?;
        }
        self.ctx.check()?;
        if let Some(sort) = &mut self.sort {
            return sort.next().await;
        }
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
