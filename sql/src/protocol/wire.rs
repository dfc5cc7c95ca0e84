//! Integers and strings as the protocol writes them, read with bounds checked.

use super::ProtocolError;

/// Reads a packet's fields in order; every read is checked.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// All bytes not read yet.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        if count > self.rest.len() {
            return Err(ProtocolError::Malformed("packet ends inside a field"));
        }
        let (head, tail) = self.rest.split_at(count);
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, ProtocolError> {
        Ok(self.take(1)?[0])
    }

    /// Little-endian 2 bytes.
    pub fn u16(&mut self) -> Result<u16, ProtocolError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Little-endian 4 bytes.
    pub fn u32(&mut self) -> Result<u32, ProtocolError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Little-endian 8 bytes.
    pub fn u64(&mut self) -> Result<u64, ProtocolError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length-encoded integer; `None` is the NULL marker 0xFB.
    pub fn lenenc_opt(&mut self) -> Result<Option<u64>, ProtocolError> {
        match self.u8()? {
            byte @ 0..=0xfa => Ok(Some(u64::from(byte))),
            0xfb => Ok(None),
            0xfc => Ok(Some(u64::from(self.u16()?))),
            0xfd => {
                let bytes: [u8; 3] = self.array()?;
                Ok(Some(u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))))
            }
            0xfe => Ok(Some(self.u64()?)),
            0xff => Err(ProtocolError::Malformed("0xFF is no length")),
        }
    }

    /// A length-encoded integer that must not be NULL.
    pub fn lenenc(&mut self) -> Result<u64, ProtocolError> {
        self.lenenc_opt()?.ok_or(ProtocolError::Malformed("NULL where a length must stand"))
    }

    /// A length-encoded string.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], ProtocolError> {
        let length = usize::try_from(self.lenenc()?)
            .map_err(|_| ProtocolError::Malformed("length beyond the address space"))?;
        self.take(length)
    }

    /// A string that ends with a zero byte, which is consumed.
    pub fn null_terminated(&mut self) -> Result<&'a [u8], ProtocolError> {
        let end = memchr::memchr(0, self.rest)
            .ok_or(ProtocolError::Malformed("string without its terminator"))?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0xfa => out.push(value as u8),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&(value as u16).to_le_bytes());
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&(value as u32).to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Appends a length-encoded string.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends what `write` writes as a length-encoded string. Nearly all values are shorter
/// than 251 bytes, so one byte is kept for the length and longer ones are moved.
pub fn put_lenenc_with(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length <= 0xfa {
        out[at] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(9);
    put_lenenc(&mut prefix, length as u64);
    out.splice(at..=at, prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenenc_round_trips_at_its_borders() {
        for value in [0, 250, 251, 65_535, 65_536, 16_777_215, 16_777_216, u64::MAX] {
            let mut out = Vec::new();
            put_lenenc(&mut out, value);
            assert_eq!(Cursor::new(&out).lenenc().expect("what we wrote"), value);
        }
    }

    #[test]
    fn long_values_get_their_long_prefix() {
        for length in [0, 250, 251, 70_000] {
            let mut out = vec![9];
            put_lenenc_with(&mut out, |out| out.extend(std::iter::repeat_n(7, length)));
            let mut cursor = Cursor::new(&out[1..]);
            assert_eq!(cursor.lenenc_bytes().expect("what we wrote").len(), length);
            assert_eq!(cursor.remaining(), 0);
        }
    }

    #[test]
    fn short_fields_are_malformed() {
        // CVE-2017-3599's shape: a length far beyond the packet.
        assert!(
            Cursor::new(&[0xfe, 255, 255, 255, 255, 255, 255, 255, 255]).lenenc_bytes().is_err()
        );
        assert!(Cursor::new(&[0xfc, 1]).lenenc().is_err());
        assert!(Cursor::new(b"abc").null_terminated().is_err());
        assert!(Cursor::new(&[]).u8().is_err());
    }
}
