//! Randomness by seed: every job of loading and every session has a generator of its own, so
//! that the order in which they run changes nothing.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// What a generator is for: no two purposes share a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// A job of loading.
    Load(usize),
    /// What a session does.
    Session(usize),
    /// How long a worker waits before it tries again.
    Pauses(usize),
    /// Constants of a run.
    Run,
}

/// The generator of one purpose.
pub fn generator(seed: u64, stream: Stream) -> StdRng {
    let (purpose, number) = match stream {
        Stream::Load(job) => (1, job),
        Stream::Session(session) => (2, session),
        Stream::Pauses(worker) => (3, worker),
        Stream::Run => (4, 0),
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = purpose;
    bytes[16..24].copy_from_slice(&(number as u64).to_le_bytes());
    StdRng::from_seed(bytes)
}

/// Appends random letters and digits.
pub fn push_alphanumeric(rng: &mut StdRng, text: &mut String, length: usize) {
    const CHARACTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// Characters made of one random number: eight bits each.
    const AT_A_TIME: usize = 8;
    let mut left = length;
    while left > 0 {
        for byte in rng.next_u64().to_le_bytes().into_iter().take(left.min(AT_A_TIME)) {
            text.push(char::from(CHARACTERS[usize::from(byte) % CHARACTERS.len()]));
        }
        left -= left.min(AT_A_TIME);
    }
}

/// Random letters and digits of a random length.
pub fn alphanumeric(rng: &mut StdRng, shortest: usize, longest: usize) -> String {
    let length = rng.random_range(shortest..=longest);
    let mut text = String::with_capacity(length);
    push_alphanumeric(rng, &mut text, length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_everything_and_purposes_differ() {
        let text = |seed, stream| alphanumeric(&mut generator(seed, stream), 20, 20);
        assert_eq!(text(1, Stream::Load(3)), text(1, Stream::Load(3)));
        let first = text(1, Stream::Load(3));
        for (seed, stream) in
            [(2, Stream::Load(3)), (1, Stream::Load(4)), (1, Stream::Session(3)), (1, Stream::Run)]
        {
            assert_ne!(first, text(seed, stream));
        }
    }
}
