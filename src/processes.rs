//! A whole cluster of child processes, one per node, over gRPC.
//!
//! A node that dies stays dead: whoever killed it wants to see what the others do. It is
//! started again by `cairn kv`, with the same folder, as the log tells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::error::StartError;
use crate::options::{Counts, PlaygroundArgs};
use crate::playground::{
    DataDir, RESERVE_BYTES, client_command, nth_addr, pd_folder, pd_name, slow_log_name,
};
use crate::roles::{announce, connect_pd, wait_for_replicas};
use crate::signals::StopSignals;

/// How long a node may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A child process that serves.
struct Node {
    name: String,
    child: Child,
}

/// Starts one node and waits for its `ready` line; answers the line's words.
async fn start(name: &str, args: &[String]) -> Result<(Node, Vec<String>), StartError> {
    let program = std::env::current_exe()
        .map_err(|error| StartError::io("cannot find the program itself", error))?;
    tracing::info!(node = name, command = %format!("cairn {}", args.join(" ")), "starting");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Ctrl-C reaches the parent alone, which then stops the nodes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| StartError::io(format!("cannot start {name}"), error))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut lines = BufReader::new(stdout).lines();
    let ready = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("ready") {
                return Some(line.split_whitespace().map(str::to_owned).collect());
            }
        }
        None
    };
    match tokio::time::timeout(READY_TIMEOUT, ready).await {
        Ok(Some(words)) => Ok((Node { name: name.to_owned(), child }, words)),
        Ok(None) => {
            Err(StartError::Config(format!("{name} ended before it was ready, see its log above")))
        }
        Err(_) => Err(StartError::Config(format!("{name} was not ready in time"))),
    }
}

/// Word `at` of a `ready` line, as an address.
fn address(words: &[String], at: usize) -> Result<SocketAddr, StartError> {
    let word = words.get(at).and_then(|word| word.parse().ok());
    word.ok_or_else(|| StartError::Config("a node did not tell its address".to_owned()))
}

/// Addresses of so many nodes; free ports are found by taking them for a moment.
fn known_addrs(ip: IpAddr, first_port: u16, count: usize) -> Result<Vec<SocketAddr>, StartError> {
    let io = |error| StartError::io("cannot find a free port", error);
    // All at once, so that no port is found twice.
    let held = (0..count)
        .map(|n| std::net::TcpListener::bind(nth_addr(ip, first_port, n)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io)?;
    held.iter().map(|listener| listener.local_addr().map_err(io)).collect()
}

/// `cairn playground --processes`; every node takes `log_arguments` too.
pub async fn run(args: PlaygroundArgs, log_arguments: &[String]) -> Result<(), StartError> {
    let start = async |name: &str, mut node_args: Vec<String>| {
        node_args.extend_from_slice(log_arguments);
        start(name, &node_args).await
    };
    let mut signals = StopSignals::listen()?;
    let Counts { stores, sql_nodes, pd_members } = args.counts()?;
    let data = DataDir::open(args.data_dir.clone())?;
    data.check_pd_members(pd_members)?;
    let host = args.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let inner = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut nodes = Vec::new();
    let words = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let path = |node: &str| data.of(node).display().to_string();

    let replicas = if stores >= 3 { 3 } else { 1 };
    let first_port = args.pd_port.unwrap_or(2379);
    let pd_addrs = match pd_members {
        1 => vec![nth_addr(inner, first_port, 0)],
        // They must know of each other before they start.
        _ => known_addrs(inner, first_port, pd_members)?,
    };
    let listed = pd_addrs.iter().enumerate().map(|(n, addr)| format!("{}={addr}", pd_name(n)));
    let initial_cluster = listed.collect::<Vec<_>>().join(",");
    let mut pd_served = Vec::with_capacity(pd_members);
    for (n, addr) in pd_addrs.iter().enumerate() {
        let name = pd_name(n);
        let mut pd_args = words(&[
            "pd",
            "--name",
            &name,
            "--data-dir",
            &path(&pd_folder(n)),
            "--addr",
            &addr.to_string(),
            "--max-replicas",
            &replicas.to_string(),
        ]);
        if pd_members > 1 {
            pd_args.extend(words(&["--initial-cluster", &initial_cluster]));
        }
        let (node, ready) = start(&name, pd_args).await?;
        nodes.push(node);
        pd_served.push(address(&ready, 2)?.to_string());
    }
    let pd_addr = pd_served.join(",");

    for n in 0..stores {
        let name = format!("kv-{}", n + 1);
        let addr = nth_addr(inner, args.kv_port.unwrap_or(20160), n).to_string();
        let mut kv_args =
            words(&["kv", "--data-dir", &path(&name), "--addr", &addr, "--pd", &pd_addr]);
        kv_args.extend(words(&["--reserve-bytes", &RESERVE_BYTES.to_string()]));
        // Which port it became, PD knows: `cairn ctl --json store`.
        kv_args.extend(words(&["--status-addr", &SocketAddr::new(inner, 0).to_string()]));
        if let Some(bytes) = args.region_split_bytes {
            kv_args.extend(words(&["--region-split-bytes", &bytes.to_string()]));
        }
        if let Some(bytes) = args.block_cache_bytes {
            kv_args.extend(words(&["--block-cache-bytes", &bytes.to_string()]));
        }
        nodes.push(start(&name, kv_args).await?.0);
    }
    let mut first = None;
    for n in 0..sql_nodes {
        let name = format!("sql-{}", n + 1);
        let addr = nth_addr(host, args.port.unwrap_or(4000), n).to_string();
        let status = nth_addr(host, args.status_port.unwrap_or(10080), n).to_string();
        let mut sql_args =
            words(&["sql", "--addr", &addr, "--status-addr", &status, "--pd", &pd_addr]);
        if args.insecure.unwrap_or(false) {
            sql_args.push("--insecure".to_owned());
        }
        for (flag, number) in [
            ("--gc-life-time-s", args.gc_life_time_s),
            ("--gc-run-interval-s", args.gc_run_interval_s),
            ("--tmp-storage-quota", args.tmp_storage_quota),
        ] {
            if let Some(number) = number {
                sql_args.extend(words(&[flag, &number.to_string()]));
            }
        }
        sql_args.extend(words(&["--slow-log-path", &path(&slow_log_name(n))]));
        if let Some(path) = &args.tmp_storage_path {
            sql_args.extend(words(&["--tmp-storage-path", &path.to_string_lossy()]));
        }
        let (node, ready) = start(&name, sql_args).await?;
        nodes.push(node);
        first.get_or_insert(address(&ready, 2)?);
    }
    let first = first.ok_or_else(|| StartError::Config("no SQL node".to_owned()))?;
    let pd = connect_pd(&pd_addr).await?;
    wait_for_replicas(&pd, replicas).await?;
    for node in &nodes {
        tracing::info!(node = node.name, pid = node.child.id().unwrap_or(0), "running");
    }
    announce(&format!("ready {}   # cairn ctl --pd {pd_addr}", client_command(first)));
    signals.wait().await;
    // Those who ask stop before those who answer.
    while let Some(node) = nodes.pop() {
        stop(node).await;
    }
    Ok(())
}

/// Sends SIGTERM, waits, and kills what does not listen.
async fn stop(mut node: Node) {
    if let Some(pid) = node.child.id() {
        let terminated = Command::new("kill").arg(pid.to_string()).status().await;
        if terminated.is_ok() && tokio::time::timeout(STOP_TIMEOUT, node.child.wait()).await.is_ok()
        {
            return;
        }
        tracing::warn!(node = node.name, "does not stop: killed");
        let _ = node.child.kill().await;
    }
}
