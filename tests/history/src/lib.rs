//! What clients saw of a database, and whether its isolation level allows it.
//!
//! Clients write down what they asked for and what they were told: a *history*. Two checkers look
//! for an explanation of it:
//!
//! * [`lists`]: transactions that read and append to lists. Which order of commits would explain
//!   what they saw is a graph, and an anomaly is a cycle in it.
//! * [`linearizable`]: single operations on one register.
//!
//! Nothing here knows how the history came to be: the same checkers judge real clusters, over
//! MySQL connections, and simulated ones.

pub mod linearizable;
pub mod lists;
