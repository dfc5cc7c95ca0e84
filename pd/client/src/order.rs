//! What people ask about scheduling, and the orders they give.
//!
//! An order travels as JSON within [`cairn_proto::pd::SteerRequest`]; the answer is a
//! list of rows, objects with the same fields in the same order, fit for a table and
//! for scripts. Names and values are checked by PD, which refuses them by name.

use cairn_proto::meta;
use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Stores with their state, load and scores.
    Stores {
        /// Only this one; tombstones are shown then.
        id: Option<u64>,
    },
    /// Changes one store.
    ChangeStore {
        /// Which.
        id: u64,
        /// How.
        change: StoreChange,
    },
    /// Forgets the stores that are gone for good.
    RemoveTombstones,
    /// The regions that come first by some measure.
    TopRegions {
        /// What counts.
        by: Measure,
        /// How many.
        limit: u32,
    },
    /// The regions that something is the matter with.
    CheckRegions {
        /// What.
        what: Complaint,
        /// How many at most.
        limit: u32,
    },
    /// How many regions there are of which size.
    RegionSizes,
    /// Operators under way.
    Operators,
    /// Begins an operator.
    AddOperator(NewOperator),
    /// Ends the operator of a region.
    CancelOperator {
        /// The region.
        region_id: u64,
    },
    /// Operators that ended, the newest first.
    OperatorHistory {
        /// Only of this region.
        region_id: Option<u64>,
        /// How many at most.
        limit: u32,
    },
    /// Schedulers with what they last made of the cluster.
    Schedulers {
        /// Only this one.
        name: Option<String>,
    },
    /// Starts a scheduler, or gives it more to do.
    AddScheduler {
        /// Which.
        name: String,
        /// Stores it is about.
        stores: Vec<u64>,
        /// Labels it is about, as `key=value`.
        labels: Vec<String>,
    },
    /// Ends a scheduler, or takes stores and labels from it.
    RemoveScheduler {
        /// Which.
        name: String,
        /// Only for these stores.
        stores: Vec<u64>,
        /// Only for these labels.
        labels: Vec<String>,
    },
    /// Lets a scheduler rest.
    PauseScheduler {
        /// Which.
        name: String,
        /// For how long; 0: it goes on.
        seconds: u64,
    },
    /// Settings of scheduling.
    Settings {
        /// Names that begin so.
        prefix: String,
    },
    /// Changes a setting.
    ChangeSetting {
        /// Which.
        name: String,
        /// To what; absent: back to the default.
        value: Option<String>,
    },
    /// Placement rules.
    Rules {
        /// Only of this group.
        group: Option<String>,
    },
    /// Writes placement rules, all or none.
    PutRules {
        /// A JSON object or a list of them.
        rules: String,
    },
    /// Removes a placement rule.
    DeleteRule {
        /// Its group.
        group: String,
        /// Its name.
        id: String,
    },
    /// Groups of placement rules.
    RuleGroups,
    /// Sets the order of a group.
    PutRuleGroup {
        /// A JSON object.
        group: String,
    },
    /// Removes what was set of a group.
    DeleteRuleGroup {
        /// Its name.
        id: String,
    },
    /// Hot regions.
    Hot {
        /// Writes; else reads.
        writes: bool,
    },
    /// What was hot before, the newest first.
    HotHistory {
        /// How many at most.
        limit: u32,
    },
    /// A placement driver without a past takes over a cluster whose own lost everything.
    RecoverCluster(ClusterRecovery),
    /// The last recovery after stores were lost.
    Recovery,
    /// Stores are gone for good; regions that lost most of their voters go on with those
    /// that are left.
    RemoveFailedStores {
        /// Which.
        stores: Vec<u64>,
        /// Whoever orders it knows that data may be lost.
        accepts_data_loss: bool,
    },
}

/// A cluster as its stores remember it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterRecovery {
    /// Its identity.
    pub cluster_id: u64,
    /// The greatest id that any store knows of.
    pub max_id: u64,
    /// The greatest timestamp that any store knows of.
    pub max_ts: u64,
    /// The GC safe point.
    pub gc_safe_point: u64,
    /// The newest schema version that was announced.
    pub schema_version: i64,
    /// Its stores.
    pub stores: Vec<RecoveredStore>,
}

/// A store as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveredStore {
    /// Its id.
    pub id: u64,
    /// Where others reach it.
    pub address: String,
    /// Where its status is served; empty: nowhere.
    pub status_address: String,
    /// Labels it was started with: keys and values.
    pub labels: Vec<(String, String)>,
    /// Of its program.
    pub version: String,
    /// When it was started; 0: unknown.
    pub start_timestamp_s: i64,
}

impl From<meta::Store> for RecoveredStore {
    fn from(store: meta::Store) -> RecoveredStore {
        RecoveredStore {
            id: store.id,
            address: store.address,
            status_address: store.status_address,
            labels: store.labels.into_iter().map(|label| (label.key, label.value)).collect(),
            version: store.version,
            start_timestamp_s: store.start_timestamp_s,
        }
    }
}

impl From<RecoveredStore> for meta::Store {
    fn from(store: RecoveredStore) -> meta::Store {
        let label = |(key, value)| meta::StoreLabel { key, value };
        meta::Store {
            id: store.id,
            address: store.address,
            status_address: store.status_address,
            state: meta::StoreState::Up.into(),
            labels: store.labels.into_iter().map(label).collect(),
            version: store.version,
            start_timestamp_s: store.start_timestamp_s,
        }
    }
}

/// A change of one store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum StoreChange {
    /// Its replicas go elsewhere; then it is gone for good.
    Offline {
        /// Even when too few stores are left for every replica.
        force: bool,
    },
    /// It stays after all.
    Up,
    /// Its share beside others.
    Weight {
        /// Of leaders.
        leader: Option<f64>,
        /// Of regions.
        region: Option<f64>,
    },
    /// Replicas per minute; 0: no limit.
    Limit {
        /// That come.
        add: Option<f64>,
        /// That go.
        remove: Option<f64>,
    },
    /// Labels beside those it was started with, as `key=value`; an empty list removes
    /// them.
    Labels(Vec<String>),
}

/// What regions are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Bytes written per second.
    Write,
    /// Bytes read per second.
    Read,
    /// Bytes.
    Size,
    /// Number of keys.
    Keys,
}

/// What may be the matter with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Complaint {
    /// A rule lacks replicas.
    Miss,
    /// It has replicas that no rule needs.
    Extra,
    /// A peer is not heard from.
    Down,
    /// A peer lacks entries.
    Pending,
    /// A peer is on a store that leaves.
    Offline,
    /// It holds next to nothing.
    Empty,
    /// It has learners.
    Learner,
    /// No leader has reported.
    Leaderless,
}

/// An operator somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewOperator {
    /// Another store leads.
    TransferLeader {
        /// The region.
        region_id: u64,
        /// The store.
        store_id: u64,
    },
    /// A voter more.
    AddPeer {
        /// The region.
        region_id: u64,
        /// Where.
        store_id: u64,
    },
    /// A learner more.
    AddLearner {
        /// The region.
        region_id: u64,
        /// Where.
        store_id: u64,
    },
    /// A peer less.
    RemovePeer {
        /// The region.
        region_id: u64,
        /// Where.
        store_id: u64,
    },
    /// A peer moves.
    TransferPeer {
        /// The region.
        region_id: u64,
        /// From where.
        from: u64,
        /// To where.
        to: u64,
    },
    /// All voters move.
    TransferRegion {
        /// The region.
        region_id: u64,
        /// To where.
        stores: Vec<u64>,
    },
    /// The region is cut.
    SplitRegion {
        /// The region.
        region_id: u64,
        /// Where, in hex; empty: where the store finds it best.
        keys: Vec<String>,
    },
    /// The region goes into its neighbour.
    MergeRegion {
        /// The region.
        source_id: u64,
        /// The neighbour.
        target_id: u64,
    },
    /// The region's peers are spread anew.
    ScatterRegion {
        /// The region.
        region_id: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_wire() {
        let orders = [
            Order::Stores { id: Some(3) },
            Order::RemoveTombstones,
            Order::ChangeStore { id: 3, change: StoreChange::Offline { force: false } },
            Order::AddOperator(NewOperator::TransferPeer { region_id: 1, from: 2, to: 3 }),
            Order::TopRegions { by: Measure::Write, limit: 5 },
            Order::RecoverCluster(ClusterRecovery {
                cluster_id: u64::MAX >> 1,
                max_ts: u64::MAX - 1,
                stores: vec![RecoveredStore {
                    id: 7,
                    labels: vec![("zone".into(), "z1".into())],
                    ..RecoveredStore::default()
                }],
                ..ClusterRecovery::default()
            }),
        ];
        for order in orders {
            let text = serde_json::to_string(&order).expect("plain data");
            assert_eq!(serde_json::from_str::<Order>(&text).expect("its own form"), order);
        }
        let unknown = serde_json::from_str::<Order>(r#"{"shuffle":{}}"#).expect_err("unknown");
        assert!(unknown.to_string().contains("shuffle"), "{unknown}");
    }
}
