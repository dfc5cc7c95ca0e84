//! Byte-level helpers of the lock and commit records: LEB128 numbers and
//! length-prefixed strings, read without panics.

use super::MvccError;

/// Appends an unsigned LEB128 number.
pub fn put_varint(buf: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buf.push(value as u8 | 0x80);
        value >>= 7;
    }
    buf.push(value as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(buf: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(buf, bytes.len() as u64);
    buf.extend_from_slice(bytes);
}

/// Reads a record front to back; every short read is an error naming it.
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`, which should be a `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, MvccError> {
        let (&byte, rest) = self.rest.split_first().ok_or(MvccError::corrupt(self.what))?;
        self.rest = rest;
        Ok(byte)
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64, MvccError> {
        let (bytes, rest) =
            self.rest.split_first_chunk::<8>().ok_or(MvccError::corrupt(self.what))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    /// An unsigned LEB128 number.
    pub fn varint(&mut self) -> Result<u64, MvccError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(MvccError::corrupt(self.what))
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], MvccError> {
        let len = usize::try_from(self.varint()?).map_err(|_| MvccError::corrupt(self.what))?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(MvccError::corrupt(self.what))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Whatever is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses trailing bytes.
    pub fn finish(self) -> Result<(), MvccError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(MvccError::corrupt(self.what)),
        }
    }
}
