//! A scripted cluster for the unit tests of this crate.
