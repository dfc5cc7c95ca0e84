//! Conditions on key columns turned into ranges of keys.
//!
//! A [`RangeSpec`] remembers the conditions, so that a cached plan derives its ranges
//! again from the parameters of each run.

use cairn_expr::Expr;
use cairn_types::{Datum, FieldType};

/// What is scanned, as conditions over key columns.
#[derive(Clone, Debug)]
pub struct RangeSpec {
    /// The key's columns in order.
    pub columns: Vec<RangeColumn>,
    /// Conditions, over key columns by position in `columns`. All must hold; a scan
    /// may return rows for which they do not (the plan filters again where it must).
    pub conditions: Vec<Expr>,
    /// The ranges, if no condition has a parameter.
    pub fixed: Option<Vec<Range>>,
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeColumn {
    /// Its type.
    pub ty: FieldType,
    /// Only this many characters are in the key.
    pub prefix_length: Option<u32>,
}

/// One end of a [`Range`] in one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Before NULL.
    Min,
    /// A value or NULL.
    Value(Datum),
    /// After every value.
    Max,
}

/// Keys between two tuples of bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Lower ends.
    pub low: Vec<Bound>,
    /// Upper ends.
    pub high: Vec<Bound>,
    /// The lower tuple itself is out.
    pub low_exclusive: bool,
    /// The upper tuple itself is out.
    pub high_exclusive: bool,
}
