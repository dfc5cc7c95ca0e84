//! Counters of a SQL node, as Prometheus reads them.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges with the registry that names them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open connections.
    pub connections: Gauge,
    /// Statements run.
    pub statements: Counter,
    /// Asynchronous tasks of the process.
    pub tasks: Gauge,
    /// Memory that statements use, in bytes.
    pub statement_memory: Gauge,
    /// Temporary files of statements, in bytes.
    pub tmp_storage: Gauge,
    /// Runs of garbage collection that this node drove to their end.
    pub gc_runs: Counter,
    /// Runs that failed.
    pub gc_failures: Counter,
    /// Physical part of the safe point that this node set last.
    pub gc_safe_point_ms: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cairn_sql");
        let connections = Gauge::default();
        let statements = Counter::default();
        registry.register("connections", "Open client connections", connections.clone());
        registry.register("statements", "Statements run since the start", statements.clone());
        let tasks = Gauge::default();
        registry.register(
            "tasks",
            "Asynchronous tasks of the process that have not ended",
            tasks.clone(),
        );
        let (statement_memory, tmp_storage) = (Gauge::default(), Gauge::default());
        registry.register(
            "statement_memory_bytes",
            "Memory that running statements use, as they count it",
            statement_memory.clone(),
        );
        registry.register(
            "tmp_storage_bytes",
            "Temporary files of running statements",
            tmp_storage.clone(),
        );
        let (gc_runs, gc_failures) = (Counter::default(), Counter::default());
        let gc_safe_point_ms = Gauge::default();
        registry.register("gc_runs", "Runs of garbage collection driven here", gc_runs.clone());
        registry.register("gc_failures", "Runs that failed", gc_failures.clone());
        registry.register(
            "gc_safe_point_milliseconds",
            "Safe point that this node set last, in milliseconds since the epoch",
            gc_safe_point_ms.clone(),
        );
        Self {
            registry,
            connections,
            statements,
            tasks,
            statement_memory,
            tmp_storage,
            gc_runs,
            gc_failures,
            gc_safe_point_ms,
        }
    }
}

impl Metrics {
    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
