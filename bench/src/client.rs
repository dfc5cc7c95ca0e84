//! One connection that executes statements as prepared ones or as text, and is made anew
//! after it broke.
//!
//! Statements are templates with `?` for values, known at compile time or made once per shape,
//! so that each is prepared once per connection. No template holds a `?` for anything else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder, Row, Statement, Value};

use crate::error::Failure;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the servers are and how to log in.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port of each server.
    pub servers: Vec<(String, u16)>,
    /// The account.
    pub user: String,
    /// Its password, if any.
    pub password: Option<String>,
    /// The database with the workload's tables.
    pub database: String,
    /// Whether statements travel as text.
    pub text: bool,
}

/// Values for the `?` of a template.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$(::mysql_async::Value::from($value)),*] };
}
pub(crate) use values;

/// One client with at most one connection.
#[derive(Debug)]
pub struct Client {
    target: Arc<Target>,
    /// Which server comes next, counted around.
    at: usize,
    /// Whether to select the database: it need not be there yet.
    selects_database: bool,
    connection: Option<Connection>,
    in_transaction: bool,
}

/// A connection with the statements prepared on it.
#[derive(Debug)]
struct Connection {
    conn: Conn,
    statements: HashMap<&'static str, Statement>,
}

impl Client {
    /// A client that begins with the n-th server; it connects when it is used.
    pub fn new(target: Arc<Target>, n: usize) -> Self {
        Self { target, at: n, selects_database: true, connection: None, in_transaction: false }
    }

    /// As [`Client::new`], without selecting the database.
    pub fn without_database(target: Arc<Target>) -> Self {
        Self { selects_database: false, ..Self::new(target, 0) }
    }

    /// Makes the connection if there is none.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        self.connection().await.map(drop)
    }

    /// The connection, made if there is none. After a failure the next server is tried next.
    async fn connection(&mut self) -> Result<&mut Connection, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let conn = self.dial().await.inspect_err(|_| self.at += 1)?;
                Connection { conn, statements: HashMap::new() }
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Connects to the server that is next.
    async fn dial(&self) -> Result<Conn, Failure> {
        let (host, port) = &self.target.servers[self.at % self.target.servers.len()];
        let options = OptsBuilder::default()
            .ip_or_hostname(host.clone())
            .tcp_port(*port)
            .user(Some(self.target.user.clone()))
            .pass(self.target.password.clone())
            .db_name(self.selects_database.then(|| self.target.database.clone()))
            .prefer_socket(false)
            // Statements are kept here.
            .stmt_cache_size(0);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options));
        let unreachable = |why| Failure::Unreachable(format!("{host}:{port}: {why}"));
        match connecting.await.map(|connected| connected.map_err(Failure::from)) {
            Ok(Err(Failure::Lost(why))) => Err(unreachable(why)),
            Ok(connected) => connected,
            Err(_) => Err(unreachable("no answer".to_owned())),
        }
    }

    /// Forgets the connection with all that belongs to it.
    fn drop_connection(&mut self) {
        self.connection = None;
        self.in_transaction = false;
    }

    /// Says goodbye to the server.
    pub async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // The work is done: a server that is gone by now harms nobody.
            let _ = connection.conn.disconnect().await;
        }
    }

    /// The rows of a statement.
    pub async fn rows(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Vec<Row>, Failure> {
        let as_text = self.target.text.then(|| with_values(sql, &values));
        let Connection { conn, statements } = self.connection().await?;
        if let Some(text) = as_text {
            return Ok(conn.query(text).await?);
        }
        let statement = match statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = conn.prep(sql).await?;
                statements.insert(sql, statement.clone());
                statement
            }
        };
        Ok(conn.exec(statement, values).await?)
    }

    /// The first row of a statement.
    pub async fn first<T: FromRow>(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<Option<T>, Failure> {
        self.rows(sql, values).await?.into_iter().next().map(columns).transpose()
    }

    /// The row of a statement that must have one.
    pub async fn one<T: FromRow>(
        &mut self,
        sql: &'static str,
        values: Vec<Value>,
    ) -> Result<T, Failure> {
        let shown = format!("{values:?}");
        let row = self.first(sql, values).await?;
        row.ok_or_else(|| Failure::Wrong(format!("no row: {sql} with {shown}")))
    }

    /// Executes a statement that gives no rows.
    pub async fn change(&mut self, sql: &'static str, values: Vec<Value>) -> Result<(), Failure> {
        self.rows(sql, values).await.map(drop)
    }

    /// Executes a statement that is not worth preparing, as text.
    pub async fn text(&mut self, sql: impl AsRef<str>) -> Result<(), Failure> {
        Ok(self.connection().await?.conn.query_drop(sql.as_ref()).await?)
    }

    /// The rows of a query that is not worth preparing, as text.
    pub async fn query<T: FromRow>(&mut self, sql: impl AsRef<str>) -> Result<Vec<T>, Failure> {
        let rows: Vec<Row> = self.connection().await?.conn.query(sql.as_ref()).await?;
        rows.into_iter().map(columns).collect()
    }

    /// The rows of a query sent as text, each value as its text.
    pub async fn texts(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let rows: Vec<Row> = self.connection().await?.conn.query(sql).await?;
        let text = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => Some(other.as_sql(true)),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    /// Begins a transaction.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        self.text("BEGIN").await?;
        self.in_transaction = true;
        Ok(())
    }

    /// Commits it.
    pub async fn commit(&mut self) -> Result<(), Failure> {
        self.text("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Takes it back.
    pub async fn roll_back(&mut self) -> Result<(), Failure> {
        self.text("ROLLBACK").await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Makes the client ready for the next attempt: ends the transaction, or gives a
    /// connection up whose state nobody knows.
    pub async fn recover(&mut self, failure: &Failure) {
        match failure {
            Failure::Server { .. } | Failure::Wrong(_) => {
                if self.in_transaction && self.roll_back().await.is_err() {
                    self.drop_connection();
                }
            }
            // Connecting moved on to the next server already.
            Failure::Unreachable(_) => {}
            Failure::Lost(_) | Failure::Driver(_) => {
                self.at += 1;
                self.drop_connection();
            }
        }
    }
}

/// The columns of a row as the types that the caller expects.
pub fn columns<T: FromRow>(row: Row) -> Result<T, Failure> {
    T::from_row_opt(row).map_err(|error| Failure::Wrong(format!("columns of other types: {error}")))
}

/// A template with its values in place, for the text protocol.
fn with_values(sql: &str, values: &[Value]) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (part, value) in parts.zip(values) {
        text.push_str(&value.as_sql(false));
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_the_text_as_literals() {
        let values = [Value::from(1.25), Value::from("o'x"), Value::from(7)];
        let text = with_values("UPDATE t SET a = a + ?, b = ? WHERE c = ?", &values);
        assert_eq!(text, "UPDATE t SET a = a + 1.25, b = 'o\\'x' WHERE c = 7");
    }
}
