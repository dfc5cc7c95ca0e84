//! Settings of scheduling: each with a name, a default and bounds.
//!
//! They live in PD's configuration entries under [`PREFIX`] and may be changed at
//! any time (`ctl config set`). An unknown name or a bad value is refused with its
//! name; a stored value this version cannot read counts as absent.

use std::time::Duration;

/// Where the entries lie among PD's configuration.
pub const PREFIX: &str = "schedule/";

/// A kind of value: how it is read and shown.
trait Value: Sized {
    /// What is expected, for the error.
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
    fn show(&self) -> String;
    /// What the bounds are about.
    fn measure(&self) -> f64;
}

impl Value for usize {
    const EXPECTED: &'static str = "a whole number";
    fn parse(text: &str) -> Option<usize> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn measure(&self) -> f64 {
        *self as f64
    }
}

impl Value for f64 {
    const EXPECTED: &'static str = "a number";
    fn parse(text: &str) -> Option<f64> {
        text.parse().ok().filter(|number: &f64| number.is_finite())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn measure(&self) -> f64 {
        *self
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn measure(&self) -> f64 {
        0.0
    }
}

/// A number of bytes, written as `54MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size such as 54MiB";
    fn parse(text: &str) -> Option<ByteSize> {
        let (number, unit) = SIZE_UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .unwrap_or((text, 1));
        number.trim().parse::<u64>().ok()?.checked_mul(unit).map(ByteSize)
    }
    fn show(&self) -> String {
        let (name, unit) = SIZE_UNITS
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
            .unwrap_or(("B", 1));
        format!("{}{name}", self.0 / unit)
    }
    fn measure(&self) -> f64 {
        self.0 as f64
    }
}

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

impl Value for Duration {
    const EXPECTED: &'static str = "a time such as 500ms, 30s, 10m or 1h";
    fn parse(text: &str) -> Option<Duration> {
        let (number, unit) =
            TIME_UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
        number.trim().parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
    }
    fn show(&self) -> String {
        let ms = self.as_millis() as u64;
        let fits = |unit: u64| ms >= unit && ms.is_multiple_of(unit);
        match ms {
            ms if fits(3_600_000) => format!("{}h", ms / 3_600_000),
            ms if fits(60_000) => format!("{}m", ms / 60_000),
            ms if fits(1_000) || ms == 0 => format!("{}s", ms / 1_000),
            ms => format!("{ms}ms"),
        }
    }
    fn measure(&self) -> f64 {
        self.as_millis() as f64
    }
}

/// Names of labels, from the widest place to the narrowest.
impl Value for Vec<String> {
    const EXPECTED: &'static str = "label names separated by commas";
    fn parse(text: &str) -> Option<Vec<String>> {
        let names: Vec<String> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let plain = |name: &String| {
            name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        };
        names.iter().all(plain).then_some(names)
    }
    fn show(&self) -> String {
        self.join(",")
    }
    fn measure(&self) -> f64 {
        self.len() as f64
    }
}

/// Any text, for names that may be absent.
impl Value for String {
    const EXPECTED: &'static str = "a name";
    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
    fn measure(&self) -> f64 {
        self.len() as f64
    }
}

fn read<T: Value>(name: &str, text: &str, low: f64, high: f64) -> Result<T, String> {
    let value = T::parse(text).ok_or_else(|| format!("{name}: '{text}' is not {}", T::EXPECTED))?;
    if !(low..=high).contains(&value.measure()) {
        return Err(format!("{name}: {text} is out of its bounds"));
    }
    Ok(value)
}

/// One setting as tools show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: &'static str,
    /// Its value now.
    pub value: String,
    /// Its value when nothing is set.
    pub default: String,
    /// What it does.
    pub meaning: &'static str,
}

macro_rules! settings {
    ($($field:ident: $ty:ty = $default:expr, $name:literal, $low:literal ..= $high:expr, $meaning:literal;)*) => {
        /// The settings in force.
        #[derive(Clone, Debug, PartialEq)]
        pub struct ScheduleConfig {
            $(
                #[doc = $meaning]
                pub $field: $ty,
            )*
        }

        impl Default for ScheduleConfig {
            fn default() -> ScheduleConfig {
                ScheduleConfig { $($field: $default,)* }
            }
        }

        impl ScheduleConfig {
            /// Changes one; refuses unknown names and bad values.
            pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
                match name {
                    $($name => self.$field = read(name, text, f64::from($low), $high as f64)?,)*
                    _ => return Err(format!("unknown setting '{name}'")),
                }
                Ok(())
            }

            /// Every setting with its value, in the order of this file.
            pub fn shown(&self) -> Vec<Shown> {
                let default = ScheduleConfig::default();
                vec![$(Shown {
                    name: $name,
                    value: self.$field.show(),
                    default: default.$field.show(),
                    meaning: $meaning,
                },)*]
            }
        }
    };
}

const DAY_MS: u64 = 86_400_000;
const GIB_64: u64 = 64 << 30;

settings! {
    max_replicas: usize = 3, "max-replicas", 1 ..= 9, "Voters of every region, where no rule says otherwise.";
    location_labels: Vec<String> = vec!["zone".into(), "rack".into(), "host".into()], "location-labels", 0 ..= 8, "Labels that tell places apart, widest first.";
    isolation_level: String = String::new(), "isolation-level", 0 ..= 64, "Label whose values must differ between replicas; empty: as good as it gets.";
    store_disconnected_after: Duration = Duration::from_secs(20), "store-disconnected-after", 1_000 ..= DAY_MS, "Silence after which a store gets no new replicas or leaders.";
    max_store_down_time: Duration = Duration::from_secs(30 * 60), "max-store-down-time", 1_000 ..= DAY_MS, "Silence after which the replicas of a store are replaced.";
    leader_schedule_limit: usize = 16, "leader-schedule-limit", 0 ..= 1_024, "Transfers of leaders for balance at once; 0: none.";
    region_schedule_limit: usize = 64, "region-schedule-limit", 0 ..= 4_096, "Moves of replicas for balance at once; 0: none.";
    replica_schedule_limit: usize = 128, "replica-schedule-limit", 0 ..= 4_096, "Repairs at once; regions without a spare replica do not count. 0: none.";
    merge_schedule_limit: usize = 8, "merge-schedule-limit", 0 ..= 256, "Merges at once; 0: none.";
    hot_region_schedule_limit: usize = 4, "hot-region-schedule-limit", 0 ..= 64, "Moves of hot regions at once; 0: none.";
    store_limit_add: f64 = 60.0, "store-limit-add", 0.0 ..= 100_000.0, "Large regions that may come to one store per minute; small ones count less. 0: no limit.";
    store_limit_remove: f64 = 60.0, "store-limit-remove", 0.0 ..= 100_000.0, "Large regions that may leave one store per minute; small ones count less. 0: no limit.";
    max_snapshot_count: usize = 8, "max-snapshot-count", 1 ..= 256, "Raft snapshots on their way to one store at once.";
    low_space_ratio: f64 = 0.8, "low-space-ratio", 0.1 ..= 1.0, "Used part of a disk above which a store gets no new replicas.";
    balance_tolerance: f64 = 0.02, "balance-tolerance", 0.0 ..= 0.5, "Part of the average by which stores may differ.";
    max_merge_region_size: ByteSize = ByteSize(54 << 20), "max-merge-region-size", 0 ..= GIB_64, "Regions larger than this are not merged; 0: none is.";
    max_merge_region_keys: usize = 540_000, "max-merge-region-keys", 0 ..= 1_000_000_000, "Regions with more keys than this are not merged.";
    split_merge_interval: Duration = Duration::from_secs(3_600), "split-merge-interval", 0 ..= DAY_MS, "After a split its parts are not merged for so long.";
    enable_cross_table_merge: bool = false, "enable-cross-table-merge", 0 ..= 0, "Whether regions of different tables may become one.";
    enable_joint_consensus: bool = true, "enable-joint-consensus", 0 ..= 0, "Whether a replica is exchanged in one membership change instead of two.";
    hot_region_bytes: ByteSize = ByteSize(512 << 10), "hot-region-bytes", 1 ..= GIB_64, "Bytes per second below which no region is hot.";
    hot_region_keys: usize = 2_048, "hot-region-keys", 1 ..= 1_000_000_000, "Keys per second below which no region is hot.";
    hot_region_queries: usize = 512, "hot-region-queries", 1 ..= 1_000_000_000, "Reads per second below which no region is hot.";
    hot_balance_tolerance: f64 = 0.1, "hot-balance-tolerance", 0.0 ..= 1.0, "Part of the average load by which stores may differ.";
    slow_store_score: usize = 80, "slow-store-score", 2 ..= 100, "Slowness from which a store loses its leaders.";
    slow_store_recovery: Duration = Duration::from_secs(30), "slow-store-recovery", 0 ..= DAY_MS, "A store that was slow leads again after being quick for so long.";
}

impl ScheduleConfig {
    /// The defaults with what is stored; unreadable entries count as absent.
    pub fn from_entries<'a>(
        max_replicas: usize,
        entries: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> ScheduleConfig {
        let mut config = ScheduleConfig { max_replicas, ..ScheduleConfig::default() };
        for (key, value) in entries {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let text = std::str::from_utf8(value).unwrap_or_default();
            if let Err(reason) = config.set(name, text) {
                tracing::warn!(reason, "a stored setting of scheduling is ignored");
            }
        }
        config
    }

    /// The disconnect bound in the clock's unit; never above the down bound.
    pub fn disconnected_ms(&self) -> u64 {
        self.store_disconnected_after.min(self.max_store_down_time).as_millis() as u64
    }

    /// The down bound in the clock's unit.
    pub fn down_ms(&self) -> u64 {
        self.max_store_down_time.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_value_can_be_set() {
        let defaults = ScheduleConfig::default();
        let mut config = ScheduleConfig::default();
        for shown in defaults.shown() {
            config.set(shown.name, &shown.value).expect("its own form");
            assert_eq!(shown.value, shown.default);
        }
        assert_eq!(config, defaults);
    }

    #[test]
    fn bad_settings_are_named() {
        let mut config = ScheduleConfig::default();
        let refused = [
            ("max-replica", "3", "unknown setting 'max-replica'"),
            ("max-replicas", "0", "max-replicas: 0 is out of its bounds"),
            ("max-replicas", "three", "max-replicas: 'three' is not a whole number"),
            (
                "max-store-down-time",
                "30",
                "max-store-down-time: '30' is not a time such as 500ms, 30s, 10m or 1h",
            ),
            (
                "max-merge-region-size",
                "18446744073709551615GiB",
                "max-merge-region-size: '18446744073709551615GiB' is not a size such as 54MiB",
            ),
            ("low-space-ratio", "NaN", "low-space-ratio: 'NaN' is not a number"),
        ];
        for (name, value, reason) in refused {
            assert_eq!(config.set(name, value), Err(reason.to_owned()));
        }
        assert_eq!(config, ScheduleConfig::default());
        config.set("max-store-down-time", "90s").expect("a time");
        config.set("location-labels", "zone, host").expect("labels");
        assert_eq!(config.down_ms(), 90_000);
        assert_eq!(config.location_labels, ["zone", "host"]);
    }

    #[test]
    fn unreadable_entries_are_skipped() {
        let entries: [(&str, &[u8]); 3] = [
            ("schedule/max-replicas", b"5"),
            ("schedule/gone-setting", b"x"),
            ("schedule/low-space-ratio", b"\xff"),
        ];
        let config = ScheduleConfig::from_entries(1, entries.into_iter());
        assert_eq!(config, ScheduleConfig { max_replicas: 5, ..ScheduleConfig::default() });
    }
}
