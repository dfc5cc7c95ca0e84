//! Cycles in the graph of moments, by name: the worst name first, each group of transactions once.

use std::collections::{HashMap, HashSet, VecDeque};

use super::graph::{Graph, Why};
use super::{Anomaly, Transaction, Violation};

/// Starting points that are tried in one group for its shortest cycle.
const STARTS_MAX: usize = 64;

/// Which edges are looked at; each set holds the one before.
#[derive(Clone, Copy, Debug)]
struct Edges {
    wr: bool,
    rw: bool,
    time: bool,
}

impl Edges {
    fn have(self, why: Why) -> bool {
        match why {
            Why::Statement | Why::Ww(_) => true,
            Why::Wr(_) => self.wr,
            Why::Rw(_) => self.rw,
            Why::Time => self.time,
        }
    }
}

/// Finds a shortest cycle in each group of moments that reach each other.
pub fn find(history: &[Transaction], graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut told: HashSet<usize> = HashSet::new();
    for time in [false, true] {
        for (wr, rw) in [(false, false), (true, false), (true, true)] {
            let edges = Edges { wr, rw, time };
            for group in groups(graph, edges) {
                let whose = |moment: &usize| graph.whose[*moment];
                if group.iter().filter_map(whose).any(|at| told.contains(&at)) {
                    continue;
                }
                told.extend(group.iter().filter_map(whose));
                if let Some(cycle) = shortest(graph, edges, &group) {
                    violations.push(explain(history, graph, &cycle));
                }
            }
        }
    }
    violations
}

/// Strongly connected components of more than one moment (Tarjan 1972, without recursion).
fn groups(graph: &Graph, edges: Edges) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = graph.after.len();
    let mut number = vec![NEW; count];
    let mut low = vec![0; count];
    let mut waits = vec![false; count];
    let mut stack = Vec::new();
    let mut groups = Vec::new();
    let mut next_number = 0;
    // A moment and the position of its next edge.
    let mut calls: Vec<(usize, usize)> = Vec::new();
    for root in 0..count {
        if number[root] != NEW {
            continue;
        }
        calls.push((root, 0));
        while let Some((at, edge)) = calls.pop() {
            if edge == 0 {
                (number[at], low[at]) = (next_number, next_number);
                next_number += 1;
                stack.push(at);
                waits[at] = true;
            } else {
                // Back from where the edge before this led to.
                let (to, _) = graph.after[at][edge - 1];
                if waits[to] {
                    low[at] = low[at].min(low[to]);
                }
            }
            let rest = graph.after[at].iter().enumerate().skip(edge);
            let mut follow = rest.filter(|(_, (_, why))| edges.have(*why));
            let unvisited = follow.find_map(|(position, (to, _))| {
                if number[*to] == NEW {
                    return Some((position, *to));
                }
                if waits[*to] {
                    low[at] = low[at].min(number[*to]);
                }
                None
            });
            if let Some((position, to)) = unvisited {
                calls.push((at, position + 1));
                calls.push((to, 0));
                continue;
            }
            if low[at] == number[at] {
                let begin = stack.iter().rposition(|moment| *moment == at).unwrap_or_default();
                let group = stack.split_off(begin);
                group.iter().for_each(|moment| waits[*moment] = false);
                if group.len() > 1 {
                    groups.push(group);
                }
            }
        }
    }
    groups
}

/// One step of a cycle.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    why: Why,
    to: usize,
}

/// A shortest cycle within a group, through one of its first moments.
fn shortest(graph: &Graph, edges: Edges, group: &[usize]) -> Option<Vec<Step>> {
    let inside: HashSet<usize> = group.iter().copied().collect();
    let starts = group.iter().take(STARTS_MAX);
    let cycles = starts.filter_map(|start| {
        // Breadth first: how each moment was reached.
        let mut reached: HashMap<usize, Step> = HashMap::new();
        let mut queue = VecDeque::from([*start]);
        while let Some(from) = queue.pop_front() {
            for (to, why) in &graph.after[from] {
                let is_new = inside.contains(to) && !reached.contains_key(to);
                if edges.have(*why) && is_new {
                    reached.insert(*to, Step { from, why: *why, to: *to });
                    if to == start {
                        return Some(way_back(&reached, *start));
                    }
                    queue.push_back(*to);
                }
            }
        }
        None
    });
    cycles.min_by_key(Vec::len)
}

fn way_back(reached: &HashMap<usize, Step>, start: usize) -> Vec<Step> {
    let mut steps = vec![reached[&start]];
    while steps[steps.len() - 1].from != start {
        steps.push(reached[&steps[steps.len() - 1].from]);
    }
    steps.reverse();
    steps
}

/// Names a cycle and tells its steps from transaction to transaction.
fn explain(history: &[Transaction], graph: &Graph, cycle: &[Step]) -> Violation {
    let count = |is: fn(&Why) -> bool| cycle.iter().filter(|step| is(&step.why)).count();
    let after_its_end = count(|why| matches!(why, Why::Time)) > 0;
    let flows = count(|why| matches!(why, Why::Wr(_))) > 0;
    let anomaly = match count(|why| matches!(why, Why::Rw(_))) {
        0 if flows => Anomaly::CircularFlow { after_its_end },
        0 => Anomaly::WriteCycle { after_its_end },
        1 => Anomaly::ReadSkew { after_its_end },
        _ => Anomaly::WriteSkew { after_its_end },
    };
    // Begins with a moment of a transaction: not all can be the clock's, which does not go back.
    let begin = cycle.iter().position(|step| graph.whose[step.from].is_some()).unwrap_or_default();
    let mut steps: Vec<String> = Vec::new();
    let mut since: Option<usize> = None;
    for step in cycle[begin..].iter().chain(&cycle[..begin]) {
        let (from, to) = (graph.whose[step.from], graph.whose[step.to]);
        let told = match step.why {
            Why::Statement => continue,
            Why::Ww(key) => format!("was appended after by {} in list {}", name(to), key.0),
            Why::Wr(key) => format!("was seen by {} in list {}", name(to), key.0),
            Why::Rw(key) => format!("did not see the append of {} to list {}", name(to), key.0),
            Why::Time => {
                // Through any number of the clock's moments.
                since = since.or(from);
                if to.is_none() {
                    continue;
                }
                format!("had ended before {} began", name(to))
            }
        };
        steps.push(format!("{} {told}", name(from.or(since.take()))));
    }
    let mut whose: Vec<usize> = cycle.iter().filter_map(|step| graph.whose[step.from]).collect();
    whose.sort_unstable();
    whose.dedup();
    let told = whose.iter().map(|at| format!("T{at}: {}", history[*at]));
    steps.extend(told);
    Violation { anomaly, steps }
}

fn name(at: Option<usize>) -> String {
    at.map_or_else(|| "the clock".to_owned(), |at| format!("T{at}"))
}
