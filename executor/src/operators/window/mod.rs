//! Window functions over input that is sorted by the window.
//!
//! A chunk is cut into *spans*: runs of peers in one partition. Every function takes the spans as they
//! come and appends to its own output column as far as it knows the answer; a row goes out once all
//! functions know it. What a row waits for, in the order of what has to be held:
//!
//! | function | known at |
//! |---|---|
//! | ROW_NUMBER, RANK, DENSE_RANK | the row |
//! | aggregates and FIRST_VALUE from the partition's first row up to the current one ([`running`]) | the row; with RANGE the last peer |
//! | aggregates over the partition | its last row; only the rows themselves are held for it |
//! | everything else ([`ranking`], [`values`], [`framed`]) | its last row; the arguments are held too |
//!
//! So a window of the first two kinds holds one group of peers, however large partitions are.
//! Others hold a partition; one that the quota does not hold ends with error 8175.
//!
//! **Order:** that of the input.
//!
//! **Cost** (planner): rows × (key comparison + functions); a frame that moves at both ends costs an
//! aggregate the logarithm of its rows ([`framed`]).
//!
//! **Sources.** MySQL manual 14.20, "Window Functions"; V. Leis et al., "Efficient Processing of Window
//! Functions in Analytical SQL Queries", VLDB 2015.
//!
//! **Left out:** partitions on disk.

mod frame;
mod framed;
mod ranking;
mod running;
mod values;

use std::ops::Range;

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, Column, ColumnData, Datum, FieldType, MysqlError};

use self::frame::{Frames, PartitionKeys};
use crate::batch::{self, RowStore};
use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::order::{OrderEncoder, OrderKeys};
use crate::plan::fragment::check_expr;
use crate::plan::{SortItem, WindowDesc, WindowFunc, WindowFuncDesc};

/// Bytes of text in an output column above which no more is appended: offsets are 32 bits.
const COLUMN_TEXT_MAX_BYTES: usize = u32::MAX as usize / 2;

/// A run of rows of a chunk that are peers.
struct Span {
    rows: Range<usize>,
    /// Whether other peers came before; else the span goes on with the last one's.
    opens: bool,
}

/// The rows of a partition that is complete.
struct Partition {
    rows: usize,
    /// The first row of each group of peers.
    peers: Vec<u32>,
    /// The frame of each row, if some function asks.
    frames: Frames,
}

impl Partition {
    /// Groups of peers.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = self.peers.iter().skip(1).map(|start| *start as usize);
        let starts = self.peers.iter().map(|start| *start as usize);
        starts.zip(ends.chain([self.rows])).map(|(start, end)| start..end)
    }
}

/// What functions work with.
struct Work<'w> {
    eval: &'w mut EvalContext,
    ctx: &'w ExecContext,
    memory: &'w mut OperatorMemory,
    /// Bytes that the operator holds besides the function and its output column.
    base_bytes: usize,
}

impl Work<'_> {
    /// Called before a value is appended, since values may be long: the function itself holds
    /// `bytes`.
    #[inline]
    fn check(&mut self, bytes: usize, out: &Column) -> Result<()> {
        self.ctx.check()?;
        if let ColumnData::Bytes { data, .. } | ColumnData::Json { data, .. } = out.data()
            && data.len() > COLUMN_TEXT_MAX_BYTES
        {
            return Err(ExecError::TooMuchText);
        }
        self.memory.set((self.base_bytes + bytes + out.memory_bytes()) as u64)
    }

    /// Appends the only value of `value` to `out`, `rows` times.
    fn repeat(
        &mut self,
        bytes: usize,
        value: &Column,
        rows: usize,
        out: &mut Column,
    ) -> Result<()> {
        self.check(bytes, out)?;
        if !matches!(value.data(), ColumnData::Bytes { .. } | ColumnData::Json { .. }) {
            out.append_repeated(value, 0, rows);
            return Ok(());
        }
        for _ in 0..rows {
            self.check(bytes, out)?;
            out.append_from(value, 0);
        }
        Ok(())
    }
}

/// One function's state. Output columns grow by one value for each row, in their order.
trait WindowState: Send {
    /// Rows of one partition; `args` are the values of the arguments for the whole chunk.
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        out: &mut Column,
        work: &mut Work<'_>,
    ) -> Result<()>;

    /// The partition ends: what is still missing is appended, and the next one begins.
    fn end(&mut self, partition: &Partition, out: &mut Column, work: &mut Work<'_>) -> Result<()>;

    /// Bytes held.
    fn bytes(&self) -> usize;
}

/// A function at work.
struct Function {
    args: Vec<Expr>,
    state: Box<dyn WindowState>,
    out: Column,
    ty: FieldType,
}

impl Function {
    fn bytes(&self) -> usize {
        self.state.bytes() + self.out.memory_bytes()
    }
}

/// See the module documentation and [`WindowDesc`].
pub struct Window {
    input: Option<BoxOperator>,
    input_types: Vec<FieldType>,
    schema: Vec<FieldType>,
    partition_by: OrderEncoder,
    order_by: OrderEncoder,
    /// Keys of the last row, if there was one.
    last: Option<(Vec<u8>, Vec<u8>)>,
    functions: Vec<Function>,
    /// What frames are made of, and the open partition's peers.
    keys: PartitionKeys,
    /// Rows that are not handed out, from `emitted` on.
    held: RowStore,
    emitted: usize,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    sizes: ChunkRows,
}

impl Window {
    /// The functions of `desc` over `input`.
    pub fn new(input: BoxOperator, desc: &WindowDesc, ctx: ExecContext) -> Result<Window> {
        let input_types = input.schema().to_vec();
        desc.partition_by.iter().try_for_each(|expr| check_expr(expr, &input_types))?;
        desc.order_by.iter().try_for_each(|item| check_expr(&item.expr, &input_types))?;
        let mut eval = ctx.eval();
        let keys = PartitionKeys::new(desc, &input_types, &mut eval)?;
        let mut functions = Vec::with_capacity(desc.functions.len());
        for function in &desc.functions {
            function.func.args().into_iter().try_for_each(|arg| check_expr(arg, &input_types))?;
            let (args, state) = new_state(function, desc, &ctx, &mut eval)?;
            let out = Column::new(&function.ty, 0);
            functions.push(Function { args, state, out, ty: function.ty.clone() });
        }
        let mut schema = input_types.clone();
        schema.extend(desc.functions.iter().map(|function| function.ty.clone()));
        let ascending = |expr: &Expr| SortItem { expr: expr.clone(), desc: false };
        let partition_by: Vec<SortItem> = desc.partition_by.iter().map(ascending).collect();
        Ok(Window {
            input: Some(input),
            held: RowStore::new(&input_types),
            input_types,
            schema,
            partition_by: OrderEncoder::new(&partition_by),
            order_by: OrderEncoder::new(&desc.order_by),
            last: None,
            functions,
            keys,
            emitted: 0,
            eval,
            memory: ctx.account("Window"),
            sizes: ctx.chunk_rows(),
            ctx,
        })
    }

    fn add(&mut self, chunk: &Chunk) -> Result<()> {
        let partitions = self.cut(chunk)?;
        let mut args = Vec::with_capacity(self.functions.len());
        for function in &self.functions {
            let mut columns = Vec::with_capacity(function.args.len());
            for arg in &function.args {
                columns.push(batch::eval(arg, chunk, &mut self.eval)?.into_owned());
            }
            args.push(columns);
        }
        self.keys.read(chunk, &mut self.eval)?;
        self.held.append(chunk)?;
        for (opens, spans) in &partitions {
            if *opens {
                self.end_partition()?;
            }
            self.keys.add(spans);
            for (at, args) in args.iter().enumerate() {
                let (function, mut work) = self.function(at);
                function.state.add(args, spans, &mut function.out, &mut work)?;
            }
        }
        self.ctx.flush_warnings(&mut self.eval);
        self.memory.set(self.bytes() as u64)
    }

    /// The spans of a chunk by partition, and whether each partition begins here.
    fn cut(&mut self, chunk: &Chunk) -> Result<Vec<(bool, Vec<Span>)>> {
        let (mut partition, mut order) = (OrderKeys::default(), OrderKeys::default());
        self.partition_by.encode(chunk, &mut self.eval, &mut partition)?;
        self.order_by.encode(chunk, &mut self.eval, &mut order)?;
        let mut cut: Vec<(bool, Vec<Span>)> = Vec::new();
        for row in 0..chunk.num_rows() {
            let before = match (row, &self.last) {
                (0, Some((partition, order))) => Some((&partition[..], &order[..])),
                (0, None) => None,
                (row, _) => Some((partition.get(row - 1), order.get(row - 1))),
            };
            let same_partition = before.is_some_and(|(key, _)| key == partition.get(row));
            let same_peers = same_partition && before.is_some_and(|(_, key)| key == order.get(row));
            match cut.last_mut() {
                Some((_, spans)) if same_partition => match spans.last_mut() {
                    Some(span) if same_peers => span.rows.end = row + 1,
                    _ => spans.push(Span { rows: row..row + 1, opens: true }),
                },
                _ => {
                    let span = Span { rows: row..row + 1, opens: !same_peers };
                    cut.push((!same_partition, vec![span]));
                }
            }
        }
        if let Some(last) = chunk.num_rows().checked_sub(1) {
            self.last = Some((partition.get(last).to_vec(), order.get(last).to_vec()));
        }
        Ok(cut)
    }

    fn end_partition(&mut self) -> Result<()> {
        if self.keys.rows() == 0 {
            return Ok(());
        }
        let partition = self.keys.end();
        for at in 0..self.functions.len() {
            let (function, mut work) = self.function(at);
            function.state.end(&partition, &mut function.out, &mut work)?;
        }
        self.ctx.flush_warnings(&mut self.eval);
        Ok(())
    }

    /// A function, and what it works with.
    fn function(&mut self, at: usize) -> (&mut Function, Work<'_>) {
        let base_bytes = self.bytes() - self.functions[at].bytes();
        let work =
            Work { eval: &mut self.eval, ctx: &self.ctx, memory: &mut self.memory, base_bytes };
        (&mut self.functions[at], work)
    }

    /// Bytes held.
    fn bytes(&self) -> usize {
        let functions: usize = self.functions.iter().map(Function::bytes).sum();
        self.held.bytes() + self.keys.bytes() + functions
    }

    /// The next rows that all functions know.
    fn ready(&mut self) -> Result<Option<Chunk>> {
        let known = self.functions.iter().map(|function| function.out.len()).min();
        // Without functions every row is known.
        let known = known.unwrap_or(self.held.len());
        let end = known.min(self.emitted + self.sizes.max());
        if end == self.emitted {
            return Ok(None);
        }
        let rows: Vec<u32> = (self.emitted as u32..end as u32).collect();
        let mut columns = self.held.gather(&rows)?.columns;
        for function in &self.functions {
            columns.push(batch::slice_column(&function.out, self.emitted, end));
        }
        let rows = end - self.emitted;
        self.emitted = end;
        if self.emitted == known {
            self.forget_emitted()?;
        }
        Ok(Some(batch::from_columns(columns, rows)))
    }

    /// Lets go of the rows that were handed out, if they are worth copying the others.
    fn forget_emitted(&mut self) -> Result<()> {
        let rows = self.held.len();
        if self.emitted < rows && self.emitted < rows - self.emitted {
            return Ok(());
        }
        let from = self.emitted;
        let rest: Vec<u32> = (from as u32..rows as u32).collect();
        match rest.is_empty() {
            true => self.held = RowStore::new(&self.input_types),
            false => self.held.retain(&rest)?,
        }
        for function in &mut self.functions {
            let mut out = Column::new(&function.ty, 0);
            if function.out.len() > from {
                out = batch::slice_column(&function.out, from, function.out.len());
            }
            function.out = out;
        }
        self.emitted = 0;
        self.memory.force_set(self.bytes() as u64);
        Ok(())
    }
}

#[async_trait]
impl Operator for Window {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some(chunk) = self.ready()? {
                return Ok(Some(chunk));
            }
            let Some(input) = &mut self.input else { return Ok(None) };
            match input.next().await? {
                Some(chunk) => {
                    let chunk = batch::dense(chunk);
                    if chunk.num_rows() > 0 {
                        self.add(&chunk)?;
                    }
                }
                None => {
                    self.input = None;
                    self.end_partition()?;
                }
            }
        }
    }
}

/// The state of a function, and what it is to be given of every row.
fn new_state(
    function: &WindowFuncDesc,
    desc: &WindowDesc,
    ctx: &ExecContext,
    eval: &mut EvalContext,
) -> Result<(Vec<Expr>, Box<dyn WindowState>)> {
    let running = running::Known::of(&desc.frame);
    Ok(match &function.func {
        WindowFunc::RowNumber => (Vec::new(), Box::new(ranking::RowNumber::default())),
        WindowFunc::Rank => (Vec::new(), Box::new(ranking::Rank::new(false))),
        WindowFunc::DenseRank => (Vec::new(), Box::new(ranking::Rank::new(true))),
        WindowFunc::PercentRank => (Vec::new(), Box::new(ranking::Relative { percent: true })),
        WindowFunc::CumeDist => (Vec::new(), Box::new(ranking::Relative { percent: false })),
        WindowFunc::Ntile(parts) => {
            let parts = count_argument(parts, "ntile", 1, eval)?;
            (Vec::new(), Box::new(ranking::Ntile { parts }))
        }
        WindowFunc::Shift { lead, value, offset, default } => {
            let name = if *lead { "lead" } else { "lag" };
            let offset = count_argument(offset, name, 0, eval)?;
            let state = values::Shift::new(*lead, offset, &function.ty);
            (vec![value.clone(), default.clone()], Box::new(state))
        }
        WindowFunc::FirstValue(value) if running.is_some() => {
            (vec![value.clone()], Box::new(running::First::new(&function.ty)))
        }
        WindowFunc::FirstValue(value) => {
            let state = values::InFrame::new(values::Place::First, &function.ty);
            (vec![value.clone()], Box::new(state))
        }
        WindowFunc::LastValue(value) => {
            let state = values::InFrame::new(values::Place::Last, &function.ty);
            (vec![value.clone()], Box::new(state))
        }
        WindowFunc::NthValue { value, nth } => {
            let nth = count_argument(nth, "nth_value", 1, eval)?;
            let state = values::InFrame::new(values::Place::Nth(nth), &function.ty);
            (vec![value.clone()], Box::new(state))
        }
        WindowFunc::Aggregate(agg) => {
            if !agg.is_splittable() {
                return Err(ExecError::invalid_plan("this aggregate cannot be windowed"));
            }
            let state: Box<dyn WindowState> = match running {
                Some(known) => Box::new(running::Running::new(agg, known, ctx)),
                None => Box::new(framed::Framed::new(agg, ctx)),
            };
            (agg.args.clone(), state)
        }
    })
}

/// The value of an argument that says how many; error 1210 if it is no number of at least `least`.
fn count_argument(expr: &Expr, name: &str, least: u64, eval: &mut EvalContext) -> Result<u64> {
    let count = crate::plan::row_count(&value_of(expr, eval)?);
    count.filter(|count| *count >= least).ok_or_else(|| {
        let error = MysqlError::with_args(cairn_types::errno::ER_WRONG_ARGUMENTS, &[&name]);
        ExecError::Mysql(error)
    })
}

/// The value of an expression without columns.
fn value_of(expr: &Expr, eval: &mut EvalContext) -> Result<Datum> {
    check_expr(expr, &[])?;
    let mut row = Chunk::default();
    row.set_rows_without_columns(1);
    Ok(expr.eval(&row, eval)?.get(0).to_owned())
}
