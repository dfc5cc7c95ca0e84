//! Loops over typed vectors for the hot functions.
//!
//! A kernel either computes the whole result or says `None`: the caller then goes
//! row by row, which also is what finds the row of an overflow.

pub(crate) mod arithmetic;
pub(crate) mod cast;
pub(crate) mod compare;
pub(crate) mod in_set;
pub(crate) mod text;

use cairn_types::{Bitmap, Column, Datum, FieldType};

use super::vector::Vector;
use crate::expr::Expr;
use crate::func::Func;

/// The result of a strict function, if a kernel knows it.
pub(crate) fn eval(
    func: Func,
    args: &[Expr],
    vectors: &[Vector<'_>],
    ty: &FieldType,
    len: usize,
) -> Option<Column> {
    match func {
        Func::Plus | Func::Minus | Func::Mul | Func::Div => {
            arithmetic::eval(func, args, vectors, ty, len)
        }
        Func::Cast => cast::eval(args[0].ty(), &vectors[0], ty, len),
        Func::Length | Func::CharLength => text::length(func, args, &vectors[0], len),
        Func::Year | Func::Month | Func::Day => cast::date_part(func, &vectors[0], len),
        _ => None,
    }
}

/// Typed values of a vector.
#[derive(Clone, Copy)]
pub(crate) enum Lane<'a, T> {
    Slice(&'a [T]),
    Sel(&'a [T], &'a [u32]),
    Const(T),
}

impl<T: Copy> Lane<'_, T> {
    #[inline(always)]
    pub fn at(&self, i: usize) -> T {
        match self {
            Lane::Slice(values) => values[i],
            Lane::Sel(values, sel) => values[sel[i] as usize],
            Lane::Const(value) => *value,
        }
    }
}

/// A lane of a vector's values through `typed`, or of its constant through `one`.
pub(crate) fn lane<'a, T: Copy>(
    vector: &'a Vector<'_>,
    typed: impl FnOnce(&'a Column) -> Option<&'a [T]>,
    one: impl FnOnce(&'a Datum) -> Option<T>,
) -> Option<Lane<'a, T>> {
    match vector.column() {
        Some((column, None)) => typed(column).map(Lane::Slice),
        Some((column, Some(sel))) => typed(column).map(|values| Lane::Sel(values, sel)),
        None => one(vector.constant()?).map(Lane::Const),
    }
}

/// Validity of a result that is NULL where any argument is.
pub(crate) fn validity(vectors: &[&Vector<'_>], len: usize) -> Bitmap {
    let mut bits = Bitmap::filled(len, true);
    for vector in vectors {
        if !vector.has_nulls() {
            continue;
        }
        match vector.column() {
            Some((column, None)) if column.len() == len => bits.and_with(column.validity()),
            _ => (0..len).filter(|at| vector.is_null(*at)).for_each(|at| bits.set(at, false)),
        }
    }
    bits
}

/// Runs `f` over pairs; the common shapes get their own loop, so that the
/// compiler can vectorise it.
#[inline(always)]
pub(crate) fn zip<T: Copy, U>(
    a: Lane<'_, T>,
    b: Lane<'_, T>,
    len: usize,
    mut f: impl FnMut(T, T) -> U,
) -> Vec<U> {
    match (a, b) {
        (Lane::Slice(a), Lane::Const(b)) => a[..len].iter().map(|a| f(*a, b)).collect(),
        (Lane::Const(a), Lane::Slice(b)) => b[..len].iter().map(|b| f(a, *b)).collect(),
        (Lane::Slice(a), Lane::Slice(b)) => {
            a[..len].iter().zip(&b[..len]).map(|(a, b)| f(*a, *b)).collect()
        }
        (Lane::Sel(a, sel), Lane::Const(b)) => {
            sel[..len].iter().map(|row| f(a[*row as usize], b)).collect()
        }
        (a, b) => (0..len).map(|i| f(a.at(i), b.at(i))).collect(),
    }
}
