//! Which way a join is run: by hash, or by looking up the rows of either side.
//!
//! ```text
//! SELECT * FROM o JOIN t ON t.id = o.a              both are read as a whole: HashJoin
//! SELECT * FROM o JOIN t ON t.id = o.a WHERE o.k = 5   some rows of o: IndexJoin, t looked up
//! SELECT * FROM o JOIN t ON t.id = o.a ORDER BY o.id   IndexJoin over o in order, if that is
//!                                                      cheaper than HashJoin and Sort
//! SELECT * FROM o JOIN t ON t.id = o.a LIMIT 10        IndexJoin: it stops after few rows of o
//! ```
//!
//! The cheapest wins. Without statistics costs rest on guesses (`cost.rs`), but on what is known
//! too: whole unique keys name one row, points and ranges are told apart. A join by hash reads
//! both sides once; one by index reads its outer side and pays for every row of it.
//!
//! **Hints** go before costs: `INL_JOIN` of a side that can be looked up, then `HASH_JOIN` of
//! either side; `NO_INDEX_JOIN` and `NO_HASH_JOIN` take a choice away, unless it is the last one.
//! A hint that cannot be followed is told of.

use cairn_executor::plan::JoinSide;

use super::index_join::{Candidate, inner_scan, sides};
use super::{Physical, Root, WantedOrder};
use crate::error::Result;
use crate::logical::tree::covered;
use crate::logical::{JoinHints, Logical, LogicalJoin};
use crate::statistics::JoinTerms;

/// An index join with its cost.
struct Choice {
    candidate: Candidate,
    /// Its outer side in the wanted order, if that is better.
    ordered: Option<Root>,
    cost: f64,
}

/// Whether a side has all columns of an order.
pub(super) fn gives(side: &Logical, order: WantedOrder<'_>) -> bool {
    let columns = side.output_set();
    order.is_some_and(|keys| keys.iter().all(|key| covered(&key.expr, &columns)))
}

/// What is wanted of a join.
pub(super) struct Wanted<'w> {
    order: WantedOrder<'w>,
    /// All rows it gives.
    rows: f64,
    /// Those that are asked for.
    row_goal: Option<f64>,
}

impl Wanted<'_> {
    /// Rows to sort, if the join does not give them in order.
    pub(super) fn sorted_rows(&self) -> Option<f64> {
        self.order.map(|_| self.rows)
    }

    /// The part of the rows that is asked for.
    pub(super) fn fraction(&self) -> f64 {
        self.row_goal.map_or(1.0, |goal| (goal / self.rows).min(1.0))
    }
}

impl Physical<'_> {
    /// `row_goal`: how many rows a LIMIT above asks for.
    pub(super) fn join(
        &mut self,
        join: &LogicalJoin,
        order: WantedOrder<'_>,
        row_goal: Option<f64>,
    ) -> Result<Root> {
        let correlated = join.correlated();
        if !correlated.is_empty() {
            return self.apply(join, correlated);
        }
        let mut left = self.root(&join.left)?;
        let mut right = self.root(&join.right)?;
        // One row is in every order, but not what it is joined with.
        left.ordered &= gives(&join.left, order);
        right.ordered &= gives(&join.right, order);
        let terms = JoinTerms::of(join);
        let estimate = Box::new(self.estimator().join(&terms, &left.estimate, &right.estimate));
        let keys = self.keys(join)?;
        let wanted = Wanted { order, rows: estimate.rows, row_goal };
        let mut choices = self.index_joins(join, [&left, &right], &wanted)?;
        let (by_hash, by_index) = self.allowed(join, &mut choices);
        let hash_cost = self.hash_join_cost(join, &left, &right, &wanted);
        let best = choices.into_iter().filter(|_| by_index);
        let best = best.min_by(|a, b| a.cost.total_cmp(&b.cost));
        let best = best.filter(|best| !by_hash || best.cost < hash_cost);
        let Some(Choice { candidate, ordered, .. }) = best else {
            return self.hash_join(join, left, right, keys, estimate);
        };
        let outer = match candidate.inner() {
            JoinSide::Right => left,
            JoinSide::Left => right,
        };
        self.build_index_join(join, candidate, ordered.unwrap_or(outer), keys, estimate)
    }

    /// All index joins, each with the better of its outer sides.
    fn index_joins(
        &mut self,
        join: &LogicalJoin,
        [left, right]: [&Root; 2],
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Choice>> {
        let (sorted_rows, fraction) = (wanted.sorted_rows(), wanted.fraction());
        let mut choices = Vec::new();
        for (inner, outer) in [(JoinSide::Right, left), (JoinSide::Left, right)] {
            let rows = outer.plan.row_count;
            let Some(candidate) = self.index_join_candidate(join, inner, rows) else { continue };
            let cost = self.index_join_cost(&candidate, outer, sorted_rows, fraction);
            let goal = wanted.row_goal.map(|goal| goal * (rows / wanted.rows).max(1.0));
            let ordered = self.ordered_outer(sides(join, inner).0, wanted.order, goal)?;
            let cost_of =
                |outer: &Root| self.index_join_cost(&candidate, outer, sorted_rows, fraction);
            let ordered = ordered.map(|outer| (cost_of(&outer), outer));
            let ordered = ordered.filter(|(ordered_cost, _)| *ordered_cost < cost);
            choices.push(match ordered {
                Some((cost, outer)) => Choice { candidate, ordered: Some(outer), cost },
                None => Choice { candidate, ordered: None, cost },
            });
        }
        Ok(choices)
    }

    /// Whether hints allow a join by hash, and one by index; takes index joins away that they do
    /// not allow.
    fn allowed(&mut self, join: &LogicalJoin, choices: &mut Vec<Choice>) -> (bool, bool) {
        let [left, right] = [&join.left, &join.right].map(inner_scan);
        let hints = |inner: JoinSide| {
            let scan = if inner == JoinSide::Right { right } else { left };
            scan.map_or_else(JoinHints::default, |scan| scan.join_hints)
        };
        let mut both = hints(JoinSide::Left);
        both.add(hints(JoinSide::Right));
        if both == JoinHints::default() {
            return (true, true);
        }
        choices.retain(|choice| !hints(choice.candidate.inner()).no_index);
        let hinted = |choice: &Choice| hints(choice.candidate.inner()).index;
        let by_index = choices.iter().any(hinted);
        if by_index {
            choices.retain(hinted);
        }
        let by_hash = !by_index && (both.hash || !both.no_hash || choices.is_empty());
        let scans = [left, right].into_iter().flatten();
        for scan in scans {
            if scan.join_hints.index && !by_index {
                self.unused_hints.insert(format!("INL_JOIN({})", scan.alias));
            }
            if scan.join_hints.hash && by_index {
                self.unused_hints.insert(format!("HASH_JOIN({})", scan.alias));
            }
            if scan.join_hints.no_hash && by_hash && choices.is_empty() {
                self.unused_hints.insert(format!("NO_HASH_JOIN({})", scan.alias));
            }
        }
        (by_hash, by_index || !both.hash)
    }
}
