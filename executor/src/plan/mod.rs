//! Plain requests: what an operator is to do, without how it does it.
//!
//! The planner writes them, [`crate::build_fragment`] and the operators'
//! constructors read them, and those that stores run travel as
//! `cairn_proto::cop::Fragment` ([`wire`]). They are immutable data: plans are
//! shared by sessions through a cache.
//!
//! **Columns** are named by their offset in the input chunk. Joined rows are the
//! left input's columns followed by the right input's.
//!
//! **Handles.** A scan column with `is_handle` is the row's handle: the integer
//! handle, or, of a common handle, its memcomparable bytes as one VARBINARY
//! column. One with `handle_part` is one column of the clustered primary key: it
//! comes from the row or index value if stored there, else from the key.
//! [`IndexLookupDesc`] takes the **last** column of its input for the handle.

pub mod fragment;
mod window;
pub mod wire;

use cairn_expr::Expr;
use cairn_expr::agg::AggDesc;
pub use cairn_expr::agg::AggMode;
use cairn_types::{ColumnId, Datum, FieldType, IndexId, TableId};

pub use fragment::{EvalSettings, Fragment};
pub use window::{
    FrameBound, FrameOffset, FrameUnit, WindowDesc, WindowFrame, WindowFunc, WindowFuncDesc,
    is_distance, row_count,
};

/// A stored column that a scan produces.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanColumn {
    /// Its id in the table.
    pub id: ColumnId,
    /// Its type.
    pub ty: FieldType,
    /// Value of rows written before the column existed.
    pub default: Datum,
    /// The column is the row's handle, see the module documentation.
    pub is_handle: bool,
    /// Place in the clustered primary key, if it is one of its columns.
    pub handle_part: Option<usize>,
}

impl ScanColumn {
    /// A column found in the row's value.
    pub fn new(id: ColumnId, ty: FieldType) -> ScanColumn {
        ScanColumn { id, ty, default: Datum::Null, is_handle: false, handle_part: None }
    }

    /// The row's handle, as an integer or as bytes.
    pub fn handle(id: ColumnId, ty: FieldType) -> ScanColumn {
        ScanColumn { is_handle: true, ..ScanColumn::new(id, ty) }
    }

    /// With a value for rows written before the column existed.
    #[must_use]
    pub fn with_default(mut self, default: Datum) -> ScanColumn {
        self.default = default;
        self
    }

    /// With a place in the clustered primary key.
    #[must_use]
    pub fn with_handle_part(mut self, part: usize) -> ScanColumn {
        self.handle_part = Some(part);
        self
    }
}

/// Reads rows of one table in key order.
#[derive(Clone, Debug, PartialEq)]
pub struct TableScanDesc {
    /// The table (or partition); informative, the ranges decide.
    pub table_id: TableId,
    /// Columns of the output.
    pub columns: Vec<ScanColumn>,
    /// Backwards.
    pub desc: bool,
    /// Types of a common handle's columns; empty for integer handles.
    pub handle_types: Vec<FieldType>,
}

/// Reads entries of one index in key order.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexScanDesc {
    /// The table (or partition).
    pub table_id: TableId,
    /// The index.
    pub index_id: IndexId,
    /// Output: the index's columns **in index order and all of them** (whatever
    /// their flags say), then columns of the handle as wanted.
    pub columns: Vec<ScanColumn>,
    /// Backwards.
    pub desc: bool,
    /// Whether the index is unique.
    pub unique: bool,
    /// Types of a common handle's columns; empty for integer handles.
    pub handle_types: Vec<FieldType>,
}

/// Reads the rows whose handles are the last column of the input, and produces
/// `columns` in input order. Rows that do not exist are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexLookupDesc {
    /// The table (or partition).
    pub table_id: TableId,
    /// Columns of the output.
    pub columns: Vec<ScanColumn>,
    /// Types of a common handle's columns; empty for integer handles.
    pub handle_types: Vec<FieldType>,
}

/// Keeps rows for which all conditions are true.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionDesc {
    /// Conjuncts.
    pub conditions: Vec<Expr>,
}

/// Computes expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionDesc {
    /// One per output column.
    pub exprs: Vec<Expr>,
}

/// Groups and aggregates.
///
/// Output columns by mode:
///
/// | mode | input | output |
/// |---|---|---|
/// | complete | rows | aggregates, then group columns |
/// | partial | rows | partial states (`partial_types` of each), then group columns |
/// | final | what partial produces | aggregates, then group columns |
///
/// In final mode the arguments of the aggregates are not evaluated: the states are
/// taken from the input's columns in order, and `group_by` are usually the columns
/// after them. Without `group_by`, an empty input gives one row in complete and
/// final mode and none in partial mode.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregationDesc {
    /// Group expressions; text groups by its collation.
    pub group_by: Vec<Expr>,
    /// Aggregates.
    pub aggs: Vec<AggDesc>,
    /// Which part of the work.
    pub mode: AggMode,
    /// The input arrives sorted (or at least clustered) by the group.
    pub stream: bool,
}

/// One ORDER BY item. NULL comes first ascending and last descending.
#[derive(Clone, Debug, PartialEq)]
pub struct SortItem {
    /// What to sort by; text by its collation.
    pub expr: Expr,
    /// DESC.
    pub desc: bool,
}

/// Sorts everything. Equal rows keep the order they came in.
#[derive(Clone, Debug, PartialEq)]
pub struct SortDesc {
    /// ORDER BY.
    pub order_by: Vec<SortItem>,
}

/// The first rows in an order.
#[derive(Clone, Debug, PartialEq)]
pub struct TopNDesc {
    /// ORDER BY.
    pub order_by: Vec<SortItem>,
    /// Rows to skip (0 in fragments for stores).
    pub offset: u64,
    /// Rows to return.
    pub limit: u64,
}

/// The first rows as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitDesc {
    /// Rows to skip (0 in fragments for stores).
    pub offset: u64,
    /// Rows to return.
    pub limit: u64,
}

/// Which input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinSide {
    /// The left (outer) input.
    Left,
    /// The right (inner) input.
    Right,
}

/// What a join returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// Matching pairs.
    Inner,
    /// Matching pairs, and left rows without a match with NULLs.
    LeftOuter,
    /// Matching pairs, and right rows without a match with NULLs.
    RightOuter,
    /// Left rows with a match (EXISTS, IN).
    Semi,
    /// Left rows without a match (NOT EXISTS; NOT IN with `null_aware`).
    Anti,
    /// All left rows and one more column: whether there is a match (1, 0, and
    /// NULL if `null_aware` and unknown).
    LeftOuterSemi,
    /// As `LeftOuterSemi`, negated.
    AntiLeftOuterSemi,
}

impl JoinKind {
    /// Whether the output has the right input's columns.
    pub fn keeps_right(self) -> bool {
        matches!(self, JoinKind::Inner | JoinKind::LeftOuter | JoinKind::RightOuter)
    }

    /// Whether the output ends with the column that tells of a match.
    pub fn has_mark(self) -> bool {
        matches!(self, JoinKind::LeftOuterSemi | JoinKind::AntiLeftOuterSemi)
    }

    /// Types of the output.
    pub fn output_types(self, left: &[FieldType], right: &[FieldType]) -> Vec<FieldType> {
        let nullable = |types: &[FieldType], optional: bool| -> Vec<FieldType> {
            let mut types = types.to_vec();
            if optional {
                types.iter_mut().for_each(|ty| ty.not_null = false);
            }
            types
        };
        let mut types = nullable(left, self == JoinKind::RightOuter);
        if self.keeps_right() {
            types.extend(nullable(right, self == JoinKind::LeftOuter));
        }
        if self.has_mark() {
            types.push(FieldType::boolean());
        }
        types
    }
}

/// Joins by equal keys through a hash table, or without keys by comparing all
/// pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct HashJoinDesc {
    /// What to return.
    pub kind: JoinKind,
    /// `NOT IN` and `IN` as a value: an equality with NULL is unknown, not false.
    /// Meant for the kinds `Anti`, `LeftOuterSemi`, `AntiLeftOuterSemi`, and then
    /// all keys are null-aware; correlated conditions go to `other_conditions`.
    pub null_aware: bool,
    /// Keys over the left input; of the same number and comparable types as
    /// `right_keys` (the planner casts both sides to one type).
    pub left_keys: Vec<Expr>,
    /// Keys over the right input.
    pub right_keys: Vec<Expr>,
    /// Per key: compare with `<=>`, where NULL equals NULL. Empty: none does.
    pub null_safe: Vec<bool>,
    /// Further conditions over left columns followed by right columns.
    pub other_conditions: Vec<Expr>,
    /// The input that is put into the hash table. Semi joins of all kinds build
    /// on the right whatever is said here.
    pub build_side: JoinSide,
}

/// A join in a fragment: its probe input is what comes from below, its build input a table that comes
/// along with the request, see [`crate::broadcast`].
///
/// Rows of the table are never preserved: every store has all of them and sees only a part of the probe
/// input. There are keys, and those of the table are plain columns of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BroadcastJoinDesc {
    /// The join; its build side is the table.
    pub join: HashJoinDesc,
    /// Place of the table among those of the fragment.
    pub table: usize,
    /// Types of the table's columns.
    pub table_types: Vec<FieldType>,
}

impl BroadcastJoinDesc {
    /// The left and the right input's parts of something.
    pub fn sides<T>(&self, probe: T, table: T) -> (T, T) {
        match self.join.build_side {
            JoinSide::Right => (probe, table),
            JoinSide::Left => (table, probe),
        }
    }

    /// Keys over the probe input, and over the table.
    pub fn keys(&self) -> (&[Expr], &[Expr]) {
        match self.join.build_side {
            JoinSide::Right => (&self.join.left_keys, &self.join.right_keys),
            JoinSide::Left => (&self.join.right_keys, &self.join.left_keys),
        }
    }
}

/// Joins a batch of outer rows at a time with the inner rows that can match them.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexJoinDesc {
    /// The join. Its build side is the inner input; not null-aware, and no row of the inner
    /// input is preserved.
    pub join: HashJoinDesc,
    /// What the inner input is looked up by, over the outer input.
    pub lookup_keys: Vec<Expr>,
}

/// Runs a subquery per outer row and joins its rows with the outer row.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyDesc {
    /// What to return; the outer row is the left. Not `RightOuter`.
    pub kind: JoinKind,
    /// Outer columns whose values the subquery depends on.
    pub outer_columns: Vec<usize>,
    /// `NOT IN` and `IN` as a value: a condition that is NULL makes the match
    /// unknown.
    pub null_aware: bool,
    /// Conditions over outer columns followed by the subquery's.
    pub conditions: Vec<Expr>,
}

/// A union that reads itself: the rows of a seed, then what parts of the plan make of them, round by
/// round, until a round yields no rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RecursiveUnionDesc {
    /// Columns of the result, as values are stored in them: names for messages, and types.
    pub columns: Vec<(String, FieldType)>,
    /// Rows that were there before are left out.
    pub distinct: bool,
    /// Rounds that may begin; one more is error 3636.
    pub rounds_max: u64,
}

/// A column that statistics are gathered of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleColumn {
    /// Offset in the input.
    pub input: usize,
    /// Only the first so many characters (bytes of binary strings) of a value count.
    pub prefix_chars: Option<u32>,
}

/// Reads all rows and hands out what statistics are made of, at the end: see [`crate::sample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleDesc {
    /// Columns; JSON cannot be sampled.
    pub columns: Vec<SampleColumn>,
    /// Lists of offsets in `columns`, whose combinations of values are counted too.
    pub groups: Vec<Vec<usize>>,
    /// Rows of the sample at most.
    pub sample_rows: u32,
    /// Rows whose random weight is not above it are left out: of 2^64 weights, so many.
    pub weight_min: u64,
    /// Seed of the weights.
    pub seed: u64,
}

/// An operator of a [`Fragment`].
#[derive(Clone, Debug, PartialEq)]
pub enum OpDesc {
    /// See [`TableScanDesc`].
    TableScan(TableScanDesc),
    /// See [`IndexScanDesc`].
    IndexScan(IndexScanDesc),
    /// See [`IndexLookupDesc`].
    IndexLookup(IndexLookupDesc),
    /// See [`SelectionDesc`].
    Selection(SelectionDesc),
    /// See [`ProjectionDesc`].
    Projection(ProjectionDesc),
    /// See [`AggregationDesc`].
    Aggregation(AggregationDesc),
    /// See [`TopNDesc`].
    TopN(TopNDesc),
    /// See [`LimitDesc`].
    Limit(LimitDesc),
    /// See [`SampleDesc`].
    Sample(SampleDesc),
    /// See [`BroadcastJoinDesc`].
    HashJoin(BroadcastJoinDesc),
}

impl OpDesc {
    /// The operator's name as EXPLAIN prints it.
    pub fn name(&self) -> &'static str {
        match self {
            OpDesc::TableScan(_) => "TableScan",
            OpDesc::IndexScan(_) => "IndexScan",
            OpDesc::IndexLookup(_) => "IndexLookUp",
            OpDesc::Selection(_) => "Selection",
            OpDesc::Projection(_) => "Projection",
            OpDesc::Aggregation(agg) if agg.stream => "StreamAgg",
            OpDesc::Aggregation(_) => "HashAgg",
            OpDesc::TopN(_) => "TopN",
            OpDesc::Limit(_) => "Limit",
            OpDesc::Sample(_) => "Sample",
            OpDesc::HashJoin(_) => "HashJoin",
        }
    }
}
