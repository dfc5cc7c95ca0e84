//! Rules of `CREATE TABLE`: its items and options.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};

/// Words that begin a key or a check in a table's definition or after `ADD`.
const CONSTRAINT_WORDS: [&str; 9] =
    ["CONSTRAINT", "PRIMARY", "UNIQUE", "INDEX", "KEY", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK"];

/// Options whose value is a name, a number or a string, and of which nothing but a record is
/// kept.
const OTHER_OPTIONS: [&str; 32] = [
    "ROW_FORMAT",
    "KEY_BLOCK_SIZE",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "TABLE_CHECKSUM",
    "COMPRESSION",
    "CONNECTION",
    "DELAY_KEY_WRITE",
    "ENCRYPTION",
    "INSERT_METHOD",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "PASSWORD",
    "STATS_AUTO_RECALC",
    "STATS_PERSISTENT",
    "STATS_SAMPLE_PAGES",
    "TABLESPACE",
    "STORAGE",
    "SECONDARY_ENGINE",
    "ENGINE_ATTRIBUTE",
    "SECONDARY_ENGINE_ATTRIBUTE",
    "AUTOEXTEND_SIZE",
    "NODEGROUP",
    "AUTO_RANDOM_BASE",
    "TTL_ENABLE",
    "TTL_JOB_INTERVAL",
    "STATS_BUCKETS",
    "STATS_TOPN",
    "STATS_SAMPLE_RATE",
    "STATS_COL_CHOICE",
    "STATS_COL_LIST",
];

impl Grammar<'_, '_> {
    /// After `CREATE TABLE`.
    pub(crate) fn create_table(&mut self, temporary: bool) -> Parse<Statement> {
        let if_not_exists = self.if_not_exists();
        let mut table = CreateTable {
            name: self.object_name()?,
            if_not_exists,
            temporary,
            like: None,
            columns: Vec::new(),
            constraints: Vec::new(),
            options: Vec::new(),
            partition_by: None,
            query: None,
        };
        if self.eat("LIKE") {
            table.like = Some(self.object_name()?);
            return Ok(Statement::CreateTable(Box::new(table)));
        }
        if *self.peek() == Token::LParen && self.nth_is(1, "LIKE") {
            self.advance();
            self.advance();
            table.like = Some(self.object_name()?);
            self.expect_sign(&Token::RParen)?;
            return Ok(Statement::CreateTable(Box::new(table)));
        }
        if *self.peek() == Token::LParen && !self.query_in_parentheses(self.at()) {
            self.parenthesised(|g| g.comma_list(|g| g.table_item(&mut table)))?;
        }
        loop {
            if let Some(option) = self.table_option()? {
                table.options.push(option);
            } else if !(*self.peek() == Token::Comma && self.option_after_comma()) {
                break;
            }
        }
        if self.is("PARTITION") {
            table.partition_by = Some(self.partition_by()?);
        }
        let on_duplicate = match self.eat_one(&["IGNORE", "REPLACE"]) {
            Some("IGNORE") => OnDuplicateRow::Ignore,
            Some(_) => OnDuplicateRow::Replace,
            None => OnDuplicateRow::Error,
        };
        let explicit = self.eat("AS");
        let query_ahead = self.starts_query(self.at()) || *self.peek() == Token::LParen;
        if explicit || query_ahead {
            let query = Box::new(self.query()?);
            table.query = Some(CreateTableQuery { on_duplicate, query });
        } else if on_duplicate != OnDuplicateRow::Error
            || (table.columns.is_empty() && table.constraints.is_empty())
        {
            return self.fail("(");
        }
        Ok(Statement::CreateTable(Box::new(table)))
    }

    /// A comma may stand between options.
    fn option_after_comma(&mut self) -> bool {
        self.eat_sign(&Token::Comma)
    }

    fn table_item(&mut self, table: &mut CreateTable) -> Parse<()> {
        if self.constraint_ahead() {
            table.constraints.push(self.table_constraint()?.0);
        } else {
            table.columns.push(self.column_def()?);
        }
        Ok(())
    }

    /// True before a key or check.
    pub(crate) fn constraint_ahead(&self) -> bool {
        CONSTRAINT_WORDS.iter().any(|word| self.is(word))
    }

    /// A key or check, and whether it said `IF NOT EXISTS`.
    pub(crate) fn table_constraint(&mut self) -> Parse<(TableConstraint, bool)> {
        let mut name = None;
        if self.eat("CONSTRAINT") && self.is_ident() {
            name = Some(self.ident()?);
        }
        let at = self.at();
        let word = self.eat_one(&CONSTRAINT_WORDS).unwrap_or("");
        let kind = match word {
            "CHECK" => return Ok((TableConstraint::Check(self.check(name)?), false)),
            "FOREIGN" => {
                self.expect("KEY")?;
                return self.foreign_key(name);
            }
            "PRIMARY" => {
                self.expect("KEY")?;
                IndexKind::Primary
            }
            "UNIQUE" => IndexKind::Unique,
            "FULLTEXT" => IndexKind::FullText,
            "SPATIAL" => IndexKind::Spatial,
            "INDEX" | "KEY" if name.is_none() => IndexKind::Plain,
            _ => return self.fail_at(at, "a key"),
        };
        if matches!(kind, IndexKind::Unique | IndexKind::FullText | IndexKind::Spatial) {
            let _ = self.eat("INDEX") || self.eat("KEY");
        }
        let if_not_exists = self.if_not_exists();
        if self.is_ident()
            && !(self.is("USING") || self.nth_is(0, "TYPE") && self.nth_is(1, "BTREE"))
        {
            // The index's own name wins over the constraint's.
            name = Some(self.ident()?);
        }
        let mut options = IndexOptions::default();
        self.index_using(&mut options)?;
        let parts = self.key_parts()?;
        self.index_options(&mut options)?;
        Ok((TableConstraint::Index(IndexDef { name, kind, parts, options }), if_not_exists))
    }

    fn foreign_key(&mut self, mut name: Option<String>) -> Parse<(TableConstraint, bool)> {
        let if_not_exists = self.if_not_exists();
        if self.is_ident() {
            let index = self.ident()?;
            name.get_or_insert(index);
        }
        // Lengths and directions of the referencing columns mean nothing here.
        let columns = self.key_parts()?.into_iter().filter_map(|part| match part.target {
            KeyTarget::Column { name, .. } => Some(name),
            KeyTarget::Expr(_) => None,
        });
        let columns = columns.collect();
        self.expect("REFERENCES")?;
        let reference = self.reference()?;
        let key = ForeignKey { name, if_not_exists, columns, reference };
        Ok((TableConstraint::ForeignKey(key), if_not_exists))
    }

    /// `(a, b(10) DESC, (expr))`.
    pub(crate) fn key_parts(&mut self) -> Parse<Vec<KeyPart>> {
        self.parenthesised(|g| {
            g.comma_list(|g| {
                let target = if *g.peek() == Token::LParen {
                    KeyTarget::Expr(g.parenthesised(Self::expr)?)
                } else {
                    let name = g.ident()?;
                    KeyTarget::Column { name, prefix_length: g.optional_length()? }
                };
                let descending = g.eat("DESC");
                let _ = !descending && g.eat("ASC");
                Ok(KeyPart { target, descending })
            })
        })
    }

    /// `USING BTREE`, if it is there.
    pub(crate) fn index_using(&mut self, options: &mut IndexOptions) -> Parse<()> {
        if self.eat("USING") || self.eat("TYPE") {
            options.using = Some(self.ident()?.to_ascii_uppercase());
        }
        Ok(())
    }

    /// What follows the parts of a key.
    pub(crate) fn index_options(&mut self, options: &mut IndexOptions) -> Parse<()> {
        loop {
            if self.is("USING") || self.is("TYPE") {
                self.index_using(options)?;
            } else if self.eat("COMMENT") {
                let _ = self.eat_sign(&Token::Eq);
                options.comment = Some(self.string()?);
            } else if self.eat("VISIBLE") {
                options.invisible = false;
            } else if self.eat("INVISIBLE") {
                options.invisible = true;
            } else if self.is("CLUSTERED") || self.is("NONCLUSTERED") {
                options.clustered = self.clustered();
            } else if self.eat("GLOBAL") {
                options.global = true;
            } else if self.eat("LOCAL") {
                options.global = false;
            } else if self.eat("KEY_BLOCK_SIZE") {
                let _ = self.eat_sign(&Token::Eq);
                let value = self.integer()?.to_string();
                options.other.push(("KEY_BLOCK_SIZE".into(), value));
            } else if self.eat_all("WITH PARSER") {
                options.other.push(("PARSER".into(), self.ident()?));
            } else if let Some(word) =
                self.eat_one(&["ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE"])
            {
                let _ = self.eat_sign(&Token::Eq);
                options.other.push((word.to_owned(), self.string()?));
            } else {
                return Ok(());
            }
        }
    }

    /// A table option, if one is next.
    pub(crate) fn table_option(&mut self) -> Parse<Option<TableOption>> {
        let default = self.is("DEFAULT")
            && (self.nth_is(1, "CHARACTER")
                || self.nth_is(1, "CHARSET")
                || self.nth_is(1, "COLLATE"));
        if default {
            self.advance();
        }
        if self.eat_charset_words() {
            let _ = self.eat_sign(&Token::Eq);
            let charset = self.ident_or_string()?.to_ascii_lowercase();
            return Ok(Some(TableOption::Charset(charset)));
        }
        const WORDS: [&str; 8] = [
            "ENGINE",
            "COLLATE",
            "AUTO_INCREMENT",
            "COMMENT",
            "SHARD_ROW_ID_BITS",
            "PRE_SPLIT_REGIONS",
            "AUTO_ID_CACHE",
            "TTL",
        ];
        if let Some(word) = self.eat_one(&WORDS) {
            let _ = self.eat_sign(&Token::Eq);
            return Ok(Some(match word {
                "ENGINE" => TableOption::Engine(self.ident_or_string()?),
                "COLLATE" => TableOption::Collate(self.ident_or_string()?.to_ascii_lowercase()),
                "AUTO_INCREMENT" => TableOption::AutoIncrement(self.integer()?),
                "COMMENT" => TableOption::Comment(self.string()?),
                "SHARD_ROW_ID_BITS" => TableOption::ShardRowIdBits(self.small_integer()?),
                "PRE_SPLIT_REGIONS" => TableOption::PreSplitRegions(self.small_integer()?),
                "AUTO_ID_CACHE" => TableOption::AutoIdCache(self.integer()?),
                _ => {
                    let start = self.at();
                    self.expr()?;
                    let text = self.text(start, self.at()).to_owned();
                    TableOption::Other("TTL".into(), text)
                }
            }));
        }
        if self.is("UNION")
            && (*self.peek_nth(1) == Token::Eq || *self.peek_nth(1) == Token::LParen)
        {
            return self.unsupported("UNION option of merge tables");
        }
        if self.eat_all("DATA DIRECTORY") || self.eat_all("INDEX DIRECTORY") {
            let _ = self.eat_sign(&Token::Eq);
            return Ok(Some(TableOption::Other("DIRECTORY".into(), self.string()?)));
        }
        if self.eat_all("PLACEMENT POLICY") {
            let _ = self.eat_sign(&Token::Eq);
            return Ok(Some(TableOption::Other(
                "PLACEMENT POLICY".into(),
                self.ident_or_string()?,
            )));
        }
        if self.eat_all("START TRANSACTION") {
            return Ok(Some(TableOption::Other("START TRANSACTION".into(), String::new())));
        }
        let Some(word) = self.eat_one(&OTHER_OPTIONS) else { return Ok(None) };
        let _ = self.eat_sign(&Token::Eq);
        let value = match self.peek() {
            Token::Number(text, _) => {
                let text = text.clone();
                self.advance();
                text
            }
            Token::LParen => self.ident_list()?.join(","),
            _ => self.ident_or_string()?,
        };
        Ok(Some(TableOption::Other(word.to_owned(), value)))
    }
}
