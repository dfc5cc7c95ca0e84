//! An entry of the slow log as text: MySQL's lines, which tools read, then TiDB's fields.
//!
//! ```text
//! # Time: 2026-03-01T10:00:00.123456Z
//! # User@Host: root[root] @ localhost []  Id: 7
//! # Query_time: 1.527627  Lock_time: 0.000000  Rows_sent: 1  Rows_examined: 0
//! # Parse_time: 0.000055  Compile_time: 0.000130  Digest: 24bd…
//! # Plan: "TableReader_3 …\n"
//! use test;
//! SET timestamp=1772359200;
//! SELECT …;
//! ```
//!
//! A line of a statement that would begin with `#` begins with a blank instead, so that no statement can pass for an entry.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How an entry begins.
pub const ENTRY_START: &str = "# Time: ";
/// What the first line of MySQL's and ours say of the host.
const USER_START: &str = "# User@Host: ";
const PLAN_START: &str = "# Plan: ";
const DATABASE_START: &str = "# DB: ";
const INDEXES_START: &str = "# Index_names: ";

/// A slow statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowQuery {
    /// When it ended, in microseconds since the epoch.
    pub ended_us: i64,
    /// Its transaction; 0: none.
    pub start_ts: u64,
    /// Who ran it.
    pub user: String,
    /// From where.
    pub host: String,
    /// The connection.
    pub connection: u32,
    /// Seconds in all.
    pub query_s: f64,
    /// Seconds of parsing.
    pub parse_s: f64,
    /// Seconds of planning.
    pub compile_s: f64,
    /// Rows the client got.
    pub rows_sent: u64,
    /// Rows changed.
    pub affected_rows: u64,
    /// The current database.
    pub database: String,
    /// What it is, as TiDB names it.
    pub kind: String,
    /// Indexes it read.
    pub index_names: String,
    /// Digest of the statement.
    pub digest: String,
    /// Digest of its plan.
    pub plan_digest: String,
    /// Coprocessor tasks.
    pub cop_tasks: u64,
    /// Their seconds together.
    pub cop_time_s: f64,
    /// Seconds of the longest.
    pub cop_time_max_s: f64,
    /// Bytes of rows that stores sent.
    pub cop_bytes: u64,
    /// Other requests.
    pub requests: u64,
    /// Most memory.
    pub memory_bytes: u64,
    /// Most disk.
    pub disk_bytes: u64,
    /// How often it started over.
    pub retries: u64,
    /// It was prepared.
    pub is_prepared: bool,
    /// Its plan was in the cache.
    pub plan_was_cached: bool,
    /// It did not fail.
    pub succeeded: bool,
    /// Its plan.
    pub plan: String,
    /// The beginning of its text.
    pub text: String,
}

impl SlowQuery {
    /// The entry as text.
    pub fn to_text(&self) -> String {
        let time = Timestamp::from_microsecond(self.ended_us).unwrap_or_default();
        let mut out = format!("{ENTRY_START}{time:.6}\n");
        let Self { user, host, connection, .. } = self;
        out += &format!("{USER_START}{user}[{user}] @ {host} []  Id: {connection}\n");
        out += &format!(
            "# Query_time: {:.6}  Lock_time: 0.000000  Rows_sent: {}  Rows_examined: 0  Rows_affected: {}\n",
            self.query_s, self.rows_sent, self.affected_rows
        );
        out += &format!(
            "# Txn_start_ts: {}  Parse_time: {:.6}  Compile_time: {:.6}  Stmt_type: {}\n",
            self.start_ts, self.parse_s, self.compile_s, self.kind
        );
        out += &format!(
            "# Num_cop_tasks: {}  Cop_time: {:.6}  Cop_time_max: {:.6}  Cop_bytes: {}  Num_requests: {}\n",
            self.cop_tasks, self.cop_time_s, self.cop_time_max_s, self.cop_bytes, self.requests
        );
        out += &format!(
            "# Mem_max: {}  Disk_max: {}  Exec_retry_count: {}  Prepared: {}  Plan_from_cache: {}  Succ: {}\n",
            self.memory_bytes,
            self.disk_bytes,
            self.retries,
            self.is_prepared,
            self.plan_was_cached,
            self.succeeded
        );
        out += &format!("# Digest: {}\n", self.digest);
        if !self.plan_digest.is_empty() {
            out += &format!("# Plan_digest: {}\n", self.plan_digest);
        }
        for (start, text) in [(DATABASE_START, &self.database), (INDEXES_START, &self.index_names)]
        {
            if !text.is_empty() {
                out += &format!("{start}{}\n", quoted(text));
            }
        }
        if !self.plan.is_empty() {
            out += &format!("{PLAN_START}{}\n", quoted(&self.plan));
        }
        if !self.database.is_empty() {
            out += &format!("use {};\n", cairn_parser::quote_identifier(&self.database));
        }
        out += &format!("SET timestamp={};\n", time.as_second());
        let text = self.text.trim_end().trim_end_matches(';');
        let text = text.replace("\n#", "\n #");
        let hash = if text.starts_with('#') { " " } else { "" };
        out += &format!("{hash}{text};\n");
        out
    }

    /// The entry that begins at the start of `text` and ends with it; `None` if it is none.
    pub fn parse(text: &str) -> Option<SlowQuery> {
        let mut query = SlowQuery::default();
        let mut rest = text;
        let first = take_line(&mut rest)?.strip_prefix(ENTRY_START)?;
        query.ended_us = first.trim().parse::<Timestamp>().ok()?.as_microsecond();
        while rest.starts_with('#') {
            query.take_fields(take_line(&mut rest)?);
        }
        if rest.starts_with("use ") {
            take_line(&mut rest)?;
        }
        if rest.starts_with("SET timestamp=") {
            take_line(&mut rest)?;
        }
        query.text = rest.trim_end().trim_end_matches(';').to_owned();
        Some(query)
    }

    /// Takes up what a line says.
    fn take_fields(&mut self, line: &str) {
        if let Some(who) = line.strip_prefix(USER_START) {
            let (user, behind) = who.split_once('[').unwrap_or((who, ""));
            self.user = user.to_owned();
            let host = behind.split_once(" @ ").map_or("", |(_, host)| host);
            self.host = host.split(" []").next().unwrap_or_default().to_owned();
            let id = behind.rsplit_once("Id: ").map_or("", |(_, id)| id);
            self.connection = id.trim().parse().unwrap_or(0);
            return;
        }
        let texts = [
            (PLAN_START, &mut self.plan),
            (DATABASE_START, &mut self.database),
            (INDEXES_START, &mut self.index_names),
        ];
        for (start, field) in texts {
            if let Some(text) = line.strip_prefix(start) {
                *field = serde_json::from_str(text).unwrap_or_default();
                return;
            }
        }
        let mut words = line.trim_start_matches('#').split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let number = || value.parse::<u64>().unwrap_or(0);
            let seconds = || value.parse::<f64>().unwrap_or(0.0);
            let is_true = value == "true";
            match name {
                "Query_time:" => self.query_s = seconds(),
                "Rows_sent:" => self.rows_sent = number(),
                "Rows_affected:" => self.affected_rows = number(),
                "Txn_start_ts:" => self.start_ts = number(),
                "Parse_time:" => self.parse_s = seconds(),
                "Compile_time:" => self.compile_s = seconds(),
                "Stmt_type:" => self.kind = value.to_owned(),
                "Num_cop_tasks:" => self.cop_tasks = number(),
                "Cop_time:" => self.cop_time_s = seconds(),
                "Cop_time_max:" => self.cop_time_max_s = seconds(),
                "Cop_bytes:" => self.cop_bytes = number(),
                "Num_requests:" => self.requests = number(),
                "Mem_max:" => self.memory_bytes = number(),
                "Disk_max:" => self.disk_bytes = number(),
                "Exec_retry_count:" => self.retries = number(),
                "Prepared:" => self.is_prepared = is_true,
                "Plan_from_cache:" => self.plan_was_cached = is_true,
                "Succ:" => self.succeeded = is_true,
                "Digest:" => self.digest = value.to_owned(),
                "Plan_digest:" => self.plan_digest = value.to_owned(),
                // Of a newer version, or of MySQL's that we have no figure for.
                _ => {}
            }
        }
    }
}

/// Text on one line.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first line of `rest`, which then begins behind it.
fn take_line<'a>(rest: &mut &'a str) -> Option<&'a str> {
    if rest.is_empty() {
        return None;
    }
    let (line, behind) = rest.split_once('\n').unwrap_or((rest, ""));
    *rest = behind;
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> SlowQuery {
        SlowQuery {
            ended_us: 1_772_359_200_123_456,
            start_ts: 450_000,
            user: "ann".into(),
            host: "10.0.0.7".into(),
            connection: 7,
            query_s: 1.5,
            parse_s: 0.000_25,
            rows_sent: 3,
            database: "my `shop`".into(),
            kind: "Select".into(),
            digest: "ab12".into(),
            plan_digest: "cd34".into(),
            cop_tasks: 4,
            is_prepared: true,
            succeeded: true,
            plan: "TableReader_3  10.00\n└─TableFullScan_2\t\"x\"\n".into(),
            text: text.into(),
            ..SlowQuery::default()
        }
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        for text in ["SELECT 1", "SELECT a,\n  'b;'\nFROM t", "use x"] {
            assert_eq!(SlowQuery::parse(&query(text).to_text()), Some(query(text)));
        }
    }

    #[test]
    fn the_lines_are_those_that_tools_know() {
        let text = query("SELECT 1;").to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "# Time: 2026-03-01T10:00:00.123456Z");
        assert_eq!(lines[1], "# User@Host: ann[ann] @ 10.0.0.7 []  Id: 7");
        assert!(lines[2].starts_with("# Query_time: 1.500000  Lock_time: 0.000000  Rows_sent: 3 "));
        assert_eq!(lines[lines.len() - 2..], ["SET timestamp=1772359200;", "SELECT 1;"]);
    }

    #[test]
    fn a_statement_cannot_pass_for_an_entry() {
        let text = query("SELECT 1\n# Time: 2020-01-01T00:00:00Z\n# Query_time: 9").to_text();
        assert_eq!(text.lines().filter(|line| line.starts_with(ENTRY_START)).count(), 1);
        assert!(query("# Time: x").to_text().lines().last().is_some_and(|l| l.starts_with(' ')));
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for text in ["", "# Time: yesterday\n", "/usr/sbin/mysqld, Version: 8\n"] {
            assert_eq!(SlowQuery::parse(text), None);
        }
    }
}
