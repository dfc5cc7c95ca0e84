//! Tables that come along with a fragment: the build sides of its joins.
//!
//! ```text
//! SQL node: build side ─► one chunk, encoded ─► digest
//!                                │                 │
//! store:      request ◄──────────┴─────────────────┘      digest ─► table, if it is known
//!                └─► BroadcastTable: decoded rows, linked once per list of key columns
//!                        ├─► join of one task: probes, changes nothing
//!                        └─► join of another task
//! ```
//!
//! A table is named by its content, so who has it need not be sent it again, whichever statement it
//! came with. All tasks that join with it share its rows and its hash tables.

use std::borrow::{Borrow, Cow};
use std::sync::Arc;

use bytes::Bytes;
use cairn_expr::wire::field_type_to_proto;
use cairn_types::{Chunk, Column, FieldType};
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::batch::{self, RowStore};
use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::memory::OperatorMemory;
use crate::table::join::{JoinTable, JoinTableBuilder};
use crate::table::keys::KeyEncoder;

/// Most encoded bytes of all tables of a fragment: half of what a message between tiers may have.
pub const BROADCAST_BYTES_MAX: usize = 32 << 20;
/// Hash tables that are kept of one table. A statement needs one for each way its joins compare
/// columns of the table.
const LINKS_MAX: usize = 4;
/// Rows that are linked before others get their turn.
const LINK_ROWS: usize = 1024;

/// The name of a table: SHA-256 of its types and rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableDigest(Bytes);

impl Borrow<[u8]> for TableDigest {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl TableDigest {
    /// Of rows in the wire form of `cairn-types`.
    pub fn of(types: &[FieldType], rows: &[u8]) -> TableDigest {
        let mut hash = Sha256::new();
        hash.update((types.len() as u64).to_le_bytes());
        for ty in types {
            hash.update(field_type_to_proto(ty).encode_length_delimited_to_vec());
        }
        hash.update(rows);
        TableDigest(Bytes::copy_from_slice(&hash.finalize()))
    }

    /// As it travels.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// See the module documentation.
pub struct BroadcastTable {
    types: Vec<FieldType>,
    rows: Arc<RowStore>,
    /// Held while a hash table is made: others that want the same wait for it.
    links: tokio::sync::Mutex<Vec<Link>>,
    /// Of rows and links.
    memory: Mutex<OperatorMemory>,
}

/// A hash table over some columns.
struct Link {
    columns: Vec<usize>,
    encoder: KeyEncoder,
    table: Arc<JoinTable>,
    bytes: usize,
}

impl BroadcastTable {
    /// A table of rows in the wire form. Fails if they are not of these types, or more than `memory`
    /// takes.
    pub fn decode(
        types: Vec<FieldType>,
        rows: &[u8],
        mut memory: OperatorMemory,
    ) -> Result<BroadcastTable> {
        memory.set(rows.len() as u64)?;
        let chunk = Chunk::decode(rows, &types)?;
        let mut store = RowStore::new(&types);
        store.append(&chunk)?;
        drop(chunk);
        memory.set(store.bytes() as u64)?;
        Ok(BroadcastTable {
            types,
            rows: Arc::new(store),
            links: tokio::sync::Mutex::default(),
            memory: Mutex::new(memory),
        })
    }

    /// Types of the columns.
    pub fn types(&self) -> &[FieldType] {
        &self.types
    }

    /// Bytes of the rows and their hash tables.
    pub fn bytes(&self) -> u64 {
        self.memory.lock().used_bytes()
    }

    pub(crate) fn rows(&self) -> &Arc<RowStore> {
        &self.rows
    }

    /// The hash table over columns whose keys are told apart in this way.
    pub(crate) async fn link(
        &self,
        columns: &[usize],
        encoder: &KeyEncoder,
        ctx: &ExecContext,
    ) -> Result<Arc<JoinTable>> {
        let mut links = self.links.lock().await;
        let known = |link: &&Link| link.columns == columns && link.encoder == *encoder;
        if let Some(link) = links.iter().find(known) {
            return Ok(Arc::clone(&link.table));
        }
        if links.len() >= LINKS_MAX {
            links.remove(0);
        }
        let other_bytes = self.rows.bytes() + links.iter().map(|link| link.bytes).sum::<usize>();
        let chunk = self.rows.chunk();
        let mut builder = JoinTableBuilder::new(encoder.int_keys());
        for start in (0..chunk.num_rows()).step_by(LINK_ROWS) {
            ctx.check()?;
            let end = (start + LINK_ROWS).min(chunk.num_rows());
            let keys: Result<Vec<Cow<'_, Column>>> = columns
                .iter()
                .map(|at| {
                    let column = chunk.columns.get(*at);
                    let column = column.ok_or_else(|| ExecError::invalid_plan("no such column"))?;
                    Ok(Cow::Owned(batch::slice_column(column, start, end)))
                })
                .collect();
            builder.push(&encoder.encode_columns(&keys?, end - start)?);
            self.memory.lock().set((other_bytes + builder.bytes()) as u64)?;
            if end < chunk.num_rows() {
                tokio::task::yield_now().await;
            }
        }
        let bytes = builder.bytes();
        let table = Arc::new(builder.finish());
        let (columns, encoder) = (columns.to_vec(), encoder.clone());
        links.push(Link { columns, encoder, table: Arc::clone(&table), bytes });
        Ok(table)
    }
}
