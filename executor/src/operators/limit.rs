//! `LIMIT`: the first rows as they come. Reads no further than needed.

use async_trait::async_trait;
use cairn_types::{Chunk, FieldType};

use crate::error::Result;
use crate::operator::{BoxOperator, Operator};
use crate::plan::LimitDesc;

/// See [`LimitDesc`].
pub struct Limit {
    input: Option<BoxOperator>,
    schema: Vec<FieldType>,
    skip: u64,
    left: u64,
}

impl Limit {
    /// A limit over `input`.
    pub fn new(input: BoxOperator, desc: &LimitDesc) -> Limit {
        let schema = input.schema().to_vec();
        let input = (desc.limit > 0).then_some(input);
        Limit { input, schema, skip: desc.offset, left: desc.limit }
    }
}

#[async_trait]
impl Operator for Limit {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        let Some(input) = &mut self.input else { return Ok(None) };
        let Some(mut chunk) = input.next().await? else {
            self.input = None;
            return Ok(None);
        };
        let rows = chunk.num_selected() as u64;
        let skipped = self.skip.min(rows);
        let taken = (rows - skipped).min(self.left);
        self.skip -= skipped;
        self.left -= taken;
        if self.left == 0 {
            // The input's scans and tasks end now, not with the statement.
            self.input = None;
        }
        if taken < rows {
            chunk.slice_selected(skipped as usize, (skipped + taken) as usize);
        }
        Ok(Some(chunk))
    }
}
