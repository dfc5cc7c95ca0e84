//! `VALUES`, and the one row without columns that `SELECT 1` reads (dual).

use async_trait::async_trait;
use cairn_expr::{EvalContext, Expr, NoRow};
use cairn_types::{Chunk, Datum, FieldType};

use super::rows::value_fits;
use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::operator::Operator;
use crate::plan::fragment::check_exprs;

/// Rows of constant expressions.
pub struct Values {
    schema: Vec<FieldType>,
    rows: std::vec::IntoIter<Vec<Expr>>,
    sizes: ChunkRows,
    ctx: ExecContext,
    eval: EvalContext,
}

impl Values {
    /// Rows of expressions without columns; every row has one expression per
    /// column of `schema`, of its type.
    pub fn new(schema: Vec<FieldType>, rows: Vec<Vec<Expr>>, ctx: ExecContext) -> Result<Values> {
        for row in &rows {
            if row.len() != schema.len() {
                return Err(ExecError::invalid_plan("a row of VALUES has the wrong length"));
            }
            check_exprs(row, &[])?;
            let fits = row
                .iter()
                .zip(&schema)
                .all(|(expr, ty)| expr.is_null_constant() || expr.ty().physical() == ty.physical());
            if !fits {
                return Err(WRONG_TYPE);
            }
        }
        let rows = rows.into_iter();
        Ok(Values { schema, rows, sizes: ctx.chunk_rows(), eval: ctx.eval(), ctx })
    }

    /// One row without columns.
    pub fn dual(ctx: ExecContext) -> Values {
        let rows = vec![Vec::new()].into_iter();
        Values { schema: Vec::new(), rows, sizes: ctx.chunk_rows(), eval: ctx.eval(), ctx }
    }
}

const WRONG_TYPE: ExecError = ExecError::Corrupted("a value of VALUES is not of its column's type");

#[async_trait]
impl Operator for Values {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        self.ctx.check()?;
        let count = self.sizes.advance().min(self.rows.len());
        if count == 0 {
            return Ok(None);
        }
        let mut chunk = Chunk::new(&self.schema, count);
        for row in self.rows.by_ref().take(count) {
            let mut datums: Vec<Datum> = Vec::with_capacity(row.len());
            for (expr, ty) in row.iter().zip(&self.schema) {
                let value = expr.eval_row(&NoRow, &mut self.eval)?;
                if !value_fits(&value, ty) {
                    return Err(WRONG_TYPE);
                }
                datums.push(value);
            }
            chunk.push_row(&datums);
        }
        self.ctx.flush_warnings(&mut self.eval);
        Ok(Some(chunk))
    }
}
