//! Small neighbours become one region.
//!
//! Both must be healthy, idle, cool, of one table and under the same rules, of a size that
//! a leader has measured, and must have had their range for a while: a region that has
//! just been cut is small on purpose. First the source's peers move to the target's stores, then it is
//! absorbed. Both regions are tied to the operator until then.

use cairn_proto::meta::PeerRole;

use crate::operator::builder::{self, Wanted};
use crate::operator::{OpStep, Operator, OperatorKind};
use crate::placement::fit;
use crate::view::{ClusterView, RegionView};

/// Together they may be so many times `max-merge-region-size`: well below the size
/// at which a region is cut.
const TOGETHER_FACTOR: u64 = 4;
/// Bytes of a table's part of a key: `t` and its id.
const TABLE_PREFIX_BYTES: usize = 9;
/// First byte of keys of tables.
const TABLE_PREFIX: u8 = b't';

/// What a merge is weighed with.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The small region.
    pub source: RegionView<'a>,
    /// The region before and the region behind it, where they are free.
    pub neighbours: [Option<RegionView<'a>>; 2],
    /// Size from which a store cuts regions; 0: unknown.
    pub split_bytes: u64,
    /// Now, by the monotonic clock.
    pub now_ms: u64,
}

/// The merge of the region into a neighbour, as two operators: the source's and the
/// target's.
pub fn check(
    candidates: &Candidates<'_>,
    is_hot: impl Fn(u64) -> bool,
    cluster: &ClusterView,
) -> Option<(Operator, Operator)> {
    let source = candidates.source;
    if !is_small(&source, candidates, cluster) || !is_settled(&source, candidates, cluster) {
        return None;
    }
    if is_hot(source.id()) || !is_as_ruled(&source, cluster) {
        return None;
    }
    let target = candidates
        .neighbours
        .iter()
        .flatten()
        .filter(|target| is_settled(target, candidates, cluster) && !is_hot(target.id()))
        .filter(|target| is_as_ruled(target, cluster) && belong_together(&source, target, cluster))
        .filter(|target| fits_together(&source, target, candidates, cluster))
        .min_by_key(|target| (target.report.size_bytes, target.id()))?;
    merge(&source, target, cluster).ok()
}

/// The largest region that is merged: two of them stay well below what is cut.
fn size_max(candidates: &Candidates<'_>, cluster: &ClusterView) -> u64 {
    let wanted = cluster.config.max_merge_region_size.0;
    match candidates.split_bytes {
        0 => wanted,
        split_bytes => wanted.min(split_bytes / (TOGETHER_FACTOR + 1)),
    }
}

fn is_small(region: &RegionView<'_>, candidates: &Candidates<'_>, cluster: &ClusterView) -> bool {
    cluster.config.max_merge_region_size.0 > 0
        && region.report.size_bytes <= size_max(candidates, cluster)
        && region.report.keys <= cluster.config.max_merge_region_keys as u64
}

fn fits_together(
    source: &RegionView<'_>,
    target: &RegionView<'_>,
    candidates: &Candidates<'_>,
    cluster: &ClusterView,
) -> bool {
    let bytes = source.report.size_bytes + target.report.size_bytes;
    let keys = source.report.keys + target.report.keys;
    bytes <= size_max(candidates, cluster) * TOGETHER_FACTOR
        && keys <= cluster.config.max_merge_region_keys as u64 * TOGETHER_FACTOR
}

fn is_settled(region: &RegionView<'_>, candidates: &Candidates<'_>, cluster: &ClusterView) -> bool {
    let since = |ms: u64| candidates.now_ms.saturating_sub(ms);
    let interval_ms = cluster.config.split_merge_interval.as_millis() as u64;
    region.is_healthy()
        && since(region.report.range_since_ms) >= interval_ms
        && !region.report.size_is_guess
}

fn is_as_ruled(region: &RegionView<'_>, cluster: &ClusterView) -> bool {
    let rules = cluster.rules.at(&region.region.start_key);
    let stays = |peer| fit::is_lasting(peer, region, cluster);
    region.region.peers.iter().all(stays) && fit::fit(region, rules, cluster).is_satisfied()
}

/// The table whose keys a region begins with.
fn table_of(key: &[u8]) -> Option<&[u8]> {
    (key.first() == Some(&TABLE_PREFIX)).then(|| &key[..key.len().min(TABLE_PREFIX_BYTES)])
}

/// Whether both hold the same table and no rule begins between them.
fn belong_together(
    source: &RegionView<'_>,
    target: &RegionView<'_>,
    cluster: &ClusterView,
) -> bool {
    let (left, right) = match source.region.start_key < target.region.start_key {
        true => (source.region, target.region),
        false => (target.region, source.region),
    };
    left.end_key == right.start_key
        && cluster.rules.borders(&left.start_key, &right.end_key).is_empty()
        && (cluster.config.enable_cross_table_merge
            || table_of(&left.start_key) == table_of(&right.start_key))
}

/// The merge of one region into its neighbour.
pub fn merge(
    source: &RegionView<'_>,
    target: &RegionView<'_>,
    cluster: &ClusterView,
) -> Result<(Operator, Operator), &'static str> {
    let roles = target.region.peers.iter().map(|peer| {
        let learns = peer.role() == PeerRole::Learner;
        (peer.store_id, if learns { PeerRole::Learner } else { PeerRole::Voter })
    });
    let wanted = Wanted { peers: roles.collect(), leader: None };
    let mut steps = builder::steps(source, &wanted, cluster)?;
    steps.push(OpStep::MergeInto { target_id: target.id() });
    let reason = format!(
        "region {} has {} bytes and {} keys, its neighbour {} has {} bytes",
        source.id(),
        source.report.size_bytes,
        source.report.keys,
        target.id(),
        target.report.size_bytes
    );
    let version = target.region.epoch.unwrap_or_default().version;
    let absorb = vec![OpStep::Absorb { source_id: source.id(), version }];
    let mut gives = Operator::new(source.id(), OperatorKind::Merge, steps).because(reason.clone());
    let mut takes = Operator::new(target.id(), OperatorKind::Merge, absorb).because(reason);
    gives.partner_id = Some(target.id());
    takes.partner_id = Some(source.id());
    Ok((gives, takes))
}
