//! Statements that change the schema.

use super::ObjectName;
use super::expr::{Expr, Literal};
use super::query::Query;

/// `CREATE DATABASE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateDatabase {
    /// Its name.
    pub name: String,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// `CHARACTER SET`.
    pub charset: Option<String>,
    /// `COLLATE`.
    pub collation: Option<String>,
}

/// `ALTER DATABASE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterDatabase {
    /// Its name; the current database when absent.
    pub name: Option<String>,
    /// `CHARACTER SET`.
    pub charset: Option<String>,
    /// `COLLATE`.
    pub collation: Option<String>,
}

/// `DROP DATABASE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropDatabase {
    /// Its name.
    pub name: String,
    /// `IF EXISTS`.
    pub if_exists: bool,
}

/// `CREATE TABLE`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    /// Its name.
    pub name: ObjectName,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// `TEMPORARY`.
    pub temporary: bool,
    /// `LIKE other`; everything below is then empty.
    pub like: Option<ObjectName>,
    /// The columns in order.
    pub columns: Vec<ColumnDef>,
    /// Keys and checks written as items of their own, in order. Those written as column
    /// attributes stay in `ColumnDef::attributes`.
    pub constraints: Vec<TableConstraint>,
    /// Table options in order.
    pub options: Vec<TableOption>,
    /// `PARTITION BY`.
    pub partition_by: Option<PartitionBy>,
    /// `AS SELECT ..`.
    pub query: Option<CreateTableQuery>,
}

/// The query of `CREATE TABLE .. AS SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTableQuery {
    /// What to do about duplicates.
    pub on_duplicate: OnDuplicateRow,
    /// The rows.
    pub query: Box<Query>,
}

/// What `CREATE TABLE .. SELECT` does about duplicate rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnDuplicateRow {
    /// Fail.
    Error,
    /// `IGNORE`.
    Ignore,
    /// `REPLACE`.
    Replace,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Its attributes in the order written.
    pub attributes: Vec<ColumnAttribute>,
}

/// A column's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// `BIT[(n)]`.
    Bit(Option<u32>),
    /// `TINYINT` to `BIGINT`; `BOOL` is `TINYINT(1)`, `SERIAL` a `BIGINT UNSIGNED`.
    Integer {
        /// How many bytes.
        size: IntegerSize,
        /// Display width.
        width: Option<u32>,
        /// `UNSIGNED`; `ZEROFILL` implies it.
        unsigned: bool,
        /// `ZEROFILL`.
        zerofill: bool,
    },
    /// `DECIMAL[(p[, s])]`, `NUMERIC`, `DEC`, `FIXED`.
    Decimal {
        /// Digits in all.
        precision: Option<u32>,
        /// Digits after the point.
        scale: Option<u32>,
        /// `UNSIGNED`.
        unsigned: bool,
        /// `ZEROFILL`.
        zerofill: bool,
    },
    /// `FLOAT[(m, d)]`; `FLOAT(p)` with p above 24 is a `Double`.
    Float {
        /// Digits in all and after the point.
        digits: Option<(u32, u32)>,
        /// `UNSIGNED`.
        unsigned: bool,
        /// `ZEROFILL`.
        zerofill: bool,
    },
    /// `DOUBLE [PRECISION][(m, d)]`, `REAL`.
    Double {
        /// Digits in all and after the point.
        digits: Option<(u32, u32)>,
        /// `UNSIGNED`.
        unsigned: bool,
        /// `ZEROFILL`.
        zerofill: bool,
    },
    /// `DATE`.
    Date,
    /// `TIME[(fsp)]`.
    Time(u8),
    /// `DATETIME[(fsp)]`.
    DateTime(u8),
    /// `TIMESTAMP[(fsp)]`.
    Timestamp(u8),
    /// `YEAR[(4)]`.
    Year,
    /// `CHAR[(n)]`, `NCHAR`.
    Char {
        /// Characters; 1 when absent.
        length: Option<u32>,
        /// Character set and collation.
        charset: Charset,
    },
    /// `VARCHAR(n)`, `NVARCHAR(n)`, `CHARACTER VARYING(n)`.
    VarChar {
        /// Characters.
        length: u32,
        /// Character set and collation.
        charset: Charset,
    },
    /// `BINARY[(n)]`.
    Binary(Option<u32>),
    /// `VARBINARY(n)`.
    VarBinary(u32),
    /// `TINYTEXT` to `LONGTEXT`.
    Text {
        /// Which.
        size: LobSize,
        /// `TEXT(n)`.
        length: Option<u32>,
        /// Character set and collation.
        charset: Charset,
    },
    /// `TINYBLOB` to `LONGBLOB`.
    Blob {
        /// Which.
        size: LobSize,
        /// `BLOB(n)`.
        length: Option<u32>,
    },
    /// `ENUM('a', 'b')`.
    Enum {
        /// The members.
        values: Vec<String>,
        /// Character set and collation.
        charset: Charset,
    },
    /// `SET('a', 'b')`.
    Set {
        /// The members.
        values: Vec<String>,
        /// Character set and collation.
        charset: Charset,
    },
    /// `JSON`.
    Json,
    /// `VECTOR[(n)]`.
    Vector(Option<u32>),
    /// `GEOMETRY`, `POINT` and the other spatial types, upper case.
    Geometry(String),
}

/// The integer types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntegerSize {
    /// `TINYINT`, 1 byte.
    Tiny,
    /// `SMALLINT`, 2 bytes.
    Small,
    /// `MEDIUMINT`, 3 bytes.
    Medium,
    /// `INT`, 4 bytes.
    Int,
    /// `BIGINT`, 8 bytes.
    Big,
}

/// The sizes of `TEXT` and `BLOB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LobSize {
    /// Up to 255 bytes.
    Tiny,
    /// Up to 64 KiB.
    Regular,
    /// Up to 16 MiB.
    Medium,
    /// Up to 4 GiB.
    Long,
}

/// Character set and collation of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Charset {
    /// `CHARACTER SET`, lower case.
    pub charset: Option<String>,
    /// `COLLATE` (also as a column attribute), lower case.
    pub collation: Option<String>,
    /// `BINARY`: the character set's binary collation.
    pub binary: bool,
}

/// One attribute of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnAttribute {
    /// `NULL`.
    Null,
    /// `NOT NULL`.
    NotNull,
    /// `DEFAULT value`. A literal, a signed number, `current_timestamp(n)` as a function, or
    /// (`parenthesised`) any expression.
    Default {
        /// The value.
        expr: Expr,
        /// `DEFAULT (expr)`.
        parenthesised: bool,
    },
    /// `ON UPDATE CURRENT_TIMESTAMP(n)`.
    OnUpdate(Expr),
    /// `AUTO_INCREMENT`.
    AutoIncrement,
    /// `AUTO_RANDOM[(shard_bits[, range])]`.
    AutoRandom {
        /// How many bits spread the rows.
        shard_bits: Option<u32>,
        /// Width of the whole range.
        range: Option<u32>,
    },
    /// `UNIQUE [KEY]`.
    Unique,
    /// `[PRIMARY] KEY [CLUSTERED | NONCLUSTERED]`.
    PrimaryKey {
        /// Whether the rows are stored by the key, when written.
        clustered: Option<bool>,
    },
    /// `COMMENT 'text'`.
    Comment(String),
    /// `COLLATE`; also merged into the type's `Charset`.
    Collate(String),
    /// `[GENERATED ALWAYS] AS (expr) [VIRTUAL | STORED]`.
    Generated {
        /// The expression.
        expr: Expr,
        /// Its text as written, for messages.
        text: String,
        /// `STORED`.
        stored: bool,
    },
    /// `[CONSTRAINT name] CHECK (expr) [[NOT] ENFORCED]`.
    Check(CheckConstraint),
    /// `REFERENCES ..`; MySQL parses and ignores it here.
    References(Reference),
    /// `VISIBLE` or `INVISIBLE`.
    Visible(bool),
    /// `COLUMN_FORMAT`, `STORAGE`, `SRID`, `ENGINE_ATTRIBUTE`, ...: name and value, of no
    /// effect.
    Other(String, String),
}

/// A key or check written as an item of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum TableConstraint {
    /// `PRIMARY KEY`, `UNIQUE`, `KEY`, `FULLTEXT`, `SPATIAL`.
    Index(IndexDef),
    /// `FOREIGN KEY`.
    ForeignKey(ForeignKey),
    /// `CHECK`.
    Check(CheckConstraint),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexDef {
    /// Its name; derived from the columns when absent.
    pub name: Option<String>,
    /// What it promises.
    pub kind: IndexKind,
    /// The parts; at least one.
    pub parts: Vec<KeyPart>,
    /// Options.
    pub options: IndexOptions,
}

/// What an index promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// `PRIMARY KEY`.
    Primary,
    /// `UNIQUE`.
    Unique,
    /// `INDEX`, `KEY`.
    Plain,
    /// `FULLTEXT`.
    FullText,
    /// `SPATIAL`.
    Spatial,
}

/// One part of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPart {
    /// The column or expression.
    pub target: KeyTarget,
    /// `DESC`.
    pub descending: bool,
}

/// What a key part is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyTarget {
    /// A column, or its first characters.
    Column {
        /// Its name.
        name: String,
        /// `name(n)`.
        prefix_length: Option<u32>,
    },
    /// `((expr))`.
    Expr(Expr),
}

/// Options of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexOptions {
    /// `USING BTREE | HASH`, upper case.
    pub using: Option<String>,
    /// `COMMENT`.
    pub comment: Option<String>,
    /// `INVISIBLE`.
    pub invisible: bool,
    /// `CLUSTERED`, `NONCLUSTERED`, when written.
    pub clustered: Option<bool>,
    /// `GLOBAL`, of a partitioned table.
    pub global: bool,
    /// `KEY_BLOCK_SIZE`, `WITH PARSER`, ...: name and value, of no effect.
    pub other: Vec<(String, String)>,
}

/// `FOREIGN KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// `CONSTRAINT name` or the index name.
    pub name: Option<String>,
    /// `IF NOT EXISTS` (in `ALTER TABLE ADD`).
    pub if_not_exists: bool,
    /// The referencing columns.
    pub columns: Vec<String>,
    /// What they refer to.
    pub reference: Reference,
}

/// `REFERENCES t (columns) ON DELETE .. ON UPDATE ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The parent table.
    pub table: ObjectName,
    /// Its columns.
    pub columns: Vec<String>,
    /// `ON DELETE`.
    pub on_delete: Option<ReferenceAction>,
    /// `ON UPDATE`.
    pub on_update: Option<ReferenceAction>,
}

/// What becomes of children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceAction {
    /// `RESTRICT`.
    Restrict,
    /// `CASCADE`.
    Cascade,
    /// `SET NULL`.
    SetNull,
    /// `NO ACTION`.
    NoAction,
    /// `SET DEFAULT`.
    SetDefault,
}

/// `[CONSTRAINT name] CHECK (expr) [[NOT] ENFORCED]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckConstraint {
    /// Its name.
    pub name: Option<String>,
    /// The condition.
    pub expr: Expr,
    /// Its text as written.
    pub text: String,
    /// False after `NOT ENFORCED`.
    pub enforced: bool,
}

/// One option of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableOption {
    /// `ENGINE`.
    Engine(String),
    /// `[DEFAULT] CHARACTER SET`, lower case.
    Charset(String),
    /// `[DEFAULT] COLLATE`, lower case.
    Collate(String),
    /// `AUTO_INCREMENT`.
    AutoIncrement(u64),
    /// `COMMENT`.
    Comment(String),
    /// `SHARD_ROW_ID_BITS`.
    ShardRowIdBits(u32),
    /// `PRE_SPLIT_REGIONS`.
    PreSplitRegions(u32),
    /// `AUTO_ID_CACHE`.
    AutoIdCache(u64),
    /// Any other option MySQL or TiDB knows: upper-case name, value as text.
    Other(String, String),
}

/// `PARTITION BY ..`.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionBy {
    /// How rows are spread.
    pub method: PartitionMethod,
    /// `PARTITIONS n`.
    pub count: Option<u32>,
    /// The partitions, when listed.
    pub partitions: Vec<PartitionDef>,
    /// The clause as written.
    pub text: String,
}

/// How rows are spread over partitions.
#[derive(Clone, Debug, PartialEq)]
pub enum PartitionMethod {
    /// `RANGE (expr)`.
    Range(Box<Expr>),
    /// `RANGE COLUMNS (..)`.
    RangeColumns(Vec<String>),
    /// `LIST (expr)`.
    List(Box<Expr>),
    /// `LIST COLUMNS (..)`.
    ListColumns(Vec<String>),
    /// `[LINEAR] HASH (expr)`.
    Hash(Box<Expr>),
    /// `[LINEAR] KEY (..)`.
    Key(Vec<String>),
}

/// One partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionDef {
    /// Its name.
    pub name: String,
    /// Which rows it holds.
    pub values: PartitionValues,
    /// `COMMENT`.
    pub comment: Option<String>,
}

/// Which rows a partition holds.
#[derive(Clone, Debug, PartialEq)]
pub enum PartitionValues {
    /// Hash and key partitions say nothing.
    None,
    /// `VALUES LESS THAN (..)`; `None` is `MAXVALUE`.
    LessThan(Vec<Option<Expr>>),
    /// `VALUES IN (..)`; rows for several columns are `Expr::Row`.
    In(Vec<Expr>),
}

/// `CREATE INDEX`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// On which table.
    pub table: ObjectName,
    /// The index; its name is always there.
    pub index: IndexDef,
}

/// `DROP INDEX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropIndex {
    /// Its name; `PRIMARY` is the primary key.
    pub name: String,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// Of which table.
    pub table: ObjectName,
}

/// `DROP TABLE` and `DROP VIEW`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropTables {
    /// Which; at least one.
    pub names: Vec<ObjectName>,
    /// `IF EXISTS`.
    pub if_exists: bool,
    /// `TEMPORARY`.
    pub temporary: bool,
}

/// `CREATE VIEW`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// Its name.
    pub name: ObjectName,
    /// Column names, when written.
    pub columns: Vec<String>,
    /// The rows.
    pub query: Box<Query>,
    /// The text of the query, which is what is stored.
    pub text: String,
}

/// `ALTER TABLE`.
#[derive(Clone, Debug, PartialEq)]
pub struct AlterTable {
    /// Which.
    pub table: ObjectName,
    /// The changes in order. `ALGORITHM`, `LOCK` and `WITH[OUT] VALIDATION` are left out.
    pub actions: Vec<AlterAction>,
}

/// One change of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum AlterAction {
    /// `ADD [COLUMN]`.
    AddColumn {
        /// The column.
        column: ColumnDef,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
        /// Where; last when absent.
        position: Option<ColumnPosition>,
    },
    /// `DROP [COLUMN]`.
    DropColumn {
        /// The column.
        name: String,
        /// `IF EXISTS`.
        if_exists: bool,
    },
    /// `MODIFY [COLUMN]`.
    ModifyColumn {
        /// The new definition.
        column: ColumnDef,
        /// `IF EXISTS`.
        if_exists: bool,
        /// Where it moves.
        position: Option<ColumnPosition>,
    },
    /// `CHANGE [COLUMN] old new definition`.
    ChangeColumn {
        /// The old name.
        old_name: String,
        /// The new definition with the new name.
        column: ColumnDef,
        /// `IF EXISTS`.
        if_exists: bool,
        /// Where it moves.
        position: Option<ColumnPosition>,
    },
    /// `RENAME COLUMN a TO b`.
    RenameColumn {
        /// From.
        old_name: String,
        /// To.
        new_name: String,
    },
    /// `ALTER [COLUMN] c SET DEFAULT value`.
    SetDefault {
        /// The column.
        column: String,
        /// The value.
        expr: Expr,
        /// `SET DEFAULT (expr)`.
        parenthesised: bool,
    },
    /// `ALTER [COLUMN] c DROP DEFAULT`.
    DropDefault {
        /// The column.
        column: String,
    },
    /// `ALTER [COLUMN] c SET VISIBLE | INVISIBLE`.
    SetColumnVisible {
        /// The column.
        column: String,
        /// `VISIBLE`.
        visible: bool,
    },
    /// `ADD INDEX | PRIMARY KEY | FOREIGN KEY | CHECK ..`.
    AddConstraint {
        /// What is added.
        constraint: TableConstraint,
        /// `IF NOT EXISTS`.
        if_not_exists: bool,
    },
    /// `DROP INDEX | KEY`.
    DropIndex {
        /// Its name.
        name: String,
        /// `IF EXISTS`.
        if_exists: bool,
    },
    /// `DROP PRIMARY KEY`.
    DropPrimaryKey,
    /// `DROP FOREIGN KEY`.
    DropForeignKey(String),
    /// `DROP CHECK`.
    DropCheck(String),
    /// `DROP CONSTRAINT`: a key, a foreign key or a check.
    DropConstraint(String),
    /// `RENAME INDEX a TO b`.
    RenameIndex {
        /// From.
        old_name: String,
        /// To.
        new_name: String,
    },
    /// `ALTER INDEX i VISIBLE | INVISIBLE`.
    SetIndexVisible {
        /// The index.
        name: String,
        /// `VISIBLE`.
        visible: bool,
    },
    /// `ALTER CHECK | CONSTRAINT c [NOT] ENFORCED`.
    SetCheckEnforced {
        /// The constraint.
        name: String,
        /// False after `NOT`.
        enforced: bool,
    },
    /// `RENAME [TO | AS] name`.
    RenameTo(ObjectName),
    /// A table option.
    Option(TableOption),
    /// `CONVERT TO CHARACTER SET cs [COLLATE c]`.
    ConvertCharset {
        /// The character set; the default one when absent.
        charset: Option<String>,
        /// The collation.
        collation: Option<String>,
    },
    /// `ORDER BY`.
    OrderBy(Vec<String>),
    /// `PARTITION BY ..`.
    PartitionBy(PartitionBy),
    /// `REMOVE PARTITIONING`.
    RemovePartitioning,
    /// `ADD PARTITION (..)`.
    AddPartitions(Vec<PartitionDef>),
    /// `ADD PARTITION PARTITIONS n`.
    AddHashPartitions(u32),
    /// `DROP PARTITION p0, p1`.
    DropPartitions(Vec<String>),
    /// `TRUNCATE PARTITION p0, p1`; empty is `ALL`.
    TruncatePartitions(Vec<String>),
    /// `COALESCE PARTITION n`.
    CoalescePartitions(u32),
    /// `REORGANIZE PARTITION p0 INTO (..)`.
    ReorganizePartitions {
        /// From.
        names: Vec<String>,
        /// To.
        into: Vec<PartitionDef>,
    },
    /// `EXCHANGE PARTITION p WITH TABLE t`.
    ExchangePartition {
        /// The partition.
        partition: String,
        /// The table.
        table: ObjectName,
    },
    /// `ENABLE | DISABLE KEYS`, `FORCE`, `DISCARD TABLESPACE` and their like, upper case: no
    /// effect.
    NoEffect(String),
}

/// Where a column goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnPosition {
    /// `FIRST`.
    First,
    /// `AFTER column`.
    After(String),
}

/// `FLASHBACK ..`: what brings the past back.
#[derive(Clone, Debug, PartialEq)]
pub enum Flashback {
    /// `FLASHBACK TABLE t [TO name]`, `RECOVER TABLE t`: a dropped or emptied table.
    Table {
        /// Its name when it was dropped.
        name: ObjectName,
        /// Its new name.
        to: Option<String>,
    },
    /// `FLASHBACK DATABASE d [TO name]`: a dropped database with the tables that it had.
    Database {
        /// Its name when it was dropped.
        name: String,
        /// Its new name.
        to: Option<String>,
    },
    /// `FLASHBACK CLUSTER TO ..`: all data.
    Cluster(FlashbackTime),
}

/// To which time a cluster goes back.
#[derive(Clone, Debug, PartialEq)]
pub enum FlashbackTime {
    /// `TIMESTAMP expr`.
    Timestamp(Expr),
    /// `TSO n`.
    Tso(u64),
}

/// One pair of `RENAME TABLE a TO b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenamePair {
    /// From.
    pub from: ObjectName,
    /// To.
    pub to: ObjectName,
}

/// A literal default, when the default is one.
pub fn literal_default(attribute: &ColumnAttribute) -> Option<&Literal> {
    match attribute {
        ColumnAttribute::Default { expr: Expr::Literal(literal), .. } => Some(literal),
        _ => None,
    }
}
