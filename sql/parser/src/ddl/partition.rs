//! Rules of partitions.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// `PARTITION BY ..`.
    pub(crate) fn partition_by(&mut self) -> Parse<PartitionBy> {
        let start = self.at();
        self.expect("PARTITION BY")?;
        let method = self.partition_method()?;
        let mut count = None;
        if self.eat("PARTITIONS") {
            count = Some(self.small_integer()?);
        }
        if self.eat_all("SUBPARTITION BY") {
            return self.unsupported("SUBPARTITION BY");
        }
        let partitions =
            if *self.peek() == Token::LParen { self.partition_defs()? } else { Vec::new() };
        // TiDB's word for which indexes span all partitions.
        if self.eat_all("UPDATE INDEXES") {
            self.parenthesised(|g| {
                g.comma_list(|g| {
                    g.index_name()?;
                    if g.eat_one(&["GLOBAL", "LOCAL"]).is_none() {
                        return g.fail("GLOBAL");
                    }
                    Ok(())
                })
            })?;
        }
        let text = self.text(start, self.at()).to_owned();
        Ok(PartitionBy { method, count, partitions, text })
    }

    fn partition_method(&mut self) -> Parse<PartitionMethod> {
        let linear = self.eat("LINEAR");
        if self.eat("HASH") {
            let expr = self.parenthesised(Self::expr)?;
            return Ok(PartitionMethod::Hash(Box::new(expr)));
        }
        if self.eat("KEY") {
            if self.eat("ALGORITHM") {
                let _ = self.eat_sign(&Token::Eq);
                self.integer()?;
            }
            let columns = self.parenthesised(|g| match g.peek() {
                Token::RParen => Ok(Vec::new()),
                _ => g.comma_list(Self::ident),
            })?;
            return Ok(PartitionMethod::Key(columns));
        }
        if linear {
            return self.fail("HASH");
        }
        let list = match self.eat_one(&["RANGE", "LIST"]) {
            Some("RANGE") => false,
            Some(_) => true,
            None => return self.fail("RANGE"),
        };
        if self.eat("COLUMNS") {
            let columns = self.ident_list()?;
            return Ok(if list {
                PartitionMethod::ListColumns(columns)
            } else {
                PartitionMethod::RangeColumns(columns)
            });
        }
        let expr = Box::new(self.parenthesised(Self::expr)?);
        Ok(if list { PartitionMethod::List(expr) } else { PartitionMethod::Range(expr) })
    }

    /// `(PARTITION p0 VALUES .., ..)`.
    pub(crate) fn partition_defs(&mut self) -> Parse<Vec<PartitionDef>> {
        self.parenthesised(|g| g.comma_list(Self::partition_def))
    }

    fn partition_def(&mut self) -> Parse<PartitionDef> {
        self.expect("PARTITION")?;
        let name = self.ident()?;
        let values = if self.eat_all("VALUES LESS THAN") {
            if self.eat("MAXVALUE") {
                PartitionValues::LessThan(vec![None])
            } else {
                PartitionValues::LessThan(self.parenthesised(|g| g.comma_list(Self::bound))?)
            }
        } else if self.eat_all("VALUES IN") {
            PartitionValues::In(self.parenthesised(|g| g.comma_list(Self::expr))?)
        } else if self.eat("DEFAULT") {
            PartitionValues::In(vec![Expr::Default(None)])
        } else {
            PartitionValues::None
        };
        let mut comment = None;
        while let Some(option) = self.table_option()? {
            if let TableOption::Comment(text) = option {
                comment = Some(text);
            }
        }
        Ok(PartitionDef { name, values, comment })
    }

    fn bound(&mut self) -> Parse<Option<Expr>> {
        if self.eat("MAXVALUE") { Ok(None) } else { self.expr().map(Some) }
    }
}
