//! Sizes as TiDB's variables write them: `512MB`, `80%`, `1073741824`.

/// Units.
const UNITS: [(&str, u32); 4] = [("KB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];

/// A size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the memory there is.
    Percent(u64),
}

impl Size {
    /// Bytes, where there are `whole_bytes`.
    pub fn of(self, whole_bytes: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            Size::Percent(percent) => whole_bytes / 100 * percent,
        }
    }
}

/// Reads a size; a number without a unit is bytes, percents lie between 1 and 99.
pub fn parse(text: &str) -> Option<Size> {
    let text = text.trim().to_ascii_uppercase();
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.trim().parse().ok()?;
        return (1..100).contains(&percent).then_some(Size::Percent(percent));
    }
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((&text, 0));
    let number: u64 = number.trim().parse().ok()?;
    number.checked_mul(1 << shift).map(Size::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_tidb_writes_them() {
        assert_eq!(parse("0"), Some(Size::Bytes(0)));
        assert_eq!(parse(" 134217728 "), Some(Size::Bytes(134_217_728)));
        assert_eq!(parse("512MB"), Some(Size::Bytes(512 << 20)));
        assert_eq!(parse("2gb"), Some(Size::Bytes(2 << 30)));
        assert_eq!(parse("80%"), Some(Size::Percent(80)));
        for wrong in ["", "0%", "100%", "-1", "1.5GB", "99999999999TB", "GB", "x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(Size::Percent(80).of(1_000), 800);
    }
}
