//! A few short runs with every build, and the proof that a seed decides its run.

use std::process::Command;

use cairn_sim::{Options, Report, Scale, run};

fn short(seed: u64) -> Report {
    run(Options::new(seed, Scale::Short))
}

#[test]
fn the_same_seed_is_the_same_run() {
    let (first, second) = (short(7), short(7));
    assert_eq!((first.hash, first.events), (second.hash, second.events));
    assert_ne!(first.hash, short(8).hash);
}

/// Addresses, hash seeds and whatever else differs between processes must not matter.
#[test]
fn the_same_seed_is_the_same_run_in_another_process() {
    let run = || {
        let program = env!("CARGO_BIN_EXE_cairn-sim");
        let output = Command::new(program).args(["--seed", "7", "--short"]).output();
        String::from_utf8(output.expect("cairn-sim runs").stdout).expect("it prints text")
    };
    let first = run();
    let hash = format!("seed 7 ok hash {:016x}:", short(7).hash);
    assert!(first.starts_with(&hash), "{first:?} is not {hash:?}");
    assert_eq!(first, run());
}

/// Seeds that failed once, with what they showed:
/// 18: scans over a split PD had not heard of lost or doubled rows.
/// 36: a store that found its disk full at its start was never started again.
/// 57: a replica was promoted under an id that had been removed meanwhile.
/// A seed means another run once plans are drawn otherwise; what each found has a test of
/// its own beside the code.
const FAILED_ONCE: &[u64] = &[18, 36, 57];

#[test]
fn short_runs_find_nothing() {
    for seed in (1..=8).chain(FAILED_ONCE.iter().copied()) {
        let report = short(seed);
        assert!(report.failures.is_empty(), "seed {seed}: {:#?}", report.failures);
        assert!(report.operations > 20, "seed {seed} did nothing: {report:?}");
    }
}
