//! The build side's rows by key: chains of row ids.
//!
//! ```text
//!  bucket = hash & mask          heads: [ 3 | 0 | 1 | … ]     0: empty, else row id + 1
//!                                         │
//!  next (per row)                         └─► row 2 ─► row 7 ─► end
//! ```
//!
//! Rows of a chain follow in build order, so that a join's output repeats itself.
//! Probing goes over a whole chunk in two loops: the first loads the heads (cache
//! misses overlap), the second follows the chains.

use super::keys::KeyBatch;
use super::{hash_bytes, hash_int};

/// Most rows of a table: ids are `u32` and 0 marks an empty bucket.
pub(crate) const JOIN_ROWS_MAX: usize = u32::MAX as usize - 1;

enum Keys {
    Ints(Vec<u64>),
    Bytes { data: Vec<u8>, ends: Vec<usize>, hashes: Vec<u64> },
}

/// See the module documentation.
pub(crate) struct JoinTable {
    keys: Keys,
    /// Rows with a NULL in a key that NULL never equals: in no chain.
    null_rows: Vec<u32>,
    heads: Vec<u32>,
    next: Vec<u32>,
    mask: u64,
}

/// Collects keys, then links them.
pub(crate) struct JoinTableBuilder {
    keys: Keys,
    null_rows: Vec<u32>,
    rows: usize,
}

impl JoinTableBuilder {
    /// For keys that are integers, or not.
    pub(crate) fn new(int_keys: bool) -> JoinTableBuilder {
        let keys = match int_keys {
            true => Keys::Ints(Vec::new()),
            false => Keys::Bytes { data: Vec::new(), ends: Vec::new(), hashes: Vec::new() },
        };
        JoinTableBuilder { keys, null_rows: Vec::new(), rows: 0 }
    }

    /// Adds the keys of the next rows.
    pub(crate) fn push(&mut self, batch: &KeyBatch) {
        let first = self.rows;
        for at in 0..batch.len() {
            if batch.is_null(at) {
                self.null_rows.push((first + at) as u32);
            }
        }
        match (&mut self.keys, batch) {
            (Keys::Ints(all), KeyBatch::Ints { keys, .. }) => all.extend_from_slice(keys),
            (
                Keys::Bytes { data: all, ends: all_ends, hashes },
                KeyBatch::Bytes { data, ends, .. },
            ) => {
                let base = all.len();
                all.extend_from_slice(data);
                let mut start = 0;
                for &end in ends {
                    all_ends.push(base + end);
                    hashes.push(hash_bytes(&data[start..end]));
                    start = end;
                }
            }
            _ => unreachable!("the shape of keys is fixed when the builder is made"),
        }
        self.rows += batch.len();
    }

    /// Bytes the finished table will have.
    pub(crate) fn bytes(&self) -> usize {
        let links = self.rows * 4 + (self.rows * 2).next_power_of_two() * 4;
        let keys = match &self.keys {
            Keys::Ints(keys) => keys.capacity() * 8,
            Keys::Bytes { data, ends, hashes } => {
                data.capacity() + (ends.capacity() + hashes.capacity()) * 8
            }
        };
        links + keys + self.null_rows.capacity() * 4
    }

    /// Links the rows.
    pub(crate) fn finish(self) -> JoinTable {
        assert!(self.rows <= JOIN_ROWS_MAX, "the join checks the number of rows");
        let buckets = (self.rows * 2).next_power_of_two().max(16);
        let mask = buckets as u64 - 1;
        let mut heads = vec![0u32; buckets];
        let mut next = vec![0u32; self.rows];
        let mut null_rows = self.null_rows.iter().rev().peekable();
        // From the last row to the first: the first comes to stand at the head.
        for row in (0..self.rows).rev() {
            if null_rows.next_if(|&&null| null as usize == row).is_some() {
                continue;
            }
            let hash = match &self.keys {
                Keys::Ints(keys) => hash_int(keys[row]),
                Keys::Bytes { hashes, .. } => hashes[row],
            };
            let head = &mut heads[(hash & mask) as usize];
            next[row] = *head;
            *head = row as u32 + 1;
        }
        JoinTable { keys: self.keys, null_rows: self.null_rows, heads, next, mask }
    }
}

impl JoinTable {
    /// Number of build rows.
    pub(crate) fn len(&self) -> usize {
        self.next.len()
    }

    /// Build rows with a NULL key, ascending.
    pub(crate) fn null_rows(&self) -> &[u32] {
        &self.null_rows
    }

    /// Calls `found` with each probe position that has a build row.
    pub(crate) fn find_any(&self, batch: &KeyBatch, mut found: impl FnMut(usize)) {
        for row in 0..batch.len() {
            if !batch.is_null(row) && self.has(batch, row) {
                found(row);
            }
        }
    }

    fn has(&self, batch: &KeyBatch, row: usize) -> bool {
        match (&self.keys, batch) {
            (Keys::Ints(keys), KeyBatch::Ints { keys: probe, .. }) => {
                let mut link = self.heads[(hash_int(probe[row]) & self.mask) as usize];
                while link != 0 && keys[link as usize - 1] != probe[row] {
                    link = self.next[link as usize - 1];
                }
                link != 0
            }
            (Keys::Bytes { data, ends, hashes }, KeyBatch::Bytes { .. }) => {
                let key = batch.bytes(row);
                let hash = hash_bytes(key);
                let same = |build: usize| {
                    let start = if build == 0 { 0 } else { ends[build - 1] };
                    hashes[build] == hash && &data[start..ends[build]] == key
                };
                let mut link = self.heads[(hash & self.mask) as usize];
                while link != 0 && !same(link as usize - 1) {
                    link = self.next[link as usize - 1];
                }
                link != 0
            }
            _ => unreachable!("both sides' keys have one shape"),
        }
    }

    /// Finds the build rows of each probe key: pairs of probe position and build
    /// row, probe positions ascending. Stops after the probe row at which
    /// `pairs_max` is reached and tells where to go on.
    pub(crate) fn probe(
        &self,
        batch: &KeyBatch,
        from: usize,
        pairs_max: usize,
        probe_rows: &mut Vec<u32>,
        build_rows: &mut Vec<u32>,
    ) -> usize {
        match (&self.keys, batch) {
            (Keys::Ints(keys), KeyBatch::Ints { keys: probe, nulls }) => {
                let mut heads = [0u32; PROBE_STRIDE];
                let mut at = from;
                while at < probe.len() {
                    let end = (at + PROBE_STRIDE).min(probe.len());
                    for (head, &key) in heads.iter_mut().zip(&probe[at..end]) {
                        *head = self.heads[(hash_int(key) & self.mask) as usize];
                    }
                    for row in at..end {
                        if probe_rows.len() >= pairs_max {
                            return row;
                        }
                        if nulls.as_ref().is_some_and(|nulls| nulls[row]) {
                            continue;
                        }
                        let mut link = heads[row - at];
                        while link != 0 {
                            let build = link as usize - 1;
                            if keys[build] == probe[row] {
                                probe_rows.push(row as u32);
                                build_rows.push(build as u32);
                            }
                            link = self.next[build];
                        }
                    }
                    at = end;
                }
                probe.len()
            }
            (Keys::Bytes { data, ends, hashes }, KeyBatch::Bytes { ends: probe_ends, .. }) => {
                let mut probe_hashes = [0u64; PROBE_STRIDE];
                let mut heads = [0u32; PROBE_STRIDE];
                let mut at = from;
                while at < probe_ends.len() {
                    let end = (at + PROBE_STRIDE).min(probe_ends.len());
                    for row in at..end {
                        let hash = hash_bytes(batch.bytes(row));
                        probe_hashes[row - at] = hash;
                        heads[row - at] = self.heads[(hash & self.mask) as usize];
                    }
                    for row in at..end {
                        if probe_rows.len() >= pairs_max {
                            return row;
                        }
                        if batch.is_null(row) {
                            continue;
                        }
                        let (key, hash) = (batch.bytes(row), probe_hashes[row - at]);
                        let mut link = heads[row - at];
                        while link != 0 {
                            let build = link as usize - 1;
                            let start = if build == 0 { 0 } else { ends[build - 1] };
                            if hashes[build] == hash && &data[start..ends[build]] == key {
                                probe_rows.push(row as u32);
                                build_rows.push(build as u32);
                            }
                            link = self.next[build];
                        }
                    }
                    at = end;
                }
                probe_ends.len()
            }
            _ => unreachable!("both sides' keys have one shape"),
        }
    }
}

/// Probe rows whose heads are loaded ahead.
const PROBE_STRIDE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_follow_build_order_and_leave_nulls_out() {
        let mut builder = JoinTableBuilder::new(true);
        builder.push(&KeyBatch::Ints {
            keys: vec![5, 6, 5, 5],
            nulls: Some(vec![false, false, true, false]),
        });
        let table = builder.finish();
        assert_eq!((table.len(), table.null_rows()), (4, &[2][..]));
        let probe = KeyBatch::Ints { keys: vec![5, 9, 6], nulls: None };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        assert_eq!(table.probe(&probe, 0, 1, &mut left, &mut right), 1);
        assert_eq!((left.as_slice(), right.as_slice()), (&[0, 0][..], &[0, 3][..]));
        left.clear();
        right.clear();
        assert_eq!(table.probe(&probe, 1, 100, &mut left, &mut right), 3);
        assert_eq!((left.as_slice(), right.as_slice()), (&[2][..], &[1][..]));
    }
}
