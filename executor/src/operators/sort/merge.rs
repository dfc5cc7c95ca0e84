//! Sorted runs as one.

use cairn_types::{Chunk, FieldType};

use super::loser_tree::LoserTree;
use crate::batch;
use crate::error::Result;
use crate::spill::{SpillReader, SpillStream};

/// Merges runs; rows have their key as last column. Equal rows come from the earlier run.
pub(super) struct Merge {
    cursors: Vec<Cursor>,
    tree: LoserTree,
    types: Vec<FieldType>,
}

/// Where one run stands.
struct Cursor {
    reader: SpillReader,
    /// Empty once the run has ended.
    chunk: Chunk,
    row: usize,
}

impl Cursor {
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        let keys = self.chunk.columns.last()?;
        (self.row < keys.len()).then(|| keys.bytes_at(self.row))
    }

    async fn refill(&mut self, types: &[FieldType]) -> Result<()> {
        self.row = 0;
        self.chunk = Chunk::default();
        while let Some(chunk) = self.reader.next(types).await? {
            if chunk.num_rows() > 0 {
                self.chunk = chunk;
                break;
            }
        }
        Ok(())
    }
}

/// Whether run `a` comes before run `b`; one that has ended comes last.
#[inline]
fn before(cursors: &[Cursor], a: usize, b: usize) -> bool {
    match (cursors[a].key(), cursors[b].key()) {
        (Some(x), Some(y)) => x.cmp(y).then(a.cmp(&b)).is_lt(),
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => a < b,
    }
}

impl Merge {
    /// Reads the first rows of all runs.
    pub(super) async fn start(runs: Vec<SpillStream>, types: Vec<FieldType>) -> Result<Merge> {
        let mut cursors = Vec::with_capacity(runs.len());
        for run in runs {
            let mut cursor = Cursor { reader: run.read(), chunk: Chunk::default(), row: 0 };
            cursor.refill(&types).await?;
            cursors.push(cursor);
        }
        let tree = LoserTree::new(cursors.len(), |a, b| before(&cursors, a, b));
        Ok(Merge { cursors, tree, types })
    }

    /// Up to `rows_max` rows with their keys.
    pub(super) async fn next(&mut self, rows_max: usize) -> Result<Option<Chunk>> {
        let mut out = Chunk::new(&self.types, rows_max);
        let mut rows = 0;
        while rows < rows_max {
            let Merge { cursors, tree, types } = self;
            let run = tree.winner();
            if cursors[run].key().is_none() {
                break;
            }
            // Rows of one run that follow each other are copied at once.
            let start = cursors[run].row;
            loop {
                cursors[run].row += 1;
                rows += 1;
                if rows == rows_max || cursors[run].key().is_none() {
                    break;
                }
                tree.replay(|a, b| before(cursors, a, b));
                if tree.winner() != run {
                    break;
                }
            }
            let cursor = &mut cursors[run];
            append(&mut out, &cursor.chunk, start, cursor.row)?;
            if cursor.key().is_none() {
                cursor.refill(types).await?;
            }
            if tree.winner() == run {
                tree.replay(|a, b| before(cursors, a, b));
            }
        }
        Ok((rows > 0).then_some(out))
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.cursors.iter().map(|cursor| cursor.chunk.memory_bytes() + cursor.reader.bytes()).sum()
    }
}

fn append(out: &mut Chunk, from: &Chunk, start: usize, end: usize) -> Result<()> {
    for (to, from) in out.columns.iter_mut().zip(&from.columns) {
        batch::check_append(to, from)?;
        to.append_range(from, start, end);
    }
    Ok(())
}
