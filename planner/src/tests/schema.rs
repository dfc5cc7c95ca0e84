//! A schema made of CREATE TABLE statements, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_parser::ast::{
    ColumnAttribute, CreateTable, DataType, IndexKind, IntegerSize, KeyTarget, Literal,
    TableConstraint,
};
use cairn_types::{Collation, FieldType, IndexId, SchemaId, TypeCode};

use crate::catalog::{
    Catalog, ColumnDefault, ColumnInfo, DatabaseInfo, GeneratedColumn, IndexColumn, IndexInfo,
    TableInfo,
};

/// Name, kind and parts of a key.
type Key = (String, IndexKind, Vec<(String, Option<u32>)>);

/// One database, `test`, and a virtual one.
#[derive(Default)]
pub(crate) struct TestCatalog {
    tables: BTreeMap<String, Arc<TableInfo>>,
}

impl TestCatalog {
    /// Adds a table.
    pub fn create_table(&mut self, create: &CreateTable) -> Result<(), String> {
        let id = self.tables.len() as i64 + 1;
        let mut table = TableInfo::new(id, create.name.name.as_str());
        let mut keys: Vec<Key> = Vec::new();
        for (at, definition) in create.columns.iter().enumerate() {
            let ty = field_type(&definition.data_type)?;
            let mut column = ColumnInfo::new(at as i64 + 1, definition.name.as_str(), ty);
            let own = vec![(definition.name.clone(), None)];
            for attribute in &definition.attributes {
                match attribute {
                    ColumnAttribute::NotNull => column.ty.not_null = true,
                    ColumnAttribute::AutoIncrement => column.auto_increment = true,
                    ColumnAttribute::Unique => {
                        keys.push((definition.name.clone(), IndexKind::Unique, own.clone()));
                    }
                    ColumnAttribute::PrimaryKey { .. } => {
                        keys.push(("PRIMARY".into(), IndexKind::Primary, own.clone()));
                    }
                    ColumnAttribute::Default {
                        expr: cairn_parser::ast::Expr::Literal(Literal::Integer(text)),
                        ..
                    } => column.default = Some(ColumnDefault::Literal(text.clone())),
                    ColumnAttribute::Generated { text, stored, .. } => {
                        column.generated =
                            Some(GeneratedColumn { expr: text.clone(), stored: *stored });
                    }
                    _ => {}
                }
            }
            table.columns.push(column);
        }
        for constraint in &create.constraints {
            let TableConstraint::Index(index) = constraint else { continue };
            let mut parts = Vec::new();
            for part in &index.parts {
                let KeyTarget::Column { name, prefix_length } = &part.target else {
                    return Err("an index on an expression".into());
                };
                parts.push((name.clone(), *prefix_length));
            }
            let name = match index.kind {
                IndexKind::Primary => "PRIMARY".to_string(),
                _ => index.name.clone().unwrap_or_else(|| parts[0].0.clone()),
            };
            keys.push((name, index.kind, parts));
        }
        for (at, (name, kind, parts)) in keys.into_iter().enumerate() {
            add_index(&mut table, at as i64 + 1, name, kind, &parts)?;
        }
        self.tables.insert(create.name.name.to_lowercase(), Arc::new(table));
        Ok(())
    }
}

fn add_index(
    table: &mut TableInfo,
    id: i64,
    name: String,
    kind: IndexKind,
    parts: &[(String, Option<u32>)],
) -> Result<(), String> {
    let mut columns = Vec::new();
    for (name, prefix_length) in parts {
        let (offset, _) = table.find_column(name).ok_or("no such column")?;
        columns.push(IndexColumn { offset, prefix_length: *prefix_length });
    }
    if kind == IndexKind::Primary {
        for part in &columns {
            table.columns[part.offset].ty.not_null = true;
        }
        let single_integer = columns.len() == 1 && table.columns[columns[0].offset].ty.is_integer();
        table.pk_is_handle = single_integer;
        table.common_handle = !single_integer;
    }
    table.indices.push(IndexInfo {
        id: IndexId(id),
        name,
        columns,
        unique: matches!(kind, IndexKind::Primary | IndexKind::Unique),
        primary: kind == IndexKind::Primary,
        invisible: false,
        comment: String::new(),
        state: Default::default(),
    });
    Ok(())
}

fn field_type(data_type: &DataType) -> Result<FieldType, String> {
    let sign = |ty: FieldType, unsigned: bool| if unsigned { ty.with_unsigned() } else { ty };
    Ok(match data_type {
        DataType::Integer { size, unsigned, .. } => {
            let ty = match size {
                IntegerSize::Tiny => FieldType::tinyint(),
                IntegerSize::Small => FieldType::smallint(),
                IntegerSize::Medium => FieldType::mediumint(),
                IntegerSize::Int => FieldType::int(),
                IntegerSize::Big => FieldType::bigint(),
            };
            sign(ty, *unsigned)
        }
        DataType::Decimal { precision, scale, .. } => {
            FieldType::decimal(precision.unwrap_or(10), scale.unwrap_or(0) as u8)
        }
        DataType::Double { .. } => FieldType::double(),
        DataType::Date => FieldType::date(),
        DataType::DateTime(fsp) => FieldType::datetime(*fsp),
        DataType::Timestamp(fsp) => FieldType::timestamp(*fsp),
        DataType::Char { length, charset } => text(FieldType::char(length.unwrap_or(1)), charset),
        DataType::VarChar { length, charset } => text(FieldType::varchar(*length), charset),
        DataType::Text { .. } => FieldType::new(TypeCode::Text),
        other => return Err(format!("no test type for {other:?}")),
    })
}

fn text(ty: FieldType, charset: &cairn_parser::ast::Charset) -> FieldType {
    match charset.collation.as_deref().and_then(Collation::from_name) {
        Some(collation) => ty.with_collation(collation),
        None => ty,
    }
}

impl Catalog for TestCatalog {
    fn version(&self) -> i64 {
        self.tables.len() as i64
    }

    fn database(&self, name: &str) -> Option<Arc<DatabaseInfo>> {
        let found =
            ["test", "information_schema"].into_iter().find(|n| n.eq_ignore_ascii_case(name))?;
        Some(Arc::new(DatabaseInfo {
            id: SchemaId(1),
            name: found.to_string(),
            collation: Collation::default(),
        }))
    }

    fn table(&self, database: &str, name: &str) -> Option<Arc<TableInfo>> {
        if database.eq_ignore_ascii_case("information_schema")
            && name.eq_ignore_ascii_case("tables")
        {
            let mut table = TableInfo::new(1_000_000, "TABLES");
            for (at, name) in ["TABLE_SCHEMA", "TABLE_NAME"].into_iter().enumerate() {
                table.columns.push(ColumnInfo::new(at as i64 + 1, name, FieldType::varchar(64)));
            }
            table.is_virtual = true;
            return Some(Arc::new(table));
        }
        if !database.eq_ignore_ascii_case("test") {
            return None;
        }
        self.tables.get(&name.to_lowercase()).cloned()
    }

    fn databases(&self) -> Vec<Arc<DatabaseInfo>> {
        self.database("test").into_iter().collect()
    }

    fn tables(&self, _database: &str) -> Vec<Arc<TableInfo>> {
        self.tables.values().cloned().collect()
    }
}
