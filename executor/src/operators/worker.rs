//! Tasks that belong to an operator.
//!
//! **Invariant:** no task outlives the [`Workers`] that started it: dropping them
//! aborts the tasks, and each also ends by itself when the statement is cancelled.

use std::future::Future;

use cairn_types::Chunk;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::ExecContext;
use crate::error::{ExecError, Result};
use crate::operator::{BoxOperator, Operator};

/// The tasks of one operator.
pub(crate) struct Workers {
    tasks: JoinSet<Result<()>>,
    cancel: CancellationToken,
}

impl Workers {
    /// No tasks yet.
    pub(crate) fn new(ctx: &ExecContext) -> Workers {
        Workers { tasks: JoinSet::new(), cancel: ctx.cancel.clone() }
    }

    /// Starts a task.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = Result<()>> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ExecError::Cancelled),
                result = task => result,
            }
        });
    }

    /// Waits for all tasks; the first error counts.
    pub(crate) async fn join(&mut self, operator: &'static str) -> Result<()> {
        let mut first = Ok(());
        while let Some(result) = self.tasks.join_next().await {
            let result = result.unwrap_or(Err(ExecError::WorkerLost(operator)));
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

/// Sends all chunks of an operator, or its error, until nobody listens.
pub(crate) async fn forward(
    mut operator: BoxOperator,
    sender: mpsc::Sender<Result<Chunk>>,
) -> Result<()> {
    loop {
        let item = match operator.next().await {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        let failed = item.is_err();
        if sender.send(item).await.is_err() || failed {
            return Ok(());
        }
    }
}
