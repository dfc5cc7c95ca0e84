//! What leaders tell PD of the size of their regions.

use cairn_proto::pd;

use super::cluster::{Cluster, region_of};
use crate::raftstore::store::{PdEvent, StoreMessage};

/// The reports of the region since they were last asked for.
fn reports(
    cluster: &mut Cluster,
    store_id: u64,
    region_id: u64,
) -> Vec<pd::RegionHeartbeatRequest> {
    let events = std::mem::take(&mut cluster.stores.get_mut(&store_id).unwrap().pd);
    let of_region = |report: &pd::RegionHeartbeatRequest| {
        report.region.as_ref().is_some_and(|region| region.id == region_id)
    };
    let reports = events.into_iter().filter_map(|event| match event {
        PdEvent::Regions(reports) => Some(reports),
        _ => None,
    });
    reports.flatten().filter(of_region).collect()
}

/// Runs until the leader on that store has measured what was written; answers all it told.
fn until_measured(cluster: &mut Cluster, store_id: u64) -> Vec<pd::RegionHeartbeatRequest> {
    let mut told = Vec::new();
    cluster.run_until("a measured size", |cluster| {
        told.extend(reports(cluster, store_id, 1));
        let holds_all = |one: &pd::RegionHeartbeatRequest| one.approximate_size_bytes >= 50_000;
        told.last().is_some_and(|report| !report.size_is_guess && holds_all(report))
    });
    told
}

#[test]
fn a_new_leader_says_that_it_guesses_until_it_has_measured() {
    let region = region_of(1, &[(11, 1), (12, 2), (13, 3)]);
    let mut cluster = Cluster::new(3, &region);
    let leader = cluster.elect(1);
    let value = "x".repeat(1_000);
    for number in 0..50 {
        cluster.put(leader, &region, &format!("k{number:02}"), &value);
    }
    until_measured(&mut cluster, leader);
    // Another leader; it wrote the same, and has looked at nothing.
    let heir = leader % 3 + 1;
    let target = region.peers.iter().find(|peer| peer.store_id == heir).copied();
    let step = pd::RegionHeartbeatResponse {
        region_id: 1,
        epoch: region.epoch,
        step: Some(pd::region_heartbeat_response::Step::TransferLeader(pd::TransferLeader {
            peer: target,
        })),
        ..pd::RegionHeartbeatResponse::default()
    };
    cluster.tell(leader, StoreMessage::PdStep(step));
    cluster.run_until("the heir leads", |cluster| cluster.leader(1) == Some(heir));
    let told = until_measured(&mut cluster, heir);
    assert!(told[0].size_is_guess, "{told:?}");
    assert_eq!(told.last().unwrap().approximate_keys, 50);
}
