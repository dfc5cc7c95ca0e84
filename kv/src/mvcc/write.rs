//! The commit record of Percolator (paper §2.2, column `c:write`).
//!
//! **Data**: one byte of version (upper four bits) and kind (lower four), one of
//! flags, `start_ts` (8 bytes), optionally `last_change` (8 bytes), and, when
//! announced, the short value up to the end of the record. A fixed head lets a
//! scan decode a record with two compares and slice the value in place.
//!
//! **Invariants**
//! - A `Put` without a short value has its value in CF default under
//!   `(key, start_ts)`.
//! - A `Rollback` lies at `commit_ts == start_ts`. When another transaction's
//!   commit occupies that very timestamp, its record carries
//!   `has_overlapped_rollback` instead.
//!
//! **Sources**: Peng and Dabek, "Large-scale Incremental Processing Using
//! Distributed Transactions and Notifications", OSDI 2010.

use cairn_types::TimeStamp;

use super::MvccError;
use super::lock::LockKind;
use super::wire::Reader;

const VERSION: u8 = 1;
const FLAG_SHORT_VALUE: u8 = 1;
const FLAG_OVERLAPPED_ROLLBACK: u8 = 1 << 1;
const FLAG_PROTECTED: u8 = 1 << 2;
const FLAG_LAST_CHANGE: u8 = 1 << 3;
const FLAGS_KNOWN: u8 =
    FLAG_SHORT_VALUE | FLAG_OVERLAPPED_ROLLBACK | FLAG_PROTECTED | FLAG_LAST_CHANGE;

/// Values up to this length lie inline in lock and commit records: nearly all rows, so that
/// writing and reading them touches one column family less. A two-phase commit writes such a value
/// twice, which is cheap up to about here. Records say themselves where their value is, so that the
/// bound may change.
pub const SHORT_VALUE_BYTES_MAX: usize = 1024;

/// What a commit record says about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// A value was written.
    Put,
    /// The value was removed.
    Delete,
    /// The key was locked only; look further down for its value.
    Lock,
    /// The transaction at this timestamp was rolled back; look further down.
    Rollback,
}

impl WriteKind {
    fn to_bits(self) -> u8 {
        match self {
            WriteKind::Put => 1,
            WriteKind::Delete => 2,
            WriteKind::Lock => 3,
            WriteKind::Rollback => 4,
        }
    }

    fn from_bits(bits: u8) -> Result<WriteKind, MvccError> {
        match bits {
            1 => Ok(WriteKind::Put),
            2 => Ok(WriteKind::Delete),
            3 => Ok(WriteKind::Lock),
            4 => Ok(WriteKind::Rollback),
            _ => Err(MvccError::corrupt("unknown write kind")),
        }
    }

    /// What committing a lock leaves; a pessimistic lock never commits as such.
    pub fn of_lock(kind: LockKind) -> Option<WriteKind> {
        match kind {
            LockKind::Put => Some(WriteKind::Put),
            LockKind::Delete => Some(WriteKind::Delete),
            LockKind::Lock => Some(WriteKind::Lock),
            LockKind::Pessimistic => None,
        }
    }

    /// Whether the record says what the key's value is.
    pub fn is_data(self) -> bool {
        matches!(self, WriteKind::Put | WriteKind::Delete)
    }
}

/// A commit record, its short value still in the engine's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// What happened.
    pub kind: WriteKind,
    /// The transaction that wrote it.
    pub start_ts: TimeStamp,
    /// The value of a `Put`, when short.
    pub short_value: Option<&'a [u8]>,
    /// The transaction whose `start_ts` equals this record's `commit_ts` was
    /// rolled back.
    pub has_overlapped_rollback: bool,
    /// Of a `Rollback`: must not be collapsed into a later one, since it alone
    /// keeps the transaction from committing.
    pub is_protected: bool,
    /// Of a `Lock`: commit timestamp of the newest put or delete below it
    /// (`Some(ZERO)`: none), so that readers need not walk a row of locks.
    pub last_change: Option<TimeStamp>,
}

impl<'a> Write<'a> {
    /// A record without value, flags or hints.
    pub fn new(kind: WriteKind, start_ts: TimeStamp) -> Write<'a> {
        Write {
            kind,
            start_ts,
            short_value: None,
            has_overlapped_rollback: false,
            is_protected: false,
            last_change: None,
        }
    }

    /// A rollback record.
    pub fn rollback(start_ts: TimeStamp, is_protected: bool) -> Write<'a> {
        Write { is_protected, ..Write::new(WriteKind::Rollback, start_ts) }
    }

    /// Whether it is a `Put` whose value lies in CF default, at `start_ts`.
    pub fn has_long_value(&self) -> bool {
        self.kind == WriteKind::Put && self.short_value.is_none()
    }

    /// Encodes the record for CF write.
    pub fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(18 + self.short_value.map_or(0, <[u8]>::len));
        buf.push((VERSION << 4) | self.kind.to_bits());
        let mut flags = 0;
        if self.short_value.is_some() {
            flags |= FLAG_SHORT_VALUE;
        }
        if self.has_overlapped_rollback {
            flags |= FLAG_OVERLAPPED_ROLLBACK;
        }
        if self.is_protected {
            flags |= FLAG_PROTECTED;
        }
        if self.last_change.is_some() {
            flags |= FLAG_LAST_CHANGE;
        }
        buf.push(flags);
        buf.extend_from_slice(&self.start_ts.0.to_be_bytes());
        if let Some(ts) = self.last_change {
            buf.extend_from_slice(&ts.0.to_be_bytes());
        }
        if let Some(value) = self.short_value {
            buf.extend_from_slice(value);
        }
        buf
    }

    /// Decodes what [`Write::encode`] wrote; refuses anything else.
    pub fn decode(bytes: &'a [u8]) -> Result<Write<'a>, MvccError> {
        let mut reader = Reader::new(bytes, "commit record");
        let head = reader.byte()?;
        if head >> 4 != VERSION {
            return Err(MvccError::corrupt("unknown commit record version"));
        }
        let kind = WriteKind::from_bits(head & 0xf)?;
        let flags = reader.byte()?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(MvccError::corrupt("unknown commit record flag"));
        }
        let start_ts = TimeStamp(reader.u64()?);
        let last_change = match flags & FLAG_LAST_CHANGE != 0 {
            true => Some(TimeStamp(reader.u64()?)),
            false => None,
        };
        let rest = reader.rest();
        let has_short_value = flags & FLAG_SHORT_VALUE != 0;
        if !has_short_value && !rest.is_empty() {
            return Err(MvccError::corrupt("commit record with trailing bytes"));
        }
        Ok(Write {
            kind,
            start_ts,
            short_value: has_short_value.then_some(rest),
            has_overlapped_rollback: flags & FLAG_OVERLAPPED_ROLLBACK != 0,
            is_protected: flags & FLAG_PROTECTED != 0,
            last_change,
        })
    }

    /// Whether this record says that the transaction `start_ts`, looked up at
    /// this record's `commit_ts`, was rolled back.
    pub fn is_rollback_of(&self, commit_ts: TimeStamp, start_ts: TimeStamp) -> bool {
        commit_ts == start_ts && (self.kind == WriteKind::Rollback || self.has_overlapped_rollback)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn survives_encoding(
            bits in 1u8..=4,
            start_ts in any::<u64>(),
            value in proptest::option::of(
                proptest::collection::vec(any::<u8>(), 0..=SHORT_VALUE_BYTES_MAX),
            ),
            flags in any::<[bool; 2]>(),
            last_change in proptest::option::of(any::<u64>()),
        ) {
            let write = Write {
                kind: WriteKind::from_bits(bits).unwrap(),
                start_ts: TimeStamp(start_ts),
                short_value: value.as_deref(),
                has_overlapped_rollback: flags[0],
                is_protected: flags[1],
                last_change: last_change.map(TimeStamp),
            };
            let encoded = write.encode();
            prop_assert_eq!(Write::decode(&encoded).unwrap(), write);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Write::decode(&bytes);
            if bytes.len() > 1 {
                bytes[0] = (VERSION << 4) | ((bytes[0] & 3) + 1);
                bytes[1] &= FLAGS_KNOWN;
                if let Ok(write) = Write::decode(&bytes) {
                    prop_assert_eq!(write.encode(), bytes);
                }
            }
        }
    }
}
