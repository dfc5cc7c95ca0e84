//! Rows of the virtual tables.

use std::sync::Arc;

use cairn_planner::Catalog;
use cairn_planner::catalog::{ColumnDefault, ColumnInfo, DatabaseInfo, IndexInfo, TableInfo};
use cairn_types::collation::{COLLATIONS, Charset};
use cairn_types::time::TimeKind;
use cairn_types::{Collation, Datum, FieldType, TimeZone, TypeCode};

use super::Rows;
use crate::catalog::SchemaSnapshot;
use crate::domain::Domain;
use crate::statistics::Known;

/// The only catalog there is.
const CATALOG: &str = "def";

fn text(value: impl Into<String>) -> Datum {
    Datum::text(value)
}

fn opt(value: Option<Datum>) -> Datum {
    value.unwrap_or(Datum::Null)
}

fn yes_no(value: bool) -> Datum {
    text(if value { "YES" } else { "NO" })
}

/// All rows of a virtual table; tables about things Cairn does not have are empty.
pub fn of_table(domain: &Domain, schema: &SchemaSnapshot, database: &str, table: &str) -> Rows {
    if database.eq_ignore_ascii_case("mysql") {
        return if table == "user" { users(domain) } else { Rows::new() };
    }
    match table {
        "CHARACTER_SETS" => character_sets(),
        "CHECK_CONSTRAINTS" => each_table(schema, check_constraints),
        "COLLATIONS" => collations(),
        "COLLATION_CHARACTER_SET_APPLICABILITY" => applicability(),
        "COLUMNS" => each_table(schema, columns),
        "ENGINES" => engines(),
        "KEYWORDS" => super::keywords::keywords(),
        "KEY_COLUMN_USAGE" => each_table(schema, key_column_usage),
        "PROCESSLIST" => processes(domain),
        "REFERENTIAL_CONSTRAINTS" => each_table(schema, referential_constraints),
        "SCHEMATA" => schemata(schema),
        "STATISTICS" => {
            each_table(schema, |database, table, rows| statistics(domain, database, table, rows))
        }
        "TABLES" => {
            each_table(schema, |database, table, rows| tables(domain, database, table, rows))
        }
        "TABLE_CONSTRAINTS" => each_table(schema, table_constraints),
        "USER_PRIVILEGES" => user_privileges(domain),
        _ => Rows::new(),
    }
}

fn each_table(
    schema: &SchemaSnapshot,
    make: impl Fn(&DatabaseInfo, &Arc<TableInfo>, &mut Rows),
) -> Rows {
    let mut rows = Rows::new();
    for database in schema.databases() {
        for table in schema.tables(&database.name) {
            make(&database, &table, &mut rows);
        }
    }
    rows
}

fn character_sets() -> Rows {
    let row = |charset: &Charset| {
        vec![
            text(charset.name()),
            text(charset.default_collation().name()),
            text(charset.description()),
            Datum::Int(i64::from(charset.max_len())),
        ]
    };
    Charset::ALL.iter().map(row).collect()
}

fn collations() -> Rows {
    let row = |collation: Collation| {
        vec![
            text(collation.name()),
            text(collation.charset().name()),
            Datum::UInt(u64::from(collation.id())),
            text(if collation.is_default() { "Yes" } else { "" }),
            text("Yes"),
            Datum::Int(1),
            text(if collation.pad_space() { "PAD SPACE" } else { "NO PAD" }),
        ]
    };
    COLLATIONS.iter().map(|info| row(info.collation)).collect()
}

fn applicability() -> Rows {
    let row = |collation: Collation| vec![text(collation.name()), text(collation.charset().name())];
    COLLATIONS.iter().map(|info| row(info.collation)).collect()
}

fn engines() -> Rows {
    let comment = "Supports transactions, row-level locking, and foreign keys";
    let yes = || text("YES");
    vec![vec![text("InnoDB"), text("DEFAULT"), text(comment), yes(), yes(), yes()]]
}

fn users(domain: &Domain) -> Rows {
    let mut accounts = domain.accounts.all();
    accounts.sort_by(|a, b| (&a.user, &a.host).cmp(&(&b.user, &b.host)));
    let row = |account: crate::accounts::Account| {
        let locked = if account.locked { "Y" } else { "N" };
        vec![
            text(account.host),
            text(account.user),
            text(account.plugin),
            text(account.secret),
            text(locked),
            text("N"),
        ]
    };
    accounts.into_iter().map(row).collect()
}

fn user_privileges(domain: &Domain) -> Rows {
    let row = |account: crate::accounts::Account| {
        let grantee = format!("'{}'@'{}'", account.user, account.host);
        vec![text(grantee), text(CATALOG), text("ALL"), text("YES")]
    };
    domain.accounts.all().into_iter().map(row).collect()
}

fn processes(domain: &Domain) -> Rows {
    let list = domain.processes.list();
    let row = |process: &Arc<crate::processes::Process>| {
        let activity = process.activity();
        let running = if activity.command == "Sleep" { "" } else { "executing" };
        let state = activity.waits_for.unwrap_or(running);
        vec![
            Datum::UInt(u64::from(process.id.0)),
            text(activity.user),
            text(activity.host),
            opt(activity.database.map(text)),
            text(activity.command),
            Datum::Int(activity.since.elapsed().as_secs() as i64),
            text(state),
            opt(activity.statement.map(text)),
        ]
    };
    list.iter().map(row).collect()
}

fn schemata(schema: &SchemaSnapshot) -> Rows {
    let row = |database: Arc<DatabaseInfo>| {
        vec![
            text(CATALOG),
            text(&database.name),
            text(database.collation.charset().name()),
            text(database.collation.name()),
            Datum::Null,
            text("NO"),
        ]
    };
    schema.databases().into_iter().map(row).collect()
}

fn tables(domain: &Domain, database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    let time = TimeZone::utc().from_unix_micros(
        (table.update_time_ms as i64).saturating_mul(1_000),
        TimeKind::DateTime,
        0,
    );
    let time = || opt(time.map(Datum::Time));
    let stored = !table.is_virtual;
    let number = |value: u64| if stored { Datum::UInt(value) } else { Datum::Null };
    let known = domain.statistics.known_with_distributions(table);
    let count = known.as_ref().map_or(0, Known::rows);
    let (row_bytes, entry_bytes) = known.map_or((0.0, 0.0), |known| known.row_bytes(table));
    // Saturates.
    let bytes = |each: f64| number((each * count as f64) as u64);
    let auto =
        table.auto_increment_column().map(|_| Datum::UInt(table.auto_increment_start.unwrap_or(1)));
    rows.push(vec![
        text(CATALOG),
        text(&database.name),
        text(&table.name),
        text(if stored { "BASE TABLE" } else { "SYSTEM VIEW" }),
        if stored { text("InnoDB") } else { Datum::Null },
        Datum::Int(10),
        if stored { text("Dynamic") } else { Datum::Null },
        number(count),
        number(row_bytes as u64),
        bytes(row_bytes),
        number(0),
        bytes(entry_bytes),
        number(0),
        opt(auto),
        time(),
        Datum::Null,
        Datum::Null,
        if stored { text(table.collation.name()) } else { Datum::Null },
        Datum::Null,
        text(""),
        text(&table.comment),
    ]);
}

/// `COLUMN_KEY`: the strongest key the column is first in.
pub fn column_key(table: &TableInfo, offset: usize) -> &'static str {
    let mut key = "";
    for index in table.indices.iter().filter(|index| index.state.is_public()) {
        let Some(at) = index.columns.iter().position(|part| part.offset == offset) else {
            continue;
        };
        if index.primary {
            return "PRI";
        }
        if at == 0 && index.unique && index.columns.len() == 1 {
            key = "UNI";
        } else if at == 0 && key.is_empty() {
            key = "MUL";
        }
    }
    key
}

/// `COLUMN_DEFAULT`; `None`: NULL.
pub fn column_default(column: &ColumnInfo) -> Option<String> {
    match column.default.as_ref()? {
        ColumnDefault::Null => None,
        ColumnDefault::Literal(text) => Some(text.clone()),
        ColumnDefault::Bytes(bytes) => Some(cairn_types::text::escape_bytes(bytes)),
        ColumnDefault::CurrentTimestamp { fsp: 0 } => Some("CURRENT_TIMESTAMP".to_owned()),
        ColumnDefault::CurrentTimestamp { fsp } => Some(format!("CURRENT_TIMESTAMP({fsp})")),
        ColumnDefault::Expr(text) => Some(text.clone()),
    }
}

/// `EXTRA`.
pub fn column_extra(column: &ColumnInfo) -> String {
    let mut extra = Vec::new();
    if column.auto_increment {
        extra.push("auto_increment".to_owned());
    }
    if matches!(
        column.default,
        Some(ColumnDefault::CurrentTimestamp { .. } | ColumnDefault::Expr(_))
    ) {
        extra.push("DEFAULT_GENERATED".to_owned());
    }
    match column.on_update_now {
        Some(0) => extra.push("on update CURRENT_TIMESTAMP".to_owned()),
        Some(fsp) => extra.push(format!("on update CURRENT_TIMESTAMP({fsp})")),
        None => {}
    }
    if let Some(generated) = &column.generated {
        extra.push(
            if generated.stored { "STORED GENERATED" } else { "VIRTUAL GENERATED" }.to_owned(),
        );
    }
    if column.hidden {
        extra.push("INVISIBLE".to_owned());
    }
    extra.join(" ")
}

fn columns(database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    for (position, (offset, column)) in table.public_columns().enumerate() {
        let ty = &column.ty;
        let is_text = ty.is_string() && !ty.is_binary_string() || ty.is_enum_or_set();
        let length = character_length(ty);
        let (precision, scale) = numeric_shape(ty);
        let is_clock = matches!(ty.code, TypeCode::DateTime | TypeCode::Timestamp | TypeCode::Time);
        rows.push(vec![
            text(CATALOG),
            text(&database.name),
            text(&table.name),
            text(&column.name),
            Datum::UInt(position as u64 + 1),
            opt(column_default(column).map(text)),
            yes_no(!ty.not_null),
            text(ty.name()),
            opt(length.map(|(chars, _)| Datum::Int(chars))),
            opt(length.map(|(_, bytes)| Datum::Int(bytes))),
            opt(precision.map(Datum::UInt)),
            opt(scale.map(Datum::UInt)),
            if is_clock { Datum::UInt(u64::from(ty.fsp())) } else { Datum::Null },
            if is_text { text(ty.collation.charset().name()) } else { Datum::Null },
            if is_text { text(ty.collation.name()) } else { Datum::Null },
            text(ty.to_sql()),
            text(column_key(table, offset)),
            text(column_extra(column)),
            text("select,insert,update,references"),
            text(&column.comment),
            text(column.generated.as_ref().map_or("", |generated| generated.expr.as_str())),
            Datum::Null,
        ]);
    }
}

/// Characters and bytes of a string type.
fn character_length(ty: &FieldType) -> Option<(i64, i64)> {
    if !ty.is_string() && !ty.is_enum_or_set() {
        return None;
    }
    if let Some(bytes) = ty.blob_max_bytes() {
        return Some((bytes as i64, bytes as i64));
    }
    let max_len =
        i64::from(if ty.is_binary_string() { 1 } else { ty.collation.charset().max_len() });
    let bytes = i64::from(ty.display_length());
    Some((bytes / max_len, bytes))
}

/// `NUMERIC_PRECISION` and `NUMERIC_SCALE`.
fn numeric_shape(ty: &FieldType) -> (Option<u64>, Option<u64>) {
    let digits = match (ty.code, ty.unsigned) {
        (TypeCode::TinyInt, _) => 3,
        (TypeCode::SmallInt, _) => 5,
        (TypeCode::MediumInt, false) => 7,
        (TypeCode::MediumInt, true) => 8,
        (TypeCode::Int, _) => 10,
        (TypeCode::BigInt, false) => 19,
        (TypeCode::BigInt, true) => 20,
        (TypeCode::Decimal, _) => {
            return (Some(u64::from(ty.precision())), Some(u64::from(ty.scale())));
        }
        (TypeCode::Float, _) => return (Some(12), None),
        (TypeCode::Double, _) => return (Some(22), None),
        (TypeCode::Bit, _) => return (Some(u64::from(ty.flen.unwrap_or(1))), None),
        _ => return (None, None),
    };
    (Some(digits), Some(0))
}

fn public_indices(table: &TableInfo) -> impl Iterator<Item = &IndexInfo> {
    // MySQL lists the primary key first, then unique ones.
    let public = || table.indices.iter().filter(|index| index.state.is_public());
    let primary = public().filter(|index| index.primary);
    let unique = public().filter(|index| index.unique && !index.primary);
    primary.chain(unique).chain(public().filter(|index| !index.unique))
}

fn statistics(domain: &Domain, database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    let known = domain.statistics.known_with_distributions(table);
    for index in public_indices(table) {
        for (at, part) in index.columns.iter().enumerate() {
            let column = &table.columns[part.offset];
            rows.push(vec![
                text(CATALOG),
                text(&database.name),
                text(&table.name),
                Datum::Int(i64::from(!index.unique)),
                text(&database.name),
                text(&index.name),
                Datum::UInt(at as u64 + 1),
                text(&column.name),
                text("A"),
                Datum::Int(known.as_ref().map_or(0, |known| known.cardinality(table, index, at))),
                opt(part.prefix_length.map(|length| Datum::Int(i64::from(length)))),
                Datum::Null,
                text(if column.ty.not_null { "" } else { "YES" }),
                text("BTREE"),
                text(""),
                text(&index.comment),
                yes_no(!index.invisible),
                Datum::Null,
            ]);
        }
    }
}

fn table_constraints(database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    let mut push = |name: &str, kind: &str, enforced: bool| {
        rows.push(vec![
            text(CATALOG),
            text(&database.name),
            text(name),
            text(&database.name),
            text(&table.name),
            text(kind),
            yes_no(enforced),
        ]);
    };
    for index in public_indices(table).filter(|index| index.unique) {
        push(&index.name, if index.primary { "PRIMARY KEY" } else { "UNIQUE" }, true);
    }
    for key in &table.foreign_keys {
        push(&key.name, "FOREIGN KEY", true);
    }
    for check in &table.checks {
        push(&check.name, "CHECK", check.enforced);
    }
}

fn key_column_usage(database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    let mut push = |name: &str, column: &str, at: usize, reference: Option<(&str, &str, &str)>| {
        rows.push(vec![
            text(CATALOG),
            text(&database.name),
            text(name),
            text(CATALOG),
            text(&database.name),
            text(&table.name),
            text(column),
            Datum::UInt(at as u64 + 1),
            opt(reference.map(|_| Datum::UInt(at as u64 + 1))),
            opt(reference.map(|(schema, _, _)| text(schema))),
            opt(reference.map(|(_, table, _)| text(table))),
            opt(reference.map(|(_, _, column)| text(column))),
        ]);
    };
    for index in public_indices(table).filter(|index| index.unique) {
        for (at, part) in index.columns.iter().enumerate() {
            push(&index.name, &table.columns[part.offset].name, at, None);
        }
    }
    for key in &table.foreign_keys {
        let schema = key.ref_schema.as_deref().unwrap_or(&database.name);
        for (at, (column, referenced)) in key.columns.iter().zip(&key.ref_columns).enumerate() {
            push(&key.name, column, at, Some((schema, &key.ref_table, referenced)));
        }
    }
}

fn referential_constraints(database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    let rule = |action: &str| text(if action.is_empty() { "NO ACTION" } else { action });
    for key in &table.foreign_keys {
        rows.push(vec![
            text(CATALOG),
            text(&database.name),
            text(&key.name),
            text(CATALOG),
            text(key.ref_schema.as_deref().unwrap_or(&database.name)),
            text("PRIMARY"),
            text("NONE"),
            rule(&key.on_update),
            rule(&key.on_delete),
            text(&table.name),
            text(&key.ref_table),
        ]);
    }
}

fn check_constraints(database: &DatabaseInfo, table: &Arc<TableInfo>, rows: &mut Rows) {
    for check in &table.checks {
        rows.push(vec![text(CATALOG), text(&database.name), text(&check.name), text(&check.expr)]);
    }
}
