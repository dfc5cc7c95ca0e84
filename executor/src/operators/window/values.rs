//! Functions that show a value of another row: LAG, LEAD, FIRST_VALUE, LAST_VALUE, NTH_VALUE.

use cairn_types::{Column, FieldType};

use super::{Partition, Span, WindowState, Work};
use crate::batch::check_append;
use crate::error::Result;

/// LAG, LEAD.
pub(super) struct Shift {
    lead: bool,
    offset: u64,
    ty: FieldType,
    values: Column,
    defaults: Column,
}

impl Shift {
    pub(super) fn new(lead: bool, offset: u64, ty: &FieldType) -> Shift {
        let (values, defaults) = (Column::new(ty, 0), Column::new(ty, 0));
        Shift { lead, offset, ty: ty.clone(), values, defaults }
    }
}

impl WindowState for Shift {
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        _out: &mut Column,
        _work: &mut Work<'_>,
    ) -> Result<()> {
        append(&mut self.values, args.first(), spans)?;
        append(&mut self.defaults, args.get(1), spans)
    }

    fn end(&mut self, partition: &Partition, out: &mut Column, work: &mut Work<'_>) -> Result<()> {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let bytes = self.bytes();
        for row in 0..partition.rows {
            work.check(bytes, out)?;
            let from = match self.lead {
                true => row.checked_add(offset).filter(|from| *from < partition.rows),
                false => row.checked_sub(offset),
            };
            match from {
                Some(from) => out.append_from(&self.values, from),
                None => out.append_from(&self.defaults, row),
            }
        }
        self.values = Column::new(&self.ty, 0);
        self.defaults = Column::new(&self.ty, 0);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.memory_bytes() + self.defaults.memory_bytes()
    }
}

/// Which row of the frame.
#[derive(Clone, Copy)]
pub(super) enum Place {
    First,
    Last,
    /// Counted from 1.
    Nth(u64),
}

/// FIRST_VALUE, LAST_VALUE, NTH_VALUE.
pub(super) struct InFrame {
    place: Place,
    ty: FieldType,
    values: Column,
}

impl InFrame {
    pub(super) fn new(place: Place, ty: &FieldType) -> InFrame {
        InFrame { place, ty: ty.clone(), values: Column::new(ty, 0) }
    }
}

impl WindowState for InFrame {
    fn add(
        &mut self,
        args: &[Column],
        spans: &[Span],
        _out: &mut Column,
        _work: &mut Work<'_>,
    ) -> Result<()> {
        append(&mut self.values, args.first(), spans)
    }

    fn end(&mut self, partition: &Partition, out: &mut Column, work: &mut Work<'_>) -> Result<()> {
        let bytes = self.bytes();
        for row in 0..partition.rows {
            work.check(bytes, out)?;
            let frame = partition.frames.of(row);
            let from = match self.place {
                _ if frame.is_empty() => None,
                Place::First => Some(frame.start),
                Place::Last => Some(frame.end - 1),
                Place::Nth(nth) => {
                    let at = usize::try_from(nth - 1).ok();
                    at.filter(|at| *at < frame.len()).map(|at| frame.start + at)
                }
            };
            match from {
                Some(from) => out.append_from(&self.values, from),
                None => out.push_null(),
            }
        }
        self.values = Column::new(&self.ty, 0);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.values.memory_bytes()
    }
}

/// Appends the rows of spans, which follow one another.
pub(super) fn append(to: &mut Column, from: Option<&Column>, spans: &[Span]) -> Result<()> {
    if let (Some(from), Some(first), Some(last)) = (from, spans.first(), spans.last()) {
        check_append(to, from)?;
        to.append_range(from, first.rows.start, last.rows.end);
    }
    Ok(())
}
