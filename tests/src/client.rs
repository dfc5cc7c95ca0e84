//! A MySQL client that goes on whatever happens to the servers: it gives a silent statement up,
//! connects anew, and tries the next server.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Error, OptsBuilder};

use crate::pass;

/// How long a statement or a transaction may take before it is given up. Longer than any fault
/// that the cluster should ride out, so that only a hang is cut off.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after a server that cannot be reached.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Where the SQL nodes are; may change while clients use it.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<RwLock<Vec<SocketAddr>>>);

impl Servers {
    /// These addresses.
    pub fn new(addresses: Vec<SocketAddr>) -> Self {
        Self(Arc::new(RwLock::new(addresses)))
    }

    /// The server on a port of this machine.
    pub fn on_port(port: u16) -> Self {
        Self::new(vec![SocketAddr::from(([127, 0, 0, 1], port))])
    }

    /// The server of this machine was started anew on another port.
    pub fn move_to_port(&self, port: u16) {
        let moved = vec![SocketAddr::from(([127, 0, 0, 1], port))];
        *self.0.write().expect("nobody panics under this lock") = moved;
    }

    /// The n-th, counted around.
    fn nth(&self, n: usize) -> SocketAddr {
        let addresses = self.0.read().expect("nobody panics under this lock");
        addresses[n % addresses.len()]
    }
}

/// Why a statement was not answered well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server answered an error.
    Refused {
        /// MySQL's number.
        code: u16,
        /// The text.
        message: String,
    },
    /// No connection could be made: the statement was never sent.
    Unreachable,
    /// The connection broke, so that nobody knows what became of the statement.
    Lost,
    /// No answer came within [`STATEMENT_TIMEOUT`].
    Silent,
}

impl Failure {
    /// Whether an application may simply try again: the trouble passes, and the error says so.
    pub fn is_retryable(&self) -> bool {
        /// Lock wait timeout, deadlock, and TiDB's numbers for a cluster in trouble: PD or a store
        /// times out, is busy, or a region has no leader; write conflict; server shutdown.
        const PASSING: &[u16] = &[1053, 1205, 1213, 9001, 9002, 9003, 9005, 9007];
        match self {
            Failure::Refused { code, .. } => PASSING.contains(code),
            Failure::Unreachable | Failure::Lost => true,
            Failure::Silent => false,
        }
    }

    /// Whether the statement may have been executed all the same.
    pub fn is_uncertain(&self) -> bool {
        match self {
            // Only these numbers are used for statements that had no effect.
            Failure::Refused { code, .. } => !matches!(code, 1062 | 1213 | 9007),
            Failure::Unreachable => false,
            Failure::Lost | Failure::Silent => true,
        }
    }

    /// How reports name it.
    pub fn label(&self) -> String {
        match self {
            Failure::Refused { code, .. } => format!("error {code}"),
            Failure::Unreachable => "no connection".to_owned(),
            Failure::Lost => "connection lost".to_owned(),
            Failure::Silent => "no answer".to_owned(),
        }
    }
}

/// One client with at most one connection.
#[derive(Debug)]
pub struct Client {
    servers: Servers,
    at: usize,
    conn: Option<Conn>,
}

impl Client {
    /// A client that begins with the n-th server.
    pub fn new(servers: Servers, first: usize) -> Self {
        Self { servers, at: first, conn: None }
    }

    /// Does something over the connection, which is made when there is none. After a failure that
    /// the server did not tell itself the next try goes to the next server.
    pub async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Conn) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        if self.conn.is_none() {
            let connecting = connect(self.servers.nth(self.at), "");
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(conn)) => self.conn = Some(conn),
                _ => {
                    self.at += 1;
                    pass(RECONNECT_PAUSE).await;
                    return Err(Failure::Unreachable);
                }
            }
        }
        let conn = self.conn.as_mut().expect("made above");
        let failure = match tokio::time::timeout(STATEMENT_TIMEOUT, work(conn)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Error::Server(error))) => {
                return Err(Failure::Refused { code: error.code, message: error.message });
            }
            Ok(Err(_)) => Failure::Lost,
            Err(_) => Failure::Silent,
        };
        self.conn = None;
        self.at += 1;
        Err(failure)
    }

    /// Executes a statement whose rows nobody wants.
    pub async fn execute(&mut self, statement: &str) -> Result<(), Failure> {
        self.run(async |conn: &mut Conn| conn.query_drop(statement).await).await
    }

    /// The first row of a query.
    pub async fn first<T: FromRow + Send + 'static>(
        &mut self,
        query: &str,
    ) -> Result<Option<T>, Failure> {
        self.run(async |conn: &mut Conn| conn.query_first(query).await).await
    }
}

/// Connects as root to `database`, or to none when that is empty.
pub async fn connect(server: SocketAddr, database: &str) -> Result<Conn, Error> {
    let options = OptsBuilder::default()
        .ip_or_hostname(server.ip().to_string())
        .tcp_port(server.port())
        .user(Some("root"))
        .db_name((!database.is_empty()).then_some(database))
        .prefer_socket(false);
    Conn::new(options).await
}

/// The number of the server's error, or 0 when there was none.
///
/// # Panics
/// When the connection failed, not the statement.
pub fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> u16 {
    match outcome {
        Ok(_) => 0,
        Err(Error::Server(error)) => error.code,
        Err(error) => panic!("{error}"),
    }
}

/// As [`code`], of a statement.
pub async fn code_of(conn: &mut Conn, statement: &str) -> u16 {
    code(conn.query_drop(statement).await)
}

/// Executes statements that must succeed, one after the other.
///
/// # Panics
/// At the first that fails.
pub async fn run(conn: &mut Conn, statements: &[&str]) {
    for statement in statements {
        conn.query_drop(*statement).await.expect(statement);
    }
}
