//! The watch thread: looks at the engine's debt and the disk's room now and then.
//!
//! It is a thread of its own because it must not wait behind anything that takes long,
//! and both the engine and the disk answer in microseconds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_engine::KvEngine;
use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::clock::Clock;
use super::flow::FlowControl;
use super::metrics::RaftMetrics;
use super::space::{SpaceKeeper, SpaceWatch};
use super::store::StoreMessage;
use super::worker::Mailbox;

/// Between two looks at the engine: a memtable takes longer to fill.
const INTERVAL: Duration = Duration::from_millis(200);
/// Looks at the engine per look at the disk, and per tidying.
const SLOW_PART: u64 = 5;

/// What the thread looks at and whom it tells.
pub(super) struct Watch {
    pub(super) kv: Arc<dyn KvEngine>,
    pub(super) flow: Arc<FlowControl>,
    pub(super) metrics: Arc<RaftMetrics>,
    /// None: the disk is not watched.
    pub(super) keeper: Option<SpaceKeeper>,
    pub(super) space: Arc<SpaceWatch>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) mailbox: Mailbox,
}

/// Watches until the sender of `stop` is gone.
pub(super) fn run(mut watch: Watch, stop: &Receiver<()>) {
    for look in 0u64.. {
        let written_bytes = watch.metrics.applied_bytes.load(Ordering::Relaxed);
        watch.flow.observe(watch.kv.pressure(), written_bytes, watch.clock.now());
        let damage = watch.kv.take_damage();
        if !damage.is_empty() {
            watch.mailbox.answer(StoreMessage::Damaged(damage));
        }
        if look.is_multiple_of(SLOW_PART) {
            watch.kv.tidy();
            if let Some(keeper) = &mut watch.keeper
                && let Err(error) = keeper.look(&watch.space)
            {
                tracing::warn!(%error, "the disk cannot be watched");
            }
        }
        match stop.recv_timeout(INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
