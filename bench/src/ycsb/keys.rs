//! Which record has which key, and which records are there.
//!
//! A record's key is a hash of its number, so that neighbours in number (and in how often they
//! are drawn) lie far apart in the table. Records that a run inserts have numbers behind those
//! that were loaded, and keys of that run alone: what earlier runs left is not in the way.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// FNV-1a over eight bytes, YCSB's hash.
fn hash(number: u64) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    number.to_le_bytes().into_iter().fold(OFFSET_BASIS, step)
}

/// The keys of one run.
#[derive(Debug)]
pub struct Keys {
    loaded: u64,
    run: u64,
    inserts: Mutex<Inserts>,
}

/// Records that this run inserts.
#[derive(Debug)]
struct Inserts {
    /// The number of the next one.
    next: u64,
    /// Numbers whose INSERT has not been answered.
    pending: BTreeSet<u64>,
}

impl Keys {
    /// `loaded` records were loaded; `run` tells this run from others.
    pub fn new(loaded: u64, run: u64) -> Self {
        let inserts = Inserts { next: loaded, pending: BTreeSet::new() };
        Self { loaded, run, inserts: Mutex::new(inserts) }
    }

    /// The key of a record.
    pub fn key(&self, number: u64) -> String {
        match number < self.loaded {
            true => format!("user{:020}", hash(number)),
            false => format!("user{:020}-{}", hash(number ^ hash(self.run)), self.run),
        }
    }

    /// A number for a record to insert.
    pub fn begin_insert(&self) -> u64 {
        let mut inserts = self.inserts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let number = inserts.next;
        inserts.next += 1;
        inserts.pending.insert(number);
        number
    }

    /// The record is in the table.
    pub fn inserted(&self, number: u64) {
        let mut inserts = self.inserts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inserts.pending.remove(&number);
    }

    /// How many records are there for certain: all below this number.
    pub fn present(&self) -> u64 {
        let inserts = self.inserts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        inserts.pending.first().copied().unwrap_or(inserts.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_present_when_all_before_them_are() {
        let keys = Keys::new(10, 1);
        assert_eq!(keys.present(), 10);
        let (first, second) = (keys.begin_insert(), keys.begin_insert());
        keys.inserted(second);
        assert_eq!(keys.present(), 10);
        keys.inserted(first);
        assert_eq!(keys.present(), 12);
    }

    #[test]
    fn runs_share_loaded_keys_and_no_others() {
        let (first, second) = (Keys::new(10, 1), Keys::new(10, 2));
        assert_eq!(first.key(9), second.key(9));
        assert_ne!(first.key(10), second.key(10));
        let keys: BTreeSet<String> = (0..1_000).map(|number| first.key(number)).collect();
        assert_eq!(keys.len(), 1_000);
    }
}
