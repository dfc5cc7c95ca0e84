//! DATE_FORMAT, TIME_FORMAT and STR_TO_DATE (English names).

use super::parse::full_year;
use super::{Duration, Time, TimeKind, TimeParts, WeekMode, push_digits};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Letters of an abbreviated name.
const SHORT_NAME: usize = 3;

impl Time {
    /// MONTHNAME; `None` for month 0.
    pub fn month_name(self) -> Option<&'static str> {
        MONTHS.get(usize::from(self.month()).checked_sub(1)?).copied()
    }

    /// DAYNAME; `None` for dates with zero parts.
    pub fn day_name(self) -> Option<&'static str> {
        DAYS.get(usize::from(self.weekday()?)).copied()
    }

    /// DATE_FORMAT. `None` if the format asks for a name or week that a date with
    /// zero parts does not have.
    pub fn format(self, format: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(format.len() * 2);
        let mut bytes = format.iter().copied();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                out.push(byte);
                continue;
            }
            match bytes.next() {
                Some(specifier) => self.format_one(specifier, &mut out)?,
                None => out.push(b'%'),
            }
        }
        Some(out)
    }

    fn format_one(self, specifier: u8, out: &mut Vec<u8>) -> Option<()> {
        let p = self.parts();
        let week = |mode: u8| self.week(WeekMode::from_number(mode));
        match specifier {
            b'a' => out.extend_from_slice(&self.day_name()?.as_bytes()[..SHORT_NAME]),
            b'b' => out.extend_from_slice(&self.month_name()?.as_bytes()[..SHORT_NAME]),
            b'c' => push_digits(out, p.month.into(), 1),
            b'D' => {
                push_digits(out, p.day.into(), 1);
                out.extend_from_slice(ordinal(p.day));
            }
            b'd' => push_digits(out, p.day.into(), 2),
            b'e' => push_digits(out, p.day.into(), 1),
            b'j' => push_digits(out, self.day_of_year()?.into(), 3),
            b'M' => out.extend_from_slice(self.month_name()?.as_bytes()),
            b'm' => push_digits(out, p.month.into(), 2),
            b'U' => push_digits(out, week(0)?.1.into(), 2),
            b'u' => push_digits(out, week(1)?.1.into(), 2),
            b'V' => push_digits(out, week(2)?.1.into(), 2),
            b'v' => push_digits(out, week(3)?.1.into(), 2),
            b'W' => out.extend_from_slice(self.day_name()?.as_bytes()),
            b'w' => push_digits(out, ((self.weekday()? + 1) % 7).into(), 1),
            b'X' => push_digits(out, week(2)?.0.into(), 4),
            b'x' => push_digits(out, week(3)?.0.into(), 4),
            b'Y' => push_digits(out, p.year.into(), 4),
            b'y' => push_digits(out, (p.year % 100).into(), 2),
            _ => {
                let hms = (u32::from(p.hour), p.minute, p.second);
                format_clock(specifier, hms, p.microsecond, out);
            }
        }
        Some(())
    }
}

/// English suffix of a day number.
fn ordinal(day: u8) -> &'static [u8] {
    match day {
        11..=13 => b"th",
        _ => match day % 10 {
            1 => b"st",
            2 => b"nd",
            3 => b"rd",
            _ => b"th",
        },
    }
}

/// Specifiers of the clock; any other character stands for itself.
fn format_clock(specifier: u8, hms: (u32, u8, u8), micros: u32, out: &mut Vec<u8>) {
    let (hour, minute, second) = (hms.0, u32::from(hms.1), u32::from(hms.2));
    let hour12 = (hour + 11) % 12 + 1;
    let half: &[u8] = if hour % 24 < 12 { b"AM" } else { b"PM" };
    let clock = |hour: u32, out: &mut Vec<u8>| {
        push_digits(out, hour, 2);
        out.push(b':');
        push_digits(out, minute, 2);
        out.push(b':');
        push_digits(out, second, 2);
    };
    match specifier {
        b'f' => push_digits(out, micros, 6),
        b'H' => push_digits(out, hour, 2),
        b'h' | b'I' => push_digits(out, hour12, 2),
        b'i' => push_digits(out, minute, 2),
        b'k' => push_digits(out, hour, 1),
        b'l' => push_digits(out, hour12, 1),
        b'p' => out.extend_from_slice(half),
        b'r' => {
            clock(hour12, out);
            out.push(b' ');
            out.extend_from_slice(half);
        }
        b'S' | b's' => push_digits(out, second, 2),
        b'T' => clock(hour, out),
        other => out.push(other),
    }
}

/// TIME_FORMAT. `None` if the format asks for a part of the date that is not a
/// number; numeric parts are zero.
pub fn format_duration(duration: Duration, format: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(format.len() * 2);
    if duration.is_negative() {
        out.push(b'-');
    }
    let mut bytes = format.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(
                b'a' | b'b' | b'D' | b'j' | b'M' | b'U' | b'u' | b'V' | b'v' | b'W' | b'w' | b'X'
                | b'x',
            ) => return None,
            Some(b'Y') => push_digits(&mut out, 0, 4),
            Some(b'y' | b'm' | b'd') => push_digits(&mut out, 0, 2),
            Some(b'c' | b'e') => push_digits(&mut out, 0, 1),
            Some(specifier) => {
                let hms = (duration.hours(), duration.minutes(), duration.seconds());
                format_clock(specifier, hms, duration.microseconds(), &mut out);
            }
            None => out.push(b'%'),
        }
    }
    Some(out)
}

/// Result of STR_TO_DATE, whose type follows from the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrToDate {
    /// The format has parts of the date only, or of both.
    Time(Time),
    /// The format has parts of the clock only.
    Duration(Duration),
}

/// Type STR_TO_DATE gives for a format: DATE, DATETIME or (`None`) TIME, and
/// whether it has microseconds.
pub fn str_to_date_kind(format: &[u8]) -> (Option<TimeKind>, bool) {
    let mut has = (false, false, false);
    let mut bytes = format.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            continue;
        }
        match bytes.next() {
            Some(b'f') => (has.1, has.2) = (true, true),
            Some(b'H' | b'h' | b'I' | b'i' | b'k' | b'l' | b'p' | b'r' | b'S' | b's' | b'T') => {
                has.1 = true;
            }
            Some(b'%') | None => {}
            Some(_) => has.0 = true,
        }
    }
    let kind = match has {
        (true, true, _) | (false, false, _) => Some(TimeKind::DateTime),
        (true, false, _) => Some(TimeKind::Date),
        (false, true, _) => None,
    };
    (kind, has.2)
}

#[derive(Default)]
struct Fields {
    parts: TimeParts,
    day_of_year: Option<u32>,
    afternoon: Option<bool>,
    twelve_hours: bool,
}

/// STR_TO_DATE: reads `text` by `format`; `None` if it does not match. Text
/// beyond the format is ignored, as in MySQL.
pub fn str_to_date(text: &[u8], format: &[u8]) -> Option<StrToDate> {
    let mut input = text;
    let mut fields = Fields::default();
    let mut bytes = format.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            read_field(bytes.next()?, &mut input, &mut fields)?;
        } else if byte.is_ascii_whitespace() {
            input = input.trim_ascii_start();
        } else {
            input = input.strip_prefix(&[byte])?;
        }
    }
    let (kind, micros) = str_to_date_kind(format);
    let fsp = if micros { 6 } else { 0 };
    let mut p = fields.parts;
    if fields.twelve_hours || fields.afternoon.is_some() {
        if p.hour > 12 || p.hour == 0 {
            return None;
        }
        p.hour = p.hour % 12 + if fields.afternoon == Some(true) { 12 } else { 0 };
    }
    if let Some(day) = fields.day_of_year {
        let first = Time::date(p.year, 1, 1).ok()?.to_days()?;
        let date = Time::from_days(first + day.checked_sub(1)?)?;
        (p.month, p.day) = (date.month(), date.day());
    }
    match kind {
        Some(kind) => {
            let time = Time::from_parts(p, TimeKind::DateTime, fsp).ok()?;
            let mode = super::DateMode::default();
            mode.accepts(time).then(|| StrToDate::Time(time.with_kind(kind)))
        }
        None => {
            let hms = (u32::from(p.hour), p.minute, p.second);
            Duration::from_hms(false, hms, p.microsecond, fsp).ok().map(StrToDate::Duration)
        }
    }
}

/// Reads digits, at most `most`, at least one.
fn digits(input: &mut &[u8], most: usize) -> Option<u32> {
    let len = input.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = input.split_at(len);
    *input = rest;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Reads one of some names, in full or abbreviated; gives its index.
fn name(input: &mut &[u8], names: &[&str], short: bool) -> Option<usize> {
    for (i, name) in names.iter().enumerate() {
        let name = if short { &name[..SHORT_NAME] } else { name };
        if let Some(head) = input.get(..name.len())
            && head.eq_ignore_ascii_case(name.as_bytes())
        {
            *input = &input[name.len()..];
            return Some(i);
        }
    }
    None
}

fn byte_field(input: &mut &[u8], most: u32) -> Option<u8> {
    digits(input, 2).filter(|value| *value <= most).map(|value| value as u8)
}

fn read_field(specifier: u8, input: &mut &[u8], fields: &mut Fields) -> Option<()> {
    if specifier != b'%' {
        *input = input.trim_ascii_start();
    }
    let p = &mut fields.parts;
    match specifier {
        b'Y' => p.year = digits(input, 4)? as u16,
        b'y' => p.year = full_year(digits(input, 2)?) as u16,
        b'm' | b'c' => p.month = byte_field(input, 12)?,
        b'M' => p.month = name(input, &MONTHS, false)? as u8 + 1,
        b'b' => p.month = name(input, &MONTHS, true)? as u8 + 1,
        b'd' | b'e' => p.day = byte_field(input, 31)?,
        b'D' => {
            p.day = byte_field(input, 31)?;
            *input = input.get(2..)?;
        }
        b'H' | b'k' => p.hour = byte_field(input, 23)?,
        b'h' | b'I' | b'l' => {
            p.hour = byte_field(input, 12)?;
            fields.twelve_hours = true;
        }
        b'i' => p.minute = byte_field(input, 59)?,
        b'S' | b's' => p.second = byte_field(input, 59)?,
        b'f' => {
            let before = input.len();
            let value = digits(input, 6)?;
            p.microsecond = value * 10u32.pow(6 - (before - input.len()) as u32);
        }
        b'p' => fields.afternoon = Some(half(input)? == 1),
        b'T' | b'r' => {
            p.hour = byte_field(input, if specifier == b'T' { 23 } else { 12 })?;
            *input = input.strip_prefix(b":")?;
            p.minute = byte_field(input, 59)?;
            *input = input.strip_prefix(b":")?;
            p.second = byte_field(input, 59)?;
            if specifier == b'r' {
                *input = input.trim_ascii_start();
                fields.afternoon = Some(half(input)? == 1);
            }
        }
        b'j' => fields.day_of_year = Some(digits(input, 3)?),
        b'W' => {
            name(input, &DAYS, false)?;
        }
        b'a' => {
            name(input, &DAYS, true)?;
        }
        b'%' => *input = input.strip_prefix(b"%")?,
        _ => return None,
    }
    Some(())
}

/// `AM` (0) or `PM` (1).
fn half(input: &mut &[u8]) -> Option<usize> {
    let head = input.get(..2)?;
    let found = [&b"AM"[..], b"PM"].iter().position(|name| head.eq_ignore_ascii_case(name))?;
    *input = &input[2..];
    Some(found)
}
