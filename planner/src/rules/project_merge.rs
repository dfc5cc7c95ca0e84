//! Projections that change nothing go; a projection of a projection is one.
//!
//! ```text
//! Project b + 1 as c           Project a * 2 + 1 as c
//! └─Project a * 2 as b    →    └─Scan t: a
//!   └─Scan t: a
//! ```
//!
//! Columns are numbered, so a projection that only picks or reorders columns is not
//! needed between operators; the root puts the result in order.
//!
//! **Must not fire** where a computed column of the lower one is read twice (it would be
//! computed twice) or is not deterministic.

use cairn_expr::Expr;

use crate::error::Result;
use crate::logical::{Col, Logical};

pub(super) fn run(plan: Logical) -> Result<Logical> {
    let plan = plan.map_children(&mut run)?;
    let Logical::Project { exprs, input } = plan else { return Ok(plan) };
    if exprs.iter().all(|(col, expr)| expr.as_column() == Some(*col)) {
        return Ok(*input);
    }
    match *input {
        Logical::Project { exprs: lower, input } if can_merge(&exprs, &lower) => {
            let source = |col: Col| {
                lower.iter().find(|(known, _)| *known == col).map(|(_, expr)| expr.clone())
            };
            let exprs =
                exprs.into_iter().map(|(col, expr)| (col, expr.replace_columns(&source))).collect();
            Ok(Logical::Project { exprs, input })
        }
        input => Ok(Logical::Project { exprs, input: Box::new(input) }),
    }
}

fn can_merge(upper: &[(Col, Expr)], lower: &[(Col, Expr)]) -> bool {
    lower.iter().all(|(col, expr)| {
        if matches!(expr, Expr::Column { .. } | Expr::Constant { .. } | Expr::Param { .. }) {
            return true;
        }
        let mut uses = 0;
        for (_, reader) in upper {
            reader.walk(&mut |node| {
                uses += usize::from(node.as_column() == Some(*col));
                true
            });
        }
        uses <= 1 && expr.is_deterministic()
    })
}
