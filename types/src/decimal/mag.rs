//! Unsigned integers of 640 bits (192 digits): room for every intermediate of
//! decimal arithmetic, the widest being a product of two 81-digit numbers.

use std::cmp::Ordering;
use std::sync::LazyLock;

/// Words of a [`Mag`], least significant first.
const WORDS: usize = 10;
/// Powers of ten that fit a [`Mag`].
const POWERS: usize = 193;

/// A magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mag([u64; WORDS]);

static POW10: LazyLock<Box<[Mag]>> = LazyLock::new(|| {
    let mut powers = Vec::with_capacity(POWERS);
    let mut power = Mag::from_u128(1);
    for _ in 0..POWERS {
        powers.push(power);
        power.mul_add_small(10, 0);
    }
    powers.into_boxed_slice()
});

impl PartialOrd for Mag {
    fn partial_cmp(&self, other: &Mag) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mag {
    fn cmp(&self, other: &Mag) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl Mag {
    pub(super) const ZERO: Mag = Mag([0; WORDS]);

    pub(super) fn from_u128(value: u128) -> Mag {
        let mut words = [0; WORDS];
        words[0] = value as u64;
        words[1] = (value >> 64) as u64;
        Mag(words)
    }

    pub(super) fn to_u128(self) -> Option<u128> {
        if self.0[2..].iter().any(|word| *word != 0) {
            return None;
        }
        Some(u128::from(self.0[0]) | (u128::from(self.0[1]) << 64))
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn is_odd(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// 10 to the `n`; `n` beyond the table saturates.
    pub(super) fn pow10(n: usize) -> &'static Mag {
        &POW10[n.min(POWERS - 1)]
    }

    /// Decimal digits; 0 has one.
    pub(super) fn digits(&self) -> usize {
        POW10.partition_point(|power| power <= self).max(1)
    }

    /// self = self * factor + addend; bits beyond the width are lost.
    pub(super) fn mul_add_small(&mut self, factor: u64, addend: u64) {
        let mut carry = u128::from(addend);
        for word in &mut self.0 {
            let product = u128::from(*word) * u128::from(factor) + carry;
            *word = product as u64;
            carry = product >> 64;
        }
    }

    /// self = self / divisor; returns the remainder.
    pub(super) fn div_small(&mut self, divisor: u64) -> u64 {
        let mut remainder = 0u128;
        for word in self.0.iter_mut().rev() {
            let dividend = (remainder << 64) | u128::from(*word);
            *word = (dividend / u128::from(divisor)) as u64;
            remainder = dividend % u128::from(divisor);
        }
        remainder as u64
    }

    /// Sum; operands are far below the width.
    pub(super) fn add(&self, other: &Mag) -> Mag {
        let mut out = *self;
        let mut carry = false;
        for (word, addend) in out.0.iter_mut().zip(other.0) {
            let (sum, first) = word.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = first | second;
        }
        out
    }

    /// Difference; `self >= other`.
    pub(super) fn sub(&self, other: &Mag) -> Mag {
        let mut out = *self;
        let mut borrow = false;
        for (word, subtrahend) in out.0.iter_mut().zip(other.0) {
            let (difference, first) = word.overflowing_sub(subtrahend);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            *word = difference;
            borrow = first | second;
        }
        out
    }

    /// Product, or `None` if it does not fit.
    pub(super) fn mul(&self, other: &Mag) -> Option<Mag> {
        let (m, n) = (self.len(), other.len());
        if m + n > WORDS + 1 {
            return None;
        }
        let mut out = [0u64; WORDS + 1];
        for i in 0..m {
            let mut carry = 0u128;
            for j in 0..n {
                let sum =
                    u128::from(self.0[i]) * u128::from(other.0[j]) + u128::from(out[i + j]) + carry;
                out[i + j] = sum as u64;
                carry = sum >> 64;
            }
            if carry != 0 {
                *out.get_mut(i + n)? = carry as u64;
            }
        }
        if out[WORDS] != 0 {
            return None;
        }
        let mut words = [0; WORDS];
        words.copy_from_slice(&out[..WORDS]);
        Some(Mag(words))
    }

    /// Times 10 to the `n`, or `None` if it does not fit.
    pub(super) fn scale_up(&self, n: usize) -> Option<Mag> {
        if n == 0 { Some(*self) } else { self.mul(Mag::pow10(n)) }
    }

    /// Significant words.
    fn len(&self) -> usize {
        self.0.iter().rposition(|word| *word != 0).map_or(0, |at| at + 1)
    }

    /// Quotient and remainder; the divisor is not zero.
    pub(super) fn div_rem(&self, divisor: &Mag) -> (Mag, Mag) {
        if self < divisor {
            return (Mag::ZERO, *self);
        }
        if divisor.len() == 1 {
            let mut quotient = *self;
            let remainder = quotient.div_small(divisor.0[0]);
            return (quotient, Mag::from_u128(u128::from(remainder)));
        }
        self.div_long(divisor)
    }

    /// Knuth's algorithm D on 32-bit digits (TAOCP vol. 2, 4.3.1).
    fn div_long(&self, divisor: &Mag) -> (Mag, Mag) {
        let shift = divisor.0[divisor.len() - 1].leading_zeros();
        let mut u = to_halves(self, shift);
        let v = to_halves(divisor, shift);
        // The divisor's top word is normalised to 64 bits: an even digit count.
        let n = 2 * divisor.len();
        let top = u.len() - 1;
        let mut q = [0u32; 2 * WORDS + 1];
        for j in (0..=top - n).rev() {
            let head = (u64::from(u[j + n]) << 32) | u64::from(u[j + n - 1]);
            let mut guess = head / u64::from(v[n - 1]);
            let mut rest = head % u64::from(v[n - 1]);
            while guess >> 32 != 0
                || guess * u64::from(v[n - 2]) > ((rest << 32) | u64::from(u[j + n - 2]))
            {
                guess -= 1;
                rest += u64::from(v[n - 1]);
                if rest >> 32 != 0 {
                    break;
                }
            }
            let mut borrow = 0i64;
            let mut carry = 0u64;
            for i in 0..n {
                let product = guess * u64::from(v[i]) + carry;
                carry = product >> 32;
                let difference = i64::from(u[i + j]) - borrow - (product & 0xFFFF_FFFF) as i64;
                u[i + j] = difference as u32;
                borrow = i64::from(difference < 0);
            }
            let difference = i64::from(u[j + n]) - borrow - carry as i64;
            u[j + n] = difference as u32;
            if difference < 0 {
                guess -= 1;
                let mut carry = 0u64;
                for i in 0..n {
                    let sum = u64::from(u[i + j]) + u64::from(v[i]) + carry;
                    u[i + j] = sum as u32;
                    carry = sum >> 32;
                }
                u[j + n] = u[j + n].wrapping_add(carry as u32);
            }
            q[j] = guess as u32;
        }
        (from_halves(&q, 0), from_halves(&u, shift))
    }
}

/// 32-bit digits of `mag << shift`, one digit wider than the magnitude.
fn to_halves(mag: &Mag, shift: u32) -> [u32; 2 * WORDS + 1] {
    let mut out = [0; 2 * WORDS + 1];
    let mut carry = 0u64;
    for (i, word) in mag.0.iter().enumerate() {
        let shifted = (u128::from(*word) << shift) | u128::from(carry);
        out[2 * i] = shifted as u32;
        out[2 * i + 1] = (shifted >> 32) as u32;
        carry = (shifted >> 64) as u64;
    }
    out[2 * WORDS] = carry as u32;
    out
}

/// The magnitude of 32-bit digits, shifted right.
fn from_halves(halves: &[u32; 2 * WORDS + 1], shift: u32) -> Mag {
    let word = |i: usize| -> u64 {
        let low = u64::from(halves[2 * i]);
        let high = halves.get(2 * i + 1).copied().unwrap_or(0);
        low | (u64::from(high) << 32)
    };
    let mut out = [0; WORDS];
    for (i, slot) in out.iter_mut().enumerate() {
        let wide = u128::from(word(i)) | (u128::from(word(i + 1)) << 64);
        *slot = (wide >> shift) as u64;
    }
    Mag(out)
}
