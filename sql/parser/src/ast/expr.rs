//! Expressions of the syntax tree, as MySQL's grammar reads them.
//!
//! Invariants the parser keeps, so that readers need not check them:
//! - `And` and `Or` have at least two terms and no direct child of their own kind (chains are
//!   flat: a filter of 10,000 terms is one node, not 10,000 levels).
//! - The height of a tree is at most `MAX_TREE_HEIGHT`, so plain recursion over it is safe.
//! - Function names are lower case; all other names keep the case they were written in.
//! - Spellings with one meaning have one form: `DATE_ADD(d, INTERVAL 1 DAY)` and
//!   `d + INTERVAL 1 DAY` are `DateArithmetic`; `j->'$.a'` is `json_extract(j, '$.a')`;
//!   `POSITION(a IN b)` is `locate(a, b)`; `a SOUNDS LIKE b` is `soundex(a) = soundex(b)`;
//!   `SUBSTRING(s FROM p FOR n)` is `substring(s, p, n)`; `&&`, `||` and `!` are the words.

use super::query::{OrderByItem, Query};

/// One expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A constant.
    Literal(Literal),
    /// A column, with its table and schema where they were written.
    Column(ColumnRef),
    /// The `?` marker with this number, counted from 0 in the order of the text.
    Parameter(u32),
    /// `@name`; the name without the sign.
    UserVariable(String),
    /// `@@name`, `@@session.name`, `@@global.name`.
    SystemVariable {
        /// The scope that was written.
        scope: VariableScope,
        /// The name without signs and scope.
        name: String,
    },
    /// `@name := value`.
    AssignVariable {
        /// The user variable, without the sign.
        name: String,
        /// What it is set to; also the value of the expression.
        value: Box<Expr>,
    },
    /// `-a`, `+a`, `~a`, `NOT a`.
    Unary {
        /// The operator.
        op: UnaryOperator,
        /// Its operand.
        expr: Box<Expr>,
    },
    /// Arithmetic, bits and comparison with two operands, and `XOR`.
    Binary {
        /// The operator.
        op: BinaryOperator,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// `a AND b AND c`, flat.
    And(Vec<Expr>),
    /// `a OR b OR c`, flat.
    Or(Vec<Expr>),
    /// `a IS [NOT] NULL`.
    IsNull {
        /// What is tested.
        expr: Box<Expr>,
        /// `IS NOT`.
        negated: bool,
    },
    /// `a IS [NOT] TRUE | FALSE | UNKNOWN`.
    IsTruth {
        /// What is tested.
        expr: Box<Expr>,
        /// Against which truth value.
        value: TruthValue,
        /// `IS NOT`.
        negated: bool,
    },
    /// `a [NOT] BETWEEN low AND high`.
    Between {
        /// What is tested.
        expr: Box<Expr>,
        /// Lower bound, inclusive.
        low: Box<Expr>,
        /// Upper bound, inclusive.
        high: Box<Expr>,
        /// `NOT BETWEEN`.
        negated: bool,
    },
    /// `a [NOT] IN (b, c)`; the list is never empty.
    InList {
        /// What is looked for.
        expr: Box<Expr>,
        /// Where.
        list: Vec<Expr>,
        /// `NOT IN`.
        negated: bool,
    },
    /// `a [NOT] IN (SELECT ...)`.
    InSubquery {
        /// What is looked for; a `Row` when several columns are compared.
        expr: Box<Expr>,
        /// Where.
        query: Box<Query>,
        /// `NOT IN`.
        negated: bool,
    },
    /// `EXISTS (SELECT ...)`; its negation is a `Unary` `NOT`.
    Exists(Box<Query>),
    /// `(SELECT ...)` as a value.
    Subquery(Box<Query>),
    /// `a > ANY (SELECT ...)`.
    Quantified {
        /// A comparison operator.
        op: BinaryOperator,
        /// `ANY` (also `SOME`) or `ALL`.
        quantifier: Quantifier,
        /// Left operand.
        left: Box<Expr>,
        /// The rows compared with.
        query: Box<Query>,
    },
    /// `a [NOT] LIKE pattern [ESCAPE e]`.
    Like {
        /// What is matched.
        expr: Box<Expr>,
        /// The pattern.
        pattern: Box<Expr>,
        /// The escape, when written.
        escape: Option<Box<Expr>>,
        /// `NOT LIKE`.
        negated: bool,
    },
    /// `a [NOT] REGEXP pattern`, also `RLIKE`.
    Regexp {
        /// What is matched.
        expr: Box<Expr>,
        /// The pattern.
        pattern: Box<Expr>,
        /// `NOT REGEXP`.
        negated: bool,
    },
    /// `value MEMBER OF (array)`.
    MemberOf {
        /// What is looked for.
        value: Box<Expr>,
        /// A JSON array.
        array: Box<Expr>,
    },
    /// `(a, b)` or `ROW(a, b)`; at least two members.
    Row(Vec<Expr>),
    /// `CASE [operand] WHEN .. THEN .. [ELSE ..] END`.
    Case {
        /// The value compared with every `WHEN`, in the simple form.
        operand: Option<Box<Expr>>,
        /// At least one branch.
        branches: Vec<CaseBranch>,
        /// The `ELSE` value.
        otherwise: Option<Box<Expr>>,
    },
    /// `CAST(a AS type)`, `CONVERT(a, type)`, `BINARY a`.
    Cast {
        /// What is converted.
        expr: Box<Expr>,
        /// To which type.
        to: CastType,
        /// `CAST(a AS type ARRAY)`, the key part of a multi-valued index.
        array: bool,
    },
    /// `CONVERT(a USING charset)`.
    ConvertCharset {
        /// What is converted.
        expr: Box<Expr>,
        /// To which character set.
        charset: String,
    },
    /// `a COLLATE collation`.
    Collate {
        /// What is compared.
        expr: Box<Expr>,
        /// By which collation.
        collation: String,
    },
    /// A scalar function, or one whose kind the planner decides.
    Function(FunctionCall),
    /// An aggregate without `OVER`.
    Aggregate(Box<AggregateCall>),
    /// Any function with `OVER`.
    Window(Box<WindowCall>),
    /// `base ± INTERVAL value unit` in all its spellings.
    DateArithmetic {
        /// The date.
        base: Box<Expr>,
        /// How many units.
        value: Box<Expr>,
        /// The unit.
        unit: IntervalUnit,
        /// `-`, `DATE_SUB`, `SUBDATE`.
        subtract: bool,
    },
    /// `INTERVAL value unit` standing alone: only in a window frame's bound.
    Interval {
        /// How many units.
        value: Box<Expr>,
        /// The unit.
        unit: IntervalUnit,
    },
    /// A unit as an argument: the first of `timestampadd` and `timestampdiff`.
    Unit(IntervalUnit),
    /// `EXTRACT(unit FROM a)`.
    Extract {
        /// The unit.
        unit: IntervalUnit,
        /// The date.
        expr: Box<Expr>,
    },
    /// `TRIM([side] [characters] FROM a)`.
    Trim {
        /// Which ends.
        side: TrimSide,
        /// What is removed; blanks when absent.
        characters: Option<Box<Expr>>,
        /// From what.
        expr: Box<Expr>,
    },
    /// `CHAR(a, b [USING charset])`.
    Char {
        /// The code points.
        args: Vec<Expr>,
        /// The character set; `binary` when absent.
        charset: Option<String>,
    },
    /// `VALUES(column)` in `ON DUPLICATE KEY UPDATE`.
    Values(ColumnRef),
    /// `DEFAULT` as a value, or `DEFAULT(column)`.
    Default(Option<ColumnRef>),
    /// `MATCH (columns) AGAINST (a [modifier])`.
    Match {
        /// The indexed columns.
        columns: Vec<ColumnRef>,
        /// The search string.
        against: Box<Expr>,
        /// The search mode.
        mode: MatchMode,
    },
}

/// A constant as it was written. Numbers keep their text, so that no digit is lost before the
/// type is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Literal {
    /// `NULL`.
    Null,
    /// `TRUE`, `FALSE`.
    Boolean(bool),
    /// Digits only. May exceed 64 bits: then it is a decimal.
    Integer(String),
    /// Digits with a point.
    Decimal(String),
    /// Digits with an exponent.
    Float(String),
    /// A string with its escapes resolved, and its introducer (`_utf8mb4'x'`, `N'x'`).
    String {
        /// The characters.
        value: String,
        /// The introducer's character set, lower case, without the underscore.
        charset: Option<String>,
    },
    /// `x'4D'`, `0x4D`.
    Hex {
        /// The bytes.
        bytes: Vec<u8>,
        /// The introducer's character set.
        charset: Option<String>,
    },
    /// `b'101'`, `0b101`, most significant byte first.
    Bit {
        /// The bytes.
        bytes: Vec<u8>,
        /// The introducer's character set.
        charset: Option<String>,
    },
    /// `DATE '2020-01-01'`.
    Date(String),
    /// `TIME '10:00:00'`.
    Time(String),
    /// `TIMESTAMP '2020-01-01 10:00:00'`.
    Timestamp(String),
}

impl Literal {
    /// A string without introducer.
    pub fn string(value: impl Into<String>) -> Literal {
        Literal::String { value: value.into(), charset: None }
    }
}

/// A column's name with its qualifiers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnRef {
    /// `schema.table.column`.
    pub schema: Option<String>,
    /// `table.column`; a table name or an alias.
    pub table: Option<String>,
    /// The column.
    pub column: String,
}

impl ColumnRef {
    /// A column without qualifiers.
    pub fn bare(column: impl Into<String>) -> ColumnRef {
        ColumnRef { schema: None, table: None, column: column.into() }
    }
}

/// Where a system variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VariableScope {
    /// No scope was written: the session's value if there is one, else the global one.
    Unspecified,
    /// `SESSION`, `LOCAL`.
    Session,
    /// `GLOBAL`.
    Global,
    /// `PERSIST`: global, and kept over a restart.
    Persist,
    /// `PERSIST_ONLY`: kept for the next start alone.
    PersistOnly,
}

/// Operators with one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryOperator {
    /// `-a`.
    Minus,
    /// `+a`.
    Plus,
    /// `~a`.
    BitNot,
    /// `NOT a`, `!a`.
    Not,
}

/// Operators with two operands, other than `AND` and `OR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOperator {
    /// `+`.
    Plus,
    /// `-`.
    Minus,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `DIV`.
    IntegerDivide,
    /// `%`, `MOD`.
    Modulo,
    /// `&`.
    BitAnd,
    /// `|`.
    BitOr,
    /// `^`.
    BitXor,
    /// `<<`.
    ShiftLeft,
    /// `>>`.
    ShiftRight,
    /// `=`.
    Eq,
    /// `<=>`.
    NullSafeEq,
    /// `<>`, `!=`.
    NotEq,
    /// `<`.
    Lt,
    /// `<=`.
    LtEq,
    /// `>`.
    Gt,
    /// `>=`.
    GtEq,
    /// `XOR`.
    Xor,
}

impl BinaryOperator {
    /// True for `=`, `<=>`, `<>`, `<`, `<=`, `>`, `>=`.
    pub fn is_comparison(self) -> bool {
        use BinaryOperator::*;
        matches!(self, Eq | NullSafeEq | NotEq | Lt | LtEq | Gt | GtEq)
    }

    /// The operator as SQL text.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOperator::Plus => "+",
            BinaryOperator::Minus => "-",
            BinaryOperator::Multiply => "*",
            BinaryOperator::Divide => "/",
            BinaryOperator::IntegerDivide => "DIV",
            BinaryOperator::Modulo => "%",
            BinaryOperator::BitAnd => "&",
            BinaryOperator::BitOr => "|",
            BinaryOperator::BitXor => "^",
            BinaryOperator::ShiftLeft => "<<",
            BinaryOperator::ShiftRight => ">>",
            BinaryOperator::Eq => "=",
            BinaryOperator::NullSafeEq => "<=>",
            BinaryOperator::NotEq => "<>",
            BinaryOperator::Lt => "<",
            BinaryOperator::LtEq => "<=",
            BinaryOperator::Gt => ">",
            BinaryOperator::GtEq => ">=",
            BinaryOperator::Xor => "XOR",
        }
    }
}

/// The right side of `IS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TruthValue {
    /// `IS TRUE`.
    True,
    /// `IS FALSE`.
    False,
    /// `IS UNKNOWN`.
    Unknown,
}

/// How a value is compared with the rows of a subquery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantifier {
    /// `ANY`, `SOME`.
    Any,
    /// `ALL`.
    All,
}

/// One `WHEN .. THEN ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseBranch {
    /// The condition, or the value compared with the operand.
    pub when: Expr,
    /// The result.
    pub then: Expr,
}

/// The target of a cast.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CastType {
    /// `BINARY[(n)]`.
    Binary(Option<u32>),
    /// `CHAR[(n)] [CHARACTER SET cs]`.
    Char {
        /// Characters at most.
        length: Option<u32>,
        /// The character set; the connection's when absent.
        charset: Option<String>,
    },
    /// `DATE`.
    Date,
    /// `DATETIME[(fsp)]`.
    DateTime(u8),
    /// `TIME[(fsp)]`.
    Time(u8),
    /// `YEAR`.
    Year,
    /// `SIGNED [INTEGER]`.
    Signed,
    /// `UNSIGNED [INTEGER]`.
    Unsigned,
    /// `DECIMAL[(p[, s])]`; 10 and 0 when absent.
    Decimal {
        /// Digits in all.
        precision: u32,
        /// Digits after the point.
        scale: u32,
    },
    /// `FLOAT`.
    Float,
    /// `DOUBLE`, `REAL`.
    Double,
    /// `JSON`.
    Json,
}

/// A function call without `OVER`.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionCall {
    /// `schema.f()`: a stored function.
    pub schema: Option<String>,
    /// Lower case.
    pub name: String,
    /// The arguments.
    pub args: Vec<Expr>,
}

/// An aggregate function call.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateCall {
    /// Lower case.
    pub name: String,
    /// `COUNT(DISTINCT ..)`.
    pub distinct: bool,
    /// The arguments; empty for `COUNT(*)` (see `star`).
    pub args: Vec<Expr>,
    /// `COUNT(*)`.
    pub star: bool,
    /// `GROUP_CONCAT(.. ORDER BY ..)`.
    pub order_by: Vec<OrderByItem>,
    /// `GROUP_CONCAT(.. SEPARATOR ..)`; a comma when absent.
    pub separator: Option<String>,
}

/// A window function call, or an aggregate over a window.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowCall {
    /// The function before `OVER`.
    pub function: AggregateCall,
    /// `IGNORE NULLS` (`RESPECT NULLS` is the default).
    pub ignore_nulls: bool,
    /// `FROM LAST` of `NTH_VALUE`.
    pub from_last: bool,
    /// The window.
    pub over: WindowRef,
}

/// The window after `OVER`.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowRef {
    /// `OVER name`.
    Named(String),
    /// `OVER (..)`.
    Inline(WindowSpec),
}

/// A window's definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowSpec {
    /// `(name ...)`: the named window this one extends.
    pub base: Option<String>,
    /// `PARTITION BY`.
    pub partition_by: Vec<Expr>,
    /// `ORDER BY`.
    pub order_by: Vec<OrderByItem>,
    /// The frame, when written.
    pub frame: Option<WindowFrame>,
}

/// `ROWS | RANGE BETWEEN start AND end`.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowFrame {
    /// What the bounds count.
    pub unit: FrameUnit,
    /// First row.
    pub start: FrameBound,
    /// Last row; the current row when only one bound was written.
    pub end: FrameBound,
}

/// What a frame's bounds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameUnit {
    /// Rows.
    Rows,
    /// Values of the ordering expression.
    Range,
    /// Groups of peers.
    Groups,
}

/// One end of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameBound {
    /// `UNBOUNDED PRECEDING`.
    UnboundedPreceding,
    /// `n PRECEDING`.
    Preceding(Box<Expr>),
    /// `CURRENT ROW`.
    CurrentRow,
    /// `n FOLLOWING`.
    Following(Box<Expr>),
    /// `UNBOUNDED FOLLOWING`.
    UnboundedFollowing,
}

/// The unit of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntervalUnit {
    /// `MICROSECOND`.
    Microsecond,
    /// `SECOND`.
    Second,
    /// `MINUTE`.
    Minute,
    /// `HOUR`.
    Hour,
    /// `DAY`.
    Day,
    /// `WEEK`.
    Week,
    /// `MONTH`.
    Month,
    /// `QUARTER`.
    Quarter,
    /// `YEAR`.
    Year,
    /// `SECOND_MICROSECOND`.
    SecondMicrosecond,
    /// `MINUTE_MICROSECOND`.
    MinuteMicrosecond,
    /// `MINUTE_SECOND`.
    MinuteSecond,
    /// `HOUR_MICROSECOND`.
    HourMicrosecond,
    /// `HOUR_SECOND`.
    HourSecond,
    /// `HOUR_MINUTE`.
    HourMinute,
    /// `DAY_MICROSECOND`.
    DayMicrosecond,
    /// `DAY_SECOND`.
    DaySecond,
    /// `DAY_MINUTE`.
    DayMinute,
    /// `DAY_HOUR`.
    DayHour,
    /// `YEAR_MONTH`.
    YearMonth,
}

impl IntervalUnit {
    /// Every unit with its word.
    pub const ALL: [(IntervalUnit, &'static str); 20] = [
        (IntervalUnit::Microsecond, "MICROSECOND"),
        (IntervalUnit::Second, "SECOND"),
        (IntervalUnit::Minute, "MINUTE"),
        (IntervalUnit::Hour, "HOUR"),
        (IntervalUnit::Day, "DAY"),
        (IntervalUnit::Week, "WEEK"),
        (IntervalUnit::Month, "MONTH"),
        (IntervalUnit::Quarter, "QUARTER"),
        (IntervalUnit::Year, "YEAR"),
        (IntervalUnit::SecondMicrosecond, "SECOND_MICROSECOND"),
        (IntervalUnit::MinuteMicrosecond, "MINUTE_MICROSECOND"),
        (IntervalUnit::MinuteSecond, "MINUTE_SECOND"),
        (IntervalUnit::HourMicrosecond, "HOUR_MICROSECOND"),
        (IntervalUnit::HourSecond, "HOUR_SECOND"),
        (IntervalUnit::HourMinute, "HOUR_MINUTE"),
        (IntervalUnit::DayMicrosecond, "DAY_MICROSECOND"),
        (IntervalUnit::DaySecond, "DAY_SECOND"),
        (IntervalUnit::DayMinute, "DAY_MINUTE"),
        (IntervalUnit::DayHour, "DAY_HOUR"),
        (IntervalUnit::YearMonth, "YEAR_MONTH"),
    ];

    /// The unit a word names, in any case; also with the `SQL_TSI_` prefix of old.
    pub fn from_word(word: &str) -> Option<IntervalUnit> {
        let word = match word.get(..8) {
            Some(prefix) if prefix.eq_ignore_ascii_case("SQL_TSI_") => &word[8..],
            _ => word,
        };
        Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(word)).map(|(unit, _)| *unit)
    }

    /// The unit's word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(unit, _)| *unit == self).map_or("", |(_, name)| name)
    }
}

/// Which ends `TRIM` works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrimSide {
    /// Both ends.
    Both,
    /// The start.
    Leading,
    /// The end.
    Trailing,
}

/// How `MATCH .. AGAINST` searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchMode {
    /// `IN NATURAL LANGUAGE MODE`, the default.
    NaturalLanguage,
    /// `IN NATURAL LANGUAGE MODE WITH QUERY EXPANSION`, `WITH QUERY EXPANSION`.
    QueryExpansion,
    /// `IN BOOLEAN MODE`.
    Boolean,
}
