//! `cairn bench`: puts load on any server that speaks MySQL, and measures it.
//!
//! Peers are measured by the same program: nothing here knows more of Cairn than the protocol,
//! and all SQL is plain MySQL.
//!
//! | file | what it holds |
//! |---|---|
//! | `options.rs` | the options that all workloads share |
//! | `workload.rs` | what a workload is: tables, rows, sessions, conditions |
//! | `load.rs` | `prepare`, `check` and `cleanup` |
//! | `runner.rs` | `run`: one task per connection, repeats, phases |
//! | `client.rs` | a connection: prepared statements or text |
//! | `figures.rs`, `histogram.rs`, `report.rs` | what is counted, and how it is told |
//! | `tpcc/`, `tpch/`, `ycsb/`, `bank.rs` | the workloads |
//! | `random.rs`, `clock.rs` | where randomness and time come from |

mod bank;
mod client;
mod clock;
mod error;
mod figures;
mod histogram;
mod load;
mod options;
mod random;
mod report;
mod runner;
mod tpcc;
mod tpch;
mod workload;
mod ycsb;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use error::BenchError;
pub use options::{BenchArgs, WorkloadArgs};

use client::{Client, Target};
use load::CheckResult;
use options::{Action, SharedArgs};
use report::{KindSummary, Summary, rounded};
use runner::{Measured, Plan};
use workload::Workload;

/// Does what the options say; `stop` ends a run with its summary, and anything else with
/// [`BenchError::Interrupted`].
pub async fn run(args: BenchArgs, stop: CancellationToken) -> Result<(), BenchError> {
    match args.workload {
        WorkloadArgs::Tpcc(args) => {
            let workload = tpcc::Tpcc::new(&args)?;
            act(workload, args.action, &args.shared, &stop).await
        }
        WorkloadArgs::Tpch(args) => {
            let workload = tpch::Tpch::new(&args)?;
            act(workload, args.action, &args.shared, &stop).await
        }
        WorkloadArgs::Ycsb(args) => {
            let workload = ycsb::Ycsb::new(&args)?;
            act(workload, args.action, &args.shared, &stop).await
        }
        WorkloadArgs::Bank(args) => {
            let workload = bank::Bank::new(&args)?;
            act(workload, args.action, &args.shared, &stop).await
        }
    }
}

/// Does one thing with a workload.
async fn act<W: Workload>(
    workload: W,
    action: Action,
    shared: &SharedArgs,
    stop: &CancellationToken,
) -> Result<(), BenchError> {
    let name = workload.name();
    let database = name.split('-').next().unwrap_or_default();
    let target = Arc::new(shared.target(database)?);
    let threads = shared.threads as usize;
    let work = async {
        match action {
            Action::Prepare => {
                let workload = Arc::new(workload);
                load::prepare(&workload, &target, threads).await?;
                check(workload.as_ref(), &target).await.and_then(|results| load::verdict(&results))
            }
            Action::Run => measure(workload, shared, &target, stop).await,
            Action::Check => {
                let workload = looked_at(workload, &target).await?;
                check(&workload, &target).await.and_then(|results| load::verdict(&results))
            }
            Action::Cleanup => load::clean_up(&workload, &target).await,
        }
    };
    match action {
        // A run ends by itself when it is told to.
        Action::Run => work.await,
        _ => tokio::select! {
            done = work => done,
            () = stop.cancelled() => Err(BenchError::Interrupted),
        },
    }
}

/// The workload, with the sizes of what the database holds.
async fn looked_at<W: Workload>(mut workload: W, target: &Arc<Target>) -> Result<W, BenchError> {
    let mut client = Client::new(Arc::clone(target), 0);
    workload.look(&mut client).await?;
    client.close().await;
    Ok(workload)
}

async fn check<W: Workload>(
    workload: &W,
    target: &Arc<Target>,
) -> Result<Vec<CheckResult>, BenchError> {
    load::check(workload.conditions(), target).await
}

/// Runs, reports, and checks if that is wanted.
async fn measure<W: Workload>(
    workload: W,
    shared: &SharedArgs,
    target: &Arc<Target>,
    stop: &CancellationToken,
) -> Result<(), BenchError> {
    let workload = Arc::new(looked_at(workload, target).await?);
    let mut client = Client::new(Arc::clone(target), 0);
    let version: Vec<String> = client
        .query("SELECT VERSION()")
        .await
        .map_err(BenchError::failed("asking for the server's version"))?;
    client.close().await;
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let plan = Plan {
        threads: shared.threads as usize,
        warmup: seconds(shared.warmup),
        time: (shared.time > 0 && !workload.ends_by_itself()).then(|| seconds(shared.time)),
        interval: (shared.interval > 0).then(|| seconds(shared.interval)),
        seed: shared.seed,
        ignore_errors: shared.ignore_errors,
    };
    let measured = runner::run(&workload, target, plan, stop).await?;
    let mut summary = summarize(workload.as_ref(), plan, &measured);
    summary.server_version = version.into_iter().next().unwrap_or_default();
    summary.protocol = if target.text { "text" } else { "prepared" };
    print!("{}", summary.table());
    if let Some(remark) = workload.remark() {
        println!("{remark}");
    }
    let mut outcome = measured.error.map_or(Ok(()), Err);
    if shared.check && measured.interrupted {
        println!("stopped before its time: not checked");
    } else if shared.check && outcome.is_ok() {
        match check(workload.as_ref(), target).await {
            Ok(results) => {
                outcome = load::verdict(&results);
                summary.checks = results;
            }
            Err(error) => outcome = Err(error),
        }
    }
    if let Some(path) = &shared.json {
        summary.error = outcome.as_ref().err().map(ToString::to_string);
        // Numbers, texts and lists always have a form in JSON.
        let text = serde_json::to_string_pretty(&summary).unwrap_or_default();
        std::fs::write(path, text + "\n")
            .map_err(|source| BenchError::Write { path: path.display().to_string(), source })?;
    }
    outcome
}

/// What is said of a run.
fn summarize<W: Workload>(workload: &W, plan: Plan, measured: &Measured) -> Summary {
    let counted = &measured.counted;
    let seconds = measured.time.as_secs_f64();
    let kinds = workload.kinds().iter().zip(&counted.latencies).zip(&counted.rolled_back);
    let transactions: Vec<_> = kinds
        .map(|((name, latencies), rolled_back)| {
            KindSummary::new(name, latencies, *rolled_back, seconds)
        })
        .collect();
    let rolled_back = &counted.rolled_back;
    let committed = counted.latencies.iter().zip(rolled_back).map(|(all, back)| all.count() - back);
    let committed: Vec<u64> = committed.collect();
    Summary {
        workload: workload.name(),
        server_version: String::new(),
        protocol: "",
        threads: plan.threads,
        seed: plan.seed,
        parameters: workload.parameters(),
        warmup_s: plan.warmup.as_secs_f64(),
        time_s: rounded(seconds),
        interrupted: measured.interrupted,
        error: measured.error.as_ref().map(ToString::to_string),
        total: KindSummary::new("all", &counted.all(), rolled_back.iter().sum(), seconds),
        transactions,
        headline: workload.headline(&committed, seconds),
        errors: counted.errors.clone(),
        given_up: counted.given_up,
        unfinished: measured.unfinished,
        intervals: measured.intervals.clone(),
        checks: Vec::new(),
    }
}
