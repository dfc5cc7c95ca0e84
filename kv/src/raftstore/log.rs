//! Routes the Raft library's log into `tracing`.

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record, o};

/// A logger that forwards to `tracing` under the target `raft`.
pub(super) fn raft_logger(region_id: u64, peer_id: u64) -> Logger {
    Logger::root(TracingDrain, o!("region" => region_id, "peer" => peer_id))
}

struct TracingDrain;

impl Drain for TracingDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        // Elections and membership are the library's "info": of interest only to
        // those who look at Raft itself.
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "raft", "{}{}", record.msg(), fields(record, values));
            }
            Level::Warning => {
                tracing::warn!(target: "raft", "{}{}", record.msg(), fields(record, values));
            }
            Level::Info => {
                tracing::debug!(target: "raft", "{}{}", record.msg(), fields(record, values));
            }
            Level::Debug | Level::Trace => {
                tracing::trace!(target: "raft", "{}{}", record.msg(), fields(record, values));
            }
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => {
                tracing::enabled!(target: "raft", tracing::Level::ERROR)
            }
            Level::Warning => tracing::enabled!(target: "raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => {
                tracing::enabled!(target: "raft", tracing::Level::TRACE)
            }
        }
    }
}

fn fields(record: &Record<'_>, values: &OwnedKVList) -> String {
    struct Text(String);
    impl slog::Serializer for Text {
        fn emit_arguments(
            &mut self,
            key: slog::Key,
            value: &std::fmt::Arguments<'_>,
        ) -> slog::Result {
            use std::fmt::Write;
            write!(self.0, " {key}={value}").map_err(|_| slog::Error::Other)
        }
    }
    let mut text = Text(String::new());
    let complete =
        values.serialize(record, &mut text).and_then(|()| record.kv().serialize(record, &mut text));
    match complete {
        Ok(()) => text.0,
        Err(_) => text.0 + " …",
    }
}
