//! How MySQL's protocol and SHOW CREATE TABLE describe a type.

use std::fmt;

use super::{FieldType, NOT_FIXED_DECIMALS, TypeCode, code_is_text};
use crate::collation::Collation;

/// Column definition flags of the MySQL protocol.
#[allow(missing_docs)] // The names are MySQL's own.
pub mod flag {
    pub const NOT_NULL: u16 = 1;
    pub const PRI_KEY: u16 = 2;
    pub const UNIQUE_KEY: u16 = 4;
    pub const MULTIPLE_KEY: u16 = 8;
    pub const BLOB: u16 = 16;
    pub const UNSIGNED: u16 = 32;
    pub const ZEROFILL: u16 = 64;
    pub const BINARY: u16 = 128;
    pub const ENUM: u16 = 256;
    pub const AUTO_INCREMENT: u16 = 512;
    pub const TIMESTAMP: u16 = 1024;
    pub const SET: u16 = 2048;
    pub const NO_DEFAULT_VALUE: u16 = 4096;
    pub const ON_UPDATE_NOW: u16 = 8192;
    pub const NUM: u16 = 32768;
}

/// Characters told to the client for a string expression of unknown length.
const STRING_FLEN_UNKNOWN: u32 = 16_383;

impl FieldType {
    /// Type byte of the column definition packet.
    pub fn mysql_type_byte(&self) -> u8 {
        match self.code {
            TypeCode::Null => 6,
            TypeCode::TinyInt => 1,
            TypeCode::SmallInt => 2,
            TypeCode::Int => 3,
            TypeCode::Float => 4,
            TypeCode::Double => 5,
            TypeCode::Timestamp => 7,
            TypeCode::BigInt => 8,
            TypeCode::MediumInt => 9,
            TypeCode::Date => 10,
            TypeCode::Time => 11,
            TypeCode::DateTime => 12,
            TypeCode::Year => 13,
            TypeCode::Bit => 16,
            TypeCode::Json => 245,
            TypeCode::Decimal => 246,
            TypeCode::VarChar | TypeCode::VarBinary => 253,
            // The protocol sends ENUM and SET as strings, told apart by flags.
            TypeCode::Char | TypeCode::Binary | TypeCode::Enum | TypeCode::Set => 254,
            _ => 252,
        }
    }

    /// Flags of the column definition packet that follow from the type. Key and
    /// auto-increment flags are the table's business.
    pub fn mysql_flags(&self) -> u16 {
        let mut flags = 0;
        let mut add = |condition: bool, bit: u16| {
            if condition {
                flags |= bit;
            }
        };
        add(self.not_null, flag::NOT_NULL);
        add(self.unsigned, flag::UNSIGNED);
        add(self.zerofill, flag::ZEROFILL);
        add(self.is_blob() || self.code == TypeCode::Json, flag::BLOB);
        add(self.code == TypeCode::Enum, flag::ENUM);
        add(self.code == TypeCode::Set, flag::SET);
        add(self.code == TypeCode::Timestamp, flag::TIMESTAMP);
        let binary = self.is_numeric() || self.is_temporal() || self.is_binary_string();
        let bin_text = code_is_text(self.code) && self.collation.is_bytewise();
        add(binary || bin_text || self.code == TypeCode::Json, flag::BINARY);
        flags
    }

    /// Character set number of the column definition packet.
    pub fn mysql_charset(&self) -> u16 {
        if code_is_text(self.code) { self.collation.id() } else { Collation::BINARY.id() }
    }

    /// "Decimals" of the column definition packet.
    pub fn mysql_decimals(&self) -> u8 {
        match self.code {
            TypeCode::Decimal => self.scale(),
            TypeCode::Float | TypeCode::Double => self.decimals.unwrap_or(NOT_FIXED_DECIMALS),
            TypeCode::DateTime | TypeCode::Timestamp | TypeCode::Time => self.fsp(),
            _ => 0,
        }
    }

    /// "Length" of the column definition packet: the widest text, in bytes.
    pub fn display_length(&self) -> u32 {
        let fsp_width = if self.fsp() > 0 { u32::from(self.fsp()) + 1 } else { 0 };
        let char_width =
            if code_is_text(self.code) { self.collation.charset().max_len() } else { 1 };
        match self.code {
            TypeCode::Null => 0,
            TypeCode::TinyInt
            | TypeCode::SmallInt
            | TypeCode::MediumInt
            | TypeCode::Int
            | TypeCode::BigInt => self.integer_width(),
            TypeCode::Year => 4,
            TypeCode::Bit => self.flen.unwrap_or(1),
            TypeCode::Float => self.flen.unwrap_or(12),
            TypeCode::Double => self.flen.unwrap_or(22),
            TypeCode::Decimal => {
                self.precision() + u32::from(self.scale() > 0) + u32::from(!self.unsigned)
            }
            TypeCode::Date => 10,
            TypeCode::DateTime | TypeCode::Timestamp => 19 + fsp_width,
            TypeCode::Time => 10 + fsp_width,
            TypeCode::Json => u32::MAX,
            TypeCode::Enum => {
                let widest = self.elements.iter().map(|name| name.chars().count()).max();
                widest.unwrap_or(0) as u32 * char_width
            }
            TypeCode::Set => {
                let names: usize = self.elements.iter().map(|name| name.chars().count()).sum();
                (names + self.elements.len().saturating_sub(1)) as u32 * char_width
            }
            _ => match self.blob_max_bytes() {
                Some(bytes) => u32::try_from(bytes * u64::from(char_width)).unwrap_or(u32::MAX),
                None => self.flen.unwrap_or(STRING_FLEN_UNKNOWN).saturating_mul(char_width),
            },
        }
    }

    /// Display width of an integer: the one named, or the type's own.
    pub fn integer_width(&self) -> u32 {
        let (signed, unsigned) = match self.code {
            TypeCode::TinyInt => (4, 3),
            TypeCode::SmallInt => (6, 5),
            TypeCode::MediumInt => (9, 8),
            TypeCode::Int => (11, 10),
            _ => (20, 20),
        };
        self.flen.unwrap_or(if self.unsigned { unsigned } else { signed })
    }

    /// The type as SHOW CREATE TABLE prints it, without collation and NOT NULL.
    pub fn to_sql(&self) -> String {
        self.to_string()
    }

    /// DATA_TYPE of INFORMATION_SCHEMA.COLUMNS: the bare name.
    pub fn name(&self) -> &'static str {
        match self.code {
            TypeCode::Null => "null",
            TypeCode::TinyInt => "tinyint",
            TypeCode::SmallInt => "smallint",
            TypeCode::MediumInt => "mediumint",
            TypeCode::Int => "int",
            TypeCode::BigInt => "bigint",
            TypeCode::Float => "float",
            TypeCode::Double => "double",
            TypeCode::Decimal => "decimal",
            TypeCode::Date => "date",
            TypeCode::DateTime => "datetime",
            TypeCode::Timestamp => "timestamp",
            TypeCode::Time => "time",
            TypeCode::Year => "year",
            TypeCode::Char => "char",
            TypeCode::VarChar => "varchar",
            TypeCode::Binary => "binary",
            TypeCode::VarBinary => "varbinary",
            TypeCode::TinyText => "tinytext",
            TypeCode::Text => "text",
            TypeCode::MediumText => "mediumtext",
            TypeCode::LongText => "longtext",
            TypeCode::TinyBlob => "tinyblob",
            TypeCode::Blob => "blob",
            TypeCode::MediumBlob => "mediumblob",
            TypeCode::LongBlob => "longblob",
            TypeCode::Bit => "bit",
            TypeCode::Enum => "enum",
            TypeCode::Set => "set",
            TypeCode::Json => "json",
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.code {
            // MySQL 8 prints integer widths only where they still mean something.
            TypeCode::TinyInt if self.flen == Some(1) && !self.unsigned => f.write_str("(1)")?,
            _ if self.is_integer() && self.zerofill => write!(f, "({})", self.integer_width())?,
            _ if self.is_integer() => {}
            TypeCode::Float | TypeCode::Double => {
                if let (Some(flen), Some(decimals)) = (self.flen, self.decimals) {
                    write!(f, "({flen},{decimals})")?;
                }
            }
            TypeCode::Decimal => write!(f, "({},{})", self.precision(), self.scale())?,
            TypeCode::DateTime | TypeCode::Timestamp | TypeCode::Time if self.fsp() > 0 => {
                write!(f, "({})", self.fsp())?;
            }
            TypeCode::Char | TypeCode::Binary | TypeCode::Bit => {
                write!(f, "({})", self.flen.unwrap_or(1))?;
            }
            TypeCode::VarChar | TypeCode::VarBinary => {
                write!(f, "({})", self.flen.unwrap_or(STRING_FLEN_UNKNOWN))?;
            }
            TypeCode::Enum | TypeCode::Set => {
                f.write_str("(")?;
                for (i, element) in self.elements.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}'{}'", element.replace('\'', "''"))?;
                }
                f.write_str(")")?;
            }
            _ => {}
        }
        if self.unsigned && self.is_numeric() && self.code != TypeCode::Year {
            f.write_str(" unsigned")?;
        }
        if self.zerofill {
            f.write_str(" zerofill")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_show_create_table() {
        let cases: &[(FieldType, &str)] = &[
            (FieldType::int(), "int"),
            (FieldType::bigint_unsigned(), "bigint unsigned"),
            (FieldType::boolean(), "tinyint(1)"),
            (FieldType::int().with_zerofill(), "int(10) unsigned zerofill"),
            (FieldType::varchar(32), "varchar(32)"),
            (FieldType::decimal(10, 2), "decimal(10,2)"),
            (FieldType::enumeration(["a", "b'c"]), "enum('a','b''c')"),
            (FieldType::datetime(3), "datetime(3)"),
            (FieldType::datetime(0), "datetime"),
            (FieldType::new(TypeCode::Char), "char(1)"),
            (FieldType::year(), "year"),
            (FieldType::bit(8), "bit(8)"),
            (FieldType::double(), "double"),
        ];
        for (field_type, text) in cases {
            assert_eq!(field_type.to_sql(), *text);
        }
    }
}
