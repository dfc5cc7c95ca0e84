//! Gives every distinct key a dense id: the groups of an aggregation.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::keys::KeyBatch;
use super::{hash_bytes, hash_int};

/// Bytes of table overhead per group: control byte and slot at 7/8 load.
const SLOT_BYTES: usize = 6;

/// Distinct keys, numbered from 0 in order of arrival.
pub(crate) enum GroupTable {
    /// One integer key column.
    Ints(IntGroups),
    /// Everything else.
    Bytes(ByteGroups),
}

/// Groups of integer keys.
#[derive(Default)]
pub(crate) struct IntGroups {
    slots: HashTable<u32>,
    keys: Vec<u64>,
    null_group: Option<u32>,
}

/// Groups of byte keys.
#[derive(Default)]
pub(crate) struct ByteGroups {
    slots: HashTable<u32>,
    hashes: Vec<u64>,
    ends: Vec<usize>,
    data: Vec<u8>,
}

impl GroupTable {
    /// An empty table for keys that are integers, or not.
    pub(crate) fn new(int_keys: bool) -> GroupTable {
        match int_keys {
            true => GroupTable::Ints(IntGroups::default()),
            false => GroupTable::Bytes(ByteGroups::default()),
        }
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        match self {
            GroupTable::Ints(groups) => groups.keys.len(),
            GroupTable::Bytes(groups) => groups.ends.len(),
        }
    }

    /// Finds or makes the group of each key; `ids[i]` is that of key `i`, and
    /// `fresh` receives the positions of keys that opened a group, in order.
    pub(crate) fn assign(&mut self, keys: &KeyBatch, ids: &mut Vec<u32>, fresh: &mut Vec<u32>) {
        ids.clear();
        fresh.clear();
        match (self, keys) {
            (GroupTable::Ints(groups), KeyBatch::Ints { keys, nulls }) => {
                for (at, &key) in keys.iter().enumerate() {
                    let null = nulls.as_ref().is_some_and(|nulls| nulls[at]);
                    let (id, new) = if null { groups.null() } else { groups.find(key) };
                    ids.push(id);
                    if new {
                        fresh.push(at as u32);
                    }
                }
            }
            (GroupTable::Bytes(groups), KeyBatch::Bytes { data, ends, .. }) => {
                let mut start = 0;
                for (at, &end) in ends.iter().enumerate() {
                    let (id, new) = groups.find(&data[start..end]);
                    start = end;
                    ids.push(id);
                    if new {
                        fresh.push(at as u32);
                    }
                }
            }
            _ => unreachable!("the shape of keys is fixed when the table is made"),
        }
    }

    /// The group of key `at`, if there is one.
    pub(crate) fn find(&self, keys: &KeyBatch, at: usize) -> Option<u32> {
        match (self, keys) {
            (GroupTable::Ints(groups), KeyBatch::Ints { keys: batch, .. }) => {
                if keys.is_null(at) {
                    return groups.null_group;
                }
                let IntGroups { slots, keys, null_group } = groups;
                let null = null_group.map_or(usize::MAX, |id| id as usize);
                let key = batch[at];
                let same = |&id: &u32| keys[id as usize] == key && id as usize != null;
                slots.find(hash_int(key), same).copied()
            }
            (GroupTable::Bytes(groups), KeyBatch::Bytes { .. }) => {
                let key = keys.bytes(at);
                let hash = hash_bytes(key);
                groups.slots.find(hash, |&id| groups.is(id, hash, key)).copied()
            }
            _ => unreachable!("the shape of keys is fixed when the table is made"),
        }
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            GroupTable::Ints(groups) => {
                groups.keys.capacity() * 8 + groups.slots.capacity() * SLOT_BYTES
            }
            GroupTable::Bytes(groups) => {
                groups.data.capacity()
                    + (groups.ends.capacity() + groups.hashes.capacity()) * 8
                    + groups.slots.capacity() * SLOT_BYTES
            }
        }
    }

    /// Forgets all groups and keeps the memory.
    pub(crate) fn clear(&mut self) {
        match self {
            GroupTable::Ints(groups) => {
                groups.slots.clear();
                groups.keys.clear();
                groups.null_group = None;
            }
            GroupTable::Bytes(groups) => {
                groups.slots.clear();
                groups.hashes.clear();
                groups.ends.clear();
                groups.data.clear();
            }
        }
    }
}

impl IntGroups {
    #[inline]
    fn find(&mut self, key: u64) -> (u32, bool) {
        let IntGroups { slots, keys, null_group } = self;
        let null = null_group.map_or(usize::MAX, |id| id as usize);
        let same = |&id: &u32| keys[id as usize] == key && id as usize != null;
        match slots.entry(hash_int(key), same, |&id| hash_int(keys[id as usize])) {
            Entry::Occupied(slot) => (*slot.get(), false),
            Entry::Vacant(slot) => {
                let id = keys.len() as u32;
                slot.insert(id);
                keys.push(key);
                (id, true)
            }
        }
    }

    /// NULL is a group of its own and has no slot.
    fn null(&mut self) -> (u32, bool) {
        if let Some(id) = self.null_group {
            return (id, false);
        }
        let id = self.keys.len() as u32;
        self.keys.push(0);
        self.null_group = Some(id);
        (id, true)
    }
}

impl ByteGroups {
    /// Whether group `id` has this key.
    #[inline]
    fn is(&self, id: u32, hash: u64, key: &[u8]) -> bool {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        self.hashes[id] == hash && &self.data[start..self.ends[id]] == key
    }

    #[inline]
    fn find(&mut self, key: &[u8]) -> (u32, bool) {
        let hash = hash_bytes(key);
        let ByteGroups { slots, hashes, ends, data } = self;
        let same = |&id: &u32| {
            let id = id as usize;
            let start = if id == 0 { 0 } else { ends[id - 1] };
            hashes[id] == hash && &data[start..ends[id]] == key
        };
        match slots.entry(hash, same, |&id| hashes[id as usize]) {
            Entry::Occupied(slot) => (*slot.get(), false),
            Entry::Vacant(slot) => {
                let id = hashes.len() as u32;
                slot.insert(id);
                hashes.push(hash);
                data.extend_from_slice(key);
                ends.push(data.len());
                (id, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_groups_tell_null_from_zero() {
        let mut table = GroupTable::new(true);
        let keys = KeyBatch::Ints {
            keys: vec![0, 7, 0, 0, 7],
            nulls: Some(vec![false, false, true, false, false]),
        };
        let (mut ids, mut fresh) = (Vec::new(), Vec::new());
        table.assign(&keys, &mut ids, &mut fresh);
        assert_eq!((ids.as_slice(), fresh.as_slice()), (&[0, 1, 2, 0, 1][..], &[0, 1, 2][..]));
        table.assign(&keys, &mut ids, &mut fresh);
        assert_eq!((ids.as_slice(), fresh.len()), (&[0, 1, 2, 0, 1][..], 0));
    }
}
