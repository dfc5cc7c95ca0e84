//! Functions of a row's place in its partition.

use cairn_types::Column;

use super::{Partition, Span, WindowState, Work};
use crate::error::Result;

/// ROW_NUMBER.
#[derive(Default)]
pub(super) struct RowNumber {
    rows: u64,
}

impl WindowState for RowNumber {
    fn add(
        &mut self,
        _args: &[Column],
        spans: &[Span],
        out: &mut Column,
        _work: &mut Work<'_>,
    ) -> Result<()> {
        let rows: usize = spans.iter().map(|span| span.rows.len()).sum();
        for _ in 0..rows {
            self.rows += 1;
            out.push_uint(self.rows);
        }
        Ok(())
    }

    fn end(&mut self, _: &Partition, _: &mut Column, _: &mut Work<'_>) -> Result<()> {
        self.rows = 0;
        Ok(())
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// RANK, DENSE_RANK.
pub(super) struct Rank {
    dense: bool,
    rows: u64,
    rank: u64,
}

impl Rank {
    pub(super) fn new(dense: bool) -> Rank {
        Rank { dense, rows: 0, rank: 0 }
    }
}

impl WindowState for Rank {
    fn add(
        &mut self,
        _args: &[Column],
        spans: &[Span],
        out: &mut Column,
        _work: &mut Work<'_>,
    ) -> Result<()> {
        for span in spans {
            if span.opens {
                self.rank = if self.dense { self.rank + 1 } else { self.rows + 1 };
            }
            self.rows += span.rows.len() as u64;
            span.rows.clone().for_each(|_| out.push_uint(self.rank));
        }
        Ok(())
    }

    fn end(&mut self, _: &Partition, _: &mut Column, _: &mut Work<'_>) -> Result<()> {
        (self.rows, self.rank) = (0, 0);
        Ok(())
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// PERCENT_RANK, CUME_DIST.
pub(super) struct Relative {
    pub(super) percent: bool,
}

impl WindowState for Relative {
    fn add(&mut self, _: &[Column], _: &[Span], _: &mut Column, _: &mut Work<'_>) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, partition: &Partition, out: &mut Column, _: &mut Work<'_>) -> Result<()> {
        let rows = partition.rows as f64;
        for group in partition.groups() {
            let value = match self.percent {
                true if partition.rows == 1 => 0.0,
                true => group.start as f64 / (rows - 1.0),
                false => group.end as f64 / rows,
            };
            group.for_each(|_| out.push_double(value));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// NTILE: the first parts have one row more where the rows do not divide.
pub(super) struct Ntile {
    pub(super) parts: u64,
}

impl WindowState for Ntile {
    fn add(&mut self, _: &[Column], _: &[Span], _: &mut Column, _: &mut Work<'_>) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, partition: &Partition, out: &mut Column, _: &mut Work<'_>) -> Result<()> {
        let rows = partition.rows as u64;
        let (small, larger) = (rows / self.parts, rows % self.parts);
        let in_larger = larger * (small + 1);
        for row in 0..rows {
            let part = match row < in_larger {
                true => row / (small + 1),
                false => larger + (row - in_larger) / small,
            };
            out.push_uint(part + 1);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        0
    }
}
