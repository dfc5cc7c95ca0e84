//! `ALTER TABLE`, and `CREATE INDEX` and `DROP INDEX`, which are forms of it.
//!
//! Actions run one after the other, each as schema changes of its own. Changes of a
//! column's type that keep its stored form (longer strings, wider integers, a new
//! default, comment or nullability of a column without NULLs) change metadata only.

use cairn_kv_client::Transaction;
use cairn_parser::ast::{
    AlterAction, AlterTable, ColumnDef, ColumnPosition, IndexKind, TableConstraint,
};
use cairn_planner::Catalog;
use cairn_planner::catalog::{ColumnDefault, IndexInfo, SchemaState, TableInfo};
use cairn_types::{Datum, FieldType, SchemaId, TypeCode, errno};

use super::{backfill, definition, now_ms, rename, stored_table};
use crate::catalog::{SchemaSnapshot, meta};
use crate::error::{Result, SqlError};
use crate::session::Session;

/// The table a statement changes.
struct Target {
    database: String,
    table: String,
}

/// Runs an `ALTER TABLE`.
pub async fn run(session: &mut Session, alter: &AlterTable) -> Result<()> {
    let database = session.database_or_current(alter.table.schema.as_deref())?.to_owned();
    let mut target = Target { database, table: alter.table.name.clone() };
    // The table must be there even when there is nothing to do.
    stored_table(&session.schema(), &target.database, &target.table)?;
    for action in &alter.actions {
        act(session, &mut target, action).await?;
    }
    Ok(())
}

/// Changes the table's metadata in one step.
async fn change(
    session: &Session,
    target: &Target,
    edit: impl Fn(&mut TableInfo) -> Result<()>,
) -> Result<TableInfo> {
    let change = |txn: &Transaction, schema: &SchemaSnapshot| {
        let (schema_id, mut table) = stored_table(schema, &target.database, &target.table)?;
        edit(&mut table)?;
        put_changed(txn, schema, schema_id, &mut table)?;
        Ok(table)
    };
    session.domain.change_schema(change).await
}

/// Stores a table that the running change of the schema edited.
fn put_changed(
    txn: &Transaction,
    schema: &SchemaSnapshot,
    schema_id: SchemaId,
    table: &mut TableInfo,
) -> Result<()> {
    table.schema_version = schema.version() + 1;
    table.update_time_ms = now_ms();
    meta::put_table(txn, schema_id, table)
}

fn cannot_drop(name: &str) -> SqlError {
    SqlError::new(
        errno::ER_CANT_DROP_FIELD_OR_KEY,
        format!("Can't DROP '{name}'; check that column/key exists"),
    )
}

fn unknown_column(table: &TableInfo, name: &str) -> SqlError {
    SqlError::new(errno::ER_BAD_FIELD_ERROR, format!("Unknown column '{name}' in '{}'", table.name))
}

fn column_offset(table: &TableInfo, name: &str) -> Result<usize> {
    table.find_column(name).map(|(offset, _)| offset).ok_or_else(|| unknown_column(table, name))
}

async fn act(session: &mut Session, target: &mut Target, action: &AlterAction) -> Result<()> {
    match action {
        AlterAction::AddColumn { column, if_not_exists, position } => {
            add_column(session, target, column, *if_not_exists, position.as_ref()).await
        }
        AlterAction::DropColumn { name, if_exists } => {
            drop_column(session, target, name, *if_exists).await
        }
        AlterAction::ModifyColumn { column, position, .. } => {
            modify_column(session, target, &column.name, column, position.as_ref()).await
        }
        AlterAction::ChangeColumn { old_name, column, position, .. } => {
            modify_column(session, target, old_name, column, position.as_ref()).await
        }
        AlterAction::RenameColumn { old_name, new_name } => {
            definition::check_identifier(new_name)?;
            let rename = |table: &mut TableInfo| rename_column(table, old_name, new_name);
            change(session, target, rename).await.map(|_| ())
        }
        AlterAction::SetDefault { column, expr, parenthesised } => {
            let set = |table: &mut TableInfo| {
                let offset = column_offset(table, column)?;
                let info = &mut table.columns[offset];
                info.default = Some(definition::default_value(info, expr, *parenthesised)?);
                Ok(())
            };
            change(session, target, set).await.map(|_| ())
        }
        AlterAction::DropDefault { column } => {
            let drop = |table: &mut TableInfo| {
                let offset = column_offset(table, column)?;
                table.columns[offset].default = None;
                Ok(())
            };
            change(session, target, drop).await.map(|_| ())
        }
        AlterAction::SetColumnVisible { column, visible } => {
            let set = |table: &mut TableInfo| {
                let offset = column_offset(table, column)?;
                table.columns[offset].hidden = !visible;
                Ok(())
            };
            change(session, target, set).await.map(|_| ())
        }
        AlterAction::AddConstraint { constraint, if_not_exists } => {
            add_constraint(session, target, constraint, *if_not_exists).await
        }
        AlterAction::DropIndex { name, if_exists } => {
            drop_index(session, target, name, *if_exists).await
        }
        AlterAction::DropPrimaryKey => drop_index(session, target, "PRIMARY", false).await,
        AlterAction::DropForeignKey(name) => {
            let drop = |table: &mut TableInfo| {
                let before = table.foreign_keys.len();
                table.foreign_keys.retain(|key| !key.name.eq_ignore_ascii_case(name));
                if table.foreign_keys.len() == before { Err(cannot_drop(name)) } else { Ok(()) }
            };
            change(session, target, drop).await.map(|_| ())
        }
        AlterAction::DropCheck(name) => drop_check(session, target, name).await,
        AlterAction::DropConstraint(name) => drop_constraint(session, target, name).await,
        AlterAction::RenameIndex { old_name, new_name } => {
            let rename = |table: &mut TableInfo| {
                if table.find_index(new_name).is_some() {
                    return Err(SqlError::new(
                        errno::ER_DUP_KEYNAME,
                        format!("Duplicate key name '{new_name}'"),
                    ));
                }
                let index = find_index_mut(table, old_name)?;
                index.name = new_name.clone();
                Ok(())
            };
            change(session, target, rename).await.map(|_| ())
        }
        AlterAction::SetIndexVisible { name, visible } => {
            let set = |table: &mut TableInfo| {
                find_index_mut(table, name)?.invisible = !visible;
                Ok(())
            };
            change(session, target, set).await.map(|_| ())
        }
        AlterAction::SetCheckEnforced { name, enforced } => {
            let set = |table: &mut TableInfo| {
                let check =
                    table.checks.iter_mut().find(|check| check.name.eq_ignore_ascii_case(name));
                check.ok_or_else(|| cannot_drop(name))?.enforced = *enforced;
                Ok(())
            };
            change(session, target, set).await.map(|_| ())
        }
        AlterAction::RenameTo(name) => {
            let from = cairn_parser::ast::ObjectName {
                schema: Some(target.database.clone()),
                name: target.table.clone(),
            };
            let to = cairn_parser::ast::ObjectName {
                schema: Some(name.schema.clone().unwrap_or_else(|| target.database.clone())),
                name: name.name.clone(),
            };
            rename(session, &from, &to).await?;
            target.table = name.name.clone();
            if let Some(schema) = &name.schema {
                target.database = schema.clone();
            }
            Ok(())
        }
        AlterAction::Option(option) => {
            let set = |table: &mut TableInfo| {
                let collation = table.collation;
                super::set_options(table, std::slice::from_ref(option), collation)
            };
            let table = change(session, target, set).await?;
            session.domain.auto_ids.forget(table.id);
            Ok(())
        }
        AlterAction::ConvertCharset { .. } => {
            Err(SqlError::not_supported("CONVERT TO CHARACTER SET"))
        }
        // Rows are stored by their key, whatever order is wished for.
        AlterAction::OrderBy(_) => Ok(()),
        // What dump tools write around rows.
        AlterAction::NoEffect(what) if what.ends_with("ABLE KEYS") => Ok(()),
        _ => Err(SqlError::not_supported("changing partitions")),
    }
}

fn find_index_mut<'a>(table: &'a mut TableInfo, name: &str) -> Result<&'a mut IndexInfo> {
    let key = format!("Key '{name}' doesn't exist in table '{}'", table.name);
    let index = table.indices.iter_mut().find(|index| index.name.eq_ignore_ascii_case(name));
    index.ok_or_else(|| SqlError::new(errno::ER_KEY_DOES_NOT_EXITS, key))
}

// --- columns -------------------------------------------------------------------------------

async fn add_column(
    session: &mut Session,
    target: &Target,
    column: &ColumnDef,
    if_not_exists: bool,
    position: Option<&ColumnPosition>,
) -> Result<()> {
    let exists = stored_table(&session.schema(), &target.database, &target.table)?
        .1
        .find_column(&column.name)
        .is_some();
    if exists && if_not_exists {
        session.note(errno::ER_DUP_FIELDNAME, format!("Duplicate column name '{}'", column.name));
        return Ok(());
    }
    // Write-only first: nodes that do not read the column yet keep it when they rewrite rows.
    let add = |table: &mut TableInfo| {
        let (mut info, keys) = definition::column(column, table.collation)?;
        if info.auto_increment || info.generated.is_some() || keys.primary.is_some() {
            return Err(SqlError::not_supported(
                "ADD COLUMN with AUTO_INCREMENT, PRIMARY KEY or a generated value",
            ));
        }
        info.origin_default = origin_default(&info.default, &info.ty);
        info.state = SchemaState::WriteOnly;
        definition::add_column(table, info)?;
        keys.checks.into_iter().for_each(|check| definition::add_check(table, check));
        Ok(())
    };
    change(session, target, add).await?;
    let publish = |table: &mut TableInfo| {
        let found =
            table.columns.iter().position(|info| info.name.eq_ignore_ascii_case(&column.name));
        let offset = found.ok_or_else(|| unknown_column(table, &column.name))?;
        table.columns[offset].state = SchemaState::Public;
        move_column(table, offset, position)
    };
    change(session, target, publish).await?;
    let (_, keys) = definition::column(column, cairn_types::Collation::default())?;
    if keys.unique {
        let constraint = TableConstraint::Index(cairn_parser::ast::IndexDef {
            name: None,
            kind: IndexKind::Unique,
            parts: vec![cairn_parser::ast::KeyPart {
                target: cairn_parser::ast::KeyTarget::Column {
                    name: column.name.clone(),
                    prefix_length: None,
                },
                descending: false,
            }],
            options: cairn_parser::ast::IndexOptions::default(),
        });
        add_constraint(session, target, &constraint, false).await?;
    }
    Ok(())
}

/// What rows written before the column existed have in it.
fn origin_default(default: &Option<ColumnDefault>, ty: &FieldType) -> Option<ColumnDefault> {
    match default {
        None | Some(ColumnDefault::Null) if ty.not_null => {
            let implicit = crate::dml::assign::implicit_default(ty);
            let mut text = Vec::new();
            cairn_types::write_text(&mut text, implicit.as_ref(), ty);
            Some(ColumnDefault::Literal(String::from_utf8_lossy(&text).into_owned()))
        }
        Some(ColumnDefault::CurrentTimestamp { fsp }) => {
            let now = cairn_types::TimeZone::utc().from_unix_micros(
                crate::clock::unix_micros(),
                cairn_types::time::TimeKind::DateTime,
                *fsp,
            )?;
            let mut text = Vec::new();
            let ty = FieldType::datetime(*fsp);
            cairn_types::write_text(&mut text, Datum::Time(now).as_ref(), &ty);
            Some(ColumnDefault::Literal(String::from_utf8_lossy(&text).into_owned()))
        }
        other => other.clone(),
    }
}

/// Moves a column to its place and keeps the offsets of indexes right.
fn move_column(
    table: &mut TableInfo,
    from: usize,
    position: Option<&ColumnPosition>,
) -> Result<()> {
    let to = match position {
        None => return Ok(()),
        Some(ColumnPosition::First) => 0,
        Some(ColumnPosition::After(name)) => {
            let after = column_offset(table, name)?;
            if after < from { after + 1 } else { after }
        }
    };
    let order: Vec<usize> = {
        let mut order: Vec<usize> = (0..table.columns.len()).collect();
        let moved = order.remove(from);
        order.insert(to, moved);
        order
    };
    let column = table.columns.remove(from);
    table.columns.insert(to, column);
    remap_offsets(table, &|old| order.iter().position(|other| *other == old).unwrap_or(old));
    Ok(())
}

fn remap_offsets(table: &mut TableInfo, new_offset: &dyn Fn(usize) -> usize) {
    for part in table.indices.iter_mut().flat_map(|index| &mut index.columns) {
        part.offset = new_offset(part.offset);
    }
}

async fn drop_column(
    session: &mut Session,
    target: &Target,
    name: &str,
    if_exists: bool,
) -> Result<()> {
    let (_, table) = stored_table(&session.schema(), &target.database, &target.table)?;
    let Some((offset, _)) = table.find_column(name) else {
        if if_exists {
            session.note(errno::ER_CANT_DROP_FIELD_OR_KEY, cannot_drop(name).to_string());
            return Ok(());
        }
        return Err(cannot_drop(name));
    };
    if table.public_columns().count() == 1 {
        return Err(SqlError::new(
            errno::ER_CANT_REMOVE_ALL_FIELDS,
            "You can't delete all columns with ALTER TABLE; use DROP TABLE instead",
        ));
    }
    let of_column = |index: &&IndexInfo| index.columns.iter().any(|part| part.offset == offset);
    for index in table.indices.iter().filter(of_column) {
        if !table.has_entries(index) {
            return Err(SqlError::not_supported("dropping a column of the clustered primary key"));
        }
        if index.columns.len() > 1 {
            return Err(SqlError::not_supported(
                "dropping a column of an index over several columns",
            ));
        }
    }
    let indices: Vec<String> =
        table.indices.iter().filter(of_column).map(|index| index.name.clone()).collect();
    for index in indices {
        drop_index(session, target, &index, false).await?;
    }
    let hide = |table: &mut TableInfo| {
        let offset = column_offset(table, name)?;
        let column = &mut table.columns[offset];
        column.state = SchemaState::WriteOnly;
        // Nobody gives it a value any more.
        column.ty.not_null = false;
        Ok(())
    };
    let hidden = change(session, target, hide).await?;
    let id = hidden.columns[offset].id;
    let remove = |table: &mut TableInfo| {
        let Some((offset, _)) = table.column_by_id(id) else { return Ok(()) };
        table.columns.remove(offset);
        remap_offsets(table, &|old| if old > offset { old - 1 } else { old });
        Ok(())
    };
    change(session, target, remove).await.map(|_| ())
}

fn rename_column(table: &mut TableInfo, old_name: &str, new_name: &str) -> Result<()> {
    let offset = column_offset(table, old_name)?;
    let taken = table.columns.iter().enumerate();
    let taken = taken
        .filter(|(at, _)| *at != offset)
        .any(|(_, other)| other.name.eq_ignore_ascii_case(new_name));
    if taken {
        return Err(SqlError::new(
            errno::ER_DUP_FIELDNAME,
            format!("Duplicate column name '{new_name}'"),
        ));
    }
    table.columns[offset].name = new_name.to_owned();
    for column in table.foreign_keys.iter_mut().flat_map(|key| &mut key.columns) {
        if column.eq_ignore_ascii_case(old_name) {
            *column = new_name.to_owned();
        }
    }
    Ok(())
}

/// Whether values stored as `old` are values of `new` as they stand.
fn keeps_stored_form(old: &FieldType, new: &FieldType) -> bool {
    let integers = [
        TypeCode::TinyInt,
        TypeCode::SmallInt,
        TypeCode::MediumInt,
        TypeCode::Int,
        TypeCode::BigInt,
    ];
    let rank = |ty: &FieldType| integers.iter().position(|code| *code == ty.code);
    if let (Some(from), Some(to)) = (rank(old), rank(new)) {
        return to >= from && old.unsigned == new.unsigned;
    }
    let texts = [
        TypeCode::VarChar,
        TypeCode::TinyText,
        TypeCode::Text,
        TypeCode::MediumText,
        TypeCode::LongText,
    ];
    let is_text = |ty: &FieldType| texts.contains(&ty.code);
    let widest =
        |ty: &FieldType| ty.blob_max_bytes().unwrap_or_else(|| u64::from(ty.display_length()));
    if is_text(old) && is_text(new) {
        return old.collation == new.collation && widest(new) >= widest(old);
    }
    if old.code != new.code || old.unsigned != new.unsigned || old.collation != new.collation {
        return false;
    }
    match old.code {
        TypeCode::VarBinary => new.flen >= old.flen,
        TypeCode::Decimal => old.precision() == new.precision() && old.scale() == new.scale(),
        TypeCode::DateTime | TypeCode::Timestamp | TypeCode::Time => old.fsp() == new.fsp(),
        TypeCode::Enum | TypeCode::Set => new.elements.starts_with(&old.elements),
        TypeCode::Char | TypeCode::Binary | TypeCode::Bit => new.flen == old.flen,
        _ => true,
    }
}

async fn modify_column(
    session: &mut Session,
    target: &Target,
    old_name: &str,
    column: &ColumnDef,
    position: Option<&ColumnPosition>,
) -> Result<()> {
    let (_, table) = stored_table(&session.schema(), &target.database, &target.table)?;
    let offset = column_offset(&table, old_name)?;
    let (new, _) = definition::column(column, table.collation)?;
    let old = &table.columns[offset];
    if !keeps_stored_form(&old.ty, &new.ty) {
        return Err(SqlError::new(
            errno::ER_UNSUPPORTED_DDL,
            format!(
                "Unsupported modify column: {} to {} needs the rows to be rewritten",
                old.ty.to_sql(),
                new.ty.to_sql()
            ),
        ));
    }
    if new.ty.not_null && !old.ty.not_null {
        refuse_nulls(session, target, old_name).await?;
    }
    let edit = |table: &mut TableInfo| {
        let offset = column_offset(table, old_name)?;
        let in_primary = table
            .primary_key()
            .is_some_and(|key| key.columns.iter().any(|part| part.offset == offset));
        rename_column(table, old_name, &column.name)?;
        let (new, keys) = definition::column(column, table.collation)?;
        let info = &mut table.columns[offset];
        let origin_default = info.origin_default.clone();
        let id = info.id;
        *info = new;
        info.id = id;
        info.origin_default = origin_default;
        info.ty.not_null |= in_primary;
        keys.checks.into_iter().for_each(|check| definition::add_check(table, check));
        super::check_auto_increment(table)?;
        move_column(table, offset, position)
    };
    change(session, target, edit).await.map(|_| ())
}

/// NOT NULL may be added only where no row has NULL.
async fn refuse_nulls(session: &mut Session, target: &Target, column: &str) -> Result<()> {
    let quote = |name: &str| format!("`{}`", name.replace('`', "``"));
    let sql = format!(
        "SELECT 1 FROM {}.{} WHERE {} IS NULL LIMIT 1",
        quote(&target.database),
        quote(&target.table),
        quote(column)
    );
    let mut sink = crate::sink::CollectSink::default();
    let mut queue = session.split(&sql, false)?;
    if let Some(statement) = queue.next_statement()? {
        let token = session.token().clone();
        Box::pin(session.execute(statement, token, &mut sink)).await?;
    }
    if sink.rows.is_empty() {
        return Ok(());
    }
    Err(SqlError::new(errno::ER_INVALID_USE_OF_NULL, "Invalid use of NULL value"))
}

// --- keys ----------------------------------------------------------------------------------

async fn add_constraint(
    session: &mut Session,
    target: &Target,
    constraint: &TableConstraint,
    if_not_exists: bool,
) -> Result<()> {
    let (_, mut trial) = stored_table(&session.schema(), &target.database, &target.table)?;
    let known = trial.indices.len();
    match definition::add_constraint(&mut trial, constraint) {
        Err(SqlError::Mysql(error)) if if_not_exists && error.code == errno::ER_DUP_KEYNAME => {
            session.note(error.code, error.message);
            return Ok(());
        }
        outcome => outcome?,
    }
    if trial.indices.len() == known {
        let add = |table: &mut TableInfo| definition::add_constraint(table, constraint);
        return change(session, target, add).await.map(|_| ());
    }
    if trial.indices[known].primary {
        refuse_null_keys(session, target, &trial, known).await?;
    }
    let add = |table: &mut TableInfo| {
        definition::add_constraint(table, constraint)?;
        if let Some(index) = table.indices.last_mut() {
            index.state = SchemaState::DeleteOnly;
        }
        Ok(())
    };
    let table = change(session, target, add).await?;
    let index = table.indices.last().cloned().ok_or_else(|| cannot_drop("index"))?;
    let outcome = fill_index(session, target, &index).await;
    if outcome.is_err() {
        // An index that cannot be filled (a duplicate, a cancelled statement) goes away
        // again; the error told is the one that stopped it.
        if let Err(error) = remove_index(session, target, &index).await {
            tracing::warn!(%error, index = index.name, "an unfinished index stays behind");
        }
    }
    outcome
}

async fn refuse_null_keys(
    session: &mut Session,
    target: &Target,
    table: &TableInfo,
    at: usize,
) -> Result<()> {
    for part in &table.indices[at].columns {
        let name = table.columns[part.offset].name.clone();
        refuse_nulls(session, target, &name).await?;
    }
    Ok(())
}

fn set_index_state(index: &IndexInfo, state: SchemaState) -> impl Fn(&mut TableInfo) -> Result<()> {
    let id = index.id;
    move |table| {
        if let Some(index) = table.indices.iter_mut().find(|index| index.id == id) {
            index.state = state;
        }
        Ok(())
    }
}

/// Write-only, filled, public.
async fn fill_index(session: &mut Session, target: &Target, index: &IndexInfo) -> Result<()> {
    change(session, target, set_index_state(index, SchemaState::WriteOnly)).await?;
    let reorganising =
        change(session, target, set_index_state(index, SchemaState::WriteReorganization)).await?;
    backfill::run(session, &reorganising, index.id).await?;
    change(session, target, set_index_state(index, SchemaState::Public)).await.map(|_| ())
}

/// Write-only, delete-only, gone; its entries are queued for destruction.
async fn remove_index(session: &Session, target: &Target, index: &IndexInfo) -> Result<()> {
    change(session, target, set_index_state(index, SchemaState::WriteOnly)).await?;
    change(session, target, set_index_state(index, SchemaState::DeleteOnly)).await?;
    let id = index.id;
    let drop = |txn: &Transaction, schema: &SchemaSnapshot| {
        let (schema_id, mut table) = stored_table(schema, &target.database, &target.table)?;
        table.indices.retain(|index| index.id != id);
        put_changed(txn, schema, schema_id, &mut table)?;
        meta::queue_index(txn, table.id, id)
    };
    session.domain.change_schema(drop).await
}

async fn drop_index(
    session: &mut Session,
    target: &Target,
    name: &str,
    if_exists: bool,
) -> Result<()> {
    let (_, table) = stored_table(&session.schema(), &target.database, &target.table)?;
    let Some(index) = table.find_index(name).cloned() else {
        if if_exists {
            session.note(errno::ER_CANT_DROP_FIELD_OR_KEY, cannot_drop(name).to_string());
            return Ok(());
        }
        return Err(cannot_drop(name));
    };
    if !table.has_entries(&index) {
        return Err(SqlError::new(
            errno::ER_UNSUPPORTED_DDL,
            "Unsupported drop primary key when the table is using clustered index",
        ));
    }
    remove_index(session, target, &index).await
}

async fn drop_check(session: &mut Session, target: &Target, name: &str) -> Result<()> {
    let drop = |table: &mut TableInfo| {
        let before = table.checks.len();
        table.checks.retain(|check| !check.name.eq_ignore_ascii_case(name));
        if table.checks.len() < before {
            return Ok(());
        }
        Err(SqlError::new(
            errno::ER_CHECK_CONSTRAINT_NOT_FOUND,
            format!("Check constraint '{name}' is not found in the table."),
        ))
    };
    change(session, target, drop).await.map(|_| ())
}

/// `DROP CONSTRAINT`: whatever has the name.
async fn drop_constraint(session: &mut Session, target: &Target, name: &str) -> Result<()> {
    let (_, table) = stored_table(&session.schema(), &target.database, &target.table)?;
    if table.find_index(name).is_some_and(|index| index.unique) {
        return drop_index(session, target, name, false).await;
    }
    if table.checks.iter().any(|check| check.name.eq_ignore_ascii_case(name)) {
        return drop_check(session, target, name).await;
    }
    let drop = |table: &mut TableInfo| {
        let before = table.foreign_keys.len();
        table.foreign_keys.retain(|key| !key.name.eq_ignore_ascii_case(name));
        if table.foreign_keys.len() < before {
            return Ok(());
        }
        Err(SqlError::new(3940, format!("Constraint '{name}' does not exist.")))
    };
    change(session, target, drop).await.map(|_| ())
}
