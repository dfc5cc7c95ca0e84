//! Rows of joins.
//!
//! | join | rows |
//! |---|---|
//! | inner | L × R × not NULL × 1 / max(domain of L's key, domain of R's key) |
//! | … with a unique key | not more than the other side has |
//! | left outer | as inner, but not fewer than L |
//! | semi | L × not NULL × distinct keys of R / domain of L's key |
//! | anti | L less those |
//!
//! The *domain* of a key is the number of its values before other conditions took rows away: what
//! orders of last week and customers of one city have in common is as rare as what both say
//! (Selinger 1979 takes the index's count, PostgreSQL's `eqjoinsel` the table's). The smaller domain
//! is taken to be contained in the larger. A key of several columns has as many values as its
//! index tells, or its table if it is unique; else as columns combine.
//!
//! Where nothing was counted four rows of five have a key of their own. Beside keys of which
//! something is known, others (an aggregate's result) are taken to say nothing new.

use std::collections::{BTreeMap, BTreeSet};

use cairn_executor::plan::JoinKind;
use cairn_expr::{Expr, Func};

use super::derive::{Estimator, equal_columns};
use super::estimate::{Estimate, combinations};
use super::guess::SEMI_FRACTION;
use super::keys::known_group;
use crate::logical::tree::{covered, implied, touches};
use crate::logical::{Col, LogicalJoin};

/// Share of the rows that have a value of their own, from which on a column counts as a key.
const UNIQUE_SHARE: f64 = 0.9;

/// What a join compares.
pub(crate) struct JoinTerms {
    kind: JoinKind,
    /// Equal expressions of the left and the right side.
    keys: Vec<(Expr, Expr)>,
    /// All other conditions.
    others: Vec<Expr>,
    /// What those say of one side alone, which is asked below the join already.
    implied: Vec<Expr>,
    /// Columns of each side that are set equal to something of the other.
    equal: [BTreeSet<Col>; 2],
}

impl JoinTerms {
    /// Those of a join.
    pub fn of(join: &LogicalJoin) -> JoinTerms {
        let sides = [join.left.output_set(), join.right.output_set()];
        let mut terms = JoinTerms::new(join.kind, &join.conditions, [&sides[0], &sides[1]]);
        if terms.keys.is_empty() {
            terms.keys.extend(join.in_keys.iter().cloned());
        }
        terms
    }

    /// Those of conditions between two sets of columns.
    pub fn new(kind: JoinKind, conditions: &[Expr], sides: [&BTreeSet<Col>; 2]) -> JoinTerms {
        let [left, right] = sides;
        let mut keys = Vec::new();
        let mut others = Vec::new();
        for condition in conditions {
            let key = match condition.as_function() {
                Some((Func::Eq | Func::NullEq, [a, b])) if a.has_columns() && b.has_columns() => {
                    if covered(a, left) && covered(b, right) {
                        Some((a.clone(), b.clone()))
                    } else if covered(b, left) && covered(a, right) {
                        Some((b.clone(), a.clone()))
                    } else {
                        None
                    }
                }
                _ => None,
            };
            match key {
                Some(key) => keys.push(key),
                None => others.push(condition.clone()),
            }
        }
        let equal = sides.map(|own| {
            let known = |other: &Expr| !touches(other, own);
            let columns = equal_columns(conditions, &known);
            columns.into_iter().filter(|col| own.contains(col)).collect()
        });
        // Below an inner join alone, see `rules::push_down`.
        let asked_below = others.iter().filter(|_| kind == JoinKind::Inner);
        let implied =
            asked_below.flat_map(|other| sides.map(|own| implied(other, own))).flatten().collect();
        JoinTerms { kind, keys, others, implied, equal }
    }

    /// Whether each row of the other side has one row at most among these.
    fn is_unique(&self, side: &Estimate, equal: &BTreeSet<Col>) -> bool {
        side.unique.iter().any(|key| key.is_subset(equal))
    }
}

/// A side's key.
struct Key {
    domain: f64,
    /// Values that are there.
    distinct: f64,
    valued: f64,
    /// Whether its columns are known together, or it is one.
    is_known: bool,
}

/// The columns of a key that are of one table.
#[derive(Default)]
struct KeyPart {
    cols: Vec<Col>,
    /// Values of each.
    counts: Vec<f64>,
    /// Rows of the table.
    rows: f64,
}

impl KeyPart {
    /// Values of all together, and whether that is known rather than computed.
    fn domain(self, side: &Estimate) -> (f64, bool) {
        if let [count] = self.counts[..] {
            return (count, true);
        }
        let whole = known_group(side, &self.cols);
        if let Some(group) = whole.filter(|group| group.columns.len() == self.counts.len()) {
            // Conditions on single columns leave fewer.
            return (group.domain.min(self.counts.iter().product()), true);
        }
        // A column that has a value of its own in each row says it all.
        let most = self.counts.iter().copied().fold(1.0, f64::max);
        match most >= self.rows * UNIQUE_SHARE {
            true => (most, true),
            false => (combinations(self.counts).min(self.rows), false),
        }
    }
}

impl Estimator<'_> {
    /// Rows of a join, without what is in their columns.
    pub fn join_rows(&self, terms: &JoinTerms, left: &Estimate, right: &Estimate) -> f64 {
        match terms.kind {
            JoinKind::LeftOuterSemi | JoinKind::AntiLeftOuterSemi => left.rows,
            JoinKind::Semi | JoinKind::Anti => {
                let matched = self.matched(terms, left, right);
                let part = match (terms.kind, matched) {
                    (_, None) => SEMI_FRACTION,
                    (JoinKind::Semi, Some(matched)) => matched,
                    (_, Some(matched)) => 1.0 - matched,
                };
                (left.rows * part).max(1.0)
            }
            kind => {
                let mut rows = self.key_rows(terms, left, right);
                if terms.is_unique(right, &terms.equal[1]) {
                    rows = rows.min(left.rows);
                }
                if terms.is_unique(left, &terms.equal[0]) {
                    rows = rows.min(right.rows);
                }
                if !terms.others.is_empty() {
                    let both = joined(left, right);
                    let below = self.asked_below(terms, &both);
                    rows *= (self.fraction(&both, &terms.others) / below).min(1.0);
                }
                let rows = rows.max(1.0);
                if kind == JoinKind::LeftOuter { rows.max(left.rows) } else { rows }
            }
        }
    }

    /// Fraction of the pairs that is left by what conditions of the join imply for one table: that was
    /// asked below, whatever the order of joins. What they imply for several may not have been.
    fn asked_below(&self, terms: &JoinTerms, both: &Estimate) -> f64 {
        let of_one_table = |part: &&Expr| {
            let scan = |col: Col| Some(both.columns.get(&col)?.source.as_ref()?.scan);
            let mut scans = part.columns().into_iter().map(scan);
            let first = scans.next().flatten();
            first.is_some() && scans.all(|scan| scan == first)
        };
        let parts = terms.implied.iter().filter(of_one_table);
        let below: f64 =
            parts.map(|part| self.fraction(both, std::slice::from_ref(part))).product();
        below.max(f64::MIN_POSITIVE)
    }

    /// Pairs with equal keys.
    fn key_rows(&self, terms: &JoinTerms, left: &Estimate, right: &Estimate) -> f64 {
        let pairs = left.rows * right.rows;
        if terms.keys.is_empty() {
            return pairs;
        }
        let is_known = |(l, r): &&(Expr, Expr)| {
            self.column_of(left, l).is_some() && self.column_of(right, r).is_some()
        };
        let mut keys: Vec<&(Expr, Expr)> = terms.keys.iter().filter(is_known).collect();
        if keys.is_empty() {
            keys.extend(&terms.keys);
        }
        let l = self.key(left, keys.iter().map(|(l, _)| l));
        let r = self.key(right, keys.iter().map(|(_, r)| r));
        let domain = match (l.is_known, r.is_known) {
            (true, false) => l.domain,
            (false, true) => r.domain,
            _ => l.domain.max(r.domain),
        };
        pairs * l.valued * r.valued / domain.max(1.0)
    }

    fn key<'e>(&self, side: &Estimate, exprs: impl Iterator<Item = &'e Expr> + Clone) -> Key {
        let unknown = side.unknown_distinct();
        let mut key = Key { domain: unknown, distinct: unknown, valued: 1.0, is_known: false };
        let mut is_counted = side.is_counted();
        let mut cols: Vec<Col> = Vec::new();
        let mut parts: BTreeMap<Option<Col>, KeyPart> = BTreeMap::new();
        for expr in exprs.clone() {
            let Some(column) = self.column_of(side, expr).filter(|_| is_counted) else {
                is_counted = false;
                continue;
            };
            key.valued *= column.valued();
            cols.extend(expr.as_column());
            let part = parts.entry(column.source.as_ref().map(|source| source.scan)).or_default();
            part.counts.push(column.domain);
            let table = column.source.as_ref().map(|source| source.table.row_count);
            part.rows = table.unwrap_or(f64::INFINITY);
            part.cols.extend(expr.as_column());
        }
        if !is_counted {
            return Key { is_known: true, ..key };
        }
        key.distinct = self.distinct(side, exprs);
        // Columns of one table have to do with each other, those of several mostly not.
        (key.domain, key.is_known) = (1.0, true);
        for part in parts.into_values() {
            let (domain, is_known) = part.domain(side);
            key.domain *= domain;
            key.is_known &= is_known;
        }
        key
    }

    /// Fraction of the left rows that have a match, if both keys are known.
    fn matched(&self, terms: &JoinTerms, left: &Estimate, right: &Estimate) -> Option<f64> {
        if terms.keys.is_empty() || !left.is_counted() || !right.is_counted() {
            return None;
        }
        let keys = terms.keys.iter();
        let counted = keys
            .clone()
            .all(|(l, r)| self.column_of(left, l).is_some() && self.column_of(right, r).is_some());
        if !counted {
            return None;
        }
        let l = self.key(left, keys.clone().map(|(l, _)| l));
        let r = self.key(right, keys.map(|(_, r)| r));
        let mut matched = l.valued * (r.distinct / l.domain.max(1.0)).min(1.0);
        if !terms.others.is_empty() {
            let per_key = right.rows * r.valued / r.distinct.max(1.0);
            let fraction = self.fraction(&joined(left, right), &terms.others);
            matched *= (per_key * fraction).min(1.0);
        }
        Some(matched.clamp(0.0, 1.0))
    }

    /// What is expected of a join.
    pub fn join(&self, terms: &JoinTerms, left: &Estimate, right: &Estimate) -> Estimate {
        let rows = self.join_rows(terms, left, right);
        if !terms.kind.keeps_right() {
            return left.clone().with_rows(rows);
        }
        let is_unique_right = terms.is_unique(right, &terms.equal[1]);
        let is_unique_left = terms.is_unique(left, &terms.equal[0]);
        let mut result = joined(&left.clone().with_rows(rows), &right.clone().with_rows(rows));
        result.rows = rows;
        result.unique.clear();
        if is_unique_right {
            result.unique.extend(left.unique.iter().cloned());
        }
        if is_unique_left && terms.kind == JoinKind::Inner {
            result.unique.extend(right.unique.iter().cloned());
        }
        if terms.kind == JoinKind::LeftOuter {
            let unmatched = 1.0 - self.matched(terms, left, right).unwrap_or(1.0);
            let unmatched = unmatched * (left.rows / rows).min(1.0);
            for col in right.columns.keys() {
                let Some(column) = result.columns.get_mut(col) else { continue };
                column.null_fraction = unmatched + column.null_fraction * (1.0 - unmatched);
            }
            return result;
        }
        for (l, r) in &terms.keys {
            let Some((l, r)) = l.as_column().zip(r.as_column()) else { continue };
            let (Some(a), Some(b)) = (left.columns.get(&l), right.columns.get(&r)) else {
                continue;
            };
            let domain = a.domain.min(b.domain);
            let distinct = a.distinct.min(b.distinct).min(rows);
            for col in [l, r] {
                let Some(column) = result.columns.get_mut(&col) else { continue };
                (column.domain, column.null_fraction) = (domain, 0.0);
                column.distinct = column.distinct.min(distinct);
            }
        }
        result
    }
}

/// Columns of both sides.
fn joined(left: &Estimate, right: &Estimate) -> Estimate {
    let mut both = left.clone();
    both.columns.extend(right.columns.iter().map(|(col, column)| (*col, column.clone())));
    both.groups.extend(right.groups.iter().cloned());
    both
}
