//! A locked key as people know it: `{"db_name":"d","table_name":"t",…}`, with TiDB's names.

use cairn_planner::Catalog;
use cairn_types::{Handle, keys};
use serde_json::{Map, Value, json};

use crate::catalog::SchemaSnapshot;
use crate::record;

/// What is known of a key; `None` when it is no table's.
pub fn key_info(schema: &SchemaSnapshot, key: &[u8]) -> Option<String> {
    let table_id = keys::decode_table_id(key).ok()?;
    let mut info = Map::new();
    let mut put = |name: &str, value: Value| info.insert(name.to_owned(), value);
    let known = schema.table_by_id(table_id);
    if let Some((database, table)) = &known {
        let databases = schema.databases();
        let named = databases.iter().find(|one| one.id == *database);
        put("db_id", json!(database.0));
        if let Some(named) = named {
            put("db_name", json!(named.name));
        }
        put("table_id", json!(table_id.0));
        put("table_name", json!(table.name));
    } else {
        put("table_id", json!(table_id.0));
    }
    let table = known.map(|(_, table)| table);
    if let Ok(entry) = keys::decode_index_key(key) {
        put("index_id", json!(entry.index.0));
        let index = table
            .as_ref()
            .and_then(|table| table.indices.iter().find(|index| index.id == entry.index));
        if let (Some(table), Some(index)) = (&table, index) {
            put("index_name", json!(index.name));
            put("index_values", json!(record::key_values(table, index, key)));
        }
    } else if let Ok((_, handle)) = keys::decode_row_key(key) {
        match handle {
            Handle::Int(value) => {
                put("handle_type", json!("int"));
                put("handle_value", json!(value.to_string()));
            }
            Handle::Common(_) => {
                put("handle_type", json!("common"));
                let primary = table.as_ref().and_then(|table| Some((table, table.primary_key()?)));
                if let Some((table, index)) = primary {
                    put("handle_value", json!(record::key_values(table, index, key).join(", ")));
                }
            }
        }
    }
    Some(Value::Object(info).to_string())
}
