//! Where things lie in a store's engine.
//!
//! **Data.**
//! ```text
//! z ‖ memcomparable(raw key) [‖ !ts big endian]     row and index data, all CFs
//! \x01 \x01                                          store identity      (CF default)
//! \x01 \x03                                          number of starts    (CF default)
//! \x01 \x04                                          bounds PD told last (CF default)
//! \x01 \x02 ‖ region id big endian ‖ r               region state        (CF default)
//! \x01 \x02 ‖ region id big endian ‖ a               apply state         (CF default)
//! \x01 \x02 ‖ region id big endian ‖ s               snapshot being applied (CF default)
//! \x01 \x02 ‖ region id big endian ‖ d               mark of damage        (CF default)
//! ```
//! Memcomparable (`cairn_types::codec`): encoded keys keep the order of raw keys and none
//! is another's prefix.

use cairn_proto::meta;
use cairn_types::codec;

/// First byte of every data key.
pub const DATA_PREFIX: u8 = cairn_engine::DATA_PREFIX;
/// First data key that cannot exist.
pub const DATA_END: &[u8] = b"{";
const LOCAL_PREFIX: u8 = 0x01;
const STORE_IDENT: u8 = 0x01;
const REGION_LOCAL: u8 = 0x02;
const STORE_INCARNATION: u8 = 0x03;
const PD_BOUNDS: u8 = 0x04;

/// Key of the store's identity.
pub const STORE_IDENT_KEY: &[u8] = &[LOCAL_PREFIX, STORE_IDENT];

/// Key of the number of the store's starts.
pub const STORE_INCARNATION_KEY: &[u8] = &[LOCAL_PREFIX, STORE_INCARNATION];

/// Key of what the placement driver must never go back below, as it told last.
pub const PD_BOUNDS_KEY: &[u8] = &[LOCAL_PREFIX, PD_BOUNDS];

/// What is kept per region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionLocal {
    /// Range, epoch, peers; whether the peer lives.
    State,
    /// How far entries were applied.
    Apply,
    /// A Raft snapshot whose data is being written.
    Snapshot,
    /// The peer's data is damaged; it waits for a Raft snapshot.
    Damage,
}

impl RegionLocal {
    fn suffix(self) -> u8 {
        match self {
            RegionLocal::State => b'r',
            RegionLocal::Apply => b'a',
            RegionLocal::Snapshot => b's',
            RegionLocal::Damage => b'd',
        }
    }
}

/// Key of a region's local state.
pub fn region_local_key(region_id: u64, what: RegionLocal) -> Vec<u8> {
    let mut key = Vec::with_capacity(11);
    key.extend_from_slice(&[LOCAL_PREFIX, REGION_LOCAL]);
    key.extend_from_slice(&region_id.to_be_bytes());
    key.push(what.suffix());
    key
}

/// Range that holds the local state of all regions.
pub fn region_local_range() -> (Vec<u8>, Vec<u8>) {
    (vec![LOCAL_PREFIX, REGION_LOCAL], vec![LOCAL_PREFIX, REGION_LOCAL + 1])
}

/// Region id and kind of a key made by [`region_local_key`].
pub fn parse_region_local_key(key: &[u8]) -> Option<(u64, RegionLocal)> {
    let rest = key.strip_prefix(&[LOCAL_PREFIX, REGION_LOCAL])?;
    let (id, suffix) = rest.split_at_checked(8)?;
    let kind = match suffix {
        b"r" => RegionLocal::State,
        b"a" => RegionLocal::Apply,
        b"s" => RegionLocal::Snapshot,
        b"d" => RegionLocal::Damage,
        _ => return None,
    };
    Some((u64::from_be_bytes(id.try_into().ok()?), kind))
}

/// Engine key of a raw key, without timestamp (locks; prefix of its versions).
pub fn data_key(raw_key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + codec::encoded_bytes_len(raw_key.len()) + 8);
    append_data_key(&mut out, raw_key);
    out
}

/// Appends the engine key of a raw key to a buffer that is reused.
pub fn append_data_key(out: &mut Vec<u8>, raw_key: &[u8]) {
    out.push(DATA_PREFIX);
    codec::encode_bytes(out, raw_key);
}

/// Raw key of an engine key, and what follows it (the timestamp, if any).
/// `None` if the bytes are no data key.
pub fn decode_data_key(key: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = key.strip_prefix(&[DATA_PREFIX])?;
    let mut raw = Vec::with_capacity(rest.len());
    codec::decode_bytes(&mut rest, &mut raw).ok()?;
    Some((raw, rest))
}

/// Engine keys `[start, end)` of a raw range; an empty raw end is +infinity.
pub fn data_range(start_key: &[u8], end_key: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let start = if start_key.is_empty() { vec![DATA_PREFIX] } else { data_key(start_key) };
    let end = if end_key.is_empty() { DATA_END.to_vec() } else { data_key(end_key) };
    (start, end)
}

/// Engine keys `[start, end)` of a region.
pub fn region_data_range(region: &meta::Region) -> (Vec<u8>, Vec<u8>) {
    data_range(&region.start_key, &region.end_key)
}

/// Whether the region's range holds the raw key.
pub fn region_contains(region: &meta::Region, raw_key: &[u8]) -> bool {
    raw_key >= region.start_key.as_ref()
        && (region.end_key.is_empty() || raw_key < region.end_key.as_ref())
}

/// Whether two raw ranges share a key.
pub fn ranges_overlap((start_a, end_a): (&[u8], &[u8]), (start_b, end_b): (&[u8], &[u8])) -> bool {
    (end_b.is_empty() || start_a < end_b) && (end_a.is_empty() || start_b < end_a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn data_keys_keep_order_and_round_trip(
            a in proptest::collection::vec(0u8..4, 0..20),
            b in proptest::collection::vec(0u8..4, 0..20),
        ) {
            let (key_a, key_b) = (data_key(&a), data_key(&b));
            prop_assert_eq!(a.cmp(&b), key_a.cmp(&key_b));
            let mut with_ts = key_a.clone();
            with_ts.extend_from_slice(&7u64.to_be_bytes());
            prop_assert_eq!(decode_data_key(&with_ts), Some((a, &7u64.to_be_bytes()[..])));
            prop_assert_eq!(decode_data_key(&key_b), Some((b, &[][..])));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_data_key(&bytes);
            let _ = parse_region_local_key(&bytes);
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(data_range(b"", b""), (b"z".to_vec(), b"{".to_vec()));
        assert!(ranges_overlap((b"a", b""), (b"b", b"c")));
        assert!(!ranges_overlap((b"a", b"b"), (b"b", b"c")));
        assert!(!ranges_overlap((b"b", b""), (b"a", b"b")));
    }
}
