//! `CREATE USER`, `ALTER USER`, `DROP USER`, `SET PASSWORD`, `GRANT`, `REVOKE`.

use cairn_parser::ast::{AuthSecret, Statement, UserName, UserSpec};
use cairn_types::errno;

use crate::accounts::Account;
use crate::catalog::meta;
use crate::error::{Result, SqlError};
use crate::protocol::constants::plugin;
use crate::session::Session;

fn cannot(operation: &str, names: &[String]) -> SqlError {
    SqlError::new(
        errno::ER_CANNOT_USER,
        format!("Operation {operation} failed for {}", names.join(",")),
    )
}

fn quoted(name: &UserName) -> String {
    format!("'{}'@'{}'", name.user, name.host)
}

/// Runs an account statement.
pub async fn run(session: &mut Session, statement: &Statement) -> Result<()> {
    match statement {
        Statement::CreateUser(create) => {
            create_users(session, &create.users, create.if_not_exists, create.role).await
        }
        Statement::AlterUser(alter) => {
            alter_users(session, &alter.users, alter.if_exists, alter.options.account_locked).await
        }
        Statement::DropUser(drop) => drop_users(session, &drop.users, drop.if_exists).await,
        Statement::SetPassword(set) => {
            let name = set.user.clone().unwrap_or_else(|| own_name(session));
            let account =
                find(session, &name).ok_or_else(|| cannot("SET PASSWORD", &[quoted(&name)]))?;
            let secret = set.password.clone();
            let changed =
                Account::with_password(&name.user, &name.host, &account.plugin, secret.as_bytes());
            store(session, vec![changed]).await
        }
        Statement::Grant(grant) => {
            for user in grant.users.iter().filter_map(|user| user.name.as_ref()) {
                if find(session, user).is_none() {
                    return Err(SqlError::new(
                        errno::ER_NONEXISTING_GRANT,
                        "You are not allowed to create a user with GRANT",
                    ));
                }
            }
            session.note(errno::ER_NOT_SUPPORTED_YET, "Privileges are not enforced yet");
            Ok(())
        }
        _ => Err(SqlError::not_supported("roles")),
    }
}

fn own_name(session: &Session) -> UserName {
    let (user, host) =
        session.current_user().split_once('@').unwrap_or((session.current_user(), "%"));
    UserName { user: user.to_owned(), host: host.to_owned() }
}

fn find(session: &Session, name: &UserName) -> Option<Account> {
    let accounts = session.domain.accounts.all();
    accounts.into_iter().find(|account| account.user == name.user && account.host == name.host)
}

async fn store(session: &Session, accounts: Vec<Account>) -> Result<()> {
    let change = |txn: &cairn_kv_client::Transaction, _: &crate::catalog::SchemaSnapshot| {
        accounts.iter().try_for_each(|account| meta::put_account(txn, account))
    };
    session.domain.change_schema(change).await
}

/// An account as a specification describes it.
fn account_of(name: &UserName, spec: &UserSpec, previous: Option<&Account>) -> Result<Account> {
    let auth = spec.auth.as_ref();
    let plugin_name = auth
        .and_then(|auth| auth.plugin.clone())
        .or_else(|| previous.map(|account| account.plugin.clone()))
        .unwrap_or_else(|| plugin::CACHING_SHA2.to_owned());
    if plugin_name != plugin::NATIVE && plugin_name != plugin::CACHING_SHA2 {
        return Err(SqlError::new(
            errno::ER_PLUGIN_IS_NOT_LOADED,
            format!("Plugin '{plugin_name}' is not loaded"),
        ));
    }
    match auth.map(|auth| &auth.secret) {
        Some(AuthSecret::Password(password)) => {
            Ok(Account::with_password(&name.user, &name.host, &plugin_name, password.as_bytes()))
        }
        Some(AuthSecret::Hash(hash)) => {
            let account = Account::with_password(&name.user, &name.host, &plugin_name, b"");
            Ok(Account { secret: hash.clone(), ..account })
        }
        Some(AuthSecret::RandomPassword) => Err(SqlError::not_supported("RANDOM PASSWORD")),
        Some(AuthSecret::None) => {
            Ok(Account::with_password(&name.user, &name.host, &plugin_name, b""))
        }
        None => Ok(previous
            .cloned()
            .unwrap_or_else(|| Account::with_password(&name.user, &name.host, &plugin_name, b""))),
    }
}

async fn create_users(
    session: &mut Session,
    users: &[UserSpec],
    if_not_exists: bool,
    role: bool,
) -> Result<()> {
    let mut created = Vec::new();
    let mut existing = Vec::new();
    for spec in users {
        let name = spec.name.clone().unwrap_or_else(|| own_name(session));
        if find(session, &name).is_some() {
            existing.push(quoted(&name));
            continue;
        }
        let mut account = account_of(&name, spec, None)?;
        account.locked = role;
        created.push(account);
    }
    if !existing.is_empty() {
        if !if_not_exists {
            return Err(cannot("CREATE USER", &existing));
        }
        for name in existing {
            session.note(3163, format!("Authorization ID {name} already exists."));
        }
    }
    store(session, created).await
}

async fn alter_users(
    session: &mut Session,
    users: &[UserSpec],
    if_exists: bool,
    locked: Option<bool>,
) -> Result<()> {
    let mut changed = Vec::new();
    let mut missing = Vec::new();
    for spec in users {
        let name = spec.name.clone().unwrap_or_else(|| own_name(session));
        let Some(previous) = find(session, &name) else {
            missing.push(quoted(&name));
            continue;
        };
        let mut account = account_of(&name, spec, Some(&previous))?;
        account.locked = locked.unwrap_or(previous.locked);
        changed.push(account);
    }
    if !missing.is_empty() && !if_exists {
        return Err(cannot("ALTER USER", &missing));
    }
    store(session, changed).await
}

async fn drop_users(session: &mut Session, users: &[UserName], if_exists: bool) -> Result<()> {
    let missing: Vec<String> =
        users.iter().filter(|name| find(session, name).is_none()).map(quoted).collect();
    if !missing.is_empty() {
        if !if_exists {
            return Err(cannot("DROP USER", &missing));
        }
        for name in missing {
            session.note(3162, format!("Authorization ID {name} does not exist."));
        }
    }
    let change = |txn: &cairn_kv_client::Transaction, _: &crate::catalog::SchemaSnapshot| {
        users.iter().try_for_each(|name| meta::delete_account(txn, &name.user, &name.host))
    };
    session.domain.change_schema(change).await
}
