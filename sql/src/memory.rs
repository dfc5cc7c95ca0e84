//! How much memory and temporary storage statements may use.
//!
//! **Flow.** Every statement that runs operators has one tracker below the node's
//! ([`cairn_executor::memory`]), made at its first plan. Its limit is `tidb_mem_quota_query`; operators that can spill
//! do so before they reach it, if `tidb_enable_tmp_storage_on_oom` is on. What still goes over is cancelled
//! with error 8175, or only written to the log (`tidb_mem_oom_action`).
//!
//! The node's limit is `tidb_server_memory_limit`: bytes, or a part of the machine's memory, or of the control group's if
//! that is less. [`NodeMemory::watch`] also looks at what the process really has in memory, since trackers only
//! estimate: if that is over the limit and statements make up a good part of it, the largest is cancelled.
//!
//! **Temporary files** have no name and are gone with their statement; see [`cairn_executor::spill`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_executor::spill::folder::TempFolder;
use cairn_executor::{MemoryTracker, SpillSpace};
use tokio_util::sync::CancellationToken;

use crate::config::SqlConfig;
use crate::domain::Domain;
use crate::variables::{Values, size};

/// How often the process's memory is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Below it the process's memory is not looked at: a node without statements may have that.
const RESIDENT_LIMIT_BYTES_MIN: u64 = 512 << 20;

/// What all statements of a node have together.
pub struct NodeMemory {
    memory: Arc<MemoryTracker>,
    disk: Arc<MemoryTracker>,
    files: Arc<TempFolder>,
    /// The machine's memory, or the control group's.
    machine_bytes: u64,
    spills: AtomicBool,
    log_only: AtomicBool,
}

/// What one statement may use.
#[derive(Clone)]
pub struct StatementMemory {
    /// Counts it.
    pub tracker: Arc<MemoryTracker>,
    /// Where its operators may spill to.
    pub spill: Option<SpillSpace>,
}

impl NodeMemory {
    /// For a node with these settings and global variables.
    pub fn new(config: &SqlConfig, variables: &Values) -> NodeMemory {
        let node = NodeMemory {
            memory: MemoryTracker::root("the SQL node", 0),
            disk: MemoryTracker::root("the SQL node", config.tmp_storage_quota_bytes),
            files: Arc::new(TempFolder::new(config.tmp_folder())),
            machine_bytes: machine_bytes(),
            spills: AtomicBool::new(true),
            log_only: AtomicBool::new(false),
        };
        node.apply(variables);
        node
    }

    /// Takes up what global variables say.
    pub fn apply(&self, variables: &Values) {
        let text = |name: &str| variables.get(name).map_or("", String::as_str);
        self.spills.store(text("tidb_enable_tmp_storage_on_oom") == "ON", Ordering::Relaxed);
        self.log_only.store(text("tidb_mem_oom_action") == "LOG", Ordering::Relaxed);
        let limit = size::parse(text("tidb_server_memory_limit"));
        self.memory.set_limit_bytes(limit.map_or(0, |limit| limit.of(self.machine_bytes)));
        let least = size::parse(text("tidb_server_memory_limit_sess_min_size"));
        self.memory.set_victim_bytes_min(least.map_or(0, |least| least.of(self.machine_bytes)));
    }

    /// What a statement of connection `connection` may use. `cancel` ends it.
    pub fn statement(
        &self,
        connection: u32,
        quota_bytes: u64,
        cancel: CancellationToken,
    ) -> StatementMemory {
        let scope = format!("the statement of connection {connection}");
        let tracker = self.memory.statement(scope.as_str(), quota_bytes, cancel);
        tracker.set_log_only(self.log_only.load(Ordering::Relaxed));
        let spill = self.spills.load(Ordering::Relaxed).then(|| {
            let files = Arc::clone(&self.files);
            SpillSpace::new(files, self.disk.child(scope, 0))
        });
        StatementMemory { tracker, spill }
    }

    /// What work of the node's own may use. `cancel` ends it.
    pub fn task(
        &self,
        scope: &str,
        quota_bytes: u64,
        cancel: CancellationToken,
    ) -> Arc<MemoryTracker> {
        self.memory.statement(scope, quota_bytes, cancel)
    }

    /// Memory of all statements.
    pub fn memory(&self) -> &MemoryTracker {
        &self.memory
    }

    /// Temporary files of all statements.
    pub fn disk(&self) -> &MemoryTracker {
        &self.disk
    }

    /// Looks at the process's memory until the node stops.
    pub async fn watch(domain: Arc<Domain>) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = domain.stop.cancelled() => return,
            }
            domain.memory.relieve(resident_bytes());
        }
    }

    /// Cancels the largest statement if the process has more in memory than it may, and it
    /// is statements that do.
    fn relieve(&self, resident_bytes: Option<u64>) {
        let limit = self.memory.limit_bytes();
        let over = resident_bytes.is_some_and(|bytes| bytes > limit.max(RESIDENT_LIMIT_BYTES_MIN));
        if limit != 0 && over && self.memory.used_bytes() > limit / 2 {
            self.memory.cancel_largest();
        }
    }
}

/// Bytes that the process has in memory.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&text, "VmRSS:")
}

/// The memory of the machine, or of the control group if that is less; 0: unknown.
fn machine_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kilobytes(&text, "MemTotal:"));
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = groups.iter().map(PathBuf::from).find_map(|path| {
        // "max" is no number: no limit.
        std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    });
    machine.into_iter().chain(group).min().unwrap_or(0)
}

/// A line `name   123 kB` in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::GlobalVariables;

    fn node(set: &[(&str, &str)]) -> NodeMemory {
        let config = SqlConfig::default();
        let variables = GlobalVariables::new(&config);
        let stored: Vec<(String, String)> =
            set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        variables.replace(&stored);
        NodeMemory::new(&config, &variables.current())
    }

    #[test]
    fn limits_are_bytes_or_parts_of_the_machine() {
        let machine = machine_bytes();
        assert!(machine > 0);
        assert_eq!(node(&[]).memory.limit_bytes(), machine / 100 * 80);
        let limited = node(&[("tidb_server_memory_limit", "2GB")]);
        assert_eq!(limited.memory.limit_bytes(), 2 << 30);
        assert_eq!(node(&[("tidb_server_memory_limit", "0")]).memory.limit_bytes(), 0);
    }

    #[test]
    fn variables_say_whether_statements_spill() {
        let token = CancellationToken::new;
        assert!(node(&[]).statement(1, 0, token()).spill.is_some());
        let off = node(&[("tidb_enable_tmp_storage_on_oom", "OFF")]);
        assert!(off.statement(1, 0, token()).spill.is_none());
    }

    #[test]
    fn memory_that_statements_do_not_have_is_not_held_against_them() {
        let node = node(&[
            ("tidb_server_memory_limit", "1GB"),
            ("tidb_server_memory_limit_sess_min_size", "1MB"),
        ]);
        let token = CancellationToken::new();
        let statement = node.statement(7, 0, token.clone()).tracker;
        statement.force_consume(100 << 20);
        node.relieve(Some(2 << 30));
        assert!(!token.is_cancelled());
        statement.force_consume(600 << 20);
        node.relieve(Some(900 << 20));
        assert!(!token.is_cancelled());
        node.relieve(Some(2 << 30));
        assert!(token.is_cancelled());
        let error = statement.check().unwrap_err().to_mysql();
        assert_eq!(error.code, 8175);
        assert!(error.message.contains("connection 7"), "{}", error.message);
        statement.release(700 << 20);
    }
}
