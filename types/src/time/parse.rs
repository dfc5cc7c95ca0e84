//! Dates and times from text and numbers, in all the forms MySQL accepts.

use super::{
    Duration, MICROS_PER_DAY, MICROS_PER_SECOND, Time, TimeKind, TimeParts, days_in_month,
};
use crate::error::{Result, TypeError};
use crate::field_type::FSP_MAX;

/// Which odd dates are accepted; derived from `sql_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DateMode {
    /// Refuse `0000-00-00` (NO_ZERO_DATE).
    pub no_zero_date: bool,
    /// Refuse zero month or day (NO_ZERO_IN_DATE).
    pub no_zero_in_date: bool,
    /// Accept any day from 1 to 31 (ALLOW_INVALID_DATES).
    pub allow_invalid_dates: bool,
}

impl DateMode {
    /// MySQL 8's default mode in strict sessions.
    pub const STRICT: DateMode =
        DateMode { no_zero_date: true, no_zero_in_date: true, allow_invalid_dates: false };

    /// Whether a date may be stored.
    pub fn accepts(self, time: Time) -> bool {
        if time.is_zero() {
            return !self.no_zero_date;
        }
        if time.has_zero_date() {
            return !self.no_zero_in_date && time.kind() != TimeKind::Timestamp;
        }
        self.allow_invalid_dates && time.kind() != TimeKind::Timestamp
            || time.day() <= days_in_month(time.year(), time.month())
    }
}

/// A parsed date or time with what was lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedTime {
    /// The value, rounded to the fractional digits asked for.
    pub time: Time,
    /// Whether something unreadable followed.
    pub truncated: bool,
    /// Offset from UTC in seconds, if the text named one (`+08:00`).
    pub offset_seconds: Option<i32>,
}

/// A parsed TIME with what was lost on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedDuration {
    /// The value, rounded and clamped.
    pub duration: Duration,
    /// Whether something unreadable followed, or the value was clamped.
    pub truncated: bool,
}

/// Longest text worth reading; MySQL's own buffers are shorter.
const TEXT_LEN_MAX: usize = 256;

/// Reads digits and separators.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn digits(&mut self, most: usize) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let len = rest.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
        self.at += len;
        &rest[..len]
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// `.` and digits as microseconds times ten (one digit more, for rounding).
    fn fraction(&mut self) -> Option<u32> {
        if !self.eat(b'.') {
            return None;
        }
        let digits = self.digits(TEXT_LEN_MAX);
        let mut value = 0;
        for i in 0..7 {
            value = value * 10 + digits.get(i).map_or(0, |b| u32::from(b - b'0'));
        }
        Some(value)
    }

    fn at_end(&self) -> bool {
        self.at >= self.text.len()
    }
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0u32, |n, b| n.saturating_mul(10).saturating_add(u32::from(b - b'0')))
}

/// Two-digit years: 70 to 99 mean 1970 to 1999, 00 to 69 mean 2000 to 2069.
pub(super) fn full_year(two_digits: u32) -> u32 {
    if two_digits < 70 { 2000 + two_digits } else { 1900 + two_digits }
}

impl Time {
    /// Reads a date or a date with time. The text may use any punctuation
    /// between its parts, none at all, two-digit years, and an offset from UTC.
    pub fn parse(text: &[u8], kind: TimeKind, fsp: u8, mode: DateMode) -> Result<ParsedTime> {
        let invalid = || TypeError::InvalidDateTime {
            type_name: kind.name(),
            value: String::from_utf8_lossy(text).into_owned(),
        };
        let text = &text[..text.len().min(TEXT_LEN_MAX)];
        let mut reader = Reader { text, at: 0 };
        reader.skip_spaces();
        let run = reader.text[reader.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let next = reader.text.get(reader.at + run).copied();
        let compact = run >= 5 && !next.is_some_and(|b| b == b'-' || b == b'/' || b == b':');
        let parts = if compact { read_compact(&mut reader) } else { read_separated(&mut reader) };
        let (parts, tenths) = parts.ok_or_else(invalid)?;
        let offset_seconds = read_offset(&mut reader);
        reader.skip_spaces();
        let truncated = !reader.at_end();
        let time = finish(parts, tenths, kind, fsp).ok_or_else(invalid)?;
        if !mode.accepts(time) {
            return Err(invalid());
        }
        Ok(ParsedTime { time, truncated, offset_seconds })
    }

    /// Reads a number such as `20240105` or `20240105102030`.
    pub fn from_number(number: i64, kind: TimeKind, fsp: u8, mode: DateMode) -> Result<Time> {
        let invalid =
            || TypeError::InvalidDateTime { type_name: kind.name(), value: number.to_string() };
        let value = u64::try_from(number).map_err(|_| invalid())?;
        // YYMMDD, YYYYMMDD, YYMMDDHHMMSS, YYYYMMDDHHMMSS, told by magnitude.
        let (date, clock) = match value {
            0..=99_999_999 => (value, 0),
            _ => (value / 1_000_000, value % 1_000_000),
        };
        let date = match date {
            0 => 0,
            1..=100 => return Err(invalid()),
            101..=691_231 => date + 20_000_000,
            691_232..=700_100 => return Err(invalid()),
            700_101..=991_231 => date + 19_000_000,
            991_232..=10_000_100 if date < 10_000_000 => return Err(invalid()),
            _ if date > 99_991_231 => return Err(invalid()),
            _ => date,
        };
        let parts = TimeParts {
            year: (date / 10_000) as u16,
            month: (date / 100 % 100) as u8,
            day: (date % 100) as u8,
            hour: (clock / 10_000) as u8,
            minute: (clock / 100 % 100) as u8,
            second: (clock % 100) as u8,
            microsecond: 0,
        };
        let time = finish(parts, 0, kind, fsp).ok_or_else(invalid)?;
        if mode.accepts(time) { Ok(time) } else { Err(invalid()) }
    }
}

/// `tenths`: tenths of microseconds of the fraction.
fn finish(parts: TimeParts, tenths: u32, kind: TimeKind, fsp: u8) -> Option<Time> {
    let wide = TimeKind::DateTime;
    let time = Time::from_parts(parts, wide, FSP_MAX).ok()?;
    let fsp = fsp.min(FSP_MAX);
    if kind == TimeKind::Date {
        return Some(time.date_part());
    }
    // Rounding happens once, from the digits read, not from cut microseconds.
    let unit = 10u32.pow(u32::from(FSP_MAX - fsp) + 1);
    let micros = (tenths + unit / 2) / unit * unit / 10;
    let time = if micros < 1_000_000 {
        Time::from_parts(TimeParts { microsecond: micros, ..parts }, wide, fsp).ok()?
    } else if time.has_zero_date() {
        time.with_fsp(fsp)
    } else {
        time.with_fsp(fsp).add_micros(MICROS_PER_SECOND).ok()?
    };
    Some(time.with_kind(kind))
}

/// `YYYYMMDD[HHMMSS[.f]]`, `YYMMDD[HHMMSS]` and their shorter cousins.
fn read_compact(reader: &mut Reader<'_>) -> Option<(TimeParts, u32)> {
    let digits = reader.digits(TEXT_LEN_MAX);
    let year_len = match digits.len() {
        8 | 14 => 4,
        5..=7 | 9..=13 => 2,
        // Longer runs are read as far as they make sense.
        _ => 4,
    };
    let (year, mut rest) = digits.split_at(year_len);
    let mut fields = [0u32; 5];
    for field in &mut fields {
        let (head, tail) = rest.split_at(rest.len().min(2));
        *field = number(head);
        rest = tail;
    }
    if !rest.is_empty() {
        reader.at -= rest.len();
    }
    let mut year = number(year);
    if year_len == 2 {
        year = full_year(year);
    }
    // `20240105T102030`, `20240105 10:20:30`: the time of day follows apart.
    let date_only = digits.len() <= 8;
    if date_only {
        fields[2..].fill(0);
        if digits.len() == 7 {
            fields[2] = number(&digits[6..]);
        }
    }
    let mut tenths = 0;
    let mut clock = [fields[2], fields[3], fields[4]];
    if date_only && matches!(reader.peek(), Some(b' ' | b'T')) {
        let start = reader.at;
        reader.at += 1;
        reader.skip_spaces();
        match read_clock(reader) {
            Some((read, fraction)) => (clock, tenths) = (read, fraction),
            None => reader.at = start,
        }
    } else if !date_only {
        tenths = reader.fraction().unwrap_or(0);
    }
    Some((assemble([year, fields[0], fields[1]], clock)?, tenths))
}

/// `Y-M-D[ H:M:S[.f]]` with any punctuation.
fn read_separated(reader: &mut Reader<'_>) -> Option<(TimeParts, u32)> {
    let mut date = [0u32; 3];
    let mut year_digits = 0;
    for (i, field) in date.iter_mut().enumerate() {
        let digits = reader.digits(if i == 0 { 4 } else { 2 });
        if digits.is_empty() {
            return None;
        }
        if i == 0 {
            year_digits = digits.len();
        }
        *field = number(digits);
        if i < 2 {
            let separator = reader.peek()?;
            if !separator.is_ascii_punctuation() {
                return None;
            }
            reader.at += 1;
        }
    }
    if year_digits <= 2 && date != [0, 0, 0] {
        date[0] = full_year(date[0]);
    }
    let start = reader.at;
    let mut clock = [0; 3];
    let mut tenths = 0;
    if reader.peek().is_some_and(|b| b == b'T' || b == b't' || b.is_ascii_whitespace() || b == b'^')
    {
        reader.at += 1;
        reader.skip_spaces();
        match read_clock(reader) {
            Some((read, fraction)) => (clock, tenths) = (read, fraction),
            None => reader.at = start,
        }
    } else if reader.peek().is_some_and(|b| b.is_ascii_punctuation() && b != b'.') {
        // MySQL even takes `2024-01-05-10-20-30`.
        reader.at += 1;
        match read_clock(reader) {
            Some((read, fraction)) => (clock, tenths) = (read, fraction),
            None => reader.at = start,
        }
    }
    Some((assemble(date, clock)?, tenths))
}

/// `H[:M[:S[.f]]]` with any punctuation, or `HHMMSS`.
fn read_clock(reader: &mut Reader<'_>) -> Option<([u32; 3], u32)> {
    let run = reader.text[reader.at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut clock = [0; 3];
    if run > 2 {
        for field in &mut clock {
            *field = number(reader.digits(2));
        }
        return Some((clock, reader.fraction().unwrap_or(0)));
    }
    for (i, field) in clock.iter_mut().enumerate() {
        let digits = reader.digits(2);
        if digits.is_empty() {
            if i == 0 {
                return None;
            }
            reader.at -= 1;
            break;
        }
        *field = number(digits);
        let separator = reader.peek().is_some_and(|b| {
            b.is_ascii_punctuation() && !matches!(b, b'+' | b'-' if i > 0) && b != b'.'
        });
        if i == 2 || !separator {
            break;
        }
        reader.at += 1;
    }
    Some((clock, reader.fraction().unwrap_or(0)))
}

fn assemble(date: [u32; 3], clock: [u32; 3]) -> Option<TimeParts> {
    let byte = |value: u32| u8::try_from(value).ok();
    Some(TimeParts {
        year: u16::try_from(date[0]).ok()?,
        month: byte(date[1])?,
        day: byte(date[2])?,
        hour: byte(clock[0])?,
        minute: byte(clock[1])?,
        second: byte(clock[2])?,
        microsecond: 0,
    })
}

/// `+HH:MM`, `-HH:MM` or `Z` at the end.
fn read_offset(reader: &mut Reader<'_>) -> Option<i32> {
    let start = reader.at;
    if reader.eat(b'Z') {
        return Some(0);
    }
    let negative = match reader.peek() {
        Some(b'+') => false,
        Some(b'-') => true,
        _ => return None,
    };
    reader.at += 1;
    let hours = reader.digits(2);
    let colon = reader.eat(b':');
    let minutes = reader.digits(2);
    let (h, m) = (number(hours), number(minutes));
    let valid = hours.len() == 2 && minutes.len() == 2 && colon && h * 60 + m <= 14 * 60 && m < 60;
    if !valid {
        reader.at = start;
        return None;
    }
    let seconds = (h * 3600 + m * 60) as i32;
    Some(if negative { -seconds } else { seconds })
}

impl Duration {
    /// Reads a TIME: `[D ]HH:MM:SS[.f]`, `HH:MM`, `HHMMSS`, `SS`, or a date with
    /// time, of which the time of day is taken. Values out of range are clamped
    /// and reported as truncated.
    pub fn parse(text: &[u8], fsp: u8) -> Result<ParsedDuration> {
        let invalid = || TypeError::InvalidDateTime {
            type_name: "time",
            value: String::from_utf8_lossy(text).into_owned(),
        };
        let text = &text[..text.len().min(TEXT_LEN_MAX)];
        if let Some(parsed) = parse_as_datetime(text, fsp) {
            return Ok(parsed);
        }
        let mut reader = Reader { text, at: 0 };
        reader.skip_spaces();
        let negative = reader.eat(b'-');
        let first = reader.digits(TEXT_LEN_MAX);
        if first.is_empty() && reader.peek() != Some(b'.') {
            return Err(invalid());
        }
        let (days, fields) = read_span(&mut reader, first).ok_or_else(invalid)?;
        let tenths = reader.fraction().unwrap_or(0);
        reader.skip_spaces();
        let trailing = !reader.at_end();
        let [hours, minutes, seconds] = fields;
        if minutes > 59 || seconds > 59 {
            return Err(invalid());
        }
        let unit = 10u32.pow(u32::from(FSP_MAX - fsp.min(FSP_MAX)) + 1);
        let micros = i64::from((tenths + unit / 2) / unit * unit / 10);
        let whole = (days * 24 + hours) * 3600 + minutes * 60 + seconds;
        let total = whole.saturating_mul(MICROS_PER_SECOND).saturating_add(micros);
        let total = if negative { -total } else { total };
        let clamped = total.abs() > Duration::MAX_MICROS;
        let duration = Duration::from_micros_clamped(total, fsp);
        Ok(ParsedDuration { duration, truncated: trailing || clamped })
    }

    /// Reads a number `HHMMSS` or `YYYYMMDDHHMMSS`. `None` if its minutes or
    /// seconds are out of range; values too large are clamped (and told so).
    pub fn from_number(number: i64, fsp: u8) -> Option<ParsedDuration> {
        let magnitude = number.unsigned_abs();
        if magnitude > 8_385_959 {
            if magnitude >= 10_000_000_000 {
                let mode = DateMode::default();
                let time = Time::from_number(number, TimeKind::DateTime, fsp, mode).ok()?;
                return Some(ParsedDuration { duration: time.time_part(), truncated: false });
            }
            let most = if number < 0 { -Duration::MAX_MICROS } else { Duration::MAX_MICROS };
            let duration = Duration::from_micros_clamped(most, fsp);
            return Some(ParsedDuration { duration, truncated: true });
        }
        let hms =
            ((magnitude / 10_000) as u32, (magnitude / 100 % 100) as u8, (magnitude % 100) as u8);
        if hms.1 > 59 || hms.2 > 59 {
            return None;
        }
        let duration = Duration::from_hms(number < 0, hms, 0, fsp).ok()?;
        Some(ParsedDuration { duration, truncated: false })
    }
}

/// A text that is plainly a date with time gives its time of day.
fn parse_as_datetime(text: &[u8], fsp: u8) -> Option<ParsedDuration> {
    let trimmed = text.trim_ascii();
    let digits = trimmed.iter().take_while(|b| b.is_ascii_digit()).count();
    let dashed = digits >= 1 && trimmed.get(digits) == Some(&b'-');
    if !(dashed || digits >= 12) {
        return None;
    }
    let parsed = Time::parse(trimmed, TimeKind::DateTime, fsp, DateMode::default()).ok()?;
    Some(ParsedDuration { duration: parsed.time.time_part(), truncated: parsed.truncated })
}

/// Days and `[hours, minutes, seconds]`, the first digits being read already.
fn read_span(reader: &mut Reader<'_>, first: &[u8]) -> Option<(i64, [i64; 3])> {
    let bound = |digits: &[u8]| i64::from(number(digits)).min(MICROS_PER_DAY / 1000);
    let mut days = 0;
    let mut hours = bound(first);
    let after = reader.at;
    reader.skip_spaces();
    let day_form = reader.at > after && reader.peek().is_some_and(|b| b.is_ascii_digit());
    if day_form {
        days = hours;
        hours = bound(reader.digits(9));
    } else {
        reader.at = after;
    }
    if !reader.eat(b':') {
        if day_form {
            return Some((days, [hours, 0, 0]));
        }
        // HHMMSS, MMSS or SS.
        return Some((0, [hours / 10_000, hours / 100 % 100, hours % 100]));
    }
    let minutes = bound(reader.digits(9));
    let seconds = if reader.eat(b':') { bound(reader.digits(9)) } else { 0 };
    Some((days, [hours, minutes, seconds]))
}
