//! Optimizer hints that say how tables are joined: `SELECT /*+ INL_JOIN(t) */ …`.
//!
//! | hint | says |
//! |---|---|
//! | `INL_JOIN(t, …)`, `INL_HASH_JOIN`, `TIDB_INLJ` | join `t` by looking its rows up by an index |
//! | `HASH_JOIN(t, …)`, `TIDB_HJ` | join `t` by hash |
//! | `NO_INDEX_JOIN(t, …)` | do not look rows of `t` up |
//! | `NO_HASH_JOIN(t, …)` | do not join `t` by hash |
//! | `BROADCAST_JOIN(t, …)`, `TIDB_BCJ` | join `t` by hash in the stores, `t` being sent there if that can be |
//! | `NO_BROADCAST_JOIN(t, …)` | do not join `t` in the stores |
//! | `LEADING(t, u, …)`, `JOIN_PREFIX`, `JOIN_ORDER` | join `t` and `u` first, in this order (the first such hint counts) |
//! | `STRAIGHT_JOIN()`, `JOIN_FIXED_ORDER()` | join in the order of FROM, as `SELECT STRAIGHT_JOIN` |
//!
//! Tables go by their aliases in the FROM that the hint belongs to. A hint that cannot be followed
//! gives a warning, and so does a name that FROM lacks; the statement then is planned each time, or
//! only its first run would warn. Other hints are left to those they concern
//! (`MAX_EXECUTION_TIME`), or ignored.
//!
//! Source: MySQL 8.0 manual, section 8.9.3 "Optimizer Hints", and TiDB's manual of the same name.

use cairn_executor::plan::JoinKind;
use cairn_types::MysqlError;

use super::Binder;
use crate::logical::{JoinHints, Logical};

/// TiDB's number for hints that come to nothing (MySQL: `Internal error: %s`).
const ER_INTERNAL_ERROR: u16 = 1815;

/// A hint about joins.
struct JoinHint {
    name: String,
    tables: Vec<String>,
    says: JoinHints,
    order: Order,
}

/// What a hint says of the order of joins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    /// Its tables come first.
    Leading,
    /// That of FROM.
    Fixed,
}

impl Binder<'_> {
    /// Notes in the tables of a FROM what hints say of them.
    pub(crate) fn join_hints(&mut self, texts: &[String], from: &mut Logical) {
        let mut has_leading = false;
        for hint in texts.iter().flat_map(|text| parse(text)) {
            match hint.order {
                Order::Leading if has_leading => continue,
                Order::Leading => has_leading = true,
                Order::Fixed => fix_order(from),
                Order::Any => {}
            }
            let mut unknown = hint.tables.clone();
            mark(from, &hint, &mut unknown);
            if !unknown.is_empty() {
                let (names, name) = (unknown.join(", "), &hint.name);
                self.hint_warning(format!(
                    "There are no matching table names for ({names}) in optimizer hint \
                     /*+ {name}({}) */. Maybe you can use the table alias name",
                    hint.tables.join(", ")
                ));
            }
        }
    }

    /// Warns of a hint that comes to nothing.
    pub(crate) fn hint_warning(&mut self, text: String) {
        self.cacheable = false;
        self.ctx.eval.warn(MysqlError::new(ER_INTERNAL_ERROR, text));
    }
}

/// The inner joins of this FROM itself keep their order.
pub(super) fn fix_order(plan: &mut Logical) {
    if let Logical::Join(join) = plan {
        join.straight |= join.kind == JoinKind::Inner;
        fix_order(&mut join.left);
        fix_order(&mut join.right);
    }
}

/// Tables of this FROM itself, not of queries in it.
fn mark(plan: &mut Logical, hint: &JoinHint, unknown: &mut Vec<String>) {
    match plan {
        Logical::Join(join) => {
            mark(&mut join.left, hint, unknown);
            mark(&mut join.right, hint, unknown);
        }
        Logical::Scan(scan) => {
            let is_named = |table: &String| table.eq_ignore_ascii_case(&scan.alias);
            if let Some(place) = hint.tables.iter().position(is_named) {
                let leading = (hint.order == Order::Leading).then_some(place);
                scan.join_hints.add(JoinHints { leading, ..hint.says });
                unknown.retain(|table| !is_named(table));
            }
        }
        _ => {}
    }
}

/// The hints about joins in the text between `/*+` and `*/`.
fn parse(text: &str) -> Vec<JoinHint> {
    let mut hints = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('(') {
        let Some((arguments, after)) = behind.split_once(')') else { break };
        rest = after;
        let name = before.rsplit([',', ' ', '\t', '\n', '\r']).find(|word| !word.is_empty());
        let Some(name) = name.map(str::to_ascii_uppercase) else { continue };
        let Some((says, order)) = meaning(&name) else { continue };
        let tables = arguments.split(',').map(table_name).filter(|table| !table.is_empty());
        hints.push(JoinHint { tables: tables.collect(), name, says, order });
    }
    hints
}

fn meaning(name: &str) -> Option<(JoinHints, Order)> {
    let none = JoinHints::default();
    let says = match name {
        "LEADING" | "JOIN_PREFIX" | "JOIN_ORDER" => return Some((none, Order::Leading)),
        "STRAIGHT_JOIN" | "JOIN_FIXED_ORDER" => return Some((none, Order::Fixed)),
        "INL_JOIN" | "INL_HASH_JOIN" | "TIDB_INLJ" => JoinHints { index: true, ..none },
        "HASH_JOIN" | "TIDB_HJ" => JoinHints { hash: true, ..none },
        "NO_INDEX_JOIN" => JoinHints { no_index: true, ..none },
        "NO_HASH_JOIN" => JoinHints { no_hash: true, ..none },
        "BROADCAST_JOIN" | "TIDB_BCJ" => JoinHints { broadcast: true, ..none },
        "NO_BROADCAST_JOIN" => JoinHints { no_broadcast: true, ..none },
        _ => return None,
    };
    Some((says, Order::Any))
}

/// A table as a hint names it: without quotes and database.
fn table_name(argument: &str) -> String {
    let name = argument.trim().rsplit('.').next().unwrap_or_default();
    name.trim().trim_matches('`').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        let hints = parse(text).into_iter();
        hints.map(|hint| format!("{}:{}", hint.name, hint.tables.join("+"))).collect()
    }

    #[test]
    fn only_hints_about_joins_are_taken() {
        assert_eq!(parsed("INL_JOIN(a)"), ["INL_JOIN:a"]);
        assert_eq!(
            parsed("max_execution_time(5), hash_join( d.a , `B` )\n NO_INDEX_JOIN (c)"),
            ["HASH_JOIN:a+B", "NO_INDEX_JOIN:c"]
        );
        assert!(parsed("INL_JOIN").is_empty() && parsed("INL_JOIN(a").is_empty());
        assert!(parsed("USE_INDEX(t, i) ()").is_empty());
    }
}
