//! Tables of a script: definitions, and the pairs that rows and entries make.

use std::collections::{BTreeMap, BTreeSet};

use cairn_types::keys::{encode_row_key, index_range, row_range};
use cairn_types::row::encode_row;
use cairn_types::{
    CastContext, Collation, ColumnId, Datum, FieldType, Handle, IndexId, TableId, cast_datum,
};

use crate::index_entry::{EntryColumn, EntryIndex, encode_index_entry};
use crate::plan::{IndexScanDesc, ScanColumn, TableScanDesc};
use crate::source::KeyRange;
use crate::testing::MemorySource;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Clone)]
pub(super) struct Table {
    pub(super) id: TableId,
    names: Vec<String>,
    pub(super) columns: Vec<ScanColumn>,
    indexes: Vec<Index>,
}

#[derive(Clone)]
struct Index {
    name: String,
    id: IndexId,
    unique: bool,
    columns: Vec<usize>,
}

impl Table {
    /// Types of the common handle's columns, in order.
    pub(super) fn handle_types(&self) -> Vec<FieldType> {
        self.handle_columns().into_iter().map(|at| self.columns[at].ty.clone()).collect()
    }

    fn handle_columns(&self) -> Vec<usize> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            parts.extend(column.handle_part.map(|part| (part, at)));
        }
        parts.sort_unstable();
        parts.into_iter().map(|(_, at)| at).collect()
    }

    fn column(&self, name: &str) -> Result<usize> {
        Ok(self.names.iter().position(|own| own == name).ok_or("no such column")?)
    }

    /// The handle as a column of its own.
    fn handle_column(&self) -> ScanColumn {
        match self.handle_types().is_empty() {
            true => ScanColumn::handle(ColumnId(-1), FieldType::bigint()),
            false => ScanColumn::handle(ColumnId(-1), FieldType::varbinary(255)),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Tables {
    tables: BTreeMap<String, Table>,
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    remote: BTreeSet<Vec<u8>>,
}

impl Tables {
    pub(super) fn get(&self, name: &str) -> Result<&Table> {
        Ok(self.tables.get(name).ok_or_else(|| format!("no table {name}"))?)
    }

    pub(super) fn source(&self) -> MemorySource {
        MemorySource::new(self.pairs.clone()).with_remote(self.remote.clone())
    }

    pub(super) fn create(&mut self, args: &[&str]) -> Result<()> {
        let id = TableId(self.tables.len() as i64 + 1);
        let mut table = Table { id, names: Vec::new(), columns: Vec::new(), indexes: Vec::new() };
        for (at, definition) in args[1..].iter().enumerate() {
            let mut parts = definition.split('/');
            let name = parts.next().unwrap_or_default();
            let ty = parse_type(parts.next().ok_or("a column needs a type")?)?;
            let mut column = ScanColumn::new(ColumnId(at as i64 + 1), ty.clone());
            for attribute in parts {
                if attribute == "handle" {
                    column.is_handle = true;
                } else if let Some(part) = attribute.strip_prefix("part") {
                    column.handle_part = Some(part.parse()?);
                } else if let Some(value) = attribute.strip_prefix("default=") {
                    column.default = parse_value(value, &ty)?;
                }
            }
            table.names.push(name.to_string());
            table.columns.push(column);
        }
        self.tables.insert(args[0].to_string(), table);
        Ok(())
    }

    pub(super) fn create_index(&mut self, args: &[&str]) -> Result<()> {
        let table = self.tables.get_mut(args[1]).ok_or("no such table")?;
        let unique = args.last() == Some(&"unique");
        let names = &args[2..args.len() - usize::from(unique)];
        let columns: Result<Vec<usize>> = names.iter().map(|name| table.column(name)).collect();
        let id = IndexId(table.indexes.len() as i64 + 1);
        table.indexes.push(Index { name: args[0].into(), id, unique, columns: columns? });
        Ok(())
    }

    /// A value `-` is left out of the row, as if the column came later.
    pub(super) fn insert(&mut self, args: &[&str]) -> Result<()> {
        let table = self.tables.get(args[0]).ok_or("no such table")?;
        let mut values: Vec<Option<Datum>> = Vec::new();
        for (text, column) in args[1..].iter().zip(&table.columns) {
            values.push(match *text {
                "-" => None,
                text => Some(parse_value(text, &column.ty)?),
            });
        }
        let null = Datum::Null;
        let value = |at: usize| values[at].as_ref().unwrap_or(&null);
        let entry_column = |at: usize| EntryColumn {
            id: table.columns[at].id,
            value: value(at).as_ref(),
            ty: &table.columns[at].ty,
        };
        let handle_columns: Vec<EntryColumn<'_>> =
            table.handle_columns().into_iter().map(entry_column).collect();
        let handle = match table.columns.iter().position(|column| column.is_handle) {
            Some(at) => Handle::Int(value(at).as_i64().ok_or("the handle is an integer")?),
            None if handle_columns.is_empty() => Handle::Int(self.pairs.len() as i64 + 1),
            None => {
                let mut key = Vec::new();
                let parts = handle_columns.iter().map(|part| (part.value.clone(), part.ty));
                cairn_types::codec::encode_key(&mut key, parts);
                Handle::common(key)
            }
        };
        let stored = table.columns.iter().zip(&values).filter(|(column, _)| {
            let in_key =
                column.handle_part.is_some() && cairn_types::codec::key_is_restorable(&column.ty);
            !column.is_handle && !in_key
        });
        let stored = stored
            .filter_map(|(column, value)| value.as_ref().map(|value| (column.id, value.as_ref())));
        let mut pairs = vec![(encode_row_key(table.id, &handle), encode_row(stored)?)];
        for index in &table.indexes {
            let columns: Vec<EntryColumn<'_>> =
                index.columns.iter().map(|at| entry_column(*at)).collect();
            let place = EntryIndex { table: table.id, index: index.id, unique: index.unique };
            pairs.push(encode_index_entry(place, &columns, &handle, &handle_columns)?);
        }
        self.pairs.extend(pairs);
        Ok(())
    }

    pub(super) fn make_remote(&mut self, args: &[&str]) -> Result<()> {
        let table = self.get(args[0])?;
        let key = encode_row_key(table.id, &Handle::Int(args[1].parse()?));
        self.remote.insert(key);
        Ok(())
    }

    pub(super) fn table_scan(
        &self,
        name: &str,
        desc: bool,
    ) -> Result<(TableScanDesc, Vec<KeyRange>)> {
        let table = self.get(name)?;
        let (start, end) = row_range(table.id);
        let scan = TableScanDesc {
            table_id: table.id,
            columns: table.columns.clone(),
            desc,
            handle_types: table.handle_types(),
        };
        Ok((scan, vec![KeyRange::new(start, end)]))
    }

    pub(super) fn index_scan(
        &self,
        table: &str,
        index: &str,
        desc: bool,
    ) -> Result<(IndexScanDesc, Vec<KeyRange>)> {
        let table = self.get(table)?;
        let index = table.indexes.iter().find(|own| own.name == index).ok_or("no such index")?;
        let (start, end) = index_range(table.id, index.id);
        let of_index = |at: &usize| {
            let column = &table.columns[*at];
            ScanColumn::new(column.id, column.ty.clone())
        };
        let mut columns: Vec<ScanColumn> = index.columns.iter().map(of_index).collect();
        let parts = table.columns.iter().filter(|column| column.handle_part.is_some());
        columns.extend(parts.cloned());
        columns.push(table.handle_column());
        let scan = IndexScanDesc {
            table_id: table.id,
            index_id: index.id,
            columns,
            desc,
            unique: index.unique,
            handle_types: table.handle_types(),
        };
        Ok((scan, vec![KeyRange::new(start, end)]))
    }
}

/// `int`, `bigint`, `uint`, `double`, `dec` (10,2), `text`, `bin`, `date`, `time`.
pub(super) fn parse_type(text: &str) -> Result<FieldType> {
    Ok(match text {
        "int" | "bigint" => FieldType::bigint(),
        "uint" => FieldType::bigint_unsigned(),
        "double" => FieldType::double(),
        "dec" => FieldType::decimal(10, 2),
        "wide" => FieldType::decimal(60, 20),
        "text" => FieldType::varchar(50).with_collation(collation("utf8mb4_general_ci")),
        "bin" => FieldType::varbinary(50),
        "date" => FieldType::date(),
        "time" => FieldType::time(0),
        _ => return Err(format!("unknown type {text}").into()),
    })
}

fn collation(name: &str) -> Collation {
    Collation::from_name(name).expect("a known collation")
}

pub(super) fn parse_value(text: &str, ty: &FieldType) -> Result<Datum> {
    if text == "NULL" {
        return Ok(Datum::Null);
    }
    let text = Datum::from(text);
    Ok(cast_datum(&text, &FieldType::string(), ty, &mut CastContext::default())?)
}
