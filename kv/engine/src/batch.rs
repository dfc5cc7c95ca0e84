//! A batch of writes as plain data, with a compact encoding for Raft entries.
//!
//! **Data.** Encoded form: one record per operation, until the bytes end.
//! ```text
//! put:          op = 0x00 | cf, varint key length, key, varint value length, value
//! delete:       op = 0x10 | cf, varint key length, key
//! delete range: op = 0x20 | cf, varint start length, start, varint end length, end
//! ```
//! Decoding slices the input `Bytes`: keys and values are not copied.

use bytes::Bytes;

use crate::{Cf, EngineError, Result};

const OP_PUT: u8 = 0x00;
const OP_DELETE: u8 = 0x10;
const OP_DELETE_RANGE: u8 = 0x20;
const OP_MASK: u8 = 0xf0;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets a key.
    Put {
        /// Where.
        cf: Cf,
        /// Full engine key.
        key: Bytes,
        /// New value.
        value: Bytes,
    },
    /// Removes a key; it need not exist.
    Delete {
        /// Where.
        cf: Cf,
        /// Full engine key.
        key: Bytes,
    },
    /// Removes every key in `[start, end)`.
    DeleteRange {
        /// Where.
        cf: Cf,
        /// First key removed.
        start: Bytes,
        /// First key kept.
        end: Bytes,
    },
}

/// Writes that take effect together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<WriteOp>,
    size_bytes: usize,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// An empty batch with room for `count` operations.
    pub fn with_capacity(count: usize) -> WriteBatch {
        WriteBatch { ops: Vec::with_capacity(count), size_bytes: 0 }
    }

    /// Sets a key.
    pub fn put(&mut self, cf: Cf, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(WriteOp::Put { cf, key: key.into(), value: value.into() });
    }

    /// Removes a key.
    pub fn delete(&mut self, cf: Cf, key: impl Into<Bytes>) {
        self.push(WriteOp::Delete { cf, key: key.into() });
    }

    /// Removes every key in `[start, end)`; nothing if the range is empty.
    pub fn delete_range(&mut self, cf: Cf, start: impl Into<Bytes>, end: impl Into<Bytes>) {
        self.push(WriteOp::DeleteRange { cf, start: start.into(), end: end.into() });
    }

    /// Appends one operation.
    pub fn push(&mut self, op: WriteOp) {
        self.size_bytes += op.size_bytes();
        self.ops.push(op);
    }

    /// Appends all operations of another batch.
    pub fn append(&mut self, other: WriteBatch) {
        self.size_bytes += other.size_bytes;
        self.ops.extend(other.ops);
    }

    /// Keeps the operations that `keeps` wants.
    pub fn retain(&mut self, mut keeps: impl FnMut(&WriteOp) -> bool) {
        let mut size_bytes = 0;
        self.ops.retain(|op| {
            let is_kept = keeps(op);
            size_bytes += if is_kept { op.size_bytes() } else { 0 };
            is_kept
        });
        self.size_bytes = size_bytes;
    }

    /// The operations, in order.
    pub fn ops(&self) -> &[WriteOp] {
        &self.ops
    }

    /// The operations, in order, without the batch.
    pub fn into_ops(self) -> Vec<WriteOp> {
        self.ops
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values, plus a small constant per operation.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.size_bytes = 0;
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.size_bytes);
        for op in &self.ops {
            match op {
                WriteOp::Put { cf, key, value } => {
                    out.push(OP_PUT | cf.to_u8());
                    put_slice(out, key);
                    put_slice(out, value);
                }
                WriteOp::Delete { cf, key } => {
                    out.push(OP_DELETE | cf.to_u8());
                    put_slice(out, key);
                }
                WriteOp::DeleteRange { cf, start, end } => {
                    out.push(OP_DELETE_RANGE | cf.to_u8());
                    put_slice(out, start);
                    put_slice(out, end);
                }
            }
        }
    }

    /// Reads what [`WriteBatch::encode`] wrote; the batch shares the input's memory.
    pub fn decode(mut input: Bytes) -> Result<WriteBatch> {
        let mut batch = WriteBatch::new();
        while !input.is_empty() {
            let op = input.split_to(1)[0];
            let cf = Cf::from_u8(op & !OP_MASK).ok_or(EngineError::Corrupted("batch: cf"))?;
            let key = take_slice(&mut input)?;
            match op & OP_MASK {
                OP_PUT => batch.put(cf, key, take_slice(&mut input)?),
                OP_DELETE => batch.delete(cf, key),
                OP_DELETE_RANGE => batch.delete_range(cf, key, take_slice(&mut input)?),
                _ => return Err(EngineError::Corrupted("batch: operation")),
            }
        }
        Ok(batch)
    }
}

impl WriteOp {
    /// Bytes of keys and values, plus what their framing may take.
    fn size_bytes(&self) -> usize {
        // One byte for the operation, up to five for each of two lengths.
        const FRAME_BYTES: usize = 11;
        FRAME_BYTES
            + match self {
                WriteOp::Put { key, value, .. } => key.len() + value.len(),
                WriteOp::Delete { key, .. } => key.len(),
                WriteOp::DeleteRange { start, end, .. } => start.len() + end.len(),
            }
    }
}

/// Appends a LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a LEB128 number off the front.
pub fn take_varint(input: &mut Bytes) -> Result<u64> {
    let mut number = 0u64;
    for (position, byte) in input.iter().copied().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        if position == 9 && part > 1 {
            return Err(EngineError::Corrupted("varint: too large"));
        }
        number |= part << (7 * position);
        if byte < 0x80 {
            let _ = input.split_to(position + 1);
            return Ok(number);
        }
    }
    Err(EngineError::Corrupted("varint: truncated"))
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    put_varint(out, slice.len() as u64);
    out.extend_from_slice(slice);
}

fn take_slice(input: &mut Bytes) -> Result<Bytes> {
    let length = take_varint(input)?;
    if length > input.len() as u64 {
        return Err(EngineError::Corrupted("batch: length"));
    }
    Ok(input.split_to(length as usize))
}
