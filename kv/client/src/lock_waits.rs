//! Who waits for whose locks, over all stores: for people, not for the protocol.

use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::{Context, KvRequest, LockWait, LockWaitsRequest, kv_response};
use cairn_proto::meta::{Peer, Store};
use cairn_types::TimeStamp;
use futures::future::join_all;

use crate::client::KvClient;
use crate::error::KvError;
use crate::request::Cmd;

/// How long a store is waited for. One that does not answer is left out: whoever asks who
/// waits may be looking for the reason.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A transaction that waits for another one's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWaiting {
    /// Who waits.
    pub waiter: TimeStamp,
    /// Who holds the lock.
    pub holder: TimeStamp,
    /// The locked key; empty when it was too long to be kept.
    pub key: Bytes,
    /// What the waiter locks it for ([`crate::Transaction::tag_statement`]).
    pub tag: Bytes,
}

impl From<LockWait> for LockWaiting {
    fn from(wait: LockWait) -> LockWaiting {
        LockWaiting {
            waiter: TimeStamp(wait.waiter),
            holder: TimeStamp(wait.holder),
            key: wait.key,
            tag: wait.tag,
        }
    }
}

impl KvClient {
    /// Who waits in the queues of the stores, some thousands per store at most.
    pub async fn lock_waits(&self) -> Result<Vec<LockWaiting>, KvError> {
        let stores = self.pd().get_all_stores().await?;
        let answers = join_all(stores.iter().map(|(store, _)| async move {
            let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.lock_waits_of(store));
            match asked.await.map_err(|_| "it does not answer".to_owned()).flatten() {
                Ok(waits) => waits,
                Err(reason) => {
                    tracing::warn!(store = store.id, reason, "who waits for locks is unknown");
                    Vec::new()
                }
            }
        }));
        Ok(answers.await.into_iter().flatten().map(LockWaiting::from).collect())
    }

    async fn lock_waits_of(&self, store: &Store) -> Result<Vec<LockWait>, String> {
        let service = self.cache.store(store.id).await.map_err(|error| error.to_string())?;
        let peer = Peer { store_id: store.id, ..Peer::default() };
        let request = KvRequest {
            // Without a region: this store alone, and no other at its address.
            context: Some(Context { peer: Some(peer), ..Context::default() }),
            cmd: Some(Cmd::LockWaits(LockWaitsRequest {})),
        };
        let answer = service.call(request).await.map_err(|error| error.to_string())?;
        match (answer.region_error, answer.cmd) {
            (None, Some(kv_response::Cmd::LockWaits(response))) => Ok(response.waits),
            (error, _) => Err(error.map_or_else(String::new, |error| error.message)),
        }
    }
}
