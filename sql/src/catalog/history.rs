//! Schemas of the past, for reads of the past.
//!
//! A schema is all that its version says: whoever asks for a moment reads the version of that
//! moment, one small key, and finds the schema here or loads it as it was then.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::SchemaSnapshot;

/// Schemas kept: readers of the past mostly read at the same few moments.
const SCHEMAS_MAX: usize = 16;

/// The schemas that were asked for last.
#[derive(Debug, Default)]
pub struct SchemaHistory {
    /// The latest in front.
    recent: Mutex<VecDeque<Arc<SchemaSnapshot>>>,
}

impl SchemaHistory {
    /// The schema whose definitions are of a version, if it is known.
    pub fn get(&self, version: i64) -> Option<Arc<SchemaSnapshot>> {
        let mut recent = self.recent.lock();
        let at = recent.iter().position(|schema| schema.definitions_version() == version)?;
        let schema = recent.remove(at)?;
        recent.push_front(Arc::clone(&schema));
        Some(schema)
    }

    /// Keeps a schema, and forgets the one that was not asked for the longest.
    pub fn insert(&self, schema: Arc<SchemaSnapshot>) {
        let mut recent = self.recent.lock();
        recent.retain(|other| other.definitions_version() != schema.definitions_version());
        recent.push_front(schema);
        recent.truncate(SCHEMAS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::meta::StoredSchema;

    #[test]
    fn what_is_asked_for_stays() {
        let history = SchemaHistory::default();
        let schema = |version| {
            Arc::new(SchemaSnapshot::new(StoredSchema { version, ..StoredSchema::default() }, &[]))
        };
        for version in 0..SCHEMAS_MAX as i64 {
            history.insert(schema(version));
        }
        assert!(history.get(0).is_some(), "the oldest is asked for");
        history.insert(schema(100));
        assert!(history.get(0).is_some() && history.get(100).is_some());
        assert!(history.get(1).is_none(), "nobody asked for it");
    }
}
