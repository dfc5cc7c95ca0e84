//! A TCP proxy that makes a link slow: every byte arrives later by a delay, and not more of them
//! per second than a bandwidth allows. Both can be changed while connections are open.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{HarnessError, pass};

/// Bytes read at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces under way in one direction of a connection.
const PIECES_MAX: usize = 256;

/// How slow the link is.
#[derive(Debug, Default)]
struct Speed {
    delay_us: AtomicU64,
    /// 0: no limit.
    bytes_per_s: AtomicU64,
}

/// A running proxy to one address.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    speed: Arc<Speed>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of `on`, and leads to `to`, as fast as it can at first.
    pub async fn start(on: Ipv4Addr, to: SocketAddr) -> Result<Self, HarnessError> {
        let failed = |error| HarnessError::io(format!("listen on {on}"), error);
        let listener = TcpListener::bind((on, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let speed = Arc::new(Speed::default());
        let accepting = tokio::spawn({
            let speed = Arc::clone(&speed);
            async move {
                while let Ok((from, _)) = listener.accept().await {
                    tokio::spawn(join(from, to, Arc::clone(&speed)));
                }
            }
        });
        Ok(Self { port, speed, accepting })
    }

    /// Every byte arrives this much later, in each direction.
    pub fn delay(&self, by: Duration) {
        self.speed.delay_us.store(by.as_micros() as u64, Ordering::Relaxed);
    }

    /// At most so many bytes per second in each direction of each connection; 0: no limit.
    pub fn limit(&self, bytes_per_s: u64) {
        self.speed.bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Joins one connection to the address, until either side ends it.
async fn join(from: TcpStream, to: SocketAddr, speed: Arc<Speed>) {
    let Ok(to) = TcpStream::connect(to).await else { return };
    for stream in [&from, &to] {
        // Without it, small packets would wait for the answer to the one before.
        let _ = stream.set_nodelay(true);
    }
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    // What is left of a connection that ended on one side is of no use to the other.
    tokio::select! {
        () = carry(from_read, to_write, &speed) => {}
        () = carry(to_read, from_write, &speed) => {}
    }
}

/// One direction.
async fn carry(mut read: OwnedReadHalf, mut write: OwnedWriteHalf, speed: &Speed) {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    // Each owns its end of the queue, so that the other one learns when it is done.
    let reading = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let arrived = Instant::now();
            if pieces.send((arrived, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((arrived, piece)) = waiting.recv().await {
            let delay = Duration::from_micros(speed.delay_us.load(Ordering::Relaxed));
            pass((arrived + delay).saturating_duration_since(Instant::now())).await;
            if write.write_all(&piece).await.is_err() {
                return;
            }
            let bytes_per_s = speed.bytes_per_s.load(Ordering::Relaxed);
            if bytes_per_s > 0 {
                pass(Duration::from_secs_f64(piece.len() as f64 / bytes_per_s as f64)).await;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_later() {
        let on = Ipv4Addr::LOCALHOST;
        let echo = TcpListener::bind((on, 0)).await.expect("a free port");
        let to = echo.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.expect("the proxy connects");
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.expect("echoed");
        });
        let proxy = Proxy::start(on, to).await.expect("a free port");
        proxy.delay(Duration::from_millis(50));
        let mut stream = TcpStream::connect((on, proxy.port)).await.expect("it listens");
        let began = Instant::now();
        stream.write_all(b"there and back").await.expect("sent");
        let mut answer = [0; 14];
        stream.read_exact(&mut answer).await.expect("echoed");
        assert_eq!(&answer, b"there and back");
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }
}
