//! `cairn bench` against a playground: every workload loads, runs and passes its own checks, and
//! its summary says what a script reads from it.

use std::path::Path;

use cairn_tests::bench::{bench, succeed};
use cairn_tests::{HarnessError, Layout, Playground};
use mysql_async::prelude::Queryable;
use serde_json::Value;

/// Sizes that a debug build loads in a moment.
const TPCC_SCALE: &[&str] =
    &["--warehouses", "2", "--items", "100", "--customers-per-district", "10"];
const RECORDS: &[&str] = &["--records", "300"];
const ACCOUNTS: &[&str] = &["--accounts", "50"];

/// Runs a workload with checks for two seconds; the summary it wrote.
fn run(playground: &Playground, args: &str, more: &[&str], json: &Path) -> Value {
    let path = json.display().to_string();
    let shared = ["--time", "2", "--interval", "1", "--check", "--json", &path];
    let printed = succeed(playground, args, &[more, &shared].concat());
    assert!(printed.contains(" per second ") && printed.contains("p99.9"), "{printed}");
    let text = std::fs::read_to_string(json).expect("a summary was written");
    let summary: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(summary["error"], Value::Null, "{summary}");
    assert_eq!(summary["unfinished"], 0, "{summary}");
    let checks = summary["checks"].as_array().expect("a list of checks");
    assert!(!checks.is_empty() && checks.iter().all(|check| check["violations"] == 0), "{summary}");
    let total = &summary["total"];
    let count = total["count"].as_u64().expect("a number");
    let kinds = summary["transactions"].as_array().expect("a list of kinds");
    assert_eq!(kinds.iter().filter_map(|kind| kind["count"].as_u64()).sum::<u64>(), count);
    assert!(count > 0, "{summary}");
    let intervals = summary["intervals"].as_array().expect("a list of intervals");
    assert_eq!(intervals.iter().filter_map(|one| one["count"].as_u64()).sum::<u64>(), count);
    let time_s = summary["time_s"].as_f64().expect("a number");
    let rate_per_s = total["rate_per_s"].as_f64().expect("a number");
    // Both are written with three decimals, which a high rate multiplies.
    let rounded_off = 0.000_5 * (rate_per_s + time_s);
    assert!((rate_per_s * time_s - count as f64).abs() <= rounded_off + 1e-6, "{summary}");
    let quantiles = ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"];
    let quantiles = quantiles.map(|name| total[name].as_f64().expect("a number of ms"));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{summary}");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn every_workload_loads_runs_and_passes_its_checks() -> Result<(), HarnessError> {
    let playground = Playground::start(Layout::OneProcess).await?;
    let json = playground.path("summary.json");

    let printed = succeed(&playground, "tpcc prepare", TPCC_SCALE);
    assert_eq!(printed.matches(": ok").count(), 12, "{printed}");
    let summary = run(&playground, "tpcc run", &[], &json);
    assert_eq!(summary["checks"].as_array().map(Vec::len), Some(12));
    assert_eq!(summary["parameters"]["warehouses"], 2);
    let orders = &summary["transactions"][0];
    assert_eq!(orders["name"], "new_order");
    let committed = orders["count"].as_u64().zip(orders["rolled_back"].as_u64());
    let committed = committed.map(|(all, back)| (all - back) as f64).expect("numbers");
    let minutes = summary["time_s"].as_f64().expect("a number") / 60.0;
    let tpmc = summary["tpmc"].as_f64().expect("a number");
    assert!(committed > 0.0 && (tpmc * minutes - committed).abs() < 0.5, "{summary}");

    succeed(&playground, "ycsb prepare", RECORDS);
    for mix in ["a", "d", "e", "f"] {
        let args = format!("ycsb run --workload {mix}");
        let summary = run(&playground, &args, RECORDS, &json);
        assert_eq!(summary["workload"], format!("ycsb-{mix}"));
    }
    succeed(&playground, "bank prepare", ACCOUNTS);
    let summary = run(&playground, "bank run --text", &[], &json);
    assert_eq!(summary["protocol"], "text");

    // Checks see what is wrong with the data, and a run sees it too.
    let mut conn = playground.connect("bank").await?;
    conn.query_drop("UPDATE accounts SET balance = balance + 1 WHERE id = 7").await?;
    let output = bench(&playground, "bank check", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("check sum: FAILED"), "{output:?}");
    let output = bench(&playground, "bank run --time 20 --ignore-errors", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("wrong answer"), "{output:?}");
    conn.query_drop("UPDATE tpcc.warehouse SET w_ytd = w_ytd + 1 WHERE w_id = 2").await?;
    let output = bench(&playground, "tpcc check", &[]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.matches("FAILED").count(), 2, "{printed}");

    // What is not there is said, and what is there is not written over.
    let error = |args: &str, more| {
        let output = bench(&playground, args, more);
        assert_eq!(output.status.code(), Some(1), "{args}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let again = error("bank prepare", ACCOUNTS);
    assert!(again.contains("1050") && again.contains("cleanup"), "{again}");
    let many = error("tpcc run --warehouses 9", &[]);
    assert!(many.contains("only 2 are loaded"), "{many}");
    succeed(&playground, "bank cleanup", &[]);
    let gone = error("bank run", &[]);
    assert!(gone.contains("1146"), "{gone}");
    Ok(())
}
