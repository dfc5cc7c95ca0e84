//! `WHERE`, `HAVING`, `ON`: keeps rows for which all conditions are true.
//!
//! Only the selection of a chunk changes; its columns stay as they are. Cost: rows
//! × conditions; a condition sees only what those before it let through.

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, FieldType};

use crate::context::ExecContext;
use crate::error::Result;
use crate::operator::{BoxOperator, Operator};
use crate::plan::SelectionDesc;
use crate::plan::fragment::check_exprs;

/// See [`SelectionDesc`].
pub struct Selection {
    input: BoxOperator,
    conditions: Vec<Expr>,
    ctx: ExecContext,
    eval: EvalContext,
}

impl Selection {
    /// Filters `input`.
    pub fn new(input: BoxOperator, desc: &SelectionDesc, ctx: ExecContext) -> Result<Selection> {
        check_exprs(&desc.conditions, input.schema())?;
        Ok(Selection { input, conditions: desc.conditions.clone(), eval: ctx.eval(), ctx })
    }
}

#[async_trait]
impl Operator for Selection {
    fn schema(&self) -> &[FieldType] {
        self.input.schema()
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        while let Some(mut chunk) = self.input.next().await? {
            self.ctx.check()?;
            cairn_expr::eval_filter(&self.conditions, &mut chunk, &mut self.eval)?;
            self.ctx.flush_warnings(&mut self.eval);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}
