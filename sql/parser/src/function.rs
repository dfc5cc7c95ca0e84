//! Rules of function calls, those with a syntax of their own included.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::dialect::PREDICATE;
use crate::expr::function;
use crate::grammar::{Grammar, Parse};

/// Aggregate functions, lower case, sorted.
const AGGREGATES: [&str; 20] = [
    "approx_count_distinct",
    "approx_percentile",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "count",
    "group_concat",
    "json_arrayagg",
    "json_objectagg",
    "max",
    "min",
    "std",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
];

impl Grammar<'_, '_> {
    /// At a word before `(`.
    pub(crate) fn call(&mut self, word: &str) -> Parse<Expr> {
        let name = word.to_ascii_lowercase();
        match name.as_str() {
            "row" => {
                self.advance();
                let members = self.parenthesised(|g| g.comma_list(Self::expr))?;
                if members.len() < 2 {
                    return self.fail_at(self.at().saturating_sub(1), "two members of a row");
                }
                Ok(Expr::Row(members))
            }
            "cast" => {
                self.advance();
                self.parenthesised(|g| {
                    let expr = Box::new(g.expr()?);
                    g.expect("AS")?;
                    let to = g.cast_type()?;
                    let array = g.eat("ARRAY");
                    Ok(Expr::Cast { expr, to, array })
                })
            }
            "extract" => {
                self.advance();
                self.parenthesised(|g| {
                    let unit = g.interval_unit()?;
                    g.expect("FROM")?;
                    Ok(Expr::Extract { unit, expr: Box::new(g.expr()?) })
                })
            }
            "trim" => {
                self.advance();
                self.parenthesised(Self::trim)
            }
            "substring" | "substr" | "mid" => {
                self.advance();
                self.parenthesised(Self::substring)
            }
            "position" => {
                self.advance();
                self.parenthesised(|g| {
                    let needle = g.subexpr(PREDICATE)?;
                    g.expect("IN")?;
                    Ok(function("locate", vec![needle, g.expr()?]))
                })
            }
            "date_add" | "date_sub" | "adddate" | "subdate" => {
                self.advance();
                self.parenthesised(|g| g.date_function(&name))
            }
            "timestampadd" | "timestampdiff" => {
                self.advance();
                self.parenthesised(|g| {
                    let mut args = vec![Expr::Unit(g.interval_unit()?)];
                    for _ in 0..2 {
                        g.expect_sign(&Token::Comma)?;
                        args.push(g.expr()?);
                    }
                    Ok(function(&name, args))
                })
            }
            "get_format" => {
                self.advance();
                self.parenthesised(|g| {
                    let Some(kind) = g.eat_one(&["DATE", "TIME", "DATETIME", "TIMESTAMP"]) else {
                        return g.fail("a kind of date");
                    };
                    g.expect_sign(&Token::Comma)?;
                    let kind = if kind == "TIMESTAMP" { "DATETIME" } else { kind };
                    let kind = Expr::Literal(Literal::string(kind));
                    Ok(function("get_format", vec![kind, g.expr()?]))
                })
            }
            _ => {
                self.advance();
                self.general_call(None, name)
            }
        }
    }

    /// At `(`: arguments, and what follows a call.
    pub(crate) fn general_call(&mut self, schema: Option<String>, name: String) -> Parse<Expr> {
        let aggregate = schema.is_none() && AGGREGATES.binary_search(&name.as_str()).is_ok();
        let opening = self.at();
        let call = self.parenthesised(|g| g.arguments(name, aggregate))?;
        let from_last = self.nth_value_end(&call.name)?;
        let ignore_nulls = self.eat_all("IGNORE NULLS");
        let _ = !ignore_nulls && self.eat_all("RESPECT NULLS");
        if self.eat("OVER") {
            let over = if *self.peek() == Token::LParen {
                WindowRef::Inline(self.parenthesised(Self::window_spec)?)
            } else {
                WindowRef::Named(self.ident()?)
            };
            let window = WindowCall { function: call, ignore_nulls, from_last, over };
            return Ok(Expr::Window(Box::new(window)));
        }
        if aggregate {
            return Ok(Expr::Aggregate(Box::new(call)));
        }
        if call.distinct || call.star {
            return self.fail_at(opening + 1, "an expression");
        }
        Ok(Expr::Function(FunctionCall { schema, name: call.name, args: call.args }))
    }

    /// `FROM LAST` of `NTH_VALUE`. Tables may be called `first` and `last`, so `OVER` has to be
    /// in sight.
    fn nth_value_end(&mut self, name: &str) -> Parse<bool> {
        let ends = self.is("FROM") && (self.nth_is(1, "FIRST") || self.nth_is(1, "LAST"));
        let over = ["OVER", "IGNORE", "RESPECT"].iter().any(|word| self.nth_is(2, word));
        if name != "nth_value" || !ends || !over {
            return Ok(false);
        }
        self.advance();
        let last = self.is("LAST");
        self.advance();
        Ok(last)
    }

    /// Between the parentheses of a call.
    fn arguments(&mut self, name: String, aggregate: bool) -> Parse<AggregateCall> {
        let mut call = AggregateCall {
            name,
            distinct: false,
            args: Vec::new(),
            star: false,
            order_by: Vec::new(),
            separator: None,
        };
        if *self.peek() == Token::RParen {
            return Ok(call);
        }
        if aggregate {
            call.distinct = self.eat("DISTINCT") || (self.eat("ALL") && self.eat("DISTINCT"));
            if call.name == "count" && self.eat_sign(&Token::Mul) {
                call.star = true;
                return Ok(call);
            }
        }
        call.args = self.comma_list(Self::expr)?;
        if call.name == "group_concat" {
            if self.eat_all("ORDER BY") {
                call.order_by = self.comma_list(Self::order_by_item)?;
            }
            if self.eat("SEPARATOR") {
                call.separator = Some(self.string()?);
            }
        }
        Ok(call)
    }

    /// `[LEADING | TRAILING | BOTH] [characters] FROM s`, `s`.
    fn trim(&mut self) -> Parse<Expr> {
        let side = match self.eat_one(&["LEADING", "TRAILING", "BOTH"]) {
            Some("LEADING") => Some(TrimSide::Leading),
            Some("TRAILING") => Some(TrimSide::Trailing),
            Some(_) => Some(TrimSide::Both),
            None => None,
        };
        let first = if side.is_some() && self.is("FROM") { None } else { Some(self.expr()?) };
        let side_or_both = side.unwrap_or(TrimSide::Both);
        if self.eat("FROM") {
            let expr = Box::new(self.expr()?);
            return Ok(Expr::Trim { side: side_or_both, characters: first.map(Box::new), expr });
        }
        match first {
            Some(expr) if side.is_none() => {
                Ok(Expr::Trim { side: TrimSide::Both, characters: None, expr: Box::new(expr) })
            }
            _ => self.fail("FROM"),
        }
    }

    /// `s FROM p [FOR n]`, `s, p [, n]`.
    fn substring(&mut self) -> Parse<Expr> {
        let mut args = vec![self.expr()?];
        if self.eat("FROM") {
            args.push(self.expr()?);
            if self.eat("FOR") {
                args.push(self.expr()?);
            }
        } else {
            while self.eat_sign(&Token::Comma) {
                args.push(self.expr()?);
            }
        }
        Ok(function("substring", args))
    }

    /// `d, INTERVAL n unit`, and `d, days` for `ADDDATE` and `SUBDATE`.
    fn date_function(&mut self, name: &str) -> Parse<Expr> {
        let base = self.expr()?;
        self.expect_sign(&Token::Comma)?;
        let at = self.at();
        match self.expr()? {
            Expr::Interval { value, unit } => Ok(Expr::DateArithmetic {
                base: Box::new(base),
                value,
                unit,
                subtract: name.ends_with("sub") || name == "subdate",
            }),
            days if name == "adddate" || name == "subdate" => Ok(Expr::DateArithmetic {
                base: Box::new(base),
                value: Box::new(days),
                unit: IntervalUnit::Day,
                subtract: name == "subdate",
            }),
            _ => self.fail_at(at, "INTERVAL"),
        }
    }

    /// `CONVERT(x, type)`, `CONVERT(x USING charset)`.
    pub(crate) fn convert(&mut self) -> Parse<Expr> {
        self.advance();
        self.parenthesised(|g| {
            let expr = Box::new(g.expr()?);
            if g.eat("USING") {
                let charset = g.ident_or_string()?.to_ascii_lowercase();
                return Ok(Expr::ConvertCharset { expr, charset });
            }
            g.expect_sign(&Token::Comma)?;
            Ok(Expr::Cast { expr, to: g.cast_type()?, array: false })
        })
    }

    /// `CHAR(a, b USING charset)`.
    pub(crate) fn char_function(&mut self) -> Parse<Expr> {
        self.advance();
        self.parenthesised(|g| {
            let args = g.comma_list(Self::expr)?;
            let charset =
                if g.eat("USING") { Some(g.ident_or_string()?.to_ascii_lowercase()) } else { None };
            Ok(Expr::Char { args, charset })
        })
    }

    /// `MATCH (a, b) AGAINST (e mode)`.
    pub(crate) fn match_against(&mut self) -> Parse<Expr> {
        self.advance();
        let columns = if *self.peek() == Token::LParen {
            self.parenthesised(|g| g.comma_list(Self::column_ref))?
        } else {
            self.comma_list(Self::column_ref)?
        };
        self.expect("AGAINST")?;
        self.parenthesised(|g| {
            // `IN BOOLEAN MODE` must not be taken for the predicate.
            let against = Box::new(g.subexpr(PREDICATE)?);
            let mode = if g.eat_all("IN BOOLEAN MODE") {
                MatchMode::Boolean
            } else {
                let _ = g.eat_all("IN NATURAL LANGUAGE MODE");
                if g.eat_all("WITH QUERY EXPANSION") {
                    MatchMode::QueryExpansion
                } else {
                    MatchMode::NaturalLanguage
                }
            };
            Ok(Expr::Match { columns, against, mode })
        })
    }

    /// The type of a cast.
    fn cast_type(&mut self) -> Parse<CastType> {
        let at = self.at();
        let word = match self.peek() {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
            _ => return self.fail("a type"),
        };
        self.advance();
        Ok(match word.as_str() {
            "BINARY" => CastType::Binary(self.optional_length()?),
            "CHAR" | "CHARACTER" | "NCHAR" => {
                let length = self.optional_length()?;
                let national = word == "NCHAR";
                let charset = self.charset_clause()?.charset;
                let charset = if national { Some("utf8mb3".into()) } else { charset };
                CastType::Char { length, charset }
            }
            "DATE" => CastType::Date,
            "DATETIME" => CastType::DateTime(self.optional_fsp()?),
            "TIME" => CastType::Time(self.optional_fsp()?),
            "YEAR" => CastType::Year,
            "SIGNED" | "UNSIGNED" => {
                let _ = self.eat("INTEGER") || self.eat("INT");
                if word == "SIGNED" { CastType::Signed } else { CastType::Unsigned }
            }
            "DECIMAL" | "DEC" | "NUMERIC" => {
                let (precision, scale) = self.optional_precision()?;
                CastType::Decimal { precision: precision.unwrap_or(10), scale: scale.unwrap_or(0) }
            }
            "FLOAT" => match self.optional_length()? {
                Some(bits) if bits > 24 => CastType::Double,
                _ => CastType::Float,
            },
            "DOUBLE" => {
                let _ = self.eat("PRECISION");
                CastType::Double
            }
            "REAL" => CastType::Double,
            "JSON" => CastType::Json,
            _ => return self.fail_at(at, "a type"),
        })
    }

    /// `[base] [PARTITION BY ..] [ORDER BY ..] [frame]`.
    pub(crate) fn window_spec(&mut self) -> Parse<WindowSpec> {
        let mut spec = WindowSpec::default();
        let frame_word = ["ROWS", "RANGE", "GROUPS"].iter().any(|word| self.is(word));
        if self.is_ident() && !frame_word {
            spec.base = Some(self.ident()?);
        }
        if self.eat_all("PARTITION BY") {
            spec.partition_by = self.comma_list(Self::expr)?;
        }
        if self.eat_all("ORDER BY") {
            spec.order_by = self.comma_list(Self::order_by_item)?;
        }
        let unit = match self.eat_one(&["ROWS", "RANGE", "GROUPS"]) {
            Some("ROWS") => FrameUnit::Rows,
            Some("RANGE") => FrameUnit::Range,
            Some(_) => FrameUnit::Groups,
            None => return Ok(spec),
        };
        let (start, end) = if self.eat("BETWEEN") {
            let start = self.frame_bound()?;
            self.expect("AND")?;
            (start, self.frame_bound()?)
        } else {
            (self.frame_bound()?, FrameBound::CurrentRow)
        };
        spec.frame = Some(WindowFrame { unit, start, end });
        Ok(spec)
    }

    fn frame_bound(&mut self) -> Parse<FrameBound> {
        if self.eat_all("CURRENT ROW") {
            return Ok(FrameBound::CurrentRow);
        }
        let value =
            if self.eat("UNBOUNDED") { None } else { Some(Box::new(self.subexpr(PREDICATE)?)) };
        match (self.eat_one(&["PRECEDING", "FOLLOWING"]), value) {
            (Some("PRECEDING"), None) => Ok(FrameBound::UnboundedPreceding),
            (Some("PRECEDING"), Some(value)) => Ok(FrameBound::Preceding(value)),
            (Some(_), None) => Ok(FrameBound::UnboundedFollowing),
            (Some(_), Some(value)) => Ok(FrameBound::Following(value)),
            (None, _) => self.fail("PRECEDING or FOLLOWING"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AGGREGATES;

    #[test]
    fn aggregates_are_sorted_for_the_search() {
        assert!(AGGREGATES.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
