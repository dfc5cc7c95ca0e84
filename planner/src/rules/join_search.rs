//! The best order of up to ten joins, bushy ones too.
//!
//! ```text
//!   a ─ b ─ c          {a} {b} {c}  →  {ab} {bc}  →  {abc} = a ⋈ bc or ab ⋈ c
//! ```
//!
//! Dynamic programming over sets of inputs (Selinger et al. 1979), smaller sets before larger ones:
//! the best plan of a set is that of two of its parts which conditions connect. Sets that no
//! conditions connect are left out, so no product of unrelated inputs is looked at where another
//! order avoids it; parts that stay apart are left to the caller. All splits of a set are walked
//! as subsets of its bits ("DPsub" in Moerkotte and Neumann, "Analysis of Two Existing and One New
//! Dynamic Programming Algorithm for the Generation of Optimal Bushy Join Trees without Cross
//! Products", 2006): for ten inputs at most 59049 steps of a few instructions each, where their
//! DPccp would save the steps in vain.
//!
//! **Cost.** The rows of all intermediate results together (their C_out). A set has as many rows
//! as the least of the estimates that add one input to the rest: all of them tell of the same
//! rows, and unique keys bound them from above.
//!
//! **Order of sides.** The one with the first input in the order of FROM is on the left: plans do not
//! depend on chance. Which side is hashed or looked up is decided later.

use std::collections::BTreeSet;

use cairn_executor::plan::JoinKind;

use super::join_conditions::Conditions;
use super::join_reorder::{Part, join};
use crate::logical::Col;
use crate::statistics::{Estimate, Estimator, JoinTerms};

/// Inputs of which all orders are compared.
pub(super) const EXHAUSTIVE_MAX: usize = 10;

/// Inputs as bits.
type Set = usize;

/// The best plan of a set of inputs.
struct Best {
    estimate: Estimate,
    /// Rows of all joins in it.
    cost: f64,
    /// Its left side, if it is a join.
    left: Set,
}

/// The parts joined as far as conditions connect them, in the best order; takes the conditions
/// that are used.
pub(super) fn best(
    parts: Vec<Part>,
    conditions: &mut Conditions,
    estimator: Estimator<'_>,
) -> Vec<Part> {
    let search = Search::new(&parts, conditions, estimator);
    let (table, components) = (search.run(), components(&search.neighbours));
    let mut parts: Vec<Option<Part>> = parts.into_iter().map(Some).collect();
    let built = components
        .into_iter()
        .filter_map(|component| build(component, &table, &mut parts, conditions, estimator));
    built.collect()
}

struct Search<'p> {
    parts: &'p [Part],
    conditions: &'p Conditions,
    estimator: Estimator<'p>,
    /// By input: those that a condition connects with it.
    neighbours: Vec<Set>,
    /// By input: its columns that conditions name.
    columns: Vec<BTreeSet<Col>>,
    /// By condition: the inputs it needs; `None`: others than these.
    needed: Vec<Option<Set>>,
}

impl<'p> Search<'p> {
    fn new(parts: &'p [Part], conditions: &'p Conditions, estimator: Estimator<'p>) -> Search<'p> {
        let mut neighbours = vec![0; parts.len()];
        let mut own = vec![BTreeSet::new(); parts.len()];
        let mut needed = Vec::new();
        for condition in conditions.iter() {
            let columns = condition.columns();
            let mut left = columns.clone();
            let mut set = 0;
            for (at, part) in parts.iter().enumerate() {
                let known: BTreeSet<Col> = columns.intersection(&part.columns).copied().collect();
                left.retain(|col| !known.contains(col));
                set |= usize::from(!known.is_empty()) << at;
                own[at].extend(known);
            }
            needed.push(left.is_empty().then_some(set));
            let touched: Vec<usize> = members(set).collect();
            // A condition on three inputs connects none of two.
            if let [a, b] = touched[..] {
                neighbours[a] |= 1 << b;
                neighbours[b] |= 1 << a;
            }
        }
        Search { parts, conditions, estimator, neighbours, columns: own, needed }
    }

    fn run(&self) -> Vec<Option<Best>> {
        let count = self.parts.len();
        let mut table: Vec<Option<Best>> = Vec::new();
        table.resize_with(1 << count, || None);
        for set in 1..1usize << count {
            table[set] = match set.is_power_of_two() {
                true => {
                    let estimate = self.parts[set.trailing_zeros() as usize].estimate.clone();
                    Some(Best { estimate, cost: 0.0, left: 0 })
                }
                false => self.join_of(set, &table),
            };
        }
        table
    }

    /// The best join of a set's parts, if some are connected.
    fn join_of(&self, set: Set, table: &[Option<Best>]) -> Option<Best> {
        let first = set & set.wrapping_neg();
        let mut best: Option<(f64, Set)> = None;
        let mut left = set;
        loop {
            left = (left - 1) & set;
            if left == 0 {
                break;
            }
            if left & first == 0 {
                continue;
            }
            let (Some(l), Some(r)) = (&table[left], &table[set & !left]) else { continue };
            let cost = l.cost + r.cost;
            if self.are_connected(left, set & !left)
                && best.is_none_or(|(known, known_left)| {
                    cost < known || cost == known && left.count_ones() > known_left.count_ones()
                })
            {
                best = Some((cost, left));
            }
        }
        let (cost, left) = best?;
        let estimate = self.estimate_of(set, table)?;
        Some(Best { cost: cost + estimate.rows, estimate, left })
    }

    fn are_connected(&self, left: Set, right: Set) -> bool {
        members(left).any(|at| self.neighbours[at] & right != 0)
    }

    /// The least estimate of a set's rows.
    fn estimate_of(&self, set: Set, table: &[Option<Best>]) -> Option<Estimate> {
        let mut least: Option<(f64, Set)> = None;
        for at in members(set) {
            let rest = set & !(1 << at);
            let Some(known) = &table[rest] else { continue };
            if self.neighbours[at] & rest == 0 {
                continue;
            }
            let terms = self.terms(rest, at);
            let part = &self.parts[at].estimate;
            let rows = self.estimator.join_rows(&terms, &known.estimate, part);
            if least.is_none_or(|(least, _)| rows < least) {
                least = Some((rows, rest));
            }
        }
        let (_, rest) = least?;
        let at = (set & !rest).trailing_zeros() as usize;
        let known = table[rest].as_ref()?;
        let part = &self.parts[at].estimate;
        Some(self.estimator.join(&self.terms(rest, at), &known.estimate, part))
    }

    fn terms(&self, rest: Set, at: usize) -> JoinTerms {
        let (all, one) = (rest | 1 << at, 1 << at);
        let usable = self.conditions.choose(&|number, _| {
            let needed = self.needed[number];
            needed.is_some_and(|set| set & !all == 0 && set & !rest != 0 && set & !one != 0)
        });
        let columns: BTreeSet<Col> =
            members(rest).flat_map(|at| self.columns[at].iter().copied()).collect();
        JoinTerms::new(JoinKind::Inner, &usable, [&columns, &self.columns[at]])
    }
}

fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..usize::BITS as usize).filter(move |at| set & (1 << at) != 0)
}

/// Sets of inputs that conditions connect.
fn components(neighbours: &[Set]) -> Vec<Set> {
    let mut components = Vec::new();
    let mut known = 0;
    for at in 0..neighbours.len() {
        if known & (1 << at) != 0 {
            continue;
        }
        let mut component: Set = 1 << at;
        loop {
            let wider = members(component).fold(component, |set, at| set | neighbours[at]);
            if wider == component {
                break;
            }
            component = wider;
        }
        known |= component;
        components.push(component);
    }
    components
}

fn build(
    set: Set,
    table: &[Option<Best>],
    parts: &mut [Option<Part>],
    conditions: &mut Conditions,
    estimator: Estimator<'_>,
) -> Option<Part> {
    if set.is_power_of_two() {
        return parts[set.trailing_zeros() as usize].take();
    }
    let left = table[set].as_ref()?.left;
    let right = build(set & !left, table, parts, conditions, estimator)?;
    let left = build(left, table, parts, conditions, estimator)?;
    Some(join(left, right, conditions, estimator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_without_conditions_stay_apart() {
        // 0─1─3  2  4─5
        let neighbours = [0b10, 0b1001, 0, 0b10, 0b100000, 0b10000];
        assert_eq!(components(&neighbours), [0b1011, 0b100, 0b110000]);
        assert_eq!(members(0b1011).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
