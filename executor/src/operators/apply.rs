//! Runs a subquery once per outer row: what could not be decorrelated.
//!
//! The subquery is built anew for every outer row by a factory that gets the
//! values of the outer columns it depends on; its rows are then joined with the
//! outer row exactly as a [`super::HashJoin`] without keys would.
//! Consecutive outer rows with the same values share one execution.
//!
//! **Cost** (planner): outer rows × cost of the subquery.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_expr::EvalContext;
use cairn_types::{Chunk, Datum, FieldType};

use super::hash_join::JoinCore;
use super::hash_join::probe::ProbeCursor;
use crate::batch::{self, RowStore};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::ApplyDesc;
use crate::plan::fragment::check_exprs;

/// Builds the subquery for the values of the outer columns it depends on, in the
/// order of [`ApplyDesc::outer_columns`].
pub type SubqueryFactory = Box<dyn FnMut(&[Datum]) -> Result<BoxOperator> + Send>;

/// See the module documentation and [`ApplyDesc`].
pub struct Apply {
    outer: BoxOperator,
    factory: SubqueryFactory,
    desc: ApplyDesc,
    inner_types: Vec<FieldType>,
    schema: Vec<FieldType>,
    ctx: ExecContext,
    eval: EvalContext,
    memory: OperatorMemory,
    /// Rows of the current outer chunk, and the next of them.
    chunk: Chunk,
    row: usize,
    /// The subquery's rows for the last values.
    last: Option<(Vec<Datum>, Arc<JoinCore>)>,
    cursor: Option<(Arc<JoinCore>, ProbeCursor)>,
}

impl Apply {
    /// Runs what `factory` builds, whose rows have `inner_types`, for each row of
    /// `outer`.
    pub fn new(
        outer: BoxOperator,
        inner_types: Vec<FieldType>,
        factory: SubqueryFactory,
        desc: ApplyDesc,
        ctx: ExecContext,
    ) -> Result<Apply> {
        let both = [outer.schema(), &inner_types].concat();
        check_exprs(&desc.conditions, &both)?;
        if desc.outer_columns.iter().any(|column| *column >= outer.schema().len()) {
            return Err(ExecError::invalid_plan("a subquery depends on a missing column"));
        }
        if matches!(desc.kind, crate::plan::JoinKind::RightOuter) {
            return Err(ExecError::invalid_plan("a subquery's rows cannot be preserved"));
        }
        let schema = desc.kind.output_types(outer.schema(), &inner_types);
        Ok(Apply {
            outer,
            factory,
            desc,
            inner_types,
            schema,
            eval: ctx.eval(),
            memory: ctx.account("Apply"),
            ctx,
            chunk: Chunk::default(),
            row: 0,
            last: None,
            cursor: None,
        })
    }

    /// Runs the subquery for outer row `row`, or takes the last result.
    async fn execute(&mut self, row: usize) -> Result<Arc<JoinCore>> {
        let columns = self.desc.outer_columns.iter();
        let values: Vec<Datum> =
            columns.map(|column| self.chunk.get(*column, row).to_owned()).collect();
        if let Some((last, core)) = &self.last
            && same_values(last, &values)
        {
            return Ok(core.clone());
        }
        // The old rows go before the new ones come.
        self.last = None;
        self.memory.clear();
        let mut inner = (self.factory)(&values)?;
        let mut rows = RowStore::new(&self.inner_types);
        while let Some(chunk) = inner.next().await? {
            self.ctx.check()?;
            rows.append(&chunk)?;
            self.memory.set(rows.bytes() as u64)?;
        }
        let core = Arc::new(JoinCore::without_keys(
            &self.desc,
            self.outer.schema().to_vec(),
            self.inner_types.clone(),
            rows,
        ));
        self.last = Some((values, core.clone()));
        Ok(core)
    }
}

/// Whether two lists of outer values give the same subquery: byte for byte, not by
/// a collation.
fn same_values(a: &[Datum], b: &[Datum]) -> bool {
    let same = |a: &Datum, b: &Datum| match (a, b) {
        // 1.0 equals 1.00, but the subquery could tell them apart.
        (Datum::Decimal(a), Datum::Decimal(b)) => a == b && a.scale() == b.scale(),
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b) && a == b,
    };
    a.iter().zip(b).all(|(a, b)| same(a, b))
}

#[async_trait]
impl Operator for Apply {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some((core, cursor)) = &mut self.cursor {
                let joined = cursor.next(core, &mut self.eval)?;
                self.ctx.flush_warnings(&mut self.eval);
                match joined {
                    Some(joined) => return Ok(Some(joined)),
                    None => self.cursor = None,
                }
            }
            if self.row < self.chunk.num_rows() {
                let row = self.row;
                self.row += 1;
                let core = self.execute(row).await?;
                let outer = batch::gather(&self.chunk, &[row as u32])?;
                let cursor = ProbeCursor::new(&core, outer, &mut self.eval)?;
                self.cursor = Some((core, cursor));
                continue;
            }
            let Some(chunk) = self.outer.next().await? else { return Ok(None) };
            self.chunk = batch::dense(chunk);
            self.row = 0;
        }
    }
}
