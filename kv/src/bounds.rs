//! What a store keeps of the placement driver's state, for the day all members of the
//! driver lose their data: how far ids and timestamps have gone, the GC safe point, the schema
//! version. `cairn ctl recover meta` asks every store for it.
//!
//! **Data.** One record in CF default ([`keys::PD_BOUNDS_KEY`]), seconds behind the driver's.
//!
//! **Invariants.** Nothing in it goes back. The safe point is durable here before anything is
//! collected by it.

use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, EngineError, KvEngine, WriteBatch};
use cairn_pd_client::PdBounds;
use cairn_types::TimeStamp;
use parking_lot::Mutex;
use prost::Message;

use crate::keys;
use crate::raftstore::RaftStoreError;

/// The record's form.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    id_bound: u64,
    #[prost(uint64, tag = "2")]
    tso_bound_ms: u64,
    #[prost(uint64, tag = "3")]
    gc_safe_point: u64,
    #[prost(int64, tag = "4")]
    schema_version: i64,
}

impl From<PdBounds> for Record {
    fn from(bounds: PdBounds) -> Record {
        Record {
            id_bound: bounds.id_bound,
            tso_bound_ms: bounds.tso_bound_ms,
            gc_safe_point: bounds.gc_safe_point.0,
            schema_version: bounds.schema_version,
        }
    }
}

impl From<Record> for PdBounds {
    fn from(record: Record) -> PdBounds {
        PdBounds {
            id_bound: record.id_bound,
            tso_bound_ms: record.tso_bound_ms,
            gc_safe_point: TimeStamp(record.gc_safe_point),
            schema_version: record.schema_version,
        }
    }
}

/// The record and its place.
pub struct KeptBounds {
    engine: Arc<dyn KvEngine>,
    kept: Mutex<PdBounds>,
}

impl KeptBounds {
    /// As an earlier life left it.
    pub fn open(engine: Arc<dyn KvEngine>) -> Result<KeptBounds, RaftStoreError> {
        let read = |bytes: Bytes| {
            Record::decode(bytes).map_err(|_| RaftStoreError::Corrupted("bounds of PD"))
        };
        let record = engine.get(Cf::Default, keys::PD_BOUNDS_KEY)?.map(read).transpose()?;
        let kept = Mutex::new(record.unwrap_or_default().into());
        Ok(KeptBounds { engine, kept })
    }

    /// What is kept.
    pub fn get(&self) -> PdBounds {
        *self.kept.lock()
    }

    /// Keeps what is higher than before, durably on return. Waits for the disk.
    pub fn raise(&self, told: PdBounds) -> Result<(), EngineError> {
        let mut kept = self.kept.lock();
        let raised = kept.max(told);
        if raised != *kept {
            let mut batch = WriteBatch::new();
            batch.put(Cf::Default, keys::PD_BOUNDS_KEY, Record::from(raised).encode_to_vec());
            self.engine.write(batch, true)?;
            *kept = raised;
        }
        Ok(())
    }

    /// [`KeptBounds::raise`] by the safe point alone.
    pub fn raise_safe_point(&self, gc_safe_point: TimeStamp) -> Result<(), EngineError> {
        self.raise(PdBounds { gc_safe_point, ..PdBounds::default() })
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::MemoryEngine;

    use super::*;

    #[test]
    fn only_grows_across_lives() {
        let engine: Arc<dyn KvEngine> = Arc::new(MemoryEngine::new());
        let open = || KeptBounds::open(Arc::clone(&engine)).expect("opens");
        let told = PdBounds {
            id_bound: 10,
            tso_bound_ms: 7_000,
            gc_safe_point: TimeStamp(5),
            schema_version: 3,
        };
        assert_eq!(open().get(), PdBounds::default());
        open().raise(told).expect("written");
        open().raise_safe_point(TimeStamp(4)).expect("nothing to write");
        open().raise(PdBounds { tso_bound_ms: 8_000, ..PdBounds::default() }).expect("written");
        assert_eq!(open().get(), PdBounds { tso_bound_ms: 8_000, ..told });
    }
}
