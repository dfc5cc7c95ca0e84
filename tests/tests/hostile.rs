//! Peers that do not speak the protocol: random bytes, cut and mutated packets, before and after
//! the login, never stop the server or make it panic.
//!
//! `CAIRN_HOSTILE_PEERS` sets how many, `CAIRN_SEED` which.

use std::time::Duration;

use cairn_tests::{HarnessError, Layout, Playground};
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Hostile peers of a usual run.
const PEERS: u64 = 400;
/// How many come at the same time.
const PARALLEL_PEERS: usize = 16;
/// Packets a peer sends after its login.
const PACKETS_PER_PEER: usize = 6;
/// Length and sequence number before each payload.
const PACKET_HEADER_BYTES: usize = 4;
/// Longest run of random bytes.
const GARBAGE_BYTES_MAX: usize = 300;
/// How long a peer listens for an answer it need not get.
const LISTEN: Duration = Duration::from_millis(50);
/// How long the server may take to answer an honest client afterwards.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Statements whose packets are mutated.
const STATEMENTS: &[&str] = &[
    "SELECT 1",
    "SELECT * FROM information_schema.tables",
    "CREATE TABLE h.t (a INT PRIMARY KEY, b VARCHAR(10))",
    "INSERT INTO h.t VALUES (1, 'x'), (2, NULL)",
    "SELECT a, COUNT(*) FROM h.t WHERE b LIKE '%x' GROUP BY a HAVING COUNT(*) > 0 ORDER BY 1",
    "SELECT CAST('2024-01-01' AS DATETIME) + INTERVAL 1 DAY, JSON_EXTRACT('{}', '$.a')",
];

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A packet: length, sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("packets here are short").to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

/// Random bytes.
fn garbage(rng: &mut StdRng) -> Vec<u8> {
    let length = rng.random_range(0..GARBAGE_BYTES_MAX);
    (0..length).map(|_| rng.random()).collect()
}

/// Changes, cuts or lengthens some bytes.
fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes[at] = rng.random(),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, rng.random()),
            _ => bytes[at] ^= 1 << rng.random_range(0..8),
        }
    }
}

/// The answer of an honest root without a password to the greeting.
fn login() -> Vec<u8> {
    /// LONG_PASSWORD, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, MULTI_STATEMENTS,
    /// MULTI_RESULTS, PLUGIN_AUTH.
    const CAPABILITIES: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 19;
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    payload.extend(0x0100_0000_u32.to_le_bytes());
    payload.push(255);
    payload.extend([0; 23]);
    payload.extend(b"root\0\0");
    payload.extend(b"caching_sha2_password\0");
    payload
}

/// A command of a client, more or less.
fn command(rng: &mut StdRng) -> Vec<u8> {
    let statement = STATEMENTS[rng.random_range(0..STATEMENTS.len())].as_bytes();
    match rng.random_range(0..5) {
        // COM_QUERY, COM_STMT_PREPARE.
        0 | 1 => [&[3], statement].concat(),
        2 => [&[0x16], statement].concat(),
        // COM_STMT_EXECUTE of statement 1 with whatever follows.
        3 => [vec![0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0], garbage(rng)].concat(),
        _ => [vec![rng.random_range(0..0x22)], garbage(rng)].concat(),
    }
}

/// Takes what comes, without insisting.
async fn listen(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let _ = tokio::time::timeout(LISTEN, stream.read(&mut buffer)).await;
}

/// Whether the login, as it is, is answered with OK.
async fn lets_in(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut buffer = [0; 4096];
    let _greeting_length = stream.read(&mut buffer).await?;
    stream.write_all(&packet(1, &login())).await?;
    let length = stream.read(&mut buffer).await?;
    Ok(length > PACKET_HEADER_BYTES && buffer[PACKET_HEADER_BYTES] == 0)
}

/// One hostile peer. That its connection is closed on it is right.
async fn attack(port: u16, seed: u64) -> std::io::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    if rng.random_ratio(1, 4) {
        return stream.write_all(&garbage(&mut rng)).await;
    }
    listen(&mut stream).await;
    let mut answer = packet(1, &login());
    if rng.random_ratio(1, 4) {
        mutate(&mut rng, &mut answer);
    }
    stream.write_all(&answer).await?;
    listen(&mut stream).await;
    for _ in 0..PACKETS_PER_PEER {
        let mut payload = command(&mut rng);
        mutate(&mut rng, &mut payload);
        let mut bytes = packet(0, &payload);
        // Seldom a wrong length or sequence number as well.
        if rng.random_ratio(1, 8) {
            mutate(&mut rng, &mut bytes);
        }
        stream.write_all(&bytes).await?;
        listen(&mut stream).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_peers_do_not_stop_the_server() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let (port, seed) = (playground.port(), setting("CAIRN_SEED", 1));
    playground.connect("").await?.query_drop("CREATE DATABASE h").await?;
    // Otherwise nobody would get further than the door.
    assert!(lets_in(port).await.expect("an answer"), "the login of the peers is wrong");
    futures::stream::iter(0..setting("CAIRN_HOSTILE_PEERS", PEERS))
        .map(|peer| attack(port, seed.wrapping_mul(1_000_003).wrapping_add(peer)))
        .buffer_unordered(PARALLEL_PEERS)
        .for_each(|_closed_or_not| futures::future::ready(()))
        .await;
    playground.wait_until_it_answers(ANSWER_TIMEOUT).await?;
    let log = playground.log();
    assert!(!log.contains("panicked at"), "seed {seed}: the server panicked:\n{log}");
    Ok(())
}
