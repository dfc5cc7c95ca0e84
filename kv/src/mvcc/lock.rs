//! The lock record of Percolator (paper §2.2, column `c:lock`).
//!
//! **Data**: one version byte, kind, flags, `start_ts` (8 bytes), then LEB128
//! numbers `ttl_ms`, `txn_size`, `for_update_ts`, `min_commit_ts`, then the
//! primary (length, bytes), then what the flags announce: short value,
//! last change, secondaries. Unknown versions, kinds and flags are refused, so
//! that an older store never misreads what a newer one wrote.
//!
//! **Invariants**: a lock of kind `Put` has its value inline (`short_value`) or
//! in CF default under `(key, start_ts)`.

use bytes::Bytes;
use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::MvccError;
use super::wire::{Reader, put_bytes, put_varint};

const VERSION: u8 = 1;
const FLAG_SHORT_VALUE: u8 = 1;
const FLAG_ASYNC_COMMIT: u8 = 1 << 1;
const FLAG_LAST_CHANGE: u8 = 1 << 2;
const FLAGS_KNOWN: u8 = FLAG_SHORT_VALUE | FLAG_ASYNC_COMMIT | FLAG_LAST_CHANGE;

/// What a transaction is about to do to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Writes a value.
    Put,
    /// Removes the value.
    Delete,
    /// Changes nothing, but conflicts with others (`SELECT … FOR UPDATE`).
    Lock,
    /// Taken before the value is known; blocks writers, not readers.
    Pessimistic,
}

impl LockKind {
    fn to_byte(self) -> u8 {
        match self {
            LockKind::Put => b'P',
            LockKind::Delete => b'D',
            LockKind::Lock => b'L',
            LockKind::Pessimistic => b'S',
        }
    }

    fn from_byte(byte: u8) -> Result<LockKind, MvccError> {
        match byte {
            b'P' => Ok(LockKind::Put),
            b'D' => Ok(LockKind::Delete),
            b'L' => Ok(LockKind::Lock),
            b'S' => Ok(LockKind::Pessimistic),
            _ => Err(MvccError::corrupt("unknown lock kind")),
        }
    }
}

/// A key's lock: the transaction that holds it and what it will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What commit turns the lock into.
    pub kind: LockKind,
    /// Raw key whose lock decides the transaction's fate.
    pub primary: Bytes,
    /// The transaction.
    pub start_ts: TimeStamp,
    /// Others may roll the transaction back this long after `start_ts`.
    pub ttl_ms: u64,
    /// Keys of the transaction, as its client counted them.
    pub txn_size: u64,
    /// Of pessimistic transactions; zero otherwise.
    pub for_update_ts: TimeStamp,
    /// The commit timestamp may not be below this (pushed by readers).
    pub min_commit_ts: TimeStamp,
    /// The transaction is committed once all of its locks stand.
    pub use_async_commit: bool,
    /// In the primary's lock of an async commit: the other raw keys.
    pub secondaries: Vec<Bytes>,
    /// The value, when it is short.
    pub short_value: Option<Bytes>,
    /// Commit timestamp of the newest put or delete below this lock
    /// (`Some(ZERO)`: none); `None` when it was not looked for.
    pub last_change: Option<TimeStamp>,
}

impl Lock {
    /// Encodes the lock for CF lock.
    pub fn encode(&self) -> Vec<u8> {
        let short_len = self.short_value.as_ref().map_or(0, Bytes::len);
        let mut buf = Vec::with_capacity(48 + self.primary.len() + short_len);
        buf.push(VERSION);
        buf.push(self.kind.to_byte());
        let mut flags = 0;
        if self.short_value.is_some() {
            flags |= FLAG_SHORT_VALUE;
        }
        if self.use_async_commit {
            flags |= FLAG_ASYNC_COMMIT;
        }
        if self.last_change.is_some() {
            flags |= FLAG_LAST_CHANGE;
        }
        buf.push(flags);
        buf.extend_from_slice(&self.start_ts.0.to_be_bytes());
        put_varint(&mut buf, self.ttl_ms);
        put_varint(&mut buf, self.txn_size);
        put_varint(&mut buf, self.for_update_ts.0);
        put_varint(&mut buf, self.min_commit_ts.0);
        put_bytes(&mut buf, &self.primary);
        if let Some(value) = &self.short_value {
            put_bytes(&mut buf, value);
        }
        if let Some(ts) = self.last_change {
            put_varint(&mut buf, ts.0);
        }
        if self.use_async_commit {
            put_varint(&mut buf, self.secondaries.len() as u64);
            for key in &self.secondaries {
                put_bytes(&mut buf, key);
            }
        }
        buf
    }

    /// Decodes what [`Lock::encode`] wrote; refuses anything else.
    pub fn decode(bytes: &[u8]) -> Result<Lock, MvccError> {
        let mut reader = Reader::new(bytes, "lock record");
        if reader.byte()? != VERSION {
            return Err(MvccError::corrupt("unknown lock version"));
        }
        let kind = LockKind::from_byte(reader.byte()?)?;
        let flags = reader.byte()?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(MvccError::corrupt("unknown lock flag"));
        }
        let start_ts = TimeStamp(reader.u64()?);
        let ttl_ms = reader.varint()?;
        let txn_size = reader.varint()?;
        let for_update_ts = TimeStamp(reader.varint()?);
        let min_commit_ts = TimeStamp(reader.varint()?);
        let primary = Bytes::copy_from_slice(reader.bytes()?);
        let short_value = match flags & FLAG_SHORT_VALUE != 0 {
            true => Some(Bytes::copy_from_slice(reader.bytes()?)),
            false => None,
        };
        let last_change = match flags & FLAG_LAST_CHANGE != 0 {
            true => Some(TimeStamp(reader.varint()?)),
            false => None,
        };
        let use_async_commit = flags & FLAG_ASYNC_COMMIT != 0;
        let mut secondaries = Vec::new();
        if use_async_commit {
            // Grown as keys are found: a bad count must not reserve memory.
            for _ in 0..reader.varint()? {
                secondaries.push(Bytes::copy_from_slice(reader.bytes()?));
            }
        }
        reader.finish()?;
        Ok(Lock {
            kind,
            primary,
            start_ts,
            ttl_ms,
            txn_size,
            for_update_ts,
            min_commit_ts,
            use_async_commit,
            secondaries,
            short_value,
            last_change,
        })
    }

    /// Whether a reader of `raw_key` at `read_ts` must wait for this lock.
    ///
    /// Percolator §2.2: a lock in `[0, start_ts]` may hide a commit the reader
    /// should see. It cannot when the lock writes nothing, when its commit is
    /// known to lie above the read, when the reader already asked the primary
    /// (`resolved`), or when a read of the newest version meets the primary's own
    /// lock: the transaction had not committed when the read began.
    pub fn blocks_read(&self, raw_key: &[u8], read_ts: TimeStamp, resolved: &[u64]) -> bool {
        if self.start_ts > read_ts || matches!(self.kind, LockKind::Lock | LockKind::Pessimistic) {
            return false;
        }
        if self.min_commit_ts > read_ts || resolved.contains(&self.start_ts.0) {
            return false;
        }
        !(read_ts.is_max() && self.primary == raw_key && !self.use_async_commit)
    }

    /// The lock as its holder's rivals see it.
    pub fn to_info(&self, raw_key: Bytes) -> kv::LockInfo {
        let kind = match self.kind {
            LockKind::Put => kv::LockKind::Put,
            LockKind::Delete => kv::LockKind::Delete,
            LockKind::Lock => kv::LockKind::Lock,
            LockKind::Pessimistic => kv::LockKind::Pessimistic,
        };
        kv::LockInfo {
            key: raw_key,
            primary: self.primary.clone(),
            start_ts: self.start_ts.0,
            ttl_ms: self.ttl_ms,
            txn_size: self.txn_size,
            kind: kind.into(),
            for_update_ts: self.for_update_ts.0,
            use_async_commit: self.use_async_commit,
            min_commit_ts: self.min_commit_ts.0,
            secondaries: self.secondaries.clone(),
        }
    }

    /// Whether the holder's time is up at `current_ts` (physical parts compared:
    /// logical counters say nothing about time).
    pub fn is_expired(&self, current_ts: TimeStamp) -> bool {
        self.start_ts.physical_ms().saturating_add(self.ttl_ms) < current_ts.physical_ms()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arbitrary_lock() -> impl Strategy<Value = Lock> {
        let kind = prop_oneof![
            Just(LockKind::Put),
            Just(LockKind::Delete),
            Just(LockKind::Lock),
            Just(LockKind::Pessimistic)
        ];
        let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        (
            kind,
            bytes(),
            any::<[u64; 5]>(),
            proptest::option::of(bytes()),
            proptest::option::of(any::<u64>()),
            proptest::option::of(proptest::collection::vec(bytes(), 0..4)),
        )
            .prop_map(|(kind, primary, numbers, short_value, last_change, secondaries)| {
                Lock {
                    kind,
                    primary,
                    start_ts: TimeStamp(numbers[0]),
                    ttl_ms: numbers[1],
                    txn_size: numbers[2],
                    for_update_ts: TimeStamp(numbers[3]),
                    min_commit_ts: TimeStamp(numbers[4]),
                    use_async_commit: secondaries.is_some(),
                    secondaries: secondaries.unwrap_or_default(),
                    short_value,
                    last_change: last_change.map(TimeStamp),
                }
            })
    }

    proptest! {
        #[test]
        fn survives_encoding(lock in arbitrary_lock()) {
            prop_assert_eq!(Lock::decode(&lock.encode()).unwrap(), lock);
        }

        #[test]
        fn random_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() > 3 {
                bytes[..2].copy_from_slice(&[VERSION, b'P']);
                bytes[2] &= FLAGS_KNOWN;
            }
            if let Ok(lock) = Lock::decode(&bytes) {
                prop_assert_eq!(Lock::decode(&lock.encode()).unwrap(), lock);
            }
        }

        #[test]
        fn truncation_is_found(lock in arbitrary_lock(), cut in 1usize..8) {
            let bytes = lock.encode();
            prop_assert!(Lock::decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }
    }
}
