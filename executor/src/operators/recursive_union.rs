//! `WITH RECURSIVE`: a union that reads its own rows.
//!
//! ```text
//! round 0   seed ───────────────────► rows ──► out
//! round 1   parts over those rows ──► rows ──► out
//! round 2   parts over those rows ──► …           until a round yields none
//! ```
//!
//! Rows go out as they come; a LIMIT above ends the rounds. Each round's operators are built anew over
//! the rows of the round before, by a factory. Values of the parts are stored in the types of the
//! seed as if in a table's columns: what does not fit is an error in strict mode.
//!
//! UNION DISTINCT keeps the keys of all rows in a hash table; rows that are known go neither out nor into
//! the next round.
//!
//! **Order:** round by round.
//!
//! **Cost** (planner): the parts once for each round; memory: the rows of two rounds, and with DISTINCT
//! the keys of all. What the quota does not hold ends with error 8175.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{CastContext, Chunk, Column, FieldType, MysqlError, errno};

use crate::batch;
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::RecursiveUnionDesc;
use crate::plan::fragment::same_kind;
use crate::table::groups::GroupTable;
use crate::table::keys::KeyEncoder;

/// The rows of a round.
pub type RoundRows = Arc<[Chunk]>;

/// Builds the parts that make the next round's rows of the last one's.
pub type RoundFactory = Box<dyn FnMut(RoundRows) -> Result<Vec<BoxOperator>> + Send>;

/// See the module documentation and [`RecursiveUnionDesc`].
pub struct RecursiveUnion {
    desc: RecursiveUnionDesc,
    schema: Vec<FieldType>,
    /// What is still to be read of this round.
    inputs: VecDeque<BoxOperator>,
    factory: RoundFactory,
    /// Rows that the next round reads.
    next: Vec<Chunk>,
    next_bytes: usize,
    /// Bytes of the rows that this round reads.
    last_bytes: usize,
    rounds: u64,
    /// Rows so far, for messages.
    rows: u64,
    seen: Option<Seen>,
    ctx: ExecContext,
    eval: EvalContext,
    cast: CastContext,
    memory: OperatorMemory,
}

/// Keys of all rows.
struct Seen {
    encoder: KeyEncoder,
    table: GroupTable,
    ids: Vec<u32>,
    fresh: Vec<u32>,
}

impl RecursiveUnion {
    /// The rows of `seed`, and of what `factory` builds over them.
    pub fn new(
        seed: BoxOperator,
        factory: RoundFactory,
        desc: RecursiveUnionDesc,
        ctx: ExecContext,
    ) -> Result<RecursiveUnion> {
        let schema: Vec<FieldType> = desc.columns.iter().map(|(_, ty)| ty.clone()).collect();
        let fits = seed.schema().len() == schema.len()
            && seed.schema().iter().zip(&schema).all(|(a, b)| same_kind(a, b));
        if !fits {
            return Err(ExecError::invalid_plan("the seed of a recursive union has other columns"));
        }
        let seen = desc.distinct.then(|| {
            let columns = schema.iter().enumerate();
            let exprs: Vec<Expr> = columns.map(|(at, ty)| Expr::column(at, ty.clone())).collect();
            let encoder = KeyEncoder::for_groups(&exprs);
            let table = GroupTable::new(encoder.int_keys());
            Seen { encoder, table, ids: Vec::new(), fresh: Vec::new() }
        });
        let eval = ctx.eval();
        Ok(RecursiveUnion {
            desc,
            schema,
            inputs: VecDeque::from([seed]),
            factory,
            next: Vec::new(),
            next_bytes: 0,
            last_bytes: 0,
            rounds: 0,
            rows: 0,
            seen,
            cast: eval.assignment(false),
            eval,
            memory: ctx.account("CTE"),
            ctx,
        })
    }

    /// Begins the next round; false: there is none.
    fn begin_round(&mut self) -> Result<bool> {
        if self.next.is_empty() {
            return Ok(false);
        }
        self.rounds += 1;
        if self.rounds > self.desc.rounds_max {
            let code = errno::ER_CTE_MAX_RECURSION_DEPTH;
            return Err(ExecError::Mysql(MysqlError::with_args(code, &[&self.rounds])));
        }
        let rows: RoundRows = std::mem::take(&mut self.next).into();
        self.last_bytes = std::mem::take(&mut self.next_bytes);
        let inputs = (self.factory)(rows)?;
        if inputs.iter().any(|input| input.schema().len() != self.schema.len()) {
            return Err(ExecError::invalid_plan("a part of a recursive union has other columns"));
        }
        self.inputs = inputs.into();
        Ok(true)
    }

    /// Rows of a round as they go out: in the seed's types, and without those that are known.
    fn take(&mut self, chunk: Chunk, types: &[FieldType]) -> Result<Chunk> {
        let chunk = batch::dense(chunk);
        let rows = chunk.num_rows();
        let mut columns = Vec::with_capacity(chunk.columns.len());
        for (at, column) in chunk.columns.into_iter().enumerate() {
            columns.push(self.stored(at, column, &types[at])?);
        }
        self.rows += rows as u64;
        let mut chunk = batch::from_columns(columns, rows);
        if let Some(seen) = &mut self.seen {
            let columns: Vec<Cow<'_, Column>> = chunk.columns.iter().map(Cow::Borrowed).collect();
            let keys = seen.encoder.encode_columns(&columns, rows)?;
            seen.table.assign(&keys, &mut seen.ids, &mut seen.fresh);
            if seen.fresh.len() < rows {
                chunk = batch::gather(&chunk, &seen.fresh)?;
            }
        }
        Ok(chunk)
    }

    /// A column's values in the seed's type.
    fn stored(&mut self, at: usize, column: Column, from: &FieldType) -> Result<Column> {
        let (name, to) = &self.desc.columns[at];
        let is_same = *to == FieldType { not_null: to.not_null, ..from.clone() };
        if is_same {
            return Ok(column);
        }
        let mut stored = Column::new(to, column.len());
        for row in 0..column.len() {
            let value = column.get(row);
            if value.is_null() {
                stored.push_null();
                continue;
            }
            let number = self.rows + row as u64 + 1;
            let value = cairn_types::cast_datum(&value.to_owned(), from, to, &mut self.cast);
            for warning in self.cast.take_warnings(name, number) {
                self.ctx.warnings.lock().push(warning);
            }
            let value = value.map_err(|error| ExecError::Mysql(error.for_column(name, number)))?;
            stored.push(value.as_ref());
        }
        Ok(stored)
    }
}

#[async_trait]
impl Operator for RecursiveUnion {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            let Some(input) = self.inputs.front_mut() else {
                if !self.begin_round()? {
                    self.memory.clear();
                    return Ok(None);
                }
                // Rounds may be many and none of them wait for anything.
                tokio::task::yield_now().await;
                continue;
            };
            let Some(chunk) = input.next().await? else {
                self.inputs.pop_front();
                continue;
            };
            let types = input.schema().to_vec();
            if chunk.num_selected() == 0 {
                continue;
            }
            let chunk = self.take(chunk, &types)?;
            self.ctx.flush_warnings(&mut self.eval);
            if chunk.num_rows() == 0 {
                continue;
            }
            self.next_bytes += chunk.memory_bytes();
            let keys = self.seen.as_ref().map_or(0, |seen| seen.table.bytes());
            self.memory.set((self.next_bytes + self.last_bytes + keys) as u64)?;
            self.next.push(chunk.clone());
            return Ok(Some(chunk));
        }
    }
}

/// Reads the rows of a round.
pub struct WorkTable {
    schema: Vec<FieldType>,
    rows: RoundRows,
    returned: usize,
}

impl WorkTable {
    /// The rows, as columns of types `schema`.
    pub fn new(schema: Vec<FieldType>, rows: RoundRows) -> WorkTable {
        WorkTable { schema, rows, returned: 0 }
    }
}

#[async_trait]
impl Operator for WorkTable {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let chunk = self.rows.get(self.returned).cloned();
        self.returned += 1;
        Ok(chunk)
    }
}
