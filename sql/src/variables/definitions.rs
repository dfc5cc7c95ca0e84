//! The system variables Cairn knows: names, scopes, defaults and what values they take.
//!
//! Variables that mean what they mean in MySQL or TiDB carry that name and default;
//! many exist only because clients read or set them when they connect.
//!
//! Source: MySQL 8.0 manual, 5.1.8 "Server System Variables".

use cairn_executor::broadcast::BROADCAST_BYTES_MAX;

/// Where a variable can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `SET GLOBAL` alone.
    Global,
    /// `SET SESSION` alone.
    Session,
    /// Both.
    Both,
    /// Nowhere: a fact about the server.
    ReadOnly,
}

/// What values a variable takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ON`, `OFF`.
    Bool,
    /// A whole number within bounds; beyond them it is clamped with a warning.
    Int {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A time with units (`10m0s`) within bounds; beyond them it is clamped with a warning.
    Duration {
        /// Shortest, in seconds.
        min_s: u64,
        /// Longest, in seconds.
        max_s: u64,
    },
    /// Bytes with a unit, or with a part of the machine's memory ([`super::size`]).
    Size {
        /// Whether a percentage may stand for bytes.
        percent: bool,
        /// Least bytes; 0 may be set all the same.
        min_bytes: u64,
    },
    /// A number with a fraction.
    Float,
    /// One of a list, also by its position.
    Enum(&'static [&'static str]),
    /// Any text.
    Text,
    /// A set of SQL modes.
    SqlMode,
    /// A time zone.
    TimeZone,
    /// A character set.
    Charset,
    /// A collation.
    Collation,
}

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Lower-case name.
    pub name: &'static str,
    /// Where it can be set.
    pub scope: Scope,
    /// What it takes.
    pub kind: Kind,
    /// Its value at the start.
    pub default: &'static str,
}

const fn bool_var(name: &'static str, scope: Scope, on: bool) -> Definition {
    Definition { name, scope, kind: Kind::Bool, default: if on { "ON" } else { "OFF" } }
}

const fn int_var(
    name: &'static str,
    scope: Scope,
    default: &'static str,
    min: i64,
    max: i64,
) -> Definition {
    Definition { name, scope, kind: Kind::Int { min, max }, default }
}

const fn text_var(name: &'static str, scope: Scope, default: &'static str) -> Definition {
    Definition { name, scope, kind: Kind::Text, default }
}

const fn enum_var(
    name: &'static str,
    scope: Scope,
    default: &'static str,
    values: &'static [&'static str],
) -> Definition {
    Definition { name, scope, kind: Kind::Enum(values), default }
}

const fn other_var(
    name: &'static str,
    scope: Scope,
    kind: Kind,
    default: &'static str,
) -> Definition {
    Definition { name, scope, kind, default }
}

/// Levels of isolation as `transaction_isolation` names them.
const ISOLATION_LEVELS: &[&str] =
    &["READ-UNCOMMITTED", "READ-COMMITTED", "REPEATABLE-READ", "SERIALIZABLE"];
/// What `tidb_force_priority` makes of every statement.
const PRIORITIES: &[&str] = &["NO_PRIORITY", "LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED"];
/// Whom reads ask, as TiDB numbers them.
const REPLICA_READS: &[&str] = &[
    "leader",
    "prefer-leader",
    "follower",
    "leader-and-follower",
    "closest-replicas",
    "closest-adaptive",
    "learner",
];
/// Types of columns that ANALYZE leaves out, as in TiDB.
const SKIPPED_TYPES: &str = "json,blob,mediumblob,longblob,mediumtext,longtext";
/// Ten minutes to a year, as in TiDB.
const GC_TIME: Kind = Kind::Duration { min_s: 600, max_s: 31_536_000 };
/// Less would leave no room for the statements that change it back.
const SERVER_MEMORY: Kind = Kind::Size { percent: true, min_bytes: 32 << 20 };
const VICTIM_MEMORY: Kind = Kind::Size { percent: false, min_bytes: 128 };
const I31: i64 = i32::MAX as i64;
const I32U: i64 = u32::MAX as i64;
const DEFAULT_SQL_MODE: &str = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION";

use Scope::{Both, Global, ReadOnly, Session};

/// All variables, sorted by name.
pub const DEFINITIONS: &[Definition] = &[
    int_var("auto_increment_increment", Both, "1", 1, 65_535),
    int_var("auto_increment_offset", Both, "1", 1, 65_535),
    bool_var("autocommit", Both, true),
    bool_var("automatic_sp_privileges", Global, true),
    int_var("back_log", ReadOnly, "80", 1, 65_535),
    text_var("basedir", ReadOnly, "/"),
    bool_var("big_tables", Both, false),
    text_var("bind_address", ReadOnly, "*"),
    int_var("binlog_cache_size", Global, "32768", 4_096, i64::MAX),
    enum_var("binlog_format", Both, "ROW", &["MIXED", "STATEMENT", "ROW"]),
    enum_var("binlog_row_image", Both, "FULL", &["FULL", "MINIMAL", "NOBLOB"]),
    enum_var(
        "block_encryption_mode",
        Both,
        "aes-128-ecb",
        &["aes-128-ecb", "aes-192-ecb", "aes-256-ecb", "aes-128-cbc", "aes-192-cbc", "aes-256-cbc"],
    ),
    int_var("bulk_insert_buffer_size", Both, "8388608", 0, i64::MAX),
    int_var("cairn_bulk_flush_keys", Both, "65536", 1, 1_048_576),
    other_var("character_set_client", Both, Kind::Charset, "utf8mb4"),
    other_var("character_set_connection", Both, Kind::Charset, "utf8mb4"),
    other_var("character_set_database", Both, Kind::Charset, "utf8mb4"),
    enum_var("character_set_filesystem", Both, "binary", &["binary", "utf8mb4"]),
    other_var("character_set_results", Both, Kind::Charset, "utf8mb4"),
    other_var("character_set_server", Both, Kind::Charset, "utf8mb4"),
    text_var("character_set_system", ReadOnly, "utf8mb3"),
    text_var("character_sets_dir", ReadOnly, "/"),
    bool_var("check_proxy_users", Global, false),
    other_var("collation_connection", Both, Kind::Collation, "utf8mb4_0900_ai_ci"),
    other_var("collation_database", Both, Kind::Collation, "utf8mb4_0900_ai_ci"),
    other_var("collation_server", Both, Kind::Collation, "utf8mb4_0900_ai_ci"),
    enum_var("completion_type", Both, "NO_CHAIN", &["NO_CHAIN", "CHAIN", "RELEASE"]),
    int_var("connect_timeout", Global, "10", 2, 31_536_000),
    int_var("cte_max_recursion_depth", Both, "1000", 0, I32U),
    text_var("datadir", ReadOnly, "/"),
    text_var("date_format", ReadOnly, "%Y-%m-%d"),
    text_var("datetime_format", ReadOnly, "%Y-%m-%d %H:%i:%s"),
    enum_var(
        "default_authentication_plugin",
        ReadOnly,
        "caching_sha2_password",
        &["caching_sha2_password", "mysql_native_password"],
    ),
    other_var("default_collation_for_utf8mb4", Both, Kind::Collation, "utf8mb4_0900_ai_ci"),
    int_var("default_password_lifetime", Global, "0", 0, 65_535),
    enum_var("default_storage_engine", Both, "InnoDB", &["InnoDB"]),
    enum_var("default_tmp_storage_engine", Both, "InnoDB", &["InnoDB"]),
    int_var("default_week_format", Both, "0", 0, 7),
    bool_var("disconnect_on_expired_password", ReadOnly, true),
    int_var("div_precision_increment", Both, "4", 0, 30),
    bool_var("end_markers_in_json", Both, false),
    int_var("eq_range_index_dive_limit", Both, "200", 0, I32U),
    int_var("error_count", ReadOnly, "0", 0, I31),
    bool_var("event_scheduler", Global, false),
    bool_var("explicit_defaults_for_timestamp", Both, true),
    text_var("external_user", ReadOnly, ""),
    bool_var("flush", Global, false),
    bool_var("foreign_key_checks", Both, true),
    text_var("ft_boolean_syntax", Global, "+ -><()~*:\"\"&|"),
    bool_var("general_log", Global, false),
    int_var("group_concat_max_len", Both, "1024", 4, i64::MAX),
    text_var("gtid_executed", ReadOnly, ""),
    text_var("gtid_mode", ReadOnly, "OFF"),
    bool_var("have_compress", ReadOnly, false),
    text_var("have_openssl", ReadOnly, "DISABLED"),
    text_var("have_ssl", ReadOnly, "DISABLED"),
    text_var("hostname", ReadOnly, "localhost"),
    text_var("identity", Session, "0"),
    text_var("init_connect", Global, ""),
    int_var("innodb_buffer_pool_size", Global, "134217728", 0, i64::MAX),
    bool_var("innodb_file_per_table", Global, true),
    int_var("innodb_flush_log_at_trx_commit", Global, "1", 0, 2),
    int_var("innodb_lock_wait_timeout", Both, "50", 1, 1_073_741_824),
    int_var("innodb_page_size", ReadOnly, "16384", 0, I31),
    bool_var("innodb_read_only", ReadOnly, false),
    bool_var("innodb_strict_mode", Both, true),
    text_var("innodb_version", ReadOnly, "8.0.36"),
    int_var("insert_id", Session, "0", 0, i64::MAX),
    int_var("interactive_timeout", Both, "28800", 1, 31_536_000),
    int_var("join_buffer_size", Both, "262144", 128, i64::MAX),
    int_var("last_insert_id", Session, "0", 0, i64::MAX),
    text_var("lc_messages", Both, "en_US"),
    text_var("lc_time_names", Both, "en_US"),
    text_var("license", ReadOnly, "Apache-2.0"),
    bool_var("local_infile", Global, false),
    int_var("lock_wait_timeout", Both, "31536000", 1, 31_536_000),
    bool_var("log_bin", ReadOnly, false),
    other_var("long_query_time", Both, Kind::Float, "10.000000"),
    bool_var("low_priority_updates", Both, false),
    text_var("lower_case_file_system", ReadOnly, "OFF"),
    text_var("lower_case_table_names", ReadOnly, "2"),
    int_var("max_allowed_packet", Both, "67108864", 1_024, 1_073_741_824),
    int_var("max_connections", Global, "1000", 1, 100_000),
    int_var("max_error_count", Both, "1024", 0, 65_535),
    int_var("max_execution_time", Both, "0", 0, I32U),
    int_var("max_heap_table_size", Both, "16777216", 16_384, i64::MAX),
    int_var("max_join_size", Both, "9223372036854775807", 1, i64::MAX),
    int_var("max_prepared_stmt_count", Global, "16382", 0, 4_194_304),
    int_var("max_sort_length", Both, "1024", 4, 8_388_608),
    int_var("max_sp_recursion_depth", Both, "0", 0, 255),
    int_var("max_user_connections", Both, "0", 0, I32U),
    int_var("net_buffer_length", Both, "16384", 1_024, 1_048_576),
    int_var("net_read_timeout", Both, "30", 1, 31_536_000),
    int_var("net_retry_count", Both, "10", 1, I32U),
    int_var("net_write_timeout", Both, "60", 1, 31_536_000),
    bool_var("old_alter_table", Both, false),
    text_var("optimizer_switch", Both, "index_merge=on"),
    bool_var("optimizer_trace", Both, false),
    bool_var("performance_schema", ReadOnly, false),
    text_var("pid_file", ReadOnly, ""),
    text_var("plugin_dir", ReadOnly, ""),
    int_var("port", ReadOnly, "4000", 0, 65_535),
    int_var("profiling", Both, "0", 0, 1),
    int_var("protocol_version", ReadOnly, "10", 0, 10),
    text_var("proxy_user", ReadOnly, ""),
    int_var("pseudo_thread_id", Session, "0", 0, I32U),
    int_var("query_cache_size", ReadOnly, "0", 0, 0),
    bool_var("query_cache_type", ReadOnly, false),
    int_var("rand_seed1", Session, "0", 0, I32U),
    int_var("rand_seed2", Session, "0", 0, I32U),
    int_var("read_buffer_size", Both, "131072", 8_192, I31),
    bool_var("read_only", Global, false),
    bool_var("require_secure_transport", Global, false),
    text_var("secure_file_priv", ReadOnly, "NULL"),
    int_var("server_id", Global, "0", 0, I32U),
    text_var("server_uuid", ReadOnly, "00000000-0000-0000-0000-000000000000"),
    enum_var("session_track_gtids", Both, "OFF", &["OFF", "OWN_GTID", "ALL_GTIDS"]),
    bool_var("session_track_schema", Both, true),
    bool_var("session_track_state_change", Both, false),
    text_var(
        "session_track_system_variables",
        Both,
        "time_zone,autocommit,character_set_client,character_set_results,character_set_connection",
    ),
    bool_var("show_create_table_verbosity", Both, false),
    bool_var("skip_name_resolve", ReadOnly, true),
    bool_var("skip_networking", ReadOnly, false),
    bool_var("slow_query_log", Global, true),
    text_var("slow_query_log_file", ReadOnly, ""),
    text_var("socket", ReadOnly, ""),
    int_var("sort_buffer_size", Both, "262144", 32_768, i64::MAX),
    bool_var("sql_auto_is_null", Both, false),
    bool_var("sql_big_selects", Both, true),
    bool_var("sql_buffer_result", Both, false),
    bool_var("sql_generate_invisible_primary_key", Both, false),
    bool_var("sql_log_bin", Session, true),
    other_var("sql_mode", Both, Kind::SqlMode, DEFAULT_SQL_MODE),
    bool_var("sql_notes", Both, true),
    bool_var("sql_quote_show_create", Both, true),
    bool_var("sql_require_primary_key", Both, false),
    bool_var("sql_safe_updates", Both, false),
    text_var("sql_select_limit", Both, "18446744073709551615"),
    bool_var("sql_warnings", Both, false),
    bool_var("super_read_only", Global, false),
    text_var("system_time_zone", ReadOnly, "UTC"),
    int_var("table_definition_cache", Global, "2000", 400, 524_288),
    int_var("table_open_cache", Global, "4000", 1, 524_288),
    int_var("thread_cache_size", Global, "9", 0, 16_384),
    int_var("thread_stack", ReadOnly, "1048576", 0, I31),
    int_var("tidb_adaptive_closest_read_threshold", Both, "4096", 0, i64::MAX),
    enum_var("tidb_allow_mpp", Both, "OFF", &["OFF", "ON"]),
    text_var("tidb_analyze_skip_column_types", Global, SKIPPED_TYPES),
    int_var("tidb_analyze_version", Both, "2", 2, 2),
    text_var("tidb_auto_analyze_end_time", Global, "23:59 +0000"),
    other_var("tidb_auto_analyze_ratio", Global, Kind::Float, "0.5"),
    text_var("tidb_auto_analyze_start_time", Global, "00:00 +0000"),
    int_var("tidb_broadcast_join_threshold_count", Both, "100000", 0, i64::MAX),
    int_var("tidb_broadcast_join_threshold_size", Both, "8388608", 0, BROADCAST_BYTES_MAX as i64),
    int_var("tidb_current_ts", ReadOnly, "0", 0, i64::MAX),
    int_var("tidb_distsql_scan_concurrency", Both, "15", 1, 256),
    enum_var("tidb_dml_type", Session, "standard", &["standard", "bulk"]),
    bool_var("tidb_enable_1pc", Both, true),
    bool_var("tidb_enable_async_commit", Both, true),
    bool_var("tidb_enable_auto_analyze", Global, true),
    bool_var("tidb_enable_clustered_index", Both, true),
    bool_var("tidb_enable_mutation_checker", Both, true),
    bool_var("tidb_enable_prepared_plan_cache", Both, true),
    bool_var("tidb_enable_stmt_summary", Global, true),
    bool_var("tidb_enable_tmp_storage_on_oom", Global, true),
    int_var("tidb_executor_concurrency", Both, "5", 1, 256),
    enum_var("tidb_force_priority", Both, "NO_PRIORITY", PRIORITIES),
    bool_var("tidb_gc_enable", Global, true),
    other_var("tidb_gc_life_time", Global, GC_TIME, "10m0s"),
    int_var("tidb_gc_max_wait_time", Global, "86400", 600, 31_536_000),
    other_var("tidb_gc_run_interval", Global, GC_TIME, "10m0s"),
    text_var("tidb_last_txn_info", ReadOnly, ""),
    enum_var("tidb_mem_oom_action", Global, "CANCEL", &["CANCEL", "LOG"]),
    int_var("tidb_mem_quota_query", Both, "1073741824", -1, i64::MAX),
    bool_var("tidb_opt_agg_push_down", Both, true),
    bool_var("tidb_opt_broadcast_join", Both, true),
    bool_var("tidb_opt_push_down", Both, true),
    int_var("tidb_read_staleness", Session, "0", i32::MIN as i64, 0),
    enum_var("tidb_replica_read", Both, "leader", REPLICA_READS),
    enum_var("tidb_scatter_region", Both, "", &["", "table", "global"]),
    other_var("tidb_server_memory_limit", Global, SERVER_MEMORY, "80%"),
    other_var("tidb_server_memory_limit_sess_min_size", Global, VICTIM_MEMORY, "134217728"),
    int_var("tidb_slow_log_threshold", Global, "300", 0, I31),
    text_var("tidb_snapshot", Session, ""),
    int_var("tidb_stmt_summary_history_size", Global, "24", 0, 255),
    int_var("tidb_stmt_summary_max_sql_length", Global, "4096", 0, 4_096),
    int_var("tidb_stmt_summary_max_stmt_count", Global, "3000", 1, 32_767),
    int_var("tidb_stmt_summary_refresh_interval", Global, "1800", 1, I31),
    enum_var("tidb_txn_assertion_level", Both, "FAST", &["OFF", "FAST", "STRICT"]),
    enum_var("tidb_txn_mode", Both, "pessimistic", &["optimistic", "pessimistic"]),
    bool_var("tidb_wait_split_region_finish", Both, true),
    int_var("tidb_wait_split_region_timeout", Both, "300", 1, I31),
    text_var("time_format", ReadOnly, "%H:%i:%s"),
    other_var("time_zone", Both, Kind::TimeZone, "SYSTEM"),
    other_var("timestamp", Session, Kind::Float, "0"),
    text_var("tls_version", ReadOnly, ""),
    int_var("tmp_table_size", Both, "16777216", 1_024, i64::MAX),
    text_var("tmpdir", ReadOnly, "/tmp"),
    enum_var("transaction_isolation", Both, "REPEATABLE-READ", ISOLATION_LEVELS),
    bool_var("transaction_read_only", Both, false),
    enum_var("tx_isolation", Both, "REPEATABLE-READ", ISOLATION_LEVELS),
    bool_var("tx_read_only", Both, false),
    bool_var("unique_checks", Both, true),
    bool_var("updatable_views_with_limit", Both, true),
    text_var("version", ReadOnly, crate::config::SERVER_VERSION),
    text_var("version_comment", ReadOnly, "Cairn distributed SQL server"),
    text_var("version_compile_machine", ReadOnly, std::env::consts::ARCH),
    text_var("version_compile_os", ReadOnly, std::env::consts::OS),
    int_var("wait_timeout", Both, "28800", 0, 31_536_000),
    int_var("warning_count", ReadOnly, "0", 0, I31),
    bool_var("windowing_use_high_precision", Both, true),
];

/// The definition of a variable, whatever the case of its name.
pub fn find(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
}
