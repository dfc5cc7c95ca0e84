//! Readers whose fragment joins rows with tables that are sent along.
//!
//! ```text
//! build side ─► rows, few enough ─► encoded, named by a digest ─► with the fragment to the stores
//!            └► more than that: stores run what stands below the join, and here follow the join
//!               itself, which may spill, and what stands above it
//! ```
//!
//! Which rows the build side gives is known only now; what the plan expected of them may be wrong. The same way
//! is taken where the fragment runs on the SQL node for its own reasons ([`super::reader`]), since
//! there is nobody to send anything to.
//!
//! **Nothing to join with.** If a build side is empty and the join gives nothing without a match, nothing is
//! scanned.

use async_trait::async_trait;
use bytes::Bytes;
use cairn_executor::broadcast::{BROADCAST_BYTES_MAX, TableDigest};
use cairn_executor::operators::{ChunkSource, HashJoin};
use cairn_executor::plan::{BroadcastJoinDesc, JoinKind, OpDesc};
use cairn_executor::{
    BoxOperator, ExecError, Fragment, Operator, OperatorMemory, Result, build_operator,
};
use cairn_kv_client::{ScanTable, ScanTables};
use cairn_planner::plan::{PhysicalPlan, Reader};
use cairn_types::{Chunk, FieldType};
use futures::StreamExt;

use super::builder::{BuildContext, build};
use super::reader::Read;

/// Builds the operator of a reader with the build sides of its joins; `own`: the context of the reader itself.
pub fn operator(
    plan: &PhysicalPlan,
    reader: &Reader,
    context: &BuildContext,
    own: &BuildContext,
) -> Result<BoxOperator> {
    let read = Read::new(reader, own);
    let schema = read.fragment.validate()?;
    let tables = plan.children.iter().map(|table| build(table, context).map(Some));
    Ok(Box::new(BroadcastRead {
        schema,
        memory: own.exec.account("HashJoin"),
        tables: tables.collect::<Result<_>>()?,
        state: State::Start(Box::new((read, reader.clone(), own.clone()))),
    }))
}

/// See the module documentation.
struct BroadcastRead {
    schema: Vec<FieldType>,
    /// Of the rows that are sent along.
    memory: OperatorMemory,
    /// The build sides, until they are read.
    tables: Vec<Option<BoxOperator>>,
    state: State,
}

enum State {
    Start(Box<(Read, Reader, BuildContext)>),
    Running(BoxOperator),
    Done,
}

/// The rows of a build side.
enum Collected {
    /// All of them, encoded.
    Whole { rows: usize, bytes: Bytes },
    /// The first ones, and the operator that has the others.
    TooMany(Vec<Chunk>, BoxOperator),
}

impl BroadcastRead {
    /// The operator that gives the rows; `None`: there are none.
    async fn start(
        &mut self,
        read: &Read,
        reader: &Reader,
        context: &BuildContext,
    ) -> Result<Option<BoxOperator>> {
        let operators = &read.fragment.operators;
        let mut sent = Vec::new();
        let mut sent_bytes = 0;
        let mut first_here = operators.len();
        // Rows of the join that is the first to run here.
        let mut begun = None;
        for (at, operator) in operators.iter().enumerate() {
            let OpDesc::HashJoin(join) = operator else { continue };
            if read.is_local {
                first_here = at;
                break;
            }
            let limit = context.broadcast_bytes_max.min((BROADCAST_BYTES_MAX - sent_bytes) as u64);
            match self.collect(join, limit as usize, context).await? {
                Collected::Whole { rows: 0, .. } if gives_nothing_alone(join.join.kind) => {
                    return Ok(None);
                }
                Collected::Whole { bytes, .. } => {
                    let digest = TableDigest::of(&join.table_types, &bytes).bytes().clone();
                    sent_bytes += bytes.len();
                    sent.push(ScanTable { digest, rows: bytes });
                }
                Collected::TooMany(first, rest) => {
                    first_here = at;
                    begun = Some((first, rest));
                    break;
                }
            }
        }
        let (below, above) = operators.split_at(first_here);
        let settings = read.fragment.settings.clone();
        let fragment = Fragment { operators: below.to_vec(), settings };
        let mut tree = read.start(reader, context, fragment, ScanTables::new(sent))?;
        for (at, operator) in above.iter().enumerate() {
            tree = match operator {
                OpDesc::HashJoin(join) => {
                    let table = match begun.take() {
                        Some((first, rest)) => self.chained(first, rest, context),
                        None => self.table(join)?,
                    };
                    let (left, right) = join.sides(tree, table);
                    Box::new(HashJoin::new(left, right, join.join.clone(), context.exec.clone())?)
                }
                operator => build_operator(operator, tree, &context.exec)?,
            };
            if let Some(info) = reader.info.get(first_here + at) {
                tree = context.exec.instrument(info.id, info.name, tree);
            }
        }
        Ok(Some(tree))
    }

    /// Reads a build side, up to so many bytes and what the statement's quota has room for.
    async fn collect(
        &mut self,
        join: &BroadcastJoinDesc,
        bytes_max: usize,
        context: &BuildContext,
    ) -> Result<Collected> {
        let mut table = self.table(join)?;
        let sent_bytes = self.memory.used_bytes();
        let (mut chunks, mut bytes): (Vec<Chunk>, usize) = (Vec::new(), 0);
        while let Some(mut chunk) = table.next().await? {
            context.exec.check()?;
            chunk.compact();
            if chunk.num_rows() == 0 {
                continue;
            }
            bytes += chunk.memory_bytes();
            chunks.push(chunk);
            // Twice: they are put together, and encoded.
            let fits = bytes <= bytes_max && self.memory.try_set(sent_bytes + 2 * bytes as u64);
            if !fits {
                self.memory.force_set(sent_bytes);
                return Ok(Collected::TooMany(chunks, table));
            }
        }
        let types = &join.table_types;
        let mut all = Chunk::new(types, chunks.iter().map(Chunk::num_rows).sum());
        chunks.drain(..).for_each(|chunk| all.append_chunk(&chunk));
        let mut encoded = Vec::new();
        all.encode(&mut encoded);
        if encoded.len() > bytes_max {
            self.memory.force_set(sent_bytes);
            return Ok(Collected::TooMany(vec![all], table));
        }
        self.memory.force_set(sent_bytes + encoded.len() as u64);
        Ok(Collected::Whole { rows: all.num_rows(), bytes: encoded.into() })
    }

    fn table(&mut self, join: &BroadcastJoinDesc) -> Result<BoxOperator> {
        let table = self.tables.get_mut(join.table).and_then(Option::take);
        table.ok_or_else(|| ExecError::invalid_plan("a join lacks its table"))
    }

    /// Rows that were read, and those that follow. Whoever joins them counts them.
    fn chained(
        &mut self,
        first: Vec<Chunk>,
        rest: BoxOperator,
        context: &BuildContext,
    ) -> BoxOperator {
        let schema = rest.schema().to_vec();
        let first = futures::stream::iter(first.into_iter().map(Ok));
        let rest = futures::stream::unfold(Some(rest), |rest| async move {
            let mut rest = rest?;
            match rest.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(rest))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        let stream = first.chain(rest).boxed();
        Box::new(ChunkSource::new(schema, stream, context.exec.clone()))
    }
}

/// Whether a join gives no rows if its build side has none.
fn gives_nothing_alone(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Inner | JoinKind::Semi)
}

#[async_trait]
impl Operator for BroadcastRead {
    fn schema(&self) -> &[FieldType] {
        &self.schema
    }

    async fn next(&mut self) -> Result<Option<Chunk>> {
        if let State::Start(_) = self.state
            && let State::Start(start) = std::mem::replace(&mut self.state, State::Done)
        {
            let (read, reader, context) = *start;
            let started = self.start(&read, &reader, &context).await?;
            self.tables.clear();
            if let Some(operator) = started {
                self.state = State::Running(operator);
            }
        }
        match &mut self.state {
            State::Running(operator) => operator.next().await,
            State::Start(_) | State::Done => Ok(None),
        }
    }
}
