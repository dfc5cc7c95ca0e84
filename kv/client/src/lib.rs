//! The client of the KV tier: region cache, retries, two-phase commit, snapshot reads, scan tasks.
