//! TIMESTAMP columns of scanned rows: stored in UTC, local to the session above the scan.

use cairn_types::chunk::ColumnData;
use cairn_types::{Chunk, FieldType, Time, TimeZone, TypeCode};

/// Which columns of a scan must be brought into the session's time zone; none in UTC.
pub(super) struct LocalTime {
    columns: Vec<usize>,
    zone: TimeZone,
}

impl LocalTime {
    /// For columns of these types.
    pub(super) fn new(schema: &[FieldType], zone: &TimeZone) -> LocalTime {
        let is_timestamp = |at: &usize| schema[*at].code == TypeCode::Timestamp;
        let columns = match zone.is_utc() {
            true => Vec::new(),
            false => (0..schema.len()).filter(is_timestamp).collect(),
        };
        LocalTime { columns, zone: zone.clone() }
    }

    /// Converts the rows of a chunk that was just decoded.
    pub(super) fn convert(&self, chunk: &mut Chunk) {
        for at in &self.columns {
            let (data, _) = chunk.columns[*at].parts_mut();
            let ColumnData::Time(values) = data else { continue };
            for packed in values {
                // What does not convert (a zero date) stays as it is.
                let local = Time::from_packed(*packed)
                    .ok()
                    .and_then(|time| time.to_zone(&TimeZone::utc(), &self.zone));
                if let Some(local) = local {
                    *packed = local.packed();
                }
            }
        }
    }
}
