//! Accounts: who may log in, and how each proves itself.
//!
//! Accounts are stored beside the schema (`catalog::meta`) and cached here as one immutable
//! map that every SQL node reloads when the schema version grows.
//!
//! **Left out.** Privileges: every account may do everything. `GRANT` is accepted and
//! remembered for `SHOW GRANTS` nowhere; a node that serves strangers needs them first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use crate::protocol::auth;
use crate::protocol::constants::plugin;

/// An account as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User name; empty matches nobody.
    pub user: String,
    /// Host pattern: `%`, `localhost`, an address, or one with `%` and `_`.
    pub host: String,
    /// Authentication plug-in.
    pub plugin: String,
    /// The stored form of the password, see `protocol::auth`; empty: no password.
    pub secret: String,
    /// `ACCOUNT LOCK`.
    pub locked: bool,
}

impl Account {
    /// The first account of a new cluster: `root` from anywhere the node listens, without a
    /// password (`server` refuses to listen beyond loopback while that is so).
    pub fn initial_root() -> Self {
        Self {
            user: "root".to_owned(),
            host: "%".to_owned(),
            plugin: plugin::CACHING_SHA2.to_owned(),
            secret: String::new(),
            locked: false,
        }
    }

    /// An account that proves itself with `password`.
    pub fn with_password(user: &str, host: &str, plugin_name: &str, password: &[u8]) -> Self {
        let secret = match plugin_name {
            plugin::NATIVE => auth::native_hash(password),
            _ => auth::sha2_hash(password, crate::clock::secret_bytes()),
        };
        Self {
            user: user.to_owned(),
            host: host.to_owned(),
            plugin: plugin_name.to_owned(),
            secret,
            locked: false,
        }
    }

    fn admits(&self, address: IpAddr) -> bool {
        match self.host.as_str() {
            "%" | "" => true,
            "localhost" => address.is_loopback(),
            pattern => crate::pattern::matches(pattern, &address.to_string()),
        }
    }
}

/// All accounts of a node, and what its fast logins remember.
#[derive(Debug, Default)]
pub struct Accounts {
    by_user: ArcSwap<HashMap<String, Vec<Account>>>,
    /// SHA256(SHA256(password)) by stored secret, filled by full logins.
    fast_digests: DashMap<String, [u8; 32]>,
}

impl Accounts {
    /// Replaces the cached accounts.
    pub fn replace(&self, accounts: Vec<Account>) {
        let mut by_user: HashMap<String, Vec<Account>> = HashMap::new();
        for account in accounts {
            by_user.entry(account.user.clone()).or_default().push(account);
        }
        // The most specific host pattern is tried first, as MySQL sorts them.
        for list in by_user.values_mut() {
            list.sort_by_key(|account| (account.host.contains('%'), account.host == "%"));
        }
        self.by_user.store(Arc::new(by_user));
        self.fast_digests.clear();
    }

    /// The account that `user` at `address` logs in as.
    pub fn find(&self, user: &str, address: IpAddr) -> Option<Account> {
        let by_user = self.by_user.load();
        by_user.get(user)?.iter().find(|account| account.admits(address)).cloned()
    }

    /// All accounts, for `mysql.user` and checks at start.
    pub fn all(&self) -> Vec<Account> {
        self.by_user.load().values().flatten().cloned().collect()
    }

    /// Checks the answer of a fast login.
    pub fn verify_fast(&self, account: &Account, nonce: &[u8; 20], response: &[u8]) -> bool {
        self.fast_digests
            .get(&account.secret)
            .is_some_and(|digest| auth::sha2_fast_verify(&digest, nonce, response))
    }

    /// Remembers a password proven by a full login.
    pub fn remember(&self, account: &Account, password: &[u8]) {
        self.fast_digests.insert(account.secret.clone(), auth::sha2_fast_digest(password));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_wins() {
        let accounts = Accounts::default();
        let anywhere = Account::with_password("u", "%", plugin::NATIVE, b"a");
        let local = Account::with_password("u", "localhost", plugin::NATIVE, b"b");
        let net = Account::with_password("u", "10.1.%", plugin::NATIVE, b"c");
        accounts.replace(vec![anywhere, local, net]);
        let host = |address: &str| {
            accounts.find("u", address.parse().expect("an address")).map(|account| account.host)
        };
        assert_eq!(host("127.0.0.1").as_deref(), Some("localhost"));
        assert_eq!(host("10.1.2.3").as_deref(), Some("10.1.%"));
        assert_eq!(host("192.0.2.1").as_deref(), Some("%"));
        assert!(accounts.find("nobody", "127.0.0.1".parse().expect("an address")).is_none());
    }
}
