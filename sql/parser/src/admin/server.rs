//! Rules of `FLUSH`, `KILL`, `ANALYZE`, `ADMIN`, `SPLIT`, `PREPARE` and their kin.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};
use crate::token::USER_VARIABLE;

impl Grammar<'_, '_> {
    /// `PREPARE s FROM 'text'`, `PREPARE s FROM @v`.
    pub(crate) fn prepare(&mut self) -> Parse<Statement> {
        self.expect("PREPARE")?;
        let name = self.ident()?;
        self.expect("FROM")?;
        let source = match self.peek() {
            Token::SingleQuotedString(_) => PrepareSource::Text(self.string()?),
            _ => PrepareSource::UserVariable(self.user_variable_name()?),
        };
        Ok(Statement::Prepare(Prepare { name, source }))
    }

    /// `EXECUTE s USING @a, @b`.
    pub(crate) fn execute(&mut self) -> Parse<Statement> {
        self.expect("EXECUTE")?;
        let name = self.ident()?;
        let using =
            if self.eat("USING") { self.comma_list(Self::user_variable_name)? } else { Vec::new() };
        Ok(Statement::Execute(Execute { name, using }))
    }

    fn user_variable_name(&mut self) -> Parse<String> {
        match self.peek() {
            Token::Word(word) if word.quote_style == Some(USER_VARIABLE) => {
                let name = word.value.clone();
                self.advance();
                Ok(name)
            }
            _ => self.fail("a user variable"),
        }
    }

    /// `FLUSH ..`.
    pub(crate) fn flush(&mut self) -> Parse<Statement> {
        self.expect("FLUSH")?;
        let _ = self.eat_one(&["NO_WRITE_TO_BINLOG", "LOCAL"]);
        if self.eat("TABLES") || self.eat("TABLE") {
            let tables =
                if self.is_ident() { self.comma_list(Self::object_name)? } else { Vec::new() };
            let lock = if self.eat_all("WITH READ LOCK") {
                Some(FlushLock::ReadLock)
            } else if !tables.is_empty() && self.eat_all("FOR EXPORT") {
                Some(FlushLock::Export)
            } else {
                None
            };
            let what = "TABLES".into();
            return Ok(Statement::Flush(Flush { what, tables, lock }));
        }
        const WHAT: [&str; 11] = [
            "PRIVILEGES",
            "STATUS",
            "LOGS",
            "BINARY LOGS",
            "ENGINE LOGS",
            "ERROR LOGS",
            "GENERAL LOGS",
            "SLOW LOGS",
            "HOSTS",
            "USER_RESOURCES",
            "STATS_DELTA",
        ];
        let found = self.comma_list(|g| match WHAT.into_iter().find(|words| g.are(words)) {
            Some(words) => {
                g.eat_all(words);
                Ok(words)
            }
            None => g.fail("something to flush"),
        })?;
        let what = found.join(", ");
        Ok(Statement::Flush(Flush { what, tables: Vec::new(), lock: None }))
    }

    /// `KILL [TIDB] [CONNECTION | QUERY] n`.
    pub(crate) fn kill(&mut self) -> Parse<Statement> {
        self.expect("KILL")?;
        let _ = self.eat("TIDB");
        let query_only = self.eat_one(&["CONNECTION", "QUERY"]) == Some("QUERY");
        Ok(Statement::Kill(Kill { query_only, connection: self.expr()? }))
    }

    /// `ANALYZE TABLE ..`.
    pub(crate) fn analyze(&mut self) -> Parse<Statement> {
        self.expect("ANALYZE")?;
        let _ = self.eat_one(&["NO_WRITE_TO_BINLOG", "LOCAL", "INCREMENTAL"]);
        if !self.eat("TABLE") && !self.eat("TABLES") {
            return self.fail("TABLE");
        }
        let tables = self.comma_list(Self::object_name)?;
        let partitions =
            if self.eat("PARTITION") { self.comma_list(Self::ident)? } else { Vec::new() };
        let scope = if self.eat_all("ALL COLUMNS") {
            AnalyzeScope::AllColumns
        } else if self.eat_all("PREDICATE COLUMNS") {
            AnalyzeScope::PredicateColumns
        } else if self.eat("COLUMNS") {
            AnalyzeScope::Columns(self.comma_list(Self::ident)?)
        } else if self.eat("INDEX") {
            let named = self.is_ident() || self.is("PRIMARY");
            AnalyzeScope::Indexes(if named {
                self.comma_list(Self::index_name)?
            } else {
                Vec::new()
            })
        } else if self.eat_all("UPDATE HISTOGRAM ON") || self.eat_all("DROP HISTOGRAM ON") {
            AnalyzeScope::Columns(self.comma_list(Self::ident)?)
        } else {
            AnalyzeScope::Default
        };
        let options =
            if self.eat("WITH") { self.comma_list(Self::analyze_option)? } else { Vec::new() };
        Ok(Statement::AnalyzeTable(AnalyzeTable { tables, partitions, scope, options }))
    }

    /// The tables of `DROP STATS`, `LOCK STATS`, `UNLOCK STATS`.
    pub(crate) fn statistics(&mut self, verb: StatisticsVerb) -> Parse<Statement> {
        let tables = self.comma_list(Self::object_name)?;
        Ok(Statement::Statistics(StatisticsCommand { verb, tables }))
    }

    /// `256 BUCKETS`, `0.1 SAMPLERATE`.
    fn analyze_option(&mut self) -> Parse<(String, String)> {
        let value = match self.peek() {
            Token::Number(text, _) => text.clone(),
            _ => return self.fail("a number"),
        };
        self.advance();
        const NAMES: [&str; 6] =
            ["BUCKETS", "TOPN", "CMSKETCH DEPTH", "CMSKETCH WIDTH", "SAMPLES", "SAMPLERATE"];
        match NAMES.into_iter().find(|words| self.are(words)) {
            Some(words) => {
                self.eat_all(words);
                Ok((words.to_owned(), value))
            }
            None => self.fail("BUCKETS"),
        }
    }

    /// `CHECK | OPTIMIZE | REPAIR | CHECKSUM TABLE ..`.
    pub(crate) fn maintenance(&mut self, verb: &str) -> Parse<Statement> {
        self.advance();
        let _ = self.eat_one(&["NO_WRITE_TO_BINLOG", "LOCAL"]);
        if !self.eat("TABLE") && !self.eat("TABLES") {
            return self.fail("TABLE");
        }
        let tables = self.comma_list(Self::object_name)?;
        const OPTIONS: [&str; 9] = [
            "QUICK",
            "FAST",
            "MEDIUM",
            "EXTENDED",
            "CHANGED",
            "USE_FRM",
            "FOR UPGRADE",
            "FOR",
            "UPGRADE",
        ];
        while self.eat_one(&OPTIONS).is_some() {}
        Ok(Statement::TableMaintenance(TableMaintenance { verb: verb.to_owned(), tables }))
    }

    /// `ADMIN ..`.
    pub(crate) fn admin(&mut self) -> Parse<Statement> {
        self.expect("ADMIN")?;
        let admin = if self.eat_all("CHECK TABLE") {
            Admin::CheckTable(self.comma_list(Self::object_name)?)
        } else if self.eat_all("CHECK INDEX") {
            let table = self.object_name()?;
            Admin::CheckIndex { table, index: self.index_name()? }
        } else if self.eat_all("CHECKSUM TABLE") {
            Admin::ChecksumTable(self.comma_list(Self::object_name)?)
        } else if self.eat_all("SHOW DDL") {
            self.admin_show_ddl()?
        } else if self.nth_is(1, "DDL") {
            let action = match self.eat_one(&["CANCEL", "PAUSE", "RESUME"]) {
                Some("CANCEL") => DdlJobAction::Cancel,
                Some("PAUSE") => DdlJobAction::Pause,
                Some(_) => DdlJobAction::Resume,
                None => return self.fail("CANCEL"),
            };
            self.expect("DDL JOBS")?;
            Admin::ChangeDdlJobs { action, ids: self.comma_list(Self::integer)? }
        } else if let Some(action) = self.eat_one(&["RECOVER", "CLEANUP"]) {
            self.expect("INDEX")?;
            let table = self.object_name()?;
            Admin::RepairIndex { action: action.to_owned(), table, index: self.index_name()? }
        } else {
            return match self.peek() {
                Token::Word(word) => {
                    self.unsupported(format!("ADMIN {}", word.value.to_ascii_uppercase()))
                }
                _ => self.fail("CHECK TABLE"),
            };
        };
        Ok(Statement::Admin(Box::new(admin)))
    }

    fn admin_show_ddl(&mut self) -> Parse<Admin> {
        if self.is("JOB") {
            return self.unsupported("ADMIN SHOW DDL JOB QUERIES");
        }
        if !self.eat("JOBS") {
            return Ok(Admin::ShowDdl);
        }
        let count = match self.peek() {
            Token::Number(..) => Some(self.integer()?),
            _ => None,
        };
        let selection = self.where_clause()?.map(Box::new);
        Ok(Admin::ShowDdlJobs { count, selection })
    }

    /// `SPLIT TABLE ..`.
    pub(crate) fn split(&mut self) -> Parse<Statement> {
        self.expect("SPLIT")?;
        let _ = self.eat_all("REGION FOR");
        let all_partitions = self.eat("PARTITION");
        self.expect("TABLE")?;
        let table = self.object_name()?;
        let partitions = self.partition_list()?;
        if all_partitions && !partitions.is_empty() {
            return self.fail("BETWEEN");
        }
        let index = if self.eat("INDEX") { Some(self.index_name()?) } else { None };
        let how = if self.eat("BETWEEN") {
            let lower = self.value_row()?;
            self.expect("AND")?;
            let upper = self.value_row()?;
            self.expect("REGIONS")?;
            SplitPoints::Between { lower, upper, regions: self.integer()? }
        } else {
            self.expect("BY")?;
            SplitPoints::By(self.comma_list(Self::value_row)?)
        };
        Ok(Statement::SplitTable(Box::new(SplitTable { table, partitions, index, how })))
    }

    fn value_row(&mut self) -> Parse<Vec<Expr>> {
        self.parenthesised(|g| match g.peek() {
            Token::RParen => Ok(Vec::new()),
            _ => g.comma_list(Self::expr),
        })
    }
}
