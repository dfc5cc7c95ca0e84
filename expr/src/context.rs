//! What evaluation needs besides the row: settings, session, warnings.
//!
//! **Flow.** The SQL node makes one [`EvalContext`] per statement; parallel
//! workers clone it and their warnings are merged afterwards with
//! [`Warnings::merge`]. A store makes one from the settings that travel with a
//! fragment ([`crate::wire`]).
//!
//! **Invariants.** No clock and no global randomness in here: the time of the
//! statement is a field, and everything that differs from call to call comes
//! through [`SessionAccess`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cairn_types::cast::CastPurpose;
use cairn_types::time::{DateMode, TimeKind};
use cairn_types::{
    CastContext, Collation, Datum, FieldType, MysqlError, TimeZone, TypeError, Warning, errno,
};

/// Warnings kept per statement; more are only counted (`max_error_count`).
pub const WARNINGS_MAX: usize = 1024;

/// Largest result of a string function by default, in bytes.
pub const MAX_ALLOWED_PACKET_DEFAULT: u64 = 64 << 20;

/// Bits of `sql_mode`, as MySQL numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SqlMode(pub u64);

macro_rules! modes {
    ($($konst:ident = $bit:literal;)*) => {
        #[allow(missing_docs)] // The names are MySQL's own.
        impl SqlMode {
            $(pub const $konst: SqlMode = SqlMode($bit);)*

            /// Every mode with its name, in the order MySQL prints them.
            pub const NAMES: &'static [(&'static str, SqlMode)] =
                &[$((stringify!($konst), SqlMode::$konst)),*];
        }
    };
}

modes! {
    REAL_AS_FLOAT = 0x1;
    PIPES_AS_CONCAT = 0x2;
    ANSI_QUOTES = 0x4;
    IGNORE_SPACE = 0x8;
    ONLY_FULL_GROUP_BY = 0x20;
    NO_UNSIGNED_SUBTRACTION = 0x40;
    NO_DIR_IN_CREATE = 0x80;
    ANSI = 0x4_0000;
    NO_AUTO_VALUE_ON_ZERO = 0x8_0000;
    NO_BACKSLASH_ESCAPES = 0x10_0000;
    STRICT_TRANS_TABLES = 0x20_0000;
    STRICT_ALL_TABLES = 0x40_0000;
    NO_ZERO_IN_DATE = 0x80_0000;
    NO_ZERO_DATE = 0x100_0000;
    ALLOW_INVALID_DATES = 0x200_0000;
    ERROR_FOR_DIVISION_BY_ZERO = 0x400_0000;
    TRADITIONAL = 0x800_0000;
    HIGH_NOT_PRECEDENCE = 0x2000_0000;
    NO_ENGINE_SUBSTITUTION = 0x4000_0000;
    PAD_CHAR_TO_FULL_LENGTH = 0x8000_0000;
    TIME_TRUNCATE_FRACTIONAL = 0x1_0000_0000;
}

impl SqlMode {
    /// MySQL 8's default.
    pub const DEFAULT: SqlMode = SqlMode(
        SqlMode::ONLY_FULL_GROUP_BY.0
            | SqlMode::STRICT_TRANS_TABLES.0
            | SqlMode::NO_ZERO_IN_DATE.0
            | SqlMode::NO_ZERO_DATE.0
            | SqlMode::ERROR_FOR_DIVISION_BY_ZERO.0
            | SqlMode::NO_ENGINE_SUBSTITUTION.0,
    );

    /// Whether all bits of `mode` are set.
    #[inline]
    pub fn has(self, mode: SqlMode) -> bool {
        self.0 & mode.0 == mode.0
    }

    /// With the bits of `mode`.
    #[must_use]
    pub fn with(self, mode: SqlMode) -> SqlMode {
        SqlMode(self.0 | mode.0)
    }

    /// Strict for transactional tables, which all of Cairn's are.
    pub fn is_strict(self) -> bool {
        self.0 & (SqlMode::STRICT_TRANS_TABLES.0 | SqlMode::STRICT_ALL_TABLES.0) != 0
    }

    /// Parses the text of the variable; the combined modes set their members.
    /// Gives the offending word if one is unknown.
    pub fn parse(text: &str) -> Result<SqlMode, String> {
        let mut mode = SqlMode(0);
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let found = SqlMode::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
            let (_, bit) = found.ok_or_else(|| word.to_owned())?;
            mode = mode.with(*bit);
            if *bit == SqlMode::ANSI {
                let members = 0x1 | 0x2 | 0x4 | 0x8 | SqlMode::ONLY_FULL_GROUP_BY.0;
                mode = mode.with(SqlMode(members));
            }
            if *bit == SqlMode::TRADITIONAL {
                let members = SqlMode::DEFAULT.0 & !SqlMode::ONLY_FULL_GROUP_BY.0;
                mode = mode.with(SqlMode(members)).with(SqlMode::STRICT_ALL_TABLES);
            }
        }
        Ok(mode)
    }
}

impl fmt::Display for SqlMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = SqlMode::NAMES.iter().filter(|(_, bit)| self.has(*bit));
        for (at, (name, _)) in names.enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// Warnings of a statement, bounded by [`WARNINGS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    list: Vec<Warning>,
    total: u64,
}

impl Warnings {
    /// Adds one.
    pub fn push(&mut self, warning: Warning) {
        self.total += 1;
        if self.list.len() < WARNINGS_MAX {
            self.list.push(warning);
        }
    }

    /// Adds those of a worker.
    pub fn merge(&mut self, other: Warnings) {
        let uncounted = other.total - other.list.len() as u64;
        for warning in other.list {
            self.push(warning);
        }
        self.total += uncounted;
    }

    /// Those kept.
    pub fn list(&self) -> &[Warning] {
        &self.list
    }

    /// All that were raised, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Takes them out.
    pub fn take(&mut self) -> Warnings {
        std::mem::take(self)
    }

    /// Drops those after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        if self.list.len() > count {
            self.total -= (self.list.len() - count) as u64;
            self.list.truncate(count);
        }
    }
}

/// What functions may read of, and do to, the session. Every method has a
/// default that fits a place without a session.
pub trait SessionAccess: Send + Sync {
    /// Value of the user variable, name in lower case.
    fn user_var(&self, _name: &str) -> Option<(Datum, FieldType)> {
        None
    }

    /// Assigns a user variable.
    fn set_user_var(&self, _name: &str, _value: &Datum, _ty: &FieldType) {}

    /// LAST_INSERT_ID(expr).
    fn set_last_insert_id(&self, _id: u64) {}

    /// SLEEP(): waits, and tells whether it was interrupted.
    fn sleep(&self, _seconds: f64) -> bool {
        false
    }

    /// The clock, for SYSDATE(), in microseconds since the epoch; `None`: the
    /// time of the statement.
    fn clock_micros(&self) -> Option<i64> {
        None
    }

    /// Fresh random bits, for RAND(), UUID() and RANDOM_BYTES().
    fn random(&self) -> u64 {
        0x9E37_79B9_7F4A_7C15
    }
}

struct NoSession;
impl SessionAccess for NoSession {}

/// What information functions tell. Immutable for a statement.
#[derive(Clone, Debug, Default)]
pub struct SessionInfo {
    /// VERSION().
    pub version: String,
    /// TIDB_VERSION(): build information.
    pub build: String,
    /// DATABASE(), if one is selected.
    pub database: Option<String>,
    /// USER(): `name@host` of the client.
    pub user: String,
    /// CURRENT_USER(): the account that was matched.
    pub current_user: String,
    /// CURRENT_ROLE().
    pub current_role: String,
    /// CONNECTION_ID().
    pub connection_id: u64,
}

/// What information functions tell of the statements before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatementCounters {
    /// LAST_INSERT_ID() before this statement.
    pub last_insert_id: u64,
    /// ROW_COUNT() of the statement before.
    pub row_count: i64,
    /// FOUND_ROWS() of the statement before.
    pub found_rows: u64,
}

/// Settings and state of evaluation.
#[derive(Clone)]
pub struct EvalContext {
    /// `sql_mode`.
    pub sql_mode: SqlMode,
    /// `time_zone`.
    pub time_zone: TimeZone,
    /// The statement's time, microseconds since the epoch.
    pub now_micros: i64,
    /// `div_precision_increment`.
    pub div_precision_increment: u8,
    /// `max_allowed_packet`: string functions that would exceed it give NULL.
    pub max_allowed_packet: u64,
    /// `group_concat_max_len`, in bytes.
    pub group_concat_max_len: u64,
    /// `default_week_format`.
    pub default_week_format: u8,
    /// `collation_connection`: what literals and formatted numbers have.
    pub collation: Collation,
    /// Whether a bad conversion is an error and not a warning: set while values
    /// are computed that INSERT or UPDATE will store, in a strict mode.
    pub strict: bool,
    /// Warnings raised so far.
    pub warnings: Warnings,
    /// What information functions tell.
    pub info: Arc<SessionInfo>,
    /// What they tell of the statements before.
    pub counters: StatementCounters,
    /// User variables and other effects.
    pub session: Arc<dyn SessionAccess>,
    /// Values of prepared-statement slots.
    pub params: Arc<[Datum]>,
    /// States of RAND(n), by call site.
    pub(crate) rand_states: HashMap<usize, (u32, u32)>,
}

/// No parameters at all: shared, since most contexts begin with it.
static NO_PARAMS: LazyLock<Arc<[Datum]>> = LazyLock::new(|| Arc::from(Vec::new()));

impl Default for EvalContext {
    fn default() -> EvalContext {
        EvalContext::of_session(Arc::default(), Arc::new(NoSession))
    }
}

impl EvalContext {
    /// The defaults, within a session.
    pub fn of_session(info: Arc<SessionInfo>, session: Arc<dyn SessionAccess>) -> EvalContext {
        EvalContext {
            sql_mode: SqlMode::DEFAULT,
            time_zone: TimeZone::utc(),
            now_micros: 0,
            div_precision_increment: 4,
            max_allowed_packet: MAX_ALLOWED_PACKET_DEFAULT,
            group_concat_max_len: 1024,
            default_week_format: 0,
            collation: Collation::default(),
            strict: false,
            warnings: Warnings::default(),
            info,
            counters: StatementCounters::default(),
            session,
            params: Arc::clone(&NO_PARAMS),
            rand_states: HashMap::new(),
        }
    }
}

impl fmt::Debug for EvalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalContext")
            .field("sql_mode", &self.sql_mode)
            .field("now_micros", &self.now_micros)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl EvalContext {
    /// Adds a warning.
    pub fn warn(&mut self, error: MysqlError) {
        self.warnings.push(Warning::warning(error));
    }

    /// Adds a warning with MySQL's own text.
    pub fn warn_args(&mut self, code: u16, args: &[&dyn fmt::Display]) {
        self.warn(MysqlError::with_args(code, args));
    }

    /// What values are converted with that are stored in columns. `ignore`: what would be an error
    /// is a warning and a default value.
    pub fn assignment(&self, ignore: bool) -> CastContext {
        let (zone, mode) = (&self.time_zone, self.sql_mode);
        CastContext {
            purpose: CastPurpose::Assign,
            strict: mode.is_strict() && !ignore,
            date_mode: DateMode {
                no_zero_in_date: mode.has(SqlMode::NO_ZERO_IN_DATE),
                no_zero_date: mode.has(SqlMode::NO_ZERO_DATE),
                allow_invalid_dates: mode.has(SqlMode::ALLOW_INVALID_DATES),
            },
            time_zone: zone.clone(),
            now: zone.from_unix_micros(self.now_micros, TimeKind::DateTime, 6),
            ..CastContext::default()
        }
    }

    /// A bad conversion: an error where values are stored strictly, else a
    /// warning.
    pub fn handle_truncation(&mut self, error: TypeError) -> Result<(), TypeError> {
        if self.strict {
            return Err(error);
        }
        self.warn(error.to_mysql());
        Ok(())
    }

    /// Division by zero gives NULL; what else happens is `sql_mode`'s choice.
    pub fn handle_division_by_zero(&mut self) -> Result<(), TypeError> {
        if !self.sql_mode.has(SqlMode::ERROR_FOR_DIVISION_BY_ZERO) {
            return Ok(());
        }
        if self.strict {
            return Err(TypeError::DivisionByZero);
        }
        self.warn_args(errno::ER_DIVISION_BY_ZERO, &[]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_parse_and_print() {
        let mode = SqlMode::parse("strict_trans_tables, ANSI_QUOTES").unwrap();
        assert_eq!(mode.to_string(), "ANSI_QUOTES,STRICT_TRANS_TABLES");
        assert!(mode.is_strict());
        assert_eq!(SqlMode::parse("x"), Err("x".to_owned()));
        assert!(SqlMode::parse("TRADITIONAL").unwrap().has(SqlMode::NO_ZERO_DATE));
    }

    #[test]
    fn warnings_are_bounded() {
        let mut warnings = Warnings::default();
        for _ in 0..WARNINGS_MAX + 5 {
            warnings.push(Warning::warning(MysqlError::unknown("x")));
        }
        let mut all = Warnings::default();
        all.merge(warnings);
        assert_eq!((all.list().len(), all.total()), (WARNINGS_MAX, WARNINGS_MAX as u64 + 5));
    }
}
