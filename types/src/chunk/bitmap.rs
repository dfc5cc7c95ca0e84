//! Bits in bytes, least significant first, as Arrow lays them out.

/// A growable bitmap. Bits beyond the length are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: usize,
}

impl Bitmap {
    /// An empty bitmap with room for `capacity` bits.
    pub fn with_capacity(capacity: usize) -> Bitmap {
        Bitmap { bytes: Vec::with_capacity(capacity.div_ceil(8)), len: 0 }
    }

    /// `len` bits of one value.
    pub fn filled(len: usize, value: bool) -> Bitmap {
        let mut bitmap = Bitmap::default();
        bitmap.extend(len, value);
        bitmap
    }

    /// Takes bytes as they are; `None` if they are not exactly as many as `len`
    /// bits need, or if a bit beyond the length is set.
    pub fn from_bytes(bytes: Vec<u8>, len: usize) -> Option<Bitmap> {
        let tail_clean = match (len % 8, bytes.last()) {
            (0, _) | (_, None) => true,
            (used, Some(last)) => last >> used == 0,
        };
        (bytes.len() == len.div_ceil(8) && tail_clean).then_some(Bitmap { bytes, len })
    }

    /// Number of bits.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bit at `at`, which is below the length.
    #[inline]
    pub fn get(&self, at: usize) -> bool {
        debug_assert!(at < self.len);
        self.bytes[at / 8] >> (at % 8) & 1 == 1
    }

    /// Sets the bit at `at`, which is below the length.
    #[inline]
    pub fn set(&mut self, at: usize, value: bool) {
        debug_assert!(at < self.len);
        let mask = 1 << (at % 8);
        if value {
            self.bytes[at / 8] |= mask;
        } else {
            self.bytes[at / 8] &= !mask;
        }
    }

    /// Appends a bit.
    #[inline]
    pub fn push(&mut self, value: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(u8::from(value));
        } else if value {
            self.bytes[self.len / 8] |= 1 << (self.len % 8);
        }
        self.len += 1;
    }

    /// Appends `count` bits of one value.
    pub fn extend(&mut self, count: usize, value: bool) {
        let end = self.len + count;
        if value {
            if let Some(last) = self.bytes.last_mut()
                && !self.len.is_multiple_of(8)
            {
                *last |= 0xFF << (self.len % 8);
            }
            self.bytes.resize(end.div_ceil(8), 0xFF);
            if !end.is_multiple_of(8)
                && let Some(last) = self.bytes.last_mut()
            {
                *last &= 0xFF >> (8 - end % 8);
            }
        } else {
            self.bytes.resize(end.div_ceil(8), 0);
        }
        self.len = end;
    }

    /// Removes all bits, keeping the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Cuts to at most `len` bits.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.bytes.truncate(len.div_ceil(8));
            if !len.is_multiple_of(8)
                && let Some(last) = self.bytes.last_mut()
            {
                *last &= 0xFF >> (8 - len % 8);
            }
            self.len = len;
        }
    }

    /// Number of set bits.
    pub fn count_ones(&self) -> usize {
        self.bytes.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether every bit is set.
    pub fn all_set(&self) -> bool {
        self.count_ones() == self.len
    }

    /// The bits, one by one.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|at| self.get(at))
    }

    /// Bitwise and with a bitmap of the same length.
    pub fn and_with(&mut self, other: &Bitmap) {
        debug_assert_eq!(self.len, other.len);
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(a, b)| *a &= b);
    }
}

impl FromIterator<bool> for Bitmap {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Bitmap {
        let mut bitmap = Bitmap::default();
        bits.into_iter().for_each(|bit| bitmap.push(bit));
        bitmap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_across_byte_borders() {
        let mut bitmap = Bitmap::default();
        let mut expected = Vec::new();
        for (count, value) in [(3, true), (7, false), (9, true), (1, false), (20, true)] {
            bitmap.extend(count, value);
            expected.extend(std::iter::repeat_n(value, count));
            assert_eq!(bitmap.iter().collect::<Vec<_>>(), expected);
        }
        assert_eq!(bitmap.count_ones(), 32);
        bitmap.truncate(13);
        bitmap.push(false);
        expected.truncate(13);
        expected.push(false);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), expected);
        assert!(Bitmap::from_bytes(bitmap.as_bytes().to_vec(), 14).is_some());
        assert!(Bitmap::from_bytes(vec![0xFF], 7).is_none());
    }
}
