//! Commit against a scripted store.
