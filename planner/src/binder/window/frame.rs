//! Frames: MySQL's rules, and the values that bounds of RANGE stand for.
//!
//! `RANGE n PRECEDING` over `ORDER BY a` begins with the first row whose `a` is not less than the current
//! row's `a - n` (not more than `a + n` where the order descends). Integers are compared as decimals and
//! dates with microseconds, so that nothing overflows and nothing is cut.

use cairn_executor::plan::{
    FrameBound, FrameOffset, FrameUnit, WindowFrame, is_distance, row_count,
};
use cairn_expr::{Expr, build_cast};
use cairn_parser::ast;
use cairn_types::{FieldType, errno};

use crate::binder::{Binder, ExprEnv};
use crate::error::{PlanError, Result};
use crate::logical::SortKey;

/// Digits of an integer.
const INTEGER_DIGITS: u32 = 20;
/// Digits behind the point of a second.
const FSP_MAX: u8 = 6;

/// The order that a frame is a part of.
pub(super) struct FrameOrder<'o> {
    /// Name of the window, for messages.
    pub window: &'o str,
    /// ORDER BY.
    pub keys: &'o [SortKey],
}

/// A bound as written, bound to values.
struct Offset {
    preceding: bool,
    distance: Expr,
    unit: Option<&'static str>,
}

impl FrameOrder<'_> {
    /// A frame.
    pub(super) fn frame<'a>(
        &self,
        binder: &mut Binder<'a>,
        frame: &'a ast::WindowFrame,
    ) -> Result<WindowFrame> {
        use ast::FrameBound as B;
        let unit = match frame.unit {
            ast::FrameUnit::Rows => FrameUnit::Rows,
            ast::FrameUnit::Range => FrameUnit::Range,
            ast::FrameUnit::Groups => return Err(PlanError::not_supported("GROUPS")),
        };
        match (&frame.start, &frame.end) {
            (B::UnboundedFollowing, _) => {
                return Err(self.error(errno::ER_WINDOW_FRAME_START_ILLEGAL));
            }
            (_, B::UnboundedPreceding) => {
                return Err(self.error(errno::ER_WINDOW_FRAME_END_ILLEGAL));
            }
            (B::CurrentRow, B::Preceding(_))
            | (B::Following(_), B::Preceding(_) | B::CurrentRow) => {
                return Err(self.error(errno::ER_WINDOW_FRAME_ILLEGAL));
            }
            _ => {}
        }
        let start = self.offset(binder, &frame.start, unit)?;
        let end = self.offset(binder, &frame.end, unit)?;
        let plain = |bound: &B, offset: Option<&Offset>| match (bound, offset) {
            (B::CurrentRow, _) => FrameBound::CurrentRow,
            (_, None) => FrameBound::Unbounded,
            (_, Some(offset)) => FrameBound::Offset(FrameOffset {
                preceding: offset.preceding,
                distance: offset.distance.clone(),
                value: None,
            }),
        };
        let mut result = WindowFrame {
            unit,
            start: plain(&frame.start, start.as_ref()),
            end: plain(&frame.end, end.as_ref()),
            key: None,
        };
        if unit == FrameUnit::Range && (start.is_some() || end.is_some()) {
            self.values(binder, &mut result, [start, end])?;
        }
        Ok(result)
    }

    fn error(&self, code: u16) -> PlanError {
        PlanError::mysql(code, &[&self.window])
    }

    /// The distance of a bound, if it has one.
    fn offset<'a>(
        &self,
        binder: &mut Binder<'a>,
        bound: &'a ast::FrameBound,
        unit: FrameUnit,
    ) -> Result<Option<Offset>> {
        let (written, preceding) = match bound {
            ast::FrameBound::Preceding(written) => (&**written, true),
            ast::FrameBound::Following(written) => (&**written, false),
            _ => return Ok(None),
        };
        let (written, interval) = match written {
            ast::Expr::Interval { value, unit } => (&**value, Some(unit.as_str())),
            other => (other, None),
        };
        if interval.is_some() && unit == FrameUnit::Rows {
            return Err(self.error(errno::ER_WINDOW_ROWS_INTERVAL_USE));
        }
        let distance = binder.expr(written, &mut ExprEnv::new("window frame"))?;
        if distance.has_columns() {
            return Err(self.error(errno::ER_WINDOW_RANGE_BOUND_NOT_CONSTANT));
        }
        // What is not known yet is looked at when the statement runs.
        let is_wrong = distance.as_constant().is_some_and(|value| match unit {
            FrameUnit::Rows => row_count(value).is_none(),
            FrameUnit::Range => !is_distance(value),
        });
        if is_wrong {
            return Err(self.error(errno::ER_WINDOW_FRAME_ILLEGAL));
        }
        Ok(Some(Offset { preceding, distance, unit: interval }))
    }

    /// The key of RANGE with distances, and the values of its bounds, all of one type.
    fn values(
        &self,
        binder: &mut Binder<'_>,
        frame: &mut WindowFrame,
        offsets: [Option<Offset>; 2],
    ) -> Result<()> {
        let [SortKey { expr, desc }] = self.keys else {
            return Err(self.error(errno::ER_WINDOW_RANGE_FRAME_ORDER_TYPE));
        };
        let is_temporal = expr.ty().is_temporal();
        if !is_temporal && !expr.ty().is_numeric() {
            return Err(self.error(errno::ER_WINDOW_RANGE_FRAME_ORDER_TYPE));
        }
        for offset in offsets.iter().flatten() {
            match (is_temporal, offset.unit) {
                (true, None) => {
                    return Err(self.error(errno::ER_WINDOW_RANGE_FRAME_TEMPORAL_TYPE));
                }
                (false, Some(_)) => {
                    return Err(self.error(errno::ER_WINDOW_RANGE_FRAME_NUMERIC_TYPE));
                }
                _ => {}
            }
        }
        let key = match expr.ty() {
            ty if ty.is_time() => {
                build_cast(expr.clone(), FieldType::datetime(FSP_MAX), binder.ctx.eval)?
            }
            ty if ty.is_temporal() => {
                build_cast(expr.clone(), FieldType::time(FSP_MAX), binder.ctx.eval)?
            }
            ty if ty.is_real() || ty.is_decimal() => expr.clone(),
            _ => {
                let ty = FieldType::decimal(INTEGER_DIGITS, 0);
                build_cast(expr.clone(), ty, binder.ctx.eval)?
            }
        };
        let mut values = Vec::with_capacity(2);
        for offset in &offsets {
            let Some(offset) = offset else {
                values.push(None);
                continue;
            };
            let minus = offset.preceding != *desc;
            let distance = offset.distance.clone();
            values.push(Some(match offset.unit {
                Some(unit) => {
                    let args = vec![key.clone(), distance, Expr::string(unit)];
                    binder.call(if minus { "date_sub" } else { "date_add" }, args)?
                }
                None => binder.call(if minus { "-" } else { "+" }, vec![key.clone(), distance])?,
            }));
        }
        let ty = match is_temporal {
            true => key.ty().clone(),
            false => {
                let all: Vec<Expr> =
                    values.iter().flatten().cloned().chain([key.clone()]).collect();
                binder.call("coalesce", all)?.ty().clone()
            }
        };
        let ty = FieldType { not_null: false, ..ty };
        for (bound, value) in [&mut frame.start, &mut frame.end].into_iter().zip(values) {
            if let (FrameBound::Offset(offset), Some(value)) = (bound, value) {
                offset.value = Some(build_cast(value, ty.clone(), binder.ctx.eval)?);
            }
        }
        frame.key = Some(build_cast(key, ty, binder.ctx.eval)?);
        Ok(())
    }
}
