//! A plan as the JSON of MySQL's `EXPLAIN FORMAT=JSON`, which Workbench and others draw.
//!
//! ```text
//! query_block ─ ordering_operation (Sort, TopN) ─ grouping_operation (HashAgg, StreamAgg) ─ nested_loop ─ table …
//!             └ union_result ─ query_specifications ─ query_block …
//! ```
//!
//! The shape is MySQL's, so not everything of a plan finds a place in it: limits and projections have none, bushy joins are
//! listed as if they were left-deep, in the order in which they are written. A table has `access_type`: `const` for whole keys, `eq_ref` and `ref` for the inner side of
//! an index join, `range`, `index` for a whole index, `ALL`. Costs are in the planner's own units. What was measured goes into
//! `actual_rows`, `actual_loops` and `actual_time_ms` of the table that a reader reads.
//!
//! Source: MySQL 8.0 Reference Manual, 10.8.2 "EXPLAIN Output Format".

use std::collections::HashMap;

use cairn_planner::PlanKind;
use cairn_planner::explain::ExplainRow;
use cairn_planner::physical::operator_costs;
use cairn_planner::plan::{
    InsertRows, PhysicalOp, PhysicalPlan, Plan, PointAccess, PointColumn, Reader, SubplanKind,
};
use serde_json::{Map, Value, json};

use super::analyze::Measured;

/// The plan; `lines` are its rows as text, by which operators are described.
pub fn explain(plan: &Plan, lines: &[ExplainRow], measured: Option<&Measured>) -> Value {
    let of_operator = lines.iter().filter_map(|line| Some((line.operator?, line)));
    let mut drawing = Drawing { lines: of_operator.collect(), measured, blocks: 0 };
    let mut block = match &plan.kind {
        PlanKind::Query(root) => drawing.block(root),
        PlanKind::Insert(insert) => {
            let kind = if insert.replace { "replace" } else { "insert" };
            let mut block = drawing.change(kind, &[&insert.table.name]);
            if let InsertRows::Select(source) = &insert.source {
                block["insert_from"] = drawing.inner(source);
            }
            block
        }
        PlanKind::Update(update) => {
            let names: Vec<&String> = update.targets.iter().map(|one| &one.table.name).collect();
            let mut block = drawing.block(&update.source);
            mark(&mut block, "update", &names);
            block
        }
        PlanKind::Delete(delete) => {
            let names: Vec<&String> = delete.targets.iter().map(|one| &one.table.name).collect();
            let mut block = drawing.block(&delete.source);
            mark(&mut block, "delete", &names);
            block
        }
    };
    let subqueries: Vec<Value> = plan
        .subplans
        .iter()
        .filter(|subplan| !matches!(subplan.kind, SubplanKind::NamedLock(_)))
        .map(|subplan| {
            let block = drawing.block(&subplan.plan);
            json!({ "dependent": false, "cacheable": true, "query_block": block })
        })
        .collect();
    if !subqueries.is_empty() {
        block["optimized_away_subqueries"] = subqueries.into();
    }
    json!({ "query_block": block })
}

/// Says of the tables of these names, wherever they stand, that they are changed.
fn mark(value: &mut Value, kind: &str, names: &[&String]) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Object(table)) = map.get_mut("table") {
                let name = table.get("table_name").and_then(Value::as_str);
                if name.is_some_and(|name| names.iter().any(|one| *one == name)) {
                    table.insert(kind.to_owned(), true.into());
                }
            }
            map.values_mut().for_each(|value| mark(value, kind, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| mark(value, kind, names)),
        _ => {}
    }
}

struct Drawing<'a> {
    lines: HashMap<usize, &'a ExplainRow>,
    measured: Option<&'a Measured>,
    blocks: u64,
}

impl Drawing<'_> {
    fn next_block(&mut self) -> u64 {
        self.blocks += 1;
        self.blocks
    }

    /// A `query_block`.
    fn block(&mut self, plan: &PhysicalPlan) -> Value {
        let id = self.next_block();
        let cost = operator_costs(plan).first().map_or(0.0, |(_, cost)| *cost);
        let mut block = json!({
            "select_id": id,
            "cost_info": { "query_cost": format!("{cost:.2}") },
        });
        merge(&mut block, self.inner(plan));
        block
    }

    fn change(&mut self, kind: &str, names: &[&String]) -> Value {
        let id = self.next_block();
        let name = names.first().map_or("", |name| name.as_str());
        json!({
            "select_id": id,
            "table": { kind: true, "table_name": name, "access_type": "ALL" },
        })
    }

    /// What a block or an operation holds.
    fn inner(&mut self, plan: &PhysicalPlan) -> Value {
        match &plan.op {
            PhysicalOp::Sort(_) | PhysicalOp::TopN { .. } => {
                let mut operation = json!({ "using_filesort": true });
                merge(&mut operation, self.below(plan));
                json!({ "ordering_operation": operation })
            }
            PhysicalOp::HashAgg(_) | PhysicalOp::StreamAgg(_) => {
                let is_hashed = matches!(plan.op, PhysicalOp::HashAgg(_));
                let mut operation =
                    json!({ "using_temporary_table": is_hashed, "using_filesort": false });
                merge(&mut operation, self.below(plan));
                json!({ "grouping_operation": operation })
            }
            PhysicalOp::UnionAll => {
                let specifications: Vec<Value> = plan
                    .children
                    .iter()
                    .map(|child| {
                        let block = self.block(child);
                        json!({ "dependent": false, "cacheable": true, "query_block": block })
                    })
                    .collect();
                json!({ "union_result": {
                    "using_temporary_table": false,
                    "query_specifications": specifications,
                }})
            }
            PhysicalOp::HashJoin(_) | PhysicalOp::IndexJoin(_) | PhysicalOp::Apply(_) => {
                let mut tables = Vec::new();
                self.join(plan, None, &mut tables);
                json!({ "nested_loop": tables })
            }
            PhysicalOp::Dual { .. } => json!({ "message": "No tables used" }),
            PhysicalOp::Values { rows } => json!({ "message": format!("{} rows", rows.len()) }),
            _ => match self.table(plan, None) {
                Some(table) => json!({ "table": table }),
                None => self.below(plan),
            },
        }
    }

    /// What stands below an operator with one input.
    fn below(&mut self, plan: &PhysicalPlan) -> Value {
        plan.children.first().map_or_else(|| json!({}), |child| self.inner(child))
    }

    /// The tables of a join in the order in which they are written; `how`: how the side is joined.
    fn join(&mut self, plan: &PhysicalPlan, how: Option<&str>, tables: &mut Vec<Value>) {
        let hows = match &plan.op {
            PhysicalOp::HashJoin(_) => [None, Some("hash join")],
            PhysicalOp::IndexJoin(join) => match join.sides() {
                (0, _) => [None, Some("index join")],
                _ => [Some("index join"), None],
            },
            PhysicalOp::Apply(_) => [None, Some("dependent")],
            _ => {
                let mut entry = match self.table(plan, how) {
                    Some(table) => json!({ "table": table }),
                    None => self.derived(plan),
                };
                if how == Some("hash join") {
                    entry["table"]["using_join_buffer"] = "hash join".into();
                }
                return tables.push(entry);
            }
        };
        for (child, own) in plan.children.iter().zip(hows) {
            self.join(child, own.or(how), tables);
        }
        if let (Some(last), Some(line)) = (tables.last_mut(), self.lines.get(&plan.id)) {
            last["table"]["join_info"] = line.operator_info.clone().into();
        }
    }

    /// An input of a join that is no table: a table that a subquery makes.
    fn derived(&mut self, plan: &PhysicalPlan) -> Value {
        let block = self.block(plan);
        json!({ "table": {
            "table_name": format!("<derived{}>", self.blocks),
            "access_type": "ALL",
            "rows_produced_per_join": plan.row_count.round() as u64,
            "materialized_from_subquery": { "query_block": block },
        }})
    }

    /// The table of a reader, or of a chain of filters and the like above one.
    fn table(&mut self, plan: &PhysicalPlan, how: Option<&str>) -> Option<Value> {
        let mut table = match &plan.op {
            PhysicalOp::PointGet(get) => point_table(&get.access, 1),
            PhysicalOp::BatchPointGet(get) => point_table(&get.access, get.keys.len()),
            PhysicalOp::TableReader(reader)
            | PhysicalOp::IndexReader(reader)
            | PhysicalOp::IndexLookUp(reader) => self.reader_table(plan, reader, how),
            PhysicalOp::MemTableScan(scan) => {
                object(json!({ "table_name": scan.alias, "access_type": "ALL" }))
            }
            PhysicalOp::Selection(_) => {
                let mut table = self.table(plan.children.first()?, how)?;
                let condition = self.lines.get(&plan.id).map(|line| line.operator_info.clone());
                table["attached_condition"] = condition.into();
                return Some(table);
            }
            PhysicalOp::Projection(_)
            | PhysicalOp::Limit(_)
            | PhysicalOp::MaxOneRow
            | PhysicalOp::SelectLock(_) => return self.table(plan.children.first()?, how),
            _ => return None,
        };
        let cost = operator_costs(plan).first().map_or(0.0, |(_, cost)| *cost);
        table.insert("cost_info".to_owned(), json!({ "prefix_cost": format!("{cost:.2}") }));
        if let (Some(measured), Some(line)) = (self.measured, self.lines.get(&plan.id)) {
            let cells = measured.cells(line, false);
            table.insert("actual_rows".to_owned(), cells.rows.into());
            table.insert("actual_loops".to_owned(), cells.loops.into());
            table.insert("actual_time_ms".to_owned(), (cells.time_ns as f64 / 1e6).into());
        }
        Some(Value::Object(table))
    }

    fn reader_table(
        &self,
        plan: &PhysicalPlan,
        reader: &Reader,
        how: Option<&str>,
    ) -> Map<String, Value> {
        let is_joined = how == Some("index join");
        let is_unique = reader.index.as_ref().is_none_or(|index| index.unique);
        let access = match (&reader.index, reader.ranges.is_full()) {
            _ if is_joined && is_unique => "eq_ref",
            _ if is_joined => "ref",
            (None, true) => "ALL",
            (Some(_), true) => "index",
            (_, false) => "range",
        };
        let scanned = reader.info.first().map_or(plan.row_count, |scan| scan.row_count);
        let filtered = (plan.row_count / scanned.max(1e-9) * 100.0).clamp(0.0, 100.0);
        let mut table = object(json!({
            "table_name": reader.alias,
            "access_type": access,
        }));
        let mut put = |name: &str, value: Value| table.insert(name.to_owned(), value);
        match &reader.index {
            Some(index) => {
                let columns = index.columns.iter().map(|part| part.offset);
                let columns: Vec<&str> =
                    columns.map(|offset| reader.table.columns[offset].name.as_str()).collect();
                put("possible_keys", json!([index.name]));
                put("key", index.name.clone().into());
                put("used_key_parts", json!(columns));
            }
            None if access != "ALL" => {
                put("possible_keys", json!(["PRIMARY"]));
                put("key", "PRIMARY".into());
            }
            None => {}
        }
        put("rows_examined_per_scan", (scanned.round() as u64).into());
        put("rows_produced_per_join", (plan.row_count.round() as u64).into());
        put("filtered", format!("{filtered:.2}").into());
        if matches!(plan.op, PhysicalOp::IndexReader(_)) {
            put("using_index", true.into());
        }
        // What the stores do, from the scan upwards.
        let of_store = reader.info.iter().filter_map(|info| self.lines.get(&info.id));
        let pushed: Vec<String> = of_store
            .filter(|line| !line.operator_info.is_empty())
            .map(|line| format!("{}: {}", line.name, line.operator_info))
            .collect();
        put("pushed_down", json!(pushed));
        table
    }
}

fn point_table(access: &PointAccess, rows: usize) -> Map<String, Value> {
    let key = access.index.as_ref().map_or("PRIMARY", |index| index.name.as_str());
    let used = access.columns.iter().filter_map(|column| match column {
        PointColumn::Column(offset) => Some(access.table.columns[*offset].name.clone()),
        PointColumn::Handle => None,
    });
    object(json!({
        "table_name": access.alias,
        "access_type": if rows == 1 { "const" } else { "range" },
        "possible_keys": [key],
        "key": key,
        "rows_examined_per_scan": rows,
        "rows_produced_per_join": rows,
        "filtered": "100.00",
        "used_columns": used.collect::<Vec<_>>(),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Adds the fields of `more` to an object.
fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
