//! Which way a join is run: by hash on the SQL node or in the stores, or by looking up the rows of either side.
//!
//! ```text
//! SELECT * FROM o JOIN t ON t.id = o.a              both are read as a whole: HashJoin
//! SELECT * FROM o JOIN t ON t.id = o.a WHERE o.k = 5   some rows of o: IndexJoin, t looked up
//! SELECT * FROM o JOIN t ON t.id = o.a ORDER BY o.id   IndexJoin over o in order, if that is
//!                                                      cheaper than HashJoin and Sort
//! SELECT * FROM o JOIN t ON t.id = o.a LIMIT 10        IndexJoin: it stops after few rows of o
//! SELECT COUNT(*) FROM o JOIN t ON t.id = o.a WHERE t.k = 5   HashJoin next to the rows of o, if few
//!                                                      rows of t are left (`broadcast_join.rs`)
//! ```
//!
//! The cheapest wins. Without statistics costs rest on guesses (`cost.rs`), but on what is known
//! too: whole unique keys name one row, points and ranges are told apart. A join by hash reads
//! both sides once; one by index reads its outer side and pays for every row of it.
//!
//! **Hints** go before costs: `INL_JOIN` of a side that can be looked up, then `HASH_JOIN` of
//! either side; `NO_INDEX_JOIN` and `NO_HASH_JOIN` take a choice away, unless it is the last one. Of the joins by
//! hash `BROADCAST_JOIN` asks for the one in the stores, whatever the sizes, and `NO_BROADCAST_JOIN` for the
//! other one.
//! A hint that cannot be followed is told of.

use cairn_executor::plan::JoinSide;

use super::broadcast_join::Broadcast;
use super::cop::CopTask;
use super::index_join::{Candidate, inner_scan, sides};
use super::{Physical, Root, Task, WantedOrder};
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

    /// All rows.
    pub(super) fn rows(&self) -> f64 {
        self.rows
    }

    /// The part of the rows that is asked for.
    pub(super) fn fraction(&self) -> f64 {
        self.row_goal.map_or(1.0, |goal| (goal / self.rows).min(1.0))
    }
}

impl Physical<'_> {
    /// `row_goal`: how many rows a LIMIT above asks for; `sent_goal`: how many are left of those that stores
    /// would send.
    pub(super) fn join(
        &mut self,
        join: &LogicalJoin,
        order: WantedOrder<'_>,
        row_goal: Option<f64>,
        sent_goal: Option<f64>,
    ) -> Result<Task> {
        let correlated = join.correlated();
        if !correlated.is_empty() {
            return Ok(Task::Root(self.apply(join, correlated)?));
        }
        let keys = self.keys(join)?;
        let (left_goal, right_goal) = self.sent_goals(join, &keys, sent_goal);
        self.sent_goal = left_goal;
        let left = self.task(&join.left, None)?;
        let left_probe = self.probe_task(join, JoinSide::Left, &left, &keys);
        let mut left = self.finish(left)?;
        self.sent_goal = right_goal;
        let right = self.task(&join.right, None)?;
        let right_probe = self.probe_task(join, JoinSide::Right, &right, &keys);
        let mut right = self.finish(right)?;
        // One row is in every order, but not what it is joined with.
        left.ordered &= gives(&join.left, order);
        right.ordered &= gives(&join.right, order);
        let terms = JoinTerms::of(join);
        let estimate = Box::new(self.estimator().join(&terms, &left.estimate, &right.estimate));
        let wanted = Wanted { order, rows: estimate.rows, row_goal };
        let mut choices = self.index_joins(join, [&left, &right], &wanted)?;
        let probes = [left_probe, right_probe];
        let broadcast = self.best_broadcast(join, probes, [&left, &right], (&wanted, sent_goal));
        let allowed = self.allowed(join, &mut choices, broadcast.is_some());
        let mut hash_cost = self.hash_join_cost(join, &left, &right, &wanted);
        let is_better = |best: &Broadcast| allowed.broadcast || best.cost < hash_cost;
        let broadcast = broadcast.filter(|best| allowed.hash && is_better(best));
        if let Some(best) = &broadcast {
            hash_cost = best.cost;
        }
        let best = choices.into_iter().filter(|_| allowed.index && !allowed.broadcast);
        let best = best.min_by(|a, b| a.cost.total_cmp(&b.cost));
        let best = best.filter(|best| !allowed.hash || best.cost < hash_cost);
        if let Some(Choice { candidate, ordered, .. }) = best {
            let outer = match candidate.inner() {
                JoinSide::Right => left,
                JoinSide::Left => right,
            };
            let outer = ordered.unwrap_or(outer);
            let root = self.build_index_join(join, candidate, outer, keys, estimate)?;
            return Ok(Task::Root(root));
        }
        match broadcast {
            Some(best) => {
                let build = if best.probe == JoinSide::Left { right } else { left };
                self.build_broadcast_join(join, best, build, keys, *estimate)
            }
            None => Ok(Task::Root(self.hash_join(join, left, right, keys, estimate)?)),
        }
    }

    /// The cheaper of the joins in the stores that hints leave.
    fn best_broadcast(
        &self,
        join: &LogicalJoin,
        [left_probe, right_probe]: [Option<Box<CopTask>>; 2],
        [left, right]: [&Root; 2],
        goals: (&Wanted<'_>, Option<f64>),
    ) -> Option<Broadcast> {
        let hint = |side: &Logical| {
            inner_scan(side).map_or_else(JoinHints::default, |scan| scan.join_hints)
        };
        let (left_hint, right_hint) = (hint(&join.left), hint(&join.right));
        if left_hint.no_broadcast || right_hint.no_broadcast {
            return None;
        }
        let is_hinted = left_hint.broadcast || right_hint.broadcast;
        let with = |probe: JoinSide, cop: Option<Box<CopTask>>, roots: (&Root, &Root)| {
            self.broadcast(join, (probe, cop?), roots, goals, is_hinted)
        };
        let of_right = with(JoinSide::Left, left_probe, (left, right));
        let of_left = with(JoinSide::Right, right_probe, (right, left));
        // A table that is named alone is the one to be sent.
        match (of_left, of_right) {
            (Some(choice), _) if left_hint.broadcast && !right_hint.broadcast => Some(choice),
            (_, Some(choice)) if right_hint.broadcast && !left_hint.broadcast => Some(choice),
            (of_left, of_right) => {
                let choices = [of_left, of_right].into_iter().flatten();
                choices.min_by(|a, b| a.cost.total_cmp(&b.cost))
            }
        }
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

    /// What hints allow; takes index joins away that they do not allow. `can_broadcast`: stores can run
    /// the join.
    fn allowed(
        &mut self,
        join: &LogicalJoin,
        choices: &mut Vec<Choice>,
        can_broadcast: bool,
    ) -> Allowed {
        let [left, right] = [&join.left, &join.right].map(inner_scan);
        let hints = |inner: JoinSide| {
            let scan = if inner == JoinSide::Right { right } else { left };
            scan.map_or_else(JoinHints::default, |scan| scan.join_hints)
        };
        let mut both = hints(JoinSide::Left);
        both.add(hints(JoinSide::Right));
        if both == JoinHints::default() {
            return Allowed { hash: true, index: true, broadcast: false };
        }
        choices.retain(|choice| !hints(choice.candidate.inner()).no_index);
        let hinted = |choice: &Choice| hints(choice.candidate.inner()).index;
        let by_index = choices.iter().any(hinted);
        if by_index {
            choices.retain(hinted);
        }
        let by_hash = !by_index && (both.hash || !both.no_hash || choices.is_empty());
        let broadcast = by_hash && both.broadcast && can_broadcast;
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
            if scan.join_hints.broadcast && !broadcast {
                self.unused_hints.insert(format!("BROADCAST_JOIN({})", scan.alias));
            }
        }
        Allowed { hash: by_hash, index: by_index || !both.hash, broadcast }
    }
}

/// Which ways to run a join hints leave.
struct Allowed {
    hash: bool,
    index: bool,
    /// By hash in the stores and in no other way.
    broadcast: bool,
}
