//! `expr IN (constants)`: a hash set made once per node.

use cairn_types::{Collation, Column, ColumnData, Datum};
use hashbrown::HashSet;

use super::super::mask::{FALSE, Mask, NULL, TRUE};
use super::super::vector::Vector;
use super::super::{Compiled, EvalCache};
use super::compare::Texts;
use super::lane;
use crate::error::{ExprError, Result};
use crate::expr::Expr;

type Set<T> = HashSet<T, foldhash::fast::RandomState>;

/// The members of a constant list.
pub(crate) struct InSet {
    members: Members,
    has_null: bool,
}

enum Members {
    /// Integers as `i64`; a member outside is no member.
    Int(Set<i64>),
    UInt(Set<u64>),
    /// Packed times without the low four bits.
    Time(Set<u64>),
    /// Sort keys.
    Text(Set<Vec<u8>>, Collation),
    /// Kinds that go row by row.
    Other,
}

impl InSet {
    fn new(expr: &Expr, args: &[Expr], kind: &ColumnData) -> InSet {
        let values = || args[1..].iter().filter_map(Expr::as_constant);
        let has_null = values().any(Datum::is_null);
        let known = || values().filter(|value| !value.is_null());
        let members = match kind {
            ColumnData::Int(_) => {
                let integers = known().all(|value| matches!(value, Datum::Int(_) | Datum::UInt(_)));
                if integers {
                    Members::Int(known().filter_map(Datum::as_i64).collect())
                } else {
                    Members::Other
                }
            }
            ColumnData::UInt(_) => {
                let integers = known().all(|value| matches!(value, Datum::Int(_) | Datum::UInt(_)));
                let unsigned = known().filter_map(|value| match value {
                    Datum::UInt(value) => Some(*value),
                    Datum::Int(value) => u64::try_from(*value).ok(),
                    _ => None,
                });
                if integers { Members::UInt(unsigned.collect()) } else { Members::Other }
            }
            ColumnData::Time(_) => {
                let times: Option<Set<u64>> = known()
                    .map(|value| match value {
                        Datum::Time(time) => Some(time.packed() >> 4),
                        _ => None,
                    })
                    .collect();
                times.map_or(Members::Other, Members::Time)
            }
            ColumnData::Bytes { .. } => {
                let collation = expr.ty().collation;
                let keys: Option<Set<Vec<u8>>> = known()
                    .map(|value| {
                        let mut key = Vec::new();
                        collation.sort_key(value.as_bytes()?, &mut key);
                        Some(key)
                    })
                    .collect();
                keys.map_or(Members::Other, |keys| Members::Text(keys, collation))
            }
            _ => Members::Other,
        };
        InSet { members, has_null }
    }
}

/// Whether each row is a member; `None` if the kind has no set.
pub(crate) fn eval(expr: &Expr, vector: &Vector<'_>, len: usize) -> Result<Option<Mask>> {
    let Expr::Function { args, cache, .. } = expr else { return Ok(None) };
    let cache: &EvalCache = cache;
    let Some((kind, _)) = vector.data() else { return Ok(None) };
    let compiled =
        cache.get_or_make(|| Ok::<_, ExprError>(Compiled::InSet(InSet::new(expr, args, kind))))?;
    let Compiled::InSet(set) = &*compiled else { return Ok(None) };
    let missing = if set.has_null { NULL } else { FALSE };
    let answer = |found: bool| if found { TRUE } else { missing };
    let mask: Option<Mask> = match &set.members {
        Members::Int(members) => lane(vector, Column::as_int, |_| None)
            .map(|lane| (0..len).map(|at| answer(members.contains(&lane.at(at)))).collect()),
        Members::UInt(members) => lane(vector, Column::as_uint, |_| None)
            .map(|lane| (0..len).map(|at| answer(members.contains(&lane.at(at)))).collect()),
        Members::Time(members) => lane(vector, Column::as_time, |_| None)
            .map(|lane| (0..len).map(|at| answer(members.contains(&(lane.at(at) >> 4)))).collect()),
        Members::Text(members, collation) => Texts::of(vector).map(|texts| {
            let mut key = Vec::new();
            (0..len)
                .map(|at| {
                    key.clear();
                    collation.sort_key(texts.at(at), &mut key);
                    answer(members.contains(key.as_slice()))
                })
                .collect()
        }),
        Members::Other => None,
    };
    Ok(mask.map(|mut mask| {
        vector.mark_nulls(&mut mask);
        mask
    }))
}
