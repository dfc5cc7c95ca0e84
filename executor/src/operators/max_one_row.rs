//! A scalar subquery's rows: exactly one comes out.
//!
//! No row gives a row of NULLs; a second row is MySQL's error 1242.

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use crate::batch;
use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};

/// See the module documentation.
pub struct MaxOneRow {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
}

impl MaxOneRow {
    /// The only row of `input`.
    pub fn new(input: BoxOperator) -> MaxOneRow {
        let mut schema = input.schema().to_vec();
        schema.iter_mut().for_each(|ty| ty.not_null = false);
        MaxOneRow { input: Some(input), schema }
    }
}

#[async_trait]
impl Operator for MaxOneRow {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(mut input) = self.input.take() else { return Ok(None) };
        let mut only: Option<Chunk> = None;
        while let Some(chunk) = input.next().await? {
            let rows = chunk.num_selected();
            if rows > 1 || (rows == 1 && only.is_some()) {
                return Err(ExecError::SubqueryRows);
            }
            if rows == 1 {
                only = Some(batch::dense(chunk));
            }
        }
        Ok(Some(only.unwrap_or_else(|| batch::nulls(&self.schema, 1))))
    }
}
