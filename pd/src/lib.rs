//! The placement driver: timestamps, ids, stores, regions.
