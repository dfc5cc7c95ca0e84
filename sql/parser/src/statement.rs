//! Which rule a statement's first words choose.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// One statement.
    pub(crate) fn statement(&mut self) -> Parse<Statement> {
        let first = match self.peek() {
            Token::LParen => return self.query_statement(),
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
            _ => return self.fail("a statement"),
        };
        match first.as_str() {
            "SELECT" | "VALUES" | "TABLE" => self.query_statement(),
            "WITH" => self.with_statement(),
            "INSERT" | "REPLACE" => Ok(Statement::Insert(Box::new(self.insert()?))),
            "UPDATE" => Ok(Statement::Update(Box::new(self.update(None)?))),
            "DELETE" => Ok(Statement::Delete(Box::new(self.delete(None)?))),
            "CREATE" => self.create(),
            "ALTER" => self.alter(),
            "DROP" => self.drop(),
            "TRUNCATE" => self.truncate(),
            "RENAME" => self.rename(),
            "BEGIN" => self.begin(),
            "START" => self.start_transaction(),
            "COMMIT" => self.commit(),
            "ROLLBACK" => self.rollback(),
            "SAVEPOINT" => {
                self.advance();
                Ok(Statement::Savepoint(self.ident()?))
            }
            "RELEASE" => {
                self.expect("RELEASE SAVEPOINT")?;
                Ok(Statement::ReleaseSavepoint(self.ident()?))
            }
            "XA" => self.xa(),
            "LOCK" => self.lock_tables(),
            "UNLOCK" => self.unlock_tables(),
            "USE" => {
                self.advance();
                Ok(Statement::Use(self.ident()?))
            }
            "SET" => self.set(),
            "SHOW" => self.show(),
            "EXPLAIN" | "DESCRIBE" | "DESC" => self.explain(),
            "TRACE" => self.trace(),
            "DO" => {
                self.advance();
                Ok(Statement::Do(self.comma_list(Self::expr)?))
            }
            "PREPARE" => self.prepare(),
            "EXECUTE" => self.execute(),
            "DEALLOCATE" => {
                self.expect("DEALLOCATE PREPARE")?;
                Ok(Statement::Deallocate(self.ident()?))
            }
            "FLUSH" => self.flush(),
            "KILL" => self.kill(),
            "ANALYZE" => self.analyze(),
            verb @ ("CHECK" | "OPTIMIZE" | "REPAIR" | "CHECKSUM") => self.maintenance(verb),
            "ADMIN" => self.admin(),
            "SPLIT" => self.split(),
            "GRANT" | "REVOKE" => self.grant(),
            "FLASHBACK" => self.flashback(),
            "RECOVER" => self.recover(),
            other => self.unknown(other),
        }
    }

    fn query_statement(&mut self) -> Parse<Statement> {
        Ok(Statement::Query(Box::new(self.query()?)))
    }

    /// `WITH ..` before a query or a change.
    fn with_statement(&mut self) -> Parse<Statement> {
        let with = self.with_clause()?;
        if self.is("UPDATE") {
            return Ok(Statement::Update(Box::new(self.update(with)?)));
        }
        if self.is("DELETE") {
            return Ok(Statement::Delete(Box::new(self.delete(with)?)));
        }
        Ok(Statement::Query(Box::new(self.query_after_with(with)?)))
    }

    /// What MySQL or TiDB know and Cairn does not, and what nobody knows.
    fn unknown(&mut self, word: &str) -> Parse<Statement> {
        const KNOWN: [&str; 22] = [
            "BACKUP",
            "BATCH",
            "BINLOG",
            "CACHE",
            "CALL",
            "CHANGE",
            "CLONE",
            "GET",
            "HANDLER",
            "HELP",
            "IMPORT",
            "INSTALL",
            "LOAD",
            "PLAN",
            "PURGE",
            "QUERY",
            "RESET",
            "RESIGNAL",
            "RESTORE",
            "SHUTDOWN",
            "SIGNAL",
            "UNINSTALL",
        ];
        if KNOWN.contains(&word) { self.unsupported(word) } else { self.fail("a statement") }
    }
}
