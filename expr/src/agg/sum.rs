//! SUM and AVG.
//!
//! Exact sums are kept as 128-bit mantissas at the argument's scale: 2^63 rows of
//! 19 digits fit. Arguments of more digits than that are added as [`Decimal`]s.

use cairn_types::{Column, ColumnData, Datum, DatumRef, Decimal, FieldType, PhysicalKind};

use super::{AggDesc, AggFunc, GroupedAgg, bad_partial, missing_argument};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::normalize;
use crate::expr::Expr;
use crate::functions::arithmetic::divide;
use crate::infer::{Shape, shape};

/// Type of the sum AVG keeps.
pub(super) fn sum_type(desc: &AggDesc) -> FieldType {
    match desc.args.first() {
        Some(arg) if arg.ty().is_real() => FieldType::double(),
        Some(arg) => {
            let Shape { precision, scale } = shape(arg);
            Shape { precision: precision + super::SUM_EXTRA_DIGITS, scale }.decimal()
        }
        None => FieldType::double(),
    }
}

pub(super) fn new_state(desc: &AggDesc, _div_increment: u8) -> Box<dyn GroupedAgg> {
    let sum_ty = sum_type(desc);
    let average = desc.func == AggFunc::Avg;
    let result = Output { average, ty: desc.ty.clone(), sum_ty: sum_ty.clone() };
    if sum_ty.is_real() {
        return Box::new(RealSum { sums: Vec::new(), counts: Vec::new(), result });
    }
    // Precision of the argument decides whether its mantissas fit 128 bits.
    let digits = desc.args.first().map_or(0, |arg| shape(arg).precision);
    if digits <= EXACT_DIGITS_MAX {
        let scale = sum_ty.scale();
        return Box::new(ExactSum { sums: Vec::new(), counts: Vec::new(), scale, result });
    }
    let (near, far, scale) = (Vec::new(), Vec::new(), sum_ty.scale());
    Box::new(WideSum { near, far, counts: Vec::new(), scale, result })
}

/// Largest precision whose sums of 2^40 rows fit 38 digits.
const EXACT_DIGITS_MAX: u32 = 25;

/// What becomes of a sum.
struct Output {
    average: bool,
    ty: FieldType,
    sum_ty: FieldType,
}

impl Output {
    fn partial_columns<'a>(
        &self,
        out: &'a mut [Column],
    ) -> Result<(Option<&'a mut Column>, &'a mut Column)> {
        match (self.average, out) {
            (true, [count, sum]) => Ok((Some(count), sum)),
            (false, [sum]) => Ok((None, sum)),
            _ => Err(bad_partial(AggFunc::Sum)),
        }
    }

    /// Counts (of AVG) and sums of partial states.
    fn split<'a>(&self, partial: &'a [Column]) -> Result<(Option<&'a [i64]>, &'a Column)> {
        match (self.average, partial) {
            (true, [count, sum]) => {
                Ok((Some(count.as_int().ok_or_else(|| bad_partial(AggFunc::Avg))?), sum))
            }
            (false, [sum]) => Ok((None, sum)),
            _ => Err(bad_partial(AggFunc::Sum)),
        }
    }

    fn node(&self) -> Expr {
        Expr::constant_of(Datum::Null, self.ty.clone())
    }

    fn write_decimal(&self, sum: &Decimal, count: i64, out: &mut Column) -> Result<()> {
        if count == 0 {
            out.push_null();
            return Ok(());
        }
        let value = if self.average {
            let quotient = divide(sum, &Decimal::from(count), self.ty.scale())?;
            quotient.unwrap_or(Decimal::ZERO)
        } else {
            sum.clone()
        };
        let value = normalize(Datum::Decimal(value), &self.ty, &self.node())?;
        out.push(value.as_ref());
        Ok(())
    }
}

fn overflow() -> ExprError {
    ExprError::out_of_range("DECIMAL", "sum")
}

/// Sums of integers and short decimals.
struct ExactSum {
    sums: Vec<i128>,
    counts: Vec<i64>,
    scale: u8,
    result: Output,
}

impl ExactSum {
    #[inline]
    fn add_all(
        &mut self,
        groups: &[u32],
        column: &Column,
        value: impl Fn(usize) -> i128,
    ) -> Result<()> {
        let nulls = column.has_nulls();
        if let ([sum], [count]) = (self.sums.as_mut_slice(), self.counts.as_mut_slice())
            && !nulls
        {
            // 2^40 values of 25 digits cannot overflow; one chunk's sum neither.
            let chunk: i128 = (0..groups.len()).map(value).sum();
            *sum = sum.checked_add(chunk).ok_or_else(overflow)?;
            *count += groups.len() as i64;
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if nulls && column.is_null(row) {
                continue;
            }
            let group = *group as usize;
            self.sums[group] = self.sums[group].checked_add(value(row)).ok_or_else(overflow)?;
            self.counts[group] += 1;
        }
        Ok(())
    }

    fn decimal(&self, group: usize) -> Result<Decimal> {
        Ok(Decimal::new(self.sums[group], self.scale)?)
    }
}

impl GroupedAgg for ExactSum {
    fn ensure_groups(&mut self, groups: usize) {
        let groups = groups.max(self.sums.len());
        self.sums.resize(groups, 0);
        self.counts.resize(groups, 0);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(AggFunc::Sum))?;
        match column.data() {
            ColumnData::Int(values) => self.add_all(groups, column, |row| i128::from(values[row])),
            ColumnData::UInt(values) => self.add_all(groups, column, |row| i128::from(values[row])),
            ColumnData::Decimal64 { values, scale } if *scale == self.scale => {
                self.add_all(groups, column, |row| i128::from(values[row]))
            }
            ColumnData::Decimal128 { values, scale } if *scale == self.scale => {
                self.add_all(groups, column, |row| values[row])
            }
            _ => {
                let scale = self.scale;
                let mantissa = |row: usize| match column.get(row) {
                    DatumRef::Decimal(value) => value.to_scaled_i128(scale).unwrap_or(0),
                    _ => 0,
                };
                self.add_all(groups, column, mantissa)
            }
        }
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let average = self.result.average;
        let (counts, sums) = self.result.split(partial)?;
        for (row, group) in groups.iter().enumerate() {
            let group = *group as usize;
            if let DatumRef::Decimal(value) = sums.get(row) {
                let mantissa = value.to_scaled_i128(self.scale).ok_or_else(overflow)?;
                self.sums[group] = self.sums[group].checked_add(mantissa).ok_or_else(overflow)?;
                self.counts[group] += counts.map_or(1, |counts| counts[row]);
            } else if !average && !sums.is_null(row) {
                return Err(bad_partial(AggFunc::Sum));
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let (count, sum) = self.result.partial_columns(out)?;
        if let Some(count) = count {
            count.push_int(self.counts[group]);
        }
        if self.counts[group] == 0 {
            sum.push_null();
            return Ok(());
        }
        let value = normalize(
            Datum::Decimal(self.decimal(group)?),
            &self.result.sum_ty,
            &self.result.node(),
        )?;
        sum.push(value.as_ref());
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        self.result.write_decimal(&self.decimal(group)?, self.counts[group], out)
    }

    fn memory_bytes(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.counts.capacity() * size_of::<i64>()
    }
}

/// Sums of wide decimals. Most values have 38 digits at most, and so have most sums: those are
/// added in 128 bits until that overflows.
struct WideSum {
    /// Since the last overflow, as mantissas at `scale`.
    near: Vec<i128>,
    /// All before, and values that are wider.
    far: Vec<Decimal>,
    counts: Vec<i64>,
    scale: u8,
    result: Output,
}

impl WideSum {
    #[inline]
    fn add_near(&mut self, group: usize, mantissa: i128) -> Result<()> {
        self.near[group] = match self.near[group].checked_add(mantissa) {
            Some(sum) => sum,
            None => {
                self.sum(group)?;
                mantissa
            }
        };
        Ok(())
    }

    fn add_far(&mut self, group: usize, value: &Decimal) -> Result<()> {
        self.far[group] = self.far[group].add(value)?;
        Ok(())
    }

    /// The whole sum of a group.
    fn sum(&mut self, group: usize) -> Result<Decimal> {
        let near = Decimal::new(std::mem::take(&mut self.near[group]), self.scale)?;
        self.add_far(group, &near)?;
        Ok(self.far[group].clone())
    }
}

impl GroupedAgg for WideSum {
    fn ensure_groups(&mut self, groups: usize) {
        let groups = groups.max(self.far.len());
        self.near.resize(groups, 0);
        self.far.resize(groups, Decimal::ZERO);
        self.counts.resize(groups, 0);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(AggFunc::Sum))?;
        if let ColumnData::Decimal128 { values, scale } = column.data()
            && *scale == self.scale
        {
            let nulls = column.has_nulls();
            for (row, group) in groups.iter().enumerate() {
                if !(nulls && column.is_null(row)) {
                    self.add_near(*group as usize, values[row])?;
                    self.counts[*group as usize] += 1;
                }
            }
            return Ok(());
        }
        for (row, group) in groups.iter().enumerate() {
            if let DatumRef::Decimal(value) = column.get(row) {
                match value.mantissa().filter(|_| value.scale() == self.scale) {
                    Some(mantissa) => self.add_near(*group as usize, mantissa)?,
                    None => self.add_far(*group as usize, &value)?,
                }
                self.counts[*group as usize] += 1;
            }
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let (counts, sums) = self.result.split(partial)?;
        for (row, group) in groups.iter().enumerate() {
            if let DatumRef::Decimal(value) = sums.get(row) {
                self.add_far(*group as usize, &value)?;
                self.counts[*group as usize] += counts.map_or(1, |counts| counts[row]);
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let (count, sum) = self.result.partial_columns(out)?;
        if let Some(count) = count {
            count.push_int(self.counts[group]);
        }
        if self.counts[group] == 0 {
            sum.push_null();
            return Ok(());
        }
        let value = Datum::Decimal(self.sum(group)?);
        sum.push(normalize(value, &self.result.sum_ty, &self.result.node())?.as_ref());
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let sum = self.sum(group)?;
        self.result.write_decimal(&sum, self.counts[group], out)
    }

    fn memory_bytes(&self) -> usize {
        let of_sums = self.near.capacity() * size_of::<i128>();
        let of_far = self.far.capacity() * size_of::<Decimal>();
        of_sums + of_far + self.counts.capacity() * size_of::<i64>()
    }
}

/// Sums of doubles.
struct RealSum {
    sums: Vec<f64>,
    counts: Vec<i64>,
    result: Output,
}

impl RealSum {
    fn finish(&self, group: usize) -> Result<Option<f64>> {
        let (sum, count) = (self.sums[group], self.counts[group]);
        if count == 0 {
            return Ok(None);
        }
        let value = if self.result.average { sum / count as f64 } else { sum };
        if value.is_finite() {
            Ok(Some(value))
        } else {
            Err(ExprError::out_of_range("DOUBLE", "sum"))
        }
    }
}

impl GroupedAgg for RealSum {
    fn ensure_groups(&mut self, groups: usize) {
        let groups = groups.max(self.sums.len());
        self.sums.resize(groups, 0.0);
        self.counts.resize(groups, 0);
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(AggFunc::Sum))?;
        for (row, group) in groups.iter().enumerate() {
            let value = match column.get(row) {
                DatumRef::Double(value) => value,
                DatumRef::Float(value) => f64::from(value),
                _ => continue,
            };
            self.sums[*group as usize] += value;
            self.counts[*group as usize] += 1;
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let (counts, sums) = self.result.split(partial)?;
        for (row, group) in groups.iter().enumerate() {
            if let DatumRef::Double(value) = sums.get(row) {
                self.sums[*group as usize] += value;
                self.counts[*group as usize] += counts.map_or(1, |counts| counts[row]);
            }
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let (count, sum) = self.result.partial_columns(out)?;
        if let Some(count) = count {
            count.push_int(self.counts[group]);
        }
        if self.counts[group] == 0 {
            sum.push_null()
        } else {
            sum.push_double(self.sums[group])
        }
        debug_assert_eq!(self.result.sum_ty.physical(), PhysicalKind::Double);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        match self.finish(group)? {
            Some(value) => out.push_double(value),
            None => out.push_null(),
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.sums.capacity() * size_of::<f64>() + self.counts.capacity() * size_of::<i64>()
    }
}
