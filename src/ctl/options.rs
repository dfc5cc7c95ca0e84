//! The command line of `cairn ctl` for scheduling, turned into orders for PD.

use std::path::PathBuf;

use cairn_pd_client::order::{Complaint, Measure, NewOperator, Order, StoreChange};
use clap::{Subcommand, ValueEnum};

use crate::error::StartError;

/// Rows shown unless more are asked for.
const ROWS: u32 = 20;
/// A pause without a time.
const PAUSE_S: u64 = 600;

/// `ctl store [ID] …`.
#[derive(Debug, Subcommand)]
pub enum StoreAction {
    /// Move its replicas elsewhere; then it is gone for good.
    Offline {
        /// Even when too few stores are left for every replica.
        #[arg(long)]
        force: bool,
    },
    /// Let it stay after all.
    Up,
    /// Its share of leaders and regions beside the others'.
    Weight {
        /// Of leaders; 1 is everybody's.
        leader: f64,
        /// Of regions; 1 is everybody's.
        region: f64,
    },
    /// Replicas that may come to it and leave it per minute; 0: no limit.
    Limit {
        /// That come.
        add: f64,
        /// That leave.
        remove: f64,
    },
    /// Labels beside those it was started with, as zone=z1 host=h1; none removes them.
    Label {
        /// As key=value.
        labels: Vec<String>,
    },
    /// Forget the stores that are gone for good (of all: without an ID).
    RemoveTombstone,
}

impl StoreAction {
    /// As PD takes it.
    pub fn order(self, id: Option<u64>) -> Result<Order, StartError> {
        let change = match self {
            StoreAction::RemoveTombstone => return Ok(Order::RemoveTombstones),
            StoreAction::Offline { force } => StoreChange::Offline { force },
            StoreAction::Up => StoreChange::Up,
            StoreAction::Weight { leader, region } => {
                StoreChange::Weight { leader: Some(leader), region: Some(region) }
            }
            StoreAction::Limit { add, remove } => {
                StoreChange::Limit { add: Some(add), remove: Some(remove) }
            }
            StoreAction::Label { labels } => StoreChange::Labels(labels),
        };
        let id = id.ok_or_else(|| StartError::Config("which store? ctl store ID …".to_owned()))?;
        Ok(Order::ChangeStore { id, change })
    }
}

/// What regions are compared by.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TopBy {
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
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Check {
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
    /// How many regions there are of which size.
    Hist,
}

/// `ctl region …`.
#[derive(Debug, Subcommand)]
pub enum RegionAction {
    /// The region that holds a key.
    Key {
        /// The key in hex.
        key: String,
    },
    /// The regions that come first by some measure.
    Top {
        /// What counts.
        #[arg(value_enum)]
        by: TopBy,
        /// How many.
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// The regions that something is the matter with.
    Check {
        /// What.
        #[arg(value_enum)]
        what: Check,
        /// How many at most.
        #[arg(long, default_value_t = 1_000)]
        limit: u32,
    },
}

impl RegionAction {
    /// As PD takes it; `None`: it is no order.
    pub fn order(&self) -> Option<Order> {
        Some(match *self {
            RegionAction::Key { .. } => return None,
            RegionAction::Top { by, limit } => {
                let by = match by {
                    TopBy::Write => Measure::Write,
                    TopBy::Read => Measure::Read,
                    TopBy::Size => Measure::Size,
                    TopBy::Keys => Measure::Keys,
                };
                Order::TopRegions { by, limit }
            }
            RegionAction::Check { what, limit } => {
                let what = match what {
                    Check::Miss => Complaint::Miss,
                    Check::Extra => Complaint::Extra,
                    Check::Down => Complaint::Down,
                    Check::Pending => Complaint::Pending,
                    Check::Offline => Complaint::Offline,
                    Check::Empty => Complaint::Empty,
                    Check::Learner => Complaint::Learner,
                    Check::Leaderless => Complaint::Leaderless,
                    Check::Hist => return Some(Order::RegionSizes),
                };
                Order::CheckRegions { what, limit }
            }
        })
    }
}

/// `ctl operator …`.
#[derive(Debug, Subcommand)]
pub enum OperatorAction {
    /// Those under way.
    List,
    /// Begin one.
    Add {
        /// Which.
        #[command(subcommand)]
        operator: AddOperator,
    },
    /// End the operator of a region.
    Cancel {
        /// The region.
        region: u64,
    },
    /// Those that ended, the newest first, with their reasons.
    History {
        /// Only of this region.
        #[arg(long)]
        region: Option<u64>,
        /// How many.
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
}

/// `ctl operator add …`.
#[derive(Debug, Subcommand)]
pub enum AddOperator {
    /// Let another store lead.
    TransferLeader {
        /// The region.
        region: u64,
        /// The store.
        store: u64,
    },
    /// A voter more.
    AddPeer {
        /// The region.
        region: u64,
        /// The store.
        store: u64,
    },
    /// A learner more.
    AddLearner {
        /// The region.
        region: u64,
        /// The store.
        store: u64,
    },
    /// A peer less.
    RemovePeer {
        /// The region.
        region: u64,
        /// The store.
        store: u64,
    },
    /// Move a peer.
    TransferPeer {
        /// The region.
        region: u64,
        /// From this store.
        from: u64,
        /// To this store.
        to: u64,
    },
    /// Move all voters.
    TransferRegion {
        /// The region.
        region: u64,
        /// To these stores.
        #[arg(required = true)]
        stores: Vec<u64>,
    },
    /// Cut a region, at keys or where its store finds it best.
    SplitRegion {
        /// The region.
        region: u64,
        /// Keys in hex.
        keys: Vec<String>,
    },
    /// Merge a region into its neighbour.
    MergeRegion {
        /// The region.
        source: u64,
        /// Its neighbour.
        target: u64,
    },
    /// Spread a region's peers anew.
    ScatterRegion {
        /// The region.
        region: u64,
    },
}

impl OperatorAction {
    /// As PD takes it.
    pub fn order(self) -> Order {
        match self {
            OperatorAction::List => Order::Operators,
            OperatorAction::Add { operator } => Order::AddOperator(operator.wanted()),
            OperatorAction::Cancel { region } => Order::CancelOperator { region_id: region },
            OperatorAction::History { region, limit } => {
                Order::OperatorHistory { region_id: region, limit }
            }
        }
    }
}

impl AddOperator {
    fn wanted(self) -> NewOperator {
        match self {
            AddOperator::TransferLeader { region, store } => {
                NewOperator::TransferLeader { region_id: region, store_id: store }
            }
            AddOperator::AddPeer { region, store } => {
                NewOperator::AddPeer { region_id: region, store_id: store }
            }
            AddOperator::AddLearner { region, store } => {
                NewOperator::AddLearner { region_id: region, store_id: store }
            }
            AddOperator::RemovePeer { region, store } => {
                NewOperator::RemovePeer { region_id: region, store_id: store }
            }
            AddOperator::TransferPeer { region, from, to } => {
                NewOperator::TransferPeer { region_id: region, from, to }
            }
            AddOperator::TransferRegion { region, stores } => {
                NewOperator::TransferRegion { region_id: region, stores }
            }
            AddOperator::SplitRegion { region, keys } => {
                NewOperator::SplitRegion { region_id: region, keys }
            }
            AddOperator::MergeRegion { source, target } => {
                NewOperator::MergeRegion { source_id: source, target_id: target }
            }
            AddOperator::ScatterRegion { region } => {
                NewOperator::ScatterRegion { region_id: region }
            }
        }
    }
}

/// `ctl scheduler …`.
#[derive(Debug, Subcommand)]
pub enum SchedulerAction {
    /// All of them, with what they last made of the cluster.
    List,
    /// One of them.
    Show {
        /// Its name.
        name: String,
    },
    /// Start one, or give it more to do: evict-leader 3.
    Add {
        /// Its name.
        name: String,
        /// Stores it is about.
        stores: Vec<u64>,
        /// Labels it is about, as zone=z1.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// End one, or take stores and labels from it.
    Remove {
        /// Its name.
        name: String,
        /// Only for these stores.
        stores: Vec<u64>,
        /// Only for these labels.
        #[arg(long = "label")]
        labels: Vec<String>,
    },
    /// Let one rest.
    Pause {
        /// Its name.
        name: String,
        /// For so many seconds.
        #[arg(default_value_t = PAUSE_S)]
        seconds: u64,
    },
    /// Let one go on.
    Resume {
        /// Its name.
        name: String,
    },
}

impl SchedulerAction {
    /// As PD takes it.
    pub fn order(self) -> Order {
        match self {
            SchedulerAction::List => Order::Schedulers { name: None },
            SchedulerAction::Show { name } => Order::Schedulers { name: Some(name) },
            SchedulerAction::Add { name, stores, labels } => {
                Order::AddScheduler { name, stores, labels }
            }
            SchedulerAction::Remove { name, stores, labels } => {
                Order::RemoveScheduler { name, stores, labels }
            }
            SchedulerAction::Pause { name, seconds } => {
                Order::PauseScheduler { name, seconds: seconds.max(1) }
            }
            SchedulerAction::Resume { name } => Order::PauseScheduler { name, seconds: 0 },
        }
    }
}

/// `ctl config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Settings of scheduling.
    Show {
        /// Names that begin so.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Change one.
    Set {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Back to the default.
    Reset {
        /// Its name.
        name: String,
    },
    /// Everything the cluster keeps as configuration, as it is stored.
    Entries {
        /// Keys that begin so.
        #[arg(default_value = "")]
        prefix: String,
    },
}

impl ConfigAction {
    /// As PD takes it; `Err`: the prefix of the stored entries that are wanted.
    pub fn order(self) -> Result<Order, String> {
        match self {
            ConfigAction::Show { prefix } => Ok(Order::Settings { prefix }),
            ConfigAction::Set { name, value } => {
                Ok(Order::ChangeSetting { name, value: Some(value) })
            }
            ConfigAction::Reset { name } => Ok(Order::ChangeSetting { name, value: None }),
            ConfigAction::Entries { prefix } => Err(prefix),
        }
    }
}

/// `ctl rule …`.
#[derive(Debug, Subcommand)]
pub enum RuleAction {
    /// Placement rules.
    List {
        /// Only of this group.
        #[arg(long)]
        group: Option<String>,
    },
    /// Write rules: one as JSON, or a list of them.
    Set {
        /// The JSON text.
        #[arg(required_unless_present = "file")]
        json: Option<String>,
        /// A file that holds it.
        #[arg(long, conflicts_with = "json")]
        file: Option<PathBuf>,
    },
    /// Remove a rule.
    Delete {
        /// Its group.
        group: String,
        /// Its name.
        id: String,
    },
    /// Groups of rules: their order, and which override others.
    GroupList,
    /// Set the order of a group, as JSON.
    GroupSet {
        /// {"id": "g", "index": 1, "override": false}
        json: String,
    },
    /// Forget what is set of a group; its rules stay.
    GroupDelete {
        /// Its name.
        id: String,
    },
}

impl RuleAction {
    /// As PD takes it.
    pub fn order(self) -> Result<Order, StartError> {
        Ok(match self {
            RuleAction::List { group } => Order::Rules { group },
            RuleAction::Set { json: Some(rules), .. } => Order::PutRules { rules },
            RuleAction::Set { json: None, file } => {
                let path = file.unwrap_or_default();
                let rules = std::fs::read_to_string(&path).map_err(|error| {
                    StartError::io(format!("cannot read {}", path.display()), error)
                })?;
                Order::PutRules { rules }
            }
            RuleAction::Delete { group, id } => Order::DeleteRule { group, id },
            RuleAction::GroupList => Order::RuleGroups,
            RuleAction::GroupSet { json } => Order::PutRuleGroup { group: json },
            RuleAction::GroupDelete { id } => Order::DeleteRuleGroup { id },
        })
    }
}

/// `ctl recover …`.
#[derive(Debug, Subcommand)]
pub enum RecoverAction {
    /// All members of the placement driver lost their data: a fresh one takes the cluster over
    /// from its stores.
    Meta {
        /// Addresses of all stores, separated by commas.
        #[arg(long)]
        stores: String,
        /// Go on although regions have replicas on stores that are not named: those are lost,
        /// or come later.
        #[arg(long)]
        allow_missing_stores: bool,
    },
    /// Go on without stores that are gone for good: regions that lost most of their voters are
    /// led by what is left of them.
    RemoveFailedStores {
        /// Their ids, separated by commas.
        #[arg(long, required = true, value_delimiter = ',')]
        stores: Vec<u64>,
        /// What only these stores had is lost, and they can never come back.
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// How far it is, and what may be lost.
    Show,
}

/// `ctl hot …`.
#[derive(Debug, Subcommand)]
pub enum HotAction {
    /// Regions with many reads.
    Read,
    /// Regions with many writes.
    Write,
    /// What was hot before, the newest first, and what was done about it.
    History {
        /// How many.
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
}

impl HotAction {
    /// As PD takes it.
    pub fn order(self) -> Order {
        match self {
            HotAction::Read => Order::Hot { writes: false },
            HotAction::Write => Order::Hot { writes: true },
            HotAction::History { limit } => Order::HotHistory { limit },
        }
    }
}
