//! Rules of column definitions: types and attributes.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::expr::function;
use crate::grammar::{Grammar, Parse};

/// What `SERIAL` stands for beside the type.
const SERIAL: [ColumnAttribute; 3] =
    [ColumnAttribute::NotNull, ColumnAttribute::AutoIncrement, ColumnAttribute::Unique];

impl Grammar<'_, '_> {
    /// `name type attributes`.
    pub(crate) fn column_def(&mut self) -> Parse<ColumnDef> {
        let name = self.ident()?;
        // `t.c` is allowed; the table is the one being defined.
        let name = if self.eat_sign(&Token::Period) { self.ident_after_dot()? } else { name };
        self.column_def_after(name)
    }

    /// `type attributes`.
    pub(crate) fn column_def_after(&mut self, name: String) -> Parse<ColumnDef> {
        let mut attributes = Vec::new();
        let mut data_type = if self.eat("SERIAL") {
            attributes.extend(SERIAL);
            let size = IntegerSize::Big;
            DataType::Integer { size, width: None, unsigned: true, zerofill: false }
        } else {
            self.data_type()?
        };
        loop {
            if self.eat_all("SERIAL DEFAULT VALUE") {
                attributes.extend(SERIAL);
                continue;
            }
            let Some(attribute) = self.column_attribute()? else { break };
            if let ColumnAttribute::Collate(collation) = &attribute
                && let Some(charset) = charset_of(&mut data_type)
            {
                charset.collation = Some(collation.clone());
            }
            attributes.push(attribute);
        }
        Ok(ColumnDef { name, data_type, attributes })
    }

    /// A column's type.
    pub(crate) fn data_type(&mut self) -> Parse<DataType> {
        let at = self.at();
        let word = match self.peek() {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
            _ => return self.fail("a type"),
        };
        self.advance();
        match word.as_str() {
            "TINYINT" | "INT1" => self.integer_type(IntegerSize::Tiny),
            "SMALLINT" | "INT2" => self.integer_type(IntegerSize::Small),
            "MEDIUMINT" | "INT3" | "MIDDLEINT" => self.integer_type(IntegerSize::Medium),
            "INT" | "INTEGER" | "INT4" => self.integer_type(IntegerSize::Int),
            "BIGINT" | "INT8" => self.integer_type(IntegerSize::Big),
            "BOOL" | "BOOLEAN" => Ok(DataType::Integer {
                size: IntegerSize::Tiny,
                width: Some(1),
                unsigned: false,
                zerofill: false,
            }),
            "BIT" => Ok(DataType::Bit(self.optional_length()?)),
            "DECIMAL" | "DEC" | "NUMERIC" | "FIXED" => {
                let (precision, scale) = self.optional_precision()?;
                let (unsigned, zerofill) = self.sign_words();
                Ok(DataType::Decimal { precision, scale, unsigned, zerofill })
            }
            "FLOAT" | "FLOAT4" => self.float_type(true),
            "DOUBLE" | "FLOAT8" | "REAL" => {
                let _ = self.eat("PRECISION");
                self.float_type(false)
            }
            "DATE" => Ok(DataType::Date),
            "TIME" => Ok(DataType::Time(self.optional_fsp()?)),
            "DATETIME" => Ok(DataType::DateTime(self.optional_fsp()?)),
            "TIMESTAMP" => Ok(DataType::Timestamp(self.optional_fsp()?)),
            "YEAR" => {
                let _ = self.optional_length()?;
                Ok(DataType::Year)
            }
            "BINARY" => Ok(DataType::Binary(self.optional_length()?)),
            "VARBINARY" => Ok(DataType::VarBinary(self.length()?)),
            "JSON" => Ok(DataType::Json),
            "VECTOR" => Ok(DataType::Vector(self.optional_length()?)),
            "ENUM" => {
                let values = self.string_list()?;
                Ok(DataType::Enum { values, charset: self.charset_clause()? })
            }
            "SET" => {
                let values = self.string_list()?;
                Ok(DataType::Set { values, charset: self.charset_clause()? })
            }
            "TINYBLOB" => self.blob_type(LobSize::Tiny),
            "BLOB" => self.blob_type(LobSize::Regular),
            "MEDIUMBLOB" => self.blob_type(LobSize::Medium),
            "LONGBLOB" => self.blob_type(LobSize::Long),
            "TINYTEXT" => self.text_type(LobSize::Tiny),
            "TEXT" => self.text_type(LobSize::Regular),
            "MEDIUMTEXT" => self.text_type(LobSize::Medium),
            "LONGTEXT" => self.text_type(LobSize::Long),
            "GEOMETRY" | "POINT" | "LINESTRING" | "POLYGON" | "MULTIPOINT" | "MULTILINESTRING"
            | "MULTIPOLYGON" | "GEOMETRYCOLLECTION" | "GEOMCOLLECTION" => {
                Ok(DataType::Geometry(word))
            }
            "LONG" => {
                if self.eat("VARBINARY") {
                    return self.blob_type(LobSize::Medium);
                }
                let _ = self.eat("VARCHAR")
                    || self.eat("VARCHARACTER")
                    || self.eat_all("CHAR VARYING")
                    || self.eat_all("CHARACTER VARYING");
                self.text_type(LobSize::Medium)
            }
            _ => self.character_type(&word, at),
        }
    }

    fn character_type(&mut self, word: &str, at: usize) -> Parse<DataType> {
        let (varying, national) = match word {
            "VARCHAR" | "VARCHARACTER" => (true, false),
            "CHAR" | "CHARACTER" => (self.eat("VARYING"), false),
            "NVARCHAR" => (true, true),
            "NCHAR" => (self.eat_one(&["VARYING", "VARCHAR", "VARCHARACTER"]).is_some(), true),
            "NATIONAL" => {
                let varying = match self.eat_one(&["VARCHAR", "VARCHARACTER", "CHAR", "CHARACTER"])
                {
                    Some("VARCHAR" | "VARCHARACTER") => true,
                    Some(_) => self.eat("VARYING"),
                    None => return self.fail("CHAR"),
                };
                (varying, true)
            }
            _ => return self.fail_at(at, "a type"),
        };
        let length = if varying { Some(self.length()?) } else { self.optional_length()? };
        let mut charset = self.charset_clause()?;
        if national {
            charset.charset = Some("utf8mb3".into());
        }
        Ok(match length {
            Some(length) if varying => DataType::VarChar { length, charset },
            length => DataType::Char { length, charset },
        })
    }

    fn integer_type(&mut self, size: IntegerSize) -> Parse<DataType> {
        let width = self.optional_length()?;
        let (unsigned, zerofill) = self.sign_words();
        Ok(DataType::Integer { size, width, unsigned, zerofill })
    }

    fn float_type(&mut self, single: bool) -> Parse<DataType> {
        const SINGLE_BITS: u32 = 24;
        let (first, second) = self.optional_precision()?;
        let (unsigned, zerofill) = self.sign_words();
        let double = !single || (second.is_none() && first.is_some_and(|bits| bits > SINGLE_BITS));
        let digits = first.zip(second);
        Ok(if double {
            DataType::Double { digits, unsigned, zerofill }
        } else {
            DataType::Float { digits, unsigned, zerofill }
        })
    }

    fn blob_type(&mut self, size: LobSize) -> Parse<DataType> {
        Ok(DataType::Blob { size, length: self.optional_length()? })
    }

    fn text_type(&mut self, size: LobSize) -> Parse<DataType> {
        let length = self.optional_length()?;
        Ok(DataType::Text { size, length, charset: self.charset_clause()? })
    }

    /// `SIGNED`, `UNSIGNED`, `ZEROFILL` in any order.
    fn sign_words(&mut self) -> (bool, bool) {
        let (mut unsigned, mut zerofill) = (false, false);
        while let Some(word) = self.eat_one(&["UNSIGNED", "SIGNED", "ZEROFILL"]) {
            zerofill |= word == "ZEROFILL";
            unsigned |= word != "SIGNED";
        }
        (unsigned, zerofill)
    }

    /// `(n)`.
    fn length(&mut self) -> Parse<u32> {
        self.parenthesised(Self::small_integer)
    }

    /// `(n)`, if it is there.
    pub(crate) fn optional_length(&mut self) -> Parse<Option<u32>> {
        if *self.peek() == Token::LParen { self.length().map(Some) } else { Ok(None) }
    }

    /// `(p[, s])`, if it is there.
    pub(crate) fn optional_precision(&mut self) -> Parse<(Option<u32>, Option<u32>)> {
        if *self.peek() != Token::LParen {
            return Ok((None, None));
        }
        self.parenthesised(|g| {
            let precision = g.small_integer()?;
            let scale = if g.eat_sign(&Token::Comma) { Some(g.small_integer()?) } else { None };
            Ok((Some(precision), scale))
        })
    }

    /// `(fsp)`, if it is there; whether it is at most 6 is the planner's to say (1426).
    pub(crate) fn optional_fsp(&mut self) -> Parse<u8> {
        let digits = self.optional_length()?.unwrap_or(0);
        Ok(u8::try_from(digits).unwrap_or(u8::MAX))
    }

    fn string_list(&mut self) -> Parse<Vec<String>> {
        self.parenthesised(|g| g.comma_list(Self::string))
    }

    /// `CHARACTER SET x`, `COLLATE x`, `ASCII`, `UNICODE`, `BYTE`, `BINARY` in any order.
    pub(crate) fn charset_clause(&mut self) -> Parse<Charset> {
        let mut charset = Charset::default();
        loop {
            if self.eat_charset_words() {
                charset.charset = Some(self.ident_or_string()?.to_ascii_lowercase());
            } else if self.eat("COLLATE") {
                charset.collation = Some(self.ident_or_string()?.to_ascii_lowercase());
            } else if self.eat("ASCII") {
                charset.charset = Some("latin1".into());
            } else if self.eat("UNICODE") {
                charset.charset = Some("ucs2".into());
            } else if self.eat("BYTE") {
                charset.charset = Some("binary".into());
            } else if self.eat("BINARY") {
                charset.binary = true;
            } else {
                return Ok(charset);
            }
        }
    }

    /// One attribute of a column, if one is next.
    fn column_attribute(&mut self) -> Parse<Option<ColumnAttribute>> {
        const WORDS: [&str; 20] = [
            "NOT",
            "NULL",
            "DEFAULT",
            "ON",
            "AUTO_INCREMENT",
            "AUTO_RANDOM",
            "UNIQUE",
            "PRIMARY",
            "KEY",
            "COMMENT",
            "COLLATE",
            "GENERATED",
            "AS",
            "CONSTRAINT",
            "CHECK",
            "REFERENCES",
            "VISIBLE",
            "INVISIBLE",
            "COLUMN_FORMAT",
            "STORAGE",
        ];
        let at = self.at();
        let Some(word) = self.eat_one(&WORDS) else { return self.other_attribute() };
        Ok(Some(match word {
            "NOT" => {
                self.expect("NULL")?;
                ColumnAttribute::NotNull
            }
            "NULL" => ColumnAttribute::Null,
            "DEFAULT" => {
                let (expr, parenthesised) = self.default_value()?;
                ColumnAttribute::Default { expr, parenthesised }
            }
            "ON" => {
                self.expect("UPDATE")?;
                ColumnAttribute::OnUpdate(self.now()?)
            }
            "AUTO_INCREMENT" => ColumnAttribute::AutoIncrement,
            "AUTO_RANDOM" => {
                let (shard_bits, range) = self.optional_precision()?;
                ColumnAttribute::AutoRandom { shard_bits, range }
            }
            "UNIQUE" => {
                let _ = self.eat("KEY");
                ColumnAttribute::Unique
            }
            "PRIMARY" | "KEY" => {
                if word == "PRIMARY" {
                    self.expect("KEY")?;
                }
                ColumnAttribute::PrimaryKey { clustered: self.clustered() }
            }
            "COMMENT" => ColumnAttribute::Comment(self.string()?),
            "COLLATE" => ColumnAttribute::Collate(self.ident_or_string()?.to_ascii_lowercase()),
            "GENERATED" => {
                self.expect("ALWAYS AS")?;
                self.generated()?
            }
            "AS" => self.generated()?,
            "CONSTRAINT" => {
                let name = if self.is("CHECK") { None } else { Some(self.ident()?) };
                self.expect("CHECK")?;
                ColumnAttribute::Check(self.check(name)?)
            }
            "CHECK" => ColumnAttribute::Check(self.check(None)?),
            "REFERENCES" => ColumnAttribute::References(self.reference()?),
            "VISIBLE" => ColumnAttribute::Visible(true),
            "INVISIBLE" => ColumnAttribute::Visible(false),
            "COLUMN_FORMAT" | "STORAGE" => {
                ColumnAttribute::Other(word.to_owned(), self.ident_or_string()?)
            }
            _ => return self.fail_at(at, "an attribute"),
        }))
    }

    fn other_attribute(&mut self) -> Parse<Option<ColumnAttribute>> {
        const WORDS: [&str; 3] = ["SRID", "ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE"];
        let Some(word) = self.eat_one(&WORDS) else { return Ok(None) };
        let _ = self.eat_sign(&Token::Eq);
        let value = match self.peek() {
            Token::Number(..) => self.integer()?.to_string(),
            _ => self.string()?,
        };
        Ok(Some(ColumnAttribute::Other(word.to_owned(), value)))
    }

    /// `CLUSTERED`, `NONCLUSTERED`, if one is next.
    pub(crate) fn clustered(&mut self) -> Option<bool> {
        self.eat_one(&["CLUSTERED", "NONCLUSTERED"]).map(|word| word == "CLUSTERED")
    }

    /// The value after `DEFAULT`, and whether it stood in parentheses.
    pub(crate) fn default_value(&mut self) -> Parse<(Expr, bool)> {
        if *self.peek() == Token::LParen {
            return Ok((self.parenthesised(Self::expr)?, true));
        }
        if ["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"]
            .iter()
            .any(|word| self.is(word))
        {
            return Ok((self.now()?, false));
        }
        // Binds so tightly that `NOT NULL` and `COLLATE` after it stay attributes.
        const TIGHTEST: u8 = u8::MAX;
        Ok((self.subexpr(TIGHTEST)?, false))
    }

    /// `CURRENT_TIMESTAMP[(fsp)]` and its synonyms, as the function `current_timestamp`.
    fn now(&mut self) -> Parse<Expr> {
        const WORDS: [&str; 4] = ["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"];
        if self.eat_one(&WORDS).is_none() {
            return self.fail("CURRENT_TIMESTAMP");
        }
        let mut args = Vec::new();
        if self.eat_sign(&Token::LParen) {
            if *self.peek() != Token::RParen {
                let digits = self.small_integer()?;
                args.push(Expr::Literal(Literal::Integer(digits.to_string())));
            }
            self.expect_sign(&Token::RParen)?;
        }
        Ok(function("current_timestamp", args))
    }

    /// `(expr) [VIRTUAL | STORED]`.
    fn generated(&mut self) -> Parse<ColumnAttribute> {
        let (expr, text) = self.text_in_parentheses()?;
        let word = self.eat_one(&["VIRTUAL", "STORED", "PERSISTENT"]);
        let stored = matches!(word, Some("STORED" | "PERSISTENT"));
        Ok(ColumnAttribute::Generated { expr, text, stored })
    }

    /// `(expr)` with its text.
    fn text_in_parentheses(&mut self) -> Parse<(Expr, String)> {
        self.parenthesised(|g| {
            let start = g.at();
            let expr = g.expr()?;
            let text = g.text(start, g.at()).to_owned();
            Ok((expr, text))
        })
    }

    /// After `CHECK`: `(expr) [[NOT] ENFORCED]`.
    pub(crate) fn check(&mut self, name: Option<String>) -> Parse<CheckConstraint> {
        let (expr, text) = self.text_in_parentheses()?;
        let enforced = !self.eat_all("NOT ENFORCED");
        let _ = enforced && self.eat("ENFORCED");
        Ok(CheckConstraint { name, expr, text, enforced })
    }

    /// After `REFERENCES`.
    pub(crate) fn reference(&mut self) -> Parse<Reference> {
        let table = self.object_name()?;
        let columns = if *self.peek() == Token::LParen { self.ident_list()? } else { Vec::new() };
        if self.eat("MATCH") && self.eat_one(&["FULL", "PARTIAL", "SIMPLE"]).is_none() {
            return self.fail("FULL");
        }
        let (mut on_delete, mut on_update) = (None, None);
        loop {
            if self.eat_all("ON DELETE") {
                on_delete = Some(self.reference_action()?);
            } else if self.nth_is(1, "UPDATE")
                && !self.nth_is(2, "CURRENT_TIMESTAMP")
                && self.eat_all("ON UPDATE")
            {
                on_update = Some(self.reference_action()?);
            } else {
                return Ok(Reference { table, columns, on_delete, on_update });
            }
        }
    }

    fn reference_action(&mut self) -> Parse<ReferenceAction> {
        if self.eat("RESTRICT") {
            Ok(ReferenceAction::Restrict)
        } else if self.eat("CASCADE") {
            Ok(ReferenceAction::Cascade)
        } else if self.eat_all("SET NULL") {
            Ok(ReferenceAction::SetNull)
        } else if self.eat_all("NO ACTION") {
            Ok(ReferenceAction::NoAction)
        } else if self.eat_all("SET DEFAULT") {
            Ok(ReferenceAction::SetDefault)
        } else {
            self.fail("RESTRICT")
        }
    }
}

/// The character set of a type that has one.
fn charset_of(data_type: &mut DataType) -> Option<&mut Charset> {
    match data_type {
        DataType::Char { charset, .. }
        | DataType::VarChar { charset, .. }
        | DataType::Text { charset, .. }
        | DataType::Enum { charset, .. }
        | DataType::Set { charset, .. } => Some(charset),
        _ => None,
    }
}
