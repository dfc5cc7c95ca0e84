//! Tests of the whole parser: golden scripts, bounds, and that no text harms it.
//!
//! In a script (`src/testscripts`), a line `> text` parses a text. Tags choose how: `[expr]` an
//! expression, `[tree]` prints nodes instead of SQL, `[quiet]` nothing but errors; `[ansi]`, `[pipes]`, `[nobackslash]` and
//! `[highnot]` set parts of `sql_mode`. SQL is printed with every parenthesis, so that one sees
//! what binds to what. `UPDATE_GOLDENFILES=1` rewrites the outputs.

mod bounds;
mod random;

use std::error::Error;
use std::fmt::Write as _;

use crate::ast::{ParsedStatement, Statement};
use crate::{ParseError, SqlMode, parse_expr, parse_statements};

struct Runner;

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let has = |tag: &str| context.tags.contains(tag);
        let mode = SqlMode {
            ansi_quotes: has("ansi"),
            pipes_as_concat: has("pipes"),
            no_backslash_escapes: has("nobackslash"),
            high_not_precedence: has("highnot"),
            ignore_space: false,
        };
        let sql = command.name.replace("\\n", "\n");
        let mut out = String::new();
        if has("expr") {
            match parse_expr(&sql, &mode) {
                Ok(expr) if has("tree") => writeln!(out, "{expr:?}")?,
                Ok(expr) => writeln!(out, "{}", expr.to_sql_grouped())?,
                Err(error) => write_error(&mut out, &error)?,
            }
            return Ok(out);
        }
        match parse_statements(&sql, &mode) {
            Ok(_) if has("quiet") => {}
            Ok(statements) => {
                for statement in &statements {
                    write_statement(&mut out, statement, has("tree"))?;
                }
            }
            Err(error) => write_error(&mut out, &error)?,
        }
        Ok(out)
    }
}

fn write_statement(out: &mut String, parsed: &ParsedStatement, tree: bool) -> std::fmt::Result {
    match &parsed.statement {
        Statement::Query(query) if !tree => writeln!(out, "{}", query.to_sql_grouped()),
        statement => writeln!(out, "{}", without_defaults(&format!("{statement:?}"))),
    }
}

/// Leaves out the fields that say nothing: `None`, `false`, `[]`.
fn without_defaults(debug: &str) -> String {
    let mut out = String::new();
    let mut rest = debug;
    while let Some(colon) = rest.find(": ") {
        let (head, tail) = rest.split_at(colon);
        let start = head.rfind([' ', '{', '(', '[']).map_or(0, |at| at + 1);
        let silent = ["None", "false", "[]"].iter().find_map(|word| {
            let after = tail[2..].strip_prefix(word)?;
            after.strip_prefix(", ").or_else(|| after.starts_with(" }").then_some(after))
        });
        match silent {
            Some(after) => {
                out.push_str(&head[..start]);
                rest = after;
            }
            None => {
                out.push_str(&rest[..colon + 2]);
                rest = &rest[colon + 2..];
            }
        }
    }
    out.push_str(rest);
    out.replace(",  }", " }").replace("{  }", "{}")
}

fn write_error(out: &mut String, error: &ParseError) -> std::fmt::Result {
    match error {
        ParseError::Syntax { near, line, expected, .. } => {
            writeln!(out, "Error 1064: near '{near}' at line {line} (expected {expected})")
        }
        error => writeln!(out, "Error {}: {error}", error.errno()),
    }
}

/// One test per script.
macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() -> std::io::Result<()> {
                let file = concat!("src/testscripts/", stringify!($name));
                goldenscript::run(&mut Runner, file)
            }
        )*
    };
}

scripts!(
    accounts,
    admin,
    alter_table,
    clients,
    create_table,
    dml,
    errors,
    expressions,
    joins,
    literals,
    precedence,
    queries,
    set_show,
    transactions,
);

#[test]
fn several_statements_know_their_bytes() {
    let sql = "  SELECT 1; /* x */ SELECT ';' ;; UPDATE t SET a = ? ";
    let mode = SqlMode::default();
    let statements = parse_statements(sql, &mode).expect("parses");
    let texts: Vec<&str> = statements.iter().map(|s| &sql[s.range.clone()]).collect();
    assert_eq!(texts, ["SELECT 1", "/* x */ SELECT ';'", "UPDATE t SET a = ?"]);
    assert_eq!(statements[2].parameter_count, 1);
    assert_eq!(parse_statements(" ; -- x", &mode), Err(ParseError::Empty));
    assert!(crate::parse_one("SELECT 1; SELECT 2", &mode).is_err());
    assert!(crate::parse_one("SELECT 1;", &mode).is_ok());
}

#[test]
fn an_error_in_a_later_statement_knows_its_place() {
    let error = parse_statements("SELECT 1;\nSELECT FROM t", &SqlMode::default());
    assert_eq!(error.expect_err("no items").offset(), Some(17));
}

#[test]
fn secrets_are_not_printed() {
    let sql = "CREATE USER u IDENTIFIED BY 'hunter2'; SET PASSWORD = 'hunter2'";
    let statements = parse_statements(sql, &SqlMode::default()).expect("parses");
    assert!(!format!("{statements:?}").contains("hunter2"));
}
