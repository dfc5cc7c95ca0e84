//! The scalar functions, one family per file.
//!
//! Every function takes a [`Call`] (argument values with their types) and gives a
//! value; [`crate::eval`] brings the value to the physical kind of the result
//! type. Most functions of NULL are NULL: [`eval`] answers that before a family is
//! asked, except for the functions in `sees_null`.

pub(crate) mod arithmetic;
pub(crate) mod cast;
pub(crate) mod comparison;
pub(crate) mod control;
pub(crate) mod dateparts;
pub(crate) mod datetime;
pub(crate) mod digest;
pub(crate) mod info;
pub(crate) mod json;
pub(crate) mod json_modify;
pub(crate) mod like;
pub(crate) mod math;
pub(crate) mod net;
pub(crate) mod regexp;
pub(crate) mod string;
pub(crate) mod string_encode;
pub(crate) mod string_set;

use cairn_types::Datum;

use crate::context::EvalContext;
use crate::error::Result;
use crate::eval::call::Call;
use crate::func::Func;

/// The functions that have an answer for NULL arguments.
fn sees_null(func: Func) -> bool {
    use Func as F;
    matches!(
        func,
        F::IsNull
            | F::IsTrue
            | F::IsFalse
            | F::NullEq
            | F::In
            | F::Xor
            | F::Interval
            | F::ConcatWs
            | F::Char
            | F::Field
            | F::Elt
            | F::MakeSet
            | F::Quote
            | F::AnyValue
            | F::SetUserVar
            | F::Charset
            | F::Collation
            | F::Coercibility
            | F::Sleep
            | F::Rand
            | F::LastInsertId
            | F::IsUuid
            | F::IsIpv4
            | F::IsIpv6
    ) || sees_null_json(func)
}

fn sees_null_json(func: Func) -> bool {
    use Func as F;
    matches!(
        func,
        F::JsonObject
            | F::JsonArray
            | F::JsonSet
            | F::JsonInsert
            | F::JsonReplace
            | F::JsonArrayAppend
            | F::JsonArrayInsert
            | F::JsonSearch
            | F::JsonMergePatch
    )
}

/// Evaluates a call whose arguments are evaluated.
pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    use Func as F;
    if call.any_null() && !sees_null(call.func) {
        return Ok(Datum::Null);
    }
    match call.func {
        F::Plus | F::Minus | F::Mul | F::Div | F::IntDiv | F::Mod | F::UnaryMinus => {
            arithmetic::eval(call, ctx)
        }
        F::BitAnd
        | F::BitOr
        | F::BitXor
        | F::BitNeg
        | F::LeftShift
        | F::RightShift
        | F::BitCount => arithmetic::eval_bits(call, ctx),
        F::Eq
        | F::NullEq
        | F::Ne
        | F::Lt
        | F::Le
        | F::Gt
        | F::Ge
        | F::In
        | F::IsNull
        | F::IsTrue
        | F::IsFalse
        | F::Greatest
        | F::Least
        | F::Interval
        | F::Strcmp => comparison::eval(call, ctx),
        F::Not
        | F::Xor
        | F::AnyValue
        | F::And
        | F::Or
        | F::If
        | F::IfNull
        | F::NullIf
        | F::Coalesce
        | F::Case
        | F::Row => control::eval(call, ctx),
        F::Cast => cast::eval(call, ctx),
        F::Like => like::eval(call, ctx),
        F::Regexp | F::RegexpLike | F::RegexpReplace | F::RegexpSubstr | F::RegexpInstr => {
            regexp::eval(call, ctx)
        }
        F::Abs
        | F::Ceil
        | F::Floor
        | F::Round
        | F::Truncate
        | F::Pow
        | F::Sqrt
        | F::Exp
        | F::Ln
        | F::Log
        | F::Log2
        | F::Log10
        | F::Sign
        | F::Sin
        | F::Cos
        | F::Tan
        | F::Cot
        | F::Asin
        | F::Acos
        | F::Atan
        | F::Atan2
        | F::Pi
        | F::Rand
        | F::Radians
        | F::Degrees => math::eval(call, ctx),
        F::Concat
        | F::ConcatWs
        | F::Length
        | F::CharLength
        | F::BitLength
        | F::Upper
        | F::Lower
        | F::Left
        | F::Right
        | F::Substring
        | F::SubstringIndex
        | F::Trim
        | F::Ltrim
        | F::Rtrim
        | F::Lpad
        | F::Rpad
        | F::Repeat
        | F::Replace
        | F::Reverse
        | F::Instr
        | F::Locate
        | F::Insert
        | F::Space => string::eval(call, ctx),
        F::Ascii
        | F::Ord
        | F::Char
        | F::Hex
        | F::Unhex
        | F::Bin
        | F::Oct
        | F::Conv
        | F::Format
        | F::Quote
        | F::Soundex
        | F::ToBase64
        | F::FromBase64
        | F::WeightString
        | F::ConvertUsing
        | F::Collate
        | F::Binary => string_encode::eval(call, ctx),
        F::Field | F::Elt | F::FindInSet | F::MakeSet | F::ExportSet => string_set::eval(call, ctx),
        F::Crc32 | F::Md5 | F::Sha1 | F::Sha2 => digest::eval(call, ctx),
        F::Year
        | F::Month
        | F::Day
        | F::DayOfWeek
        | F::DayOfYear
        | F::Week
        | F::Weekday
        | F::WeekOfYear
        | F::YearWeek
        | F::Quarter
        | F::Hour
        | F::Minute
        | F::Second
        | F::Microsecond
        | F::Date
        | F::Time
        | F::DayName
        | F::MonthName
        | F::LastDay
        | F::ToDays
        | F::ToSeconds
        | F::FromDays
        | F::TimeToSec
        | F::SecToTime
        | F::MakeDate
        | F::MakeTime
        | F::Extract
        | F::PeriodAdd
        | F::PeriodDiff => dateparts::eval(call, ctx),
        F::Now
        | F::Sysdate
        | F::Curdate
        | F::Curtime
        | F::UtcDate
        | F::UtcTime
        | F::UtcTimestamp
        | F::TidbBoundedStaleness
        | F::TidbParseTso
        | F::UnixTimestamp
        | F::FromUnixtime
        | F::DateAdd
        | F::DateSub
        | F::AddTime
        | F::SubTime
        | F::DateDiff
        | F::TimeDiff
        | F::TimestampDiff
        | F::TimestampAdd
        | F::DateFormat
        | F::TimeFormat
        | F::StrToDate
        | F::ConvertTz
        | F::GetFormat
        | F::Timestamp => datetime::eval(call, ctx),
        F::JsonExtract
        | F::JsonUnquote
        | F::JsonQuote
        | F::JsonObject
        | F::JsonArray
        | F::JsonContains
        | F::JsonContainsPath
        | F::JsonLength
        | F::JsonType
        | F::JsonValid
        | F::JsonKeys
        | F::JsonDepth
        | F::JsonSearch
        | F::JsonPretty
        | F::JsonMemberOf
        | F::JsonOverlaps
        | F::JsonStorageSize
        | F::JsonValue
        | F::JsonScalar => json::eval(call, ctx),
        F::JsonSet
        | F::JsonInsert
        | F::JsonReplace
        | F::JsonRemove
        | F::JsonMergePatch
        | F::JsonMergePreserve
        | F::JsonArrayAppend
        | F::JsonArrayInsert => json_modify::eval(call, ctx),
        F::Version
        | F::Database
        | F::User
        | F::CurrentUser
        | F::CurrentRole
        | F::ConnectionId
        | F::RowCount
        | F::FoundRows
        | F::TidbVersion
        | F::LastInsertId
        | F::Charset
        | F::Collation
        | F::Coercibility
        | F::Sleep
        | F::Benchmark
        | F::GetUserVar
        | F::SetUserVar => info::eval(call, ctx),
        F::Uuid
        | F::UuidShort
        | F::RandomBytes
        | F::UuidToBin
        | F::BinToUuid
        | F::IsUuid
        | F::InetAton
        | F::InetNtoa
        | F::Inet6Aton
        | F::Inet6Ntoa
        | F::IsIpv4
        | F::IsIpv6 => net::eval(call, ctx),
    }
}
