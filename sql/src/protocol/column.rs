//! Column definitions of result sets (`ColumnDefinition41`).

use cairn_types::FieldType;

use super::wire::put_lenenc_bytes;

/// Extra column flags a field type does not know by itself.
pub mod flag {
    /// Part of the primary key.
    pub const PRI_KEY: u16 = 2;
    /// Part of a unique key.
    pub const UNIQUE_KEY: u16 = 4;
    /// First part of a key that is not unique.
    pub const MULTIPLE_KEY: u16 = 8;
    /// `AUTO_INCREMENT`.
    pub const AUTO_INCREMENT: u16 = 512;
    /// No default value.
    pub const NO_DEFAULT_VALUE: u16 = 4096;
}

/// One column of a result set.
#[derive(Clone, Debug)]
pub struct ColumnDefinition {
    /// Database of the table, empty for expressions.
    pub database: String,
    /// Alias of the table.
    pub table: String,
    /// Name of the table.
    pub org_table: String,
    /// Alias of the column.
    pub name: String,
    /// Name of the column.
    pub org_name: String,
    /// Its type.
    pub field_type: FieldType,
    /// Key flags, see [`flag`].
    pub key_flags: u16,
}

impl ColumnDefinition {
    /// A column that comes from no table.
    pub fn computed(name: impl Into<String>, field_type: FieldType) -> Self {
        Self {
            database: String::new(),
            table: String::new(),
            org_table: String::new(),
            name: name.into(),
            org_name: String::new(),
            field_type,
            key_flags: 0,
        }
    }

    /// Appends the payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        let ty = &self.field_type;
        put_lenenc_bytes(out, b"def");
        for text in [&self.database, &self.table, &self.org_table, &self.name, &self.org_name] {
            put_lenenc_bytes(out, text.as_bytes());
        }
        out.push(12);
        out.extend_from_slice(&ty.mysql_charset().to_le_bytes());
        out.extend_from_slice(&ty.display_length().to_le_bytes());
        out.push(ty.mysql_type_byte());
        out.extend_from_slice(&(ty.mysql_flags() | self.key_flags).to_le_bytes());
        out.push(ty.mysql_decimals());
        out.extend_from_slice(&[0, 0]);
    }
}
