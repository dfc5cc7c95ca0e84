//! What bounds a statement: its time, `KILL`, and how urgent it is to the stores.
//!
//! **Flow.** The connection gives every command a token that `KILL` and the client's departure
//! cancel. [`Session::bound_statement`] adds what the statement itself says: `MAX_EXECUTION_TIME`
//! (the hint, else the variable) and its priority. All of it travels as a [`RequestScope`] with
//! every request to the key-value tier, so that stores stop working when nobody waits any more.
//! When the time is over a timer cancels the statement's own token, which operators look at too.
//!
//! **Errors.** Whoever stops is told "interrupted" (1317); [`Session::tell_interruption`] says at
//! the end whether it was the statement's time that ran out (3024), or the node's memory (8175).

use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::{Deadline, KvError, RequestLog, RequestScope};
use cairn_parser::ast::{Priority as Word, Query, QueryBody, Select, Statement};
use cairn_proto::kv::Priority;
use cairn_types::errno;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Session;
use crate::error::SqlError;

/// The bounds of the running statement.
#[derive(Debug)]
pub struct Bounds {
    /// Given by the connection.
    killed: CancellationToken,
    /// Cancelled by the one above, and when the statement's time is over.
    token: CancellationToken,
    /// What requests carry.
    scope: RequestScope,
    /// Ends the timer.
    _timer: Option<DropGuard>,
}

impl Bounds {
    /// Nothing but the connection's token.
    pub fn new(killed: CancellationToken) -> Bounds {
        let scope = RequestScope {
            cancel: Some(killed.clone()),
            log: Some(Arc::default()),
            ..RequestScope::default()
        };
        Bounds { token: killed.clone(), killed, scope, _timer: None }
    }

    /// Adds a limit to the time. Must be called within a tokio runtime.
    fn limit(&mut self, time: Duration) {
        let deadline = Deadline::after(time);
        self.token = self.killed.child_token();
        let (token, ended) = (self.token.clone(), CancellationToken::new());
        self._timer = Some(ended.clone().drop_guard());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(time) => token.cancel(),
            }
        });
        self.scope.deadline = Some(deadline);
        self.scope.cancel = Some(self.token.clone());
    }
}

impl Session {
    /// Cancelled when the statement must stop.
    pub fn token(&self) -> &CancellationToken {
        &self.bounds.token
    }

    /// What the statement's requests to the stores carry.
    pub fn scope(&self) -> &RequestScope {
        &self.bounds.scope
    }

    /// Has the statement's requests noted here from now on.
    pub(crate) fn keep_requests(&mut self, log: &Arc<RequestLog>) {
        self.bounds.scope.log = Some(Arc::clone(log));
    }

    /// Takes up what a statement says of its time and importance. Only queries have a limit of
    /// time: a change that stops half-way would have to be undone.
    pub(crate) fn bound_statement(&mut self, statement: &Statement) {
        let (words, query) = match statement {
            Statement::Query(query) => {
                let high = first_select(&query.body).is_some_and(|one| one.modifiers.high_priority);
                (high.then_some(Word::High), Some(query))
            }
            Statement::Insert(insert) => (insert.priority, None),
            Statement::Update(update) => (update.priority, None),
            Statement::Delete(delete) => (delete.priority, None),
            _ => return,
        };
        self.bounds.scope.priority = match self.settings().forced_priority.or(words) {
            None => Priority::Normal,
            Some(Word::High) => Priority::High,
            Some(Word::Low | Word::Delayed) => Priority::Low,
        };
        let Some(query) = query else { return };
        match hinted_time_ms(query).unwrap_or(self.settings().max_execution_time_ms) {
            0 => {}
            limit_ms => {
                self.bounds.limit(Duration::from_millis(limit_ms));
                self.shared.set_token(self.bounds.token.clone());
            }
        }
    }

    /// The statement has ended; what goes on in its name is bound by the connection alone.
    pub(crate) fn end_bounds(&mut self) {
        if self.bounds.scope.deadline.is_some() {
            self.bounds = Bounds::new(self.bounds.killed.clone());
            self.shared.set_token(self.bounds.token.clone());
        }
    }

    /// A statement that stopped because its own time was over, or for the sake of the node's memory, says so.
    pub(crate) fn tell_interruption(&self, error: SqlError) -> SqlError {
        if let Some(memory) = &self.statement_memory
            && let Err(reason) = memory.tracker.check()
            && error.to_mysql().code == errno::ER_QUERY_INTERRUPTED
        {
            return reason.into();
        }
        let is_late = self.scope().deadline.is_some_and(Deadline::is_over);
        if !is_late || self.bounds.killed.is_cancelled() {
            return error;
        }
        match error.to_mysql().code {
            errno::ER_QUERY_INTERRUPTED => SqlError::Kv(KvError::StatementTimeout),
            _ => error,
        }
    }
}

/// The first `SELECT` of a query: its words and hints are the statement's.
fn first_select(body: &QueryBody) -> Option<&Select> {
    match body {
        QueryBody::Select(select) => Some(select),
        QueryBody::SetOperation { left, .. } => first_select(left),
        QueryBody::Nested(query) => first_select(&query.body),
        QueryBody::Values(_) | QueryBody::Table(_) => None,
    }
}

/// `MAX_EXECUTION_TIME(n)` among the hints; `None` where it is missing or says nothing.
fn hinted_time_ms(query: &Query) -> Option<u64> {
    /// As the variable's.
    const LIMIT_MS_MAX: u64 = u32::MAX as u64;
    const NAME: &str = "MAX_EXECUTION_TIME";
    let select = first_select(&query.body)?;
    select.hints.iter().find_map(|text| {
        let upper = text.to_ascii_uppercase();
        let (_, behind) = upper.split_once(NAME)?;
        let (number, _) = behind.trim_start().strip_prefix('(')?.split_once(')')?;
        let limit_ms: u64 = number.trim().parse().ok()?;
        (limit_ms > 0).then_some(limit_ms.min(LIMIT_MS_MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hinted(text: &str) -> Option<u64> {
        let parsed = cairn_parser::parse_one(text, &cairn_parser::SqlMode::default());
        match parsed.expect("parses").statement {
            Statement::Query(query) => hinted_time_ms(&query),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_select_says_how_long() {
        assert_eq!(hinted("SELECT 1"), None);
        assert_eq!(hinted("SELECT /*+ MAX_EXECUTION_TIME(50) */ 1"), Some(50));
        assert_eq!(hinted("SELECT /*+ a(t) max_execution_time( 50 ), b() */ 1"), Some(50));
        assert_eq!(hinted("SELECT /*+ MAX_EXECUTION_TIME(0) */ 1"), None);
        assert_eq!(hinted("SELECT /*+ MAX_EXECUTION_TIME(x) */ 1"), None);
        assert_eq!(hinted("(SELECT /*+ MAX_EXECUTION_TIME(7) */ 1) UNION SELECT 2"), Some(7));
        assert_eq!(hinted("SELECT 1 UNION SELECT /*+ MAX_EXECUTION_TIME(7) */ 2"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_kill_both_end_a_statement() {
        let killed = CancellationToken::new();
        let mut bounds = Bounds::new(killed.clone());
        bounds.limit(Duration::from_millis(100));
        let token = bounds.token.clone();
        tokio::time::sleep(Duration::from_millis(99)).await;
        assert!(!token.is_cancelled() && bounds.scope.check().is_ok());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(token.is_cancelled() && !killed.is_cancelled());
        let mut bounds = Bounds::new(killed.clone());
        bounds.limit(Duration::from_millis(100));
        killed.cancel();
        assert_eq!(bounds.scope.check(), Err(KvError::Cancelled));
        // The timer of a statement that ended does nothing any more.
        let mut bounds = Bounds::new(CancellationToken::new());
        bounds.limit(Duration::from_millis(100));
        let token = bounds.token.clone();
        drop(bounds);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!token.is_cancelled());
    }
}
