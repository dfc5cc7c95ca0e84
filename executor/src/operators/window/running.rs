//! Functions whose frame begins with the partition: one state that only grows.

use cairn_expr::{AggDesc, EvalContext, GroupedAgg};
use cairn_types::{Column, FieldType};

use super::{Partition, Span, WindowState, Work};
use crate::batch;
use crate::context::ExecContext;
use crate::error::Result;
use crate::plan::{FrameBound, FrameUnit, WindowFrame};

/// When the value of a frame that begins with the partition is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// At the row.
    Row,
    /// At the last of its peers.
    LastPeer,
    /// At the end of the partition.
    End,
}

impl Known {
    /// `None`: the frame does not begin with the partition, or ends elsewhere.
    pub(super) fn of(frame: &WindowFrame) -> Option<Known> {
        match (&frame.start, &frame.end, frame.unit) {
            (FrameBound::Unbounded, FrameBound::Unbounded, _) => Some(Known::End),
            (FrameBound::Unbounded, FrameBound::CurrentRow, FrameUnit::Rows) => Some(Known::Row),
            (FrameBound::Unbounded, FrameBound::CurrentRow, FrameUnit::Range) => {
                Some(Known::LastPeer)
            }
            _ => None,
        }
    }
}

/// An aggregate.
pub(super) struct Running {
    desc: AggDesc,
    known: Known,
    state: Box<dyn GroupedAgg>,
    /// Rows whose value is the state's, once it is known.
    pending: usize,
    /// Contexts of later states.
    eval: EvalContext,
}

impl Running {
    pub(super) fn new(desc: &AggDesc, known: Known, ctx: &ExecContext) -> Running {
        let eval = ctx.eval();
        let mut state = desc.new_state(&eval);
        state.ensure_groups(1);
        Running { desc: desc.clone(), known, state, pending: 0, eval }
    }

    /// Takes rows `start..end` in.
    fn take(
        &mut self,
        args: &[Column],
        start: usize,
        end: usize,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let rows: Vec<Column> =
            args.iter().map(|column| batch::slice_column(column, start, end)).collect();
        self.state.update(&vec![0; end - start], &rows, work.eval)?;
        self.pending += end - start;
        Ok(())
    }

    /// The value as it is now, for all rows that wait for it.
    fn flush(&mut self, out: &mut Column, work: &mut Work<'_>) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let bytes = self.state.memory_bytes();
        work.check(bytes, out)?;
        if self.pending == 1 {
            self.state.write_final(0, out, work.eval)?;
        } else {
            let mut value = Column::new(&self.desc.ty, 1);
            self.state.write_final(0, &mut value, work.eval)?;
            work.repeat(bytes + value.memory_bytes(), &value, self.pending, out)?;
        }
        self.pending = 0;
        Ok(())
    }
}

impl WindowState for Running {
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        out: &mut Column,
        work: &mut Work<'_>,
    ) -> Result<()> {
        match self.known {
            Known::End => {
                if let (Some(first), Some(last)) = (spans.first(), spans.last()) {
                    self.take(args, first.rows.start, last.rows.end, work)?;
                }
            }
            Known::LastPeer => {
                for span in spans {
                    if span.opens {
                        self.flush(out, work)?;
                    }
                    self.take(args, span.rows.start, span.rows.end, work)?;
                }
            }
            Known::Row => {
                for row in spans.iter().flat_map(|span| span.rows.clone()) {
                    self.take(args, row, row + 1, work)?;
                    self.flush(out, work)?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &Partition, out: &mut Column, work: &mut Work<'_>) -> Result<()> {
        self.flush(out, work)?;
        self.state = self.desc.new_state(&self.eval);
        self.state.ensure_groups(1);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.state.memory_bytes()
    }
}

/// FIRST_VALUE: that of the partition's first row.
pub(super) struct First {
    ty: FieldType,
    value: Option<Column>,
}

impl First {
    pub(super) fn new(ty: &FieldType) -> First {
        First { ty: ty.clone(), value: None }
    }
}

impl WindowState for First {
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        out: &mut Column,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let rows: usize = spans.iter().map(|span| span.rows.len()).sum();
        let (Some(first), Some(column)) = (spans.first(), args.first()) else { return Ok(()) };
        let value = self.value.get_or_insert_with(|| {
            let mut value = Column::new(&self.ty, 1);
            value.append_from(column, first.rows.start);
            value
        });
        work.repeat(value.memory_bytes(), value, rows, out)
    }

    fn end(&mut self, _: &Partition, _: &mut Column, _: &mut Work<'_>) -> Result<()> {
        self.value = None;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Column::memory_bytes)
    }
}
