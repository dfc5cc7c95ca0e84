//! Schedulers balance: the cluster and its regions in, an operator out.

pub mod balance_leader;
pub mod balance_region;
#[cfg(test)]
mod tests;

/// Counts of two stores that differ by less than this are even.
const DIFFERENCE_MIN: usize = 2;
