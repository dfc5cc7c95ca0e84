//! Sums over statements of one kind: `STATEMENTS_SUMMARY` and its history.
//!
//! Statements are of one kind if their digests, databases and plans' shapes agree. Sums are kept for an interval
//! (`tidb_stmt_summary_refresh_interval`), after which they are history, of which so many intervals are kept
//! (`tidb_stmt_summary_history_size`), and no more than [`HISTORY_BYTES_MAX`].
//!
//! **Bounds.** An interval holds `tidb_stmt_summary_max_stmt_count` kinds. When a new one finds no room, the sixteenth that was
//! not seen for longest goes; what those did is added up in one row without a digest.
//!
//! **Concurrency.** A sharded map from a kind's hash to its sums, which have a lock each.
//!
//! Source: TiDB's documentation, "Statement Summary Tables".

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use cairn_planner::identity::Normal;
use cairn_planner::plan::Plan;
use dashmap::DashMap;
use foldhash::fast::FixedState;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::digest::digest_of;
use super::sums::Sums;
use super::{Ended, plan_text};
use crate::variables::Values;

/// Bytes of texts of past intervals.
const HISTORY_BYTES_MAX: u64 = 64 << 20;
/// What an entry takes besides its texts, about.
const ENTRY_BYTES: u64 = 1 << 10;
/// Of so many kinds one goes when there is no room.
const EVICTED_PART: usize = 16;

/// What statements of one kind have in common, and the first of them.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    database: Option<String>,
    identity: Arc<Normal>,
    plan: Option<Arc<Normal>>,
    plan_text: String,
    tables: String,
    indexes: String,
    sample_user: String,
    sample: String,
    is_prepared: bool,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    sums: Mutex<Sums>,
    last_seen_us: AtomicI64,
}

/// One kind as tables show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// When the interval began, in seconds since the epoch.
    pub begin_s: i64,
    /// When it ended, or will.
    pub end_s: i64,
    /// What statements they are; empty for those that were left out for want of room.
    pub kind: String,
    /// Their database.
    pub database: Option<String>,
    /// Their digest.
    pub digest: Option<String>,
    /// What it stands for.
    pub text: String,
    /// The tables they use.
    pub tables: String,
    /// The indexes they read.
    pub indexes: String,
    /// Who ran the first.
    pub sample_user: String,
    /// Its text.
    pub sample: String,
    /// It was prepared.
    pub is_prepared: bool,
    /// Digest of their plan.
    pub plan_digest: String,
    /// The plan of the first.
    pub plan: String,
    /// What they did.
    pub sums: Sums,
}

/// An interval.
#[derive(Debug)]
struct Window {
    begin_s: i64,
    end_s: AtomicI64,
    entries: DashMap<u64, Arc<Entry>, FixedState>,
    evicted: Mutex<(u64, Sums)>,
    bytes: AtomicU64,
}

impl Window {
    fn new(begin_s: i64, length_s: i64) -> Window {
        Window {
            begin_s,
            end_s: AtomicI64::new(begin_s + length_s),
            entries: DashMap::with_hasher(FixedState::default()),
            evicted: Mutex::default(),
            bytes: AtomicU64::new(0),
        }
    }

    fn shown(&self) -> Vec<Shown> {
        let end_s = self.end_s.load(Ordering::Relaxed);
        let mut rows: Vec<Shown> = Vec::with_capacity(self.entries.len() + 1);
        for entry in &self.entries {
            let Kind {
                name,
                database,
                identity,
                plan,
                plan_text,
                tables,
                indexes,
                sample_user,
                sample,
                is_prepared,
            } = &entry.kind;
            rows.push(Shown {
                begin_s: self.begin_s,
                end_s,
                kind: (*name).to_owned(),
                database: database.clone(),
                digest: Some(identity.digest.to_string()),
                text: identity.text.to_string(),
                tables: tables.clone(),
                indexes: indexes.clone(),
                sample_user: sample_user.clone(),
                sample: sample.clone(),
                is_prepared: *is_prepared,
                plan_digest: plan.as_ref().map_or_else(String::new, |plan| plan.digest.to_string()),
                plan: plan_text.clone(),
                sums: entry.sums.lock().clone(),
            });
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.sums.latency.sum));
        let (_, evicted) = &*self.evicted.lock();
        if evicted.count > 0 {
            rows.push(Shown {
                begin_s: self.begin_s,
                end_s,
                kind: String::new(),
                database: None,
                digest: None,
                text: String::new(),
                tables: String::new(),
                indexes: String::new(),
                sample_user: String::new(),
                sample: String::new(),
                is_prepared: false,
                plan_digest: String::new(),
                plan: String::new(),
                sums: evicted.clone(),
            });
        }
        rows
    }

    /// Makes room for a new kind among at most `entries_max`.
    fn make_room(&self, entries_max: usize) {
        if self.entries.len() < entries_max {
            return;
        }
        // One at a time: the others find the room that the first has made.
        let mut evicted = self.evicted.lock();
        if self.entries.len() < entries_max {
            return;
        }
        let seen = |entry: &dashmap::mapref::multiple::RefMulti<'_, u64, Arc<Entry>>| {
            (entry.last_seen_us.load(Ordering::Relaxed), *entry.key())
        };
        let mut by_age: Vec<(i64, u64)> = self.entries.iter().map(|entry| seen(&entry)).collect();
        by_age.sort_unstable();
        let over = by_age.len() - entries_max;
        let count = (over + (entries_max / EVICTED_PART).max(1)).min(by_age.len());
        for (_, key) in &by_age[..count] {
            if let Some((_, entry)) = self.entries.remove(key) {
                evicted.0 += 1;
                evicted.1.merge(&entry.sums.lock());
            }
        }
    }
}

/// Sums of all kinds of a node.
#[derive(Debug)]
pub struct Summaries {
    is_on: AtomicBool,
    interval_s: AtomicI64,
    entries_max: AtomicUsize,
    windows_max: AtomicUsize,
    sample_bytes_max: AtomicUsize,
    current: ArcSwap<Window>,
    history: Mutex<VecDeque<Arc<Window>>>,
}

impl Summaries {
    /// None yet; `now_us` is the time.
    pub fn new(variables: &Values, now_us: i64) -> Summaries {
        let summaries = Summaries {
            is_on: AtomicBool::new(true),
            interval_s: AtomicI64::new(1),
            entries_max: AtomicUsize::new(1),
            windows_max: AtomicUsize::new(0),
            sample_bytes_max: AtomicUsize::new(0),
            current: ArcSwap::from_pointee(Window::new(now_us / 1_000_000, 1)),
            history: Mutex::default(),
        };
        summaries.apply(variables);
        summaries.current.store(Arc::new(summaries.window_at(now_us)));
        summaries
    }

    /// Takes up what global variables say; switched off, everything is forgotten.
    pub fn apply(&self, variables: &Values) {
        let text = |name: &str| variables.get(name).map_or("", String::as_str);
        let number = |name: &str| text(name).parse::<usize>().unwrap_or(0);
        let is_on = text("tidb_enable_stmt_summary") == "ON";
        self.is_on.store(is_on, Ordering::Relaxed);
        let interval_s = number("tidb_stmt_summary_refresh_interval").max(1);
        self.interval_s.store(interval_s as i64, Ordering::Relaxed);
        self.entries_max
            .store(number("tidb_stmt_summary_max_stmt_count").max(1), Ordering::Relaxed);
        self.windows_max.store(number("tidb_stmt_summary_history_size"), Ordering::Relaxed);
        let sample_bytes_max = number("tidb_stmt_summary_max_sql_length");
        self.sample_bytes_max.store(sample_bytes_max, Ordering::Relaxed);
        if !is_on {
            let current = self.current.load();
            self.current.store(Arc::new(Window::new(current.begin_s, interval_s as i64)));
            self.history.lock().clear();
        }
    }

    /// Whether sums are kept.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Intervals begin at whole multiples of their length.
    fn window_at(&self, now_us: i64) -> Window {
        let length_s = self.interval_s.load(Ordering::Relaxed);
        let now_s = now_us / 1_000_000;
        Window::new(now_s - now_s.rem_euclid(length_s), length_s)
    }

    /// The interval of this moment; the one before becomes history.
    fn window(&self, now_us: i64) -> Arc<Window> {
        let current = self.current.load();
        if now_us / 1_000_000 < current.end_s.load(Ordering::Relaxed) {
            return Arc::clone(&current);
        }
        let mut history = self.history.lock();
        let current = self.current.load_full();
        if now_us / 1_000_000 < current.end_s.load(Ordering::Relaxed) {
            return current;
        }
        let fresh = Arc::new(self.window_at(now_us));
        // Of an interval that was cut short, as after a change of its length.
        current.end_s.fetch_min(fresh.begin_s.max(current.begin_s), Ordering::Relaxed);
        self.current.store(Arc::clone(&fresh));
        if !current.entries.is_empty() {
            history.push_back(current);
        }
        let windows_max = self.windows_max.load(Ordering::Relaxed);
        let bytes = |list: &VecDeque<Arc<Window>>| -> u64 {
            list.iter().map(|window| window.bytes.load(Ordering::Relaxed)).sum()
        };
        while history.len() > windows_max || bytes(&history) > HISTORY_BYTES_MAX {
            history.pop_front();
        }
        fresh
    }

    /// Adds a statement.
    pub fn add(&self, ended: &Ended<'_>) {
        if !self.is_on() {
            return;
        }
        let window = self.window(ended.ended_us);
        let key = key_of(ended);
        let known = window.entries.get(&key).map(|entry| Arc::clone(&entry));
        let entry = known.unwrap_or_else(|| {
            window.make_room(self.entries_max.load(Ordering::Relaxed));
            let kind = self.kind_of(ended);
            let bytes = kind.sample.len() + kind.plan_text.len() + kind.identity.text.len();
            window.bytes.fetch_add(bytes as u64 + ENTRY_BYTES, Ordering::Relaxed);
            let entry = Entry { kind, sums: Mutex::default(), last_seen_us: AtomicI64::new(0) };
            Arc::clone(&window.entries.entry(key).or_insert_with(|| Arc::new(entry)))
        });
        entry.last_seen_us.store(ended.ended_us, Ordering::Relaxed);
        entry.sums.lock().add(ended);
    }

    fn kind_of(&self, ended: &Ended<'_>) -> Kind {
        let plan = ended.plan.filter(|plan| !plan.gives_values());
        let sample_bytes_max = self.sample_bytes_max.load(Ordering::Relaxed);
        let mut sample = ended.text.to_owned();
        if sample.len() > sample_bytes_max {
            let ends = (0..=sample_bytes_max).rev().find(|at| sample.is_char_boundary(*at));
            sample.truncate(ends.unwrap_or(0));
            sample.push_str(&format!("(len:{})", ended.text.len()));
        }
        Kind {
            name: ended.kind,
            database: ended.database.map(str::to_owned),
            identity: Arc::clone(ended.identity),
            plan: plan.map(normal_plan),
            plan_text: plan.map(|plan| plan_text(plan)).unwrap_or_default(),
            tables: ended.plan.map_or_else(String::new, |plan| table_names(plan)),
            indexes: ended.plan.map_or_else(String::new, |plan| plan.index_names().join(",")),
            sample_user: ended.user.split('@').next().unwrap_or_default().to_owned(),
            sample,
            is_prepared: ended.measures.is_prepared,
        }
    }

    /// The interval of this moment.
    pub fn current(&self, now_us: i64) -> Vec<Shown> {
        self.window(now_us).shown()
    }

    /// The intervals before, oldest first, and that of this moment.
    pub fn history(&self, now_us: i64) -> Vec<Shown> {
        let current = self.window(now_us);
        let past: Vec<Arc<Window>> = self.history.lock().iter().cloned().collect();
        past.iter().chain([&current]).flat_map(|window| window.shown()).collect()
    }

    /// Begin and end of intervals in seconds since the epoch, and how many kinds found no room.
    pub fn evicted(&self, now_us: i64) -> Vec<(i64, i64, u64)> {
        let current = self.window(now_us);
        let past: Vec<Arc<Window>> = self.history.lock().iter().cloned().collect();
        let windows = past.iter().chain([&current]);
        let row = |window: &Arc<Window>| {
            (window.begin_s, window.end_s.load(Ordering::Relaxed), window.evicted.lock().0)
        };
        windows.map(row).filter(|(.., count)| *count > 0).collect()
    }
}

fn key_of(ended: &Ended<'_>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    ended.identity.digest.hash(&mut hasher);
    ended.database.hash(&mut hasher);
    ended.plan.map(|plan| plan.shape()).hash(&mut hasher);
    hasher.finish()
}

/// A plan's normal form, which the plan remembers.
pub fn normal_plan(plan: &Arc<Plan>) -> Arc<Normal> {
    let make = || {
        let text = plan.normal_text();
        Arc::new(Normal { digest: digest_of(&text), text: text.into() })
    };
    Arc::clone(plan.identity.plan.get_or_init(make))
}

/// `db.table`, each once.
fn table_names(plan: &Plan) -> String {
    let mut names: Vec<String> = Vec::new();
    for access in &plan.tables {
        let name = format!("{}.{}", access.db, access.table.name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use cairn_kv_client::RequestSums;

    use super::super::Measures;
    use super::super::sums::Sum;
    use super::*;

    const SECOND_US: i64 = 1_000_000;

    fn variables(set: &[(&'static str, &str)]) -> Values {
        let defaults = [
            ("tidb_enable_stmt_summary", "ON"),
            ("tidb_stmt_summary_refresh_interval", "60"),
            ("tidb_stmt_summary_max_stmt_count", "100"),
            ("tidb_stmt_summary_history_size", "2"),
            ("tidb_stmt_summary_max_sql_length", "10"),
        ];
        let all = defaults.iter().chain(set);
        all.map(|(name, value)| (*name, (*value).to_owned())).collect::<HashMap<_, _>>()
    }

    fn add(summaries: &Summaries, text: &str, at_us: i64, total_ns: u64) {
        let identity = Arc::new(Normal { text: text.into(), digest: digest_of(text) });
        let measures = Measures::default();
        summaries.add(&Ended {
            identity: &identity,
            plan: None,
            kind: "Select",
            text,
            database: Some("test"),
            user: "ann@localhost",
            connection: 1,
            ended_us: at_us,
            total_ns,
            measures: &measures,
            rows_sent: 2,
            affected_rows: 0,
            error: None,
            warnings: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            requests: RequestSums { cop_tasks: 3, ..RequestSums::default() },
            start_ts: 0,
        });
    }

    #[test]
    fn statements_of_one_kind_are_added_up() {
        let summaries = Summaries::new(&variables(&[]), 0);
        add(&summaries, "select a", SECOND_US, 30);
        add(&summaries, "select a", 2 * SECOND_US, 10);
        add(&summaries, "select something else", 3 * SECOND_US, 1);
        let shown = summaries.current(3 * SECOND_US);
        assert_eq!(shown.len(), 2);
        let Shown { sums, sample_user, sample, begin_s, end_s, .. } = &shown[0];
        assert_eq!((sums.count, sums.latency), (2, Sum { sum: 40, max: 30, min: 10 }));
        assert_eq!((sums.rows.sum, sums.cop_tasks.sum), (4, 6));
        assert_eq!((sums.first_seen_us, sums.last_seen_us), (SECOND_US, 2 * SECOND_US));
        assert_eq!((sample_user.as_str(), sample.as_str()), ("ann", "select a"));
        assert_eq!((*begin_s, *end_s), (0, 60));
        assert_eq!(shown[1].sample, "select som(len:21)");
    }

    #[test]
    fn intervals_become_history_and_the_oldest_goes() {
        let summaries = Summaries::new(&variables(&[]), 0);
        for minute in 0..4 {
            add(&summaries, "select a", minute * 60 * SECOND_US, 10);
        }
        let now_us = 200 * SECOND_US;
        assert_eq!(summaries.current(now_us).len(), 1);
        let begins: Vec<i64> = summaries.history(now_us).iter().map(|one| one.begin_s).collect();
        assert_eq!(begins, [60, 120, 180]);
        summaries.apply(&variables(&[("tidb_enable_stmt_summary", "OFF")]));
        add(&summaries, "select a", now_us, 10);
        assert!(summaries.history(now_us).is_empty() && !summaries.is_on());
    }

    #[test]
    fn kinds_are_bounded_and_nothing_is_lost_from_the_sums() {
        let summaries = Summaries::new(&variables(&[]), 0);
        for n in 0..1_000 {
            add(&summaries, &format!("select a{n}"), n, 1);
        }
        let shown = summaries.current(1_000);
        assert!(shown.len() <= 101, "{}", shown.len());
        assert_eq!(shown.iter().map(|one| one.sums.count).sum::<u64>(), 1_000);
        let newest = shown.iter().any(|one| one.text == "select a999");
        assert!(newest && shown.last().is_some_and(|others| others.digest.is_none()));
        let evicted: u64 = summaries.evicted(1_000).iter().map(|(.., count)| count).sum();
        assert_eq!(evicted as usize + shown.len() - 1, 1_000);
    }
}
