//! What each read says alone, and the order of each list's elements that all reads tell together.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Anomaly, Element, Key, Outcome, Statement, Transaction, Violation};

/// An append.
#[derive(Clone, Copy, Debug)]
pub struct Append {
    /// Index of its transaction.
    pub by: usize,
    key: Key,
    /// Whether the transaction appended no more to this list.
    is_last: bool,
}

/// What is known of the order in which lists grew.
#[derive(Debug, Default)]
pub struct Orders {
    /// The longest state of each list that anybody saw.
    pub seen: BTreeMap<Key, Vec<Element>>,
    /// Whose appends to each list took effect and were seen by nobody: behind all that was seen, in
    /// any order.
    pub unseen: BTreeMap<Key, Vec<usize>>,
    /// Whether each transaction took effect: those of unknown outcome did when anybody saw a part.
    pub took_effect: Vec<bool>,
    /// Every append.
    pub appends: HashMap<Element, Append>,
}

/// The elements of a list that were there before the transaction appended its own; `None` when its
/// own are not where they must be.
pub fn before_own<'a>(list: &'a [Element], own: &[Element]) -> Option<&'a [Element]> {
    let base = list.strip_suffix(own)?;
    base.iter().all(|element| !own.contains(element)).then_some(base)
}

/// Goes through all reads.
pub fn look(history: &[Transaction]) -> (Orders, Vec<Violation>) {
    let mut orders = Orders { appends: appends(history), ..Orders::default() };
    let mut violations = Vec::new();
    // By whom the longest state of each list was read.
    let mut longest: BTreeMap<Key, (usize, &[Element])> = BTreeMap::new();
    let mut bases = Vec::new();
    for (at, transaction) in history.iter().enumerate() {
        let mut own: HashMap<Key, Vec<Element>> = HashMap::new();
        for statement in &transaction.statements {
            match statement {
                Statement::Append { key, element } => own.entry(*key).or_default().push(*element),
                Statement::Read { lists, .. } => {
                    for (key, list) in lists {
                        let mine = own.get(key).map_or(&[][..], Vec::as_slice);
                        let Some(base) = before_own(list, mine) else {
                            let step = format!("T{at} appended {mine:?} to {key:?}, read {list:?}");
                            violations.push(violation(Anomaly::OwnWriteUnseen, step));
                            continue;
                        };
                        violations.extend(look_at(history, &orders.appends, at, *key, base));
                        let known = longest.entry(*key).or_insert((at, base));
                        if base.len() > known.1.len() {
                            *known = (at, base);
                        }
                        bases.push((at, *key, base));
                    }
                }
            }
        }
    }
    for (at, key, base) in bases {
        let (by, order) = longest[&key];
        if !order.starts_with(base) {
            let step = format!("T{at} read {key:?} as {base:?}, T{by} as {order:?}");
            violations.push(violation(Anomaly::IncompatibleOrder, step));
        }
    }
    orders.seen = longest.into_iter().map(|(key, (_, order))| (key, order.to_vec())).collect();
    (orders.took_effect, orders.unseen) = effects(history, &orders.seen);
    (orders, violations)
}

fn violation(anomaly: Anomaly, step: String) -> Violation {
    Violation { anomaly, steps: vec![step] }
}

fn appends(history: &[Transaction]) -> HashMap<Element, Append> {
    let mut appends: HashMap<Element, Append> = HashMap::new();
    let mut last: HashMap<(usize, Key), Element> = HashMap::new();
    for (by, transaction) in history.iter().enumerate() {
        for statement in &transaction.statements {
            let Statement::Append { key, element } = statement else { continue };
            let again = appends.insert(*element, Append { by, key: *key, is_last: true });
            assert!(again.is_none(), "{element:?} was appended twice: by T{by} at last");
            if let Some(before) = last.insert((by, *key), *element) {
                appends.entry(before).and_modify(|append| append.is_last = false);
            }
        }
    }
    appends
}

/// What is wrong with what one read saw of one list.
fn look_at(
    history: &[Transaction],
    appends: &HashMap<Element, Append>,
    at: usize,
    key: Key,
    base: &[Element],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut met = HashSet::new();
    for element in base {
        let read = || format!("T{at} read {element:?} in {key:?}");
        match appends.get(element) {
            Some(append) if append.key == key && append.by != at => {
                if history[append.by].outcome == Outcome::Aborted {
                    let step = format!("{}, appended by T{}, which was aborted", read(), append.by);
                    violations.push(violation(Anomaly::AbortedRead, step));
                }
            }
            Some(append) if append.key == key => {
                let step = format!("{} before it appended it", read());
                violations.push(violation(Anomaly::Garbage, step));
            }
            _ => {
                let step = format!("{}, which nobody appended", read());
                violations.push(violation(Anomaly::Garbage, step));
            }
        }
        if !met.insert(element) {
            violations.push(violation(Anomaly::Garbage, format!("{} twice", read())));
        }
    }
    if let Some(append) = base.last().and_then(|last| appends.get(last))
        && !append.is_last
        && append.by != at
    {
        let step = format!("T{at} read {key:?} as {base:?}, before T{}'s last", append.by);
        violations.push(violation(Anomaly::IntermediateRead, step));
    }
    violations
}

/// Which transactions took effect, and the appends of those to each list that nobody saw.
fn effects(
    history: &[Transaction],
    seen: &BTreeMap<Key, Vec<Element>>,
) -> (Vec<bool>, BTreeMap<Key, Vec<usize>>) {
    let seen: HashSet<&Element> = seen.values().flatten().collect();
    let is_seen = |statement: &Statement| match statement {
        Statement::Append { element, .. } => seen.contains(element),
        Statement::Read { .. } => false,
    };
    let took_effect: Vec<bool> = history
        .iter()
        .map(|transaction| match transaction.outcome {
            Outcome::Committed => true,
            Outcome::Unknown => transaction.statements.iter().any(is_seen),
            Outcome::Aborted => false,
        })
        .collect();
    let mut unseen: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (at, transaction) in history.iter().enumerate().filter(|(at, _)| took_effect[*at]) {
        for statement in &transaction.statements {
            let Statement::Append { key, element } = statement else { continue };
            let writers = unseen.entry(*key).or_default();
            if !seen.contains(element) && writers.last() != Some(&at) {
                writers.push(at);
            }
        }
    }
    (took_effect, unseen)
}
