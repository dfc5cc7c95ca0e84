//! Rows divided by the hash of a key.
//!
//! Rows of one key come into one partition, so that each partition can be worked on alone. A partition that
//! still does not fit is divided again, by other bits: `depth` tells how often.
//!
//! **Sources.** M. Kitsuregawa, H. Tanaka, T. Moto-oka, "Application of Hash to Data Base Machine and Its
//! Architecture", New Generation Computing 1(1), 1983 (GRACE); G. Graefe, "Query Evaluation Techniques for Large
//! Databases", ACM Computing Surveys 25(2), 1993, section 2.2 and 5.3.

use cairn_types::{Chunk, FieldType};

use super::{Area, SpillStream, SpillWriter};
use crate::batch::{self, RowStore};
use crate::error::Result;
use crate::table::hash_int;
use crate::table::keys::KeyBatch;

/// How often rows are divided: 16⁶ parts are more than any disk holds, and what is still too large then
/// has one key, or keys that were made to collide.
pub(crate) const DEPTH_MAX: u32 = 6;
/// What tells the hashes of one depth from those of the next: all bits differ, since few of those
/// that differ survive the hash's fold (2^64 over the golden ratio).
const SALT_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Rows that wait until they make a chunk worth writing.
const PENDING_ROWS_MAX: usize = 512;

/// Divides rows.
pub(crate) struct Partitions {
    parts: Vec<Part>,
    types: Vec<FieldType>,
    depth: u32,
    pending_bytes_max: usize,
    buffer_bytes: u64,
    rows_of: Vec<Vec<u32>>,
}

struct Part {
    pending: RowStore,
    writer: SpillWriter,
}

impl Partitions {
    /// `count` empty partitions of rows of these types.
    pub(crate) fn new(area: &Area, count: usize, types: &[FieldType], depth: u32) -> Partitions {
        let part = || Part { pending: RowStore::new(types), writer: SpillWriter::new(area) };
        let block_bytes = area.block_bytes();
        Partitions {
            parts: (0..count).map(|_| part()).collect(),
            types: types.to_vec(),
            depth,
            pending_bytes_max: block_bytes / 2,
            buffer_bytes: (count * block_bytes * 2) as u64,
            rows_of: vec![Vec::new(); count],
        }
    }

    /// What its buffers need, about.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes
    }

    /// Adds the rows `rows` of a chunk without a selection; `keys` has a key for each row of the chunk.
    pub(crate) async fn push(
        &mut self,
        chunk: &Chunk,
        keys: &KeyBatch,
        rows: impl Iterator<Item = usize> + Send,
    ) -> Result<()> {
        self.rows_of.iter_mut().for_each(Vec::clear);
        for row in rows {
            let part = part_of(keys.hash(row), self.depth, self.parts.len());
            self.rows_of[part].push(row as u32);
        }
        for (part, rows) in self.parts.iter_mut().zip(&self.rows_of) {
            if rows.is_empty() {
                continue;
            }
            part.pending.append(&batch::gather(chunk, rows)?)?;
            let full = part.pending.len() >= PENDING_ROWS_MAX
                || part.pending.bytes() >= self.pending_bytes_max;
            if full {
                let pending = std::mem::replace(&mut part.pending, RowStore::new(&self.types));
                part.writer.push(&pending.into_chunk()).await?;
            }
        }
        Ok(())
    }

    /// The partitions, some of them without rows.
    pub(crate) async fn finish(self) -> Result<Vec<SpillStream>> {
        let mut streams = Vec::with_capacity(self.parts.len());
        for mut part in self.parts {
            if part.pending.len() > 0 {
                part.writer.push(&part.pending.into_chunk()).await?;
            }
            streams.push(part.writer.finish().await?);
        }
        Ok(streams)
    }
}

/// The part of a row, by its key's hash: by other bits than those that choose a bucket of a table, and
/// by others at each depth.
fn part_of(hash: u64, depth: u32, parts: usize) -> usize {
    let salt = u64::from(depth + 1).wrapping_mul(SALT_STEP);
    let hash = hash_int(hash.rotate_left(17) ^ salt);
    ((u128::from(hash) * parts as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_depth_divides_the_rows_of_the_largest_part() {
        let mut hashes: Vec<u64> = (0..400_000u64).map(hash_int).collect();
        for depth in 0..DEPTH_MAX {
            let mut parts: Vec<Vec<u64>> = vec![Vec::new(); 16];
            let rows = hashes.len();
            for hash in hashes {
                parts[part_of(hash, depth, 16)].push(hash);
            }
            hashes = parts.into_iter().max_by_key(Vec::len).expect("there are parts");
            if rows < 500 {
                break;
            }
            assert!(hashes.len() * 8 < rows, "depth {depth}: {} of {rows}", hashes.len());
        }
    }
}
