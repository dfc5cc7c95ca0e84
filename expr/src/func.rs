//! The scalar functions Cairn knows: names, argument counts and properties.
//!
//! One table drives the enum, the lookup by name (SQL spelling, operators and
//! aliases), the wire name (a function's first name, lower case, as TiDB's EXPLAIN
//! prints it) and what may be done with a call: folded, pushed to a store.
//!
//! **Invariants.** The first name of a function is part of the wire protocol: it
//! never changes and is never used again for another meaning.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

/// Any number of arguments.
const ANY: usize = usize::MAX;

/// What may be done with a call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// Depends on its arguments alone: folded, and evaluated in stores.
    Pushable,
    /// Depends on its arguments alone, but has no meaning in a store.
    Local,
    /// Fixed within a statement, known to the session only: folded, not pushed.
    Session,
    /// Differs from call to call, or has an effect.
    Volatile,
}

struct Info {
    func: Func,
    name: &'static str,
    aliases: &'static [&'static str],
    args_min: usize,
    args_max: usize,
    nature: Nature,
}

macro_rules! functions {
    ($($variant:ident = $name:literal, [$($alias:literal),*], $min:expr, $max:expr, $nature:ident;)*) => {
        /// A scalar function or operator.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // The names are MySQL's own.
        pub enum Func {
            $($variant),*
        }

        static TABLE: &[Info] = &[$(Info {
            func: Func::$variant,
            name: $name,
            aliases: &[$($alias),*],
            args_min: $min,
            args_max: $max,
            nature: Nature::$nature,
        }),*];
    };
}

functions! {
    // Arithmetic.
    Plus = "plus", ["+"], 2, 2, Pushable;
    Minus = "minus", ["-"], 2, 2, Pushable;
    Mul = "mul", ["*"], 2, 2, Pushable;
    Div = "div", ["/"], 2, 2, Pushable;
    IntDiv = "intdiv", [], 2, 2, Pushable;
    Mod = "mod", ["%"], 2, 2, Pushable;
    UnaryMinus = "unaryminus", [], 1, 1, Pushable;
    // Comparison.
    Eq = "eq", ["="], 2, 2, Pushable;
    NullEq = "nulleq", ["<=>"], 2, 2, Pushable;
    Ne = "ne", ["!=", "<>"], 2, 2, Pushable;
    Lt = "lt", ["<"], 2, 2, Pushable;
    Le = "le", ["<="], 2, 2, Pushable;
    Gt = "gt", [">"], 2, 2, Pushable;
    Ge = "ge", [">="], 2, 2, Pushable;
    In = "in", [], 2, ANY, Pushable;
    IsNull = "isnull", [], 1, 1, Pushable;
    IsTrue = "istrue", [], 1, 1, Pushable;
    IsFalse = "isfalse", [], 1, 1, Pushable;
    Coalesce = "coalesce", [], 1, ANY, Pushable;
    Greatest = "greatest", [], 2, ANY, Pushable;
    Least = "least", [], 2, ANY, Pushable;
    Interval = "interval", [], 2, ANY, Pushable;
    Strcmp = "strcmp", [], 2, 2, Pushable;
    Row = "row", [], 1, ANY, Local;
    // Logic.
    And = "and", ["&&"], 2, 2, Pushable;
    Or = "or", ["||"], 2, 2, Pushable;
    Xor = "xor", [], 2, 2, Pushable;
    Not = "not", ["!"], 1, 1, Pushable;
    // Bits.
    BitAnd = "bitand", ["&"], 2, 2, Pushable;
    BitOr = "bitor", ["|"], 2, 2, Pushable;
    BitXor = "bitxor", ["^"], 2, 2, Pushable;
    BitNeg = "bitneg", ["~"], 1, 1, Pushable;
    LeftShift = "leftshift", ["<<"], 2, 2, Pushable;
    RightShift = "rightshift", [">>"], 2, 2, Pushable;
    BitCount = "bit_count", [], 1, 1, Pushable;
    // Control.
    If = "if", [], 3, 3, Pushable;
    IfNull = "ifnull", [], 2, 2, Pushable;
    NullIf = "nullif", [], 2, 2, Pushable;
    Case = "case", [], 2, ANY, Pushable;
    AnyValue = "any_value", [], 1, 1, Local;
    // Mathematics.
    Abs = "abs", [], 1, 1, Pushable;
    Ceil = "ceil", ["ceiling"], 1, 1, Pushable;
    Floor = "floor", [], 1, 1, Pushable;
    Round = "round", [], 1, 2, Pushable;
    Truncate = "truncate", [], 2, 2, Pushable;
    Pow = "pow", ["power"], 2, 2, Pushable;
    Sqrt = "sqrt", [], 1, 1, Pushable;
    Exp = "exp", [], 1, 1, Pushable;
    Ln = "ln", [], 1, 1, Pushable;
    Log = "log", [], 1, 2, Pushable;
    Log2 = "log2", [], 1, 1, Pushable;
    Log10 = "log10", [], 1, 1, Pushable;
    Sign = "sign", [], 1, 1, Pushable;
    Sin = "sin", [], 1, 1, Pushable;
    Cos = "cos", [], 1, 1, Pushable;
    Tan = "tan", [], 1, 1, Pushable;
    Cot = "cot", [], 1, 1, Pushable;
    Asin = "asin", [], 1, 1, Pushable;
    Acos = "acos", [], 1, 1, Pushable;
    Atan = "atan", [], 1, 2, Pushable;
    Atan2 = "atan2", [], 2, 2, Pushable;
    Pi = "pi", [], 0, 0, Pushable;
    Crc32 = "crc32", [], 1, 1, Pushable;
    Conv = "conv", [], 3, 3, Pushable;
    Radians = "radians", [], 1, 1, Pushable;
    Degrees = "degrees", [], 1, 1, Pushable;
    Rand = "rand", [], 0, 1, Volatile;
    // Strings.
    Concat = "concat", [], 1, ANY, Pushable;
    ConcatWs = "concat_ws", [], 2, ANY, Pushable;
    Length = "length", ["octet_length"], 1, 1, Pushable;
    CharLength = "char_length", ["character_length"], 1, 1, Pushable;
    BitLength = "bit_length", [], 1, 1, Pushable;
    Upper = "upper", ["ucase"], 1, 1, Pushable;
    Lower = "lower", ["lcase"], 1, 1, Pushable;
    Left = "left", [], 2, 2, Pushable;
    Right = "right", [], 2, 2, Pushable;
    Substring = "substring", ["substr", "mid"], 2, 3, Pushable;
    SubstringIndex = "substring_index", [], 3, 3, Pushable;
    Trim = "trim", [], 1, 3, Pushable;
    Ltrim = "ltrim", [], 1, 1, Pushable;
    Rtrim = "rtrim", [], 1, 1, Pushable;
    Lpad = "lpad", [], 3, 3, Pushable;
    Rpad = "rpad", [], 3, 3, Pushable;
    Repeat = "repeat", [], 2, 2, Pushable;
    Replace = "replace", [], 3, 3, Pushable;
    Reverse = "reverse", [], 1, 1, Pushable;
    Instr = "instr", [], 2, 2, Pushable;
    Locate = "locate", ["position"], 2, 3, Pushable;
    Insert = "insert", ["insert_func"], 4, 4, Pushable;
    Space = "space", [], 1, 1, Pushable;
    Ascii = "ascii", [], 1, 1, Pushable;
    Ord = "ord", [], 1, 1, Pushable;
    Char = "char", ["char_func"], 1, ANY, Pushable;
    Hex = "hex", [], 1, 1, Pushable;
    Unhex = "unhex", [], 1, 1, Pushable;
    Bin = "bin", [], 1, 1, Pushable;
    Oct = "oct", [], 1, 1, Pushable;
    Format = "format", [], 2, 3, Pushable;
    Field = "field", [], 2, ANY, Pushable;
    Elt = "elt", [], 2, ANY, Pushable;
    FindInSet = "find_in_set", [], 2, 2, Pushable;
    MakeSet = "make_set", [], 2, ANY, Pushable;
    ExportSet = "export_set", [], 3, 5, Pushable;
    Quote = "quote", [], 1, 1, Pushable;
    Soundex = "soundex", [], 1, 1, Pushable;
    Like = "like", [], 2, 3, Pushable;
    Regexp = "regexp", ["rlike"], 2, 2, Pushable;
    RegexpLike = "regexp_like", [], 2, 3, Pushable;
    RegexpReplace = "regexp_replace", [], 3, 6, Pushable;
    RegexpSubstr = "regexp_substr", [], 2, 5, Pushable;
    RegexpInstr = "regexp_instr", [], 2, 6, Pushable;
    ToBase64 = "to_base64", [], 1, 1, Pushable;
    FromBase64 = "from_base64", [], 1, 1, Pushable;
    WeightString = "weight_string", [], 1, 1, Pushable;
    ConvertUsing = "convert_using", [], 2, 2, Pushable;
    Collate = "collate", [], 2, 2, Pushable;
    Binary = "binary", [], 1, 1, Pushable;
    // Casts; the target is the function's own type.
    Cast = "cast", [], 1, 1, Pushable;
    // Dates and times.
    Now = "now", ["current_timestamp", "localtime", "localtimestamp"], 0, 1, Session;
    Curdate = "curdate", ["current_date"], 0, 0, Session;
    Curtime = "curtime", ["current_time"], 0, 1, Session;
    UtcDate = "utc_date", [], 0, 0, Session;
    UtcTime = "utc_time", [], 0, 1, Session;
    UtcTimestamp = "utc_timestamp", [], 0, 1, Session;
    Sysdate = "sysdate", [], 0, 1, Volatile;
    TidbBoundedStaleness = "tidb_bounded_staleness", [], 2, 2, Session;
    TidbParseTso = "tidb_parse_tso", [], 1, 1, Session;
    UnixTimestamp = "unix_timestamp", [], 0, 1, Pushable;
    FromUnixtime = "from_unixtime", [], 1, 2, Pushable;
    Date = "date", [], 1, 1, Pushable;
    Time = "time", [], 1, 1, Pushable;
    Year = "year", [], 1, 1, Pushable;
    Month = "month", [], 1, 1, Pushable;
    Day = "day", ["dayofmonth"], 1, 1, Pushable;
    DayOfWeek = "dayofweek", [], 1, 1, Pushable;
    DayOfYear = "dayofyear", [], 1, 1, Pushable;
    Week = "week", [], 1, 2, Pushable;
    Weekday = "weekday", [], 1, 1, Pushable;
    WeekOfYear = "weekofyear", [], 1, 1, Pushable;
    YearWeek = "yearweek", [], 1, 2, Pushable;
    Quarter = "quarter", [], 1, 1, Pushable;
    Hour = "hour", [], 1, 1, Pushable;
    Minute = "minute", [], 1, 1, Pushable;
    Second = "second", [], 1, 1, Pushable;
    Microsecond = "microsecond", [], 1, 1, Pushable;
    DateAdd = "date_add", [], 3, 3, Pushable;
    DateSub = "date_sub", [], 3, 3, Pushable;
    AddTime = "addtime", [], 2, 2, Pushable;
    SubTime = "subtime", [], 2, 2, Pushable;
    DateDiff = "datediff", [], 2, 2, Pushable;
    TimeDiff = "timediff", [], 2, 2, Pushable;
    TimestampDiff = "timestampdiff", [], 3, 3, Pushable;
    TimestampAdd = "timestampadd", [], 3, 3, Pushable;
    DateFormat = "date_format", [], 2, 2, Pushable;
    TimeFormat = "time_format", [], 2, 2, Pushable;
    StrToDate = "str_to_date", [], 2, 2, Pushable;
    MakeDate = "makedate", [], 2, 2, Pushable;
    MakeTime = "maketime", [], 3, 3, Pushable;
    LastDay = "last_day", [], 1, 1, Pushable;
    Extract = "extract", [], 2, 2, Pushable;
    FromDays = "from_days", [], 1, 1, Pushable;
    ToDays = "to_days", [], 1, 1, Pushable;
    ToSeconds = "to_seconds", [], 1, 1, Pushable;
    SecToTime = "sec_to_time", [], 1, 1, Pushable;
    TimeToSec = "time_to_sec", [], 1, 1, Pushable;
    ConvertTz = "convert_tz", [], 3, 3, Pushable;
    GetFormat = "get_format", [], 2, 2, Pushable;
    DayName = "dayname", [], 1, 1, Pushable;
    MonthName = "monthname", [], 1, 1, Pushable;
    PeriodAdd = "period_add", [], 2, 2, Pushable;
    PeriodDiff = "period_diff", [], 2, 2, Pushable;
    Timestamp = "timestamp", [], 1, 2, Pushable;
    // JSON.
    JsonExtract = "json_extract", ["->"], 2, ANY, Pushable;
    JsonUnquote = "json_unquote", [], 1, 1, Pushable;
    JsonQuote = "json_quote", [], 1, 1, Pushable;
    JsonObject = "json_object", [], 0, ANY, Pushable;
    JsonArray = "json_array", [], 0, ANY, Pushable;
    JsonSet = "json_set", [], 3, ANY, Pushable;
    JsonInsert = "json_insert", [], 3, ANY, Pushable;
    JsonReplace = "json_replace", [], 3, ANY, Pushable;
    JsonRemove = "json_remove", [], 2, ANY, Pushable;
    JsonContains = "json_contains", [], 2, 3, Pushable;
    JsonContainsPath = "json_contains_path", [], 3, ANY, Pushable;
    JsonLength = "json_length", [], 1, 2, Pushable;
    JsonType = "json_type", [], 1, 1, Pushable;
    JsonValid = "json_valid", [], 1, 1, Pushable;
    JsonKeys = "json_keys", [], 1, 2, Pushable;
    JsonDepth = "json_depth", [], 1, 1, Pushable;
    JsonMergePatch = "json_merge_patch", [], 2, ANY, Pushable;
    JsonMergePreserve = "json_merge_preserve", ["json_merge"], 2, ANY, Pushable;
    JsonSearch = "json_search", [], 3, ANY, Pushable;
    JsonPretty = "json_pretty", [], 1, 1, Pushable;
    JsonArrayAppend = "json_array_append", ["json_append"], 3, ANY, Pushable;
    JsonArrayInsert = "json_array_insert", [], 3, ANY, Pushable;
    JsonMemberOf = "json_memberof", ["member of"], 2, 2, Pushable;
    JsonOverlaps = "json_overlaps", [], 2, 2, Pushable;
    JsonStorageSize = "json_storage_size", [], 1, 1, Pushable;
    JsonValue = "json_value", [], 2, 2, Pushable;
    // A value as a JSON value, text as a JSON string: what comparisons with JSON do.
    JsonScalar = "json_scalar", [], 1, 1, Pushable;
    // Digests.
    Md5 = "md5", [], 1, 1, Pushable;
    Sha1 = "sha1", ["sha"], 1, 1, Pushable;
    Sha2 = "sha2", [], 2, 2, Pushable;
    // Information about session and server.
    Version = "version", [], 0, 0, Session;
    Database = "database", ["schema"], 0, 0, Session;
    User = "user", ["session_user", "system_user"], 0, 0, Session;
    CurrentUser = "current_user", [], 0, 0, Session;
    CurrentRole = "current_role", [], 0, 0, Session;
    ConnectionId = "connection_id", [], 0, 0, Session;
    RowCount = "row_count", [], 0, 0, Session;
    FoundRows = "found_rows", [], 0, 0, Session;
    TidbVersion = "tidb_version", [], 0, 0, Session;
    LastInsertId = "last_insert_id", [], 0, 1, Volatile;
    Charset = "charset", [], 1, 1, Session;
    Collation = "collation", [], 1, 1, Session;
    Coercibility = "coercibility", [], 1, 1, Session;
    // Miscellany.
    Sleep = "sleep", [], 1, 1, Volatile;
    Benchmark = "benchmark", [], 2, 2, Volatile;
    Uuid = "uuid", [], 0, 0, Volatile;
    UuidShort = "uuid_short", [], 0, 0, Volatile;
    RandomBytes = "random_bytes", [], 1, 1, Volatile;
    GetUserVar = "getvar", [], 1, 1, Volatile;
    SetUserVar = "setvar", [], 2, 2, Volatile;
    UuidToBin = "uuid_to_bin", [], 1, 2, Pushable;
    BinToUuid = "bin_to_uuid", [], 1, 2, Pushable;
    IsUuid = "is_uuid", [], 1, 1, Pushable;
    InetAton = "inet_aton", [], 1, 1, Pushable;
    InetNtoa = "inet_ntoa", [], 1, 1, Pushable;
    Inet6Aton = "inet6_aton", [], 1, 1, Pushable;
    Inet6Ntoa = "inet6_ntoa", [], 1, 1, Pushable;
    IsIpv4 = "is_ipv4", [], 1, 1, Pushable;
    IsIpv6 = "is_ipv6", [], 1, 1, Pushable;
}

impl Func {
    fn info(self) -> &'static Info {
        &TABLE[self as usize]
    }

    /// All functions, in table order.
    pub fn all() -> impl Iterator<Item = Func> {
        TABLE.iter().map(|info| info.func)
    }

    /// The function's one name on the wire and in EXPLAIN.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Looks up a function by SQL name, alias or operator; case does not matter.
    pub fn from_name(name: &str) -> Option<Func> {
        static BY_NAME: OnceLock<HashMap<&'static str, Func>> = OnceLock::new();
        let by_name = BY_NAME.get_or_init(|| {
            TABLE
                .iter()
                .flat_map(|info| {
                    let names = std::iter::once(&info.name).chain(info.aliases);
                    names.map(|name| (*name, info.func))
                })
                .collect()
        });
        match by_name.get(name) {
            Some(func) => Some(*func),
            None => by_name.get(name.to_ascii_lowercase().as_str()).copied(),
        }
    }

    /// Looks up a function by its wire name alone.
    pub fn from_wire_name(name: &str) -> Option<Func> {
        Func::from_name(name).filter(|func| func.name() == name)
    }

    /// Whether the function takes `count` arguments.
    pub fn accepts(self, count: usize) -> bool {
        let info = self.info();
        let paired = match self {
            Func::JsonObject => count.is_multiple_of(2),
            Func::JsonSet
            | Func::JsonInsert
            | Func::JsonReplace
            | Func::JsonArrayAppend
            | Func::JsonArrayInsert => !count.is_multiple_of(2),
            _ => true,
        };
        paired && (info.args_min..=info.args_max).contains(&count)
    }

    /// Whether equal arguments give equal results within a statement.
    pub fn is_deterministic(self) -> bool {
        self.info().nature != Nature::Volatile
    }

    /// Whether the result is fixed within a statement but known to its session
    /// only (NOW, USER, …).
    pub fn is_session(self) -> bool {
        self.info().nature == Nature::Session
    }

    /// Whether a store may evaluate a call: the result depends on the arguments
    /// and the settings that travel with a fragment alone.
    pub fn is_pushable(self) -> bool {
        self.info().nature == Nature::Pushable
    }

    /// `=`, `<=>`, `<>`, `<`, `<=`, `>`, `>=`.
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Func::Eq | Func::NullEq | Func::Ne | Func::Lt | Func::Le | Func::Gt | Func::Ge
        )
    }

    /// The comparison with its sides exchanged: `a < b` is `b > a`.
    pub fn mirrored(self) -> Func {
        match self {
            Func::Lt => Func::Gt,
            Func::Le => Func::Ge,
            Func::Gt => Func::Lt,
            Func::Ge => Func::Le,
            other => other,
        }
    }

    /// The comparison that holds where this one is false (both are NULL where a
    /// side is NULL). `None` for `<=>` and everything that is no comparison.
    pub fn negated(self) -> Option<Func> {
        Some(match self {
            Func::Eq => Func::Ne,
            Func::Ne => Func::Eq,
            Func::Lt => Func::Ge,
            Func::Le => Func::Gt,
            Func::Gt => Func::Le,
            Func::Ge => Func::Lt,
            _ => return None,
        })
    }

    /// How MySQL writes the function between its arguments, if it does.
    pub fn operator(self) -> Option<&'static str> {
        Some(match self {
            Func::Plus => "+",
            Func::Minus => "-",
            Func::Mul => "*",
            Func::Div => "/",
            Func::IntDiv => "DIV",
            Func::Mod => "%",
            Func::Eq => "=",
            Func::NullEq => "<=>",
            Func::Ne => "<>",
            Func::Lt => "<",
            Func::Le => "<=",
            Func::Gt => ">",
            Func::Ge => ">=",
            Func::And => "and",
            Func::Or => "or",
            Func::Xor => "xor",
            Func::BitAnd => "&",
            Func::BitOr => "|",
            Func::BitXor => "^",
            Func::LeftShift => "<<",
            Func::RightShift => ">>",
            Func::Like => "like",
            Func::Regexp => "regexp",
            _ => return None,
        })
    }
}

impl fmt::Display for Func {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let mut seen = std::collections::HashSet::new();
        for info in TABLE {
            assert_eq!(info.func.info().name, info.name);
            assert_eq!(Func::from_wire_name(info.name), Some(info.func));
            for name in std::iter::once(&info.name).chain(info.aliases) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(Func::from_name(&name.to_uppercase()), Some(info.func));
            }
        }
        assert_eq!(Func::from_name("no_such"), None);
        assert_eq!(Func::from_wire_name("ucase"), None);
    }

    #[test]
    fn counts() {
        assert!(Func::JsonObject.accepts(4) && !Func::JsonObject.accepts(3));
        assert!(Func::JsonSet.accepts(3) && !Func::JsonSet.accepts(4));
        assert!(Func::Case.accepts(100) && !Func::Pi.accepts(1));
    }
}
