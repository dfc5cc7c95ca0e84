//! Rules of `ALTER TABLE`.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

impl Grammar<'_, '_> {
    /// After `ALTER TABLE`.
    pub(crate) fn alter_table(&mut self) -> Parse<Statement> {
        let table = self.object_name()?;
        let mut actions = Vec::new();
        loop {
            self.alter_action(&mut actions)?;
            // Table options need no comma between them, partitioning none before it.
            let option = matches!(actions.last(), Some(AlterAction::Option(_)));
            let partitioning = self.are("REMOVE PARTITIONING") || self.are("PARTITION BY");
            if !self.eat_sign(&Token::Comma) && !partitioning && (!option || self.at_end()) {
                break;
            }
        }
        Ok(Statement::AlterTable(Box::new(AlterTable { table, actions })))
    }

    fn alter_action(&mut self, actions: &mut Vec<AlterAction>) -> Parse<()> {
        const WORDS: [&str; 22] = [
            "ADD",
            "DROP",
            "MODIFY",
            "CHANGE",
            "RENAME",
            "ALTER",
            "CONVERT",
            "ORDER",
            "ALGORITHM",
            "LOCK",
            "WITH",
            "WITHOUT",
            "ENABLE",
            "DISABLE",
            "FORCE",
            "DISCARD",
            "IMPORT",
            "TRUNCATE",
            "COALESCE",
            "REORGANIZE",
            "EXCHANGE",
            "REMOVE",
        ];
        if self.is("PARTITION") {
            actions.push(AlterAction::PartitionBy(self.partition_by()?));
            return Ok(());
        }
        let at = self.at();
        let Some(word) = self.eat_one(&WORDS) else {
            return match self.table_option()? {
                Some(option) => {
                    actions.push(AlterAction::Option(option));
                    Ok(())
                }
                None => self.alter_unknown(),
            };
        };
        match word {
            "ADD" => return self.alter_add(actions),
            "DROP" => actions.push(self.alter_drop()?),
            "MODIFY" => {
                let _ = self.eat("COLUMN");
                let if_exists = self.if_exists();
                let column = self.column_def()?;
                let position = self.column_position()?;
                actions.push(AlterAction::ModifyColumn { column, if_exists, position });
            }
            "CHANGE" => {
                let _ = self.eat("COLUMN");
                let if_exists = self.if_exists();
                let old_name = self.ident()?;
                let column = self.column_def()?;
                let position = self.column_position()?;
                actions.push(AlterAction::ChangeColumn { old_name, column, if_exists, position });
            }
            "RENAME" => actions.push(self.alter_rename()?),
            "ALTER" => actions.push(self.alter_part()?),
            "CONVERT" => {
                self.expect("TO")?;
                if !self.eat_charset_words() {
                    return self.fail("CHARACTER SET");
                }
                let charset = if self.eat("DEFAULT") {
                    None
                } else {
                    Some(self.ident_or_string()?.to_ascii_lowercase())
                };
                let collation = if self.eat("COLLATE") {
                    Some(self.ident_or_string()?.to_ascii_lowercase())
                } else {
                    None
                };
                actions.push(AlterAction::ConvertCharset { charset, collation });
            }
            "ORDER" => {
                self.expect("BY")?;
                let columns = self.comma_list(|g| {
                    let column = g.column_ref()?.column;
                    let _ = g.eat_one(&["ASC", "DESC"]);
                    Ok(column)
                })?;
                actions.push(AlterAction::OrderBy(columns));
            }
            "ALGORITHM" | "LOCK" => {
                let _ = self.eat_sign(&Token::Eq);
                self.ident_or_string()?;
            }
            "WITH" | "WITHOUT" => self.expect("VALIDATION")?,
            "FORCE" => actions.push(AlterAction::NoEffect("FORCE".into())),
            "ENABLE" | "DISABLE" => {
                self.expect("KEYS")?;
                actions.push(AlterAction::NoEffect(format!("{word} KEYS")));
            }
            "TRUNCATE" => {
                self.expect("PARTITION")?;
                actions.push(AlterAction::TruncatePartitions(self.partition_names()?));
            }
            "COALESCE" => {
                self.expect("PARTITION")?;
                actions.push(AlterAction::CoalescePartitions(self.small_integer()?));
            }
            "REORGANIZE" => {
                self.expect("PARTITION")?;
                let names =
                    if self.is("INTO") { Vec::new() } else { self.comma_list(Self::ident)? };
                self.expect("INTO")?;
                let into = self.partition_defs()?;
                actions.push(AlterAction::ReorganizePartitions { names, into });
            }
            "EXCHANGE" => {
                self.expect("PARTITION")?;
                let partition = self.ident()?;
                self.expect("WITH TABLE")?;
                let table = self.object_name()?;
                let _ = self.eat_all("WITH VALIDATION") || self.eat_all("WITHOUT VALIDATION");
                actions.push(AlterAction::ExchangePartition { partition, table });
            }
            "REMOVE" => {
                self.expect("PARTITIONING")?;
                actions.push(AlterAction::RemovePartitioning);
            }
            _ => return self.fail_at(at, "a change of the table"),
        }
        Ok(())
    }

    /// Changes that TiDB knows and Cairn does not, and what nobody knows.
    fn alter_unknown(&mut self) -> Parse<()> {
        const KNOWN: [&str; 11] = [
            "SET",
            "ATTRIBUTES",
            "CHECK",
            "REPAIR",
            "OPTIMIZE",
            "REBUILD",
            "ANALYZE",
            "CACHE",
            "NOCACHE",
            "SECONDARY_LOAD",
            "SECONDARY_UNLOAD",
        ];
        match KNOWN.iter().find(|word| self.is(word)) {
            Some(word) => self.unsupported(format!("ALTER TABLE ... {word}")),
            None => self.fail("a change of the table"),
        }
    }

    fn alter_add(&mut self, actions: &mut Vec<AlterAction>) -> Parse<()> {
        if self.eat("PARTITION") {
            let _ = self.if_not_exists();
            actions.push(if self.eat("PARTITIONS") {
                AlterAction::AddHashPartitions(self.small_integer()?)
            } else {
                AlterAction::AddPartitions(self.partition_defs()?)
            });
            return Ok(());
        }
        if self.constraint_ahead() {
            let (constraint, if_not_exists) = self.table_constraint()?;
            actions.push(AlterAction::AddConstraint { constraint, if_not_exists });
            return Ok(());
        }
        let _ = self.eat("COLUMN");
        let if_not_exists = self.if_not_exists();
        if *self.peek() != Token::LParen {
            let column = self.column_def()?;
            let position = self.column_position()?;
            actions.push(AlterAction::AddColumn { column, if_not_exists, position });
            return Ok(());
        }
        self.parenthesised(|g| {
            g.comma_list(|g| {
                if g.constraint_ahead() {
                    let constraint = g.table_constraint()?.0;
                    actions.push(AlterAction::AddConstraint { constraint, if_not_exists });
                } else {
                    let column = g.column_def()?;
                    let position = None;
                    actions.push(AlterAction::AddColumn { column, if_not_exists, position });
                }
                Ok(())
            })
        })?;
        Ok(())
    }

    fn column_position(&mut self) -> Parse<Option<ColumnPosition>> {
        if self.eat("FIRST") {
            return Ok(Some(ColumnPosition::First));
        }
        if self.eat("AFTER") {
            self.ident().map(|c| Some(ColumnPosition::After(c)))
        } else {
            Ok(None)
        }
    }

    fn alter_drop(&mut self) -> Parse<AlterAction> {
        if self.eat("INDEX") || self.eat("KEY") {
            let if_exists = self.if_exists();
            let name = self.index_name()?;
            if name.eq_ignore_ascii_case("PRIMARY") {
                return Ok(AlterAction::DropPrimaryKey);
            }
            return Ok(AlterAction::DropIndex { name, if_exists });
        }
        if self.eat_all("PRIMARY KEY") {
            return Ok(AlterAction::DropPrimaryKey);
        }
        if self.eat_all("FOREIGN KEY") {
            let _ = self.if_exists();
            return Ok(AlterAction::DropForeignKey(self.ident()?));
        }
        if self.eat("CHECK") {
            return Ok(AlterAction::DropCheck(self.ident()?));
        }
        if self.eat("CONSTRAINT") {
            let _ = self.if_exists();
            return Ok(AlterAction::DropConstraint(self.index_name()?));
        }
        if self.eat("PARTITION") {
            let _ = self.if_exists();
            return Ok(AlterAction::DropPartitions(self.comma_list(Self::ident)?));
        }
        let _ = self.eat("COLUMN");
        let if_exists = self.if_exists();
        let name = self.ident()?;
        let _ = self.eat_one(&["RESTRICT", "CASCADE"]);
        Ok(AlterAction::DropColumn { name, if_exists })
    }

    fn alter_rename(&mut self) -> Parse<AlterAction> {
        if self.eat("COLUMN") {
            let old_name = self.ident()?;
            self.expect("TO")?;
            return Ok(AlterAction::RenameColumn { old_name, new_name: self.ident()? });
        }
        if self.eat("INDEX") || self.eat("KEY") {
            let old_name = self.ident()?;
            self.expect("TO")?;
            return Ok(AlterAction::RenameIndex { old_name, new_name: self.ident()? });
        }
        let _ = self.eat("TO") || self.eat("AS") || self.eat_sign(&Token::Eq);
        Ok(AlterAction::RenameTo(self.object_name()?))
    }

    /// `ALTER [COLUMN] c ..`, `ALTER INDEX i ..`, `ALTER CHECK c ..`.
    fn alter_part(&mut self) -> Parse<AlterAction> {
        if self.eat("INDEX") {
            let name = self.ident()?;
            return Ok(AlterAction::SetIndexVisible { name, visible: self.visibility()? });
        }
        if self.eat("CHECK") || self.eat("CONSTRAINT") {
            let name = self.ident()?;
            let enforced = !self.eat("NOT");
            self.expect("ENFORCED")?;
            return Ok(AlterAction::SetCheckEnforced { name, enforced });
        }
        let _ = self.eat("COLUMN");
        let column = self.ident()?;
        if self.eat_all("SET DEFAULT") {
            let (expr, parenthesised) = self.default_value()?;
            return Ok(AlterAction::SetDefault { column, expr, parenthesised });
        }
        if self.eat_all("DROP DEFAULT") {
            return Ok(AlterAction::DropDefault { column });
        }
        self.expect("SET")?;
        Ok(AlterAction::SetColumnVisible { column, visible: self.visibility()? })
    }

    fn visibility(&mut self) -> Parse<bool> {
        match self.eat_one(&["VISIBLE", "INVISIBLE"]) {
            Some(word) => Ok(word == "VISIBLE"),
            None => self.fail("VISIBLE"),
        }
    }

    /// `p0, p1`; empty for `ALL`.
    fn partition_names(&mut self) -> Parse<Vec<String>> {
        if self.eat("ALL") { Ok(Vec::new()) } else { self.comma_list(Self::ident) }
    }
}
