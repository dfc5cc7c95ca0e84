//! Runs every script of `slt/` on a playground of one process and on a cluster of three stores
//! in processes of their own: the same answers on both.
//!
//! Each script has a database of its own, named after the file, and any number of connections
//! (`connection name`). An error is expected by its code: `statement error ^1062 `. NULL is
//! written `NULL`, an empty string `(empty)`, a line break inside a value `\n`, and bytes that
//! are not UTF-8 as `0x…`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use cairn_tests::{HarnessError, Layout, Playground, playground};
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

/// Scripts that run at the same time.
const PARALLEL_SCRIPTS: usize = 4;

/// A connection as `sqllogictest` wants it.
struct Session(Option<Conn>);

/// What a statement was answered, so that scripts can match `^code `.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{} {} ({})", .0.code, .0.message, .0.state)]
    Server(mysql_async::ServerError),
    #[error("{0}")]
    Connection(String),
}

impl From<mysql_async::Error> for SessionError {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => Self::Server(error),
            other => Self::Connection(other.to_string()),
        }
    }
}

/// How a value is written in a script.
fn written(value: &Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) if bytes.is_empty() => "(empty)".to_owned(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => text.replace('\n', "\\n"),
            _ => bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02X}")),
        },
        // The text protocol sends nothing else.
        other => format!("{other:?}"),
    }
}

#[async_trait]
impl AsyncDB for Session {
    type Error = SessionError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SessionError> {
        let gone = || SessionError::Connection("the connection is closed".to_owned());
        let conn = self.0.as_mut().ok_or_else(gone)?;
        let mut result = conn.query_iter(sql).await?;
        let columns = result.columns_ref().len();
        if columns == 0 {
            let affected = result.affected_rows();
            result.drop_result().await?;
            return Ok(DBOutput::StatementComplete(affected));
        }
        let rows: Vec<Row> = result.collect().await?;
        let rows = rows.into_iter().map(|row| row.unwrap().iter().map(written).collect()).collect();
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
    }

    async fn shutdown(&mut self) {
        if let Some(conn) = self.0.take() {
            let _ = conn.disconnect().await;
        }
    }

    fn engine_name(&self) -> &str {
        "cairn"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// All scripts, sorted; `CAIRN_SLT` picks those whose name contains it.
fn scripts() -> Vec<PathBuf> {
    let dir = Path::new("slt");
    let wanted = std::env::var("CAIRN_SLT").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry of it").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .filter(|path| path.to_string_lossy().contains(&wanted))
        .collect();
    files.sort();
    files
}

/// Runs one script in a database of its own; answers what went wrong.
async fn run_script(port: u16, path: &Path) -> Result<(), String> {
    let stem = path.file_stem().expect("a script has a name").to_string_lossy().into_owned();
    let database = format!("slt_{stem}");
    let mut conn = playground::connect(port, "").await.map_err(|error| error.to_string())?;
    let create = format!("CREATE DATABASE {database}");
    conn.query_drop(create).await.map_err(|error| error.to_string())?;
    let mut runner = Runner::new(|| {
        let database = database.clone();
        async move { Ok(Session(Some(playground::connect(port, &database).await?))) }
    });
    let outcome = runner.run_file_async(path).await;
    runner.shutdown_async().await;
    let _ = conn.disconnect().await;
    outcome.map_err(|error| error.display(false).to_string())
}

/// Runs all scripts on one cluster; tells all failures together.
async fn run_all(layout: Layout) -> Result<(), HarnessError> {
    let playground = Playground::start(layout).await?;
    let port = playground.port();
    // Scripts say themselves when tables are analyzed: plans should not depend on the moment.
    let mut conn = playground::connect(port, "").await?;
    conn.query_drop("SET GLOBAL tidb_enable_auto_analyze = OFF").await?;
    conn.disconnect().await?;
    let failures: Vec<String> = futures::stream::iter(scripts())
        .map(|path| async move {
            let outcome = run_script(port, &path).await;
            outcome.err().map(|error| format!("{}\n{error}", path.display()))
        })
        .buffer_unordered(PARALLEL_SCRIPTS)
        .filter_map(futures::future::ready)
        .collect()
        .await;
    assert!(failures.is_empty(), "{layout:?}\n{}", failures.join("\n\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_on_one_process() -> Result<(), HarnessError> {
    run_all(Layout::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_on_three_stores() -> Result<(), HarnessError> {
    run_all(Layout::Processes { stores: 3 }).await
}
