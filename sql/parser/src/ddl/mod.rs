//! Rules of schema changes.

mod alter;
mod column;
mod flashback;
mod partition;
mod table;

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `CREATE ..`.
    pub(crate) fn create(&mut self) -> Parse<Statement> {
        self.expect("CREATE")?;
        let or_replace = self.eat_all("OR REPLACE");
        if self.is("DATABASE") || self.is("SCHEMA") {
            return self.create_database();
        }
        if self.eat("TABLE") {
            return self.create_table(false);
        }
        if self.eat_all("TEMPORARY TABLE") {
            return self.create_table(true);
        }
        if self.are("GLOBAL TEMPORARY") {
            return self.unsupported("CREATE GLOBAL TEMPORARY TABLE");
        }
        if self.is("USER") || self.is("ROLE") {
            return self.create_user();
        }
        if self.view_ahead() {
            return self.create_view(or_replace);
        }
        if let Some(kind) = self.eat_one(&["UNIQUE", "FULLTEXT", "SPATIAL", "INDEX"]) {
            let kind = match kind {
                "UNIQUE" => IndexKind::Unique,
                "FULLTEXT" => IndexKind::FullText,
                "SPATIAL" => IndexKind::Spatial,
                _ => IndexKind::Plain,
            };
            if kind != IndexKind::Plain {
                self.expect("INDEX")?;
            }
            return self.create_index(kind);
        }
        const LATER: [&str; 9] = [
            "PROCEDURE",
            "FUNCTION",
            "TRIGGER",
            "EVENT",
            "SEQUENCE",
            "DEFINER",
            "SERVER",
            "TABLESPACE",
            "RESOURCE",
        ];
        if let Some(kind) = LATER.into_iter().find(|kind| self.is(kind)) {
            return self.unsupported(format!("CREATE {kind}"));
        }
        self.fail("TABLE")
    }

    /// True before `[ALGORITHM = x] [DEFINER = u] [SQL SECURITY x] VIEW`.
    fn view_ahead(&self) -> bool {
        const HEAD_TOKENS: usize = 16;
        let starts = ["VIEW", "ALGORITHM", "SQL", "DEFINER"].iter().any(|word| self.is(word));
        starts && (0..HEAD_TOKENS).any(|n| self.nth_is(n, "VIEW"))
    }

    fn create_view(&mut self, or_replace: bool) -> Parse<Statement> {
        // Who may do what with a view comes with views themselves.
        while !self.eat("VIEW") {
            self.advance();
        }
        let name = self.object_name()?;
        let columns = if *self.peek() == Token::LParen { self.ident_list()? } else { Vec::new() };
        self.expect("AS")?;
        let start = self.at();
        let query = Box::new(self.query()?);
        let text = self.text(start, self.at()).to_owned();
        if self.eat("WITH") {
            let _ = self.eat_one(&["CASCADED", "LOCAL"]);
            self.expect("CHECK OPTION")?;
        }
        let view = CreateView { or_replace, name, columns, query, text };
        Ok(Statement::CreateView(Box::new(view)))
    }

    fn create_database(&mut self) -> Parse<Statement> {
        self.advance();
        let if_not_exists = self.if_not_exists();
        let name = self.ident()?;
        let (charset, collation) = self.database_options()?;
        Ok(Statement::CreateDatabase(CreateDatabase { name, if_not_exists, charset, collation }))
    }

    /// `[DEFAULT] CHARACTER SET = x`, `[DEFAULT] COLLATE = x`.
    fn database_options(&mut self) -> Parse<(Option<String>, Option<String>)> {
        let (mut charset, mut collation) = (None, None);
        loop {
            let default = self.eat("DEFAULT");
            if self.eat_charset_words() {
                let _ = self.eat_sign(&Token::Eq);
                charset = Some(self.ident_or_string()?.to_ascii_lowercase());
            } else if self.eat("COLLATE") {
                let _ = self.eat_sign(&Token::Eq);
                collation = Some(self.ident_or_string()?.to_ascii_lowercase());
            } else if self.eat("ENCRYPTION") {
                let _ = self.eat_sign(&Token::Eq);
                self.string()?;
            } else if default {
                return self.fail("CHARACTER SET");
            } else {
                return Ok((charset, collation));
            }
        }
    }

    /// `CHARACTER SET`, `CHARSET`, `CHAR SET`.
    pub(crate) fn eat_charset_words(&mut self) -> bool {
        self.eat_all("CHARACTER SET") || self.eat("CHARSET") || self.eat_all("CHAR SET")
    }

    /// `ALTER ..`.
    pub(crate) fn alter(&mut self) -> Parse<Statement> {
        self.expect("ALTER")?;
        if self.eat("TABLE") {
            return self.alter_table();
        }
        if self.eat("DATABASE") || self.eat("SCHEMA") {
            let options = ["DEFAULT", "CHARACTER", "CHARSET", "COLLATE"];
            let named = !options.iter().any(|word| self.is(word));
            let name = if named { Some(self.ident()?) } else { None };
            let (charset, collation) = self.database_options()?;
            if charset.is_none() && collation.is_none() {
                return self.fail("CHARACTER SET");
            }
            return Ok(Statement::AlterDatabase(AlterDatabase { name, charset, collation }));
        }
        if self.is("USER") {
            return self.alter_user();
        }
        if let Token::Word(word) = self.peek() {
            return self.unsupported(format!("ALTER {}", word.value.to_ascii_uppercase()));
        }
        self.fail("TABLE")
    }

    /// `DROP ..`.
    pub(crate) fn drop(&mut self) -> Parse<Statement> {
        self.expect("DROP")?;
        if self.eat("DATABASE") || self.eat("SCHEMA") {
            let if_exists = self.if_exists();
            return Ok(Statement::DropDatabase(DropDatabase { name: self.ident()?, if_exists }));
        }
        if self.eat("VIEW") {
            return Ok(Statement::DropView(self.drop_tables(false)?));
        }
        let temporary = self.eat("TEMPORARY");
        if self.eat("TABLE") || self.eat("TABLES") {
            return Ok(Statement::DropTable(self.drop_tables(temporary)?));
        }
        if self.eat("INDEX") {
            let if_exists = self.if_exists();
            let name = self.index_name()?;
            self.expect("ON")?;
            let table = self.object_name()?;
            self.algorithm_and_lock()?;
            return Ok(Statement::DropIndex(DropIndex { name, if_exists, table }));
        }
        if self.is("USER") || self.is("ROLE") {
            return self.drop_user();
        }
        if self.eat("STATS") {
            return self.statistics(StatisticsVerb::Drop);
        }
        if self.eat("PREPARE") {
            return Ok(Statement::Deallocate(self.ident()?));
        }
        if let Token::Word(word) = self.peek() {
            let known = [
                "PROCEDURE",
                "FUNCTION",
                "TRIGGER",
                "EVENT",
                "SEQUENCE",
                "RESOURCE",
                "PLACEMENT",
                "BINDING",
                "GLOBAL",
                "SESSION",
            ];
            let kind = word.value.to_ascii_uppercase();
            if known.contains(&kind.as_str()) {
                return self.unsupported(format!("DROP {kind}"));
            }
        }
        self.fail("TABLE")
    }

    fn drop_tables(&mut self, temporary: bool) -> Parse<DropTables> {
        let if_exists = self.if_exists();
        let names = self.comma_list(Self::object_name)?;
        // Both words do nothing in MySQL either.
        let _ = self.eat_one(&["RESTRICT", "CASCADE"]);
        Ok(DropTables { names, if_exists, temporary })
    }

    /// `TRUNCATE [TABLE] t`.
    pub(crate) fn truncate(&mut self) -> Parse<Statement> {
        self.expect("TRUNCATE")?;
        let _ = self.eat("TABLE");
        Ok(Statement::TruncateTable(self.object_name()?))
    }

    /// `RENAME TABLE a TO b, ..`.
    pub(crate) fn rename(&mut self) -> Parse<Statement> {
        self.expect("RENAME")?;
        if self.is("USER") {
            return self.unsupported("RENAME USER");
        }
        if !self.eat("TABLE") && !self.eat("TABLES") {
            return self.fail("TABLE");
        }
        let pairs = self.comma_list(|g| {
            let from = g.object_name()?;
            g.expect("TO")?;
            Ok(RenamePair { from, to: g.object_name()? })
        })?;
        Ok(Statement::RenameTable(pairs))
    }

    fn create_index(&mut self, kind: IndexKind) -> Parse<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = Some(self.ident()?);
        let mut options = IndexOptions::default();
        self.index_using(&mut options)?;
        self.expect("ON")?;
        let table = self.object_name()?;
        let parts = self.key_parts()?;
        self.index_options(&mut options)?;
        self.algorithm_and_lock()?;
        let index = IndexDef { name, kind, parts, options };
        Ok(Statement::CreateIndex(Box::new(CreateIndex { if_not_exists, table, index })))
    }

    /// `ALGORITHM = x`, `LOCK = x`: all schema changes are online here.
    pub(crate) fn algorithm_and_lock(&mut self) -> Parse<()> {
        while self.eat("ALGORITHM") || self.eat("LOCK") {
            let _ = self.eat_sign(&Token::Eq);
            self.ident_or_string()?;
        }
        Ok(())
    }
}
