//! Expressions as text: TiDB's EXPLAIN form `gt(test.t.c1, 10)` and MySQL's own
//! form `(c1 + 1)`, which error 1690 quotes.

use std::fmt::Write;

use cairn_types::{Datum, EvalKind, FieldType, TypeCode, write_text};

use crate::expr::Expr;
use crate::func::Func;

/// Longest text of one expression; the rest is cut and marked.
const TEXT_BYTES_MAX: usize = 4096;

impl Expr {
    /// As EXPLAIN prints it; `name` gives the columns' names.
    pub fn fmt_with(&self, name: &dyn Fn(usize) -> String) -> String {
        let mut out = String::new();
        write_explain(self, name, &mut out);
        cut(out)
    }

    /// As MySQL quotes it in messages: operators between their arguments.
    pub fn fmt_sql(&self, name: &dyn Fn(usize) -> String) -> String {
        let mut out = String::new();
        write_sql(self, name, &mut out);
        cut(out)
    }
}

impl std::fmt::Display for Expr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.fmt_with(&default_name))
    }
}

/// Name of a column nobody named.
pub(crate) fn default_name(index: usize) -> String {
    format!("Column#{index}")
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// A value as its type prints it, without quotes.
fn value_text(value: &Datum, ty: &FieldType) -> String {
    let mut out = Vec::new();
    write_text(&mut out, value.as_ref(), ty);
    String::from_utf8_lossy(&out).into_owned()
}

fn is_quoted(ty: &FieldType) -> bool {
    matches!(ty.eval_kind(), EvalKind::String | EvalKind::Json)
}

fn write_explain(expr: &Expr, name: &dyn Fn(usize) -> String, out: &mut String) {
    if out.len() > TEXT_BYTES_MAX {
        return;
    }
    match expr {
        Expr::Column { index, .. } => out.push_str(&name(*index)),
        Expr::Param { index, .. } => {
            let _ = write!(out, "?{index}");
        }
        Expr::Constant { value: Datum::Null, .. } => out.push_str("NULL"),
        Expr::Constant { value, ty } if is_quoted(ty) => {
            let _ = write!(out, "\"{}\"", value_text(value, ty));
        }
        Expr::Constant { value, ty } => out.push_str(&value_text(value, ty)),
        Expr::Function { func, args, ty, .. } => {
            out.push_str(func.name());
            out.push('(');
            for (at, arg) in args.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_explain(arg, name, out);
            }
            if *func == Func::Cast {
                let _ = write!(out, ", {}", cast_target(ty));
            }
            out.push(')');
        }
    }
}

/// The target of a cast, as TiDB prints it: `bigint(22) BINARY`, `double BINARY`.
fn cast_target(ty: &FieldType) -> String {
    let mut text = ty.to_string();
    if ty.is_numeric() || ty.is_temporal() {
        text.push_str(" BINARY");
    }
    text
}

fn write_sql(expr: &Expr, name: &dyn Fn(usize) -> String, out: &mut String) {
    if out.len() > TEXT_BYTES_MAX {
        return;
    }
    let list = |open: &str, args: &[Expr], separator: &str, out: &mut String| {
        out.push_str(open);
        for (at, arg) in args.iter().enumerate() {
            if at > 0 {
                out.push_str(separator);
            }
            write_sql(arg, name, out);
        }
        out.push(')');
    };
    match expr {
        Expr::Column { index, .. } => out.push_str(&name(*index)),
        Expr::Param { .. } => out.push('?'),
        Expr::Constant { value: Datum::Null, .. } => out.push_str("NULL"),
        Expr::Constant { value, ty } if is_quoted(ty) => {
            let _ = write!(out, "'{}'", value_text(value, ty));
        }
        Expr::Constant { value, ty } => out.push_str(&value_text(value, ty)),
        Expr::Function { func: Func::UnaryMinus, args, .. } => list("-(", args, "", out),
        Expr::Function { func: Func::Cast, args, ty, .. } => {
            // Implicit casts are no part of what the user wrote.
            if matches!(ty.code, TypeCode::Json) {
                list("cast(", args, "", out);
            } else if let Some(arg) = args.first() {
                write_sql(arg, name, out);
            }
        }
        Expr::Function { func, args, .. } => match func.operator() {
            Some(operator) if args.len() == 2 => {
                list("(", args, &format!(" {operator} "), out);
            }
            _ => list(&format!("{}(", func.name()), args, ",", out),
        },
    }
}
