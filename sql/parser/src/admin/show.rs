//! Rules of `SHOW`, `DESCRIBE` and `EXPLAIN`.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `SHOW ..`.
    pub(crate) fn show(&mut self) -> Parse<Statement> {
        self.expect("SHOW")?;
        let what = self.show_kind()?;
        let filter = if self.eat("LIKE") {
            Some(ShowFilter::Like(self.string()?))
        } else if self.eat("WHERE") {
            Some(ShowFilter::Where(Box::new(self.expr()?)))
        } else {
            None
        };
        Ok(Statement::Show(Box::new(Show { what, filter })))
    }

    fn show_kind(&mut self) -> Parse<ShowKind> {
        if self.eat("CREATE") {
            return self.show_create();
        }
        if let Some(kind) = self.show_plain() {
            return Ok(kind);
        }
        if self.are("TABLE STATUS") {
            self.eat_all("TABLE STATUS");
            return Ok(ShowKind::TableStatus { database: self.optional_database()? });
        }
        if self.eat("TABLE") {
            let table = self.object_name()?;
            let partitions = self.partition_list()?;
            let index = if self.eat("INDEX") { Some(self.index_name()?) } else { None };
            self.expect("REGIONS")?;
            return Ok(ShowKind::Regions { table, partitions, index });
        }
        if self.eat_all("OPEN TABLES") {
            return Ok(ShowKind::OpenTables { database: self.optional_database()? });
        }
        if self.eat("TRIGGERS") {
            return Ok(ShowKind::Triggers { database: self.optional_database()? });
        }
        if self.eat("EVENTS") {
            return Ok(ShowKind::Events { database: self.optional_database()? });
        }
        if self.eat("GRANTS") {
            let user = if self.eat("FOR") { self.user_or_current()? } else { None };
            if self.eat("USING") {
                self.comma_list(Self::user_name)?;
            }
            return Ok(ShowKind::Grants(user));
        }
        if self.eat("WARNINGS") {
            return Ok(ShowKind::Warnings(self.show_limit()?));
        }
        if self.eat("ERRORS") {
            return Ok(ShowKind::Errors(self.show_limit()?));
        }
        if self.is("COUNT") && *self.peek_nth(1) == Token::LParen {
            self.advance();
            self.parenthesised(|g| g.expect_sign(&Token::Mul))?;
            return match self.eat_one(&["WARNINGS", "ERRORS"]) {
                Some("WARNINGS") => Ok(ShowKind::CountWarnings),
                Some(_) => Ok(ShowKind::CountErrors),
                None => self.fail("WARNINGS"),
            };
        }
        if self.eat("ENGINE") {
            let engine = self.ident_or_string()?;
            if self.eat_one(&["STATUS", "MUTEX", "LOGS"]).is_none() {
                return self.fail("STATUS");
            }
            return Ok(ShowKind::EngineStatus(engine));
        }
        if self.is("BINLOG") || self.is("RELAYLOG") {
            return self.unsupported("SHOW BINLOG EVENTS");
        }
        self.show_scoped()
    }

    /// `[FULL | GLOBAL | SESSION | EXTENDED] ..`.
    fn show_scoped(&mut self) -> Parse<ShowKind> {
        let extended = self.eat("EXTENDED");
        let full = self.eat("FULL");
        if self.eat("TABLES") {
            return Ok(ShowKind::Tables { full, database: self.optional_database()? });
        }
        if self.eat_one(&["COLUMNS", "FIELDS"]).is_some() {
            let table = self.required_table()?;
            return Ok(ShowKind::Columns { full, extended, table });
        }
        if self.eat("PROCESSLIST") {
            return Ok(ShowKind::ProcessList { full });
        }
        if self.eat_one(&["INDEX", "INDEXES", "KEYS"]).is_some() {
            return Ok(ShowKind::Index { table: self.required_table()? });
        }
        let scope = match self.eat_one(&["GLOBAL", "SESSION", "LOCAL"]) {
            Some("GLOBAL") => VariableScope::Global,
            Some(_) => VariableScope::Session,
            None => VariableScope::Unspecified,
        };
        if self.eat("VARIABLES") {
            return Ok(ShowKind::Variables(scope));
        }
        if self.eat("STATUS") {
            return Ok(ShowKind::Status(scope));
        }
        if self.eat("BINDINGS") {
            return Ok(ShowKind::Other("BINDINGS".into()));
        }
        self.fail("something to show")
    }

    /// What takes neither arguments nor a scope.
    fn show_plain(&mut self) -> Option<ShowKind> {
        const KINDS: [(&str, ShowKind); 18] = [
            ("DATABASES", ShowKind::Databases),
            ("SCHEMAS", ShowKind::Databases),
            ("ENGINES", ShowKind::Engines),
            ("STORAGE ENGINES", ShowKind::Engines),
            ("CHARACTER SET", ShowKind::Charset),
            ("CHARSET", ShowKind::Charset),
            ("COLLATION", ShowKind::Collation),
            ("PRIVILEGES", ShowKind::Privileges),
            ("PLUGINS", ShowKind::Plugins),
            ("PROCEDURE STATUS", ShowKind::ProcedureStatus),
            ("FUNCTION STATUS", ShowKind::FunctionStatus),
            ("MASTER STATUS", ShowKind::MasterStatus),
            ("BINARY LOG STATUS", ShowKind::MasterStatus),
            ("BINARY LOGS", ShowKind::BinaryLogs),
            ("MASTER LOGS", ShowKind::BinaryLogs),
            ("REPLICA STATUS", ShowKind::ReplicaStatus),
            ("SLAVE STATUS", ShowKind::ReplicaStatus),
            ("PROFILES", ShowKind::Profiles),
        ];
        const OTHERS: [&str; 17] = [
            "STATS_META",
            "STATS_HISTOGRAMS",
            "STATS_BUCKETS",
            "STATS_HEALTHY",
            "STATS_TOPN",
            "STATS_EXTENDED",
            "STATS_LOCKED",
            "COLUMN_STATS_USAGE",
            "HISTOGRAMS_IN_FLIGHT",
            "ANALYZE STATUS",
            "CONFIG",
            "BUILTINS",
            "PLACEMENT LABELS",
            "PLACEMENT",
            "BACKUPS",
            "RESTORES",
            "REPLICAS",
        ];
        if let Some((words, kind)) = KINDS.into_iter().find(|(words, _)| self.are(words)) {
            self.eat_all(words);
            return Some(kind);
        }
        if self.eat("PROFILE") {
            // Its options choose columns of a result that is always empty.
            while !self.at_end() {
                self.advance();
            }
            return Some(ShowKind::Profile);
        }
        let words = OTHERS.into_iter().find(|words| self.are(words))?;
        self.eat_all(words);
        Some(ShowKind::Other(words.to_owned()))
    }

    fn show_create(&mut self) -> Parse<ShowKind> {
        if self.eat("TABLE") {
            return Ok(ShowKind::CreateTable(self.object_name()?));
        }
        if self.eat("VIEW") {
            return Ok(ShowKind::CreateView(self.object_name()?));
        }
        if self.eat("DATABASE") || self.eat("SCHEMA") {
            let if_not_exists = self.if_not_exists();
            return Ok(ShowKind::CreateDatabase { name: self.ident()?, if_not_exists });
        }
        if self.eat("USER") {
            return Ok(ShowKind::CreateUser(self.user_or_current()?));
        }
        const ROUTINES: [&str; 6] =
            ["PROCEDURE", "FUNCTION", "TRIGGER", "EVENT", "SEQUENCE", "PLACEMENT POLICY"];
        for kind in ROUTINES {
            if self.eat_all(kind) {
                let name = self.object_name()?;
                return Ok(ShowKind::CreateRoutine { kind: kind.to_owned(), name });
            }
        }
        self.fail("TABLE")
    }

    /// `[FROM | IN db]`.
    fn optional_database(&mut self) -> Parse<Option<String>> {
        if self.eat("FROM") || self.eat("IN") { self.ident().map(Some) } else { Ok(None) }
    }

    /// `FROM t [FROM db]`.
    fn required_table(&mut self) -> Parse<ObjectName> {
        if !self.eat("FROM") && !self.eat("IN") {
            return self.fail("FROM");
        }
        let mut table = self.object_name()?;
        if let Some(database) = self.optional_database()? {
            table.schema = Some(database);
        }
        Ok(table)
    }

    fn show_limit(&mut self) -> Parse<ShowLimit> {
        if !self.eat("LIMIT") {
            return Ok(ShowLimit::default());
        }
        let first = self.integer()?;
        if self.eat_sign(&Token::Comma) {
            return Ok(ShowLimit { offset: first, count: Some(self.integer()?) });
        }
        let offset = if self.eat("OFFSET") { self.integer()? } else { 0 };
        Ok(ShowLimit { offset, count: Some(first) })
    }

    /// `EXPLAIN ..`, `DESCRIBE ..`, `DESC ..`.
    pub(crate) fn explain(&mut self) -> Parse<Statement> {
        self.advance();
        let analyze = self.eat("ANALYZE");
        let mut format = None;
        if self.is("FORMAT") && *self.peek_nth(1) == Token::Eq {
            self.advance();
            self.advance();
            format = Some(self.ident_or_string()?.to_ascii_lowercase());
        }
        let analyze = analyze || self.eat("ANALYZE");
        // Of old; both say nothing today.
        if !analyze && format.is_none() && self.explainable_after_word() {
            let _ = self.eat("EXTENDED") || self.eat("PARTITIONS");
        }
        if self.eat_all("FOR CONNECTION") {
            let target = ExplainTarget::Connection(self.integer()?);
            return Ok(Statement::Explain(Box::new(Explain { analyze, format, target })));
        }
        if self.explainable() {
            let target = ExplainTarget::Statement(Box::new(self.statement()?));
            return Ok(Statement::Explain(Box::new(Explain { analyze, format, target })));
        }
        if analyze || format.is_some() {
            return self.fail("a statement that can be explained");
        }
        let table = self.object_name()?;
        let column = if self.at_end() { None } else { Some(self.ident_or_string()?) };
        Ok(Statement::Describe(Describe { table, column }))
    }

    /// `TRACE [FORMAT = x] ..`.
    pub(crate) fn trace(&mut self) -> Parse<Statement> {
        self.expect("TRACE")?;
        let mut format = None;
        if self.eat("FORMAT") {
            self.expect_sign(&Token::Eq)?;
            format = Some(self.ident_or_string()?.to_ascii_lowercase());
        }
        if !self.explainable() && !self.is("COMMIT") {
            return self.fail("a statement that can be traced");
        }
        let statement = Box::new(self.statement()?);
        Ok(Statement::Trace(Trace { format, statement }))
    }

    fn explainable(&self) -> bool {
        const WORDS: [&str; 9] =
            ["SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "TABLE", "VALUES", "ALTER"];
        *self.peek() == Token::LParen || WORDS.iter().any(|word| self.is(word))
    }

    fn explainable_after_word(&self) -> bool {
        self.nth_is(1, "SELECT") || self.nth_is(1, "UPDATE") || self.nth_is(1, "DELETE")
    }
}
