//! A region lies within one list of rules: it is cut where another begins.

use crate::operator::{OpStep, Operator, OperatorKind};
use crate::view::{ClusterView, RegionView};

/// Cuts of one step.
const KEYS_MAX: usize = 64;

/// The cut, if a border of rules lies inside the region.
pub fn check(region: &RegionView<'_>, cluster: &ClusterView) -> Option<Operator> {
    region.leader()?;
    let mut keys = cluster.rules.borders(&region.region.start_key, &region.region.end_key);
    if keys.is_empty() || region.is_joint() {
        return None;
    }
    keys.truncate(KEYS_MAX);
    let version = region.region.epoch.unwrap_or_default().version;
    let steps = vec![OpStep::Split { keys, version }];
    let operator = Operator::new(region.id(), OperatorKind::SplitAtBorder, steps);
    Some(operator.because("placement rules change inside the region"))
}
