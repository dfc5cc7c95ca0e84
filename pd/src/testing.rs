//! Situations for golden scripts, told in one word per fact.
//!
//! `replicas 1`, `store 1 up regions=3 leaders=2 host=h1` and
//! `region 5 peers=1*,2,3?~` describe a view: a peer is its store's number, `*`
//! leads, `?` is a learner, `~` lacks entries, `!` is not heard from. Peer ids are
//! the region's id times ten plus the store's.

use cairn_proto::meta::{Peer, PeerRole, Region, RegionEpoch, StoreState};

use crate::view::{ClusterView, RegionView, StoreView};

/// A region with what its leader would report.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Stores and rules.
    pub cluster: ClusterView,
    /// Regions in the order they were told.
    pub regions: Vec<ToldRegion>,
}

/// One told region.
#[derive(Clone, Debug, Default)]
pub struct ToldRegion {
    region: Region,
    leader: Option<Peer>,
    pending: Vec<u64>,
    down: Vec<u64>,
}

impl ToldRegion {
    /// As decisions see it.
    pub fn view(&self) -> RegionView<'_> {
        RegionView {
            region: &self.region,
            leader: self.leader,
            pending: &self.pending,
            down: &self.down,
        }
    }
}

impl Situation {
    /// Three replicas per region and nothing else.
    pub fn new() -> Situation {
        let mut situation = Situation::default();
        situation.cluster.replicas_max = 3;
        situation
    }

    /// Takes `store` and `region` commands of a golden script.
    pub fn tell(&mut self, command: &goldenscript::Command) -> Result<(), String> {
        let mut args = command.consume_args();
        if command.name == "replicas" {
            let count = args.next_pos().ok_or("no number")?;
            self.cluster.replicas_max = count.parse().map_err(|_| "bad number")?;
            return args.reject_next().map_err(|error| error.to_string());
        }
        let id: u64 = args.next_pos().ok_or("no id")?.parse().map_err(|_| "bad id")?;
        match command.name.as_str() {
            "store" => {
                let state = match args.next_pos().ok_or("no state")? {
                    "up" => StoreState::Up,
                    "disconnected" => StoreState::Disconnected,
                    "down" => StoreState::Down,
                    "offline" => StoreState::Offline,
                    other => return Err(format!("unknown state {other}")),
                };
                let host = args.take_key("host").map_or(format!("h{id}"), str::to_owned);
                let mut number = |name: &str| -> Result<usize, String> {
                    let text = args.take_key(name).unwrap_or("0");
                    text.parse().map_err(|_| format!("bad number {text}"))
                };
                let store = StoreView {
                    id,
                    state,
                    host,
                    region_count: number("regions")?,
                    leader_count: number("leaders")?,
                    incoming_count: number("incoming")?,
                };
                self.cluster.stores.insert(id, store);
            }
            "region" => {
                let peers = args.take_key("peers").ok_or("no peers")?;
                self.regions.retain(|told| told.region.id != id);
                self.regions.push(told_region(id, peers)?);
            }
            other => return Err(format!("unknown command {other}")),
        }
        args.reject_next().map_err(|error| error.to_string())
    }
}

fn told_region(id: u64, peers: &str) -> Result<ToldRegion, String> {
    let mut told = ToldRegion::default();
    told.region.id = id;
    told.region.epoch = Some(RegionEpoch { conf_ver: 1, version: 1 });
    for text in peers.split(',').filter(|text| !text.is_empty()) {
        let digits = text.trim_end_matches(['*', '?', '~', '!']);
        let store_id: u64 = digits.parse().map_err(|_| format!("bad peer {text}"))?;
        let mut peer = Peer { id: id * 10 + store_id, store_id, role: 0 };
        if text.contains('?') {
            peer.set_role(PeerRole::Learner);
        }
        if text.contains('*') {
            told.leader = Some(peer);
        }
        if text.contains('~') {
            told.pending.push(peer.id);
        }
        if text.contains('!') {
            told.down.push(peer.id);
        }
        told.region.peers.push(peer);
    }
    Ok(told)
}
