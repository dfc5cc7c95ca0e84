//! What golden text does not show well: slots, caching, bounds.

use super::Session;
use crate::plan::{PhysicalOp, PlanKind};
use crate::{PlanOptions, explain_text};

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
    let session = session(&["CREATE TABLE t (id INT PRIMARY KEY, a INT, INDEX ia (a))"]);
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
