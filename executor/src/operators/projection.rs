//! Computes the expressions of a select list.
//!
//! Columns that are passed on are moved, not copied, at their last use.

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, Column, FieldType};

use crate::batch;
use crate::context::ExecContext;
use crate::error::Result;
use crate::operator::{BoxOperator, Operator};
use crate::plan::ProjectionDesc;
use crate::plan::fragment::check_exprs;

/// See [`ProjectionDesc`].
pub struct Projection {
    input: BoxOperator,
    exprs: Vec<Expr>,
    schema: Vec<FieldType>,
    ctx: ExecContext,
    eval: EvalContext,
}

impl Projection {
    /// Computes over `input`.
    pub fn new(input: BoxOperator, desc: &ProjectionDesc, ctx: ExecContext) -> Result<Projection> {
        check_exprs(&desc.exprs, input.schema())?;
        let exprs = desc.exprs.clone();
        let schema = exprs.iter().map(|expr| expr.ty().clone()).collect();
        Ok(Projection { input, exprs, schema, eval: ctx.eval(), ctx })
    }
}

#[async_trait]
impl Operator for Projection {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(chunk) = self.input.next().await? else { return Ok(None) };
        self.ctx.check()?;
        let projected = project(&self.exprs, batch::dense(chunk), &mut self.eval)?;
        self.ctx.flush_warnings(&mut self.eval);
        Ok(Some(projected))
    }
}

fn project(exprs: &[Expr], mut chunk: Chunk, eval: &mut EvalContext) -> Result<Chunk> {
    let rows = chunk.num_rows();
    let mut columns: Vec<Option<Column>> = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let passed_on = expr.as_column().is_some();
        columns.push(if passed_on { None } else { Some(expr.eval(&chunk, eval)?) });
    }
    // From the end, so that the first use of a column from here is its last.
    for at in (0..exprs.len()).rev() {
        let Some(index) = exprs[at].as_column() else { continue };
        let later = exprs[..at].iter().any(|expr| expr.as_column() == Some(index));
        columns[at] = Some(match later {
            true => chunk.columns[index].clone(),
            false => {
                let empty = chunk.columns[index].empty_like(0);
                std::mem::replace(&mut chunk.columns[index], empty)
            }
        });
    }
    Ok(batch::from_columns(columns.into_iter().flatten().collect(), rows))
}
