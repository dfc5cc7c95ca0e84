//! Situations for golden scripts, told in one word per fact.
//!
//! `replicas 1`, `set low-space-ratio 0.9`, `rule '{…}'`,
//! `store 1 up regions=3 leaders=2 host=h1` and `region 5 peers=1*,2,3?~ size=10` tell
//! a view: a peer is its store's number, `*` leads, `?` is a learner, `+` begins and
//! `-` ends to vote in a joint state, `~` lacks entries, `!` is not heard from. Peer ids
//! are the region's id times ten plus the store's. Sizes are in MiB;
//! `guess=1`: no leader has measured yet.

use std::collections::HashMap;

use bytes::Bytes;
use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch, StoreState};
use cairn_proto::pd::PeerStats;

use crate::hot::HotStats;
use crate::index::{Regions, StoreIndex};
use crate::placement::{Rule, RuleSet, from_hex};
use crate::state::region_tree::RegionTree;
use crate::view::{ClusterView, REGION_BYTES_MIN, RegionReport, RegionView, StoreView};

/// Stores, rules and regions as told.
#[derive(Debug, Default)]
pub struct Situation {
    /// Stores, rules and settings.
    pub cluster: ClusterView,
    /// Rules beside the default.
    rules: Vec<Rule>,
    /// Regions by id, in the order they were told.
    ids: Vec<u64>,
    regions: HashMap<u64, Region>,
    reports: HashMap<u64, RegionReport>,
    tree: RegionTree,
    index: StoreIndex,
    /// Loads.
    pub hot: HotStats,
}

impl Situation {
    /// Three replicas per region and nothing else.
    pub fn new() -> Situation {
        let mut situation = Situation::default();
        situation.cluster.config.enable_joint_consensus = true;
        situation
    }

    /// A healthy store on a host of its own.
    pub fn add_store(&mut self, id: u64) {
        let mut store = StoreView::new(id);
        store.labels.insert("host".into(), format!("h{id}"));
        self.cluster.stores.insert(id, store);
    }

    /// A region over keys of its own.
    pub fn add_region(&mut self, id: u64, peers: &str) -> Result<(), String> {
        let (mut region, report) = told_region(id, peers)?;
        region.start_key = Bytes::from(format!("r{id:04}"));
        region.end_key = Bytes::from(format!("r{id:04}~"));
        self.put(region, report);
        Ok(())
    }

    fn put(&mut self, region: Region, report: RegionReport) {
        self.ids.retain(|known| *known != region.id);
        self.ids.push(region.id);
        self.index.update(&RegionView { region: &region, report: &report });
        self.tree.insert(region.clone());
        self.reports.insert(region.id, report);
        self.regions.insert(region.id, region);
    }

    /// As decisions see it.
    pub fn region(&self, id: u64) -> RegionView<'_> {
        RegionView { region: &self.regions[&id], report: &self.reports[&id] }
    }

    /// Every region.
    pub fn regions(&self) -> impl Iterator<Item = RegionView<'_>> {
        self.ids.iter().map(|id| self.region(*id))
    }

    /// As schedulers look for them.
    pub fn with_regions<R>(&self, look: impl FnOnce(&Regions<'_>) -> R) -> R {
        look(&Regions {
            tree: &self.tree,
            reports: &self.reports,
            index: &self.index,
            hot: &self.hot,
            is_free: &|_| true,
            turn: 0,
        })
    }

    /// The neighbours of a region.
    pub fn neighbours(&self, id: u64) -> [Option<RegionView<'_>>; 2] {
        let region = self.tree.get(id).expect("told");
        self.tree.neighbours(region).map(|found| found.map(|region| self.region(region.id)))
    }

    /// Takes a command of a golden script.
    pub fn tell(&mut self, command: &goldenscript::Command) -> Result<(), String> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "replicas" | "set" | "rule" => {
                let first = args.next_pos().ok_or("no value")?;
                match command.name.as_str() {
                    "replicas" => self.cluster.config.set("max-replicas", first)?,
                    "set" => {
                        let value = args.next_pos().ok_or("no value")?;
                        self.cluster.config.set(first, value)?;
                    }
                    _ => self.rules.push(serde_json::from_str(first).map_err(|e| e.to_string())?),
                }
                self.cluster.rules = RuleSet::build(&self.cluster.config, self.rules.clone(), [])?;
            }
            "store" => self.tell_store(&mut args)?,
            "region" => {
                let id: u64 = parse(args.next_pos().ok_or("no id")?)?;
                let peers = args.take_key("peers").ok_or("no peers")?.to_owned();
                let (mut region, mut report) = told_region(id, &peers)?;
                let number = |text: Option<&str>| text.map_or(Ok(0), parse::<u64>);
                report.size_bytes = number(args.take_key("size"))? << 20;
                report.keys = number(args.take_key("keys"))?;
                report.size_is_guess = number(args.take_key("guess"))? > 0;
                region.start_key = Bytes::from(format!("r{id:04}"));
                region.end_key = Bytes::from(format!("r{id:04}~"));
                let hex = |text: Option<&str>| text.map(|text| from_hex(text).ok_or("bad key"));
                if let Some(key) = hex(args.take_key("start")) {
                    region.start_key = key?;
                }
                if let Some(key) = hex(args.take_key("end")) {
                    region.end_key = key?;
                }
                self.put(region, report);
            }
            other => return Err(format!("unknown command {other}")),
        }
        args.reject_next().map_err(|error| error.to_string())
    }

    fn tell_store(&mut self, args: &mut goldenscript::ArgumentConsumer<'_>) -> Result<(), String> {
        let id: u64 = parse(args.next_pos().ok_or("no id")?)?;
        self.add_store(id);
        let store = self.cluster.stores.get_mut(&id).expect("just added");
        store.state = match args.next_pos().ok_or("no state")? {
            "up" => StoreState::Up,
            "disconnected" => StoreState::Disconnected,
            "down" => StoreState::Down,
            "offline" => StoreState::Offline,
            other => return Err(format!("unknown state {other}")),
        };
        for label in ["zone", "rack", "host", "disk"] {
            if let Some(value) = args.take_key(label) {
                store.labels.insert(label.to_owned(), value.to_owned());
            }
        }
        let mut number =
            |name: &str| -> Result<u64, String> { args.take_key(name).map_or(Ok(0), parse::<u64>) };
        store.tally.regions = number("regions")? as usize;
        store.tally.weighed_bytes = store.tally.regions as u64 * REGION_BYTES_MIN;
        store.tally.leaders = number("leaders")? as usize;
        store.influence.incoming = number("incoming")? as usize;
        store.capacity_bytes = number("capacity")?;
        store.available_bytes = number("free")?;
        store.disk_full = number("full")? > 0;
        store.leads_not = (number("evicted")? > 0).then_some("shall lead nothing");
        store.keeps_leaders = number("granted")? > 0;
        if let Some(weight) = args.take_key("weight") {
            (store.leader_weight, store.region_weight) = (parse(weight)?, parse(weight)?);
        }
        Ok(())
    }
}

/// A number of a script.
pub(crate) fn parse<T: std::str::FromStr>(text: impl AsRef<str>) -> Result<T, String> {
    text.as_ref().parse().map_err(|_| format!("bad number {}", text.as_ref()))
}

/// A region from its peers in short.
pub(crate) fn told_region(id: u64, peers: &str) -> Result<(Region, RegionReport), String> {
    let epoch = RegionEpoch { conf_ver: 1, version: 1 };
    let mut region = Region { id, epoch: Some(epoch), ..Region::default() };
    let mut report = RegionReport::none();
    report.epoch = epoch;
    for text in peers.split(',').filter(|text| !text.is_empty()) {
        let digits = text.trim_end_matches(['*', '?', '~', '!', '+', '-']);
        let store_id: u64 = parse(digits)?;
        let mut peer = Peer { id: id * 10 + store_id, store_id, role: 0 };
        for mark in text[digits.len()..].chars() {
            match mark {
                '?' => peer.set_role(PeerRole::Learner),
                '+' => peer.set_role(PeerRole::IncomingVoter),
                '-' => peer.set_role(PeerRole::DemotingVoter),
                _ => {}
            }
        }
        if text.contains('*') {
            report.leader = Some(peer);
        }
        if text.contains('~') {
            report.pending.push(peer);
        }
        if text.contains('!') {
            report.down.push(PeerStats { peer: Some(peer), down_s: 3_600 });
        }
        region.peers.push(peer);
    }
    Ok((region, report))
}
