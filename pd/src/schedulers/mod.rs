//! Schedulers balance: the cluster and its regions in, an operator out.
//!
//! | scheduler | what it evens out |
//! |---|---|
//! | [`balance_leader`] | numbers of leaders |
//! | [`balance_region`] | sizes of what stores hold |
//! | [`hot_region`] | load |
//! | [`leaders`] | moves all leaders off some stores, or onto some |
//! | [`scatter`] | spreads regions that were made at once |
//! | [`slow_store`] | finds the one store whose disk is sick |
//!
//! Which of them run, with what arguments, is kept by the [`registry`].
//!
//! **Invariants.** A move makes the two stores more alike and never turns their order
//! around, so that what is moved once is not moved back.

pub mod balance_leader;
pub mod balance_region;
pub mod hot_region;
pub mod leaders;
pub mod registry;
pub mod scatter;
pub mod slow_store;
#[cfg(test)]
mod tests;

use crate::operator::Operator;
use crate::view::{ClusterView, StoreView};

/// What a scheduler made of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// To be done.
    Do(Box<Operator>),
    /// Why nothing is.
    Idle(String),
}

impl From<Operator> for Decision {
    fn from(operator: Operator) -> Decision {
        Decision::Do(Box::new(operator))
    }
}

/// The scores of stores a decision compares.
struct Spread<'a> {
    /// With the score, the lowest first.
    stores: Vec<(&'a StoreView, f64)>,
    /// What scores may differ by.
    tolerance: f64,
}

impl<'a> Spread<'a> {
    fn new(
        cluster: &'a ClusterView,
        counts: impl Fn(&&StoreView) -> bool,
        score: impl Fn(&StoreView) -> f64,
    ) -> Spread<'a> {
        let counted = cluster.stores.values().filter(counts);
        let mut stores: Vec<_> = counted.map(|store| (store, score(store))).collect();
        stores.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.id.cmp(&b.0.id)));
        let sum: f64 = stores.iter().map(|(_, score)| score).sum();
        let average = sum / stores.len().max(1) as f64;
        Spread { stores, tolerance: average * cluster.config.balance_tolerance }
    }

    fn fullest(&self) -> impl Iterator<Item = &(&'a StoreView, f64)> {
        // Of equals, the first by id comes first here as well.
        let mut order: Vec<&(&StoreView, f64)> = self.stores.iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.id.cmp(&b.0.id)));
        order.into_iter()
    }

    /// The scores in words.
    fn told(&self) -> String {
        match (self.stores.first(), self.stores.last()) {
            (Some((low, least)), Some((high, most))) => {
                format!("scores {least:.1} (store {}) to {most:.1} (store {})", low.id, high.id)
            }
            _ => "no store is up".to_owned(),
        }
    }
}
