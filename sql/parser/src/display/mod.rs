//! The tree back to SQL: for `EXPLAIN`, `SHOW CREATE TABLE`, stored expressions and tests.
//!
//! `Display` writes the fewest parentheses that keep the meaning; [`Expr::to_sql_grouped`]
//! writes all of them, which is how tests see what binds to what. Both parse back to the same
//! tree (a property test holds them to it). Backslashes in strings are written as the default
//! `sql_mode` reads them.

mod expr;
mod query;

use std::fmt::{self, Display, Formatter, Write};

use crate::ast::{Expr, ObjectName, Query};

/// An identifier in backquotes.
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string in quotes, escaped as MySQL reads it.
pub fn quote_string(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{1a}' => out.push_str("\\Z"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// Where SQL is written to, and how.
pub(crate) struct Writer<'w> {
    out: &'w mut dyn Write,
    /// Parentheses around every operand that is no atom.
    grouped: bool,
}

impl Writer<'_> {
    fn put(&mut self, text: &str) -> fmt::Result {
        self.out.write_str(text)
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        self.put(&quote_identifier(name))
    }

    fn names(&mut self, names: &[String]) -> fmt::Result {
        self.list(names, |w, name| w.name(name))
    }

    fn object(&mut self, name: &ObjectName) -> fmt::Result {
        if let Some(schema) = &name.schema {
            self.name(schema)?;
            self.put(".")?;
        }
        self.name(&name.name)
    }

    fn list<T>(
        &mut self,
        items: &[T],
        mut write: impl FnMut(&mut Self, &T) -> fmt::Result,
    ) -> fmt::Result {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.put(", ")?;
            }
            write(self, item)?;
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Writer { out: f, grouped: false }.expr(self)
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Writer { out: f, grouped: false }.query(self)
    }
}

impl Expr {
    /// SQL with parentheses around every operand that is no atom.
    pub fn to_sql_grouped(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = Writer { out: &mut out, grouped: true }.expr(self);
        out
    }
}

impl Query {
    /// SQL with parentheses around every operand that is no atom.
    pub fn to_sql_grouped(&self) -> String {
        let mut out = String::new();
        let _ = Writer { out: &mut out, grouped: true }.query(self);
        out
    }
}
