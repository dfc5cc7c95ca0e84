//! The one room of this crate where the machine's clock and entropy are read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clock of leases: it goes on while the machine is suspended.
pub use cairn_pd_client::clock::since_boot;

/// How far PD's time may jump ahead when another member leads: a leader begins above the bound
/// that the one before it made durable, 3 s ahead of its clock (`pd/src/tso.rs`).
pub const PD_JUMP_MAX: Duration = Duration::from_secs(3);

/// Microseconds since the Unix epoch: `NOW()`, timestamps in tables for people.
#[expect(clippy::disallowed_methods, reason = "the wall clock enters the SQL tier here")]
pub fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The monotonic clock: durations of statements and connections.
#[expect(clippy::disallowed_methods, reason = "the monotonic clock enters the SQL tier here")]
pub fn monotonic_now() -> Instant {
    Instant::now()
}

/// Random bytes for challenges and salts, none of them zero or `$`, which end strings in
/// the protocol and in stored hashes.
pub fn secret_bytes<const N: usize>() -> [u8; N] {
    use rand::Rng;
    let mut rng = rand::rng();
    std::array::from_fn(|_| {
        loop {
            let byte = rng.random_range(1..=127_u8);
            if byte != b'$' {
                break byte;
            }
        }
    })
}

/// Makes the server's RSA key.
pub fn generate_password_key() -> Option<crate::protocol::auth::PasswordKey> {
    crate::protocol::auth::PasswordKey::generate(&mut rsa::rand_core::OsRng)
}

/// Random bytes for `RAND()` and `UUID()`.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    use rand::RngCore;
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// Blocks the thread: `SLEEP()`.
#[expect(clippy::disallowed_methods, reason = "SLEEP() is there to block")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Nanoseconds on a clock that never goes back, for statistics.
pub fn monotonic_nanos() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(monotonic_now);
    u64::try_from(monotonic_now().duration_since(start).as_nanos()).unwrap_or(u64::MAX)
}
