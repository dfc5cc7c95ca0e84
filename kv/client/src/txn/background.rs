//! What a transaction leaves to be finished behind its caller's back.
//!
//! Tasks are counted by a semaphore (a caller that finds it empty waits) and
//! tracked, so that a client that shuts down can wait for them. Whatever fails
//! here is finished by later readers: the primary tells them how.

use std::sync::Arc;

use cairn_proto::kv::RollbackRequest;
use cairn_types::TimeStamp;

use super::batches::Run;
use super::commit::Committer;
use crate::error::KvError;
use crate::request::{Cmd, RequestOptions};

impl Committer {
    pub(super) async fn commit_secondaries_in_background(
        self: &Arc<Committer>,
        commit_ts: TimeStamp,
        from: usize,
    ) {
        let rest = from..self.mutations.0.len();
        if rest.is_empty() {
            return;
        }
        let committer = self.clone();
        self.in_background(async move {
            let build = |piece: &Run| committer.commit_request(piece, commit_ts);
            if let Err(error) = committer.pass(rest, &build).await {
                tracing::debug!(%error, "secondaries are left to their readers");
            }
        })
        .await;
    }

    pub(super) async fn rollback_in_background(self: &Arc<Committer>) {
        let committer = self.clone();
        self.in_background(async move {
            let build = |piece: &Run| {
                Cmd::Rollback(RollbackRequest {
                    keys: committer.mutations.keys(piece),
                    start_ts: committer.start_ts.0,
                })
            };
            if let Err(error) = committer.pass(committer.mutations.all(), &build).await {
                tracing::debug!(%error, "locks are left to expire");
            }
        })
        .await;
    }

    /// Runs a task that outlives the caller; when too many do already, the caller
    /// waits for a place.
    async fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        // The semaphore is never closed; without a permit the locks stay behind,
        // which readers can deal with.
        let Ok(permit) = self.client.background_slots.clone().acquire_owned().await else {
            return;
        };
        self.client.background.spawn(async move {
            task.await;
            drop(permit);
        });
    }

    async fn pass(
        &self,
        run: Run,
        build: &(dyn Fn(&Run) -> Cmd + Send + Sync),
    ) -> Result<(), KvError> {
        let mut retrier = self.client.retrier();
        let mut rest = run;
        while !rest.is_empty() {
            let options = RequestOptions::default();
            let answer =
                self.mutations.send_first(&self.client, &rest, &options, &mut retrier, build);
            rest.start = answer.await?.piece.end;
        }
        Ok(())
    }
}
