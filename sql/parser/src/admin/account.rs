//! Rules of accounts and privileges.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::grammar::{Grammar, Parse};
use crate::token::{QUOTED, USER_VARIABLE};

impl Grammar<'_, '_> {
    /// `'u'@'h'`.
    pub(crate) fn user_name(&mut self) -> Parse<UserName> {
        if self.eat("CURRENT_USER") {
            if self.eat_sign(&Token::LParen) {
                self.expect_sign(&Token::RParen)?;
            }
            return self.unsupported("CURRENT_USER as an account name here");
        }
        let user = match self.peek() {
            Token::SingleQuotedString(_) => self.string()?,
            _ => self.ident()?,
        };
        let host = match self.peek() {
            Token::Word(word) if word.quote_style == Some(USER_VARIABLE) => {
                let host = word.value.to_ascii_lowercase();
                self.advance();
                host
            }
            _ => "%".to_owned(),
        };
        Ok(UserName { user, host })
    }

    /// An account, or `None` for `CURRENT_USER`, `USER()`.
    pub(crate) fn user_or_current(&mut self) -> Parse<Option<UserName>> {
        if self.is("CURRENT_USER") || (self.is("USER") && *self.peek_nth(1) == Token::LParen) {
            self.advance();
            if self.eat_sign(&Token::LParen) {
                self.expect_sign(&Token::RParen)?;
            }
            return Ok(None);
        }
        self.user_name().map(Some)
    }

    fn user_spec(&mut self) -> Parse<UserSpec> {
        let name = self.user_or_current()?;
        let auth = if self.eat("IDENTIFIED") { Some(self.user_auth()?) } else { None };
        if self.are("REPLACE") && auth.is_some() {
            self.advance();
            self.string()?;
        }
        let _ = self.eat_all("RETAIN CURRENT PASSWORD");
        Ok(UserSpec { name, auth })
    }

    /// After `IDENTIFIED`.
    fn user_auth(&mut self) -> Parse<UserAuth> {
        let plugin = if self.eat("WITH") { Some(self.ident_or_string()?) } else { None };
        let secret = if self.eat_all("BY RANDOM PASSWORD") {
            AuthSecret::RandomPassword
        } else if self.eat_all("BY PASSWORD") {
            AuthSecret::Hash(self.string()?)
        } else if self.eat("BY") {
            AuthSecret::Password(self.string()?)
        } else if self.eat("AS") {
            AuthSecret::Hash(match self.peek() {
                Token::HexStringLiteral(text) => {
                    let bytes = crate::lex::hex_bytes(text);
                    let Ok(hash) = String::from_utf8(bytes) else {
                        return self.fail("a hash");
                    };
                    self.advance();
                    hash
                }
                _ => self.string()?,
            })
        } else if plugin.is_some() {
            AuthSecret::None
        } else {
            return self.fail("BY");
        };
        Ok(UserAuth { plugin, secret })
    }

    /// At `USER` or `ROLE` after `CREATE`.
    pub(crate) fn create_user(&mut self) -> Parse<Statement> {
        let role = self.is("ROLE");
        self.advance();
        let if_not_exists = self.if_not_exists();
        let users = self.comma_list(Self::user_spec)?;
        let options = self.user_options()?;
        Ok(Statement::CreateUser(CreateUser { role, if_not_exists, users, options }))
    }

    /// At `USER` after `ALTER`.
    pub(crate) fn alter_user(&mut self) -> Parse<Statement> {
        self.advance();
        let if_exists = self.if_exists();
        let users = self.comma_list(Self::user_spec)?;
        let options = self.user_options()?;
        Ok(Statement::AlterUser(AlterUser { if_exists, users, options }))
    }

    /// At `USER` or `ROLE` after `DROP`.
    pub(crate) fn drop_user(&mut self) -> Parse<Statement> {
        let role = self.is("ROLE");
        self.advance();
        let if_exists = self.if_exists();
        let users = self.comma_list(Self::user_name)?;
        Ok(Statement::DropUser(DropUser { role, if_exists, users }))
    }

    fn user_options(&mut self) -> Parse<UserOptions> {
        let mut options = UserOptions::default();
        loop {
            if self.eat("REQUIRE") {
                options.require = Some(self.require()?);
            } else if self.eat("ACCOUNT") {
                options.account_locked = match self.eat_one(&["LOCK", "UNLOCK"]) {
                    Some(word) => Some(word == "LOCK"),
                    None => return self.fail("LOCK"),
                };
            } else if self.eat("COMMENT") || self.eat("ATTRIBUTE") {
                options.comment = Some(self.string()?);
            } else if self.eat("WITH") {
                self.resource_limits(&mut options)?;
            } else if self.eat_all("DEFAULT ROLE") {
                return self.unsupported("DEFAULT ROLE");
            } else if self.eat("PASSWORD") {
                self.password_option(&mut options)?;
            } else if let Some(word) =
                self.eat_one(&["FAILED_LOGIN_ATTEMPTS", "PASSWORD_LOCK_TIME"])
            {
                let value = if self.eat("UNBOUNDED") {
                    "UNBOUNDED".to_owned()
                } else {
                    self.integer()?.to_string()
                };
                options.other.push((word.to_owned(), value));
            } else {
                return Ok(options);
            }
        }
    }

    fn require(&mut self) -> Parse<String> {
        let start = self.at();
        if self.eat_one(&["NONE", "SSL", "X509"]).is_none() {
            loop {
                if self.eat_one(&["SUBJECT", "ISSUER", "CIPHER", "SAN", "TOKEN_ISSUER"]).is_none() {
                    return self.fail("NONE");
                }
                self.string()?;
                let _ = self.eat("AND");
                if !["SUBJECT", "ISSUER", "CIPHER", "SAN"].iter().any(|word| self.is(word)) {
                    break;
                }
            }
            return Ok(self.text(start, self.at()).to_owned());
        }
        Ok(self.text(start, self.at()).to_ascii_uppercase())
    }

    fn resource_limits(&mut self, options: &mut UserOptions) -> Parse<()> {
        const NAMES: [&str; 4] = [
            "MAX_QUERIES_PER_HOUR",
            "MAX_UPDATES_PER_HOUR",
            "MAX_CONNECTIONS_PER_HOUR",
            "MAX_USER_CONNECTIONS",
        ];
        let mut found = false;
        while let Some(name) = self.eat_one(&NAMES) {
            found = true;
            options.other.push((name.to_owned(), self.integer()?.to_string()));
        }
        if found { Ok(()) } else { self.fail("a limit") }
    }

    /// After `PASSWORD`.
    fn password_option(&mut self, options: &mut UserOptions) -> Parse<()> {
        let start = self.at();
        if self.eat("EXPIRE") {
            let policy = self.eat("DEFAULT") || self.eat("NEVER");
            if !policy && self.eat("INTERVAL") {
                self.integer()?;
                self.expect("DAY")?;
            } else if !policy {
                options.password_expired = true;
                return Ok(());
            }
        } else if self.eat("HISTORY") {
            if !self.eat("DEFAULT") {
                self.integer()?;
            }
        } else if self.eat("REUSE") {
            self.expect("INTERVAL")?;
            if !self.eat("DEFAULT") {
                self.integer()?;
                self.expect("DAY")?;
            }
        } else if self.eat_all("REQUIRE CURRENT") {
            let _ = self.eat_one(&["DEFAULT", "OPTIONAL"]);
        } else {
            return self.fail("EXPIRE");
        }
        let text = self.text(start, self.at()).to_owned();
        options.other.push(("PASSWORD".into(), text));
        Ok(())
    }

    /// At `PASSWORD` after `SET`.
    pub(crate) fn set_password(&mut self) -> Parse<Statement> {
        self.advance();
        let user = if self.eat("FOR") { self.user_or_current()? } else { None };
        if !self.eat_equals() {
            return self.fail("=");
        }
        let password =
            if self.eat("PASSWORD") { self.parenthesised(Self::string)? } else { self.string()? };
        Ok(Statement::SetPassword(SetPassword { user, password }))
    }

    /// `GRANT ..` and `REVOKE ..`.
    pub(crate) fn grant(&mut self) -> Parse<Statement> {
        let revoke = self.is("REVOKE");
        self.advance();
        let end_word = if revoke { "FROM" } else { "TO" };
        if self.roles_ahead(end_word) {
            let roles = self.comma_list(Self::user_name)?;
            self.expect(end_word)?;
            let users = self.comma_list(Self::user_name)?;
            let _ = !revoke && self.eat_all("WITH ADMIN OPTION");
            return Ok(Statement::GrantRole(GrantRole { revoke, roles, users }));
        }
        if revoke && self.are("ALL") && !self.nth_is(1, "ON") && !self.nth_is(2, "ON") {
            return self.revoke_everything();
        }
        let privileges = if self.eat("ALL") {
            let _ = self.eat("PRIVILEGES");
            Vec::new()
        } else {
            self.comma_list(Self::privilege)?
        };
        self.expect("ON")?;
        let level = self.privilege_level()?;
        self.expect(end_word)?;
        let users = self.comma_list(Self::user_spec)?;
        let mut with_grant_option = false;
        if self.eat("REQUIRE") {
            self.require()?;
        }
        if !revoke && self.eat("WITH") {
            let mut limits = UserOptions::default();
            if self.eat_all("GRANT OPTION") {
                with_grant_option = true;
            } else {
                self.resource_limits(&mut limits)?;
            }
        }
        Ok(Statement::Grant(Grant { revoke, privileges, level, users, with_grant_option }))
    }

    /// `REVOKE ALL [PRIVILEGES], GRANT OPTION FROM u`: everything on every level.
    fn revoke_everything(&mut self) -> Parse<Statement> {
        self.expect("ALL")?;
        let _ = self.eat("PRIVILEGES");
        self.expect_sign(&Token::Comma)?;
        self.expect("GRANT OPTION")?;
        self.expect("FROM")?;
        let users = self.comma_list(Self::user_spec)?;
        let level = PrivilegeLevel::Global;
        let privileges = Vec::new();
        let grant = Grant { revoke: true, privileges, level, users, with_grant_option: true };
        Ok(Statement::Grant(grant))
    }

    /// True when no `ON` stands before `TO` or `FROM`: roles are given, not privileges.
    fn roles_ahead(&self, end_word: &str) -> bool {
        let mut n = 0;
        loop {
            if self.nth_is(n, "ON") || self.nth_is(n, "ALL") {
                return false;
            }
            if self.nth_is(n, end_word) {
                return true;
            }
            if *self.peek_nth(n) == Token::EOF {
                return false;
            }
            n += 1;
        }
    }

    fn privilege(&mut self) -> Parse<Privilege> {
        let mut words = Vec::new();
        while let Token::Word(word) = self.peek() {
            if word.quote_style.is_some() || self.is("ON") {
                break;
            }
            words.push(word.value.to_ascii_uppercase());
            self.advance();
        }
        if words.is_empty() {
            return self.fail("a privilege");
        }
        let columns = if *self.peek() == Token::LParen { self.ident_list()? } else { Vec::new() };
        Ok(Privilege { name: words.join(" "), columns })
    }

    /// `*.*`, `*`, `db.*`, `db.t`, `t`.
    fn privilege_level(&mut self) -> Parse<PrivilegeLevel> {
        // `ON TABLE t`: the default kind of object.
        if self.is("TABLE") {
            self.advance();
        }
        if (self.is("FUNCTION") || self.is("PROCEDURE"))
            && matches!(self.peek_nth(1), Token::Word(_))
        {
            return self.unsupported("privileges on stored routines");
        }
        if self.eat_sign(&Token::Mul) {
            if !self.eat_sign(&Token::Period) {
                return Ok(PrivilegeLevel::CurrentDatabase);
            }
            self.expect_sign(&Token::Mul)?;
            return Ok(PrivilegeLevel::Global);
        }
        let first = match self.peek() {
            Token::Word(word) if matches!(word.quote_style, None | Some(QUOTED)) => self.ident()?,
            _ => return self.fail("a level"),
        };
        if !self.eat_sign(&Token::Period) {
            return Ok(PrivilegeLevel::Table(ObjectName::bare(first)));
        }
        if self.eat_sign(&Token::Mul) {
            return Ok(PrivilegeLevel::Database(first));
        }
        let name = self.ident_after_dot()?;
        Ok(PrivilegeLevel::Table(ObjectName { schema: Some(first), name }))
    }
}
