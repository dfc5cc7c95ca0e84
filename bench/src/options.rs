//! The options of `cairn bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::bank::BankArgs;
use crate::client::Target;
use crate::error::BenchError;
use crate::tpcc::TpccArgs;
use crate::tpch::TpchArgs;
use crate::ycsb::YcsbArgs;

/// Most connections of one generator: more than any machine drives.
const THREADS_MAX: i64 = 10_000;
/// Port of a server whose port is not given: a playground's.
const DEFAULT_PORT: u16 = 4000;

/// `cairn bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to do with the server.
    #[command(subcommand)]
    pub workload: WorkloadArgs,
}

/// The workloads.
#[derive(Debug, Subcommand)]
pub enum WorkloadArgs {
    /// TPC-C: orders of a wholesale supplier, five kinds of transactions.
    Tpcc(TpccArgs),
    /// TPC-H: 22 queries of a wholesaler's analysts.
    Tpch(TpchArgs),
    /// YCSB's core workloads A to F: single rows by key, and scans.
    Ycsb(YcsbArgs),
    /// Transfers between accounts, whose sum is checked all the time.
    Bank(BankArgs),
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Make the tables, load the rows and check them.
    Prepare,
    /// Put load on the server and measure.
    #[default]
    Run,
    /// Check the data.
    Check,
    /// Drop the tables.
    Cleanup,
}

/// Options of every workload.
#[derive(Clone, Debug, Args)]
pub struct SharedArgs {
    /// The server: HOST or HOST:PORT; several, separated by commas, share the connections.
    #[arg(long, env = "CAIRN_BENCH_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the servers that are named without one.
    #[arg(
        long,
        env = "CAIRN_BENCH_PORT",
        default_value_t = DEFAULT_PORT,
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    pub port: u16,
    /// The account.
    #[arg(long, env = "CAIRN_BENCH_USER", default_value = "root")]
    pub user: String,
    /// Its password.
    #[arg(long, env = "CAIRN_BENCH_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// The database, made by `prepare` if it is not there. Default: the workload's name.
    #[arg(long)]
    pub db: Option<String>,
    /// Connections, each with one transaction at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=THREADS_MAX))]
    pub threads: u32,
    /// How long to measure, in seconds; 0: until Ctrl-C.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub time: u32,
    /// How long to run before measuring, in seconds.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub warmup: u32,
    /// Seconds between two lines of progress; 0: none.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub interval: u32,
    /// Where all randomness begins.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Send statements as text instead of prepared ones.
    #[arg(long)]
    pub text: bool,
    /// Go on after errors that an application would not try again.
    #[arg(long)]
    pub ignore_errors: bool,
    /// Check the data after the run.
    #[arg(long)]
    pub check: bool,
    /// Write the summary of a run to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl SharedArgs {
    /// Where the servers are; `default_database` is used if none is named.
    pub fn target(&self, default_database: &str) -> Result<Target, BenchError> {
        let names = self.host.split(',').map(str::trim).filter(|name| !name.is_empty());
        let servers: Vec<_> =
            names.map(|name| server(name, self.port)).collect::<Result<_, BenchError>>()?;
        if servers.is_empty() {
            return Err(BenchError::Options("--host: no server is named".to_owned()));
        }
        let database = self.db.clone().unwrap_or_else(|| default_database.to_owned());
        if database.is_empty() || database.contains('`') {
            return Err(BenchError::Options(format!("--db '{database}': not a database's name")));
        }
        Ok(Target {
            servers,
            user: self.user.clone(),
            password: self.password.clone(),
            database,
            text: self.text,
        })
    }
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
fn server(name: &str, default_port: u16) -> Result<(String, u16), BenchError> {
    let wrong = || BenchError::Options(format!("--host '{name}': not of the form HOST:PORT"));
    let (host, port) = match name.rsplit_once(':') {
        // An IPv6 address on its own.
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => (name, None),
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| wrong())?,
        None => default_port,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_with_and_without_ports() {
        let named = |name| server(name, 4000).ok();
        assert_eq!(named("db1"), Some(("db1".to_owned(), 4000)));
        assert_eq!(named("db1:3306"), Some(("db1".to_owned(), 3306)));
        assert_eq!(named("::1"), Some(("::1".to_owned(), 4000)));
        assert_eq!(named("[::1]:3306"), Some(("::1".to_owned(), 3306)));
        for wrong in [":3306", "db1:", "db1:x", "db1:0", "db1:70000"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }
}
