//! The one binary: command line, configuration and the wiring of roles.
//!
//! | file | what it holds |
//! |---|---|
//! | `options.rs` | every option of every role: flags, environment, TOML |
//! | `roles.rs` | starting one role and keeping it until it is told to stop |
//! | `playground.rs` | a whole cluster in one process |
//! | `processes.rs` | a whole cluster of child processes |
//! | `ctl/` | looking at and steering a running cluster |
//! | `bench.rs` | putting load on a server and measuring it |
//! | `logging.rs`, `signals.rs` | structured logs; SIGINT and SIGTERM |

mod bench;
mod ctl;
mod error;
mod logging;
mod options;
mod playground;
mod processes;
mod roles;
mod signals;

use clap::Parser;

use crate::error::StartError;
use crate::options::{Command, Options};

// One allocator for Rust and RocksDB: bounded fragmentation, and it returns memory.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Stack of a worker: parsing bounds its depth by what fits well into this.
const WORKER_STACK_BYTES: usize = 8 << 20;

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), StartError> {
    let log_arguments = options.log_arguments();
    let command = options.command.with_file(options.config.as_deref())?;
    logging::start(
        options.log_level.as_deref(),
        options.log_format,
        matches!(command, Command::Ctl(_) | Command::Bench(_)),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(WORKER_STACK_BYTES)
        .thread_name("cairn")
        .build()
        .map_err(|error| StartError::io("cannot start the runtime", error))?;
    runtime.block_on(async {
        match command {
            Command::Playground(args) if args.processes() => {
                processes::run(args, &log_arguments).await
            }
            Command::Playground(args) => playground::run(args).await,
            Command::Pd(args) => roles::run_pd(args).await,
            Command::Kv(args) => roles::run_kv(args).await,
            Command::Sql(args) => roles::run_sql(args).await,
            Command::Ctl(args) => ctl::run(args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    })
}
