//! Collation derivation: which collation the text of several arguments has, and
//! how strongly each argument insists on its own.
//!
//! The lower the coercibility, the stronger. Ties between different collations
//! are errors (1267, 1270), except that `_bin` beats its character set's others,
//! and a larger character set beats a smaller one it contains.

use cairn_types::{Charset, Collation, TypeCode, errno};

use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::func::Func;

/// COLLATE clause.
pub const EXPLICIT: u8 = 0;
/// Two strings of different collations, joined.
pub const NONE: u8 = 1;
/// Columns and functions of them.
pub const IMPLICIT: u8 = 2;
/// USER(), DATABASE(), VERSION().
pub const SYSCONST: u8 = 3;
/// Literals.
pub const COERCIBLE: u8 = 4;
/// Numbers and times as text.
pub const NUMERIC: u8 = 5;
/// NULL.
pub const IGNORABLE: u8 = 6;

/// How strongly `expr` insists on its collation, as COERCIBILITY() tells.
pub fn coercibility(expr: &Expr) -> u8 {
    let ty = expr.ty();
    let is_text = ty.is_string() || ty.is_enum_or_set() || ty.code == TypeCode::Json;
    match expr {
        _ if expr.is_null_constant() => IGNORABLE,
        Expr::Function { func: Func::Collate, .. } => EXPLICIT,
        Expr::Function { func: Func::ConvertUsing | Func::Cast | Func::GetUserVar, .. } => {
            if is_text {
                IMPLICIT
            } else {
                NUMERIC
            }
        }
        Expr::Column { .. } => {
            if is_text {
                IMPLICIT
            } else {
                NUMERIC
            }
        }
        Expr::Constant { .. } | Expr::Param { .. } => {
            if is_text {
                COERCIBLE
            } else {
                NUMERIC
            }
        }
        Expr::Function { func, args, .. } => {
            if !is_text {
                return NUMERIC;
            }
            if matches!(
                func,
                Func::User | Func::CurrentUser | Func::Database | Func::Version | Func::CurrentRole
            ) {
                return SYSCONST;
            }
            let texts = args.iter().filter(|arg| arg.ty().is_string());
            texts.map(coercibility).min().unwrap_or(COERCIBLE).min(COERCIBLE)
        }
    }
}

/// A collation with its strength.
#[derive(Clone, Copy, Debug)]
pub struct Derivation {
    /// The collation.
    pub collation: Collation,
    /// Its coercibility.
    pub strength: u8,
}

/// The common collation of the textual arguments; `connection` if there is none.
pub fn derive(name: &str, args: &[&Expr], connection: Collation) -> Result<Derivation> {
    let mut found: Option<Derivation> = None;
    for arg in args {
        let strength = coercibility(arg);
        let ty = arg.ty();
        let collation = match strength {
            // Numbers and NULL take part as text of the connection.
            NUMERIC | IGNORABLE => connection,
            _ if ty.code == TypeCode::Json => Collation::UTF8MB4_BIN,
            _ => ty.collation,
        };
        let next = Derivation { collation, strength };
        found = Some(match found {
            None => next,
            Some(held) => combine(held, next).ok_or_else(|| illegal_mix(name, held, next))?,
        });
    }
    Ok(found.unwrap_or(Derivation { collation: connection, strength: COERCIBLE }))
}

fn combine(a: Derivation, b: Derivation) -> Option<Derivation> {
    if a.collation == b.collation {
        return Some(Derivation { strength: a.strength.min(b.strength), ..a });
    }
    if a.strength == EXPLICIT && b.strength == EXPLICIT {
        return None;
    }
    // Bytes do not become text by being joined with text.
    if a.collation.is_binary() || b.collation.is_binary() {
        let binary = if a.collation.is_binary() { a } else { b };
        let text = if a.collation.is_binary() { b } else { a };
        return Some(if binary.strength <= text.strength { binary } else { text });
    }
    if a.strength != b.strength {
        return Some(if a.strength < b.strength { a } else { b });
    }
    let (x, y) = (a.collation.charset(), b.collation.charset());
    if x == y {
        let is_bin = |collation: Collation| collation == collation.charset().binary_collation();
        return match (is_bin(a.collation), is_bin(b.collation)) {
            (true, false) => Some(a),
            (false, true) => Some(b),
            // Literals of another connection collation give way to each other.
            _ if a.strength >= SYSCONST => Some(a),
            _ => None,
        };
    }
    if contains(x, y) {
        return Some(a);
    }
    if contains(y, x) {
        return Some(b);
    }
    (a.strength >= SYSCONST).then_some(a)
}

/// Whether every character of `small` is one of `large`.
fn contains(large: Charset, small: Charset) -> bool {
    match large {
        Charset::Utf8mb4 => small != Charset::Binary,
        Charset::Utf8mb3 => matches!(small, Charset::Ascii | Charset::Latin1),
        Charset::Latin1 | Charset::Gbk => small == Charset::Ascii,
        Charset::Ascii | Charset::Binary => false,
    }
}

fn illegal_mix(name: &str, a: Derivation, b: Derivation) -> ExprError {
    let word = |strength| match strength {
        EXPLICIT => "EXPLICIT",
        NONE => "NONE",
        IMPLICIT => "IMPLICIT",
        SYSCONST => "SYSCONST",
        COERCIBLE => "COERCIBLE",
        NUMERIC => "NUMERIC",
        _ => "IGNORABLE",
    };
    ExprError::mysql(
        errno::ER_CANT_AGGREGATE_2COLLATIONS,
        &[&a.collation.name(), &word(a.strength), &b.collation.name(), &word(b.strength), &name],
    )
}
