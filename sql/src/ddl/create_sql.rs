//! `SHOW CREATE TABLE` and `SHOW CREATE DATABASE`: the schema as SQL, laid out as MySQL 8
//! lays it out, because tools parse it.

use std::fmt::Write;

use cairn_planner::catalog::{ColumnDefault, ColumnInfo, DatabaseInfo, IndexInfo, TableInfo};
use cairn_types::{Collation, TypeCode};

fn quoted_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The statement that makes a database.
pub fn create_database(database: &DatabaseInfo, if_not_exists: bool) -> String {
    let charset = database.collation.charset();
    let collate =
        if database.collation == charset.default_collation() && charset.name() != "utf8mb4" {
            String::new()
        } else {
            format!(" COLLATE {}", database.collation.name())
        };
    // As MySQL writes it: for servers that know it.
    let if_not_exists = if if_not_exists { "/*!32312 IF NOT EXISTS*/ " } else { "" };
    format!(
        "CREATE DATABASE {if_not_exists}{} /*!40100 DEFAULT CHARACTER SET {}{collate} */ /*!80016 DEFAULT ENCRYPTION='N' */",
        quoted_name(&database.name),
        charset.name()
    )
}

/// The statement that makes a table; `next_id`: its next AUTO_INCREMENT value.
pub fn create_table(table: &TableInfo, next_id: Option<u64>) -> String {
    let mut items: Vec<String> =
        table.public_columns().map(|(_, column)| column_sql(column, table.collation)).collect();
    let public = || table.indices.iter().filter(|index| index.state.is_public());
    items.extend(public().filter(|index| index.primary).map(|index| index_sql(table, index)));
    items.extend(
        public()
            .filter(|index| index.unique && !index.primary)
            .map(|index| index_sql(table, index)),
    );
    items.extend(public().filter(|index| !index.unique).map(|index| index_sql(table, index)));
    for key in &table.foreign_keys {
        let names = |names: &[String]| {
            names.iter().map(|name| quoted_name(name)).collect::<Vec<_>>().join(",")
        };
        let schema = key
            .ref_schema
            .as_ref()
            .map_or(String::new(), |schema| format!("{}.", quoted_name(schema)));
        let mut item = format!(
            "CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {schema}{} ({})",
            quoted_name(&key.name),
            names(&key.columns),
            quoted_name(&key.ref_table),
            names(&key.ref_columns)
        );
        for (clause, action) in [("ON DELETE", &key.on_delete), ("ON UPDATE", &key.on_update)] {
            if !action.is_empty() && action != "NO ACTION" {
                let _ = write!(item, " {clause} {action}");
            }
        }
        items.push(item);
    }
    for check in &table.checks {
        let enforced = if check.enforced { "" } else { " /*!80016 NOT ENFORCED */" };
        items.push(format!(
            "CONSTRAINT {} CHECK ({}){enforced}",
            quoted_name(&check.name),
            check.expr
        ));
    }
    let mut sql = format!(
        "CREATE TABLE {} (\n  {}\n) ENGINE=InnoDB",
        quoted_name(&table.name),
        items.join(",\n  ")
    );
    if let Some(next) = next_id.filter(|next| *next > 1) {
        let _ = write!(sql, " AUTO_INCREMENT={next}");
    }
    let charset = table.collation.charset();
    let _ = write!(sql, " DEFAULT CHARSET={}", charset.name());
    if table.collation != charset.default_collation() || charset.name() == "utf8mb4" {
        let _ = write!(sql, " COLLATE={}", table.collation.name());
    }
    if !table.comment.is_empty() {
        let _ = write!(sql, " COMMENT={}", quoted_text(&table.comment));
    }
    sql
}

fn column_sql(column: &ColumnInfo, table_collation: Collation) -> String {
    let ty = &column.ty;
    let mut sql = format!("{} {}", quoted_name(&column.name), ty.to_sql());
    let is_text = (ty.is_string() && !ty.is_binary_string()) || ty.is_enum_or_set();
    if is_text && ty.collation != table_collation {
        let charset = ty.collation.charset();
        let _ = write!(sql, " CHARACTER SET {}", charset.name());
        if ty.collation != charset.default_collation() || charset.name() == "utf8mb4" {
            let _ = write!(sql, " COLLATE {}", ty.collation.name());
        }
    }
    if let Some(generated) = &column.generated {
        let kind = if generated.stored { "STORED" } else { "VIRTUAL" };
        let _ = write!(sql, " GENERATED ALWAYS AS ({}) {kind}", generated.expr);
    }
    if ty.not_null {
        sql.push_str(" NOT NULL");
    } else if ty.code == TypeCode::Timestamp {
        sql.push_str(" NULL");
    }
    if let Some(default) = default_sql(column) {
        let _ = write!(sql, " DEFAULT {default}");
    }
    match column.on_update_now {
        Some(0) => sql.push_str(" ON UPDATE CURRENT_TIMESTAMP"),
        Some(fsp) => {
            let _ = write!(sql, " ON UPDATE CURRENT_TIMESTAMP({fsp})");
        }
        None => {}
    }
    if column.auto_increment {
        sql.push_str(" AUTO_INCREMENT");
    }
    if !column.comment.is_empty() {
        let _ = write!(sql, " COMMENT {}", quoted_text(&column.comment));
    }
    if column.hidden {
        sql.push_str(" /*!80023 INVISIBLE */");
    }
    sql
}

fn default_sql(column: &ColumnInfo) -> Option<String> {
    let takes_default = !column.ty.is_blob() && column.ty.code != TypeCode::Json;
    match &column.default {
        Some(ColumnDefault::Literal(text)) => Some(quoted_text(text)),
        Some(ColumnDefault::Bytes(bytes)) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            Some(format!("0x{digits}"))
        }
        Some(ColumnDefault::CurrentTimestamp { fsp: 0 }) => Some("CURRENT_TIMESTAMP".to_owned()),
        Some(ColumnDefault::CurrentTimestamp { fsp }) => Some(format!("CURRENT_TIMESTAMP({fsp})")),
        Some(ColumnDefault::Expr(text)) => Some(format!("({text})")),
        Some(ColumnDefault::Null) | None => {
            let implied = !column.ty.not_null && column.generated.is_none() && takes_default;
            implied.then(|| "NULL".to_owned())
        }
    }
}

fn index_sql(table: &TableInfo, index: &IndexInfo) -> String {
    let parts: Vec<String> = index
        .columns
        .iter()
        .map(|part| {
            let name = quoted_name(&table.columns[part.offset].name);
            part.prefix_length.map_or_else(|| name.clone(), |length| format!("{name}({length})"))
        })
        .collect();
    let parts = parts.join(",");
    let mut sql = if index.primary {
        format!("PRIMARY KEY ({parts})")
    } else {
        let unique = if index.unique { "UNIQUE " } else { "" };
        format!("{unique}KEY {} ({parts})", quoted_name(&index.name))
    };
    if index.primary && !table.pk_is_handle && !table.common_handle {
        sql.push_str(" /*T![clustered_index] NONCLUSTERED */");
    }
    if !index.comment.is_empty() {
        let _ = write!(sql, " COMMENT {}", quoted_text(&index.comment));
    }
    if index.invisible {
        sql.push_str(" /*!80000 INVISIBLE */");
    }
    sql
}
