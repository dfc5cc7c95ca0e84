//! `cairn-sim`: runs seeds, says which fail and how to see why.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_sim::{Options, Report, Scale, WorkloadKind, run};
use cairn_types::sabotage::Bug;
use clap::Parser;
use parking_lot::Mutex;

/// Deterministic simulation of a whole cluster.
#[derive(Parser)]
struct Arguments {
    /// Runs this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds to run: 200 when absent, and up to 1000 for each bug.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Seeds that run at one time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Short runs, as in the test suite.
    #[arg(long)]
    short: bool,
    /// Prints every event.
    #[arg(long)]
    trace: bool,
    /// Shows the program's own log too, from this level on (with --seed).
    #[arg(long)]
    log: Option<String>,
    /// Plants this bug (builds with the feature `sabotage`).
    #[arg(long)]
    bug: Option<String>,
    /// Plants every known bug and looks for it in --seeds seeds.
    #[arg(long)]
    bugs: bool,
    /// Clients do nothing but this: register, bank, append, counter, queue, lists or
    /// families.
    #[arg(long)]
    work: Option<String>,
}

impl Arguments {
    fn seeds(&self) -> u64 {
        // The rarest bug shows in one seed of a hundred.
        self.seeds.unwrap_or(if self.bugs { 1_000 } else { 200 })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(level) = &arguments.log {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(level))
            .without_time()
            .init();
    }
    if !cfg!(feature = "sabotage") && (arguments.bugs || arguments.bug.is_some()) {
        println!("this build has no bugs to plant: build it with --features sabotage");
        return ExitCode::FAILURE;
    }
    let bug = match arguments.bug.as_deref().map(bug_of) {
        None => None,
        Some(Some(bug)) => Some(bug),
        Some(None) => {
            println!("known bugs: {:?}", Bug::ALL);
            return ExitCode::FAILURE;
        }
    };
    if arguments.work.as_deref().is_some_and(|name| work_of(name).is_none()) {
        println!("work for clients: {:?}", WorkloadKind::ALL);
        return ExitCode::FAILURE;
    }
    let success = match (arguments.seed, arguments.bugs) {
        (Some(seed), _) => {
            let report = run(options(&arguments, seed, bug));
            report.lines.iter().for_each(|line| println!("{line}"));
            show(&report, &arguments);
            report.failures.is_empty()
        }
        (None, true) => find_bugs(&arguments),
        (None, false) => {
            let begun = now();
            let totals = Mutex::new((Duration::ZERO, 0, 0));
            let failed = run_many(&arguments, bug, |report| {
                let mut totals = totals.lock();
                totals.0 += report.elapsed;
                totals.1 += report.operations;
                totals.2 += report.events;
                show(report, &arguments);
                true
            });
            let (simulated, operations, events) = totals.into_inner();
            println!(
                "{} seeds, {failed} failed: {operations} operations and {events} events of {} min \
                 in {} s",
                arguments.seeds(),
                simulated.as_secs() / 60,
                begun.elapsed().as_secs()
            );
            failed == 0
        }
    };
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The time outside of the simulation.
#[expect(clippy::disallowed_methods, reason = "tells how long real seeds take")]
fn now() -> Instant {
    Instant::now()
}

fn options(arguments: &Arguments, seed: u64, bug: Option<Bug>) -> Options {
    let scale = if arguments.short { Scale::Short } else { Scale::Full };
    let work = arguments.work.as_deref().and_then(work_of);
    Options { keeps_lines: arguments.trace, bug, work, ..Options::new(seed, scale) }
}

fn work_of(name: &str) -> Option<WorkloadKind> {
    WorkloadKind::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
}

fn bug_of(name: &str) -> Option<Bug> {
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
}

/// Runs seeds on several threads as long as `go_on` wants; answers how many failed.
fn run_many(
    arguments: &Arguments,
    bug: Option<Bug>,
    go_on: impl Fn(&Report) -> bool + Sync,
) -> u64 {
    let end = arguments.from + arguments.seeds();
    let next = AtomicU64::new(arguments.from);
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = run(options(arguments, seed, bug));
                    failed.fetch_add(u64::from(!report.failures.is_empty()), Ordering::Relaxed);
                    if !go_on(&report) {
                        next.store(end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    failed.into_inner()
}

/// Whether every known bug is found; tells by which seed, the first of those tried.
fn find_bugs(arguments: &Arguments) -> bool {
    let mut missed = 0;
    for bug in Bug::ALL {
        let begun = now();
        // Seeds are begun in order, and those begun are ended: the first is the same every time.
        let first: Mutex<Option<Report>> = Mutex::default();
        run_many(arguments, Some(bug), |report| {
            if report.failures.is_empty() {
                return true;
            }
            let mut first = first.lock();
            if first.as_ref().is_none_or(|earlier| report.seed < earlier.seed) {
                *first = Some(report.clone());
            }
            false
        });
        let seconds = begun.elapsed().as_secs();
        match first.into_inner() {
            Some(Report { seed, failures, .. }) => {
                println!("{bug:?}: seed {seed}, {seconds} s: {}", failures[0]);
            }
            None => {
                missed += 1;
                println!("{bug:?}: not found in {} seeds, {seconds} s", arguments.seeds());
            }
        }
    }
    println!("{} bugs planted, {missed} missed", Bug::ALL.len());
    missed == 0
}

/// One line per run; more if it failed.
fn show(report: &Report, arguments: &Arguments) {
    let Report { seed, hash, events, operations, failures, .. } = report;
    let elapsed = Duration::from_millis(report.elapsed.as_millis() as u64);
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "seed {seed} {verdict} hash {hash:016x}: \
         {events} events, {operations} operations in {elapsed:?}"
    );
    for failure in failures.iter().take(10) {
        println!("  {failure}");
    }
    if !failures.is_empty() {
        let mut more = if arguments.short { "--short " } else { "" }.to_owned();
        if let Some(work) = &arguments.work {
            more += &format!("--work {work} ");
        }
        match &arguments.bug {
            None => println!("  replay: make sim SEED={seed} ARGS='{more}--trace'"),
            Some(bug) => {
                println!("  replay: make sim-bugs ARGS='--seed {seed} --bug {bug} {more}--trace'")
            }
        }
    }
}
