//! What a Raft snapshot that comes from a peer must hold.

use prost::Message as _;
use raft::RawNode;
use raft::eraftpb::Message;

use super::storage::{PeerStorage, conf_state};
use cairn_proto::meta;

/// A Raft snapshot must describe the region it brings, with this peer in it. That its
/// members can be is checked by [`cairn_engine::raft_guard`].
pub(super) fn check_snapshot(
    node: &RawNode<PeerStorage>,
    message: &Message,
) -> Result<(), &'static str> {
    let region = snapshot_region(message).ok_or("snapshot's region")?;
    if &conf_state(&region) != message.get_snapshot().get_metadata().get_conf_state() {
        return Err("snapshot's members");
    }
    if region.id != node.store().region().id {
        return Err("snapshot of another region");
    }
    Ok(())
}

/// The region a snapshot message brings.
pub fn snapshot_region(message: &Message) -> Option<meta::Region> {
    let region = meta::Region::decode(message.get_snapshot().data.clone()).ok()?;
    let ordered = region.end_key.is_empty() || region.start_key < region.end_key;
    (ordered && region.epoch.is_some()).then_some(region)
}
