//! Rules of `FROM`: tables, derived tables and joins.
//!
//! **Which `ON` belongs to which join.** An `ON` belongs to the nearest join on its left that
//! has none yet, so `a JOIN b JOIN c ON x ON y` is `a JOIN (b JOIN c ON x) ON y`. Inner joins
//! left without a condition are put under what follows, as MySQL does: in `a JOIN b JOIN c ON
//! x` the condition sees all three tables. Both come out of one pass over a stack of
//! [`Chain`]s, without recursion.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::error::ParseError;
use crate::grammar::{Grammar, Parse};

/// Tables of one `FROM` item at most.
const MAX_JOINED_TABLES: usize = 300;

/// A table and the joins applied to it, left to right.
struct Chain {
    first: TableRef,
    joins: Vec<(JoinKind, TableRef, JoinCondition)>,
}

/// A join whose condition has not come yet.
struct Pending {
    kind: JoinKind,
    right: Chain,
}

impl Chain {
    fn into_table_ref(self) -> TableRef {
        self.joins.into_iter().fold(self.first, |left, (kind, right, condition)| {
            TableRef::Join(Box::new(Join { left, right, kind, condition }))
        })
    }
}

impl Grammar<'_, '_> {
    /// A comma list of tables and joins.
    pub(crate) fn table_refs(&mut self) -> Parse<Vec<TableRef>> {
        let refs = self.comma_list(Self::joined_tables)?;
        if refs.len() > MAX_JOINED_TABLES {
            return self.too_long(MAX_JOINED_TABLES, "joined tables");
        }
        Ok(refs)
    }

    /// A table with its joins.
    fn joined_tables(&mut self) -> Parse<TableRef> {
        let first = self.table_factor()?;
        self.joins_after(first)
    }

    /// The joins after a table that has been read.
    pub(crate) fn joins_after(&mut self, first: TableRef) -> Parse<TableRef> {
        let mut chain = Chain { first, joins: Vec::new() };
        let mut pending: Vec<Pending> = Vec::new();
        let mut tables = 1;
        loop {
            if let Some((kind, natural)) = self.join_words()? {
                tables += 1;
                if tables > MAX_JOINED_TABLES {
                    return self.too_long(MAX_JOINED_TABLES, "joined tables");
                }
                let first = self.table_factor()?;
                let top = pending.last_mut().map_or(&mut chain, |pending| &mut pending.right);
                if natural {
                    top.joins.push((kind, first, JoinCondition::Natural));
                } else {
                    pending.push(Pending { kind, right: Chain { first, joins: Vec::new() } });
                }
                continue;
            }
            let condition_ahead = (self.is("ON") && !self.nth_is(1, "DUPLICATE"))
                || (self.is("USING") && *self.peek_nth(1) == Token::LParen);
            if !condition_ahead {
                break;
            }
            let Some(Pending { kind, right }) = pending.pop() else { break };
            let condition = if self.eat("ON") {
                JoinCondition::On(self.expr()?)
            } else {
                self.advance();
                JoinCondition::Using(self.ident_list()?)
            };
            let left = pending.last_mut().map_or(&mut chain, |pending| &mut pending.right);
            left.joins.push((kind, right.into_table_ref(), condition));
        }
        for Pending { kind, right } in pending {
            if matches!(kind, JoinKind::Left | JoinKind::Right) {
                return self.fail("ON");
            }
            chain.joins.push((kind, right.first, JoinCondition::None));
            chain.joins.extend(right.joins);
        }
        Ok(chain.into_table_ref())
    }

    /// The words of a join, if they are there: its kind, and whether it is natural.
    fn join_words(&mut self) -> Parse<Option<(JoinKind, bool)>> {
        if self.eat("STRAIGHT_JOIN") {
            return Ok(Some((JoinKind::Straight, false)));
        }
        if self.eat_all("CROSS JOIN") || self.eat_all("INNER JOIN") || self.eat("JOIN") {
            return Ok(Some((JoinKind::Inner, false)));
        }
        let natural = self.eat("NATURAL");
        let kind = match self.eat_one(&["LEFT", "RIGHT"]) {
            Some("LEFT") => JoinKind::Left,
            Some(_) => JoinKind::Right,
            None if natural => {
                let _ = self.eat("INNER");
                JoinKind::Inner
            }
            None => return Ok(None),
        };
        let _ = kind != JoinKind::Inner && self.eat("OUTER");
        self.expect("JOIN")?;
        Ok(Some((kind, natural)))
    }

    fn table_factor(&mut self) -> Parse<TableRef> {
        let lateral = self.eat("LATERAL");
        if *self.peek() != Token::LParen {
            if lateral {
                return self.fail("(");
            }
            if self.is("JSON_TABLE") && *self.peek_nth(1) == Token::LParen {
                return self.unsupported("JSON_TABLE");
            }
            let name = self.object_name()?;
            return self.table_after_name(name);
        }
        if lateral || self.query_in_parentheses(self.at()) {
            let query = Box::new(self.parenthesised(Self::query)?);
            let Some(alias) = self.table_alias()? else {
                return Err(self.cx.fatal(ParseError::DerivedWithoutAlias));
            };
            let columns =
                if *self.peek() == Token::LParen { self.ident_list()? } else { Vec::new() };
            return Ok(TableRef::Derived { query, alias, columns, lateral });
        }
        let mut refs = self.deeper(|g| g.parenthesised(Self::table_refs))?;
        match refs.pop() {
            Some(only) if refs.is_empty() => Ok(only),
            Some(last) => {
                refs.push(last);
                Ok(TableRef::Group(refs))
            }
            None => self.fail("a table"),
        }
    }

    /// What follows the name of a table.
    pub(crate) fn table_after_name(&mut self, name: ObjectName) -> Parse<TableRef> {
        let partitions = self.partition_list()?;
        let as_of = self.as_of()?;
        if let Some(time) = &as_of {
            self.cx.note_as_of(time);
        }
        let alias = self.table_alias()?;
        let index_hints = self.index_hints()?;
        let table = TableFactor { name, alias, partitions, index_hints, as_of };
        Ok(TableRef::Table(Box::new(table)))
    }

    /// `PARTITION (p0, p1)`, if it is there.
    pub(crate) fn partition_list(&mut self) -> Parse<Vec<String>> {
        if self.is("PARTITION") && *self.peek_nth(1) == Token::LParen {
            self.advance();
            return self.ident_list();
        }
        Ok(Vec::new())
    }

    /// `[AS] alias`, if it is there.
    pub(crate) fn table_alias(&mut self) -> Parse<Option<String>> {
        if self.eat("AS") {
            return self.ident().map(Some);
        }
        if self.is_ident() { self.ident().map(Some) } else { Ok(None) }
    }

    fn index_hints(&mut self) -> Parse<Vec<IndexHint>> {
        let mut hints = Vec::new();
        loop {
            if !(self.nth_is(1, "INDEX") || self.nth_is(1, "KEY")) {
                return Ok(hints);
            }
            let kind = match self.eat_one(&["USE", "FORCE", "IGNORE"]) {
                Some("USE") => IndexHintKind::Use,
                Some("FORCE") => IndexHintKind::Force,
                Some(_) => IndexHintKind::Ignore,
                None => return Ok(hints),
            };
            self.advance();
            let scope = if self.eat_all("FOR JOIN") {
                IndexHintScope::Join
            } else if self.eat_all("FOR ORDER BY") {
                IndexHintScope::OrderBy
            } else if self.eat_all("FOR GROUP BY") {
                IndexHintScope::GroupBy
            } else {
                IndexHintScope::All
            };
            let indexes = self.parenthesised(|g| {
                if *g.peek() == Token::RParen {
                    return Ok(Vec::new());
                }
                g.comma_list(Self::index_name)
            })?;
            hints.push(IndexHint { kind, scope, indexes });
            // A comma may separate hints.
            if *self.peek() == Token::Comma && (self.nth_is(2, "INDEX") || self.nth_is(2, "KEY")) {
                self.advance();
            }
        }
    }

    /// An index's name; the primary key's is reserved.
    pub(crate) fn index_name(&mut self) -> Parse<String> {
        if self.eat("PRIMARY") { Ok("PRIMARY".into()) } else { self.ident() }
    }
}
