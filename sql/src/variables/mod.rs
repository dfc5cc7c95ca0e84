//! System variables: `SET`, `SHOW VARIABLES`, `@@name`.
//!
//! **Data.** Values are text, as `SHOW VARIABLES` prints them; what statements need on
//! every run is kept decoded in [`Settings`]. A session copies the global values when it
//! begins. Global values that were set are stored with the schema (`catalog::meta`) and
//! reach every node with the next schema version.

pub mod definitions;
pub mod duration;
pub mod size;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_expr::SqlMode;
use cairn_kv_client::{AssertionLevel, ReplicaRead};
use cairn_parser::ast::{IsolationLevel, Priority};
use cairn_types::collation::Charset;
use cairn_types::{Collation, Datum, FieldType, TimeZone, errno};

use crate::config::SqlConfig;
use crate::error::{Result, SqlError};

pub use definitions::{DEFINITIONS, Definition, Kind, Scope, find};

/// Error 1193.
pub fn unknown_variable(name: &str) -> SqlError {
    SqlError::new(errno::ER_UNKNOWN_SYSTEM_VARIABLE, format!("Unknown system variable '{name}'"))
}

fn wrong_value(name: &str, value: &str) -> SqlError {
    SqlError::new(
        errno::ER_WRONG_VALUE_FOR_VAR,
        format!("Variable '{name}' can't be set to the value of '{value}'"),
    )
}

/// Brings a value into the form it is stored in; `warn` takes the text of warning 1292
/// when a number was clamped.
pub fn normalise(
    definition: &Definition,
    value: &str,
    warn: &mut dyn FnMut(String),
) -> Result<String> {
    let wrong = || wrong_value(definition.name, value);
    Ok(match definition.kind {
        Kind::Bool => match value.to_ascii_uppercase().as_str() {
            "ON" | "1" | "TRUE" => "ON".to_owned(),
            "OFF" | "0" | "FALSE" => "OFF".to_owned(),
            _ => return Err(wrong()),
        },
        Kind::Int { min, max } => {
            let number: i128 = value.trim().parse().map_err(|_| {
                SqlError::new(
                    errno::ER_WRONG_TYPE_FOR_VAR,
                    format!("Incorrect argument type to variable '{}'", definition.name),
                )
            })?;
            let clamped = number.clamp(i128::from(min), i128::from(max));
            if clamped != number {
                warn(format!("Truncated incorrect {} value: '{value}'", definition.name));
            }
            clamped.to_string()
        }
        Kind::Duration { min_s, max_s } => {
            let wanted = duration::parse(value).ok_or_else(wrong)?;
            let clamped = wanted.clamp(Duration::from_secs(min_s), Duration::from_secs(max_s));
            if clamped != wanted {
                warn(format!("Truncated incorrect {} value: '{value}'", definition.name));
            }
            duration::format(clamped)
        }
        Kind::Size { percent, min_bytes } => match size::parse(value).ok_or_else(wrong)? {
            size::Size::Percent(_) if !percent => return Err(wrong()),
            size::Size::Bytes(bytes) if (1..min_bytes).contains(&bytes) => {
                warn(format!("Truncated incorrect {} value: '{value}'", definition.name));
                min_bytes.to_string()
            }
            _ => value.trim().to_owned(),
        },
        Kind::Float => {
            let number: f64 = value.trim().parse().map_err(|_| wrong())?;
            if !number.is_finite() {
                return Err(wrong());
            }
            value.trim().to_owned()
        }
        Kind::Enum(values) => {
            let by_name = values.iter().find(|known| known.eq_ignore_ascii_case(value));
            let by_number = value.parse::<usize>().ok().and_then(|at| values.get(at));
            by_name.or(by_number).ok_or_else(wrong)?.to_string()
        }
        Kind::Text => value.to_owned(),
        Kind::SqlMode => {
            let mode = match value.parse::<u64>() {
                Ok(bits) => SqlMode(bits),
                Err(_) => SqlMode::parse(value).map_err(|bad| wrong_value("sql_mode", &bad))?,
            };
            mode.to_string()
        }
        Kind::TimeZone => {
            TimeZone::parse(value).map_err(|_| {
                SqlError::new(
                    errno::ER_UNKNOWN_TIME_ZONE,
                    format!("Unknown or incorrect time zone: '{value}'"),
                )
            })?;
            value.to_owned()
        }
        Kind::Charset => {
            let charset = Charset::from_name(value).ok_or_else(|| {
                SqlError::new(
                    errno::ER_UNKNOWN_CHARACTER_SET,
                    format!("Unknown character set: '{value}'"),
                )
            })?;
            charset.name().to_owned()
        }
        Kind::Collation => {
            let collation = Collation::from_name(value).ok_or_else(|| {
                SqlError::new(errno::ER_UNKNOWN_COLLATION, format!("Unknown collation: '{value}'"))
            })?;
            collation.name().to_owned()
        }
    })
}

/// Values of all variables in one scope.
pub type Values = HashMap<&'static str, String>;

/// The global values of a node.
#[derive(Debug)]
pub struct GlobalVariables {
    /// Built-in defaults and facts about this node.
    base: Values,
    current: ArcSwap<Values>,
}

impl GlobalVariables {
    /// The defaults, with what the configuration says.
    pub fn new(config: &SqlConfig) -> Self {
        let mut base: Values = DEFINITIONS
            .iter()
            .map(|definition| (definition.name, definition.default.to_owned()))
            .collect();
        base.insert("slow_query_log_file", config.slow_log_file().display().to_string());
        base.insert("port", config.addr.port().to_string());
        base.insert("version", config.server_version.clone());
        base.insert("max_connections", config.connections_max.to_string());
        base.insert("tidb_gc_life_time", duration::format(config.gc_life_time));
        base.insert("tidb_gc_run_interval", duration::format(config.gc_run_interval));
        if config.memory_limit_bytes > 0 {
            base.insert("tidb_server_memory_limit", config.memory_limit_bytes.to_string());
        }
        base.insert("max_allowed_packet", config.max_allowed_packet_bytes.to_string());
        Self { current: ArcSwap::from_pointee(base.clone()), base }
    }

    /// The current values.
    pub fn current(&self) -> Arc<Values> {
        self.current.load_full()
    }

    /// Replaces what was set with `stored`.
    pub fn replace(&self, stored: &[(String, String)]) {
        let mut values = self.base.clone();
        for (name, value) in stored {
            // A name that a newer version stored is none of ours.
            if let Some(definition) = find(name) {
                values.insert(definition.name, value.clone());
            }
        }
        self.current.store(Arc::new(values));
    }
}

/// Variables that statements read, decoded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `autocommit`.
    pub autocommit: bool,
    /// `sql_mode`.
    pub sql_mode: SqlMode,
    /// `time_zone`.
    pub time_zone: TimeZone,
    /// `collation_connection`.
    pub collation: Collation,
    /// `character_set_client`.
    pub charset_client: Charset,
    /// `max_execution_time`; 0: none.
    pub max_execution_time_ms: u64,
    /// `long_query_time`.
    pub long_query_time_ns: u64,
    /// `tidb_force_priority`, over what a statement says itself.
    pub forced_priority: Option<Priority>,
    /// `wait_timeout`.
    pub wait_timeout_s: u64,
    /// `tidb_mem_quota_query`; 0: none.
    pub memory_quota_bytes: u64,
    /// `tidb_distsql_scan_concurrency`.
    pub scan_concurrency: usize,
    /// `tidb_executor_concurrency`.
    pub executor_concurrency: usize,
    /// `tidb_opt_push_down`.
    pub push_down: bool,
    /// `tidb_broadcast_join_threshold_size`; 0 also where `tidb_opt_broadcast_join` is off.
    pub broadcast_bytes_max: u64,
    /// `tidb_broadcast_join_threshold_count`.
    pub broadcast_rows_max: u64,
    /// `div_precision_increment`.
    pub div_precision_increment: u8,
    /// `group_concat_max_len`.
    pub group_concat_max_len: u64,
    /// `cte_max_recursion_depth`.
    pub recursion_depth_max: u64,
    /// `default_week_format`.
    pub default_week_format: u8,
    /// `max_allowed_packet`.
    pub max_allowed_packet: u64,
    /// `timestamp` when set, in microseconds.
    pub timestamp_micros: Option<i64>,
    /// `tidb_txn_mode`: transactions lock what they change before they commit.
    pub is_pessimistic: bool,
    /// `tidb_dml_type` is `bulk`: flushes are of so many keys (`cairn_bulk_flush_keys`).
    pub bulk_flush_keys: Option<usize>,
    /// `tidb_enable_1pc`.
    pub one_pc: bool,
    /// `tidb_enable_async_commit`.
    pub async_commit: bool,
    /// `tidb_enable_mutation_checker`.
    pub checks_mutations: bool,
    /// `tidb_txn_assertion_level`.
    pub assertion_level: AssertionLevel,
    /// `transaction_isolation`.
    pub isolation: IsolationLevel,
    /// `tidb_read_staleness` without its sign; 0: queries read the present.
    pub read_staleness_s: u64,
    /// `tidb_replica_read`.
    pub replica_read: ReplicaRead,
    /// `innodb_lock_wait_timeout`.
    pub lock_wait_timeout_s: u64,
    /// `lock_wait_timeout`, for locks of tables and of definitions.
    pub table_lock_wait_timeout_s: u64,
    /// `foreign_key_checks`.
    pub foreign_key_checks: bool,
    /// `auto_increment_increment` and `_offset`.
    pub auto_increment: (u64, u64),
}

impl Settings {
    /// Decodes the values; those are normalised, so what cannot be decoded is a default.
    fn decode(values: &Values) -> Self {
        let text = |name: &str| values.get(name).map_or("", String::as_str);
        let number = |name: &str| text(name).parse::<i64>().unwrap_or(0);
        let unsigned = |name: &str| u64::try_from(number(name)).unwrap_or(0);
        let seconds: f64 = text("timestamp").parse().unwrap_or(0.0);
        Self {
            autocommit: text("autocommit") == "ON",
            sql_mode: SqlMode::parse(text("sql_mode")).unwrap_or(SqlMode::DEFAULT),
            time_zone: TimeZone::parse(text("time_zone")).unwrap_or_default(),
            collation: Collation::from_name(text("collation_connection")).unwrap_or_default(),
            charset_client: Charset::from_name(text("character_set_client"))
                .unwrap_or(Charset::Utf8mb4),
            max_execution_time_ms: unsigned("max_execution_time"),
            // What is negative counts as nothing.
            long_query_time_ns: (text("long_query_time").parse().unwrap_or(10.0) * 1e9) as u64,
            forced_priority: match text("tidb_force_priority") {
                "LOW_PRIORITY" => Some(Priority::Low),
                "HIGH_PRIORITY" => Some(Priority::High),
                "DELAYED" => Some(Priority::Delayed),
                _ => None,
            },
            wait_timeout_s: unsigned("wait_timeout"),
            memory_quota_bytes: unsigned("tidb_mem_quota_query"),
            scan_concurrency: unsigned("tidb_distsql_scan_concurrency") as usize,
            executor_concurrency: unsigned("tidb_executor_concurrency") as usize,
            push_down: text("tidb_opt_push_down") == "ON",
            broadcast_bytes_max: match text("tidb_opt_broadcast_join") {
                "ON" => unsigned("tidb_broadcast_join_threshold_size"),
                _ => 0,
            },
            broadcast_rows_max: unsigned("tidb_broadcast_join_threshold_count"),
            div_precision_increment: unsigned("div_precision_increment") as u8,
            group_concat_max_len: unsigned("group_concat_max_len"),
            recursion_depth_max: unsigned("cte_max_recursion_depth"),
            default_week_format: unsigned("default_week_format") as u8,
            max_allowed_packet: unsigned("max_allowed_packet"),
            timestamp_micros: (seconds > 0.0).then_some((seconds * 1e6) as i64),
            is_pessimistic: text("tidb_txn_mode") == "pessimistic",
            bulk_flush_keys: (text("tidb_dml_type") == "bulk")
                .then(|| unsigned("cairn_bulk_flush_keys") as usize),
            one_pc: text("tidb_enable_1pc") == "ON",
            async_commit: text("tidb_enable_async_commit") == "ON",
            checks_mutations: text("tidb_enable_mutation_checker") == "ON",
            assertion_level: match text("tidb_txn_assertion_level") {
                "OFF" => AssertionLevel::Off,
                "STRICT" => AssertionLevel::Strict,
                _ => AssertionLevel::Fast,
            },
            isolation: IsolationLevel::of_variable(text("transaction_isolation"))
                .unwrap_or(IsolationLevel::RepeatableRead),
            read_staleness_s: number("tidb_read_staleness").unsigned_abs(),
            replica_read: match text("tidb_replica_read") {
                "follower" => ReplicaRead::Follower,
                "leader-and-follower" => ReplicaRead::LeaderAndFollower,
                "prefer-leader" => ReplicaRead::PreferLeader,
                "closest-replicas" => ReplicaRead::Closest,
                "closest-adaptive" => ReplicaRead::ClosestAdaptive {
                    threshold_bytes: unsigned("tidb_adaptive_closest_read_threshold"),
                },
                "learner" => ReplicaRead::Learner,
                _ => ReplicaRead::Leader,
            },
            lock_wait_timeout_s: unsigned("innodb_lock_wait_timeout"),
            table_lock_wait_timeout_s: unsigned("lock_wait_timeout"),
            foreign_key_checks: text("foreign_key_checks") == "ON",
            auto_increment: (
                unsigned("auto_increment_increment").max(1),
                unsigned("auto_increment_offset").max(1),
            ),
        }
    }
}

/// A session's values.
#[derive(Clone, Debug)]
pub struct SessionVariables {
    values: Values,
    /// The decoded ones.
    pub settings: Arc<Settings>,
}

impl SessionVariables {
    /// A copy of the global values.
    pub fn new(global: &Values) -> Self {
        Self { values: global.clone(), settings: Arc::new(Settings::decode(global)) }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Sets a variable to a normalised value, and those that go with it.
    pub fn set(&mut self, definition: &Definition, value: String) {
        let mut put = |name: &'static str, value: String| {
            self.values.insert(name, value);
        };
        match definition.name {
            "tx_isolation" | "transaction_isolation" => {
                put("tx_isolation", value.clone());
                put("transaction_isolation", value);
            }
            "tx_read_only" | "transaction_read_only" => {
                put("tx_read_only", value.clone());
                put("transaction_read_only", value);
            }
            "character_set_connection" => {
                if let Some(charset) = Charset::from_name(&value) {
                    put("collation_connection", charset.default_collation().name().to_owned());
                }
                put("character_set_connection", value);
            }
            "collation_connection" => {
                if let Some(collation) = Collation::from_name(&value) {
                    put("character_set_connection", collation.charset().name().to_owned());
                }
                put("collation_connection", value);
            }
            name => put(name, value),
        }
        self.settings = Arc::new(Settings::decode(&self.values));
    }

    /// `SET NAMES`: what the client speaks.
    pub fn set_names(&mut self, collation: Collation) {
        let charset = collation.charset().name();
        for name in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.values.insert(name, charset.to_owned());
        }
        self.values.insert("collation_connection", collation.name().to_owned());
        self.settings = Arc::new(Settings::decode(&self.values));
    }

    /// All values.
    pub fn values(&self) -> &Values {
        &self.values
    }
}

/// A variable's value as `SELECT @@name` gives it.
pub fn as_datum(definition: &Definition, value: &str) -> (Datum, FieldType) {
    match definition.kind {
        Kind::Bool => (Datum::Int(i64::from(value == "ON")), FieldType::bigint()),
        Kind::Int { .. } => match (value.parse::<i64>(), value.parse::<u64>()) {
            (Ok(number), _) => (Datum::Int(number), FieldType::bigint()),
            (_, Ok(number)) => (Datum::UInt(number), FieldType::bigint_unsigned()),
            _ => (Datum::Bytes(value.as_bytes().to_vec()), FieldType::string()),
        },
        Kind::Float => (Datum::Double(value.parse().unwrap_or(0.0)), FieldType::double()),
        _ => (Datum::Bytes(value.as_bytes().to_vec()), FieldType::string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sorted_and_their_defaults_are_values() {
        assert!(DEFINITIONS.is_sorted_by_key(|definition| definition.name));
        for definition in DEFINITIONS {
            let stored = normalise(definition, definition.default, &mut |_| {});
            assert!(stored.is_ok(), "{}: {:?}", definition.name, stored);
        }
    }

    #[test]
    fn values_are_checked_and_clamped() {
        let set = |name: &str, value: &str| {
            let mut warnings = 0;
            let definition = find(name).expect("a known variable");
            (normalise(definition, value, &mut |_| warnings += 1).ok(), warnings)
        };
        assert_eq!(set("autocommit", "true"), (Some("ON".to_owned()), 0));
        assert_eq!(set("autocommit", "maybe"), (None, 0));
        assert_eq!(set("wait_timeout", "99999999999"), (Some("31536000".to_owned()), 1));
        assert_eq!(
            set("transaction_isolation", "read-committed").0.as_deref(),
            Some("READ-COMMITTED")
        );
        assert_eq!(set("time_zone", "+25:00"), (None, 0));
    }
}
