//! EXPLAIN: a plan as rows of TiDB's five columns.
//!
//! ```text
//! id                       estRows  task     access object          operator info
//! HashAgg_7                1.00     root                            funcs:count(Column#4)->Column#3
//! └─IndexLookUp_6          1.00     root
//!   ├─IndexRangeScan_2(Build) …     cop[kv]  table:t, index:idx1(c1) range:(10,+inf], keep order:false, stats:pseudo
//!   └─HashAgg_5(Probe)     1.00     cop[kv]                         funcs:count(test.t.c1)->Column#4
//! ```
//!
//! The lines keep the operators' ids, by which EXPLAIN ANALYZE adds what was measured.

mod window;

use cairn_executor::plan::{
    AggMode, AggregationDesc, HashJoinDesc, JoinKind, JoinSide, OpDesc, SortItem,
};
use cairn_expr::Expr;
use cairn_parser::ast::LockStrength;

use crate::catalog::{IndexInfo, TableInfo};
use crate::plan::{
    CopInfo, IndexJoin, InsertRows, PhysicalOp, PhysicalPlan, Plan, PlanColumn, PlanKind,
    PointAccess, Reader, RowCount, RowLimit, RowLock, SubplanKind,
};

/// Names of EXPLAIN's columns.
pub const EXPLAIN_COLUMNS: [&str; 5] = ["id", "estRows", "task", "access object", "operator info"];

/// One line of EXPLAIN.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainRow {
    /// Tree lines, name and number.
    pub id: String,
    /// How deep it stands in the tree; 0 at the top.
    pub level: usize,
    /// What the operator is, without its number.
    pub name: &'static str,
    /// `(Build)`, `(Probe)`, or nothing.
    pub side: &'static str,
    /// Estimated rows.
    pub est_rows: String,
    /// `root` or `cop[kv]`.
    pub task: &'static str,
    /// Table and index.
    pub access_object: String,
    /// What it does.
    pub operator_info: String,
    /// The operator's id; `None` for lines that are no operator of the plan.
    pub operator: Option<usize>,
    /// Operators of a fragment report under the id of their reader and their place in
    /// the fragment.
    pub fragment: Option<(usize, usize)>,
}

impl ExplainRow {
    /// The five columns as text.
    pub fn cells(&self) -> [String; 5] {
        [
            self.id.clone(),
            self.est_rows.clone(),
            self.task.to_string(),
            self.access_object.clone(),
            self.operator_info.clone(),
        ]
    }
}

/// A plan as lines.
pub fn explain(plan: &Plan) -> Vec<ExplainRow> {
    let mut tree = Tree::default();
    match &plan.kind {
        PlanKind::Query(root) => tree.plan(root, Place::root(), ""),
        PlanKind::Insert(insert) => {
            tree.statement(if insert.replace { "Replace" } else { "Insert" });
            if let InsertRows::Select(source) = &insert.source {
                tree.plan(source, Place::root().child(true), "");
            }
        }
        PlanKind::Update(update) => {
            tree.statement("Update");
            tree.plan(&update.source, Place::root().child(true), "");
        }
        PlanKind::Delete(delete) => {
            tree.statement("Delete");
            tree.plan(&delete.source, Place::root().child(true), "");
        }
    }
    for subplan in &plan.subplans {
        let what = match subplan.kind {
            SubplanKind::Scalar { columns } => {
                let slots: Vec<String> =
                    (subplan.slot..subplan.slot + columns).map(|slot| format!("?{slot}")).collect();
                format!("Output: {}", slots.join(","))
            }
            SubplanKind::Exists => format!("Output: exists ?{}", subplan.slot),
            SubplanKind::NamedLock(call) => format!("Output: {call:?} lock ?{}", subplan.slot),
        };
        tree.rows.push(ExplainRow {
            id: "ScalarSubQuery".to_string(),
            level: 0,
            name: "ScalarSubQuery",
            side: "",
            est_rows: "N/A".to_string(),
            task: "root",
            access_object: String::new(),
            operator_info: what,
            operator: None,
            fragment: None,
        });
        tree.plan(&subplan.plan, Place::root().child(true), "");
    }
    tree.rows
}

/// A plan as an aligned table, for logs and tests.
pub fn explain_text(plan: &Plan) -> String {
    let rows: Vec<[String; 5]> = explain(plan).iter().map(ExplainRow::cells).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let padding = width - cell.chars().count();
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Where a line stands in the tree.
#[derive(Clone)]
struct Place {
    /// Lines of the ancestors.
    prefix: String,
    /// `None` at the root; else whether it is the last child.
    last: Option<bool>,
    level: usize,
}

impl Place {
    fn root() -> Place {
        Place { prefix: String::new(), last: None, level: 0 }
    }

    fn child(&self, last: bool) -> Place {
        let line = match self.last {
            None => "",
            Some(true) => "  ",
            Some(false) => "│ ",
        };
        let prefix = format!("{}{line}", self.prefix);
        Place { prefix, last: Some(last), level: self.level + 1 }
    }

    fn id(&self, name: &str) -> String {
        let branch = match self.last {
            None => "",
            Some(true) => "└─",
            Some(false) => "├─",
        };
        format!("{}{branch}{name}", self.prefix)
    }
}

#[derive(Default)]
struct Tree {
    rows: Vec<ExplainRow>,
    /// Below the inner side of an index join: what its slots stand for.
    lookup_keys: LookupKeys,
}

/// Slots and the outer keys that fill them.
type LookupKeys = Vec<(usize, String)>;

fn lookup_keys(join: &IndexJoin, outer: &[PlanColumn]) -> LookupKeys {
    let name = named(outer);
    let texts = join.desc.lookup_keys.iter().map(|key| key.fmt_with(&name));
    join.slots.iter().copied().zip(texts).collect()
}

impl Tree {
    fn statement(&mut self, name: &'static str) {
        self.rows.push(ExplainRow {
            id: name.to_string(),
            level: 0,
            name,
            side: "",
            est_rows: "N/A".to_string(),
            task: "root",
            access_object: String::new(),
            operator_info: "N/A".to_string(),
            operator: None,
            fragment: None,
        });
    }

    fn plan(&mut self, plan: &PhysicalPlan, place: Place, side: &'static str) {
        let below = plan.children.first().map(|child| &child.schema[..]).unwrap_or_default();
        let name = format!("{}_{}{side}", plan.op.name(), plan.id);
        self.rows.push(ExplainRow {
            id: place.id(&name),
            level: place.level,
            name: plan.op.name(),
            side,
            est_rows: rows_text(plan.row_count),
            task: "root",
            access_object: access_object(&plan.op),
            operator_info: operator_info(plan, below),
            operator: Some(plan.id),
            fragment: None,
        });
        match &plan.op {
            PhysicalOp::TableReader(reader) | PhysicalOp::IndexReader(reader) => {
                self.fragment(plan, reader, 0..reader.operators.len(), &place.child(true), "");
            }
            PhysicalOp::IndexLookUp(reader) => {
                let lookup = |op: &OpDesc| matches!(op, OpDesc::IndexLookup(_));
                let at = reader.operators.iter().position(lookup).unwrap_or(0);
                let count = reader.operators.len();
                self.fragment(plan, reader, 0..at, &place.child(false), "(Build)");
                self.fragment(plan, reader, at..count, &place.child(true), "(Probe)");
            }
            PhysicalOp::HashJoin(desc) if plan.children.len() == 2 => {
                let sides = match desc.build_side {
                    JoinSide::Left => ["(Build)", "(Probe)"],
                    JoinSide::Right => ["(Probe)", "(Build)"],
                };
                self.plan(&plan.children[0], place.child(false), sides[0]);
                self.plan(&plan.children[1], place.child(true), sides[1]);
            }
            PhysicalOp::IndexJoin(join) if plan.children.len() == 2 => {
                let (outer, inner) = join.sides();
                let keys = lookup_keys(join, &plan.children[outer].schema);
                for (at, child) in plan.children.iter().enumerate() {
                    let side = if at == inner { "(Probe)" } else { "(Build)" };
                    let above = at == inner;
                    let keys = if above { keys.clone() } else { Vec::new() };
                    let outside = std::mem::replace(&mut self.lookup_keys, keys);
                    self.plan(child, place.child(at == 1), side);
                    self.lookup_keys = outside;
                }
            }
            PhysicalOp::Recursive(_) => {
                let count = plan.children.len();
                for (at, child) in plan.children.iter().enumerate() {
                    let side = if at == 0 { "(Seed Part)" } else { "(Recursive Part)" };
                    self.plan(child, place.child(at + 1 == count), side);
                }
            }
            PhysicalOp::Apply(_) if plan.children.len() == 2 => {
                self.plan(&plan.children[0], place.child(false), "(Build)");
                self.plan(&plan.children[1], place.child(true), "(Probe)");
            }
            _ => {
                let count = plan.children.len();
                for (at, child) in plan.children.iter().enumerate() {
                    self.plan(child, place.child(at + 1 == count), "");
                }
            }
        }
    }

    /// Operators of a fragment, the last on top; below its joins, the tables they read.
    fn fragment(
        &mut self,
        plan: &PhysicalPlan,
        reader: &Reader,
        range: std::ops::Range<usize>,
        place: &Place,
        side: &'static str,
    ) {
        let mut place = place.clone();
        let mut side = side;
        for at in range.rev() {
            let Some(info) = reader.info.get(at) else { continue };
            let below = at.checked_sub(1).and_then(|at| reader.info.get(at));
            let below = below.map(|info| &info.schema[..]).unwrap_or_default();
            let name = format!("{}_{}{side}", info.name, info.id);
            let op = &reader.operators[at];
            self.rows.push(ExplainRow {
                id: place.id(&name),
                level: place.level,
                name: info.name,
                side,
                est_rows: rows_text(info.row_count),
                task: "cop[kv]",
                access_object: cop_object(reader, op),
                operator_info: match op {
                    OpDesc::HashJoin(desc) => {
                        let table = plan.children.get(desc.table).map(|table| &table.schema[..]);
                        let (left, right) = desc.sides(below, table.unwrap_or_default());
                        hash_join_info(&desc.join, left, right)
                    }
                    op => cop_info(reader, op, info, below, &self.lookup_keys),
                },
                operator: Some(info.id),
                fragment: Some((plan.id, at)),
            });
            side = "";
            if let OpDesc::HashJoin(desc) = op
                && let Some(table) = plan.children.get(desc.table)
            {
                self.plan(table, place.child(false), "(Build)");
                side = "(Probe)";
            }
            place = place.child(true);
        }
    }
}

fn rows_text(rows: f64) -> String {
    format!("{rows:.2}")
}

fn named(schema: &[PlanColumn]) -> impl Fn(usize) -> String + '_ {
    |index| {
        schema
            .get(index)
            .map_or_else(|| format!("Column#{index}"), |column| column.name.to_string())
    }
}

fn list(exprs: &[Expr], schema: &[PlanColumn]) -> String {
    let name = named(schema);
    exprs.iter().map(|expr| expr.fmt_with(&name)).collect::<Vec<_>>().join(", ")
}

fn table_object(table: &str) -> String {
    format!("table:{table}")
}

fn index_object(alias: &str, table: &TableInfo, index: &IndexInfo) -> String {
    let columns: Vec<&str> =
        index.columns.iter().map(|part| table.columns[part.offset].name.as_str()).collect();
    format!("table:{alias}, index:{}({})", index.name, columns.join(", "))
}

fn point_object(access: &PointAccess) -> String {
    let clustered = access.table.primary_key().filter(|_| access.table.common_handle);
    match access.index.as_deref().or(clustered) {
        Some(index) => index_object(&access.alias, &access.table, index),
        None => table_object(&access.alias),
    }
}

fn access_object(op: &PhysicalOp) -> String {
    match op {
        PhysicalOp::PointGet(get) => point_object(&get.access),
        PhysicalOp::BatchPointGet(get) => point_object(&get.access),
        PhysicalOp::MemTableScan(scan) => table_object(&scan.table.name),
        _ => String::new(),
    }
}

fn operator_info(plan: &PhysicalPlan, below: &[PlanColumn]) -> String {
    match &plan.op {
        PhysicalOp::PointGet(get) => {
            let kind = if get.access.index.is_some() { "key" } else { "handle" };
            let lock = point_lock(get.lock);
            point_info(&get.access, &plan.schema, format!("{kind}:{}{lock}", list(&get.key, &[])))
        }
        PhysicalOp::BatchPointGet(get) => {
            let kind = if get.access.index.is_some() { "key" } else { "handle" };
            let keys: Vec<String> = get.keys.iter().map(|key| list(key, &[])).collect();
            let lock = point_lock(get.lock);
            let text = format!("{kind}:[{}], keep order:false{lock}", keys.join(" "));
            point_info(&get.access, &plan.schema, text)
        }
        PhysicalOp::TableReader(reader) => reader_info(reader, "data"),
        PhysicalOp::IndexReader(reader) => reader_info(reader, "index"),
        PhysicalOp::IndexLookUp(reader) => match &reader.limit {
            Some(limit) => limit_info(limit),
            None => String::new(),
        },
        PhysicalOp::MemTableScan(scan) => list(&scan.conditions, &plan.schema),
        PhysicalOp::Dual { rows } => format!("rows:{rows}"),
        PhysicalOp::Values { rows } => format!("rows:{}", rows.len()),
        PhysicalOp::Selection(selection) => list(&selection.conditions, below),
        PhysicalOp::Projection(projection) => {
            let name = named(below);
            let exprs = projection.exprs.iter().zip(&plan.schema).map(|(expr, column)| {
                let text = expr.fmt_with(&name);
                if text == *column.name { text } else { format!("{text}->{}", column.name) }
            });
            exprs.collect::<Vec<_>>().join(", ")
        }
        PhysicalOp::HashAgg(desc) | PhysicalOp::StreamAgg(desc) => {
            aggregation_info(desc, below, &plan.schema)
        }
        PhysicalOp::Window(desc) => window::info(desc, below, &plan.schema),
        PhysicalOp::Sort(desc) => sort_info(&desc.order_by, below),
        PhysicalOp::TopN { order_by, limit } => {
            format!("{}, {}", sort_info(order_by, below), limit_info(limit))
        }
        PhysicalOp::Limit(limit) => limit_info(limit),
        PhysicalOp::HashJoin(desc) => {
            let side = |at: usize| plan.children.get(at).map(|child| &child.schema[..]);
            hash_join_info(desc, side(0).unwrap_or_default(), side(1).unwrap_or_default())
        }
        PhysicalOp::IndexJoin(join) => index_join_info(plan, join),
        PhysicalOp::Apply(apply) => {
            let both = both_sides(plan);
            let mut text = join_kind(apply.desc.kind, apply.desc.null_aware).to_string();
            if !apply.desc.conditions.is_empty() {
                text += &format!(", other cond:{}", list(&apply.desc.conditions, &both));
            }
            let pairs = apply.desc.outer_columns.iter().zip(&apply.slots);
            for (column, slot) in pairs {
                text += &format!(", ?{slot}:{}", named(&both)(*column));
            }
            text
        }
        PhysicalOp::Recursive(union) => {
            let distinct = if union.distinct { ", distinct" } else { "" };
            format!("Recursive CTE, CTE_{}{distinct}", union.id)
        }
        PhysicalOp::SharedCte { id } => format!("data:CTE_{id}"),
        PhysicalOp::WorkTable { id } => format!("Scan on CTE_{id}"),
        PhysicalOp::UnionAll | PhysicalOp::MaxOneRow => String::new(),
        PhysicalOp::SelectLock(lock) => {
            let text = match lock.how.strength {
                LockStrength::Share => "for share",
                LockStrength::Update => "for update",
            };
            text.to_string()
        }
    }
}

fn point_lock(lock: Option<RowLock>) -> &'static str {
    match lock.map(|lock| lock.strength) {
        Some(LockStrength::Update) => ", lock",
        Some(LockStrength::Share) => ", share lock",
        None => "",
    }
}

fn point_info(access: &PointAccess, schema: &[PlanColumn], text: String) -> String {
    if access.conditions.is_empty() {
        return text;
    }
    format!("{text}, filter:{}", list(&access.conditions, schema))
}

fn reader_info(reader: &Reader, what: &str) -> String {
    match reader.info.last() {
        Some(info) => format!("{what}:{}_{}", info.name, info.id),
        None => String::new(),
    }
}

fn both_sides(plan: &PhysicalPlan) -> Vec<PlanColumn> {
    plan.children.iter().flat_map(|child| child.schema.iter().cloned()).collect()
}

fn join_kind(kind: JoinKind, null_aware: bool) -> &'static str {
    match (kind, null_aware) {
        (JoinKind::Inner, _) => "inner join",
        (JoinKind::LeftOuter, _) => "left outer join",
        (JoinKind::RightOuter, _) => "right outer join",
        (JoinKind::Semi, _) => "semi join",
        (JoinKind::Anti, false) => "anti semi join",
        (JoinKind::Anti, true) => "Null-aware anti semi join",
        (JoinKind::LeftOuterSemi, _) => "left outer semi join",
        (JoinKind::AntiLeftOuterSemi, _) => "anti left outer semi join",
    }
}

fn hash_join_info(desc: &HashJoinDesc, left: &[PlanColumn], right: &[PlanColumn]) -> String {
    let mut text = String::new();
    if desc.left_keys.is_empty() {
        text.push_str("CARTESIAN ");
    }
    text.push_str(join_kind(desc.kind, desc.null_aware));
    let keys = equal_keys(desc, left, right);
    if !keys.is_empty() {
        text += &format!(", equal:[{}]", keys.join(" "));
    }
    if !desc.other_conditions.is_empty() {
        text += &format!(", other cond:{}", list(&desc.other_conditions, &[left, right].concat()));
    }
    text
}

fn index_join_info(plan: &PhysicalPlan, join: &IndexJoin) -> String {
    let desc = &join.desc.join;
    let (outer, inner) = join.sides();
    let side = |at: usize| plan.children.get(at).map(|child| &child.schema[..]).unwrap_or_default();
    let inner_name = plan.children.get(inner).map(PhysicalPlan::explain_id).unwrap_or_default();
    let mut text = format!("{}, inner:{inner_name}", join_kind(desc.kind, false));
    text += &format!(", outer key:{}", list(&join.outer_keys, side(outer)));
    text += &format!(", inner key:{}", join.inner_keys.join(", "));
    let keys = equal_keys(desc, side(0), side(1));
    if !keys.is_empty() {
        text += &format!(", equal cond:{}", keys.join(", "));
    }
    if !desc.other_conditions.is_empty() {
        text += &format!(", other cond:{}", list(&desc.other_conditions, &both_sides(plan)));
    }
    text
}

/// `eq(test.t.a, test.u.b)` of each key.
fn equal_keys(desc: &HashJoinDesc, left: &[PlanColumn], right: &[PlanColumn]) -> Vec<String> {
    let (left, right) = (named(left), named(right));
    let keys = desc.left_keys.iter().zip(&desc.right_keys).enumerate();
    let text = |(at, (l, r)): (usize, (&Expr, &Expr))| {
        let name = if desc.null_safe.get(at) == Some(&true) { "nulleq" } else { "eq" };
        format!("{name}({}, {})", l.fmt_with(&left), r.fmt_with(&right))
    };
    keys.map(text).collect()
}

fn count_text(count: RowCount) -> String {
    match count {
        RowCount::Const(count) => count.to_string(),
        RowCount::Param(slot) => format!("?{slot}"),
    }
}

fn limit_info(limit: &RowLimit) -> String {
    format!("offset:{}, count:{}", count_text(limit.offset), count_text(limit.count))
}

fn sort_info(order_by: &[SortItem], below: &[PlanColumn]) -> String {
    let name = named(below);
    let items = order_by.iter().map(|item| {
        let desc = if item.desc { ":desc" } else { "" };
        format!("{}{desc}", item.expr.fmt_with(&name))
    });
    items.collect::<Vec<_>>().join(", ")
}

fn aggregation_info(desc: &AggregationDesc, below: &[PlanColumn], schema: &[PlanColumn]) -> String {
    let name = named(below);
    let mut parts = Vec::new();
    if !desc.group_by.is_empty() {
        let groups: Vec<String> = desc.group_by.iter().map(|expr| expr.fmt_with(&name)).collect();
        parts.push(format!("group by:{}", groups.join(", ")));
    }
    let (mut read, mut written) = (0, 0);
    for agg in &desc.aggs {
        let states = cairn_expr::agg::partial_types(agg).len();
        let value = match desc.mode {
            AggMode::Final => {
                let args: Vec<String> = (read..read + states).map(&name).collect();
                format!("{}({})", agg.func.name(), args.join(", "))
            }
            AggMode::Complete | AggMode::Partial => agg.fmt_with(&name),
        };
        read += states;
        let outputs = if desc.mode == AggMode::Partial { states } else { 1 };
        let targets: Vec<String> =
            (written..written + outputs).map(|at| named(schema)(at)).collect();
        written += outputs;
        parts.push(format!("funcs:{value}->{}", targets.join(", ")));
    }
    parts.join(", ")
}

fn cop_object(reader: &Reader, op: &OpDesc) -> String {
    match (op, &reader.index) {
        (OpDesc::TableScan(_) | OpDesc::IndexLookup(_), _) => table_object(&reader.alias),
        (OpDesc::IndexScan(_), Some(index)) => index_object(&reader.alias, &reader.table, index),
        _ => String::new(),
    }
}

fn cop_info(
    reader: &Reader,
    op: &OpDesc,
    info: &CopInfo,
    below: &[PlanColumn],
    lookup_keys: &LookupKeys,
) -> String {
    match op {
        OpDesc::TableScan(_) | OpDesc::IndexScan(_) => scan_info(reader, lookup_keys),
        OpDesc::IndexLookup(_) => match reader.is_pseudo {
            true => "keep order:false, stats:pseudo".to_string(),
            false => "keep order:false".to_string(),
        },
        OpDesc::Selection(selection) => list(&selection.conditions, below),
        OpDesc::Projection(projection) => list(&projection.exprs, below),
        OpDesc::Aggregation(desc) => aggregation_info(desc, below, &info.schema),
        OpDesc::TopN(top_n) => match &reader.limit {
            Some(limit) => {
                format!("{}, {}", sort_info(&top_n.order_by, below), pushed_limit(limit))
            }
            None => sort_info(&top_n.order_by, below),
        },
        OpDesc::Limit(_) => reader.limit.as_ref().map(pushed_limit).unwrap_or_default(),
        OpDesc::Sample(_) | OpDesc::HashJoin(_) => String::new(),
    }
}

/// Stores keep offset and count rows.
fn pushed_limit(limit: &RowLimit) -> String {
    match (limit.offset, limit.count) {
        (RowCount::Const(offset), RowCount::Const(count)) => {
            format!("offset:0, count:{}", offset.saturating_add(count))
        }
        (RowCount::Const(0), count) => format!("offset:0, count:{}", count_text(count)),
        (offset, count) => {
            format!("offset:0, count:{}+{}", count_text(offset), count_text(count))
        }
    }
}

fn scan_info(reader: &Reader, lookup_keys: &LookupKeys) -> String {
    let ranges = &reader.ranges;
    let mut parts = Vec::new();
    if !ranges.is_full() {
        let key: Vec<String> = match &reader.index {
            Some(index) => index.columns.iter().map(|part| part.offset).collect::<Vec<_>>(),
            None if reader.table.common_handle => reader.table.common_handle_columns(),
            None => reader.table.handle_column().into_iter().collect(),
        }
        .into_iter()
        .map(|offset| {
            format!("{}.{}.{}", reader.db, reader.table.name, reader.table.columns[offset].name)
        })
        .collect();
        let name = |at: usize| match at.checked_sub(key.len()) {
            None => key[at].clone(),
            Some(at) => lookup_keys.get(at).map_or_else(String::new, |(_, text)| text.clone()),
        };
        // The outer keys are printed as columns behind those of the key.
        let ranges = ranges.map_params(&|slot| {
            let at = lookup_keys.iter().position(|(known, _)| *known == slot)?;
            Some(key.len() + at)
        });
        parts.push(ranges.text(&name));
    }
    parts.push(format!("keep order:{}", reader.keep_order));
    if reader.desc {
        parts.push("desc".to_string());
    }
    if reader.is_pseudo {
        parts.push("stats:pseudo".to_string());
    }
    parts.join(", ")
}
