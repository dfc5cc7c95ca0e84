//! The schema as the planner sees it: databases, tables, columns, indexes.
//!
//! **Data.** Everything here is what the catalog stores (serde; a contract: fields
//! are added with `#[serde(default)]`, never renamed). Names keep the case they
//! were created with; look-ups ignore case. Columns are addressed by their offset
//! in [`TableInfo::columns`], and on disk by [`ColumnInfo::id`], which is never
//! used again.
//!
//! **Concurrency.** A [`Catalog`] is an immutable snapshot of one schema version: a
//! statement is planned and run against one snapshot. The SQL tier keeps it and
//! supplies virtual tables (`information_schema`) through the same trait.

use std::sync::Arc;

use cairn_types::{Collation, ColumnId, FieldType, IndexId, SchemaId, TableId};
use serde::{Deserialize, Serialize};

/// Name of the hidden integer handle of tables without a clustered key.
pub const ROW_ID_NAME: &str = "_tidb_rowid";
/// Column id of the hidden integer handle.
pub const ROW_ID_COLUMN: ColumnId = ColumnId(-1);
/// Name of the index that is the primary key.
pub const PRIMARY_NAME: &str = "PRIMARY";

/// How far an online schema change of a column or index has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SchemaState {
    /// Not there for anyone.
    None,
    /// Deletes maintain it.
    DeleteOnly,
    /// All writes maintain it.
    WriteOnly,
    /// As `WriteOnly`, while old rows are filled in.
    WriteReorganization,
    /// Read and written.
    #[default]
    Public,
}

impl SchemaState {
    /// Whether statements may read it.
    pub fn is_public(self) -> bool {
        self == SchemaState::Public
    }

    /// Whether inserts and updates maintain it.
    pub fn is_writable(self) -> bool {
        self >= SchemaState::WriteOnly
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    /// Its id.
    pub id: SchemaId,
    /// Its name.
    pub name: String,
    /// Collation of tables that name none.
    pub collation: Collation,
}

/// The value of a column an INSERT does not mention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ColumnDefault {
    /// `DEFAULT NULL`.
    Null,
    /// A literal as text, cast to the column's type when used.
    Literal(String),
    /// A literal of bytes that are no UTF-8 text (binary columns, BIT).
    Bytes(Vec<u8>),
    /// `CURRENT_TIMESTAMP(fsp)`.
    CurrentTimestamp {
        /// Fractional second digits.
        fsp: u8,
    },
    /// `DEFAULT (expr)`, as SQL text.
    Expr(String),
}

/// A generated column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedColumn {
    /// The expression as SQL text, over columns of the table.
    pub expr: String,
    /// `STORED`. (Virtual columns are stored too: their values are computed on
    /// write and read like any other.)
    pub stored: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnInfo {
    /// Its id in the table.
    pub id: ColumnId,
    /// Its name.
    pub name: String,
    /// Its type; `not_null` is part of it.
    pub ty: FieldType,
    /// Value where an INSERT gives none; absent: none was declared (NULL, or error
    /// 1364 for NOT NULL columns).
    #[serde(default)]
    pub default: Option<ColumnDefault>,
    /// Value of rows written before the column existed; absent: NULL.
    #[serde(default)]
    pub origin_default: Option<ColumnDefault>,
    /// `ON UPDATE CURRENT_TIMESTAMP(fsp)`.
    #[serde(default)]
    pub on_update_now: Option<u8>,
    /// `AUTO_INCREMENT`.
    #[serde(default)]
    pub auto_increment: bool,
    /// `AS (expr)`.
    #[serde(default)]
    pub generated: Option<GeneratedColumn>,
    /// `COMMENT`.
    #[serde(default)]
    pub comment: String,
    /// `INVISIBLE`: left out of `*` and of INSERTs without a column list.
    #[serde(default)]
    pub hidden: bool,
    /// How far its creation or removal has come.
    #[serde(default)]
    pub state: SchemaState,
}

impl ColumnInfo {
    /// A plain public column.
    pub fn new(id: i64, name: impl Into<String>, ty: FieldType) -> ColumnInfo {
        ColumnInfo {
            id: ColumnId(id),
            name: name.into(),
            ty,
            default: None,
            origin_default: None,
            on_update_now: None,
            auto_increment: false,
            generated: None,
            comment: String::new(),
            hidden: false,
            state: SchemaState::Public,
        }
    }
}

/// One part of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Offset in the table's columns.
    pub offset: usize,
    /// `c(n)`: only the first n characters (bytes of binary columns) are in the
    /// index.
    #[serde(default)]
    pub prefix_length: Option<u32>,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexInfo {
    /// Its id in the table.
    pub id: IndexId,
    /// Its name.
    pub name: String,
    /// Its parts.
    pub columns: Vec<IndexColumn>,
    /// No two rows may be equal in it (NULLs are never equal).
    #[serde(default)]
    pub unique: bool,
    /// The primary key. Clustered if the table says so; then it has no entries of
    /// its own.
    #[serde(default)]
    pub primary: bool,
    /// `INVISIBLE`: maintained, not used by plans.
    #[serde(default)]
    pub invisible: bool,
    /// `COMMENT`.
    #[serde(default)]
    pub comment: String,
    /// How far its creation or removal has come.
    #[serde(default)]
    pub state: SchemaState,
}

/// A foreign key; kept, not enforced by the planner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKeyInfo {
    /// Its name.
    pub name: String,
    /// Referencing columns.
    pub columns: Vec<String>,
    /// Referenced database; the table's own when absent.
    #[serde(default)]
    pub ref_schema: Option<String>,
    /// Referenced table.
    pub ref_table: String,
    /// Referenced columns.
    pub ref_columns: Vec<String>,
    /// `ON DELETE`, upper case, empty when not written.
    #[serde(default)]
    pub on_delete: String,
    /// `ON UPDATE`, upper case, empty when not written.
    #[serde(default)]
    pub on_update: String,
}

/// A CHECK constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInfo {
    /// Its name.
    pub name: String,
    /// The condition as SQL text.
    pub expr: String,
    /// False after `NOT ENFORCED`.
    pub enforced: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableInfo {
    /// Its id; part of every key.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// Its columns in order, whatever their state.
    pub columns: Vec<ColumnInfo>,
    /// Its indexes, whatever their state.
    #[serde(default)]
    pub indices: Vec<IndexInfo>,
    /// The primary key is one integer column, and it is the row's handle.
    #[serde(default)]
    pub pk_is_handle: bool,
    /// The primary key (of any other shape) is the row's handle.
    #[serde(default)]
    pub common_handle: bool,
    /// Foreign keys.
    #[serde(default)]
    pub foreign_keys: Vec<ForeignKeyInfo>,
    /// CHECK constraints.
    #[serde(default)]
    pub checks: Vec<CheckInfo>,
    /// Default collation of text columns.
    pub collation: Collation,
    /// `COMMENT`.
    #[serde(default)]
    pub comment: String,
    /// Other options as written (name, value).
    #[serde(default)]
    pub create_options: Vec<(String, String)>,
    /// `AUTO_INCREMENT = n` of CREATE or ALTER TABLE.
    #[serde(default)]
    pub auto_increment_start: Option<u64>,
    /// Largest column id ever given.
    #[serde(default)]
    pub max_column_id: i64,
    /// Largest index id ever given.
    #[serde(default)]
    pub max_index_id: i64,
    /// Schema version of its last change.
    #[serde(default)]
    pub schema_version: i64,
    /// Creation or last change, milliseconds since the epoch.
    #[serde(default)]
    pub update_time_ms: u64,
    /// Rows are made by the SQL tier when read (information_schema and its kin).
    #[serde(default)]
    pub is_virtual: bool,
}

impl TableInfo {
    /// An empty table without columns.
    pub fn new(id: i64, name: impl Into<String>) -> TableInfo {
        TableInfo {
            id: TableId(id),
            name: name.into(),
            columns: Vec::new(),
            indices: Vec::new(),
            pk_is_handle: false,
            common_handle: false,
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            collation: Collation::default(),
            comment: String::new(),
            create_options: Vec::new(),
            auto_increment_start: None,
            max_column_id: 0,
            max_index_id: 0,
            schema_version: 0,
            update_time_ms: 0,
            is_virtual: false,
        }
    }

    /// Offset and column of a name, public columns only.
    pub fn find_column(&self, name: &str) -> Option<(usize, &ColumnInfo)> {
        self.public_columns().find(|(_, column)| column.name.eq_ignore_ascii_case(name))
    }

    /// The column with an id.
    pub fn column_by_id(&self, id: ColumnId) -> Option<(usize, &ColumnInfo)> {
        self.columns.iter().enumerate().find(|(_, column)| column.id == id)
    }

    /// Columns statements may read, with their offsets.
    pub fn public_columns(&self) -> impl Iterator<Item = (usize, &ColumnInfo)> {
        self.columns.iter().enumerate().filter(|(_, column)| column.state.is_public())
    }

    /// Columns that inserts and updates write, with their offsets.
    pub fn writable_columns(&self) -> impl Iterator<Item = (usize, &ColumnInfo)> {
        self.columns.iter().enumerate().filter(|(_, column)| column.state.is_writable())
    }

    /// The index with a name.
    pub fn find_index(&self, name: &str) -> Option<&IndexInfo> {
        self.indices.iter().find(|index| index.name.eq_ignore_ascii_case(name))
    }

    /// The primary key, clustered or not.
    pub fn primary_key(&self) -> Option<&IndexInfo> {
        self.indices.iter().find(|index| index.primary)
    }

    /// Offset of the integer primary key that is the handle.
    pub fn handle_column(&self) -> Option<usize> {
        if !self.pk_is_handle {
            return None;
        }
        self.primary_key().and_then(|key| key.columns.first()).map(|part| part.offset)
    }

    /// Offsets of the columns that make the common handle; empty otherwise.
    pub fn common_handle_columns(&self) -> Vec<usize> {
        if !self.common_handle {
            return Vec::new();
        }
        self.primary_key()
            .map(|key| key.columns.iter().map(|part| part.offset).collect())
            .unwrap_or_default()
    }

    /// Whether rows have a hidden integer handle.
    pub fn has_row_id(&self) -> bool {
        !self.pk_is_handle && !self.common_handle && !self.is_virtual
    }

    /// Whether an index has entries of its own (a clustered primary key has none).
    pub fn has_entries(&self, index: &IndexInfo) -> bool {
        !(index.primary && (self.pk_is_handle || self.common_handle))
    }

    /// The AUTO_INCREMENT column.
    pub fn auto_increment_column(&self) -> Option<(usize, &ColumnInfo)> {
        self.columns.iter().enumerate().find(|(_, column)| column.auto_increment)
    }

    /// Column flags of the protocol that come from keys (`PRI_KEY`, `UNIQUE_KEY`,
    /// `MULTIPLE_KEY`) and column attributes, together with the type's own.
    pub fn column_flags(&self, offset: usize) -> u16 {
        use cairn_types::field_type::flag;
        let column = &self.columns[offset];
        let mut flags = column.ty.mysql_flags();
        if column.auto_increment {
            flags |= flag::AUTO_INCREMENT;
        }
        if column.on_update_now.is_some() {
            flags |= flag::ON_UPDATE_NOW;
        }
        if column.ty.not_null && column.default.is_none() && !column.auto_increment {
            flags |= flag::NO_DEFAULT_VALUE;
        }
        for index in self.indices.iter().filter(|index| index.state.is_public()) {
            let Some(at) = index.columns.iter().position(|part| part.offset == offset) else {
                continue;
            };
            if index.primary {
                flags |= flag::PRI_KEY;
            } else if at == 0 && index.unique && index.columns.len() == 1 {
                flags |= flag::UNIQUE_KEY;
            } else if at == 0 {
                flags |= flag::MULTIPLE_KEY;
            }
        }
        flags
    }
}

/// An immutable snapshot of the schema at one version.
pub trait Catalog: Send + Sync {
    /// The schema version.
    fn version(&self) -> i64;

    /// The database with a name, whatever its case.
    fn database(&self, name: &str) -> Option<Arc<DatabaseInfo>>;

    /// The table with a name in a database, whatever their case; virtual tables too.
    fn table(&self, database: &str, name: &str) -> Option<Arc<TableInfo>>;

    /// All databases, in order of name.
    fn databases(&self) -> Vec<Arc<DatabaseInfo>>;

    /// All tables of a database, in order of name.
    fn tables(&self, database: &str) -> Vec<Arc<TableInfo>>;
}
