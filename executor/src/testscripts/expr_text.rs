//! Expressions as text: `gt(#0, 5)`, `'text'`, `NULL`, `1.5`, `#1`.

use cairn_expr::{EvalContext, Expr, build_function};
use cairn_types::{Datum, Decimal, FieldType};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Reads expressions from a text, left to right.
pub(super) struct Parser<'a> {
    pub(super) rest: &'a str,
    schema: &'a [FieldType],
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, schema: &'a [FieldType]) -> Parser<'a> {
        Parser { rest: text.trim(), schema }
    }

    /// Whether a token follows; passes over it if so.
    pub(super) fn accept(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Expressions separated by commas.
    pub(super) fn list(&mut self) -> Result<Vec<Expr>> {
        let mut exprs = vec![self.expr()?];
        while self.accept(",") {
            exprs.push(self.expr()?);
        }
        Ok(exprs)
    }

    /// A word of letters, digits and `_`.
    pub(super) fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.rest = self.rest.trim_start();
        if self.accept("#") {
            let index: usize = self.word().parse()?;
            let ty = self.schema.get(index).ok_or("no such column")?.clone();
            return Ok(Expr::column(index, ty));
        }
        if let Some(text) = self.rest.strip_prefix('\'') {
            let (text, rest) = text.split_once('\'').ok_or("unfinished text")?;
            self.rest = rest;
            return Ok(Expr::string(text));
        }
        if self.rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let end = self.rest[1..].find(|c: char| !c.is_ascii_digit() && c != '.');
            let (number, rest) = self.rest.split_at(end.map_or(self.rest.len(), |end| end + 1));
            self.rest = rest;
            return Ok(match number.parse::<i64>() {
                Ok(number) => Expr::int(number),
                Err(_) => Expr::constant(Datum::Decimal(number.parse::<Decimal>()?)),
            });
        }
        let name = self.word();
        if name.is_empty() {
            return Err(format!("no expression at '{}'", self.rest).into());
        }
        if !self.accept("(") {
            return match name {
                "NULL" => Ok(Expr::null()),
                _ => Err(format!("unknown word {name}").into()),
            };
        }
        let args = if self.rest.trim_start().starts_with(')') { Vec::new() } else { self.list()? };
        if !self.accept(")") {
            return Err(format!("no ')' at '{}'", self.rest).into());
        }
        Ok(build_function(name, args, &mut EvalContext::default())?)
    }
}
