//! The conditions of inner joins while their order is sought.
//!
//! ```text
//! a.k = b.k AND b.k = c.k        a, c, b:  a.k = c.k, then b.k = a.k
//! ```
//!
//! **Equal columns.** Columns that equalities connect, directly or through others, are of one class: any
//! two of them may be compared, so that inputs can be joined which the statement does not compare
//! itself. One condition of a class is enough where two sets of inputs meet: within each all
//! columns of the class are equal already, by the conditions of the joins in it. The others would
//! say nothing new, and make estimates too low.
//!
//! **Must not happen** for columns of different types or collations, where equality is not
//! transitive (`'1' = 1 AND 1 = '01'`), nor for classes with two columns of one input: no join
//! makes these equal.

use std::collections::BTreeSet;

use cairn_expr::{Expr, Func};
use cairn_types::FieldType;

use crate::logical::Col;
use crate::logical::tree::covered;

/// Conditions that no join has yet.
pub(super) struct Conditions {
    list: Vec<Condition>,
}

struct Condition {
    expr: Expr,
    /// Of equal columns.
    class: Option<usize>,
}

impl Conditions {
    /// Just these.
    pub fn new(conditions: Vec<Expr>) -> Conditions {
        let list = conditions.into_iter().map(|expr| Condition { expr, class: None });
        Conditions { list: list.collect() }
    }

    /// These and what follows from them, between inputs with these columns.
    pub fn closed(conditions: Vec<Expr>, inputs: &[&BTreeSet<Col>]) -> Conditions {
        let mut classes: Vec<Vec<Expr>> = Vec::new();
        let mut result = Conditions::new(conditions);
        for condition in &result.list {
            let Some((a, b)) = equal_columns(&condition.expr) else { continue };
            let of = |column: &Expr| classes.iter().position(|class| class.contains(column));
            match (of(a), of(b)) {
                (None, None) => classes.push(vec![a.clone(), b.clone()]),
                (Some(at), None) => classes[at].push(b.clone()),
                (None, Some(at)) => classes[at].push(a.clone()),
                (Some(at), Some(other)) if at != other => {
                    let (low, high) = (at.min(other), at.max(other));
                    let merged = classes.remove(high);
                    classes[low].extend(merged);
                }
                _ => {}
            }
        }
        classes.retain(|class| {
            let cols: Vec<Col> = class.iter().filter_map(Expr::as_column).collect();
            let of = |input: &&BTreeSet<Col>| cols.iter().filter(|col| input.contains(col)).count();
            inputs.iter().map(of).all(|count| count < 2)
        });
        for condition in &mut result.list {
            if let Some((a, _)) = equal_columns(&condition.expr) {
                condition.class = classes.iter().position(|class| class.contains(a));
            }
        }
        for (at, class) in classes.iter().enumerate() {
            for (place, a) in class.iter().enumerate() {
                result.add_equalities(at, a, &class[place + 1..]);
            }
        }
        result
    }

    /// Equalities of a column with others of its class that are not there yet.
    fn add_equalities(&mut self, class: usize, a: &Expr, others: &[Expr]) {
        for b in others {
            let known = self.list.iter().any(|condition| {
                let sides = equal_columns(&condition.expr);
                sides.is_some_and(|(x, y)| x == a && y == b || x == b && y == a)
            });
            if !known {
                let sides = vec![a.clone(), b.clone()];
                let expr = Expr::function(Func::Eq, sides, FieldType::bigint());
                self.list.push(Condition { expr, class: Some(class) });
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Expr> {
        self.list.iter().map(|condition| &condition.expr)
    }

    /// Conditions that need both sides and nothing else of this statement's inputs, one of each
    /// class.
    pub fn usable(&self, left: &BTreeSet<Col>, right: &BTreeSet<Col>) -> Vec<Expr> {
        let both: BTreeSet<Col> = left.union(right).copied().collect();
        self.choose(&|_, expr| {
            covered(expr, &both) && !covered(expr, left) && !covered(expr, right)
        })
    }

    /// Conditions that fit by number and expression, one of each class.
    pub fn choose(&self, fits: &dyn Fn(usize, &Expr) -> bool) -> Vec<Expr> {
        let mut classes = BTreeSet::new();
        let mut usable = Vec::new();
        for (at, condition) in self.list.iter().enumerate() {
            let expr = &condition.expr;
            if fits(at, expr) && condition.class.is_none_or(|class| classes.insert(class)) {
                usable.push(expr.clone());
            }
        }
        usable
    }

    /// Those of [`Conditions::usable`], which are in their place then.
    pub fn take(&mut self, left: &BTreeSet<Col>, right: &BTreeSet<Col>) -> Vec<Expr> {
        let usable = self.usable(left, right);
        let both: BTreeSet<Col> = left.union(right).copied().collect();
        self.list.retain(|Condition { expr, class }| match class {
            Some(_) => !covered(expr, &both),
            None => !usable.contains(expr),
        });
        usable
    }

    /// What no join has taken.
    pub fn rest(self) -> Vec<Expr> {
        self.list.into_iter().map(|condition| condition.expr).collect()
    }
}

/// Two columns that a condition makes equal, if they are of the very same kind.
fn equal_columns(condition: &Expr) -> Option<(&Expr, &Expr)> {
    let Some((Func::Eq, [a, b])) = condition.as_function() else { return None };
    let (Expr::Column { ty: one, .. }, Expr::Column { ty: other, .. }) = (a, b) else {
        return None;
    };
    let same = one.physical() == other.physical()
        && one.collation == other.collation
        && one.code == other.code;
    same.then_some((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(col: Col) -> Expr {
        Expr::column(col, FieldType::int())
    }

    fn equal(a: Expr, b: Expr) -> Expr {
        Expr::function(Func::Eq, vec![a, b], FieldType::bigint())
    }

    #[test]
    fn what_is_equal_to_the_same_is_equal() {
        let own = vec![equal(column(1), column(2)), equal(column(2), column(3))];
        let mut conditions = Conditions::closed(own.clone(), &[]);
        let set = |cols: &[Col]| cols.iter().copied().collect::<BTreeSet<Col>>();
        assert_eq!(conditions.iter().count(), 3);
        let first = conditions.take(&set(&[1]), &set(&[3]));
        assert_eq!(first, [equal(column(1), column(3))]);
        // One of the two that are left says what both say.
        assert_eq!(conditions.take(&set(&[1, 3]), &set(&[2])).len(), 1);
        assert!(conditions.rest().is_empty());
        assert_eq!(Conditions::new(own.clone()).rest(), own);
        let input = set(&[1, 3]);
        let mut conditions = Conditions::closed(own.clone(), &[&input]);
        assert_eq!(conditions.take(&input, &set(&[2])), own, "columns of one input");
    }

    #[test]
    fn types_must_be_the_same() {
        let wide = Expr::column(2, FieldType::varchar(20));
        let own = vec![equal(column(1), wide.clone()), equal(wide, column(3))];
        assert_eq!(Conditions::closed(own, &[]).iter().count(), 2);
    }
}
