//! The side of a join that is put into a table.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn_expr::{EvalContext, Expr};
use cairn_types::{Chunk, FieldType};

use super::{JoinCore, JoinKeys};
use crate::batch::{self, RowStore};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::plan::{HashJoinDesc, JoinKind, JoinSide};
use crate::table::join::{JOIN_ROWS_MAX, JoinTable, JoinTableBuilder};
use crate::table::keys::{KeyBatch, KeyEncoder};

/// Collects rows and their keys.
pub(super) struct BuildSide {
    pub(super) desc: HashJoinDesc,
    pub(super) probe_types: Vec<FieldType>,
    pub(super) build_types: Vec<FieldType>,
    probe_is_left: bool,
    na_equalities: Vec<Expr>,
    encoder: KeyEncoder,
    table: JoinTableBuilder,
    rows: RowStore,
    eval: EvalContext,
}

impl BuildSide {
    /// No rows yet.
    pub(super) fn new(
        desc: HashJoinDesc,
        probe_types: Vec<FieldType>,
        build_types: Vec<FieldType>,
        ctx: &ExecContext,
    ) -> Result<BuildSide> {
        let probe_is_left = desc.build_side == JoinSide::Right;
        let mut eval = ctx.eval();
        let na_equalities = match desc.null_aware {
            true => equalities(&desc, probe_is_left, &probe_types, &build_types, &mut eval)?,
            false => Vec::new(),
        };
        let (probe_keys, build_keys) = match probe_is_left {
            true => (&desc.left_keys, &desc.right_keys),
            false => (&desc.right_keys, &desc.left_keys),
        };
        let encoder = KeyEncoder::for_join(probe_keys, build_keys, &desc.null_safe)?;
        Ok(BuildSide {
            table: JoinTableBuilder::new(encoder.int_keys()),
            rows: RowStore::new(&build_types),
            desc,
            probe_types,
            build_types,
            probe_is_left,
            na_equalities,
            encoder,
            eval,
        })
    }

    /// Whether rows are joined by equal keys.
    pub(super) fn has_keys(&self) -> bool {
        !self.desc.left_keys.is_empty()
    }

    /// Whether rows are joined by equal keys that are the same whenever they are evaluated: who
    /// divides rows by them evaluates them twice.
    pub(super) fn has_stable_keys(&self) -> bool {
        let mut keys = self.desc.left_keys.iter().chain(&self.desc.right_keys);
        self.has_keys() && keys.all(Expr::is_deterministic)
    }

    /// Whether rows with a NULL key are apart from all others: whether they match is unknown.
    pub(super) fn compares_nulls(&self) -> bool {
        self.desc.null_aware && self.desc.kind != JoinKind::Semi
    }

    /// Whether the rows may be joined block by block: no probe row's fate hangs on all of them.
    pub(super) fn takes_blocks(&self) -> bool {
        match self.desc.kind {
            JoinKind::Inner => true,
            JoinKind::LeftOuter => !self.probe_is_left,
            JoinKind::RightOuter => self.probe_is_left,
            _ => false,
        }
    }

    /// Adds rows.
    pub(super) fn add(&mut self, chunk: Chunk) -> Result<()> {
        let chunk = batch::dense(chunk);
        if self.rows.len() + chunk.num_rows() > JOIN_ROWS_MAX {
            return Err(ExecError::invalid_plan("the build side of a join has too many rows"));
        }
        if self.has_keys() {
            let keys = self.encode(true, &chunk)?;
            self.table.push(&keys);
        }
        self.rows.append(&chunk)
    }

    /// The keys of a chunk of this side, or of the other.
    pub(super) fn encode(&mut self, of_build: bool, chunk: &Chunk) -> Result<KeyBatch> {
        let exprs = match of_build == self.probe_is_left {
            true => &self.desc.right_keys,
            false => &self.desc.left_keys,
        };
        self.encoder.encode(exprs, chunk, &mut self.eval)
    }

    /// Forgets the warnings of what will be evaluated once more.
    pub(super) fn drop_warnings(&mut self) {
        self.eval.warnings.take();
    }

    /// Bytes of the rows and their table.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.table.bytes()
    }

    /// Takes the rows out, and frees their keys.
    pub(super) fn take_rows(&mut self) -> Chunk {
        self.table = JoinTableBuilder::new(self.encoder.int_keys());
        std::mem::replace(&mut self.rows, RowStore::new(&self.build_types)).into_chunk()
    }

    /// Links the rows.
    pub(super) fn finish(mut self, ctx: &ExecContext) -> JoinCore {
        ctx.flush_warnings(&mut self.eval);
        let rows = std::mem::replace(&mut self.rows, RowStore::new(&[]));
        let table = std::mem::replace(&mut self.table, JoinTableBuilder::new(true));
        let table = self.has_keys().then(|| Arc::new(table.finish()));
        self.over(Arc::new(rows), table)
    }

    /// A join with rows that were linked already.
    pub(super) fn over(self, rows: Arc<RowStore>, table: Option<Arc<JoinTable>>) -> JoinCore {
        let is_keyed = self.has_keys();
        let BuildSide { desc, encoder, probe_is_left, .. } = self;
        let preserved = match desc.kind {
            JoinKind::LeftOuter => !probe_is_left,
            JoinKind::RightOuter => probe_is_left,
            _ => false,
        };
        let matched = preserved.then(|| (0..rows.len()).map(|_| AtomicBool::new(false)).collect());
        let probe_keys = if probe_is_left { desc.left_keys } else { desc.right_keys };
        JoinCore {
            kind: desc.kind,
            null_aware: desc.null_aware,
            probe_is_left,
            table,
            keys: is_keyed.then_some(JoinKeys { probe: probe_keys, encoder }),
            conditions: desc.other_conditions,
            na_equalities: self.na_equalities,
            build: rows,
            build_types: self.build_types,
            probe_types: self.probe_types,
            matched,
            keeps_order: false,
        }
    }

    /// How keys are told apart.
    pub(super) fn encoder(&self) -> &KeyEncoder {
        &self.encoder
    }
}

/// `left key = right key` of each key, over left columns followed by right ones.
fn equalities(
    desc: &HashJoinDesc,
    probe_is_left: bool,
    probe_types: &[FieldType],
    build_types: &[FieldType],
    eval: &mut EvalContext,
) -> Result<Vec<Expr>> {
    let left_len = if probe_is_left { probe_types.len() } else { build_types.len() };
    let pairs = desc.left_keys.iter().zip(&desc.right_keys);
    pairs
        .map(|(left, right)| {
            let right = right.clone().remap_columns(&|index| Some(index + left_len))?;
            Ok(cairn_expr::build_function("=", vec![left.clone(), right], eval)?)
        })
        .collect()
}
