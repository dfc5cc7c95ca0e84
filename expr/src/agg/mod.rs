//! Aggregate functions over groups.
//!
//! **Flow.** An operator numbers the groups of its input from 0 and hands each
//! aggregate whole columns with the group of every row; states lie in plain
//! vectors indexed by group, not in a box per group.
//!
//! ```text
//!  complete:  ensure_groups → update … → write_final
//!  partial:   ensure_groups → update … → write_partial   (in stores)
//!  final:     ensure_groups → merge_partial … → write_final
//! ```
//!
//! **Data.** [`partial_types`] is the layout between partial and final: AVG is
//! (count, sum), the variances are (count, mean, sum of squared deviations), all
//! others one column. DISTINCT cannot be split: only MIN, MAX and their like, for
//! which it means nothing, can.
//!
//! **Sources.** MySQL manual 14.19 "Aggregate Functions".

mod bits;
mod concat;
mod count;
mod distinct;
mod extreme;
mod json;
mod sum;
mod variance;

use cairn_types::{Collation, Column, Datum, EvalKind, FieldType, MysqlError, TypeCode};

use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::expr::Expr;
use crate::infer::{self, NumericKind, Shape, numeric_kind, shape};

/// An aggregate function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are MySQL's own.
pub enum AggFunc {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    BitAnd,
    BitOr,
    BitXor,
    GroupConcat,
    /// Any value of the group: columns that the group determines, ANY_VALUE.
    FirstRow,
    VarPop,
    VarSamp,
    StdPop,
    StdSamp,
    JsonArrayAgg,
    JsonObjectAgg,
}

/// Functions with their names; the first of a function is its wire name.
const NAMES: &[(&str, AggFunc)] = &[
    ("count", AggFunc::Count),
    ("sum", AggFunc::Sum),
    ("avg", AggFunc::Avg),
    ("min", AggFunc::Min),
    ("max", AggFunc::Max),
    ("bit_and", AggFunc::BitAnd),
    ("bit_or", AggFunc::BitOr),
    ("bit_xor", AggFunc::BitXor),
    ("group_concat", AggFunc::GroupConcat),
    ("firstrow", AggFunc::FirstRow),
    ("any_value", AggFunc::FirstRow),
    ("var_pop", AggFunc::VarPop),
    ("variance", AggFunc::VarPop),
    ("var_samp", AggFunc::VarSamp),
    ("stddev_pop", AggFunc::StdPop),
    ("std", AggFunc::StdPop),
    ("stddev", AggFunc::StdPop),
    ("stddev_samp", AggFunc::StdSamp),
    ("json_arrayagg", AggFunc::JsonArrayAgg),
    ("json_objectagg", AggFunc::JsonObjectAgg),
];

impl AggFunc {
    /// Name on the wire and in EXPLAIN.
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(_, func)| *func == self);
        found.expect("every aggregate has a name").0
    }

    /// Looks a name or alias up; case does not matter.
    pub fn from_name(name: &str) -> Option<AggFunc> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, func)| *func)
    }

    /// Whether duplicates change nothing, so that DISTINCT may be dropped.
    fn ignores_duplicates(self) -> bool {
        matches!(
            self,
            AggFunc::Min | AggFunc::Max | AggFunc::BitAnd | AggFunc::BitOr | AggFunc::FirstRow
        )
    }
}

/// Which part of the work an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggMode {
    /// Rows in, results out.
    Complete,
    /// Rows in, partial states out.
    Partial,
    /// Partial states in, results out.
    Final,
}

/// An aggregate call.
#[derive(Clone, Debug, PartialEq)]
pub struct AggDesc {
    /// The function.
    pub func: AggFunc,
    /// Arguments; those of GROUP_CONCAT's ORDER BY follow the values. Empty:
    /// COUNT(*).
    pub args: Vec<Expr>,
    /// DISTINCT.
    pub distinct: bool,
    /// GROUP_CONCAT: whether each of the last arguments orders descending.
    pub order_by: Vec<bool>,
    /// GROUP_CONCAT: what stands between two values.
    pub separator: String,
    /// Type of the result.
    pub ty: FieldType,
}

/// An aggregate by name, typed and with casts.
pub fn build_aggregate(
    name: &str,
    args: Vec<Expr>,
    distinct: bool,
    ctx: &mut EvalContext,
) -> Result<AggDesc> {
    let func = AggFunc::from_name(name).ok_or_else(|| {
        ExprError::unknown_function(ctx.info.database.as_deref().unwrap_or(""), name)
    })?;
    AggDesc::new(func, args, distinct, ctx)
}

impl AggDesc {
    /// A call, typed and with casts; `count(<not null constant>)` becomes COUNT(*).
    pub fn new(
        func: AggFunc,
        mut args: Vec<Expr>,
        distinct: bool,
        ctx: &mut EvalContext,
    ) -> Result<AggDesc> {
        let wanted = match func {
            AggFunc::Count if distinct => 1..=usize::MAX,
            AggFunc::Count => 0..=1,
            AggFunc::GroupConcat => 1..=usize::MAX,
            AggFunc::JsonObjectAgg => 2..=2,
            _ => 1..=1,
        };
        if !wanted.contains(&args.len()) {
            return Err(ExprError::argument_count(func.name()));
        }
        if func == AggFunc::Count && !distinct {
            args.retain(|arg| !matches!(arg, Expr::Constant { value, .. } if !value.is_null()));
        }
        let args = cast_args(func, args, ctx);
        let ty = result_type(func, &args, ctx)?;
        let distinct = distinct && !func.ignores_duplicates();
        let separator = ",".to_owned();
        Ok(AggDesc { func, args, distinct, order_by: Vec::new(), separator, ty })
    }

    /// GROUP_CONCAT with its ORDER BY (expression, descending) and SEPARATOR.
    pub fn group_concat(
        values: Vec<Expr>,
        distinct: bool,
        order_by: Vec<(Expr, bool)>,
        separator: Option<String>,
        ctx: &mut EvalContext,
    ) -> Result<AggDesc> {
        let mut desc = AggDesc::new(AggFunc::GroupConcat, values, distinct, ctx)?;
        for (expr, descending) in order_by {
            desc.args.push(expr);
            desc.order_by.push(descending);
        }
        desc.separator = separator.unwrap_or_else(|| ",".to_owned());
        Ok(desc)
    }

    /// Whether the work can be split into partial and final.
    pub fn is_splittable(&self) -> bool {
        !self.distinct && self.order_by.is_empty()
    }

    /// Whether a store may do the partial work.
    pub fn is_pushable(&self) -> bool {
        let known = !matches!(
            self.func,
            AggFunc::GroupConcat | AggFunc::JsonArrayAgg | AggFunc::JsonObjectAgg
        );
        known && self.is_splittable() && self.args.iter().all(Expr::is_pushable)
    }

    /// Types of the columns a mode writes.
    pub fn output_types(&self, mode: AggMode) -> Vec<FieldType> {
        match mode {
            AggMode::Partial => partial_types(self),
            AggMode::Complete | AggMode::Final => vec![self.ty.clone()],
        }
    }

    /// Whether the result type suits the arguments, so that states can be written
    /// to columns of it; for descriptions that come from another tier.
    pub(crate) fn check_types(&self) -> Result<()> {
        let expected = result_type(self.func, &self.args, &EvalContext::default())?;
        if expected.physical() != self.ty.physical() && !self.ty.is_decimal() {
            return Err(ExprError::Wire(format!("{} of another type", self.func.name())));
        }
        let number = matches!(self.func, AggFunc::Sum | AggFunc::Avg);
        let suits = self.args.iter().all(|arg| {
            let kind = arg.ty().eval_kind();
            matches!(kind, EvalKind::Int | EvalKind::UInt | EvalKind::Real | EvalKind::Decimal)
        });
        if number && (!suits || expected.eval_kind() != self.ty.eval_kind()) {
            return Err(ExprError::Wire(format!("{} of another type", self.func.name())));
        }
        Ok(())
    }

    /// Empty states.
    pub fn new_state(&self, ctx: &EvalContext) -> Box<dyn GroupedAgg> {
        let state: Box<dyn GroupedAgg> = match self.func {
            AggFunc::Count => Box::new(count::Count::default()),
            AggFunc::Sum | AggFunc::Avg => sum::new_state(self, ctx.div_precision_increment),
            AggFunc::Min | AggFunc::Max => extreme::new_state(self),
            AggFunc::FirstRow => Box::new(extreme::FirstRow::default()),
            AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor => {
                Box::new(bits::Bits::new(self.func, self.args.first().map(|arg| arg.ty().clone())))
            }
            AggFunc::VarPop | AggFunc::VarSamp | AggFunc::StdPop | AggFunc::StdSamp => {
                Box::new(variance::Variance::new(self.func))
            }
            AggFunc::GroupConcat => Box::new(concat::Concat::new(self)),
            AggFunc::JsonArrayAgg => Box::new(json::ArrayAgg::new(self)),
            AggFunc::JsonObjectAgg => Box::new(json::ObjectAgg::new(self)),
        };
        if !self.distinct {
            return state;
        }
        let values = self.args.len() - self.order_by.len();
        let collations = self.args[..values].iter().map(|arg| arg.ty().collation).collect();
        Box::new(distinct::Distinct::new(state, collations))
    }

    /// As EXPLAIN prints it: `count(distinct test.t.a)`.
    pub fn fmt_with(&self, name: &dyn Fn(usize) -> String) -> String {
        let args: Vec<String> = self.args.iter().map(|arg| arg.fmt_with(name)).collect();
        let distinct = if self.distinct { "distinct " } else { "" };
        let args = if args.is_empty() { "1".to_owned() } else { args.join(", ") };
        match self.func {
            AggFunc::GroupConcat => {
                format!("group_concat({distinct}{args} separator \"{}\")", self.separator)
            }
            func => format!("{}({distinct}{args})", func.name()),
        }
    }
}

fn cast_args(func: AggFunc, args: Vec<Expr>, ctx: &mut EvalContext) -> Vec<Expr> {
    let real =
        matches!(func, AggFunc::VarPop | AggFunc::VarSamp | AggFunc::StdPop | AggFunc::StdSamp);
    let number = matches!(func, AggFunc::Sum | AggFunc::Avg);
    args.into_iter()
        .map(|arg| match numeric_kind(&arg) {
            NumericKind::Real if real || number => infer::cast(arg, FieldType::double(), ctx),
            _ if real => infer::cast(arg, FieldType::double(), ctx),
            NumericKind::Decimal if number && !arg.ty().is_decimal() => {
                let ty = shape(&arg).decimal();
                infer::cast(arg, ty, ctx)
            }
            NumericKind::Int if number && !arg.ty().is_integer() => {
                infer::cast(arg, FieldType::bigint(), ctx)
            }
            _ => arg,
        })
        .collect()
}

/// Digits SUM adds to the precision of what it adds up.
const SUM_EXTRA_DIGITS: u32 = 22;

fn result_type(func: AggFunc, args: &[Expr], ctx: &EvalContext) -> Result<FieldType> {
    let first = args.first();
    Ok(match (func, first) {
        (AggFunc::Count, _) => FieldType::bigint().with_not_null(),
        (AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor, _) => {
            FieldType::bigint_unsigned().with_not_null()
        }
        (AggFunc::VarPop | AggFunc::VarSamp | AggFunc::StdPop | AggFunc::StdSamp, _) => {
            FieldType::double()
        }
        (AggFunc::JsonArrayAgg | AggFunc::JsonObjectAgg, _) => FieldType::json(),
        (AggFunc::GroupConcat, _) => {
            let refs: Vec<&Expr> = args.iter().collect();
            let derived = infer::collate::derive("group_concat", &refs, ctx.collation)?;
            infer::result::text_of(u32::try_from(ctx.group_concat_max_len).ok(), derived.collation)
        }
        (AggFunc::Sum, Some(arg)) if arg.ty().is_real() => FieldType::double(),
        (AggFunc::Avg, Some(arg)) if arg.ty().is_real() => FieldType::double(),
        (AggFunc::Sum, Some(arg)) => {
            let Shape { precision, scale } = shape(arg);
            Shape { precision: precision + SUM_EXTRA_DIGITS, scale }.decimal()
        }
        (AggFunc::Avg, Some(arg)) => {
            let Shape { precision, scale } = shape(arg);
            let more = u32::from(ctx.div_precision_increment);
            let scale_out = (scale + more).min(infer::SCALE_MAX);
            Shape { precision: precision + scale_out - scale, scale: scale_out }.decimal()
        }
        (_, Some(arg)) => {
            let mut ty = arg.ty().clone();
            if func != AggFunc::FirstRow {
                ty.not_null = false;
            }
            ty
        }
        (_, None) => return Err(ExprError::argument_count(func.name())),
    })
}

/// Columns between the partial and the final part.
pub fn partial_types(desc: &AggDesc) -> Vec<FieldType> {
    let count = FieldType::bigint().with_not_null();
    match desc.func {
        AggFunc::Avg => vec![count, sum::sum_type(desc)],
        AggFunc::VarPop | AggFunc::VarSamp | AggFunc::StdPop | AggFunc::StdSamp => {
            vec![count, FieldType::double(), FieldType::double()]
        }
        _ => vec![desc.ty.clone()],
    }
}

/// States of one aggregate for all groups.
///
/// Columns handed in are dense: row `i` of each belongs to group `groups[i]`.
/// Groups beyond those of the last `ensure_groups` are the caller's mistake.
pub trait GroupedAgg: Send {
    /// Makes room for `groups` groups in all.
    fn ensure_groups(&mut self, groups: usize);

    /// Takes rows in; `args` are the values of [`AggDesc::args`].
    fn update(&mut self, groups: &[u32], args: &[Column], ctx: &mut EvalContext) -> Result<()>;

    /// Takes partial states in, laid out as [`partial_types`].
    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        ctx: &mut EvalContext,
    ) -> Result<()>;

    /// Appends a group's partial state to columns of [`partial_types`].
    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()>;

    /// Appends a group's result to a column of the aggregate's type.
    fn write_final(&mut self, group: usize, out: &mut Column, ctx: &mut EvalContext) -> Result<()>;

    /// The states as those of a DISTINCT aggregate; `None`: it is none.
    fn as_distinct(&mut self) -> Option<&mut dyn DistinctAgg> {
        None
    }

    /// Bytes held, for memory tracking; an estimate where exactness costs time.
    fn memory_bytes(&self) -> usize;
}

/// What a DISTINCT aggregate offers to a caller that looks for duplicates itself, since the values seen no longer
/// fit into memory.
pub trait DistinctAgg {
    /// Rows without NULL whose values their group has not seen, in order; among themselves they may repeat.
    /// They are not noted as seen.
    fn unseen(&self, groups: &[u32], args: &[Column]) -> Vec<u32>;

    /// Frees the values seen: from now on only [`DistinctAgg::update_unique`] may be called.
    fn forget_seen(&mut self);

    /// Takes rows in that the caller knows to be new.
    fn update_unique(
        &mut self,
        groups: &[u32],
        args: &[Column],
        ctx: &mut EvalContext,
    ) -> Result<()>;
}

/// The partial state has another layout than this aggregate's.
fn bad_partial(func: AggFunc) -> ExprError {
    ExprError::Internal(format!("partial state of {} has another layout", func.name()))
}

fn missing_argument(func: AggFunc) -> ExprError {
    ExprError::Internal(format!("{} has no argument column", func.name()))
}

/// Text of a value for GROUP_CONCAT.
fn text_of(value: &Datum, ty: &FieldType, out: &mut Vec<u8>) {
    cairn_types::write_text(out, value.as_ref(), ty);
}

/// Collation values of a type are compared by.
fn collation_of(ty: &FieldType) -> Collation {
    match (ty.eval_kind(), ty.code) {
        (EvalKind::String, TypeCode::Enum | TypeCode::Set) => Collation::BINARY,
        (EvalKind::String, _) => ty.collation,
        _ => Collation::BINARY,
    }
}

const ER_CUT_VALUE_GROUP_CONCAT: u16 = 1260;

/// Warning 1260: a GROUP_CONCAT result was cut.
fn warn_cut(group: usize, ctx: &mut EvalContext) {
    let text = format!("Row {} was cut by GROUP_CONCAT()", group + 1);
    ctx.warn(MysqlError::new(ER_CUT_VALUE_GROUP_CONCAT, text));
}

#[cfg(test)]
mod tests;
