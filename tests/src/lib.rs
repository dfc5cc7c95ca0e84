//! Tests that cross crates: SQL scripts, clusters, faults, house rules.
