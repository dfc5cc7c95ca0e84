//! The lock record of Percolator (paper §2.2, column `c:lock`).
//!
//! **Data**, of a lock with one holder: one version byte, kind, flags, `start_ts` (8 bytes), then LEB128
//! numbers `ttl_ms`, `txn_size`, `for_update_ts`, `min_commit_ts`, then the
//! primary (length, bytes), then what the flags announce: short value,
//! last change, secondaries, generation. Unknown versions, kinds and flags are refused, so
//! that an older store never misreads what a newer one wrote.
//!
//! **Shared locks** (`SELECT … FOR SHARE`): a record of another version, with the number of its
//! holders, then each of them (length, bytes as above), oldest first. A holder has its own primary,
//! life and fate at the key, and leaves the others behind when it goes. Whoever reads the record sees
//! one of them, its own if there is one ([`Lock::seen_by`]), with the rest in [`Lock::others`].
//!
//! **Bulk transactions** send writes before they know all of them, flush by flush, and may write a key
//! again: the generation tells of which flush a lock is (`txn/prewrite.rs`).
//!
//! **Invariants**: a lock of kind `Put` has its value inline (`short_value`) or
//! in CF default under `(key, start_ts)`. A shared lock writes nothing and is none of an async
//! commit: its kind is `Pessimistic`, or `Lock` once it is prewritten.

use bytes::Bytes;
use cairn_proto::kv;
use cairn_types::TimeStamp;

use super::MvccError;
use super::wire::{Reader, put_bytes, put_varint};

const VERSION: u8 = 1;
const VERSION_SHARED: u8 = 2;
/// Holders of one record: each change of one writes them all.
pub const SHARERS_MAX: usize = 128;
const FLAG_SHORT_VALUE: u8 = 1;
const FLAG_ASYNC_COMMIT: u8 = 1 << 1;
const FLAG_LAST_CHANGE: u8 = 1 << 2;
const FLAG_GENERATION: u8 = 1 << 3;
const FLAGS_KNOWN: u8 = FLAG_SHORT_VALUE | FLAG_ASYNC_COMMIT | FLAG_LAST_CHANGE | FLAG_GENERATION;

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
    /// Which flush of a bulk transaction wrote the lock; zero: none.
    pub generation: u64,
    /// Others may hold the key beside the transaction.
    pub is_shared: bool,
    /// Those who do, oldest first.
    pub others: Vec<Lock>,
}

impl Lock {
    /// Encodes the lock, with all of its holders, for CF lock.
    pub fn encode(&self) -> Vec<u8> {
        if !self.is_shared {
            return self.encode_holder();
        }
        let mut buf = vec![VERSION_SHARED];
        put_varint(&mut buf, self.others.len() as u64 + 1);
        for holder in self.holders() {
            put_bytes(&mut buf, &holder.encode_holder());
        }
        buf
    }

    fn encode_holder(&self) -> Vec<u8> {
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
        if self.generation > 0 {
            flags |= FLAG_GENERATION;
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
        if self.generation > 0 {
            put_varint(&mut buf, self.generation);
        }
        buf
    }

    /// Decodes what [`Lock::encode`] wrote, as the oldest holder sees it; refuses anything else.
    pub fn decode(bytes: &[u8]) -> Result<Lock, MvccError> {
        if bytes.first() != Some(&VERSION_SHARED) {
            return Lock::decode_holder(bytes);
        }
        let mut reader = Reader::new(bytes, "lock record");
        reader.byte()?;
        let count = reader.varint()?;
        if count == 0 || count > SHARERS_MAX as u64 {
            return Err(MvccError::corrupt("number of holders of a lock"));
        }
        let mut holders: Vec<Lock> = Vec::new();
        for _ in 0..count {
            let mut holder = Lock::decode_holder(reader.bytes()?)?;
            let writes = matches!(holder.kind, LockKind::Put | LockKind::Delete);
            let is_in_order = holders.last().is_none_or(|last| last.start_ts < holder.start_ts);
            if writes || holder.use_async_commit || !is_in_order {
                return Err(MvccError::corrupt("holder of a shared lock"));
            }
            holder.is_shared = true;
            holders.push(holder);
        }
        reader.finish()?;
        let others = holders.split_off(1);
        let oldest = holders.pop().ok_or(MvccError::corrupt("number of holders of a lock"))?;
        Ok(Lock { others, ..oldest })
    }

    fn decode_holder(bytes: &[u8]) -> Result<Lock, MvccError> {
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
        let generation = match flags & FLAG_GENERATION != 0 {
            true => reader.varint()?,
            false => 0,
        };
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
            generation,
            is_shared: false,
            others: Vec::new(),
        })
    }

    /// All holders, oldest first.
    pub fn holders(&self) -> impl Iterator<Item = &Lock> {
        let (older, younger) = self.others.split_at(self.place_among(&self.others));
        older.iter().chain(std::iter::once(self)).chain(younger)
    }

    /// All holders one by one, oldest first.
    pub fn into_holders(mut self) -> Vec<Lock> {
        let mut holders = std::mem::take(&mut self.others);
        holders.insert(self.place_among(&holders), self);
        holders
    }

    fn place_among(&self, holders: &[Lock]) -> usize {
        holders.partition_point(|holder| holder.start_ts < self.start_ts)
    }

    /// The lock from the side of the transaction, if that is one of its holders.
    #[must_use]
    pub fn seen_by(self, start_ts: TimeStamp) -> Lock {
        if !self.others.iter().any(|other| other.start_ts == start_ts) {
            return self;
        }
        let mut others = self.into_holders();
        let at = others.partition_point(|holder| holder.start_ts < start_ts);
        let own = others.remove(at);
        Lock { others, ..own }
    }

    /// What becomes of the lock when this holder goes.
    pub fn left_behind(&self) -> Option<Lock> {
        let (oldest, others) = self.others.split_first()?;
        Some(Lock { others: others.to_vec(), ..oldest.clone() })
    }

    /// Whether one more transaction may share the lock.
    pub fn has_room(&self) -> bool {
        self.is_shared && self.others.len() + 1 < SHARERS_MAX
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

    /// Whether the lock's value lies in CF default.
    pub fn has_long_value(&self) -> bool {
        self.kind == LockKind::Put && self.short_value.is_none()
    }

    /// The lock as its holders' rivals see it.
    pub fn to_info(&self, raw_key: Bytes) -> kv::LockInfo {
        let kind = match self.kind {
            LockKind::Put => kv::LockKind::Put,
            LockKind::Delete => kv::LockKind::Delete,
            LockKind::Lock => kv::LockKind::Lock,
            LockKind::Pessimistic => kv::LockKind::Pessimistic,
        };
        kv::LockInfo {
            primary: self.primary.clone(),
            start_ts: self.start_ts.0,
            ttl_ms: self.ttl_ms,
            txn_size: self.txn_size,
            kind: kind.into(),
            for_update_ts: self.for_update_ts.0,
            use_async_commit: self.use_async_commit,
            min_commit_ts: self.min_commit_ts.0,
            secondaries: self.secondaries.clone(),
            is_shared: self.is_shared,
            shared_with: self.others.iter().map(|other| other.to_info(raw_key.clone())).collect(),
            key: raw_key,
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
            any::<[u64; 6]>(),
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
                    // Mostly none.
                    generation: numbers[5] % 3,
                    is_shared: false,
                    others: Vec::new(),
                }
            })
    }

    /// As its oldest holder sees it.
    fn arbitrary_shared_lock() -> impl Strategy<Value = Lock> {
        let holders = proptest::collection::vec(arbitrary_lock(), 1..6);
        (holders, 0..100u64).prop_map(|(mut holders, first_ts)| {
            for (at, holder) in holders.iter_mut().enumerate() {
                if matches!(holder.kind, LockKind::Put | LockKind::Delete) {
                    holder.kind = LockKind::Lock;
                }
                (holder.use_async_commit, holder.secondaries) = (false, Vec::new());
                (holder.start_ts, holder.is_shared) = (TimeStamp(first_ts + at as u64), true);
            }
            let others = holders.split_off(1);
            Lock { others, ..holders.remove(0) }
        })
    }

    fn any_lock() -> impl Strategy<Value = Lock> {
        prop_oneof![arbitrary_lock(), arbitrary_shared_lock()]
    }

    proptest! {
        #[test]
        fn survives_encoding(lock in any_lock()) {
            prop_assert_eq!(Lock::decode(&lock.encode()).unwrap(), lock);
        }

        #[test]
        fn every_holder_sees_itself_and_leaves_the_others(lock in arbitrary_shared_lock()) {
            let holders = lock.clone().into_holders();
            for (at, holder) in holders.iter().enumerate() {
                let seen = lock.clone().seen_by(holder.start_ts);
                prop_assert_eq!(seen.start_ts, holder.start_ts);
                prop_assert_eq!(seen.encode(), lock.encode());
                let mut others = holders.clone();
                others.remove(at);
                let left = seen.left_behind().map(Lock::into_holders);
                prop_assert_eq!(left.unwrap_or_default(), others);
            }
            prop_assert_eq!(lock.clone().seen_by(TimeStamp::MAX), lock);
        }

        #[test]
        fn random_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() > 6 {
                // A shared record of one holder, or a lock of its own.
                let at = if bytes[0] & 1 == 0 { 0 } else { 3 };
                let rest = bytes.len() as u8 - 3;
                bytes[..3].copy_from_slice(&[VERSION_SHARED, 1, rest]);
                bytes[at..at + 2].copy_from_slice(&[VERSION, if at == 0 { b'P' } else { b'S' }]);
                bytes[at + 2] &= FLAGS_KNOWN;
            }
            if let Ok(lock) = Lock::decode(&bytes) {
                prop_assert_eq!(Lock::decode(&lock.encode()).unwrap(), lock);
            }
        }

        #[test]
        fn truncation_is_found(lock in any_lock(), cut in 1usize..8) {
            let bytes = lock.encode();
            prop_assert!(Lock::decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }
    }

    /// What the version before shared locks wrote is read for ever.
    #[test]
    fn a_record_of_one_holder_keeps_its_form() {
        let mut bytes = vec![VERSION, b'S', 0];
        bytes.extend_from_slice(&7u64.to_be_bytes());
        bytes.extend_from_slice(&[100, 3, 9, 8, 1, b'k']);
        let lock = Lock::decode(&bytes).unwrap();
        assert_eq!((lock.kind, lock.start_ts), (LockKind::Pessimistic, TimeStamp(7)));
        assert_eq!(
            (lock.ttl_ms, lock.for_update_ts, &lock.primary[..]),
            (100, TimeStamp(9), &b"k"[..])
        );
        assert!(!lock.is_shared && lock.others.is_empty());
        assert_eq!(lock.encode(), bytes);
    }
}
