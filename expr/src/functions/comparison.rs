//! Comparisons of two values, IN, IS TRUE, GREATEST and their kin.
//!
//! The arguments were brought to one kind when the call was built; the collation
//! text is compared by is the result type's.

use std::cmp::Ordering;

use cairn_types::{Datum, datum::compare};

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    Ok(match call.func {
        Func::IsNull => Datum::bool(call.is_null(0)),
        Func::IsTrue => Datum::bool(call.truth(0, ctx)? == Some(true)),
        Func::IsFalse => Datum::bool(call.truth(0, ctx)? == Some(false)),
        Func::NullEq => {
            Datum::bool(compare(call.value(0), call.value(1), call.collation()) == Ordering::Equal)
        }
        Func::In => is_in(call),
        Func::Greatest => extreme(call, Ordering::Greater),
        Func::Least => extreme(call, Ordering::Less),
        Func::Interval => interval(call),
        Func::Strcmp => {
            let order = call.collation().compare(&call.bytes(0), &call.bytes(1));
            Datum::Int(order as i64)
        }
        func => {
            let order = compare(call.value(0), call.value(1), call.collation());
            Datum::bool(holds(func, order))
        }
    })
}

/// Whether a comparison holds for two values in this order.
#[inline]
pub(crate) fn holds(func: Func, order: Ordering) -> bool {
    match func {
        Func::Eq | Func::NullEq => order.is_eq(),
        Func::Ne => order.is_ne(),
        Func::Lt => order.is_lt(),
        Func::Le => order.is_le(),
        Func::Gt => order.is_gt(),
        Func::Ge => order.is_ge(),
        _ => false,
    }
}

/// NULL if nothing is equal and something is unknown.
fn is_in(call: &Call<'_>) -> Datum {
    let value = call.value(0);
    if value.is_null() {
        return Datum::Null;
    }
    let mut unknown = false;
    for member in &call.values[1..] {
        if member.is_null() {
            unknown = true;
        } else if compare(value, member, call.collation()) == Ordering::Equal {
            return Datum::bool(true);
        }
    }
    if unknown { Datum::Null } else { Datum::bool(false) }
}

fn extreme(call: &Call<'_>, wanted: Ordering) -> Datum {
    let mut best = call.value(0);
    for value in &call.values[1..] {
        if compare(value, best, call.collation()) == wanted {
            best = value;
        }
    }
    best.clone()
}

/// Number of bounds not above the first argument; -1 for NULL.
fn interval(call: &Call<'_>) -> Datum {
    let value = call.value(0);
    if value.is_null() {
        return Datum::Int(-1);
    }
    let bounds = &call.values[1..];
    let above = |bound: &Datum| {
        !bound.is_null() && compare(bound, value, call.collation()) == Ordering::Greater
    };
    Datum::Int(bounds.iter().position(above).unwrap_or(bounds.len()) as i64)
}
