//! CRC32, MD5, SHA1, SHA2.

use cairn_types::Datum;
use sha1::Digest;

use super::string_encode::hex_of;
use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    let bytes = call.bytes(0);
    Ok(match call.func {
        Func::Crc32 => Datum::UInt(u64::from(crc32fast::hash(&bytes))),
        Func::Md5 => Datum::from(hex_of(&md5(&bytes), false)),
        Func::Sha1 => Datum::from(hex_of(&sha1::Sha1::digest(&bytes), false)),
        _ => match call.int(1, ctx)? {
            224 => Datum::from(hex_of(&sha2::Sha224::digest(&bytes), false)),
            0 | 256 => Datum::from(hex_of(&sha2::Sha256::digest(&bytes), false)),
            384 => Datum::from(hex_of(&sha2::Sha384::digest(&bytes), false)),
            512 => Datum::from(hex_of(&sha2::Sha512::digest(&bytes), false)),
            _ => Datum::Null,
        },
    })
}

/// Left rotations of the four rounds (RFC 1321, section 3.4).
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// MD5 (RFC 1321). Only a checksum: it protects nothing.
pub(crate) fn md5(message: &[u8]) -> [u8; 16] {
    let mut state = [0x6745_2301u32, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476];
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64).wrapping_mul(8).to_le_bytes());
    for block in padded.chunks_exact(64) {
        md5_block(&mut state, block);
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

fn md5_block(state: &mut [u32; 4], block: &[u8]) {
    let word = |at: usize| {
        let bytes = &block[4 * at..4 * at + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes"))
    };
    let [mut a, mut b, mut c, mut d] = *state;
    for step in 0..64 {
        let (mix, at) = match step / 16 {
            0 => ((b & c) | (!b & d), step),
            1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
            2 => (b ^ c ^ d, (3 * step + 5) % 16),
            _ => (c ^ (b | !d), 7 * step % 16),
        };
        // The table of sines, computed: floor(2^32 * |sin(step + 1)|).
        let sine = (((step + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
        let sum = a.wrapping_add(mix).wrapping_add(sine).wrapping_add(word(at));
        (a, d, c) = (d, c, b);
        b = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
    }
    for (held, new) in state.iter_mut().zip([a, b, c, d]) {
        *held = held.wrapping_add(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_of_the_rfc() {
        let hex = |text: &str| hex_of(&md5(text.as_bytes()), false);
        assert_eq!(hex(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hex("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let long =
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890";
        assert_eq!(hex(long), "57edf4a22be3c955ac49da2e2107b67a");
    }
}
