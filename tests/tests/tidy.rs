//! The house rules a machine can check, over every crate of the workspace. What review checks
//! besides is in `docs/`.
//!
//! An exception is listed here with its reason, and only here; the lists may only shrink.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// Longest file of code.
const LINES_MAX: usize = 1_000;

/// Tools and measurements that are run by hand: tests in form only.
const RUN_BY_HAND: &[&str] = &["types/src/collation/uca.rs", "expr/src/eval/tests.rs"];

/// Files of tests whose pauses lie between two questions of a loop with an end.
const POLLING_TESTS: &[&str] = &[
    "kv/src/service/node_tests.rs",
    "kv/src/raftstore/tests/disk_full.rs",
    "kv/src/raftstore/tests/threads.rs",
    "tests/src/lib.rs",
];

/// Crates and the rooms they may build upon, downwards only. A crate's tests may use more of
/// the house than the crate itself: only `[dependencies]` is held to this.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("proto", &[]),
    ("sql/parser", &[]),
    ("kv/engine", &[]),
    // It knows servers by the MySQL protocol alone.
    ("bench", &[]),
    ("expr", &["types", "proto"]),
    ("executor", &["types", "proto", "expr"]),
    ("planner", &["types", "proto", "expr", "executor", "parser"]),
    ("pd/client", &["types", "proto"]),
    ("kv/client", &["types", "proto", "pd-client"]),
    ("pd", &["types", "proto", "engine", "pd-client"]),
    ("kv", &["types", "proto", "expr", "executor", "engine", "kv-client", "pd-client"]),
    ("tests/history", &[]),
    ("tests/sim", &["history", "types", "proto", "engine", "pd", "pd-client", "kv", "kv-client"]),
    ("sql", &["types", "proto", "expr", "executor", "planner", "parser", "kv-client", "pd-client"]),
];

/// The workspace's folder: tests run in their package's.
fn root() -> PathBuf {
    let package = std::env::current_dir().expect("tests run in a folder");
    package.parent().expect("tests lie in the workspace").to_owned()
}

/// Every file of code, as its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder that was listed") {
            let path = entry.expect("an entry of it").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("code is UTF-8");
                let from_root = path.strip_prefix(&root).expect("it lies below the root");
                files.push((from_root.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(files.len() > 100, "the sources are not where they were");
    files.sort();
    files
}

/// Fails with one line per offence.
fn none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n{}", offences.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let offences: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    none("a file opens with `//!`", &offences);
}

#[test]
fn no_file_is_too_long() {
    let offences: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    none("a file has at most 1,000 lines", &offences);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not offend itself.
    let words = [["to", "do!("], ["unimple", "mented!("], ["db", "g!("], ["TO", "DO"]]
        .into_iter()
        .chain([["FIX", "ME"], ["XX", "X"]])
        .map(|parts| parts.concat());
    let words: Vec<String> = words.collect();
    let mut offences = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| holds_word(line, word)) {
                offences.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    none("no marks of unfinished work", &offences);
}

/// Whether `line` holds `word` on its own, not as a part of a longer one.
fn holds_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        !part(line[..at].chars().next_back()) && (word.ends_with('(') || !part(after))
    })
}

#[test]
fn no_test_is_ignored() {
    let mark = ["#[ig", "nore"].concat();
    let offences: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| text.contains(&mark) && !RUN_BY_HAND.contains(&path.as_str()))
        .map(|(path, _)| path)
        .collect();
    none("a test runs or goes", &offences);
}

#[test]
fn tests_do_not_sleep() {
    let call = ["::sl", "eep("].concat();
    let is_test = |path: &str| path.contains("tests/") || path.ends_with("tests.rs");
    // `sqllogictest` asks its database how to pause; no script of ours does.
    // In the simulation time is virtual: pausing is how its actors are told apart.
    let allowed = |path: &str| {
        POLLING_TESTS.contains(&path)
            || path == "tests/tests/slt.rs"
            || path.starts_with("tests/sim/src/")
    };
    let offences: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| is_test(path) && text.contains(&call) && !allowed(path))
        .map(|(path, _)| path)
        .collect();
    none("a test waits for a condition with a deadline", &offences);
}

#[test]
fn crates_build_downwards_only() {
    let root = root();
    let mut offences = Vec::new();
    for (folder, allowed) in ARROWS {
        let text = std::fs::read_to_string(root.join(folder).join("Cargo.toml"))
            .expect("a crate has a manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let uses = manifest.get("dependencies").and_then(toml::Value::as_table);
        for name in uses.into_iter().flat_map(|table| table.keys()) {
            if let Some(room) = name.strip_prefix("cairn-")
                && !allowed.contains(&room)
            {
                offences.push(format!("{folder} builds on {name}"));
            }
        }
    }
    none("crates build on the rooms below them", &offences);
}

#[test]
fn every_crate_has_its_place_in_the_order() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root's manifest");
    let manifest: toml::Table = text.parse().expect("a manifest is TOML");
    let members = manifest["workspace"]["members"].as_array().expect("a list of members");
    let members: BTreeSet<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    let placed: BTreeSet<&str> =
        ARROWS.iter().map(|(folder, _)| *folder).chain(["tests"]).collect();
    assert_eq!(members, placed);
}
