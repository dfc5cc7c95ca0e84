//! Placement rules: how many replicas of which ranges go where.
//!
//! **Data.** A rule belongs to a group and covers a range of keys. For one key,
//! every rule of every group counts, in the order of group index, group id, rule
//! index, rule id; a rule that *overrides* takes out the earlier rules of its
//! group, a group that overrides takes out the earlier groups. So the key space
//! falls into segments with one list of rules each ([`RuleSet`]).
//!
//! Where nothing is set, the rule `pd/default` asks for `max-replicas` voters told
//! apart by `location-labels`; a stored rule of that name replaces it.
//!
//! **Invariants.** Every segment has a rule that asks for voters, and at most one
//! leader rule with one leader ([`RuleSet::build`] refuses others), so that every
//! region can be served.
//!
//! Fields are named as in PD's `placement-rules`, so that its users' files work.

pub mod fit;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::ScheduleConfig;

/// Where rules lie among PD's configuration: prefix, group, `/`, id.
pub const RULE_PREFIX: &str = "placement/rule/";
/// Where groups lie among PD's configuration: prefix, group.
pub const GROUP_PREFIX: &str = "placement/group/";
/// Rules of a cluster.
const RULES_MAX: usize = 4_096;
/// Replicas one rule may ask for.
const RULE_COUNT_MAX: usize = 9;
/// Values and constraints of one rule.
const CONSTRAINTS_MAX: usize = 64;
/// Letters of a name or a key in a rule.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of a rule's keys.
const KEY_BYTES_MAX: usize = 8 << 10;

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes, and may lead.
    Voter,
    /// Votes, and does not lead.
    Follower,
    /// Only reads the log.
    Learner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Voter => "voter",
            Role::Follower => "follower",
            Role::Learner => "learner",
        })
    }
}

/// How a store's label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConstraintOp {
    /// It has one of the values.
    In,
    /// It has none of the values.
    NotIn,
    /// It has the label.
    Exists,
    /// It lacks the label.
    NotExists,
}

/// What a store's labels must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConstraint {
    /// The label's name.
    pub key: String,
    /// How its value is compared.
    pub op: ConstraintOp,
    /// With what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelConstraint {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key).filter(|value| !value.is_empty());
        match self.op {
            ConstraintOp::In => value.is_some_and(|value| self.values.contains(value)),
            ConstraintOp::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            ConstraintOp::Exists => value.is_some(),
            ConstraintOp::NotExists => value.is_none(),
        }
    }
}

/// How many replicas of a range go where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Rules of a group belong together.
    pub group_id: String,
    /// Its name within the group.
    pub id: String,
    /// Its place among the rules of its group.
    #[serde(default)]
    pub index: u32,
    /// Takes out the earlier rules of its group where it applies.
    #[serde(default, rename = "override")]
    pub overrides: bool,
    /// First key, in hex.
    #[serde(default)]
    pub start_key: String,
    /// Key behind the last one, in hex; empty: to the end.
    #[serde(default)]
    pub end_key: String,
    /// What the replicas do.
    pub role: Role,
    /// How many there shall be.
    pub count: usize,
    /// What their stores' labels must be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_constraints: Vec<LabelConstraint>,
    /// Labels that tell their places apart, widest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub location_labels: Vec<String>,
    /// The label whose values must differ; empty: as good as it gets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub isolation_level: String,
}

/// The label that keeps a store out of rules that do not name it: `$exclusive`,
/// or any other name that begins so.
const EXCLUSIVE: char = '$';

impl Rule {
    /// The rule of a cluster that has set none.
    pub fn default_of(config: &ScheduleConfig) -> Rule {
        Rule {
            group_id: "pd".into(),
            id: "default".into(),
            index: 0,
            overrides: false,
            start_key: String::new(),
            end_key: String::new(),
            role: Role::Voter,
            count: config.max_replicas,
            label_constraints: Vec::new(),
            location_labels: config.location_labels.clone(),
            isolation_level: config.isolation_level.clone(),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group_id, self.id)
    }

    /// Whether a store with these labels may take its replicas.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        let named = |key: &String| self.label_constraints.iter().any(|one| one.key == *key);
        self.label_constraints.iter().all(|constraint| constraint.holds(labels))
            && labels.keys().filter(|key| key.starts_with(EXCLUSIVE)).all(named)
    }

    fn range(&self) -> Result<(Bytes, Bytes), String> {
        let key = |text: &str| {
            from_hex(text).ok_or_else(|| format!("rule {}: '{text}' is no key in hex", self.name()))
        };
        Ok((key(&self.start_key)?, key(&self.end_key)?))
    }

    /// Refuses what makes no sense, naming it.
    pub fn validate(&self) -> Result<(), String> {
        let name = self.name();
        let refuse = |reason: &str| Err(format!("rule {name}: {reason}"));
        let plain = |text: &str| {
            !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(['/', '\n'])
        };
        if !plain(&self.group_id) || !plain(&self.id) {
            return refuse("group and id must be names without '/'");
        }
        let (start, end) = self.range()?;
        if start.len() > KEY_BYTES_MAX || end.len() > KEY_BYTES_MAX {
            return refuse("a key is too long");
        }
        if !end.is_empty() && start >= end {
            return refuse("it ends before it starts");
        }
        if self.count == 0 || self.count > RULE_COUNT_MAX {
            return refuse(&format!("count {} must be 1 to {RULE_COUNT_MAX}", self.count));
        }
        if self.role == Role::Leader && self.count > 1 {
            return refuse("a region has one leader");
        }
        if self.label_constraints.len() > CONSTRAINTS_MAX {
            return refuse("too many constraints");
        }
        for LabelConstraint { key, op, values } in &self.label_constraints {
            let lists = matches!(op, ConstraintOp::In | ConstraintOp::NotIn);
            if lists == values.is_empty() || values.len() > CONSTRAINTS_MAX {
                return refuse(&format!("constraint on '{key}' has a wrong number of values"));
            }
        }
        let isolation = &self.isolation_level;
        if !isolation.is_empty() && !self.location_labels.contains(isolation) {
            return refuse(&format!("isolation level '{isolation}' is no location label"));
        }
        Ok(())
    }
}

/// The order of rules that belong together, and of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleGroup {
    /// Its name.
    pub id: String,
    /// Its place among the groups.
    #[serde(default)]
    pub index: u32,
    /// Takes out the groups before it where it applies.
    #[serde(default, rename = "override")]
    pub overrides: bool,
}

/// Rules of a range without a border in it.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    start: Bytes,
    rules: Arc<Vec<Arc<Rule>>>,
}

/// The rules in force, by key.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSet {
    segments: Vec<Segment>,
    all: Vec<Arc<Rule>>,
    groups: BTreeMap<String, RuleGroup>,
}

impl Default for RuleSet {
    fn default() -> RuleSet {
        RuleSet::only_default(&ScheduleConfig::default())
    }
}

impl RuleSet {
    /// The default rule and nothing else.
    pub fn only_default(config: &ScheduleConfig) -> RuleSet {
        let rule = Arc::new(Rule::default_of(config));
        let rules = Arc::new(vec![rule.clone()]);
        let segments = vec![Segment { start: Bytes::new(), rules }];
        RuleSet { segments, all: vec![rule], groups: BTreeMap::new() }
    }

    /// Rules and groups as set; adds the default rule unless it is among them.
    pub fn build(
        config: &ScheduleConfig,
        rules: impl IntoIterator<Item = Rule>,
        groups: impl IntoIterator<Item = RuleGroup>,
    ) -> Result<RuleSet, String> {
        let groups: BTreeMap<String, RuleGroup> =
            groups.into_iter().map(|group| (group.id.clone(), group)).collect();
        let mut all: Vec<Arc<Rule>> = rules.into_iter().map(Arc::new).collect();
        let default = Rule::default_of(config);
        if !all.iter().any(|rule| rule.name() == default.name()) {
            all.push(Arc::new(default));
        }
        if all.len() > RULES_MAX {
            return Err(format!("more than {RULES_MAX} rules"));
        }
        let group_index = |rule: &Rule| groups.get(&rule.group_id).map_or(0, |group| group.index);
        all.sort_by(|a, b| {
            let order = |rule: &Rule| (group_index(rule), rule.index);
            let (left, right) = (order(a), order(b));
            (left.0, &a.group_id, left.1, &a.id).cmp(&(right.0, &b.group_id, right.1, &b.id))
        });
        let mut ranges = Vec::with_capacity(all.len());
        let mut borders = vec![Bytes::new()];
        for rule in &all {
            rule.validate()?;
            let (start, end) = rule.range()?;
            borders.push(start.clone());
            borders.push(end.clone());
            ranges.push((start, end));
        }
        borders.sort();
        borders.dedup();
        let mut segments: Vec<Segment> = Vec::with_capacity(borders.len());
        for start in borders {
            let covers =
                |(from, to): &(Bytes, Bytes)| *from <= start && (to.is_empty() || start < *to);
            let here = all.iter().zip(&ranges).filter(|(_, range)| covers(range));
            let rules = overridden(here.map(|(rule, _)| rule), &groups);
            check_segment(&rules, &start)?;
            // Borders between equal lists would split regions for nothing.
            if segments.last().is_none_or(|last| *last.rules != rules) {
                segments.push(Segment { start, rules: Arc::new(rules) });
            }
        }
        Ok(RuleSet { segments, all, groups })
    }

    fn segment_at(&self, key: &[u8]) -> usize {
        self.segments.partition_point(|segment| &segment.start[..] <= key) - 1
    }

    /// The rules at a key.
    pub fn at(&self, key: &[u8]) -> &Arc<Vec<Arc<Rule>>> {
        &self.segments[self.segment_at(key)].rules
    }

    /// Borders between rules inside `(start, end)`; an empty end is +infinity.
    pub fn borders(&self, start: &[u8], end: &[u8]) -> Vec<Bytes> {
        self.segments[self.segment_at(start) + 1..]
            .iter()
            .map(|segment| segment.start.clone())
            .take_while(|border| end.is_empty() || &border[..] < end)
            .collect()
    }

    /// Every rule, in order.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.all
    }

    /// Every group that was set.
    pub fn groups(&self) -> impl Iterator<Item = &RuleGroup> {
        self.groups.values()
    }
}

/// The rules that are left when overriding ones have taken earlier ones out.
fn overridden<'a>(
    rules: impl Iterator<Item = &'a Arc<Rule>>,
    groups: &BTreeMap<String, RuleGroup>,
) -> Vec<Arc<Rule>> {
    let mut left: Vec<Arc<Rule>> = Vec::new();
    for rule in rules {
        let new_group = left.last().is_none_or(|last| last.group_id != rule.group_id);
        if new_group && groups.get(&rule.group_id).is_some_and(|group| group.overrides) {
            left.clear();
        }
        if rule.overrides {
            left.retain(|earlier| earlier.group_id != rule.group_id);
        }
        left.push(rule.clone());
    }
    left
}

fn check_segment(rules: &[Arc<Rule>], start: &[u8]) -> Result<(), String> {
    let count = |role: Role| -> usize {
        rules.iter().filter(|rule| rule.role == role).map(|rule| rule.count).sum()
    };
    let at = || match start {
        [] => "the first key".to_owned(),
        start => format!("key {}", to_hex(start)),
    };
    if count(Role::Leader) > 1 {
        return Err(format!("more than one rule asks for a leader at {}", at()));
    }
    if count(Role::Leader) + count(Role::Voter) == 0 {
        return Err(format!("no rule asks for a voter or leader at {}", at()));
    }
    Ok(())
}

/// Bytes as hex, in capitals as tools show keys.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Hex as bytes.
pub fn from_hex(text: &str) -> Option<Bytes> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(group: &str, id: &str, index: u32, range: (&str, &str)) -> Rule {
        Rule {
            group_id: group.into(),
            id: id.into(),
            index,
            start_key: range.0.into(),
            end_key: range.1.into(),
            location_labels: Vec::new(),
            ..Rule::default_of(&ScheduleConfig::default())
        }
    }

    fn names(set: &RuleSet, key: &[u8]) -> Vec<String> {
        set.at(key).iter().map(|rule| rule.name()).collect()
    }

    #[test]
    fn rules_apply_to_their_ranges() {
        let config = ScheduleConfig::default();
        let reader = Rule { role: Role::Learner, ..rule("ap", "copy", 1, ("62", "64")) };
        let own = Rule { overrides: true, ..rule("pd", "hot", 5, ("63", "")) };
        let set = RuleSet::build(&config, [reader, own], []).expect("valid");
        assert_eq!(names(&set, b"a"), ["pd/default"]);
        assert_eq!(names(&set, b"b"), ["ap/copy", "pd/default"]);
        assert_eq!(names(&set, b"c"), ["ap/copy", "pd/hot"]);
        assert_eq!(names(&set, b"d"), ["pd/hot"]);
        assert_eq!(set.borders(b"", b""), [&b"b"[..], b"c", b"d"]);
        assert_eq!(set.borders(b"b", b"d"), [&b"c"[..]]);
        assert_eq!(set.borders(b"d", b""), [] as [Bytes; 0]);
    }

    #[test]
    fn groups_override_groups() {
        let config = ScheduleConfig::default();
        let group = RuleGroup { id: "z".into(), index: 9, overrides: true };
        let set = RuleSet::build(&config, [rule("z", "only", 0, ("61", "62"))], [group]);
        let set = set.expect("valid");
        assert_eq!(names(&set, b"a"), ["z/only"]);
        assert_eq!(names(&set, b"b"), ["pd/default"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let config = ScheduleConfig::default();
        let build = |rule: Rule| RuleSet::build(&config, [rule], []).expect_err("refused");
        let base = || rule("g", "r", 0, ("", ""));
        assert_eq!(build(Rule { count: 0, ..base() }), "rule g/r: count 0 must be 1 to 9");
        assert_eq!(
            build(Rule { start_key: "6".into(), ..base() }),
            "rule g/r: '6' is no key in hex"
        );
        assert_eq!(
            build(Rule { isolation_level: "zone".into(), ..base() }),
            "rule g/r: isolation level 'zone' is no location label"
        );
        assert_eq!(
            build(Rule { role: Role::Follower, ..rule("pd", "default", 0, ("", "")) }),
            "no rule asks for a voter or leader at the first key"
        );
        let leaders = [
            Rule { role: Role::Leader, count: 1, ..rule("a", "x", 0, ("", "")) },
            Rule { role: Role::Leader, count: 1, ..rule("b", "x", 0, ("62", "")) },
        ];
        assert_eq!(
            RuleSet::build(&config, leaders, []),
            Err("more than one rule asks for a leader at key 62".into())
        );
        let constraint =
            LabelConstraint { key: "zone".into(), op: ConstraintOp::In, values: Vec::new() };
        assert_eq!(
            build(Rule { label_constraints: vec![constraint], ..base() }),
            "rule g/r: constraint on 'zone' has a wrong number of values"
        );
        let unknown = r#"{"group_id":"g","id":"r","role":"voter","count":1,"colour":"red"}"#;
        let error = serde_json::from_str::<Rule>(unknown).expect_err("unknown field");
        assert!(error.to_string().contains("colour"), "{error}");
    }

    #[test]
    fn labels_are_compared() {
        let labels = |text: &[(&str, &str)]| -> BTreeMap<String, String> {
            text.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let with = |op: ConstraintOp, values: &[&str]| Rule {
            label_constraints: vec![LabelConstraint {
                key: "disk".into(),
                op,
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
            ..rule("g", "r", 0, ("", ""))
        };
        let (ssd, none) = (labels(&[("disk", "ssd")]), labels(&[]));
        let cases = [
            (with(ConstraintOp::In, &["ssd"]), true, false),
            (with(ConstraintOp::NotIn, &["ssd"]), false, true),
            (with(ConstraintOp::Exists, &[]), true, false),
            (with(ConstraintOp::NotExists, &[]), false, true),
        ];
        for (rule, for_ssd, for_none) in cases {
            assert_eq!((rule.allows(&ssd), rule.allows(&none)), (for_ssd, for_none));
        }
        let exclusive = labels(&[("$mode", "x")]);
        assert!(!rule("g", "r", 0, ("", "")).allows(&exclusive));
    }
}
