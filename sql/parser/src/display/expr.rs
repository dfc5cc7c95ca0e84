//! Expressions back to SQL.

use std::fmt;

use super::{Writer, quote_string};
use crate::ast::*;
use crate::dialect::*;

/// Above all operators.
const ATOM: u8 = u8::MAX;

/// How strongly the outermost operator of an expression binds.
fn level(expr: &Expr) -> u8 {
    match expr {
        Expr::Or(_) => OR,
        Expr::And(_) => AND,
        Expr::AssignVariable { .. } => 1,
        Expr::Unary { op: UnaryOperator::Not, .. } => NOT,
        Expr::Unary { .. } => UNARY,
        Expr::Cast { to: CastType::Binary(None), array: false, .. } => ATOM,
        Expr::Binary { op, .. } => binary_level(*op),
        Expr::Quantified { .. } | Expr::IsNull { .. } | Expr::IsTruth { .. } => COMPARISON,
        Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Like { .. }
        | Expr::Regexp { .. }
        | Expr::MemberOf { .. } => PREDICATE,
        Expr::DateArithmetic { .. } => SUM,
        Expr::Interval { .. } => 1,
        Expr::Collate { .. } => COLLATE,
        _ => ATOM,
    }
}

fn binary_level(op: BinaryOperator) -> u8 {
    match op {
        BinaryOperator::Xor => XOR,
        BinaryOperator::BitOr => BIT_OR,
        BinaryOperator::BitAnd => BIT_AND,
        BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight => SHIFT,
        BinaryOperator::Plus | BinaryOperator::Minus => SUM,
        BinaryOperator::Multiply
        | BinaryOperator::Divide
        | BinaryOperator::IntegerDivide
        | BinaryOperator::Modulo => PRODUCT,
        BinaryOperator::BitXor => BIT_XOR,
        _ => COMPARISON,
    }
}

impl Writer<'_> {
    /// An operand that must bind at least as strongly as a level.
    fn operand(&mut self, expr: &Expr, at_least: u8) -> fmt::Result {
        let own = level(expr);
        if own < at_least || (self.grouped && own != ATOM) {
            self.put("(")?;
            self.expr(expr)?;
            return self.put(")");
        }
        self.expr(expr)
    }

    fn exprs(&mut self, exprs: &[Expr]) -> fmt::Result {
        self.list(exprs, |w, expr| w.expr(expr))
    }

    fn not(&mut self, negated: bool) -> fmt::Result {
        if negated { self.put("NOT ") } else { Ok(()) }
    }

    fn chain(&mut self, terms: &[Expr], word: &str, level: u8) -> fmt::Result {
        for (index, term) in terms.iter().enumerate() {
            if index > 0 {
                self.put(word)?;
            }
            self.operand(term, level + 1)?;
        }
        Ok(())
    }

    /// An expression.
    pub(super) fn expr(&mut self, expr: &Expr) -> fmt::Result {
        match expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Column(column) => self.column(column),
            Expr::Parameter(_) => self.put("?"),
            Expr::UserVariable(name) => self.variable(name),
            Expr::SystemVariable { scope, name } => {
                self.put("@@")?;
                self.put(match scope {
                    VariableScope::Unspecified => "",
                    VariableScope::Session => "session.",
                    VariableScope::Global => "global.",
                    VariableScope::Persist => "persist.",
                    VariableScope::PersistOnly => "persist_only.",
                })?;
                self.put(name)
            }
            Expr::AssignVariable { name, value } => {
                self.variable(name)?;
                self.put(" := ")?;
                self.operand(value, 0)
            }
            Expr::Unary { op, expr } => self.unary(*op, expr),
            Expr::Binary { op, left, right } => {
                let level = binary_level(*op);
                self.operand(left, level)?;
                self.put(" ")?;
                self.put(op.as_str())?;
                self.put(" ")?;
                self.operand(right, level + 1)
            }
            Expr::And(terms) => self.chain(terms, " AND ", AND),
            Expr::Or(terms) => self.chain(terms, " OR ", OR),
            Expr::IsNull { expr, negated } => {
                self.operand(expr, COMPARISON)?;
                self.put(if *negated { " IS NOT NULL" } else { " IS NULL" })
            }
            Expr::IsTruth { expr, value, negated } => {
                self.operand(expr, COMPARISON)?;
                self.put(" IS ")?;
                self.not(*negated)?;
                self.put(match value {
                    TruthValue::True => "TRUE",
                    TruthValue::False => "FALSE",
                    TruthValue::Unknown => "UNKNOWN",
                })
            }
            Expr::Between { .. }
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Like { .. }
            | Expr::Regexp { .. }
            | Expr::MemberOf { .. } => self.predicate(expr),
            Expr::Exists(query) => {
                self.put("EXISTS ")?;
                self.subquery(query)
            }
            Expr::Subquery(query) => self.subquery(query),
            Expr::Quantified { op, quantifier, left, query } => {
                self.operand(left, COMPARISON)?;
                self.put(" ")?;
                self.put(op.as_str())?;
                self.put(match quantifier {
                    Quantifier::Any => " ANY ",
                    Quantifier::All => " ALL ",
                })?;
                self.subquery(query)
            }
            Expr::Row(members) => {
                self.put("(")?;
                self.exprs(members)?;
                self.put(")")
            }
            Expr::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref())
            }
            Expr::Collate { expr, collation } => {
                self.operand(expr, COLLATE)?;
                self.put(" COLLATE ")?;
                self.put(collation)
            }
            Expr::DateArithmetic { base, value, unit, subtract } => {
                // `INTERVAL 1 DAY + d` is not what `d + INTERVAL 1 DAY` is to a reader.
                self.operand(base, SUM)?;
                self.put(if *subtract { " - INTERVAL " } else { " + INTERVAL " })?;
                self.operand(value, SUM)?;
                self.put(" ")?;
                self.put(unit.as_str())
            }
            Expr::Interval { value, unit } => {
                self.put("INTERVAL ")?;
                self.operand(value, SUM)?;
                self.put(" ")?;
                self.put(unit.as_str())
            }
            Expr::Unit(unit) => self.put(unit.as_str()),
            other => self.call(other),
        }
    }

    fn unary(&mut self, op: UnaryOperator, expr: &Expr) -> fmt::Result {
        match op {
            UnaryOperator::Not => {
                self.put("NOT ")?;
                self.operand(expr, NOT)
            }
            UnaryOperator::Minus | UnaryOperator::Plus | UnaryOperator::BitNot => {
                self.put(match op {
                    UnaryOperator::Minus => "-",
                    UnaryOperator::Plus => "+",
                    _ => "~",
                })?;
                // `--1` would begin a comment.
                self.operand(expr, UNARY + 1)
            }
        }
    }

    fn predicate(&mut self, expr: &Expr) -> fmt::Result {
        let (left, negated) = match expr {
            Expr::Between { expr, negated, .. }
            | Expr::InList { expr, negated, .. }
            | Expr::InSubquery { expr, negated, .. }
            | Expr::Like { expr, negated, .. }
            | Expr::Regexp { expr, negated, .. } => (expr, *negated),
            Expr::MemberOf { value, .. } => (value, false),
            _ => return Ok(()),
        };
        self.operand(left, BIT_OR)?;
        self.put(" ")?;
        self.not(negated)?;
        match expr {
            Expr::Between { low, high, .. } => {
                self.put("BETWEEN ")?;
                self.operand(low, BIT_OR)?;
                self.put(" AND ")?;
                self.operand(high, BIT_OR)
            }
            Expr::InList { list, .. } => {
                self.put("IN (")?;
                self.exprs(list)?;
                self.put(")")
            }
            Expr::InSubquery { query, .. } => {
                self.put("IN ")?;
                self.subquery(query)
            }
            Expr::Like { pattern, escape, .. } => {
                self.put("LIKE ")?;
                self.operand(pattern, BIT_OR)?;
                if let Some(escape) = escape {
                    self.put(" ESCAPE ")?;
                    self.operand(escape, BIT_OR)?;
                }
                Ok(())
            }
            Expr::Regexp { pattern, .. } => {
                self.put("REGEXP ")?;
                self.operand(pattern, BIT_OR)
            }
            Expr::MemberOf { array, .. } => {
                self.put("MEMBER OF (")?;
                self.expr(array)?;
                self.put(")")
            }
            _ => Ok(()),
        }
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        branches: &[CaseBranch],
        otherwise: Option<&Expr>,
    ) -> fmt::Result {
        self.put("CASE")?;
        if let Some(operand) = operand {
            self.put(" ")?;
            self.expr(operand)?;
        }
        for branch in branches {
            self.put(" WHEN ")?;
            self.expr(&branch.when)?;
            self.put(" THEN ")?;
            self.expr(&branch.then)?;
        }
        if let Some(otherwise) = otherwise {
            self.put(" ELSE ")?;
            self.expr(otherwise)?;
        }
        self.put(" END")
    }

    /// Everything written like a call.
    fn call(&mut self, expr: &Expr) -> fmt::Result {
        match expr {
            Expr::Function(call) => {
                if let Some(schema) = &call.schema {
                    self.name(schema)?;
                    self.put(".")?;
                    self.name(&call.name)?;
                } else if call.name == "interval" {
                    self.put("INTERVAL")?;
                } else {
                    self.put(&call.name)?;
                }
                self.put("(")?;
                match call.args.as_slice() {
                    // Its first argument is a word and no string.
                    [Expr::Literal(Literal::String { value, .. }), format]
                        if call.name == "get_format" =>
                    {
                        self.put(value)?;
                        self.put(", ")?;
                        self.expr(format)?;
                    }
                    args => self.exprs(args)?,
                }
            }
            Expr::Aggregate(call) => return self.aggregate(call),
            Expr::Window(call) => return self.window_call(call),
            Expr::Cast { expr, to, array } => {
                self.put("cast(")?;
                self.expr(expr)?;
                self.put(" AS ")?;
                self.put(&cast_type(to))?;
                self.put(if *array { " ARRAY" } else { "" })?;
            }
            Expr::ConvertCharset { expr, charset } => {
                self.put("convert(")?;
                self.expr(expr)?;
                self.put(" USING ")?;
                self.put(charset)?;
            }
            Expr::Extract { unit, expr } => {
                self.put("extract(")?;
                self.put(unit.as_str())?;
                self.put(" FROM ")?;
                self.expr(expr)?;
            }
            Expr::Trim { side, characters, expr } => {
                self.put("trim(")?;
                self.put(match side {
                    TrimSide::Both if characters.is_none() => "",
                    TrimSide::Both => "BOTH ",
                    TrimSide::Leading => "LEADING ",
                    TrimSide::Trailing => "TRAILING ",
                })?;
                if let Some(characters) = characters {
                    self.expr(characters)?;
                    self.put(" ")?;
                }
                if characters.is_some() || *side != TrimSide::Both {
                    self.put("FROM ")?;
                }
                self.expr(expr)?;
            }
            Expr::Char { args, charset } => {
                self.put("char(")?;
                self.exprs(args)?;
                if let Some(charset) = charset {
                    self.put(" USING ")?;
                    self.put(charset)?;
                }
            }
            Expr::Values(column) => {
                self.put("VALUES(")?;
                self.column(column)?;
            }
            Expr::Default(None) => return self.put("DEFAULT"),
            Expr::Default(Some(column)) => {
                self.put("DEFAULT(")?;
                self.column(column)?;
            }
            Expr::Match { columns, against, mode } => {
                self.put("MATCH (")?;
                self.list(columns, |w, column| w.column(column))?;
                self.put(") AGAINST (")?;
                self.operand(against, BIT_OR)?;
                self.put(match mode {
                    MatchMode::NaturalLanguage => "",
                    MatchMode::QueryExpansion => " WITH QUERY EXPANSION",
                    MatchMode::Boolean => " IN BOOLEAN MODE",
                })?;
            }
            _ => return Ok(()),
        }
        self.put(")")
    }

    fn aggregate(&mut self, call: &AggregateCall) -> fmt::Result {
        self.put(&call.name)?;
        self.put("(")?;
        self.put(if call.distinct { "DISTINCT " } else { "" })?;
        self.put(if call.star { "*" } else { "" })?;
        self.exprs(&call.args)?;
        if !call.order_by.is_empty() {
            self.put(" ORDER BY ")?;
            self.list(&call.order_by, |w, item| w.order_by_item(item))?;
        }
        if let Some(separator) = &call.separator {
            self.put(" SEPARATOR ")?;
            self.put(&quote_string(separator))?;
        }
        self.put(")")
    }

    fn window_call(&mut self, call: &WindowCall) -> fmt::Result {
        self.aggregate(&call.function)?;
        self.put(if call.from_last { " FROM LAST" } else { "" })?;
        self.put(if call.ignore_nulls { " IGNORE NULLS" } else { "" })?;
        self.put(" OVER ")?;
        match &call.over {
            WindowRef::Named(name) => self.name(name),
            WindowRef::Inline(spec) => self.window_spec(spec),
        }
    }

    /// `(..)` of a window.
    pub(super) fn window_spec(&mut self, spec: &WindowSpec) -> fmt::Result {
        self.put("(")?;
        let mut gap = "";
        if let Some(base) = &spec.base {
            self.name(base)?;
            gap = " ";
        }
        if !spec.partition_by.is_empty() {
            self.put(gap)?;
            self.put("PARTITION BY ")?;
            self.exprs(&spec.partition_by)?;
            gap = " ";
        }
        if !spec.order_by.is_empty() {
            self.put(gap)?;
            self.put("ORDER BY ")?;
            self.list(&spec.order_by, |w, item| w.order_by_item(item))?;
            gap = " ";
        }
        if let Some(frame) = &spec.frame {
            self.put(gap)?;
            self.put(match frame.unit {
                FrameUnit::Rows => "ROWS BETWEEN ",
                FrameUnit::Range => "RANGE BETWEEN ",
                FrameUnit::Groups => "GROUPS BETWEEN ",
            })?;
            self.frame_bound(&frame.start)?;
            self.put(" AND ")?;
            self.frame_bound(&frame.end)?;
        }
        self.put(")")
    }

    fn frame_bound(&mut self, bound: &FrameBound) -> fmt::Result {
        match bound {
            FrameBound::UnboundedPreceding => self.put("UNBOUNDED PRECEDING"),
            FrameBound::UnboundedFollowing => self.put("UNBOUNDED FOLLOWING"),
            FrameBound::CurrentRow => self.put("CURRENT ROW"),
            FrameBound::Preceding(value) => {
                self.expr(value)?;
                self.put(" PRECEDING")
            }
            FrameBound::Following(value) => {
                self.expr(value)?;
                self.put(" FOLLOWING")
            }
        }
    }

    /// `a DESC`.
    pub(super) fn order_by_item(&mut self, item: &OrderByItem) -> fmt::Result {
        self.expr(&item.expr)?;
        self.put(if item.descending { " DESC" } else { "" })
    }

    fn column(&mut self, column: &ColumnRef) -> fmt::Result {
        for part in [&column.schema, &column.table].into_iter().flatten() {
            self.name(part)?;
            self.put(".")?;
        }
        self.name(&column.column)
    }

    fn variable(&mut self, name: &str) -> fmt::Result {
        self.put("@")?;
        self.name(name)
    }

    fn subquery(&mut self, query: &Query) -> fmt::Result {
        self.put("(")?;
        self.query(query)?;
        self.put(")")
    }

    fn literal(&mut self, literal: &Literal) -> fmt::Result {
        match literal {
            Literal::Null => self.put("NULL"),
            Literal::Boolean(true) => self.put("TRUE"),
            Literal::Boolean(false) => self.put("FALSE"),
            Literal::Integer(text) | Literal::Decimal(text) | Literal::Float(text) => {
                self.put(text)
            }
            Literal::String { value, charset } => {
                self.introducer(charset.as_deref())?;
                self.put(&quote_string(value))
            }
            Literal::Hex { bytes, charset } => {
                self.introducer(charset.as_deref())?;
                self.put("x'")?;
                for byte in bytes {
                    self.put(&format!("{byte:02X}"))?;
                }
                self.put("'")
            }
            Literal::Bit { bytes, charset } => {
                self.introducer(charset.as_deref())?;
                self.put("b'")?;
                for byte in bytes {
                    self.put(&format!("{byte:08b}"))?;
                }
                self.put("'")
            }
            Literal::Date(value) => self.typed("DATE", value),
            Literal::Time(value) => self.typed("TIME", value),
            Literal::Timestamp(value) => self.typed("TIMESTAMP", value),
        }
    }

    fn introducer(&mut self, charset: Option<&str>) -> fmt::Result {
        match charset {
            Some(charset) => {
                self.put("_")?;
                self.put(charset)
            }
            None => Ok(()),
        }
    }

    fn typed(&mut self, word: &str, value: &str) -> fmt::Result {
        self.put(word)?;
        self.put(&quote_string(value))
    }
}

/// A cast's type.
fn cast_type(to: &CastType) -> String {
    let fsp = |word: &str, digits: u8| match digits {
        0 => word.to_owned(),
        digits => format!("{word}({digits})"),
    };
    match to {
        CastType::Binary(None) => "BINARY".into(),
        CastType::Binary(Some(length)) => format!("BINARY({length})"),
        CastType::Char { length, charset } => {
            let length = length.map_or(String::new(), |length| format!("({length})"));
            let charset =
                charset.as_ref().map_or(String::new(), |name| format!(" CHARACTER SET {name}"));
            format!("CHAR{length}{charset}")
        }
        CastType::Date => "DATE".into(),
        CastType::DateTime(digits) => fsp("DATETIME", *digits),
        CastType::Time(digits) => fsp("TIME", *digits),
        CastType::Year => "YEAR".into(),
        CastType::Signed => "SIGNED".into(),
        CastType::Unsigned => "UNSIGNED".into(),
        CastType::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        CastType::Float => "FLOAT".into(),
        CastType::Double => "DOUBLE".into(),
        CastType::Json => "JSON".into(),
    }
}
