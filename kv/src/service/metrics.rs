//! Counters of a store's requests, in Prometheus' text form.
//!
//! Handles are fixed fields: looking a label up per request costs percents of a
//! store's throughput.

use std::fmt;

use cairn_proto::kv::kv_request::Cmd;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

macro_rules! request_counters {
    ($($field:ident $variant:ident),* $(,)?) => {
        /// One counter per command.
        #[derive(Default)]
        struct Requests {
            $($field: Counter,)*
            coprocessor: Counter,
        }

        impl Requests {
            fn of(&self, command: &Cmd) -> &Counter {
                match command {
                    $(Cmd::$variant(_) => &self.$field,)*
                }
            }

            fn register(&self, registry: &mut Registry) {
                let counters = [$((stringify!($field), &self.$field),)*];
                for (name, counter) in counters {
                    registry.register(
                        format!("cairn_kv_{name}_requests"),
                        "Requests of this kind",
                        counter.clone(),
                    );
                }
                registry.register(
                    "cairn_kv_coprocessor_requests",
                    "Coprocessor tasks",
                    self.coprocessor.clone(),
                );
            }
        }
    };
}

request_counters!(
    get Get,
    batch_get BatchGet,
    scan Scan,
    prewrite Prewrite,
    commit Commit,
    rollback Rollback,
    cleanup Cleanup,
    check_txn_status CheckTxnStatus,
    resolve_lock ResolveLock,
    txn_heart_beat TxnHeartBeat,
    scan_lock ScanLock,
    refresh Refresh,
    split_region SplitRegion,
    delete_range DeleteRange,
    pessimistic_lock PessimisticLock,
    pessimistic_rollback PessimisticRollback,
    detect_deadlock DetectDeadlock,
    check_secondary_locks CheckSecondaryLocks,
    lock_waits LockWaits,
);

/// A store's metrics.
pub struct Metrics {
    requests: Requests,
    region_errors: Counter,
    gauges: [Gauge; 8],
    registry: Registry,
}

/// State that is read when the metrics are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// Peers of this store.
    pub regions: i64,
    /// Those that lead.
    pub leaders: i64,
    /// Transaction commands under way.
    pub commands: i64,
    /// Transactions that wait for locks.
    pub lock_waiters: i64,
    /// Bytes of locks that only leaders here know.
    pub lock_bytes: i64,
    /// Lock commands answered before their locks were replicated.
    pub pipelined_locks: i64,
    /// Reading tasks waiting or running.
    pub read_tasks: i64,
    /// Reading tasks refused because of others.
    pub read_tasks_refused: i64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::default();
        let requests = Requests::default();
        requests.register(&mut registry);
        let region_errors = Counter::default();
        registry.register(
            "cairn_kv_region_errors",
            "Requests refused with a routing error",
            region_errors.clone(),
        );
        let names = [
            ("cairn_kv_regions", "Peers of this store"),
            ("cairn_kv_region_leaders", "Regions this store leads"),
            ("cairn_kv_commands_running", "Transaction commands under way"),
            ("cairn_kv_lock_waiters", "Transactions that wait for locks"),
            ("cairn_kv_lock_bytes", "Memory of pessimistic locks that are not replicated"),
            (
                "cairn_kv_pipelined_locks",
                "Lock commands answered before their locks were replicated so far",
            ),
            ("cairn_kv_read_tasks", "Reading tasks waiting or running"),
            ("cairn_kv_read_tasks_refused", "Reading tasks refused because of others so far"),
        ];
        let gauges = names.map(|(name, help)| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        });
        Metrics { requests, region_errors, gauges, registry }
    }
}

impl Metrics {
    /// Counts a command.
    pub fn count(&self, command: &Cmd) {
        self.requests.of(command).inc();
    }

    /// Counts a point get of the fast path.
    pub fn count_get(&self) {
        self.requests.get.inc();
    }

    /// Counts a coprocessor task.
    pub fn count_coprocessor(&self) {
        self.requests.coprocessor.inc();
    }

    /// Counts a request that did not reach its region.
    pub fn count_region_error(&self) {
        self.region_errors.inc();
    }

    /// All metrics in Prometheus' text form.
    pub fn render(&self, observed: Observed) -> Result<String, fmt::Error> {
        let values = [
            observed.regions,
            observed.leaders,
            observed.commands,
            observed.lock_waiters,
            observed.lock_bytes,
            observed.pipelined_locks,
            observed.read_tasks,
            observed.read_tasks_refused,
        ];
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(value);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
