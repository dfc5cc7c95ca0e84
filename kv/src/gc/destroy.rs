//! Removes everything in a range from one store, past Raft: for ranges that nobody can
//! reach any more, on whichever replica.
//!
//! Whole files go at once, whatever they hold; the rest is hidden by a deletion of the
//! range. A replica that is built from another store's Raft snapshot meanwhile may bring
//! entries back; who asks does so twice, a round of collection apart.

use bytes::Bytes;
use cairn_engine::{Cf, EngineError, KvEngine, WriteBatch};

/// Destroys `[start, end)` of engine keys. Durable on return; may be repeated.
pub fn destroy_range(engine: &dyn KvEngine, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
    if start >= end {
        return Ok(());
    }
    engine.delete_files_in_range(start, end)?;
    let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
    let mut batch = WriteBatch::with_capacity(Cf::ALL.len());
    for cf in Cf::ALL {
        batch.delete_range(cf, start.clone(), end.clone());
    }
    engine.write(batch, true)
}
