//! Ids of the KV tier as types, so that two numbers are never swapped.

use std::collections::HashMap;

use cairn_proto::meta;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A region: a range of keys with its own Raft group.
    RegionId
);
id!(
    /// A store: one KV server's storage.
    StoreId
);
id!(
    /// A peer: one replica of a region. Never used again after it is removed.
    PeerId
);

/// A map by id. It hashes without a random key, as ids are PD's and not an attacker's:
/// the order of such maps is then the same in every run of a simulation.
pub type IdMap<V> = HashMap<u64, V, foldhash::fast::FixedState>;

/// Counters that grow with membership changes and with splits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionEpoch {
    /// Membership changes.
    pub conf_ver: u64,
    /// Splits and merges.
    pub version: u64,
}

impl From<&meta::RegionEpoch> for RegionEpoch {
    fn from(epoch: &meta::RegionEpoch) -> RegionEpoch {
        RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version }
    }
}

impl From<RegionEpoch> for meta::RegionEpoch {
    fn from(epoch: RegionEpoch) -> meta::RegionEpoch {
        meta::RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version }
    }
}

/// The epoch of a region; zero if it has none.
pub fn epoch_of(region: &meta::Region) -> RegionEpoch {
    region.epoch.as_ref().map(RegionEpoch::from).unwrap_or_default()
}
