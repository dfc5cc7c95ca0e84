//! The SQL nodes of the cluster, and asking them what only they know.
//!
//! **Data.** Each node keeps an entry of PD's configuration, `sql/nodes/{node}`: where its status
//! port is and when that was said. A node that has not said so for ten seconds is not asked.
//!
//! **Asking.** `GET` at the status port, answered in JSON. A node that does not answer in time is left
//! out, and the statement that asked gets a warning.

use std::sync::Arc;
use std::time::Duration;

use cairn_executor::ExecContext;
use cairn_proto::pd::ConfigEntry;
use cairn_types::Datum;
use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock;
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::infoschema::Rows;

const PREFIX: &str = "sql/nodes/";
/// A node that was silent for so long is not asked, and its entry is removed.
const SILENCE_MAX_MS: i64 = 10_000;
/// One node's time to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer: thousands of transactions, each with all its statements.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A node as others find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    /// Address of the status port; without one it is not asked.
    status: Option<String>,
    /// When it said so, by its own clock.
    at_ms: i64,
}

/// What one node answered.
pub struct Answer<T> {
    /// The node, as TiDB's `INSTANCE` names it.
    pub instance: String,
    /// What it knows, or why that is not known.
    pub outcome: Result<T, String>,
}

fn key_of(domain: &Domain) -> String {
    format!("{PREFIX}{}", domain.node_id())
}

/// Says that the node lives.
pub fn entry(domain: &Domain) -> ConfigEntry {
    let status = domain.config.status_addr.map(|address| address.to_string());
    let address = Address { status, at_ms: clock::unix_micros() / 1_000 };
    let value = serde_json::to_vec(&address).unwrap_or_default().into();
    ConfigEntry { key: key_of(domain), value }
}

/// Says that the node is gone.
pub fn gone(domain: &Domain) -> ConfigEntry {
    ConfigEntry { key: key_of(domain), value: bytes::Bytes::new() }
}

/// This node, as TiDB's `INSTANCE` names it.
pub fn own_instance(domain: &Domain) -> String {
    domain.config.status_addr.unwrap_or(domain.config.addr).to_string()
}

/// Status addresses of the other nodes; entries of those that are gone are removed.
async fn others(domain: &Domain) -> Result<Vec<String>> {
    let now_ms = clock::unix_micros() / 1_000;
    let (mut living, mut silent) = (Vec::new(), Vec::new());
    for entry in domain.pd.get_config(PREFIX).await? {
        match serde_json::from_slice::<Address>(&entry.value) {
            _ if entry.key == key_of(domain) => {}
            Ok(address) if now_ms - address.at_ms <= SILENCE_MAX_MS => {
                living.extend(address.status);
            }
            _ => silent.push(ConfigEntry { key: entry.key, value: bytes::Bytes::new() }),
        }
    }
    if !silent.is_empty() {
        domain.pd.put_config(silent).await?;
    }
    Ok(living)
}

/// Asks all other nodes at once.
pub async fn ask_others<T: DeserializeOwned>(
    domain: &Arc<Domain>,
    path: &str,
) -> Result<Vec<Answer<T>>> {
    let asked = others(domain).await?.into_iter().map(|instance| async move {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, get(&instance, path)).await;
        let body = answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
        let outcome =
            body.and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string()));
        Answer { instance, outcome }
    });
    Ok(join_all(asked).await)
}

/// What this node knows, and what the others tell at `path`, if one is given, each by its name. Nodes that do not
/// answer are warnings of the statement.
pub async fn gather<T: DeserializeOwned>(
    domain: &Arc<Domain>,
    exec: &ExecContext,
    own: T,
    path: Option<&str>,
) -> Result<Vec<(String, T)>> {
    let mut all = vec![(own_instance(domain), own)];
    let Some(path) = path else { return Ok(all) };
    for answer in ask_others::<T>(domain, path).await? {
        match answer.outcome {
            Ok(known) => all.push((answer.instance, known)),
            Err(reason) => exec.warn(missing(&answer.instance, &reason).to_mysql()),
        }
    }
    Ok(all)
}

/// Rows of a table that names the node first, if it shows all nodes.
pub fn with_instance<'a>(
    rows: impl Iterator<Item = (&'a String, Vec<Datum>)>,
    cluster: bool,
) -> Rows {
    let row = |(instance, mut row): (&String, Vec<Datum>)| {
        if cluster {
            row.insert(0, Datum::text(instance.clone()));
        }
        row
    };
    rows.map(row).collect()
}

/// The body at a path of a status port. HTTP/1.0: the answer ends with the connection.
async fn get(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    body_of(&answer)
}

fn body_of(answer: &[u8]) -> Result<Vec<u8>, String> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let head_bytes = memchr::memmem::find(answer, HEAD_END).ok_or("no HTTP answer")?;
    let (head, body) = answer.split_at(head_bytes);
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if status.split(|byte| *byte == b' ').nth(1) != Some(b"200") {
        return Err(String::from_utf8_lossy(status).into_owned());
    }
    Ok(body[HEAD_END.len()..].to_vec())
}

/// What a statement says of a node that did not answer.
pub fn missing(instance: &str, reason: &str) -> SqlError {
    SqlError::new(
        cairn_types::errno::ER_UNKNOWN_ERROR,
        format!("the SQL node at {instance} is left out: {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(
            body_of(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n[1]\r\n\r\n"),
            Ok(b"[1]\r\n\r\n".to_vec())
        );
        assert_eq!(
            body_of(b"HTTP/1.1 404 Not Found\r\n\r\n"),
            Err("HTTP/1.1 404 Not Found".into())
        );
        assert!(body_of(b"SSH-2.0\r\n").is_err() && body_of(b"").is_err());
    }
}
