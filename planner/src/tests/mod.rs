//! Golden scripts: a schema and statements in, plans out.
//!
//! A script (see `../testscripts/`) is made of SQL lines, each after `>`:
//!
//! | line | answer |
//! |---|---|
//! | `> CREATE TABLE ..` | nothing; the table exists from here on |
//! | `> STATS t ..` | nothing; the table has these statistics from here on (`statistics.rs`) |
//! | `> any statement` | its EXPLAIN and warnings, or MySQL's error |
//! | `[columns]> SELECT ..` | the result columns as the protocol tells of them |
//! | `[RULE]> SELECT ..` | the plan without and with the rule, which must differ |
//! | `[keys]> SELECT ..` | the key ranges of the first reader, in hex, with 5 for every `?` |
//!
//! Parameters are BIGINTs. `UPDATE_GOLDENFILES=1 cargo test` rewrites the answers.

mod point;
mod schema;
mod statistics;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;

use cairn_expr::EvalContext;
use cairn_parser::ast::{ExplainTarget, Statement, VariableScope};
use cairn_types::{Datum, FieldType, MysqlError, TableId, errno};
use goldenscript::{Command, Context, Runner};

use crate::plan::PhysicalOp;
use crate::rules::Rule;
use crate::statistics::TableStatistics;
use crate::{
    Catalog, PhysicalPlan, Plan, PlanContext, PlanOptions, Statistics, SystemVariables, TableInfo,
    explain_text, plan_statement,
};

use schema::TestCatalog;

/// Some system variables.
struct Variables;

impl SystemVariables for Variables {
    fn system_variable(
        &self,
        _scope: VariableScope,
        name: &str,
    ) -> Result<(Datum, FieldType), MysqlError> {
        match name.to_ascii_lowercase().as_str() {
            "autocommit" => Ok((Datum::Int(1), FieldType::bigint())),
            _ => Err(MysqlError::with_args(errno::ER_UNKNOWN_SYSTEM_VARIABLE, &[&name])),
        }
    }
}

/// Plans statements over a growing schema.
#[derive(Default)]
pub(super) struct Session {
    pub catalog: TestCatalog,
    statistics: BTreeMap<TableId, Arc<TableStatistics>>,
}

impl Statistics for Session {
    fn table_statistics(&self, table: &TableInfo) -> Option<Arc<TableStatistics>> {
        self.statistics.get(&table.id).cloned()
    }
}

impl Session {
    /// Runs DDL of the test schema, and statistics; `false` if the statement is something else.
    pub fn define(&mut self, sql: &str) -> Result<bool, String> {
        if let Some((name, line)) = statistics::table_name(sql) {
            let table = self.catalog.table("test", name).ok_or("no such table")?;
            self.statistics.insert(table.id, statistics::parse(&table, line)?);
            return Ok(true);
        }
        let parsed = parse(sql)?;
        match parsed {
            Statement::CreateTable(create) => {
                self.catalog.create_table(&create)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The plan of a statement.
    pub fn plan(&self, sql: &str, options: PlanOptions) -> Result<Plan, String> {
        self.plan_with_warnings(sql, options).map(|(plan, _)| plan)
    }

    /// The plan of a statement by other statistics.
    pub fn plan_with_statistics(
        &self,
        sql: &str,
        statistics: &dyn Statistics,
    ) -> Result<Plan, String> {
        self.planned(sql, PlanOptions::default(), statistics).map(|(plan, _)| plan)
    }

    /// The plan of a statement, and what it was warned of.
    fn plan_with_warnings(
        &self,
        sql: &str,
        options: PlanOptions,
    ) -> Result<(Plan, Vec<String>), String> {
        self.planned(sql, options, self)
    }

    fn planned(
        &self,
        sql: &str,
        options: PlanOptions,
        statistics: &dyn Statistics,
    ) -> Result<(Plan, Vec<String>), String> {
        let mode = crate::parse::parser_mode(cairn_expr::SqlMode::DEFAULT);
        let parsed = cairn_parser::parse_one(sql, &mode).map_err(|e| e.to_string())?;
        let mut statement = parsed.statement;
        if let Statement::Explain(explain) = statement {
            let ExplainTarget::Statement(inner) = explain.target else {
                return Err("EXPLAIN FOR CONNECTION".into());
            };
            statement = *inner;
        }
        let params = parsed.parameter_count as usize;
        let param_types = vec![FieldType::bigint(); params];
        let mut eval = EvalContext::default();
        let mut ctx = PlanContext {
            catalog: &self.catalog,
            current_db: Some("test"),
            eval: &mut eval,
            variables: &Variables,
            statistics,
            param_types: &param_types,
            options,
        };
        let plan = plan_statement(&statement, params, &mut ctx).map_err(|error| {
            let error = error.to_mysql();
            format!("ERROR {} ({}): {}", error.code, error.sqlstate, error.message)
        })?;
        let warnings = eval.warnings.list().iter();
        let warnings = warnings.map(|w| format!("warning {}: {}\n", w.code, w.message)).collect();
        Ok((plan, warnings))
    }
}

fn parse(sql: &str) -> Result<Statement, String> {
    let mode = crate::parse::parser_mode(cairn_expr::SqlMode::DEFAULT);
    let parsed = cairn_parser::parse_one(sql, &mode).map_err(|e| e.to_string())?;
    Ok(parsed.statement)
}

impl Runner for Session {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let sql = command.name.as_str();
        if self.define(sql)? {
            return Ok(String::new());
        }
        let options = PlanOptions::default();
        let tag = context.tags.iter().next().map(String::as_str);
        if let Some(rule) = Rule::ALL.into_iter().find(|rule| Some(rule.name()) == tag) {
            let off = PlanOptions { disabled_rules: rule.bit(), ..options };
            let without = explain_text(&self.plan(sql, off)?);
            let with = explain_text(&self.plan(sql, options)?);
            if without == with {
                return Err(format!("rule {} changes nothing", rule.name()).into());
            }
            return Ok(format!("without {}:\n{without}with it:\n{with}", rule.name()));
        }
        let (plan, warnings) = match self.plan_with_warnings(sql, options) {
            Ok(planned) => planned,
            Err(error) => return Ok(format!("{error}\n")),
        };
        match tag {
            Some("columns") => Ok(columns(&plan)),
            Some("keys") => Ok(keys(&plan)),
            Some("normal") => Ok(plan.normal_text()),
            Some(tag) => Err(format!("unknown tag {tag}").into()),
            None => Ok(explain_text(&plan) + &warnings.concat()),
        }
    }
}

fn columns(plan: &Plan) -> String {
    let mut text = String::new();
    for column in plan.columns.iter() {
        let _ = writeln!(
            text,
            "{} ({}.{}.{} of {}) {} flags={}",
            column.name,
            column.db,
            column.org_table,
            column.org_name,
            column.table,
            column.ty,
            column.flags
        );
    }
    text
}

fn keys(plan: &Plan) -> String {
    let mut eval = EvalContext::default();
    eval.params = vec![Datum::Int(5); plan.slot_count].into();
    let Some(reader) = plan.source().and_then(first_reader) else { return "no reader\n".into() };
    let ranges = crate::ranger::build_key_ranges(
        &reader.ranges,
        &reader.table,
        reader.index.as_deref(),
        &mut eval,
    );
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    ranges.iter().map(|r| format!("[{}, {})\n", hex(&r.start), hex(&r.end))).collect()
}

fn first_reader(plan: &PhysicalPlan) -> Option<&crate::plan::Reader> {
    match &plan.op {
        PhysicalOp::TableReader(reader)
        | PhysicalOp::IndexReader(reader)
        | PhysicalOp::IndexLookUp(reader) => Some(reader),
        _ => plan.children.iter().find_map(first_reader),
    }
}

fn run_script(name: &str) {
    let path = format!("src/testscripts/{name}");
    goldenscript::run(&mut Session::default(), path).expect("the script runs");
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run_script(stringify!($name));
        }
    )*};
}

scripts! {
    founding select names aggregate joins index_join subqueries rules ranges access dml
    statistics index_choice join_order broadcast_join tpch identity window recursive_cte
}
