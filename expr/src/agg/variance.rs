//! VAR_POP, VAR_SAMP, STDDEV_POP, STDDEV_SAMP.
//!
//! Welford's recurrence, and Chan's rule to merge two parts: neither loses digits
//! as the difference of large squares would.

use cairn_types::{Column, DatumRef};

use super::{AggFunc, GroupedAgg, bad_partial, missing_argument};
use crate::context::EvalContext;
use crate::error::Result;

#[derive(Clone, Copy, Default)]
struct Moments {
    count: i64,
    mean: f64,
    /// Sum of squared deviations from the mean.
    squares: f64,
}

pub(super) struct Variance {
    func: AggFunc,
    groups: Vec<Moments>,
}

impl Variance {
    pub fn new(func: AggFunc) -> Variance {
        Variance { func, groups: Vec::new() }
    }

    fn result(&self, moments: Moments) -> Option<f64> {
        let sample = matches!(self.func, AggFunc::VarSamp | AggFunc::StdSamp);
        let divisor = moments.count - i64::from(sample);
        if divisor <= 0 {
            return None;
        }
        let variance = moments.squares / divisor as f64;
        let root = matches!(self.func, AggFunc::StdPop | AggFunc::StdSamp);
        Some(if root { variance.sqrt() } else { variance })
    }
}

impl GroupedAgg for Variance {
    fn ensure_groups(&mut self, groups: usize) {
        self.groups.resize(groups.max(self.groups.len()), Moments::default());
    }

    fn update(&mut self, groups: &[u32], args: &[Column], _ctx: &mut EvalContext) -> Result<()> {
        let column = args.first().ok_or_else(|| missing_argument(self.func))?;
        for (row, group) in groups.iter().enumerate() {
            let DatumRef::Double(value) = column.get(row) else { continue };
            let held = &mut self.groups[*group as usize];
            held.count += 1;
            let deviation = value - held.mean;
            held.mean += deviation / held.count as f64;
            held.squares += deviation * (value - held.mean);
        }
        Ok(())
    }

    fn merge_partial(
        &mut self,
        groups: &[u32],
        partial: &[Column],
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        let [counts, means, squares] = partial else { return Err(bad_partial(self.func)) };
        for (row, group) in groups.iter().enumerate() {
            let (DatumRef::Int(count), DatumRef::Double(mean), DatumRef::Double(squares)) =
                (counts.get(row), means.get(row), squares.get(row))
            else {
                continue;
            };
            if count <= 0 {
                continue;
            }
            let held = &mut self.groups[*group as usize];
            let total = held.count + count;
            let apart = mean - held.mean;
            let (own, other) = (held.count as f64, count as f64);
            held.squares += squares + apart * apart * own * other / total as f64;
            held.mean += apart * other / total as f64;
            held.count = total;
        }
        Ok(())
    }

    fn write_partial(&mut self, group: usize, out: &mut [Column]) -> Result<()> {
        let [counts, means, squares] = out else { return Err(bad_partial(self.func)) };
        let held = self.groups[group];
        counts.push_int(held.count);
        means.push_double(held.mean);
        squares.push_double(held.squares);
        Ok(())
    }

    fn write_final(
        &mut self,
        group: usize,
        out: &mut Column,
        _ctx: &mut EvalContext,
    ) -> Result<()> {
        match self.result(self.groups[group]) {
            Some(value) => out.push_double(value),
            None => out.push_null(),
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Moments>()
    }
}
