//! What a transaction leaves to be finished behind its caller's back.
//!
//! Tasks are counted by a semaphore (a caller that finds it empty waits) and
//! tracked, so that a client that shuts down can wait for them. Whatever fails
//! here is finished by later readers: the primary tells them how.

use std::sync::Arc;

use cairn_proto::kv::RollbackRequest;
use cairn_types::TimeStamp;
use tokio::task::JoinHandle;

use super::batches::Run;
use super::commit::Committer;
use crate::client::KvClient;
use crate::request::Cmd;

impl Committer {
    /// Commits what lies from `from` on of a transaction that is committed.
    pub(super) async fn commit_rest_in_background(
        self: &Arc<Committer>,
        commit_ts: TimeStamp,
        from: usize,
    ) {
        let rest = from..self.mutations.0.len();
        if rest.is_empty() {
            return;
        }
        let committer = self.clone();
        let work = async move {
            let build = |piece: &Run| committer.commit_request(piece, commit_ts);
            let (client, mutations) = (&committer.client, &committer.mutations);
            if let Err(error) = mutations.pass_at_once(client, rest, &build).await {
                tracing::debug!(%error, "secondaries are left to their readers");
            }
        };
        self.client.in_background(work).await;
    }

    pub(super) async fn rollback_in_background(self: &Arc<Committer>) {
        let committer = self.clone();
        let work = async move {
            let build = |piece: &Run| {
                Cmd::Rollback(RollbackRequest {
                    keys: committer.mutations.keys(piece),
                    start_ts: committer.start_ts.0,
                })
            };
            // The primary with its neighbours first, and the others only once it is done: no late
            // prewrite of theirs can then make the transaction look committed.
            let (client, all) = (&committer.client, committer.mutations.all());
            let primary = committer.primary.unwrap_or(0);
            let outcome = async {
                committer.mutations.pass(client, primary..all.end, &build).await?;
                committer.mutations.pass(client, 0..primary, &build).await
            };
            if let Err(error) = outcome.await {
                tracing::debug!(%error, "locks are left to expire");
            }
        };
        self.client.in_background(work).await;
    }
}

impl KvClient {
    /// Runs a task that outlives the caller; when too many do already, the caller
    /// waits for a place.
    pub(super) async fn in_background(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<JoinHandle<()>> {
        // The semaphore is never closed; without a permit the locks stay behind,
        // which readers can deal with.
        let permit = self.background_slots.clone().acquire_owned().await.ok()?;
        Some(self.background.spawn(async move {
            task.await;
            drop(permit);
        }))
    }
}
