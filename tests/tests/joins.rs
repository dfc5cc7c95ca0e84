//! A join gives the same rows by index as by hash, on the SQL node or in the stores: random joins over
//! tables with all kinds of keys, with values that make trouble, also over a transaction's own changes.
//!
//! `CAIRN_JOIN_SEED` repeats a run.

use cairn_tests::playground::Layout;
use cairn_tests::{HarnessError, Playground};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use rand::prelude::*;
use rand::rngs::StdRng;

/// Joins compared in each state of the data.
const JOINS: usize = 150;
/// Of them, at least so many must really have been run by index, or nothing was compared.
const BY_INDEX_MIN: usize = 40;
/// And so many in the stores.
const IN_STORES_MIN: usize = 100;
/// Rows of the outer table, and of each inner one.
const ROWS: usize = 90;

/// Columns of every table, of kinds that are compared with each other.
const COLUMNS: &str = "a INT, b INT, c BIGINT UNSIGNED, d DECIMAL(8,2), e DOUBLE, \
     s VARCHAR(12), t VARCHAR(12) COLLATE utf8mb4_bin, m DATETIME, y DATE, z TIMESTAMP NULL";
const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "s", "t", "m", "y", "z"];

/// Inner tables and their keys.
const INNER: [(&str, &str); 6] = [
    ("handle", "id INT PRIMARY KEY, {}, KEY (a, b), UNIQUE KEY (c), KEY (s(2)), KEY (t), KEY (d)"),
    ("wide", "id INT, {}, PRIMARY KEY (a, id) CLUSTERED, KEY (s, b), KEY (m), KEY (e), KEY (z)"),
    ("text", "id INT, {}, PRIMARY KEY (s, id) CLUSTERED, KEY (y), KEY (c, d)"),
    (
        "rowid",
        "id INT, {}, PRIMARY KEY (b, id) NONCLUSTERED, KEY (t, a), KEY (s), UNIQUE KEY (a, b)",
    ),
    ("big", "id BIGINT UNSIGNED PRIMARY KEY, {}, KEY (b), KEY (c)"),
    ("none", "id INT, {}, KEY (a), KEY (b, a), KEY (m, y)"),
];

/// Some are equal although they are cut at different places: of several weights, or none.
const TEXTS: [&str; 17] = [
    "NULL",
    "",
    "a",
    "A",
    "ab",
    "aB ",
    "abc",
    "ABD",
    "ä",
    "2",
    "x ",
    "ßx",
    "ssx",
    "Æb",
    "aeb",
    "a\u{301}b",
    "\u{200D}\u{200D}ab",
];

/// Values of a column; few, so that they meet.
fn value(column: &str, rng: &mut StdRng) -> String {
    let pick = |values: &[&str], rng: &mut StdRng| {
        let value = values.choose(rng).expect("there are some");
        if *value == "NULL" { (*value).to_owned() } else { format!("'{value}'") }
    };
    match column {
        "a" | "b" if rng.random_ratio(1, 8) => "NULL".to_owned(),
        "a" | "b" => rng.random_range(-2..9).to_string(),
        "c" => pick(&["NULL", "0", "1", "2", "3", "7", "18446744073709551615"], rng),
        "d" => pick(&["NULL", "-1.00", "0", "1", "1.50", "2.00", "3", "7.25"], rng),
        "e" => pick(&["NULL", "-1", "0", "-0.0", "1", "1.5", "2", "3e0"], rng),
        "s" | "t" => pick(&TEXTS, rng),
        "m" => pick(&["NULL", "2024-01-01", "2024-01-01 10:00:00", "2024-03-31 02:30:00"], rng),
        "y" => pick(&["NULL", "2024-01-01", "2024-01-02", "2024-03-31"], rng),
        _ => pick(&["NULL", "2024-01-01", "2024-01-01 10:00:00", "2024-10-27 02:30:00"], rng),
    }
}

/// A row as a list of values; key columns are made so that no key is NULL or taken twice.
fn row(id: usize, table: &str, rng: &mut StdRng) -> String {
    let mut values = vec![id.to_string()];
    for name in NAMES {
        let mut text = value(name, rng);
        let is_key = matches!((table, name), ("wide", "a") | ("text", "s") | ("rowid", "b"));
        while is_key && text == "NULL" {
            text = value(name, rng);
        }
        values.push(text);
    }
    format!("({})", values.join(", "))
}

async fn fill(conn: &mut Conn, table: &str, ids: std::ops::Range<usize>, rng: &mut StdRng) {
    let rows: Vec<String> = ids.map(|id| row(id, table, rng)).collect();
    // Rows that an index has already are left out.
    let insert = format!("INSERT IGNORE INTO j.{table} VALUES {}", rows.join(", "));
    conn.query_drop(&insert).await.unwrap_or_else(|error| panic!("{error}: {insert}"));
}

/// A join, with `{o}` and `{i}` for hints of the outer and of the inner query.
fn random_join(rng: &mut StdRng) -> String {
    let (table, _) = INNER.choose(rng).expect("there are some");
    let mut on = Vec::new();
    for _ in 0..rng.random_range(1..=2) {
        let inner = *NAMES.choose(rng).expect("there are some");
        // Mostly columns of one kind, but also others.
        let outer = match rng.random_ratio(1, 3) {
            true => *NAMES.choose(rng).expect("there are some"),
            false => inner,
        };
        let outer = match (rng.random_ratio(1, 6), outer) {
            (true, "a" | "b" | "c" | "d" | "e") => format!("IFNULL(o.{outer}, 2)"),
            (true, "s" | "t") => format!("CONCAT(o.{outer}, '')"),
            _ => format!("o.{outer}"),
        };
        let operator = if rng.random_ratio(1, 8) { "<=>" } else { "=" };
        on.push(format!("i.{inner} {operator} {outer}"));
    }
    if rng.random_ratio(1, 3) {
        let operator = ["<", "<=", ">", ">=", "<>"].choose(rng).expect("there are some");
        let column = ["a", "b", "id"].choose(rng).expect("there are some");
        on.push(format!("i.{column} {operator} o.b"));
    }
    if rng.random_ratio(1, 3) {
        let column = ["a", "b", "c"].choose(rng).expect("there are some");
        let condition = ["= 2", "> 1", "< 3", "IN (1, 2, 5)", "IS NULL", "BETWEEN 0 AND 3"];
        on.push(format!("i.{column} {}", condition.choose(rng).expect("there are some")));
    }
    let on = on.join(" AND ");
    let filter = if rng.random_ratio(1, 2) { " AND o.id < 40" } else { "" };
    match rng.random_range(0..8) {
        0 | 1 => format!(
            "SELECT {{o}} o.id, i.id, i.a, i.s, i.d FROM j.outr o JOIN j.{table} i ON {on}{filter}"
        ),
        2 => format!("SELECT {{o}} o.id, i.* FROM j.outr o, j.{table} i WHERE {on}{filter}"),
        3 | 4 => format!(
            "SELECT {{o}} o.id, i.id, i.b, i.t FROM j.outr o LEFT JOIN j.{table} i ON {on}{filter}"
        ),
        5 if rng.random_ratio(1, 3) => format!(
            "SELECT o.id FROM j.outr o WHERE o.a NOT IN \
             (SELECT {{i}} i.b FROM j.{table} i WHERE {on}){filter}"
        ),
        5 => format!(
            "SELECT o.id FROM j.outr o WHERE EXISTS (SELECT {{i}} 1 FROM j.{table} i WHERE {on}){filter}"
        ),
        6 => format!(
            "SELECT o.id FROM j.outr o WHERE NOT EXISTS \
             (SELECT {{i}} 1 FROM j.{table} i WHERE {on}){filter}"
        ),
        _ => format!(
            "SELECT o.id, EXISTS (SELECT {{i}} 1 FROM j.{table} i WHERE {on}) FROM j.outr o \
             WHERE o.b IS NOT NULL{filter}"
        ),
    }
}

fn hinted(join: &str, hint: &str) -> String {
    join.replace("{o}", &format!("/*+ {hint}(i) */")).replace("{i}", &format!("/*+ {hint}(i) */"))
}

/// The rows, their values as they stand in SQL.
async fn rows(conn: &mut Conn, sql: &str) -> Vec<Vec<String>> {
    let rows: Vec<Row> =
        conn.query(sql).await.unwrap_or_else(|error| panic!("{error}\nstatement: {sql}"));
    let texts = |row: Row| row.unwrap().iter().map(|value| value.as_sql(true)).collect();
    rows.into_iter().map(texts).collect()
}

fn sorted(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.sort();
    rows
}

/// Compares random joins; tells how many were run by index, and in the stores.
async fn compare(conn: &mut Conn, state: &str, rng: &mut StdRng) -> (usize, usize) {
    let (mut by_index, mut in_stores) = (0, 0);
    for _ in 0..JOINS {
        let join = random_join(rng);
        let hash = hinted(&join, "NO_BROADCAST_JOIN(i) HASH_JOIN");
        let (index, stores) = (hinted(&join, "INL_JOIN"), hinted(&join, "BROADCAST_JOIN"));
        let plan = rows(conn, &format!("EXPLAIN {index}")).await;
        by_index += usize::from(plan.iter().any(|line| line[0].contains("IndexJoin")));
        let plan = rows(conn, &format!("EXPLAIN {stores}")).await;
        let in_store = |line: &Vec<String>| line[0].contains("HashJoin") && line[2] == "'cop[kv]'";
        in_stores += usize::from(plan.iter().any(in_store));
        let expected = sorted(rows(conn, &hash).await);
        for sql in [&index, &stores] {
            let found = rows(conn, sql).await;
            assert_eq!(sorted(found), expected, "{state}\nstatement: {sql}");
        }
        // The order of the outer rows is kept, or they are sorted.
        let ordered = rows(conn, &format!("{index} ORDER BY o.id")).await;
        let ids: Vec<i64> =
            ordered.iter().map(|row| row[0].trim_matches('\'').parse().expect("an id")).collect();
        assert!(ids.is_sorted(), "{state}\nstatement: {index} ORDER BY o.id\n{ids:?}");
    }
    (by_index, in_stores)
}

/// Changes some rows of every inner table, index columns and keys among them.
async fn change(conn: &mut Conn, rng: &mut StdRng) {
    for (at, (table, _)) in INNER.iter().enumerate() {
        let from = rng.random_range(0..ROWS / 2);
        // Where `b` is unique it stays as it is.
        let more = if *table == "rowid" { "" } else { ", b = b + 1" };
        for statement in [
            format!("DELETE FROM j.{table} WHERE id BETWEEN {from} AND {}", from + 7),
            format!("UPDATE j.{table} SET s = 'ab'{more} WHERE id > {from} AND a > 3"),
            format!("UPDATE j.{table} SET t = CONCAT(t, 'x'), d = d + 1 WHERE id < {from}"),
        ] {
            conn.query_drop(&statement).await.unwrap_or_else(|e| panic!("{e}: {statement}"));
        }
        fill(conn, table, 1000 + at * 100..1020 + at * 100, rng).await;
    }
    let outer = "UPDATE j.outr SET a = b, s = t WHERE id > 60";
    conn.query_drop(outer).await.expect(outer);
}

#[tokio::test]
async fn joins_agree_whichever_way_they_are_run() -> Result<(), HarnessError> {
    let seed = std::env::var("CAIRN_JOIN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(7_u64);
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Playground::start(Layout::OneProcess).await?;
    let mut conn = cluster.connect("").await?;
    for statement in ["CREATE DATABASE j", "SET time_zone = 'Europe/Berlin'"] {
        conn.query_drop(statement).await.expect(statement);
    }
    let outer = format!("CREATE TABLE j.outr (id INT PRIMARY KEY, {COLUMNS}, KEY (b))");
    conn.query_drop(&outer).await.expect("the outer table");
    fill(&mut conn, "outr", 0..ROWS, &mut rng).await;
    for (table, definition) in INNER {
        let create = format!("CREATE TABLE j.{table} ({})", definition.replace("{}", COLUMNS));
        conn.query_drop(&create).await.unwrap_or_else(|error| panic!("{error}: {create}"));
        fill(&mut conn, table, 0..ROWS, &mut rng).await;
    }
    // Rows of a probe side lie in several regions.
    conn.query_drop("SPLIT TABLE j.outr BY (7), (8), (30), (60)").await.expect("it splits");
    let state = format!("committed, seed {seed}");
    let (by_index, in_stores) = compare(&mut conn, &state, &mut rng).await;
    assert!(by_index >= BY_INDEX_MIN, "only {by_index} of {JOINS} joins by index");
    assert!(in_stores >= IN_STORES_MIN, "only {in_stores} of {JOINS} joins in the stores");

    for begin in ["BEGIN PESSIMISTIC", "BEGIN OPTIMISTIC"] {
        conn.query_drop(begin).await.expect(begin);
        change(&mut conn, &mut rng).await;
        compare(&mut conn, &format!("{begin}, seed {seed}"), &mut rng).await;
        conn.query_drop("ROLLBACK").await.expect("it rolls back");
    }
    Ok(())
}
