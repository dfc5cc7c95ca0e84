//! The formats of EXPLAIN.
//!
//! | `FORMAT =` | what comes out |
//! |---|---|
//! | `row`, `traditional` | TiDB's rows |
//! | `brief` | the same without numbers of operators |
//! | `verbose` | the same with costs, of operators of the root task |
//! | `plan_tree` | without numbers, rows and costs: what plans that are alike have in common |
//! | `tree` | one text, as MySQL writes it |
//! | `json` | MySQL's JSON ([`super::mysql_json`]) |
//! | `tidb_json` | the rows as nested JSON objects |
//! | `dot` | a graph for Graphviz |

use std::collections::HashMap;

use cairn_planner::explain::ExplainRow;
use cairn_planner::physical::operator_costs;
use cairn_planner::plan::Plan;
use cairn_planner::{OutputColumn, explain};
use cairn_types::FieldType;
use serde_json::{Value, json};

use super::analyze::{Measured, duration_text};
use super::mysql_json;
use crate::error::{Result, SqlError};

/// Error 1791.
pub const ER_UNKNOWN_EXPLAIN_FORMAT: u16 = 1791;

/// What EXPLAIN prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TiDB's rows.
    Row,
    /// Without numbers.
    Brief,
    /// With costs.
    Verbose,
    /// Without numbers and estimates.
    PlanTree,
    /// MySQL's tree.
    Tree,
    /// MySQL's JSON.
    Json,
    /// TiDB's JSON.
    TidbJson,
    /// Graphviz.
    Dot,
}

/// Rows of text.
pub type TextRows = Vec<Vec<String>>;

impl Format {
    /// The format of a name; error 1791 if there is none.
    pub fn parse(name: Option<&str>) -> Result<Format> {
        Ok(match name {
            None | Some("row" | "traditional") => Format::Row,
            Some("brief") => Format::Brief,
            Some("verbose") => Format::Verbose,
            Some("plan_tree") => Format::PlanTree,
            Some("tree") => Format::Tree,
            Some("json") => Format::Json,
            Some("tidb_json") => Format::TidbJson,
            Some("dot") => Format::Dot,
            Some(other) => {
                return Err(SqlError::new(
                    ER_UNKNOWN_EXPLAIN_FORMAT,
                    format!("Unknown EXPLAIN format name: '{other}'"),
                ));
            }
        })
    }

    /// Result columns; `measured`: of EXPLAIN ANALYZE.
    pub fn columns(self, measured: bool) -> Vec<OutputColumn> {
        let names: &[&str] = match (self, measured) {
            (Format::Row | Format::Brief, false) => {
                &["id", "estRows", "task", "access object", "operator info"]
            }
            (Format::Row | Format::Brief, true) => &[
                "id",
                "estRows",
                "actRows",
                "task",
                "access object",
                "execution info",
                "operator info",
                "memory",
                "disk",
            ],
            (Format::Verbose, false) => {
                &["id", "estRows", "estCost", "task", "access object", "operator info"]
            }
            (Format::Verbose, true) => &[
                "id",
                "estRows",
                "estCost",
                "actRows",
                "task",
                "access object",
                "execution info",
                "operator info",
                "memory",
                "disk",
            ],
            (Format::PlanTree, false) => &["id", "task", "access object", "operator info"],
            (Format::PlanTree, true) => &[
                "id",
                "actRows",
                "task",
                "access object",
                "execution info",
                "operator info",
                "memory",
                "disk",
            ],
            (Format::Tree | Format::Json, _) => &["EXPLAIN"],
            (Format::TidbJson, _) => &["TiDB_JSON"],
            (Format::Dot, _) => &["dot contents"],
        };
        names.iter().map(|name| OutputColumn::computed(*name, FieldType::longtext())).collect()
    }

    /// Result rows.
    pub fn rows(self, plan: &Plan, measured: Option<&Measured>) -> TextRows {
        let lines = explain(plan);
        match self {
            Format::Row | Format::Brief | Format::Verbose | Format::PlanTree => {
                self.table(plan, &lines, measured)
            }
            Format::Tree => vec![vec![tree(&lines, measured)]],
            Format::Json => vec![vec![pretty(&mysql_json::explain(plan, &lines, measured))]],
            Format::TidbJson => {
                let costs = costs(plan);
                let nested = nested(&lines, |at, line| tidb_object(at, line, &costs, measured));
                vec![vec![pretty(&Value::Array(nested))]]
            }
            Format::Dot => vec![vec![dot(&lines)]],
        }
    }

    fn table(self, plan: &Plan, lines: &[ExplainRow], measured: Option<&Measured>) -> TextRows {
        let costs = if self == Format::Verbose { costs(plan) } else { HashMap::new() };
        let row = |(at, line): (usize, &ExplainRow)| {
            let id = match self {
                Format::Brief | Format::PlanTree => brief_id(line),
                _ => line.id.clone(),
            };
            let mut row = vec![id];
            if self != Format::PlanTree {
                row.push(line.est_rows.clone());
            }
            if self == Format::Verbose {
                row.push(cost_text(line, &costs));
            }
            let cells = measured.map(|measured| measured.cells(line, at == 0));
            row.extend(cells.as_ref().map(|cells| cells.rows.to_string()));
            row.extend([line.task.to_owned(), line.access_object.clone()]);
            row.extend(cells.as_ref().map(|cells| cells.info.clone()));
            row.push(line.operator_info.clone());
            row.extend(cells.into_iter().flat_map(|cells| [cells.memory, cells.disk]));
            row
        };
        lines.iter().enumerate().map(row).collect()
    }
}

/// A line's id without the number.
fn brief_id(line: &ExplainRow) -> String {
    let label_at = line.id.find(|char: char| char.is_ascii_alphanumeric()).unwrap_or(0);
    format!("{}{}{}", &line.id[..label_at], line.name, line.side)
}

/// A line's id without the lines of the tree.
fn bare_id(line: &ExplainRow) -> &str {
    line.id.trim_start_matches(|char: char| !char.is_ascii_alphanumeric())
}

/// Costs of the operators of the root task.
fn costs(plan: &Plan) -> HashMap<usize, f64> {
    let subplans = plan.subplans.iter().map(|subplan| &subplan.plan);
    plan.source().into_iter().chain(subplans).flat_map(operator_costs).collect()
}

fn cost_text(line: &ExplainRow, costs: &HashMap<usize, f64>) -> String {
    let cost = line.operator.filter(|_| line.fragment.is_none()).and_then(|id| costs.get(&id));
    cost.map_or_else(|| "N/A".to_owned(), |cost| format!("{cost:.2}"))
}

/// Indented text, an arrow before each operator.
fn tree(lines: &[ExplainRow], measured: Option<&Measured>) -> String {
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        text.extend(std::iter::repeat_n("    ", line.level));
        text += &format!("-> {}{}", line.name, line.side);
        let about: Vec<&str> = [line.access_object.as_str(), line.operator_info.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty() && *part != "N/A")
            .collect();
        if !about.is_empty() {
            text += &format!(": {}", about.join(", "));
        }
        if line.est_rows != "N/A" {
            text += &format!("  (rows={})", line.est_rows);
        }
        if let Some(cells) = measured.map(|measured| measured.cells(line, at == 0)) {
            let time = duration_text(cells.time_ns);
            text += &format!(" (actual time={time} rows={} loops={})", cells.rows, cells.loops);
        }
        text.push('\n');
    }
    text
}

/// Objects of the lines, each with those below it in `subOperators`.
fn nested(lines: &[ExplainRow], object: impl Fn(usize, &ExplainRow) -> Value) -> Vec<Value> {
    // A path from the top to the line before, each with its level.
    let mut path: Vec<(usize, Value)> = Vec::new();
    let mut tops = Vec::new();
    let close = |path: &mut Vec<(usize, Value)>, tops: &mut Vec<Value>, level: usize| {
        while let Some((_, done)) = path.pop_if(|(above, _)| *above >= level) {
            match path.last_mut() {
                Some((_, Value::Object(parent))) => {
                    let list = parent.entry("subOperators").or_insert_with(|| json!([]));
                    if let Value::Array(list) = list {
                        list.push(done);
                    }
                }
                _ => tops.push(done),
            }
        }
    };
    for (at, line) in lines.iter().enumerate() {
        close(&mut path, &mut tops, line.level);
        path.push((line.level, object(at, line)));
    }
    close(&mut path, &mut tops, 0);
    tops
}

fn tidb_object(
    at: usize,
    line: &ExplainRow,
    costs: &HashMap<usize, f64>,
    measured: Option<&Measured>,
) -> Value {
    let mut object = json!({ "id": bare_id(line), "estRows": line.est_rows });
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            object[name] = value.into();
        }
    };
    if let Some(cells) = measured.map(|measured| measured.cells(line, at == 0)) {
        put("actRows", cells.rows.to_string());
        put("executeInfo", cells.info);
        put("memoryInfo", cells.memory);
        put("diskInfo", cells.disk);
    } else {
        put(
            "estCost",
            Some(cost_text(line, costs)).filter(|cost| cost != "N/A").unwrap_or_default(),
        );
    }
    put("taskType", line.task.to_owned());
    put("accessObject", line.access_object.clone());
    put("operatorInfo", line.operator_info.clone());
    object
}

/// A box for each operator, an arrow to each that it reads.
fn dot(lines: &[ExplainRow]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from("digraph plan {\nnode [style=filled, shape=box]\n");
    let mut path: Vec<usize> = Vec::new();
    let mut edges = String::new();
    for (at, line) in lines.iter().enumerate() {
        path.truncate(line.level);
        let color = if line.task == "root" { "lightgrey" } else { "lightblue" };
        let label = quoted(bare_id(line));
        text += &format!("n{at} [label={label}, color={color}]\n");
        if let Some(above) = path.last() {
            edges += &format!("n{above} -> n{at}\n");
        }
        path.push(at);
    }
    text + &edges + "}\n"
}

/// JSON as MySQL indents it.
fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: usize, id: &str, name: &'static str, task: &'static str) -> ExplainRow {
        ExplainRow {
            id: id.to_owned(),
            level,
            name,
            side: "",
            est_rows: "10.00".to_owned(),
            task,
            access_object: String::new(),
            operator_info: "eq(t.a, \"x\")".to_owned(),
            operator: None,
            fragment: None,
        }
    }

    fn lines() -> Vec<ExplainRow> {
        vec![
            line(0, "HashJoin_9", "HashJoin", "root"),
            line(1, "├─TableReader_3", "TableReader", "root"),
            line(2, "│ └─TableFullScan_1", "TableFullScan", "cop[kv]"),
            line(1, "└─TableReader_7", "TableReader", "root"),
        ]
    }

    #[test]
    fn objects_are_nested_as_lines_are() {
        let nested = nested(&lines(), |_, line| json!({ "id": bare_id(line) }));
        assert_eq!(
            Value::Array(nested),
            json!([{ "id": "HashJoin_9", "subOperators": [
                { "id": "TableReader_3", "subOperators": [{ "id": "TableFullScan_1" }] },
                { "id": "TableReader_7" },
            ]}])
        );
        assert_eq!(brief_id(&lines()[2]), "│ └─TableFullScan");
    }

    #[test]
    fn a_graph_has_an_arrow_for_each_input() {
        let text = dot(&lines());
        assert!(text.ends_with("n0 -> n1\nn1 -> n2\nn0 -> n3\n}\n"), "{text}");
        assert!(text.contains("n2 [label=\"TableFullScan_1\", color=lightblue]\n"), "{text}");
    }

    #[test]
    fn trees_are_indented() {
        let text = tree(&lines(), None);
        assert!(
            text.contains("\n        -> TableFullScan: eq(t.a, \"x\")  (rows=10.00)\n"),
            "{text}"
        );
    }

    #[test]
    fn unknown_formats_are_refused() {
        let error = Format::parse(Some("nonsense")).unwrap_err().to_mysql();
        assert_eq!(error.code, 1791);
        assert_eq!(error.message, "Unknown EXPLAIN format name: 'nonsense'");
    }
}
