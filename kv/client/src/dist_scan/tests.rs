//! Scans against a scripted store.
