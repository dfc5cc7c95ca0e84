//! Challenge and response of the two password plug-ins.
//!
//! `mysql_native_password` proves `SHA1(password)` against the stored
//! `SHA1(SHA1(password))`; `caching_sha2_password` does the same with SHA-256 when the
//! server remembers `SHA256(SHA256(password))` from an earlier login (fast path), and
//! otherwise asks for the password itself, encrypted with the server's RSA key.
//!
//! Stored form: native `*` and 40 hexadecimal digits, as MySQL; SHA-2 `$A$`, 16
//! hexadecimal digits of rounds and salt, and the digest of an iterated salted hash.
//!
//! Sources: MySQL 8.0 source docs, "Native Authentication" and "Caching_sha2_password
//! information". Comparisons take the same time whatever differs (CVE-2012-2122).

use rsa::pkcs8::EncodePublicKey;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::handshake::NONCE_BYTES;

/// Rounds of the stored SHA-2 form; MySQL's default (`$A$005$`: 5 × 1,000).
const SHA2_ROUNDS: u32 = 5_000;
/// Bits of the RSA key for passwords over connections without TLS.
const RSA_KEY_BITS: usize = 2_048;

/// Compares without an early exit.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// The stored form of a password for `mysql_native_password`.
pub fn native_hash(password: &[u8]) -> String {
    if password.is_empty() {
        return String::new();
    }
    format!("*{}", hex(&sha1(&[&sha1(&[password])])))
}

/// Whether `response` proves the password behind `stored`.
pub fn native_verify(stored: &str, nonce: &[u8; NONCE_BYTES], response: &[u8]) -> bool {
    if stored.is_empty() {
        return response.is_empty();
    }
    let Some(stored) = stored.strip_prefix('*').and_then(unhex) else { return false };
    if response.len() != 20 || stored.len() != 20 {
        return false;
    }
    let mask = sha1(&[nonce, &stored]);
    let stage1: Vec<u8> = response.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    equal_in_constant_time(&sha1(&[&stage1]), &stored)
}

/// The stored form of a password for `caching_sha2_password`.
pub fn sha2_hash(password: &[u8], salt: [u8; 16]) -> String {
    if password.is_empty() {
        return String::new();
    }
    format!(
        "$A${:04X}${}{}",
        SHA2_ROUNDS,
        hex(&salt),
        hex(&sha2_stretch(password, &salt, SHA2_ROUNDS))
    )
}

/// Salted and iterated SHA-256.
fn sha2_stretch(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    let mut digest = sha256(&[salt, password]);
    for _ in 0..rounds {
        digest = sha256(&[&digest, salt, password]);
    }
    digest
}

/// Whether `password` is the one behind `stored`.
pub fn sha2_verify_password(stored: &str, password: &[u8]) -> bool {
    if stored.is_empty() {
        return password.is_empty();
    }
    let Some((rounds, rest)) = stored.strip_prefix("$A$").and_then(|rest| rest.split_once('$'))
    else {
        return false;
    };
    let (Ok(rounds), Some(bytes)) = (u32::from_str_radix(rounds, 16), unhex(rest)) else {
        return false;
    };
    bytes.len() == 48
        && rounds <= SHA2_ROUNDS
        && equal_in_constant_time(&sha2_stretch(password, &bytes[..16], rounds), &bytes[16..])
}

/// What the fast path needs to remember after a full login.
pub fn sha2_fast_digest(password: &[u8]) -> [u8; 32] {
    sha256(&[&sha256(&[password])])
}

/// Whether `response` proves the password behind a remembered digest.
pub fn sha2_fast_verify(remembered: &[u8; 32], nonce: &[u8; NONCE_BYTES], response: &[u8]) -> bool {
    if response.len() != 32 {
        return false;
    }
    let mask = sha256(&[remembered, nonce]);
    let stage1: Vec<u8> = response.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    equal_in_constant_time(&sha256(&[&stage1]), remembered)
}

/// The server's key for passwords sent without TLS.
#[derive(Debug)]
pub struct PasswordKey {
    private: rsa::RsaPrivateKey,
    public_pem: String,
}

impl PasswordKey {
    /// Makes a key; takes tens of milliseconds, so it is done when first asked for.
    pub fn generate(rng: &mut (impl rsa::rand_core::CryptoRngCore + ?Sized)) -> Option<Self> {
        let private = rsa::RsaPrivateKey::new(rng, RSA_KEY_BITS).ok()?;
        let public_pem =
            private.to_public_key().to_public_key_pem(rsa::pkcs8::LineEnding::LF).ok()?;
        Some(Self { private, public_pem })
    }

    /// The public half, as clients expect it.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The password in `encrypted`: OAEP with SHA-1 over `password\0` XOR the nonce.
    pub fn decrypt(&self, encrypted: &[u8], nonce: &[u8; NONCE_BYTES]) -> Option<Vec<u8>> {
        let mut password = self.private.decrypt(rsa::Oaep::new::<Sha1>(), encrypted).ok()?;
        password.iter_mut().zip(nonce.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        (password.pop() == Some(0)).then_some(password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; NONCE_BYTES] = *b"abcdefghijklmnopqrst";

    #[test]
    fn native_accepts_the_password_and_nothing_else() {
        let stored = native_hash(b"secret");
        assert_eq!(stored, "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7");
        let stage1 = sha1(&[b"secret"]);
        let mask = sha1(&[&NONCE, &sha1(&[&stage1])]);
        let right: Vec<u8> = stage1.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert!(native_verify(&stored, &NONCE, &right));
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert!(!native_verify(&stored, &NONCE, &wrong));
        }
        assert!(!native_verify(&stored, &NONCE, b""));
        assert!(native_verify("", &NONCE, b""));
    }

    #[test]
    fn sha2_accepts_the_password_and_nothing_else() {
        let stored = sha2_hash(b"secret", *b"0123456789abcdef");
        assert!(sha2_verify_password(&stored, b"secret"));
        assert!(!sha2_verify_password(&stored, b"Secret"));
        assert!(!sha2_verify_password("$A$garbage", b"secret"));
        let remembered = sha2_fast_digest(b"secret");
        let stage1 = sha256(&[b"secret"]);
        let mask = sha256(&[&remembered, &NONCE]);
        let right: Vec<u8> = stage1.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert!(sha2_fast_verify(&remembered, &NONCE, &right));
        assert!(!sha2_fast_verify(&remembered, &NONCE, &right[1..]));
    }
}
