//! Column definitions of result sets (`ColumnDefinition41`).

use cairn_planner::OutputColumn;

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

/// Appends the payload that defines a column.
pub fn write_column(column: &OutputColumn, out: &mut Vec<u8>) {
    let OutputColumn { name, org_name, table, org_table, db, ty, flags } = column;
    put_lenenc_bytes(out, b"def");
    for text in [db, table, org_table, name, org_name] {
        put_lenenc_bytes(out, text.as_bytes());
    }
    out.push(12);
    out.extend_from_slice(&ty.mysql_charset().to_le_bytes());
    out.extend_from_slice(&ty.display_length().to_le_bytes());
    out.push(ty.mysql_type_byte());
    out.extend_from_slice(&(ty.mysql_flags() | flags).to_le_bytes());
    out.push(ty.mysql_decimals());
    out.extend_from_slice(&[0, 0]);
}
