//! Which schedulers run, with what arguments, and what they last made of the cluster.
//!
//! **Data.** What differs from the defaults lies in PD's configuration under
//! [`PREFIX`], one entry of JSON per scheduler, so that it outlives PD's leader.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Where the entries lie among PD's configuration.
pub const PREFIX: &str = "scheduler/";
/// Names may end so, as PD's do.
const SUFFIX: &str = "-scheduler";
/// Stores or labels of one scheduler.
const ARGUMENTS_MAX: usize = 256;

/// A scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchedulerKind {
    /// Evens out leaders.
    BalanceLeader,
    /// Evens out replicas.
    BalanceRegion,
    /// Evens out load.
    HotRegion,
    /// Takes the leaders off given stores.
    EvictLeader,
    /// Takes the leaders off the one slow store.
    EvictSlowStore,
    /// Takes the leaders off stores that are about to stop.
    EvictStoppingStore,
    /// Moves leaders onto given stores.
    GrantLeader,
    /// Takes the leaders off stores with given labels.
    LabelRejectLeader,
}

impl SchedulerKind {
    /// Every one.
    pub const ALL: [SchedulerKind; 8] = [
        SchedulerKind::BalanceLeader,
        SchedulerKind::BalanceRegion,
        SchedulerKind::HotRegion,
        SchedulerKind::EvictLeader,
        SchedulerKind::EvictSlowStore,
        SchedulerKind::EvictStoppingStore,
        SchedulerKind::GrantLeader,
        SchedulerKind::LabelRejectLeader,
    ];

    /// Name in tools and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            SchedulerKind::BalanceLeader => "balance-leader",
            SchedulerKind::BalanceRegion => "balance-region",
            SchedulerKind::HotRegion => "hot-region",
            SchedulerKind::EvictLeader => "evict-leader",
            SchedulerKind::EvictSlowStore => "evict-slow-store",
            SchedulerKind::EvictStoppingStore => "evict-stopping-store",
            SchedulerKind::GrantLeader => "grant-leader",
            SchedulerKind::LabelRejectLeader => "label-reject-leader",
        }
    }

    /// The scheduler of a name.
    pub fn named(name: &str) -> Result<SchedulerKind, String> {
        let plain = name.strip_suffix(SUFFIX).unwrap_or(name);
        let known = SchedulerKind::ALL.into_iter().find(|kind| kind.name() == plain);
        known.ok_or_else(|| {
            let names: Vec<&str> = SchedulerKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown scheduler '{name}'; there are {}", names.join(", "))
        })
    }

    /// Whether it makes sense for some stores only.
    pub fn wants_stores(self) -> bool {
        matches!(self, SchedulerKind::EvictLeader | SchedulerKind::GrantLeader)
    }

    /// Whether it makes sense for some labels only.
    pub fn wants_labels(self) -> bool {
        self == SchedulerKind::LabelRejectLeader
    }

    fn runs_by_default(self) -> bool {
        !self.wants_stores() && !self.wants_labels()
    }
}

/// What is set of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerSettings {
    /// Whether it exists.
    pub enabled: bool,
    /// Until when it rests, by the wall clock.
    #[serde(default)]
    pub paused_until_unix_ms: u64,
    /// Which stores it is about.
    #[serde(default)]
    pub stores: BTreeSet<u64>,
    /// Which labels it is about, as `key=value`.
    #[serde(default)]
    pub labels: BTreeSet<String>,
}

impl SchedulerSettings {
    fn default_of(kind: SchedulerKind) -> SchedulerSettings {
        SchedulerSettings {
            enabled: kind.runs_by_default(),
            paused_until_unix_ms: 0,
            stores: BTreeSet::new(),
            labels: BTreeSet::new(),
        }
    }

    /// Refuses what makes no sense.
    pub fn validate(&self, kind: SchedulerKind) -> Result<(), String> {
        let name = kind.name();
        if self.enabled && kind.wants_stores() && self.stores.is_empty() {
            return Err(format!("{name} needs stores"));
        }
        if self.enabled && kind.wants_labels() && self.labels.is_empty() {
            return Err(format!("{name} needs labels such as zone=z1"));
        }
        if !kind.wants_stores() && !self.stores.is_empty() {
            return Err(format!("{name} is not about single stores"));
        }
        if !kind.wants_labels() && !self.labels.is_empty() {
            return Err(format!("{name} is not about labels"));
        }
        if let Some(label) = self.labels.iter().find(|label| !label.contains('=')) {
            return Err(format!("{name}: '{label}' is not of the form key=value"));
        }
        if self.stores.len().max(self.labels.len()) > ARGUMENTS_MAX {
            return Err(format!("{name}: more than {ARGUMENTS_MAX} stores or labels"));
        }
        Ok(())
    }
}

/// A scheduler with its last word.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is set.
    pub settings: SchedulerSettings,
    /// What it last made of the cluster.
    pub told: String,
    /// Operators it began since this PD leads.
    pub begun: u64,
}

/// All schedulers.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: BTreeMap<SchedulerKind, Entry>,
}

impl Default for Registry {
    fn default() -> Registry {
        let entry = |kind| {
            let settings = SchedulerSettings::default_of(kind);
            (kind, Entry { settings, told: String::new(), begun: 0 })
        };
        Registry { entries: SchedulerKind::ALL.into_iter().map(entry).collect() }
    }
}

impl Registry {
    /// Takes the stored settings; what is not stored or not readable is the default.
    pub fn load<'a>(&mut self, stored: impl Iterator<Item = (&'a str, &'a [u8])>) {
        for (kind, entry) in &mut self.entries {
            entry.settings = SchedulerSettings::default_of(*kind);
        }
        for (key, value) in stored {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let kind = SchedulerKind::named(name);
            let settings = serde_json::from_slice::<SchedulerSettings>(value);
            match (kind, settings) {
                (Ok(kind), Ok(settings)) if settings.validate(kind).is_ok() => {
                    if let Some(entry) = self.entries.get_mut(&kind) {
                        entry.settings = settings;
                    }
                }
                _ => tracing::warn!(key, "a stored scheduler is ignored"),
            }
        }
    }

    /// Every scheduler.
    pub fn entries(&self) -> impl Iterator<Item = (SchedulerKind, &Entry)> {
        self.entries.iter().map(|(kind, entry)| (*kind, entry))
    }

    /// What is set of one.
    pub fn settings(&self, kind: SchedulerKind) -> SchedulerSettings {
        let entry = self.entries.get(&kind);
        entry.map_or_else(|| SchedulerSettings::default_of(kind), |entry| entry.settings.clone())
    }

    /// Whether it runs now.
    pub fn runs(&self, kind: SchedulerKind, unix_ms: u64) -> bool {
        self.entries.get(&kind).is_some_and(|entry| {
            entry.settings.enabled && entry.settings.paused_until_unix_ms <= unix_ms
        })
    }

    /// Notes what it made of the cluster.
    pub fn tell(&mut self, kind: SchedulerKind, told: String) {
        if let Some(entry) = self.entries.get_mut(&kind) {
            entry.told = told;
        }
    }

    /// Notes an operator it began.
    pub fn began(&mut self, kind: SchedulerKind, operator: String) {
        if let Some(entry) = self.entries.get_mut(&kind) {
            entry.begun += 1;
            entry.told = operator;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_remembered() {
        let kind = SchedulerKind::named("evict-leader-scheduler").expect("known");
        assert_eq!(kind, SchedulerKind::EvictLeader);
        assert!(SchedulerKind::named("shuffle").is_err_and(|error| error.contains("'shuffle'")));
        let mut registry = Registry::default();
        assert!(registry.runs(SchedulerKind::BalanceLeader, 5));
        assert!(!registry.runs(kind, 5));
        let mut settings = registry.settings(kind);
        settings.enabled = true;
        assert_eq!(settings.validate(kind), Err("evict-leader needs stores".into()));
        settings.stores.insert(3);
        settings.validate(kind).expect("has a store");
        let json = serde_json::to_vec(&settings).expect("plain data");
        let paused = br#"{"enabled":true,"paused_until_unix_ms":10}"#;
        let stored: [(&str, &[u8]); 4] = [
            ("scheduler/evict-leader", &json),
            ("scheduler/balance-leader", paused),
            ("scheduler/hot-region", br#"{"enabled":false}"#),
            ("scheduler/balance-region", b"nonsense"),
        ];
        registry.load(stored.into_iter());
        assert_eq!(registry.settings(kind), settings);
        let runs = |kind| (registry.runs(kind, 9), registry.runs(kind, 10));
        assert_eq!(runs(SchedulerKind::BalanceLeader), (false, true));
        assert_eq!(runs(SchedulerKind::HotRegion), (false, false));
        assert_eq!(runs(SchedulerKind::BalanceRegion), (true, true));
    }
}
