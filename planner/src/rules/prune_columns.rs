//! Columns nobody reads are dropped, from the root down.
//!
//! ```text
//! Project a                 Project a
//! └─Scan t: a, b, c    →    └─Scan t: a
//! ```
//!
//! A window whose functions nobody reads is no more than its input, and of two sorts the upper one counts.
//!
//! **Must not fire** on group columns and the inputs of conditions, nor leave an
//! operator without any column: rows must stay countable. A table then gives its
//! handle, which every index has too.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::logical::{Col, Logical, LogicalScan};

/// The plan with the columns that are `wanted` of it.
pub(super) fn run(mut plan: Logical, wanted: &BTreeSet<Col>) -> Result<Logical> {
    match &mut plan {
        Logical::Scan(scan) => {
            prune_scan(scan, wanted);
            return Ok(plan);
        }
        Logical::Dual { rows: 0, columns } => {
            columns.retain(|col| wanted.contains(col));
            return Ok(plan);
        }
        Logical::Values { columns, rows } => {
            let keep: Vec<bool> = keep_some(columns.iter().map(|col| wanted.contains(col)));
            retain(columns, &keep);
            rows.iter_mut().for_each(|row| retain(row, &keep));
            return Ok(plan);
        }
        Logical::Project { exprs, .. } => {
            let keep = keep_some(exprs.iter().map(|(col, _)| wanted.contains(col)));
            retain(exprs, &keep);
        }
        Logical::Aggregate(aggregate) => {
            let keep = aggregate.aggs.iter().map(|(col, _)| wanted.contains(col));
            let keep = if aggregate.groups.is_empty() { keep_some(keep) } else { keep.collect() };
            retain(&mut aggregate.aggs, &keep);
        }
        Logical::Window(window) => {
            window.functions.retain(|(col, _)| wanted.contains(col));
            if window.functions.is_empty() {
                let input = std::mem::replace(&mut window.input, Logical::one_row());
                return run(input, wanted);
            }
        }
        Logical::Union { columns, inputs } => {
            let keep: Vec<bool> = keep_some(columns.iter().map(|col| wanted.contains(col)));
            retain(columns, &keep);
            for (input, own) in inputs {
                retain(own, &keep);
                let below: BTreeSet<Col> = own.iter().copied().collect();
                let child = std::mem::replace(input, Logical::one_row());
                *input = run(child, &below)?;
            }
            return Ok(plan);
        }
        Logical::Sort { by, input } => {
            let mut below = wanted.clone();
            by.iter().for_each(|key| key.expr.collect_columns(&mut below));
            while let Some(lower) = needless(input, &below) {
                **input = lower;
            }
        }
        // Every reader gets all columns: what others read is not known here.
        Logical::Shared(shared) => {
            let below: BTreeSet<Col> = shared.own.iter().copied().collect();
            let child = std::mem::replace(&mut shared.input, Logical::one_row());
            shared.input = run(child, &below)?;
            return Ok(plan);
        }
        Logical::Recursive(union) => {
            // What a round reads of the one before is not known here.
            for (input, own) in std::iter::once(&mut union.seed).chain(&mut union.parts) {
                let below: BTreeSet<Col> = own.iter().copied().collect();
                let child = std::mem::replace(input, Logical::one_row());
                *input = run(child, &below)?;
            }
            return Ok(plan);
        }
        _ => {}
    }
    let mut below = match &plan {
        Logical::Project { .. } | Logical::Aggregate(_) => BTreeSet::new(),
        _ => wanted.clone(),
    };
    below.extend(plan.used_columns());
    if let Logical::Window(window) = &plan {
        window.functions.iter().for_each(|(col, _)| {
            below.remove(col);
        });
    }
    if let Logical::Join(join) = &plan {
        below.extend(join.right.free_columns());
    }
    plan.map_children(&mut |child| run(child, &below))
}

/// What is below a sort that another sort undoes, or below a window that nobody reads.
fn needless(plan: &mut Logical, wanted: &BTreeSet<Col>) -> Option<Logical> {
    let lower = match plan {
        Logical::Sort { input, .. } => &mut **input,
        Logical::Window(window)
            if !window.functions.iter().any(|(col, _)| wanted.contains(col)) =>
        {
            &mut window.input
        }
        _ => return None,
    };
    Some(std::mem::replace(lower, Logical::one_row()))
}

fn prune_scan(scan: &mut LogicalScan, wanted: &BTreeSet<Col>) {
    let mut used = wanted.clone();
    scan.conditions.iter().for_each(|condition| condition.collect_columns(&mut used));
    let handle = scan.table.handle_column();
    let first_key = scan.table.common_handle_columns().first().copied();
    let spare = scan
        .columns
        .iter()
        .find(|column| match column.offset {
            None => true,
            Some(offset) => Some(offset) == handle || Some(offset) == first_key,
        })
        .or(scan.columns.first())
        .copied();
    scan.columns.retain(|column| used.contains(&column.col));
    if scan.columns.is_empty() {
        scan.columns.extend(spare);
    }
}

/// At least the first.
fn keep_some(keep: impl Iterator<Item = bool>) -> Vec<bool> {
    let mut keep: Vec<bool> = keep.collect();
    if !keep.contains(&true)
        && let Some(first) = keep.first_mut()
    {
        *first = true;
    }
    keep
}

fn retain<T>(list: &mut Vec<T>, keep: &[bool]) {
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        keep.get(at - 1).copied().unwrap_or(true)
    });
}
