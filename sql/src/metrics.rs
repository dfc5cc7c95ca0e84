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
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cairn_sql");
        let connections = Gauge::default();
        let statements = Counter::default();
        registry.register("connections", "Open client connections", connections.clone());
        registry.register("statements", "Statements run since the start", statements.clone());
        Self { registry, connections, statements }
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
