//! A join whose build side neither fits into memory nor can be divided: without keys, or with too many rows of
//! one key.
//!
//! ```text
//!  build ─► block 1, 2, … as large as memory allows       probe ─► disk
//!  block 1 with all probe rows, block 2 with all probe rows, …
//! ```
//!
//! Each block is a join of its own, so this is for kinds in which the fate of a probe row does not hang on several
//! blocks: inner joins, and outer joins that preserve the build side.
//!
//! **Cost**: the probe side written once and read once per block.
//!
//! Source: G. Graefe, "Query Evaluation Techniques for Large Databases", ACM Computing Surveys 25(2), 1993,
//! section 5.1 (block nested loops) and 5.3.

use std::sync::Arc;

use cairn_types::{Chunk, FieldType};

use super::build::BuildSide;
use super::{HashJoin, State};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::operator::{BoxOperator, Operator};
use crate::plan::HashJoinDesc;
use crate::spill::{Area, SpillSource, SpillStream, SpillWriter, must_spill};

/// See the module documentation.
pub(super) struct BlockJoin {
    desc: HashJoinDesc,
    schema: Vec<FieldType>,
    probe_types: Vec<FieldType>,
    build_types: Vec<FieldType>,
    build: BoxOperator,
    probe: SpillStream,
    ctx: ExecContext,
    /// The block that is being joined.
    join: Option<HashJoin>,
}

impl BlockJoin {
    /// Joins what `side` has collected, which `memory` counts, with all of `probe`, and then the rest of `build`.
    pub(super) async fn start(
        (side, build, mut probe): (BuildSide, BoxOperator, BoxOperator),
        schema: Vec<FieldType>,
        ctx: &ExecContext,
        memory: OperatorMemory,
    ) -> Result<BlockJoin> {
        let Some(space) = &ctx.spill else {
            return Err(ExecError::invalid_plan("a join has no place to spill to"));
        };
        let mut writer = SpillWriter::new(&Area::open(space, "HashJoin").await?);
        while let Some(chunk) = probe.next().await? {
            ctx.check()?;
            writer.push(&chunk).await?;
        }
        let mut join = BlockJoin {
            desc: side.desc.clone(),
            schema,
            probe_types: side.probe_types.clone(),
            build_types: side.build_types.clone(),
            build,
            probe: writer.finish().await?,
            ctx: ctx.clone(),
            join: None,
        };
        join.join_block(side, memory);
        Ok(join)
    }

    /// The next joined chunk.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            self.ctx.check()?;
            if let Some(join) = &mut self.join {
                if let Some(chunk) = join.next().await? {
                    return Ok(Some(chunk));
                }
                self.join = None;
            }
            if !self.next_block().await? {
                return Ok(None);
            }
        }
    }

    /// Collects the next block; false: there are no more rows.
    async fn next_block(&mut self) -> Result<bool> {
        let types = (self.probe_types.clone(), self.build_types.clone());
        let mut side = BuildSide::new(self.desc.clone(), types.0, types.1, &self.ctx)?;
        let mut memory = self.ctx.account("HashJoin");
        let mut rows = 0;
        while let Some(chunk) = self.build.next().await? {
            self.ctx.check()?;
            rows += chunk.num_selected();
            side.add(chunk)?;
            if must_spill(&mut memory, self.ctx.spill.as_ref(), 0, side.bytes())? {
                break;
            }
        }
        if rows > 0 {
            self.join_block(side, memory);
        }
        Ok(rows > 0)
    }

    fn join_block(&mut self, side: BuildSide, memory: OperatorMemory) {
        let core = Arc::new(side.finish(&self.ctx));
        let probe =
            SpillSource::new(self.probe_types.clone(), [self.probe.clone()], self.ctx.clone());
        self.join = Some(HashJoin {
            schema: self.schema.clone(),
            eval: self.ctx.eval(),
            ctx: self.ctx.clone(),
            state: State::Inline { core, probe: Box::new(probe), cursor: None, chunks: 0 },
            memory,
            depth: 0,
        });
    }
}
