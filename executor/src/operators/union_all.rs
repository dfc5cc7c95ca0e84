//! `UNION ALL`: the inputs' rows, one input after the other.
//!
//! The planner makes all inputs the same types. For parallel inputs wrap each in
//! an [`super::Exchange`] first.

use std::collections::VecDeque;

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};
use crate::plan::fragment::same_kind;

/// See the module documentation.
pub struct UnionAll {
    schema: Vec<FieldType>,
    inputs: VecDeque<BoxOperator>,
    /// Whether all inputs hold their columns as `schema` says.
    fits: bool,
}

impl UnionAll {
    /// The rows of `inputs`, as columns of types `schema`.
    pub fn new(schema: Vec<FieldType>, inputs: Vec<BoxOperator>) -> UnionAll {
        let fits = inputs.iter().all(|input| {
            let columns = input.schema();
            columns.len() == schema.len()
                && columns.iter().zip(&schema).all(|(a, b)| same_kind(a, b))
        });
        UnionAll { schema, inputs: inputs.into(), fits }
    }
}

#[async_trait]
impl Operator for UnionAll {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if !self.fits {
            return Err(ExecError::invalid_plan("the inputs of a union differ in type"));
        }
        while let Some(input) = self.inputs.front_mut() {
            if let Some(chunk) = input.next().await? {
                return Ok(Some(chunk));
            }
            self.inputs.pop_front();
        }
        Ok(None)
    }
}
