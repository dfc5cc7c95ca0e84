//! Durations as TiDB's variables write them: Go's `10m0s`.
//!
//! Source: Go's `time.ParseDuration` and `Duration.String`, down to milliseconds.

use std::time::Duration;

/// Units, the longer names of those with the same beginning first.
const UNITS_NS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3_600e9),
];
/// Longest duration that is read: 290 years, as Go has it.
const NANOS_MAX: f64 = i64::MAX as f64;

/// Reads `1h30m`, `10m`, `1.5s`; a number needs a unit.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS_NS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        nanos += number * factor;
        rest = &rest[unit.len()..];
    }
    (nanos <= NANOS_MAX).then(|| Duration::from_nanos(nanos as u64))
}

/// Writes `10m0s`, `24h0m0s`, `1.5s`, `20ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms > 0 && ms < 1_000 {
        return format!("{ms}ms");
    }
    let (minutes, rest_ms) = (ms / 60_000, ms % 60_000);
    let mut seconds = (rest_ms / 1_000).to_string();
    if rest_ms % 1_000 > 0 {
        let fraction = format!("{:03}", rest_ms % 1_000);
        seconds = format!("{seconds}.{}", fraction.trim_end_matches('0'));
    }
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_reads_and_writes_them_so() {
        for (text, written) in [
            ("10m", "10m0s"),
            ("10m0s", "10m0s"),
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("24h", "24h0m0s"),
            ("1.5s", "1.5s"),
            ("20ms", "20ms"),
            ("0", "0s"),
        ] {
            assert_eq!(parse(text).map(format).as_deref(), Some(written), "{text}");
        }
        for bad in ["", "10", "m", "ten minutes", "-1h", "1..5s", "99999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
