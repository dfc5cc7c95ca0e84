//! Runs the cases of [`cairn_tests::faults`] and prints a line of figures for each.
//!
//! It needs root, or user namespaces; where it may not make hosts it says why and ends with
//! [`SKIPPED`].

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_tests::HarnessError;
use cairn_tests::faults::hosts::{self, Place};
use cairn_tests::faults::{CASES, Case, Outcome, Report, Settings, Stage};
use clap::Parser;
use serde_json::json;
use tokio::time::Instant;

/// Exit code for "could not be tried here", as test programs have it.
const SKIPPED: u8 = 77;

/// What the table of a run begins with.
const TABLE_HEAD: &str = "| case | what happens | outcome | figures (criterion) |\n\
                          | --- | --- | --- | --- |\n";

/// Makes things go wrong for a cluster of real processes, and looks what its clients see.
#[derive(Debug, Parser)]
struct Options {
    /// Only these cases.
    cases: Vec<String>,
    /// Only the short ones.
    #[arg(long)]
    quick: bool,
    /// Tell what there is.
    #[arg(long)]
    list: bool,
    /// Seconds that a fault lasts; a few when absent.
    #[arg(long)]
    seconds: Option<u64>,
    /// Rounds of cases that repeat themselves; a few when absent.
    #[arg(long)]
    rounds: Option<u64>,
    /// Mebibytes that cases write which fill stores; a few hundred when absent.
    #[arg(long)]
    mib: Option<u64>,
    /// Decides what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write all figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a table of all figures to this file, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        CASES.iter().for_each(|case| println!("{:20} {}", case.name, case.about));
        return ExitCode::SUCCESS;
    }
    let unknown = |name: &&String| !CASES.iter().any(|case| case.name == name.as_str());
    if let Some(name) = options.cases.iter().find(unknown) {
        eprintln!("no case is called {name}; --list tells them");
        return ExitCode::FAILURE;
    }
    if let Place::NotAllowed(reason) = hosts::enter() {
        println!("SKIPPED everything: {reason}");
        return ExitCode::from(SKIPPED);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(run(&options))) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; answers whether nothing failed.
async fn run(options: &Options) -> Result<bool, HarnessError> {
    let Options { seconds, rounds, mib, seed, .. } = *options;
    let settings = Settings { seconds, rounds, mib, seed };
    let chosen = |case: &&Case| {
        let named = options.cases.iter().any(|name| name == case.name);
        named || (options.cases.is_empty() && (case.quick || !options.quick))
    };
    let mut all_passed = true;
    let mut told = Vec::new();
    let mut table = String::from(TABLE_HEAD);
    for case in CASES.iter().filter(chosen) {
        let began = Instant::now();
        let report = play(case, settings).await?;
        let seconds = began.elapsed().as_secs();
        let word = match report.outcome() {
            Outcome::Passed => "PASSED",
            Outcome::Failed => "FAILED",
            Outcome::Skipped(_) => "SKIPPED",
        };
        all_passed &= report.outcome() != Outcome::Failed;
        println!("{word} {} ({seconds} s): {}", case.name, report.line());
        report.details().iter().for_each(|detail| println!("    {detail}"));
        let figures = report.line().replace("; ", "<br>");
        table += &format!("| `{}` | {} | {word} | {figures} |\n", case.name, case.about);
        told.push(json!({
            "case": case.name,
            "about": case.about,
            "outcome": word,
            "seconds": seconds,
            "report": report.json(),
        }));
    }
    let json = serde_json::to_string_pretty(&told).unwrap_or_default();
    for (path, text) in [(&options.json, json), (&options.markdown, table)] {
        if let Some(path) = path {
            std::fs::write(path, text)
                .map_err(|error| HarnessError::io(format!("write {}", path.display()), error))?;
        }
    }
    Ok(all_passed)
}

/// Plays one case in a folder of its own, which stays if it fails.
async fn play(case: &Case, settings: Settings) -> Result<Report, HarnessError> {
    let mut folder = tempfile::Builder::new()
        .prefix(&format!("cairn-faults-{}-", case.name))
        .tempdir()
        .map_err(|error| HarnessError::io("create a temporary folder", error))?;
    let stage = Stage { folder: folder.path().to_owned(), settings };
    let report = (case.run)(stage).await.unwrap_or_else(|error| {
        let mut report = Report::default();
        report.none("the case could not go on", vec![error.to_string()]);
        report
    });
    if report.outcome() == Outcome::Failed {
        folder.disable_cleanup(true);
        println!("logs and data stay in {}", folder.path().display());
    }
    Ok(report)
}
