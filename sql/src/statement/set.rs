//! `SET`: system variables, user variables, `NAMES`, `TRANSACTION`.

use cairn_expr::SessionAccess;
use cairn_kv_client::Transaction;
use cairn_parser::ast::{SetItem, SetTransaction, SetValue, VariableScope};
use cairn_types::{Collation, Datum, FieldType, errno};

use super::plan;
use crate::catalog::meta;
use crate::error::{Result, SqlError};
use crate::session::{Session, fold_name};
use crate::variables::{self, Definition, Scope, unknown_variable};

/// `SET a = 1, …`: all or, where a value is wrong, those before it.
pub async fn run(session: &mut Session, items: &[SetItem]) -> Result<()> {
    for item in items {
        match item {
            SetItem::User { name, value } => {
                let (value, ty) = plan::evaluate(session, value).await?;
                session.shared.set_user_var(&fold_name(name), &value, &ty);
            }
            SetItem::Names { charset, collation } => {
                set_names(session, charset.as_deref(), collation.as_deref())?;
            }
            SetItem::CharacterSet(charset) => set_names(session, charset.as_deref(), None)?,
            SetItem::System { scope, name, value } => system(session, *scope, name, value).await?,
        }
    }
    Ok(())
}

fn set_names(session: &mut Session, charset: Option<&str>, collation: Option<&str>) -> Result<()> {
    let charset = charset.unwrap_or("utf8mb4");
    let collation = match charset {
        "binary" => Collation::default(),
        _ => crate::ddl::definition::collation_of(Some(charset), collation, Collation::default())?,
    };
    session.variables.set_names(collation);
    Ok(())
}

async fn system(
    session: &mut Session,
    scope: VariableScope,
    name: &str,
    value: &SetValue,
) -> Result<()> {
    let definition = variables::find(name).ok_or_else(|| unknown_variable(name))?;
    let global = match scope {
        VariableScope::Global | VariableScope::Persist | VariableScope::PersistOnly => true,
        VariableScope::Session | VariableScope::Unspecified => false,
    };
    check_scope(definition, global)?;
    let text = match value {
        SetValue::Default => default_text(session, definition, global),
        SetValue::Expr(expr) => {
            let (value, ty) = plan::evaluate(session, expr).await?;
            value_text(definition, &value, &ty)?
        }
    };
    let mut warnings = Vec::new();
    let text = variables::normalise(definition, &text, &mut |warning| warnings.push(warning))?;
    for warning in warnings {
        session.warn(errno::ER_TRUNCATED_WRONG_VALUE, warning);
    }
    if global {
        return set_global(session, definition, text).await;
    }
    if definition.name == "last_insert_id" || definition.name == "identity" {
        session.shared.set_last_insert_id(text.parse().unwrap_or(0));
        return Ok(());
    }
    if definition.name == "tidb_snapshot" {
        session.set_snapshot(&text).await?;
    }
    if definition.name == "autocommit" && text == "ON" && !session.settings().autocommit {
        // Switching autocommit on commits what is open; where it is on already nothing happens.
        session.commit().await?;
    }
    session.variables.set(definition, text);
    Ok(())
}

fn check_scope(definition: &Definition, global: bool) -> Result<()> {
    let name = definition.name;
    match (definition.scope, global) {
        (Scope::ReadOnly, _) => Err(SqlError::new(
            errno::ER_INCORRECT_GLOBAL_LOCAL_VAR,
            format!("Variable '{name}' is a read only variable"),
        )),
        (Scope::Global, false) => Err(SqlError::new(
            errno::ER_GLOBAL_VARIABLE,
            format!("Variable '{name}' is a GLOBAL variable and should be set with SET GLOBAL"),
        )),
        (Scope::Session, true) => Err(SqlError::new(
            errno::ER_LOCAL_VARIABLE,
            format!("Variable '{name}' is a SESSION variable and can't be used with SET GLOBAL"),
        )),
        _ => Ok(()),
    }
}

/// `DEFAULT`: of a session's variable the global value, of a global one the built-in.
fn default_text(session: &Session, definition: &Definition, global: bool) -> String {
    if global {
        return definition.default.to_owned();
    }
    let values = session.domain.variables.current();
    values.get(definition.name).cloned().unwrap_or_else(|| definition.default.to_owned())
}

fn value_text(definition: &Definition, value: &Datum, ty: &FieldType) -> Result<String> {
    if value.is_null() {
        return match definition.name {
            "character_set_results" => Ok("binary".to_owned()),
            "init_connect" | "tls_version" => Ok(String::new()),
            name => Err(SqlError::new(
                errno::ER_WRONG_VALUE_FOR_VAR,
                format!("Variable '{name}' can't be set to the value of 'NULL'"),
            )),
        };
    }
    let mut text = Vec::new();
    cairn_types::write_text(&mut text, value.as_ref(), ty);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn set_global(session: &mut Session, definition: &Definition, text: String) -> Result<()> {
    let names = match definition.name {
        "tx_isolation" | "transaction_isolation" => vec!["tx_isolation", "transaction_isolation"],
        "tx_read_only" | "transaction_read_only" => vec!["tx_read_only", "transaction_read_only"],
        name => vec![name],
    };
    let put =
        |txn: &Transaction| names.iter().try_for_each(|name| meta::put_variable(txn, name, &text));
    session.domain.change_schema(|txn, _| put(txn)).await
}

/// `SET TRANSACTION`.
pub async fn set_transaction(session: &mut Session, set: &SetTransaction) -> Result<()> {
    let next_only = set.scope == VariableScope::Unspecified;
    if next_only && session.transaction.is_open() {
        return Err(SqlError::new(
            errno::ER_CANT_CHANGE_TX_CHARACTERISTICS,
            "Transaction characteristics can't be changed while a transaction is in progress",
        ));
    }
    if let Some(time) = &set.as_of {
        let past = session.past_of(time).await?;
        session.transaction.set_next_past(past);
    } else if let Some(read_only) = set.read_only {
        if next_only {
            session.transaction.set_next_read_only(read_only);
        } else {
            let value = if read_only { "ON" } else { "OFF" };
            set_characteristic(session, set.scope, "transaction_read_only", value).await?;
        }
    }
    if let Some(level) = set.isolation {
        if next_only {
            session.transaction.set_next_isolation(level);
        } else {
            let value = level.as_variable();
            set_characteristic(session, set.scope, "transaction_isolation", value).await?;
        }
    }
    Ok(())
}

/// What later transactions are, of this session or of those that begin from now on.
async fn set_characteristic(
    session: &mut Session,
    scope: VariableScope,
    name: &str,
    value: &str,
) -> Result<()> {
    let definition = variables::find(name).ok_or_else(|| unknown_variable(name))?;
    match scope {
        VariableScope::Global => set_global(session, definition, value.to_owned()).await,
        _ => {
            session.variables.set(definition, value.to_owned());
            Ok(())
        }
    }
}
