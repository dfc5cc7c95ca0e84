//! What golden text does not show well: slots, caching, bounds.

use std::sync::Arc;

use super::Session;
use crate::plan::{PhysicalOp, PlanKind};
use crate::statistics::TableStatistics;
use crate::{PlanOptions, Statistics, TableInfo, explain_text};

fn session(ddl: &[&str]) -> Session {
    let mut session = Session::default();
    for sql in ddl {
        assert!(session.define(sql).expect("test schema"));
    }
    session
}

#[test]
fn prepared_point_reads_are_point_plans_with_slots() {
    let session = session(&["CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(10))"]);
    let plan = session.plan("SELECT v FROM t WHERE id = ?", PlanOptions::default()).unwrap();
    assert!(plan.cacheable && plan.param_count == 1 && plan.slot_count == 1);
    let PlanKind::Query(root) = &plan.kind else { panic!("a query") };
    // Nothing stands above it: such a plan is run without operators and chunks.
    let PhysicalOp::PointGet(get) = &root.op else { panic!("{}", explain_text(&plan)) };
    assert!(get.key.len() == 1 && get.key[0].has_params());
    assert_eq!(get.access.columns.len(), 1, "only what is asked for is read");
}

/// Nobody may be asked for statistics.
struct NoQuestions;

impl Statistics for NoQuestions {
    fn table_statistics(&self, table: &TableInfo) -> Option<Arc<TableStatistics>> {
        panic!("statistics of {} were asked for", table.name)
    }
}

#[test]
fn point_reads_ask_for_no_statistics() {
    let session = session(&[
        "CREATE TABLE t (id INT PRIMARY KEY, v INT, u INT, UNIQUE KEY uu (u), KEY iv (v))",
        "CREATE TABLE p (x INT, y INT, z INT, PRIMARY KEY (x, y))",
    ]);
    for sql in [
        "SELECT * FROM t WHERE id = 5 AND v > 3",
        "SELECT v FROM t WHERE u = ? ORDER BY v LIMIT 1",
        "SELECT v FROM t WHERE id IN (1, 2, 3)",
        "UPDATE t SET v = v + 1 WHERE id = ?",
        "DELETE FROM p WHERE x = 1 AND y = ?",
        "SELECT v FROM t WHERE id = NULL",
        "INSERT INTO t VALUES (1, 2, 3)",
    ] {
        let plan = session.plan_with_statistics(sql, &NoQuestions);
        assert!(plan.is_ok(), "{plan:?}");
    }
}

/// Each branch is looked at once, and no deep tree is walked level by level.
#[test]
fn long_ors_are_estimated() {
    let mut session = session(&["CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)"]);
    let line = "STATS t rows=100000; id ndv=100000; a ndv=1000 range=1..1000; b ndv=1000";
    session.define(line).unwrap();
    let branch = |at: usize| match at % 3 {
        0 => format!("a = {at}"),
        1 => format!("b = {at}"),
        _ => format!("a = {at} AND b = {at}"),
    };
    let branches: Vec<String> = (0..300).map(branch).collect();
    let sql = format!("SELECT id FROM t WHERE {}", branches.join(" OR "));
    let plan = session.plan(&sql, PlanOptions::default()).unwrap();
    let text = explain_text(&plan);
    // A hundred values of each column in a hundred rows each.
    let rows: f64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((18_000.0..20_000.0).contains(&rows), "{text}");
}

/// Ten tables that are all compared with each other: nothing is left out of the search.
#[test]
fn a_clique_of_joins_is_planned() {
    let mut session = session(&[]);
    let mut sql = "SELECT t0.id FROM t0".to_string();
    for at in 0..10 {
        let name = format!("t{at}");
        session.define(&format!("CREATE TABLE {name} (id INT PRIMARY KEY, a INT)")).unwrap();
        let rows = 1000 * (at + 1);
        session
            .define(&format!("STATS {name} rows={rows}; id ndv={rows}; a ndv=100 range=1..100"))
            .unwrap();
        if at > 0 {
            sql += &format!(" JOIN {name} ON {name}.a = t{}.a", at - 1);
        }
    }
    let plan = session.plan(&sql, PlanOptions::default()).unwrap();
    let text = explain_text(&plan);
    assert_eq!(text.matches("Join").count(), 9, "{text}");
}

#[test]
fn deep_nesting_is_refused() {
    let session = session(&["CREATE TABLE t (a INT)"]);
    let mut sql = "SELECT 1".to_string();
    for _ in 0..crate::binder::QUERY_DEPTH_MAX + 5 {
        sql = format!("SELECT ({sql})");
    }
    let error = session.plan(&sql, PlanOptions::default());
    assert!(error.is_err());
}

/// Every join is compared with its alternatives, and those plan its inputs anew: that must not
/// multiply along a chain.
#[test]
fn long_chains_of_joins_are_planned() {
    let mut session = session(&["CREATE TABLE t (id INT PRIMARY KEY, a INT, INDEX ia (a))"]);
    plan_chains(&session);
    let line = "STATS t rows=10000; id ndv=10000 range=1..10000; a ndv=5000 range=1..10000";
    session.define(line).unwrap();
    plan_chains(&session);
}

fn plan_chains(session: &Session) {
    for join in ["JOIN", "LEFT JOIN"] {
        let mut sql = "SELECT t0.id FROM t t0".to_string();
        for at in 1..crate::binder::TABLES_MAX {
            sql += &format!(" {join} t t{at} ON t{at}.id = t{}.a", at - 1);
        }
        for order in ["", " ORDER BY t0.id", " ORDER BY t0.id LIMIT 1"] {
            let plan = session.plan(&format!("{sql}{order}"), PlanOptions::default());
            assert!(plan.is_ok(), "{plan:?}");
        }
    }
}
