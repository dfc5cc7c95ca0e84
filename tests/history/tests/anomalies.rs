//! Small histories, each with the anomalies that are in it.

use cairn_history::lists::{check, notation};

/// Histories and what is found in them, for people.
const CASES: &str = include_str!("anomalies.txt");

#[test]
fn each_anomaly_is_found_where_its_level_forbids_it() {
    let mut failures = Vec::new();
    for case in CASES.split("\n== ").skip(1) {
        let (title, body) = case.split_once('\n').expect("a title's line");
        let (expected, history): (Vec<&str>, Vec<&str>) =
            body.lines().partition(|line| line.starts_with("! "));
        let history = notation::read(&history.join("\n")).expect(title);
        let violations = check(&history);
        let mut found: Vec<String> =
            violations.iter().map(|violation| format!("! {}", violation.anomaly)).collect();
        found.sort_unstable();
        if found != expected {
            let found: Vec<String> = violations.iter().map(ToString::to_string).collect();
            failures.push(format!("{title}: expected {expected:?}, found {found:#?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_cycle_is_told_step_by_step() {
    let history = notation::read(
        "client 1 read-committed committed 0..10: append 1 1\n\
         client 2 read-committed committed 20..30: read 1=[]\n\
         client 2 read-committed committed 40..50: read 1=[1]",
    );
    let violations = check(&history.expect("well written"));
    assert_eq!(
        violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["G-single read skew in real time: \
          T0 had ended before T1 began; \
          T1 did not see the append of T0 to list 1; \
          T0: client 1 read-committed committed 0..10: append 1 1; \
          T1: client 2 read-committed committed 20..30: read 1=[]"]
    );
}

#[test]
fn what_is_written_down_is_read_again() {
    let histories = CASES.lines().filter(|line| !line.starts_with(['!', '=']));
    let text = histories.collect::<Vec<_>>().join("\n");
    let history = notation::read(&text).expect("well written");
    assert_eq!(notation::read(&notation::write(&history)).as_ref(), Ok(&history));
    for line in [
        "client 1 snapshot",
        "client 1 snapshot lost 1..2: read 1=[]",
        "client 1 snapshot \
         aborted 1..2: read 1=[1",
        "client x snapshot aborted 1..2:",
    ] {
        assert!(notation::read(line).is_err(), "{line}");
    }
}
