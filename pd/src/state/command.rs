//! The form of commands in the log and of the state in its snapshot file.
//!
//! Protobuf with fixed tags: a newer server reads what an older one wrote.

use cairn_proto::meta::{Region, Store, StoreState};
use cairn_proto::pd::ConfigEntry;

use super::recovery::Recovery;

/// One entry of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do.
    #[prost(
        oneof = "Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 22, 23, 30, 31, 40, 41"
    )]
    pub kind: Option<Kind>,
}

/// What a command does.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Gives the cluster its identity; only the first one counts.
    #[prost(uint64, tag = "1")]
    InitCluster(u64),
    /// Ids up to this one may be handed out.
    #[prost(uint64, tag = "2")]
    IdBound(u64),
    /// Timestamps below this physical time may be handed out.
    #[prost(uint64, tag = "3")]
    TsoBound(u64),
    /// The first store and region.
    #[prost(message, tag = "4")]
    Bootstrap(Bootstrap),
    /// Registers or changes a store.
    #[prost(message, tag = "5")]
    PutStore(Store),
    /// Regions with a new epoch.
    #[prost(message, tag = "6")]
    PutRegions(Regions),
    /// Settings; an empty value removes.
    #[prost(message, tag = "7")]
    PutConfig(Config),
    /// Moves the GC safe point.
    #[prost(uint64, tag = "8")]
    GcSafePoint(u64),
    /// Announces a schema version.
    #[prost(int64, tag = "9")]
    SchemaVersion(i64),
    /// The cluster is one whose placement driver lost everything, as its stores remember it.
    #[prost(message, tag = "10")]
    TakeOver(Takeover),
    /// What is known of a member: name, address, token.
    #[prost(message, tag = "20")]
    PutMember(MemberInfo),
    /// A new member that does not vote yet. Comes as a change of Raft's configuration.
    #[prost(message, tag = "21")]
    AddLearner(MemberInfo),
    /// The learner votes from now on. Comes as a change of Raft's configuration.
    #[prost(uint64, tag = "22")]
    PromoteMember(u64),
    /// The member goes for good. Comes as a change of Raft's configuration.
    #[prost(uint64, tag = "23")]
    RemoveMember(u64),
    /// A store begins to leave, or stays after all.
    #[prost(message, tag = "30")]
    StoreState(StoreStateChange),
    /// A store that is gone for good is forgotten.
    #[prost(uint64, tag = "31")]
    ForgetStore(u64),
    /// Stores are gone for good; regions that lost most of their voters are recovered.
    #[prost(message, tag = "40")]
    BeginRecovery(Recovery),
    /// The recovery came further.
    #[prost(message, tag = "41")]
    ExtendRecovery(Recovery),
}

/// A cluster as its stores remember it, with margins on its bounds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Takeover {
    /// Its identity.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Ids up to this one may have been handed out.
    #[prost(uint64, tag = "2")]
    pub id_bound: u64,
    /// Timestamps below this physical time may have been handed out.
    #[prost(uint64, tag = "3")]
    pub tso_bound_ms: u64,
    /// The GC safe point.
    #[prost(uint64, tag = "4")]
    pub gc_safe_point: u64,
    /// Newest announced schema version.
    #[prost(int64, tag = "5")]
    pub schema_version: i64,
    /// Its stores.
    #[prost(message, repeated, tag = "6")]
    pub stores: Vec<Store>,
}

/// What becomes of a store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreStateChange {
    /// The store.
    #[prost(uint64, tag = "1")]
    pub store_id: u64,
    /// Up or Offline.
    #[prost(enumeration = "StoreState", tag = "2")]
    pub state: i32,
}

/// A member of the placement driver.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct MemberInfo {
    /// Its id in the Raft group; never used again once removed.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What people call it.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where it is reached, `host:port`.
    #[prost(string, tag = "3")]
    pub address: String,
    /// Drawn once per data folder; zero until the member was heard of.
    #[prost(fixed64, tag = "4")]
    pub token: u64,
    /// It receives the log and does not vote.
    #[prost(bool, tag = "5")]
    pub learner: bool,
}

/// The first store and region.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bootstrap {
    /// The first store.
    #[prost(message, optional, tag = "1")]
    pub store: Option<Store>,
    /// The region over all keys.
    #[prost(message, optional, tag = "2")]
    pub region: Option<Region>,
}

/// A list of regions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Regions {
    /// In key order.
    #[prost(message, repeated, tag = "1")]
    pub regions: Vec<Region>,
}

/// A list of settings.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Config {
    /// In any order.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<ConfigEntry>,
}

/// The whole state in its snapshot file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StateImage {
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    #[prost(bool, tag = "2")]
    pub bootstrapped: bool,
    #[prost(uint64, tag = "3")]
    pub id_bound: u64,
    #[prost(uint64, tag = "4")]
    pub tso_bound_ms: u64,
    #[prost(message, repeated, tag = "5")]
    pub stores: Vec<Store>,
    #[prost(message, repeated, tag = "6")]
    pub regions: Vec<Region>,
    #[prost(message, repeated, tag = "7")]
    pub config: Vec<ConfigEntry>,
    #[prost(uint64, tag = "8")]
    pub gc_safe_point: u64,
    #[prost(int64, tag = "9")]
    pub schema_version: i64,
    #[prost(uint64, tag = "10")]
    pub provisional_cluster_id: u64,
    #[prost(message, repeated, tag = "20")]
    pub founders: Vec<MemberInfo>,
    #[prost(message, repeated, tag = "21")]
    pub members: Vec<MemberInfo>,
    #[prost(uint64, tag = "22")]
    pub last_member_id: u64,
    #[prost(message, optional, tag = "30")]
    pub recovery: Option<Recovery>,
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Command {
        Command { kind: Some(kind) }
    }
}

impl Command {
    /// The first store and region.
    pub fn bootstrap(store: Store, region: Region) -> Command {
        Kind::Bootstrap(Bootstrap { store: Some(store), region: Some(region) }).into()
    }

    /// Registers or changes a store.
    pub fn put_store(store: Store) -> Command {
        Kind::PutStore(store).into()
    }

    /// A store begins to leave, or stays after all.
    pub fn store_state(store_id: u64, state: StoreState) -> Command {
        Kind::StoreState(StoreStateChange { store_id, state: state.into() }).into()
    }

    /// Regions with a new epoch.
    pub fn put_regions(regions: Vec<Region>) -> Command {
        Kind::PutRegions(Regions { regions }).into()
    }

    /// Settings; an empty value removes.
    pub fn put_config(entries: Vec<ConfigEntry>) -> Command {
        Kind::PutConfig(Config { entries }).into()
    }
}
