//! What statements and plans are known by: digests that do not depend on literals.
//!
//! A *digest* is the SHA-256 of a normal form, as in TiDB: of the statement's text without literals, or of the plan's lines
//! without numbers of operators, estimates and constants. Making one costs microseconds, so cached plans keep theirs
//! ([`PlanIdentity`]); whoever only wants to know whether two plans of one statement are alike takes their *shape*
//! ([`Plan::shape`]), a hash of the tree that needs no text.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;

use crate::explain::{ExplainRow, explain};
use crate::plan::{InsertRows, PhysicalOp, PhysicalPlan, Plan, PlanKind, PointAccess, Reader};

/// The SHA-256 of a normal form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A normal form and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal {
    /// The form.
    pub text: Arc<str>,
    /// Its digest.
    pub digest: Digest,
}

/// What a plan remembers of what it is known by; filled by whoever first needs it.
#[derive(Clone, Debug, Default)]
pub struct PlanIdentity {
    /// Of the statement's text.
    pub statement: OnceLock<Arc<Normal>>,
    /// Of the plan.
    pub plan: OnceLock<Arc<Normal>>,
    shape: OnceLock<u64>,
}

impl Plan {
    /// A hash of the operators and of what they read; the same on every node of a version.
    pub fn shape(&self) -> u64 {
        *self.identity.shape.get_or_init(|| {
            let mut hasher = FixedState::default().build_hasher();
            let kind = match &self.kind {
                PlanKind::Query(_) => 0_u8,
                PlanKind::Insert(_) => 1,
                PlanKind::Update(_) => 2,
                PlanKind::Delete(_) => 3,
            };
            kind.hash(&mut hasher);
            let subplans = self.subplans.iter().map(|subplan| &subplan.plan);
            for plan in self.source().into_iter().chain(subplans) {
                hash_plan(plan, &mut hasher);
            }
            hasher.finish()
        })
    }

    /// The plan's lines without what differs between plans that are alike.
    pub fn normal_text(&self) -> String {
        normal_text(&explain(self))
    }

    /// Names of the indexes that it reads, as `table:index`, each once.
    pub fn index_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let subplans = self.subplans.iter().map(|subplan| &subplan.plan);
        for plan in self.source().into_iter().chain(subplans) {
            plan.collect_indexes(&mut names);
        }
        names
    }

    /// The statement's kind as TiDB names it.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            PlanKind::Query(_) => "Select",
            PlanKind::Insert(insert) if insert.replace => "Replace",
            PlanKind::Insert(_) => "Insert",
            PlanKind::Update(_) => "Update",
            PlanKind::Delete(_) => "Delete",
        }
    }

    /// Whether rows are given one by one: there is nothing to show of how they are found.
    pub fn gives_values(&self) -> bool {
        matches!(&self.kind, PlanKind::Insert(insert)
            if matches!(insert.source, InsertRows::Values(_)))
    }
}

impl PhysicalPlan {
    fn collect_indexes(&self, names: &mut Vec<String>) {
        let index = match &self.op {
            PhysicalOp::PointGet(get) => point_index(&get.access),
            PhysicalOp::BatchPointGet(get) => point_index(&get.access),
            PhysicalOp::IndexReader(reader) | PhysicalOp::IndexLookUp(reader) => {
                let index = reader.index.as_ref();
                index.map(|index| format!("{}:{}", reader.table.name, index.name))
            }
            _ => None,
        };
        if let Some(index) = index.filter(|index| !names.contains(index)) {
            names.push(index);
        }
        self.children.iter().for_each(|child| child.collect_indexes(names));
    }
}

fn point_index(access: &PointAccess) -> Option<String> {
    let index = access.index.as_ref()?;
    Some(format!("{}:{}", access.table.name, index.name))
}

fn hash_plan(plan: &PhysicalPlan, hasher: &mut impl Hasher) {
    plan.op.name().hash(hasher);
    plan.children.len().hash(hasher);
    match &plan.op {
        PhysicalOp::PointGet(get) => hash_point(&get.access, hasher),
        PhysicalOp::BatchPointGet(get) => hash_point(&get.access, hasher),
        PhysicalOp::TableReader(reader)
        | PhysicalOp::IndexReader(reader)
        | PhysicalOp::IndexLookUp(reader) => hash_reader(reader, hasher),
        PhysicalOp::MemTableScan(scan) => scan.table.id.hash(hasher),
        _ => {}
    }
    plan.children.iter().for_each(|child| hash_plan(child, hasher));
}

fn hash_point(access: &PointAccess, hasher: &mut impl Hasher) {
    access.table.id.hash(hasher);
    access.index.as_ref().map(|index| index.id).hash(hasher);
}

fn hash_reader(reader: &Reader, hasher: &mut impl Hasher) {
    reader.table.id.hash(hasher);
    reader.index.as_ref().map(|index| index.id).hash(hasher);
    (reader.keep_order, reader.desc, reader.ranges.is_full()).hash(hasher);
    reader.info.iter().for_each(|info| info.name.hash(hasher));
}

/// A line for each operator: depth, name, task, object and what it does, without constants.
fn normal_text(rows: &[ExplainRow]) -> String {
    let mut text = String::new();
    for row in rows {
        text.extend(std::iter::repeat_n(' ', row.level));
        text.push_str(row.name);
        text.push_str(row.side);
        for part in [row.task, &row.access_object] {
            text.push('\t');
            text.push_str(part);
        }
        text.push('\t');
        without_constants(&row.operator_info, &mut text);
        text.push('\n');
    }
    text
}

/// Text of an expression or a range with `?` for strings and for numbers that are no part of a name.
fn without_constants(info: &str, out: &mut String) {
    let mut chars = info.char_indices().peekable();
    let mut before = ' ';
    while let Some((_, char)) = chars.next() {
        let is_name = before.is_alphanumeric() || matches!(before, '_' | '#' | '`' | '$');
        match char {
            '"' => {
                // Quotes inside are not marked: the one before a delimiter ends the string.
                while let Some((_, inner)) = chars.next() {
                    let behind = chars.peek().map(|(_, behind)| *behind);
                    let is_delimiter = |char| matches!(char, ',' | ')' | ']' | ' ');
                    if inner == '"' && behind.is_none_or(is_delimiter) {
                        break;
                    }
                }
                out.push('?');
            }
            '0'..='9' if !is_name => {
                while chars.next_if(|(_, next)| next.is_alphanumeric() || *next == '.').is_some() {}
                out.push('?');
            }
            other => out.push(other),
        }
        before = char;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(info: &str) -> String {
        let mut out = String::new();
        without_constants(info, &mut out);
        out
    }

    #[test]
    fn constants_go_and_names_stay() {
        assert_eq!(
            without(r#"gt(test.t1.c2, 10), eq(b, "x\"7"), funcs:count(Column#14)->Column#3"#),
            r#"gt(test.t1.c2, ?), eq(b, ?), funcs:count(Column#14)->Column#3"#
        );
        assert_eq!(
            without("range:[1,5], (10.5,+inf], keep order:false"),
            "range:[?,?], (?,+inf], keep order:false"
        );
        assert_eq!(without("offset:0, count:10"), "offset:?, count:?");
    }
}
