//! Rules of `FLASHBACK` and `RECOVER`.

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `RECOVER TABLE t`.
    pub(crate) fn recover(&mut self) -> Parse<Statement> {
        self.expect("RECOVER TABLE")?;
        if self.are("BY JOB") {
            return self.unsupported("RECOVER TABLE BY JOB");
        }
        Ok(Statement::Flashback(Flashback::Table { name: self.object_name()?, to: None }))
    }

    /// `FLASHBACK {TABLE | DATABASE | CLUSTER} ..`.
    pub(crate) fn flashback(&mut self) -> Parse<Statement> {
        self.expect("FLASHBACK")?;
        let flashback = if self.eat("CLUSTER") {
            self.expect("TO")?;
            Flashback::Cluster(self.flashback_time()?)
        } else if self.eat("TABLE") {
            let name = self.object_name()?;
            Flashback::Table { name, to: self.new_name()? }
        } else if self.eat_one(&["DATABASE", "SCHEMA"]).is_some() {
            let name = self.ident()?;
            Flashback::Database { name, to: self.new_name()? }
        } else {
            return self.fail("TABLE, DATABASE or CLUSTER");
        };
        Ok(Statement::Flashback(flashback))
    }

    fn new_name(&mut self) -> Parse<Option<String>> {
        if self.are("TO TIMESTAMP") || self.are("TO TSO") {
            return self.unsupported("FLASHBACK of a single table or database to a time");
        }
        if self.eat("TO") { self.ident().map(Some) } else { Ok(None) }
    }

    fn flashback_time(&mut self) -> Parse<FlashbackTime> {
        match self.eat_one(&["TIMESTAMP", "TSO"]) {
            Some("TSO") => self.integer().map(FlashbackTime::Tso),
            Some(_) => self.expr().map(FlashbackTime::Timestamp),
            None => self.fail("TIMESTAMP or TSO"),
        }
    }
}
