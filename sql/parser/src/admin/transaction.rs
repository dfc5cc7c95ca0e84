//! Rules of transactions and table locks.

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `BEGIN [WORK] [OPTIMISTIC | PESSIMISTIC]`.
    pub(crate) fn begin(&mut self) -> Parse<Statement> {
        self.expect("BEGIN")?;
        let _ = self.eat("WORK");
        let mode = match self.eat_one(&["OPTIMISTIC", "PESSIMISTIC"]) {
            Some("OPTIMISTIC") => Some(TransactionMode::Optimistic),
            Some(_) => Some(TransactionMode::Pessimistic),
            None => None,
        };
        Ok(Statement::Begin(Begin { mode, ..Begin::default() }))
    }

    /// `START TRANSACTION [characteristic, ..]`.
    pub(crate) fn start_transaction(&mut self) -> Parse<Statement> {
        self.expect("START TRANSACTION")?;
        let mut begin = Begin::default();
        if self.at_end() {
            return Ok(Statement::Begin(begin));
        }
        self.comma_list(|g| {
            if g.eat_all("WITH CONSISTENT SNAPSHOT") {
                begin.consistent_snapshot = true;
                return Ok(());
            }
            begin.read_only = Some(g.access_mode()?);
            if begin.read_only == Some(true) {
                begin.as_of = g.as_of()?;
            }
            Ok(())
        })?;
        Ok(Statement::Begin(begin))
    }

    /// `AS OF TIMESTAMP expr`, if it is there.
    pub(crate) fn as_of(&mut self) -> Parse<Option<Expr>> {
        if self.eat_all("AS OF TIMESTAMP") { self.expr().map(Some) } else { Ok(None) }
    }

    /// `READ ONLY` is true, `READ WRITE` false.
    fn access_mode(&mut self) -> Parse<bool> {
        self.expect("READ")?;
        match self.eat_one(&["ONLY", "WRITE"]) {
            Some(word) => Ok(word == "ONLY"),
            None => self.fail("ONLY"),
        }
    }

    /// `COMMIT ..`.
    pub(crate) fn commit(&mut self) -> Parse<Statement> {
        self.expect("COMMIT")?;
        let _ = self.eat("WORK");
        Ok(Statement::Commit(self.completion()?))
    }

    /// `ROLLBACK ..`, `ROLLBACK TO ..`.
    pub(crate) fn rollback(&mut self) -> Parse<Statement> {
        self.expect("ROLLBACK")?;
        let _ = self.eat("WORK");
        if self.eat("TO") {
            let _ = self.eat("SAVEPOINT");
            return Ok(Statement::RollbackTo(self.ident()?));
        }
        Ok(Statement::Rollback(self.completion()?))
    }

    /// `[AND [NO] CHAIN] [[NO] RELEASE]`.
    fn completion(&mut self) -> Parse<Completion> {
        let mut completion = Completion::default();
        if self.eat("AND") {
            let no = self.eat("NO");
            self.expect("CHAIN")?;
            completion.chain = Some(!no);
        }
        if completion.chain == Some(true) && self.is("RELEASE") {
            return self.fail("the end of the statement");
        }
        if self.eat("RELEASE") {
            completion.release = Some(true);
        } else if self.eat_all("NO RELEASE") {
            completion.release = Some(false);
        }
        Ok(completion)
    }

    /// After `SET [scope] TRANSACTION`.
    pub(crate) fn set_transaction(&mut self, scope: VariableScope) -> Parse<Statement> {
        let mut set = SetTransaction { scope, isolation: None, read_only: None, as_of: None };
        self.comma_list(|g| {
            if g.eat_all("ISOLATION LEVEL") {
                set.isolation = Some(g.isolation_level()?);
            } else {
                set.read_only = Some(g.access_mode()?);
                if set.read_only == Some(true) && scope == VariableScope::Unspecified {
                    set.as_of = g.as_of()?;
                }
            }
            Ok(())
        })?;
        Ok(Statement::SetTransaction(set))
    }

    fn isolation_level(&mut self) -> Parse<IsolationLevel> {
        if self.eat_all("READ UNCOMMITTED") {
            Ok(IsolationLevel::ReadUncommitted)
        } else if self.eat_all("READ COMMITTED") {
            Ok(IsolationLevel::ReadCommitted)
        } else if self.eat_all("REPEATABLE READ") {
            Ok(IsolationLevel::RepeatableRead)
        } else if self.eat("SERIALIZABLE") {
            Ok(IsolationLevel::Serializable)
        } else {
            self.fail("an isolation level")
        }
    }

    /// `LOCK TABLES t READ, ..`, `LOCK INSTANCE FOR BACKUP`.
    pub(crate) fn lock_tables(&mut self) -> Parse<Statement> {
        self.expect("LOCK")?;
        if self.eat_all("INSTANCE FOR BACKUP") {
            return Ok(Statement::LockInstance);
        }
        if self.eat("STATS") {
            return self.statistics(StatisticsVerb::Lock);
        }
        if !self.eat("TABLES") && !self.eat("TABLE") {
            return self.fail("TABLES");
        }
        let tables = self.comma_list(|g| {
            let table = g.object_name()?;
            let explicit = g.eat("AS");
            let alias = if explicit || (g.is_ident() && !g.is("LOW_PRIORITY")) {
                Some(g.ident()?)
            } else {
                None
            };
            let _ = g.eat("LOW_PRIORITY");
            let write = match g.eat_one(&["READ", "WRITE"]) {
                Some(word) => word == "WRITE",
                None => return g.fail("READ"),
            };
            let _ = g.eat("LOCAL");
            Ok(LockTable { table, alias, write })
        })?;
        Ok(Statement::LockTables(tables))
    }

    /// `UNLOCK TABLES`, `UNLOCK INSTANCE`.
    pub(crate) fn unlock_tables(&mut self) -> Parse<Statement> {
        self.expect("UNLOCK")?;
        if self.eat("STATS") {
            return self.statistics(StatisticsVerb::Unlock);
        }
        if self.eat("INSTANCE") {
            return Ok(Statement::UnlockInstance);
        }
        if !self.eat("TABLES") && !self.eat("TABLE") {
            return self.fail("TABLES");
        }
        Ok(Statement::UnlockTables)
    }
}
