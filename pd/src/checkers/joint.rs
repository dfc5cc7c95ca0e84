//! A membership change of two configurations is led to its end.
//!
//! An operator may be gone when its exchange is half done: timed out, cancelled, or
//! lost with its PD leader. In the joint state a region needs both majorities, so it
//! must not stay there.

use crate::operator::{OpStep, Operator, OperatorKind};
use crate::view::RegionView;

/// The way out, if the region is in a joint state.
pub fn check(region: &RegionView<'_>) -> Option<Operator> {
    region.is_joint().then(|| {
        let leave = OpStep::Exchange { promoted: Vec::new(), demoted: Vec::new() };
        Operator::new(region.id(), OperatorKind::LeaveJoint, vec![leave])
            .because("a membership change was left half done")
    })
}
