//! Rules of `SET`.

use sqlparser::tokenizer::Token;

use crate::ast::*;
use crate::expr::scoped_variable;
use crate::grammar::{Grammar, Parse};
use crate::token::{SYSTEM_VARIABLE, USER_VARIABLE};

impl Grammar<'_, '_> {
    /// `SET ..`.
    pub(crate) fn set(&mut self) -> Parse<Statement> {
        self.expect("SET")?;
        let scope = match self.peek_nth(1) {
            token if crate::grammar::is_word(token, "TRANSACTION") => self.scope_word_at_cursor(),
            _ => None,
        };
        if self.eat("TRANSACTION") {
            return self.set_transaction(VariableScope::Unspecified);
        }
        if let Some(scope) = scope {
            self.advance();
            self.advance();
            return self.set_transaction(scope);
        }
        if self.is("PASSWORD") {
            return self.set_password();
        }
        const LATER: [&str; 4] = ["DEFAULT ROLE", "ROLE", "CONFIG", "RESOURCE GROUP"];
        for what in LATER {
            let assigned = *self.peek_nth(1) == Token::Eq || *self.peek_nth(1) == Token::Assignment;
            if self.are(what) && !assigned {
                return self.unsupported(format!("SET {what}"));
            }
        }
        // A scope word holds for the items after it, until the next scope word.
        let mut scope = VariableScope::Unspecified;
        let items = self.comma_list(|g| g.set_item(&mut scope))?;
        Ok(Statement::Set(items))
    }

    fn scope_word_at_cursor(&self) -> Option<VariableScope> {
        const WORDS: [(&str, VariableScope); 5] = [
            ("GLOBAL", VariableScope::Global),
            ("SESSION", VariableScope::Session),
            ("LOCAL", VariableScope::Session),
            ("PERSIST", VariableScope::Persist),
            ("PERSIST_ONLY", VariableScope::PersistOnly),
        ];
        WORDS.iter().find(|(word, _)| self.is(word)).map(|(_, scope)| *scope)
    }

    fn set_item(&mut self, scope: &mut VariableScope) -> Parse<SetItem> {
        if let Token::Word(word) = self.peek() {
            match word.quote_style {
                Some(USER_VARIABLE) => {
                    let name = word.value.clone();
                    self.advance();
                    self.assignment_sign()?;
                    return Ok(SetItem::User { name, value: self.expr()? });
                }
                Some(SYSTEM_VARIABLE) => {
                    let (scope, name) = scoped_variable(&word.value);
                    self.advance();
                    return self.system_item(scope, name);
                }
                _ => {}
            }
        }
        if self.eat("NAMES") {
            let charset = self.charset_or_default()?;
            let collation = if self.eat("COLLATE") {
                Some(self.ident_or_string()?.to_ascii_lowercase())
            } else {
                None
            };
            return Ok(SetItem::Names { charset, collation });
        }
        if self.eat_charset_words() {
            return Ok(SetItem::CharacterSet(self.charset_or_default()?));
        }
        if let Some(word) = self.scope_word_at_cursor()
            && matches!(self.peek_nth(1), Token::Word(_))
        {
            self.advance();
            *scope = word;
        }
        let mut name = self.ident()?;
        while self.eat_sign(&Token::Period) {
            name = format!("{name}.{}", self.ident_after_dot()?);
        }
        self.system_item(*scope, name)
    }

    fn system_item(&mut self, scope: VariableScope, name: String) -> Parse<SetItem> {
        self.assignment_sign()?;
        let value = self.set_value()?;
        Ok(SetItem::System { scope, name, value })
    }

    fn assignment_sign(&mut self) -> Parse<()> {
        if self.eat_equals() { Ok(()) } else { self.fail("=") }
    }

    fn charset_or_default(&mut self) -> Parse<Option<String>> {
        if self.eat("DEFAULT") {
            return Ok(None);
        }
        Ok(Some(self.ident_or_string()?.to_ascii_lowercase()))
    }

    /// A value of a system variable: a bare word is a string.
    fn set_value(&mut self) -> Parse<SetValue> {
        let last = matches!(self.peek_nth(1), Token::Comma | Token::EOF);
        if self.is("DEFAULT") && last {
            self.advance();
            return Ok(SetValue::Default);
        }
        if let Token::Word(word) = self.peek() {
            let literal = ["NULL", "TRUE", "FALSE"].iter().any(|literal| self.is(literal));
            let bare = matches!(word.quote_style, None | Some(crate::token::QUOTED));
            if last && bare && !literal {
                let value = word.value.clone();
                self.advance();
                return Ok(SetValue::Expr(Expr::Literal(Literal::String { value, charset: None })));
            }
            // `read-committed` without quotes is a word, a sign and a word.
            if bare && *self.peek_nth(1) == Token::Minus && self.hyphenated() {
                let start = self.at();
                while !matches!(self.peek(), Token::Comma | Token::EOF) {
                    self.advance();
                }
                let text = self.text(start, self.at()).to_owned();
                return Ok(SetValue::Expr(Expr::Literal(Literal::string(text))));
            }
        }
        self.expr().map(SetValue::Expr)
    }

    /// True before `READ-COMMITTED` and the other levels without quotes.
    fn hyphenated(&self) -> bool {
        (self.is("READ") && (self.nth_is(2, "COMMITTED") || self.nth_is(2, "UNCOMMITTED")))
            || (self.is("REPEATABLE") && self.nth_is(2, "READ"))
    }
}
