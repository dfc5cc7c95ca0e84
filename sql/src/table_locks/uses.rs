//! Which tables a session uses: what `LOCK TABLES` of others waits for.

use cairn_types::TableId;

/// How a table is used; the later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UseKind {
    /// Its rows are read.
    Read,
    /// Its rows are changed or locked, or its definition is changed.
    Write,
}

/// What a session does at the moment.
#[derive(Debug, Default)]
pub struct Uses {
    /// Tables of the transaction, or of the statement that stands alone. One that is used more
    /// strongly later is there twice.
    tables: Vec<(TableId, UseKind)>,
    /// Changes are being committed.
    pub is_committing: bool,
    /// Definitions or accounts are being changed.
    pub is_changing_schema: bool,
}

impl Uses {
    /// The tables, in the order of their first use.
    pub fn tables(&self) -> &[(TableId, UseKind)] {
        &self.tables
    }

    /// Notes a use that is not covered by an earlier one.
    pub fn add(&mut self, table: TableId, kind: UseKind) {
        let covers = |(other, at_least): &(TableId, UseKind)| *other == table && *at_least >= kind;
        if !self.tables.iter().any(covers) {
            self.tables.push((table, kind));
        }
    }

    /// Takes back the uses noted after the first `mark`.
    pub fn truncate(&mut self, mark: usize) {
        self.tables.truncate(mark);
    }

    /// The statement has ended, and with it its transaction unless that is still `open`.
    pub fn end_statement(&mut self, open: bool) {
        self.is_committing = false;
        self.is_changing_schema = false;
        if !open {
            self.tables.clear();
        }
    }
}
