//! `cairn bench` of the binary under test, against a playground.

use std::process::{Command, Output};

use crate::Playground;
use crate::node::cairn_binary;

/// Runs `cairn bench` with the words of `args` and `more`.
pub fn bench(playground: &Playground, args: &str, more: &[&str]) -> Output {
    Command::new(cairn_binary())
        .arg("bench")
        .args(args.split_whitespace())
        .args(["--port", &playground.port().to_string()])
        .args(more)
        .output()
        .expect("it starts")
}

/// As [`bench()`], which must succeed; what it printed.
pub fn succeed(playground: &Playground, args: &str, more: &[&str]) -> String {
    let output = bench(playground, args, more);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args} {more:?}: {error}\n{printed}\n{}", playground.log());
    printed
}
