//! Newtypes for schema ids, timestamps and row handles.
//!
//! Two integers of one type never stand side by side as arguments. A
//! [`TimeStamp`] is PD's: physical milliseconds in the upper 46 bits and a
//! logical counter in the lower 18, so that integer order is time order.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta] $name:ident;)*) => {$(
        #[$doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<i64> for $name {
            fn from(id: i64) -> $name {
                $name(id)
            }
        }
    )*};
}

id! {
    /// A table, or one partition of a table.
    TableId;
    /// An index within its table.
    IndexId;
    /// A column within its table; never used again after DROP COLUMN.
    ColumnId;
    /// A database.
    SchemaId;
}

/// Bits of the logical part of a [`TimeStamp`].
const LOGICAL_BITS: u32 = 18;

/// A timestamp from PD: physical milliseconds << 18 | logical counter.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimeStamp(pub u64);

impl TimeStamp {
    /// Before every timestamp PD hands out.
    pub const ZERO: TimeStamp = TimeStamp(0);
    /// After every timestamp; reads at `MAX` see the newest committed version.
    pub const MAX: TimeStamp = TimeStamp(u64::MAX);

    /// Joins the physical and the logical part.
    pub fn compose(physical_ms: u64, logical: u64) -> TimeStamp {
        TimeStamp((physical_ms << LOGICAL_BITS) | (logical & ((1 << LOGICAL_BITS) - 1)))
    }

    /// Milliseconds since the Unix epoch.
    pub fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// Counter within the millisecond.
    pub fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    /// The following timestamp; `MAX` stays.
    #[must_use]
    pub fn next(self) -> TimeStamp {
        TimeStamp(self.0.saturating_add(1))
    }

    /// The preceding timestamp; `ZERO` stays.
    #[must_use]
    pub fn prev(self) -> TimeStamp {
        TimeStamp(self.0.saturating_sub(1))
    }

    /// Whether this is [`TimeStamp::ZERO`].
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether this is [`TimeStamp::MAX`].
    pub fn is_max(self) -> bool {
        self.0 == u64::MAX
    }
}

impl fmt::Display for TimeStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for TimeStamp {
    fn from(ts: u64) -> TimeStamp {
        TimeStamp(ts)
    }
}

/// Identifies a row in its table; the last part of a row key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Handle {
    /// Hidden row id, or a clustered integer primary key. An unsigned BIGINT
    /// key is kept bit for bit.
    Int(i64),
    /// Clustered primary key of any other type: its memcomparable columns.
    Common(Vec<u8>),
}

impl Handle {
    /// The integer handle, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Handle::Int(handle) => Some(*handle),
            Handle::Common(_) => None,
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handle::Int(handle) => handle.fmt(f),
            Handle::Common(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_parts() {
        let ts = TimeStamp::compose(1_700_000_000_123, 7);
        assert_eq!((ts.physical_ms(), ts.logical()), (1_700_000_000_123, 7));
        assert_eq!(ts.next().prev(), ts);
        assert_eq!(TimeStamp::MAX.next(), TimeStamp::MAX);
    }
}
