//! Requests for window functions.
//!
//! Rows arrive sorted (or at least clustered) by `partition_by` and, within a partition, sorted by
//! `order_by`. The output is the input's columns followed by one column for each function.

use cairn_expr::Expr;
use cairn_expr::agg::AggDesc;
use cairn_types::{Datum, FieldType};

use super::SortItem;

/// Functions over one window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowDesc {
    /// The window's name, for messages.
    pub name: String,
    /// Rows with equal values are a partition.
    pub partition_by: Vec<Expr>,
    /// Rows of a partition with equal values are peers.
    pub order_by: Vec<SortItem>,
    /// Rows that functions look at.
    pub frame: WindowFrame,
    /// The functions.
    pub functions: Vec<WindowFuncDesc>,
}

/// Which rows around the current one are its frame.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowFrame {
    /// What the bounds count.
    pub unit: FrameUnit,
    /// The first row.
    pub start: FrameBound,
    /// The last row.
    pub end: FrameBound,
    /// RANGE with values: what they are compared with, of the same type as they are.
    pub key: Option<Expr>,
}

impl WindowFrame {
    /// From the first row of the partition to the last peer of the current one; without ORDER BY
    /// that is the whole partition.
    pub fn to_current_peers() -> WindowFrame {
        WindowFrame {
            unit: FrameUnit::Range,
            start: FrameBound::Unbounded,
            end: FrameBound::CurrentRow,
            key: None,
        }
    }
}

/// What the bounds of a frame count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUnit {
    /// Rows.
    Rows,
    /// Values of the only ORDER BY expression; the current row is all its peers.
    Range,
}

/// One end of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameBound {
    /// The partition's first row as a start, its last one as an end.
    Unbounded,
    /// The current row, or the first or last of its peers.
    CurrentRow,
    /// So much before or after the current row.
    Offset(FrameOffset),
}

/// How far a bound is from the current row.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameOffset {
    /// PRECEDING; else FOLLOWING.
    pub preceding: bool,
    /// The distance, without columns.
    pub distance: Expr,
    /// RANGE: the value that the key of rows in the frame must not pass.
    pub value: Option<Expr>,
}

/// A call over a window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowFuncDesc {
    /// The function.
    pub func: WindowFunc,
    /// Type of the result.
    pub ty: FieldType,
}

/// A window function with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFunc {
    /// Number of the row in its partition.
    RowNumber,
    /// Number of the first peer.
    Rank,
    /// Number of the group of peers.
    DenseRank,
    /// (rank - 1) ÷ (rows - 1).
    PercentRank,
    /// Rows up to the last peer ÷ rows.
    CumeDist,
    /// Number of the row's part, of so many.
    Ntile(Expr),
    /// The value of a row before or after; both values are of the result's type.
    Shift {
        /// LEAD; else LAG.
        lead: bool,
        /// The value.
        value: Expr,
        /// How many rows away, without columns.
        offset: Expr,
        /// The value where there is no such row.
        default: Expr,
    },
    /// The value in the frame's first row.
    FirstValue(Expr),
    /// The value in the frame's last row.
    LastValue(Expr),
    /// The value in a row of the frame, counted from 1.
    NthValue {
        /// The value.
        value: Expr,
        /// Which row, without columns.
        nth: Expr,
    },
    /// An aggregate over the frame.
    Aggregate(AggDesc),
}

impl WindowFunc {
    /// The name EXPLAIN and messages print.
    pub fn name(&self) -> &'static str {
        match self {
            WindowFunc::RowNumber => "row_number",
            WindowFunc::Rank => "rank",
            WindowFunc::DenseRank => "dense_rank",
            WindowFunc::PercentRank => "percent_rank",
            WindowFunc::CumeDist => "cume_dist",
            WindowFunc::Ntile(_) => "ntile",
            WindowFunc::Shift { lead: true, .. } => "lead",
            WindowFunc::Shift { lead: false, .. } => "lag",
            WindowFunc::FirstValue(_) => "first_value",
            WindowFunc::LastValue(_) => "last_value",
            WindowFunc::NthValue { .. } => "nth_value",
            WindowFunc::Aggregate(agg) => agg.func.name(),
        }
    }

    /// Whether the frame makes a difference.
    pub fn uses_frame(&self) -> bool {
        matches!(
            self,
            WindowFunc::FirstValue(_)
                | WindowFunc::LastValue(_)
                | WindowFunc::NthValue { .. }
                | WindowFunc::Aggregate(_)
        )
    }

    /// The arguments, in the order they are written.
    pub fn args(&self) -> Vec<&Expr> {
        match self {
            WindowFunc::RowNumber
            | WindowFunc::Rank
            | WindowFunc::DenseRank
            | WindowFunc::PercentRank
            | WindowFunc::CumeDist => Vec::new(),
            WindowFunc::Ntile(arg) | WindowFunc::FirstValue(arg) | WindowFunc::LastValue(arg) => {
                vec![arg]
            }
            WindowFunc::Shift { value, offset, default, .. } => vec![value, offset, default],
            WindowFunc::NthValue { value, nth } => vec![value, nth],
            WindowFunc::Aggregate(agg) => agg.args.iter().collect(),
        }
    }

    /// The same, to be changed.
    pub fn args_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            WindowFunc::RowNumber
            | WindowFunc::Rank
            | WindowFunc::DenseRank
            | WindowFunc::PercentRank
            | WindowFunc::CumeDist => Vec::new(),
            WindowFunc::Ntile(arg) | WindowFunc::FirstValue(arg) | WindowFunc::LastValue(arg) => {
                vec![arg]
            }
            WindowFunc::Shift { value, offset, default, .. } => vec![value, offset, default],
            WindowFunc::NthValue { value, nth } => vec![value, nth],
            WindowFunc::Aggregate(agg) => agg.args.iter_mut().collect(),
        }
    }
}

/// A number of rows as an argument or a bound gives it; `None`: negative, NULL or no integer.
pub fn row_count(value: &Datum) -> Option<u64> {
    match value {
        Datum::Int(value) => u64::try_from(*value).ok(),
        Datum::UInt(value) => Some(*value),
        _ => None,
    }
}

/// Whether a value can be the distance of a RANGE bound: a number or an interval that is not negative.
pub fn is_distance(value: &Datum) -> bool {
    match value {
        Datum::Null | Datum::Json(_) | Datum::Time(_) => false,
        Datum::Int(value) => *value >= 0,
        Datum::Duration(value) => !value.is_negative(),
        Datum::UInt(_) => true,
        Datum::Float(value) => *value >= 0.0,
        Datum::Double(value) => *value >= 0.0,
        Datum::Decimal(value) => !value.is_negative(),
        Datum::Bytes(text) => !text.trim_ascii_start().starts_with(b"-"),
    }
}
