//! One pass of a transaction command over the regions of a run of mutations.
//!
//! A pass takes a run of neighbouring mutations, cuts off what lies in the first
//! one's region (within limits of one message), sends it, and goes on. When the
//! region changes its range meanwhile, the same piece is cut anew: so a split
//! between or within phases needs no special case.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::kv::{KvResponse, Mutation};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::backoff::Retrier;
use crate::client::KvClient;
use crate::error::KvError;
use crate::region_cache::CachedRegion;
use crate::request::{Cmd, RequestOptions, SendError};

/// Keys in one prewrite or commit.
pub(crate) const BATCH_KEYS_MAX: usize = 4096;
/// Bytes of keys and values in one prewrite: one Raft entry.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// A run of mutations, by position.
pub(crate) type Run = Range<usize>;

/// Writes of a transaction, in key order.
#[derive(Clone)]
pub(crate) struct Mutations(pub Arc<Vec<Mutation>>);

/// A piece of a run with its region and the answer.
pub(crate) struct Answer {
    pub piece: Run,
    pub response: KvResponse,
}

impl Mutations {
    /// Keys in order, without anything to write.
    pub fn of_keys(keys: impl IntoIterator<Item = Bytes>) -> Mutations {
        let bare = |key| Mutation { key, ..Mutation::default() };
        Mutations(Arc::new(keys.into_iter().map(bare).collect()))
    }

    /// All of them.
    pub fn all(&self) -> Run {
        0..self.0.len()
    }

    /// The keys of a run.
    pub fn keys(&self, run: &Run) -> Vec<Bytes> {
        self.0[run.clone()].iter().map(|mutation| mutation.key.clone()).collect()
    }

    /// The part of the run that one message to the region may hold.
    fn piece(&self, run: &Run, region: &CachedRegion) -> Run {
        let mut bytes = 0;
        let mut end = run.start;
        while end < run.end && end - run.start < BATCH_KEYS_MAX {
            let mutation = &self.0[end];
            if !region.contains(&mutation.key) {
                break;
            }
            bytes += mutation.key.len() + mutation.value.len();
            if bytes > BATCH_BYTES_MAX && end > run.start {
                break;
            }
            end += 1;
        }
        // The region was looked up by the first key.
        run.start..end.max(run.start + 1)
    }

    /// Cuts a run into pieces, one per message.
    pub async fn cut(
        &self,
        client: &KvClient,
        run: Run,
        retrier: &mut Retrier,
    ) -> Result<Vec<Run>, KvError> {
        let mut pieces = Vec::new();
        let mut rest = run;
        while !rest.is_empty() {
            let first = &self.0[rest.start].key;
            let region = client.cache.locate_patiently(first, retrier).await?;
            let piece = self.piece(&rest, &region);
            rest.start = piece.end;
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// Sends the command to all pieces of the run, one after the other.
    pub async fn pass(
        &self,
        client: &KvClient,
        run: Run,
        build: &(dyn Fn(&Run) -> Cmd + Send + Sync),
    ) -> Result<(), KvError> {
        let mut retrier = client.retrier();
        let mut rest = run;
        while !rest.is_empty() {
            let options = RequestOptions::default();
            let answer = self.send_first(client, &rest, &options, &mut retrier, build);
            rest.start = answer.await?.piece.end;
        }
        Ok(())
    }

    /// Sends the command to all pieces of the run, to several at a time: stores sync together what
    /// comes together.
    pub async fn pass_at_once(
        &self,
        client: &KvClient,
        run: Run,
        build: &(dyn Fn(&Run) -> Cmd + Send + Sync),
    ) -> Result<(), KvError> {
        let pieces = self.cut(client, run, &mut client.retrier()).await?;
        stream::iter(pieces)
            .map(|piece| self.pass(client, piece, build))
            .buffer_unordered(client.config.concurrency.max(1))
            .try_collect()
            .await
    }

    /// Sends the command to the first piece of the run.
    pub async fn send_first(
        &self,
        client: &KvClient,
        run: &Run,
        options: &RequestOptions,
        retrier: &mut Retrier,
        build: &(dyn Fn(&Run) -> Cmd + Send + Sync),
    ) -> Result<Answer, KvError> {
        loop {
            let first = &self.0[run.start].key;
            let region = client.cache.locate_patiently(first, retrier).await?;
            let piece = self.piece(run, &region);
            let build = || build(&piece);
            match client.cache.send_to_region(region, options, retrier, &build).await {
                Ok(response) => return Ok(Answer { piece, response }),
                Err(SendError::Regroup) => {}
                Err(SendError::Failed(error)) => return Err(error),
            }
        }
    }
}
