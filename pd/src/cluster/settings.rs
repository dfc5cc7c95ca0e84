//! From PD's configuration entries to what scheduling goes by.
//!
//! Read again whenever the entries differ from those read last. A rule set that does
//! not hold together is not taken: the last good one stays in force.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::config::{self, ScheduleConfig};
use crate::operator::limits::Direction;
use crate::placement::{GROUP_PREFIX, RULE_PREFIX, Rule, RuleGroup, RuleSet};
use crate::schedulers::registry;
use crate::state::State;
use crate::view::WEIGHT_MIN;

/// Where what is set of a store lies: prefix, id, `/`, name.
pub const STORE_PREFIX: &str = "store/";
const PREFIXES: [&str; 5] =
    [config::PREFIX, registry::PREFIX, RULE_PREFIX, GROUP_PREFIX, STORE_PREFIX];
/// Weights beyond this make no difference one could mean.
const WEIGHT_MAX: f64 = 1_000.0;

/// What people set of one store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreSettings {
    /// Its share of leaders.
    pub leader_weight: f64,
    /// Its share of regions.
    pub region_weight: f64,
    /// Replicas that may come per minute.
    pub limit_add: Option<f64>,
    /// Replicas that may go per minute.
    pub limit_remove: Option<f64>,
    /// Labels beside those the store was started with.
    pub labels: BTreeMap<String, String>,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            leader_weight: 1.0,
            region_weight: 1.0,
            limit_add: None,
            limit_remove: None,
            labels: BTreeMap::new(),
        }
    }
}

impl StoreSettings {
    /// Takes one named value; refuses unknown names and bad values.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let number = |low: f64, high: f64| -> Result<f64, String> {
            let number = text.parse::<f64>().ok().filter(|number| (low..=high).contains(number));
            number.ok_or_else(|| format!("{name}: '{text}' is no number from {low} to {high}"))
        };
        match name {
            "leader-weight" => self.leader_weight = number(0.0, WEIGHT_MAX)?.max(WEIGHT_MIN),
            "region-weight" => self.region_weight = number(0.0, WEIGHT_MAX)?.max(WEIGHT_MIN),
            "limit-add" => self.limit_add = Some(number(0.0, 100_000.0)?),
            "limit-remove" => self.limit_remove = Some(number(0.0, 100_000.0)?),
            "labels" => self.labels = parse_labels(text)?,
            _ => return Err(format!("unknown setting '{name}' of a store")),
        }
        Ok(())
    }
}

/// Reads `key=value,key=value`.
pub fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |part: &str| {
        let plain = |text: &str| !text.is_empty() && text.len() <= 64 && text.is_ascii();
        match part.trim().split_once('=') {
            Some((key, value)) if plain(key) && plain(value) => {
                Ok((key.to_owned(), value.to_owned()))
            }
            _ => Err(format!("labels: '{part}' is not of the form key=value")),
        }
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

/// The settings in force.
#[derive(Debug, Default)]
pub struct Settings {
    default_replicas: usize,
    read: BTreeMap<String, Bytes>,
    stores: BTreeMap<u64, StoreSettings>,
    /// Bounds and limits.
    pub config: ScheduleConfig,
    /// Where replicas shall be.
    pub rules: RuleSet,
}

impl Settings {
    /// The defaults.
    pub fn new(default_replicas: usize) -> Settings {
        let config = ScheduleConfig { max_replicas: default_replicas, ..ScheduleConfig::default() };
        let rules = RuleSet::only_default(&config);
        Settings { default_replicas, config, rules, ..Settings::default() }
    }

    /// Reads the entries again; tells whether they had changed.
    pub fn load(&mut self, state: &State) -> bool {
        let ours = |prefix: &&str| {
            let prefix = (*prefix).to_owned();
            let all = state.config.range(prefix.clone()..);
            all.take_while(move |(key, _)| key.starts_with(&prefix))
        };
        if PREFIXES.iter().flat_map(ours).eq(self.read.iter()) {
            return false;
        }
        let entries = PREFIXES.iter().flat_map(ours);
        self.read = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.config = ScheduleConfig::from_entries(self.default_replicas, self.entries());
        match rules_of(&self.config, self.entries()) {
            Ok(rules) => self.rules = rules,
            Err(reason) => tracing::error!(reason, "placement rules stay as they were"),
        }
        let mut stores: BTreeMap<u64, StoreSettings> = BTreeMap::new();
        for (key, value) in self.entries() {
            let Some((id, name)) = key.strip_prefix(STORE_PREFIX).and_then(|k| k.split_once('/'))
            else {
                continue;
            };
            let Ok(id) = id.parse() else { continue };
            let text = std::str::from_utf8(value).unwrap_or_default();
            if let Err(reason) = stores.entry(id).or_default().set(name, text) {
                tracing::warn!(key, reason, "a stored setting is ignored");
            }
        }
        self.stores = stores;
        true
    }

    /// The entries read last.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.read.iter().map(|(key, value)| (key.as_str(), &value[..]))
    }

    /// What is set of a store.
    pub fn of_store(&self, store_id: u64) -> StoreSettings {
        self.stores.get(&store_id).cloned().unwrap_or_default()
    }

    /// Rates that are set for single stores.
    pub fn rates(&self) -> HashMap<(u64, Direction), f64> {
        let of = |(id, own): (&u64, &StoreSettings)| {
            let add = own.limit_add.map(|rate| ((*id, Direction::Add), rate));
            let remove = own.limit_remove.map(|rate| ((*id, Direction::Remove), rate));
            add.into_iter().chain(remove)
        };
        self.stores.iter().flat_map(of).collect()
    }
}

/// The rule set that entries describe.
pub fn rules_of<'a>(
    config: &ScheduleConfig,
    entries: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<RuleSet, String> {
    let (mut rules, mut groups) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        let bad = |error: serde_json::Error| format!("{key}: {error}");
        if key.starts_with(RULE_PREFIX) {
            rules.push(serde_json::from_slice::<Rule>(value).map_err(bad)?);
        } else if key.starts_with(GROUP_PREFIX) {
            groups.push(serde_json::from_slice::<RuleGroup>(value).map_err(bad)?);
        }
    }
    RuleSet::build(config, rules, groups)
}

#[cfg(test)]
mod tests {
    use cairn_proto::pd::ConfigEntry;

    use super::*;
    use crate::state::Command;

    fn set(state: &mut State, key: &str, value: &str) {
        let entry = ConfigEntry { key: key.into(), value: Bytes::from(value.to_owned()) };
        state.apply(Command::put_config(vec![entry])).expect("valid");
    }

    #[test]
    fn entries_are_read_when_they_change() {
        let mut state = State::default();
        let mut settings = Settings::new(3);
        assert!(!settings.load(&state));
        set(&mut state, "sql/1", "somebody else's");
        assert!(!settings.load(&state));
        set(&mut state, "schedule/max-replicas", "5");
        set(&mut state, "store/7/leader-weight", "0");
        set(&mut state, "store/7/limit-add", "9");
        set(&mut state, "store/7/labels", "zone=z1, host=h1");
        set(&mut state, "store/8/colour", "red");
        assert!(settings.load(&state));
        assert!(!settings.load(&state));
        assert_eq!(settings.config.max_replicas, 5);
        assert_eq!(settings.rules.at(b"")[0].count, 5);
        let own = settings.of_store(7);
        assert_eq!((own.leader_weight, own.limit_add), (WEIGHT_MIN, Some(9.0)));
        assert_eq!(own.labels["host"], "h1");
        assert_eq!(settings.of_store(8), StoreSettings::default());
        assert_eq!(settings.rates(), HashMap::from([((7, Direction::Add), 9.0)]));
    }

    #[test]
    fn a_broken_rule_set_changes_nothing() {
        let mut state = State::default();
        let mut settings = Settings::new(3);
        let good = r#"{"group_id":"pd","id":"default","role":"voter","count":1}"#;
        set(&mut state, "placement/rule/pd/default", good);
        assert!(settings.load(&state));
        assert_eq!(settings.rules.at(b"")[0].count, 1);
        set(&mut state, "placement/rule/pd/default", "{}");
        assert!(settings.load(&state));
        assert_eq!(settings.rules.at(b"")[0].count, 1);
    }
}
