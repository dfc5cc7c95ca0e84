//! How many timestamps a second one member hands out: directly, and over gRPC through the
//! batching client, with server and client on the same machine.
//!
//! `cargo run --release -p cairn-pd --example tso_bench [SECONDS]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_pd::clock::SystemClock;
use cairn_pd::{PdConfig, PdParts, PdServer};
use cairn_pd_client::{GrpcPdClient, PdClient};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Seconds of each measurement.
const SECONDS: u64 = 5;
/// Callers at the same time.
const CALLERS: [usize; 4] = [1, 64, 1_024, 8_192];

fn main() {
    let given = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = Duration::from_secs(given.unwrap_or(SECONDS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let parts = PdParts::in_memory(Arc::new(SystemClock::new()));
        let server = PdServer::open_with(PdConfig::in_memory("pd-1"), parts).await.expect("opens");
        println!("{:>24} {:>14}", "", "timestamps/s");
        println!("{:>24} {:>14.0}", "direct, one caller", direct(&server, time).await);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve_grpc(listener, std::future::pending()).await });
        let client = Arc::new(GrpcPdClient::connect(&[address]).await.expect("it leads"));
        for callers in CALLERS {
            let rate = over_grpc(&client, callers, time).await;
            println!("{:>24} {rate:>14.0}", format!("gRPC, {callers} callers"));
        }
        server.stop().await;
    });
}

/// One caller in the same process.
async fn direct(server: &Arc<PdServer>, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < time {
        for _ in 0..1_000 {
            if server.try_get_ts(1).is_none() {
                server.get_ts(1).await.expect("serves");
            }
            count += 1;
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Callers that each wait for their timestamp before they ask for the next.
async fn over_grpc(client: &Arc<GrpcPdClient>, callers: usize, time: Duration) -> f64 {
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (client, count, stop) = (client.clone(), count.clone(), stop.clone());
            tokio::spawn(async move {
                let mut last = None;
                while !stop.load(Ordering::Relaxed) {
                    let ts = client.get_ts().await.expect("serves");
                    assert!(last < Some(ts));
                    last = Some(ts);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    for task in tasks {
        task.await.expect("runs");
    }
    rate
}
