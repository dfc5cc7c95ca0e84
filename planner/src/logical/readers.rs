//! Common table expressions with several readers, once the whole statement is known.
//!
//! While a statement is bound every reader of a query that is worth sharing gets a
//! [`Logical::Shared`]. One that turns out to be the only reader gets the query itself.

use cairn_expr::Expr;

use std::collections::BTreeMap;

use super::{Col, Columns, Logical, LogicalShared};
use crate::error::Result;

/// How many readers each shared query has, by its number.
#[derive(Debug, Default)]
pub struct Readers {
    counts: BTreeMap<usize, usize>,
}

impl Readers {
    /// Counts the readers in a plan.
    pub fn count(&mut self, plan: &Logical) {
        if let Logical::Shared(shared) = plan {
            let count = self.counts.entry(shared.id).or_default();
            *count += 1;
            // The query itself is run once, whatever it reads.
            if *count > 1 {
                return;
            }
        }
        plan.children().into_iter().for_each(|child| self.count(child));
    }

    /// A plan whose only readers read the query itself.
    pub fn inline(&self, plan: Logical, columns: &Columns) -> Result<Logical> {
        let plan = plan.map_children(&mut |child| self.inline(child, columns))?;
        match plan {
            Logical::Shared(shared) if self.counts.get(&shared.id) == Some(&1) => {
                let LogicalShared { columns: outputs, own, input, .. } = *shared;
                if outputs == own {
                    return Ok(input);
                }
                let pairs = outputs.into_iter().zip(own);
                let exprs: Vec<(Col, _)> =
                    pairs.map(|(col, own)| (col, columns.expr(own))).collect();
                Ok(input.project(exprs))
            }
            other => Ok(other),
        }
    }
}

impl Logical {
    /// Nodes of the plan.
    pub fn node_count(&self) -> usize {
        1 + self.children().into_iter().map(Logical::node_count).sum::<usize>()
    }

    /// Whether a query is no more than tables, joins, conditions and computed columns, the same whenever it
    /// is asked: then each reader has its own, with its own conditions and indexes.
    pub fn is_plain(&self) -> bool {
        let own = match self {
            Logical::Scan(scan) => scan.conditions.iter().all(Expr::is_deterministic),
            Logical::Filter { conditions, .. } => conditions.iter().all(Expr::is_deterministic),
            Logical::Project { exprs, .. } => exprs.iter().all(|(_, e)| e.is_deterministic()),
            Logical::Join(join) => join.conditions.iter().all(Expr::is_deterministic),
            Logical::Dual { .. } | Logical::MaxOneRow { .. } => true,
            Logical::Values { .. }
            | Logical::Aggregate(_)
            | Logical::Window(_)
            | Logical::Sort { .. }
            | Logical::Limit { .. }
            | Logical::TopN { .. }
            | Logical::Union { .. }
            | Logical::Recursive(_)
            | Logical::Shared(_)
            | Logical::WorkTable { .. }
            | Logical::Lock { .. } => false,
        };
        own && self.children().into_iter().all(Logical::is_plain)
    }
}
