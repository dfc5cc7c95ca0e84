//! What a SERIALIZABLE transaction has read: spans of keys, each with its read timestamp.
//!
//! A span stands for every key in it, those that were not there too: what appears among them
//! later is a phantom. COMMIT asks the stores whether anything was committed to the spans since
//! (see [`super::refresh`]).
//!
//! **Bounds.** Spans that overlap or touch merge. A set above its bound becomes coarser: neighbours
//! within a table's rows or an index are joined with what lies between them, then timestamps fold into
//! the oldest. So a set that is too large costs needless aborts, and never misses a change.
//!
//! **Statements that start over** forget what their first attempt has read: nobody saw it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_proto::kv::ReadSpan;
use cairn_types::TimeStamp;
use cairn_types::keys::{INDEX_SEPARATOR, TABLE_PREFIX, key_next};
use parking_lot::Mutex;

use crate::region_cache::KeyRange;

/// Memory of the spans of a transaction, and of its running statement: some ten thousand single
/// rows, after which ranges tell nearly as much.
const SPANS_BYTES_MAX: usize = 4 << 20;
/// What a span takes besides its keys.
const SPAN_OVERHEAD_BYTES: usize = 96;
/// Bytes of `t`, the table's id and the separator.
const TABLE_PART_LEN: usize = 11;
/// The same with an index' id.
const INDEX_PART_LEN: usize = 19;

/// Shared by a transaction and its read views.
#[derive(Debug)]
pub struct ReadSet(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Of statements that are over.
    kept: Spans,
    /// Of the running one.
    statement: Spans,
    /// Keys that the transaction has locked, with the timestamps since when nobody else changed
    /// them.
    guarded: BTreeMap<Bytes, TimeStamp>,
}

impl Default for ReadSet {
    fn default() -> ReadSet {
        ReadSet::with_bound(SPANS_BYTES_MAX)
    }
}

impl ReadSet {
    fn with_bound(bytes_max: usize) -> ReadSet {
        ReadSet(Mutex::new(State {
            kept: Spans::new(bytes_max),
            statement: Spans::new(bytes_max),
            guarded: BTreeMap::new(),
        }))
    }

    /// A range was read, whatever was found.
    pub(crate) fn record(&self, range: KeyRange, read_ts: TimeStamp) {
        if !range.is_empty() {
            self.0.lock().statement.insert(range, read_ts);
        }
    }

    /// Single keys were read.
    pub(crate) fn record_keys<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Bytes>,
        read_ts: TimeStamp,
    ) {
        let mut state = self.0.lock();
        for key in keys {
            let range = KeyRange { start: key.clone(), end: key_next(key).into() };
            state.statement.insert(range, read_ts);
        }
    }

    /// What was read so far counts, whatever becomes of later statements.
    pub(super) fn keep(&self) {
        let mut state = self.0.lock();
        let State { kept, statement, .. } = &mut *state;
        kept.take_over(statement);
    }

    /// The running statement starts over, and has shown nothing yet.
    pub(super) fn forget_statement(&self) {
        self.0.lock().statement.clear();
    }

    /// The transaction has locked a key that nobody else had changed since `since`.
    pub(super) fn guard(&self, key: Bytes, since: TimeStamp) {
        self.0.lock().guarded.entry(key).or_insert(since);
    }

    /// The transaction no longer holds the keys: others may change them from here on.
    pub(super) fn unguard(&self, keys: &BTreeSet<Bytes>) {
        self.0.lock().guarded.retain(|key, _| !keys.contains(key));
    }

    /// What must be asked for at COMMIT, in key order. `is_guarded` tells what the transaction's own
    /// writes keep others from; keys that it has locked need no question either.
    pub(super) fn unguarded(&self, is_guarded: impl Fn(&[u8], TimeStamp) -> bool) -> Vec<ReadSpan> {
        let state = self.0.lock();
        let is_needed = |span: &ReadSpan| {
            let read_ts = TimeStamp(span.read_ts);
            let is_locked =
                || state.guarded.get(&span.start).is_some_and(|since| *since <= read_ts);
            !(is_point(span) && (is_locked() || is_guarded(&span.start, read_ts)))
        };
        in_order(state.spans().filter(is_needed))
    }

    /// All that was read, in key order.
    pub(super) fn all(&self) -> Vec<ReadSpan> {
        in_order(self.0.lock().spans())
    }

    /// The oldest and the newest timestamp that was read at.
    pub(super) fn read_ts(&self) -> Option<(TimeStamp, TimeStamp)> {
        let state = self.0.lock();
        let all = || state.kept.by_ts.keys().chain(state.statement.by_ts.keys());
        Some((*all().min()?, *all().max()?))
    }
}

impl State {
    fn spans(&self) -> impl Iterator<Item = ReadSpan> {
        self.kept.iter().chain(self.statement.iter())
    }
}

fn in_order(spans: impl Iterator<Item = ReadSpan>) -> Vec<ReadSpan> {
    let mut spans: Vec<ReadSpan> = spans.collect();
    spans.sort_unstable_by(|one, other| one.start.cmp(&other.start));
    spans
}

/// Whether the span holds one key only.
fn is_point(span: &ReadSpan) -> bool {
    span.end.split_last().is_some_and(|(last, rest)| *last == 0 && *rest == span.start[..])
}

/// Spans by timestamp; those of one timestamp neither overlap nor touch.
#[derive(Debug)]
struct Spans {
    /// Ends by starts; an empty end is the end of the key space.
    by_ts: BTreeMap<TimeStamp, BTreeMap<Bytes, Bytes>>,
    bytes: usize,
    bytes_max: usize,
}

impl Spans {
    fn new(bytes_max: usize) -> Spans {
        Spans { by_ts: BTreeMap::new(), bytes: 0, bytes_max }
    }

    fn clear(&mut self) {
        self.by_ts.clear();
        self.bytes = 0;
    }

    fn iter(&self) -> impl Iterator<Item = ReadSpan> {
        self.by_ts.iter().flat_map(|(read_ts, spans)| {
            spans.iter().map(|(start, end)| ReadSpan {
                start: start.clone(),
                end: end.clone(),
                read_ts: read_ts.0,
            })
        })
    }

    fn insert(&mut self, range: KeyRange, read_ts: TimeStamp) {
        let spans = self.by_ts.entry(read_ts).or_default();
        let KeyRange { mut start, mut end } = range;
        let before = spans.range::<Bytes, _>(..=&start).next_back();
        if let Some((first, last)) = before.filter(|(_, last)| reaches(last, &start)) {
            if last.is_empty() || (!end.is_empty() && *last >= end) {
                return;
            }
            start = first.clone();
        }
        while let Some((first, last)) = spans.range::<Bytes, _>(&start..).next() {
            if !reaches(&end, first) {
                break;
            }
            let (first, last) = (first.clone(), last.clone());
            spans.remove(&first);
            self.bytes -= size_of_span(&first, &last);
            end = later(end, last);
        }
        self.bytes += size_of_span(&start, &end);
        spans.insert(start, end);
        if self.bytes > self.bytes_max {
            self.coarsen();
        }
    }

    fn take_over(&mut self, other: &mut Spans) {
        other.bytes = 0;
        for (read_ts, spans) in std::mem::take(&mut other.by_ts) {
            for (start, end) in spans {
                self.insert(KeyRange { start, end }, read_ts);
            }
        }
    }

    /// Halves the set. Half of the bound is free then, so that this is rare.
    fn coarsen(&mut self) {
        let mut across_tables = false;
        while self.bytes > self.bytes_max / 2 {
            let before = self.bytes;
            for spans in self.by_ts.values_mut() {
                *spans = joined(std::mem::take(spans), across_tables);
            }
            self.count();
            if self.bytes <= before / 4 * 3 {
                continue;
            }
            if self.by_ts.len() > 1 {
                self.fold_timestamps();
            } else if across_tables {
                // What is left is as coarse as it gets.
                return;
            } else {
                across_tables = true;
            }
        }
    }

    /// What was read later counts as read at the oldest timestamp.
    fn fold_timestamps(&mut self) {
        let mut all = std::mem::take(&mut self.by_ts).into_iter();
        let Some((oldest, spans)) = all.next() else { return };
        self.by_ts.insert(oldest, spans);
        self.count();
        let bytes_max = std::mem::replace(&mut self.bytes_max, usize::MAX);
        for (start, end) in all.flat_map(|(_, spans)| spans) {
            self.insert(KeyRange { start, end }, oldest);
        }
        self.bytes_max = bytes_max;
    }

    fn count(&mut self) {
        let all = self.by_ts.values().flatten();
        self.bytes = all.map(|(start, end)| size_of_span(start, end)).sum();
    }
}

/// Joins each second span with the one before it, and with what lies between.
fn joined(spans: BTreeMap<Bytes, Bytes>, across_tables: bool) -> BTreeMap<Bytes, Bytes> {
    let mut fewer: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut open: Option<(Bytes, Bytes)> = None;
    for (start, end) in spans {
        match open.take() {
            Some((first, _)) if across_tables || kind_of(&first) == kind_of(&start) => {
                fewer.insert(first, end);
            }
            Some((first, last)) => {
                fewer.insert(first, last);
                open = Some((start, end));
            }
            None => open = Some((start, end)),
        }
    }
    fewer.extend(open);
    fewer
}

/// The table, or the index, that a key belongs to.
fn kind_of(key: &[u8]) -> &[u8] {
    let is_index = key.first() == Some(&TABLE_PREFIX)
        && key.get(TABLE_PART_LEN - 2..TABLE_PART_LEN) == Some(&INDEX_SEPARATOR[..]);
    let len = if is_index { INDEX_PART_LEN } else { TABLE_PART_LEN };
    key.get(..len).unwrap_or(key)
}

fn size_of_span(start: &Bytes, end: &Bytes) -> usize {
    SPAN_OVERHEAD_BYTES + start.len() + end.len()
}

/// Whether nothing lies between the end of a span and a start behind its own.
fn reaches(end: &Bytes, start: &Bytes) -> bool {
    end.is_empty() || end >= start
}

fn later(one: Bytes, other: Bytes) -> Bytes {
    if one.is_empty() || other.is_empty() { Bytes::new() } else { one.max(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(set: &ReadSet) -> String {
        let text = |key: &Bytes| String::from_utf8_lossy(key).replace('\0', "·");
        let span =
            |span: ReadSpan| format!("{}..{}@{}", text(&span.start), text(&span.end), span.read_ts);
        set.all().into_iter().map(span).collect::<Vec<_>>().join(" ")
    }

    fn read(set: &ReadSet, start: &str, end: &str, read_ts: u64) {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        set.record(KeyRange::new(bytes(start), bytes(end)), TimeStamp(read_ts));
    }

    #[test]
    fn what_meets_at_one_timestamp_merges() {
        let set = ReadSet::default();
        for (start, end) in [("d", "f"), ("a", "b"), ("m", "n"), ("b", "c"), ("e", "g"), ("x", "a")]
        {
            read(&set, start, end, 5);
        }
        assert_eq!(shown(&set), "a..c@5 d..g@5 m..n@5");
        read(&set, "c", "n", 5);
        assert_eq!(shown(&set), "a..n@5");
        read(&set, "f", "", 5);
        read(&set, "p", "q", 5);
        assert_eq!(shown(&set), "a..@5");
        read(&set, "p", "q", 7);
        set.record_keys([&Bytes::from("k")], TimeStamp(7));
        assert_eq!(shown(&set), "a..@5 k..k·@7 p..q@7");
        assert_eq!(set.read_ts(), Some((TimeStamp(5), TimeStamp(7))));
    }

    #[test]
    fn a_statement_that_starts_over_has_read_nothing() {
        let set = ReadSet::default();
        read(&set, "a", "b", 5);
        set.keep();
        read(&set, "c", "d", 7);
        set.forget_statement();
        read(&set, "a", "aa", 8);
        set.keep();
        set.forget_statement();
        assert_eq!(shown(&set), "a..b@5 a..aa@8");
    }

    #[test]
    fn what_is_locked_needs_no_question() {
        let set = ReadSet::default();
        set.record_keys([&Bytes::from("k"), &Bytes::from("n")], TimeStamp(5));
        set.record_keys([&Bytes::from("k")], TimeStamp(8));
        set.guard("k".into(), TimeStamp(7));
        let left = set.unguarded(|key, _| key == b"n");
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!((&left[0].start[..], left[0].read_ts), (&b"k"[..], 5));
    }

    #[test]
    fn a_set_above_its_bound_becomes_coarser_and_misses_nothing() {
        let bytes_max = 40 * SPAN_OVERHEAD_BYTES;
        let set = ReadSet::with_bound(bytes_max);
        let table_key = |table: u8, row: u16| {
            let mut key = vec![b't', 0, 0, 0, 0, 0, 0, 0, table];
            key.extend_from_slice(b"_r");
            key.extend_from_slice(&row.to_be_bytes());
            Bytes::from(key)
        };
        let mut keys = Vec::new();
        for row in 0..500u16 {
            for table in [1, 3] {
                keys.push(table_key(table, row.wrapping_mul(31) % 1000 * 2));
            }
        }
        set.record_keys(&keys, TimeStamp(9));
        let spans = set.all();
        let bytes: usize = spans.iter().map(|s| size_of_span(&s.start, &s.end)).sum();
        assert!(bytes <= bytes_max, "{bytes}");
        let holds = |key: &Bytes| {
            spans.iter().any(|span| span.start <= key && (span.end.is_empty() || *key < span.end))
        };
        assert!(keys.iter().all(holds));
        assert!(!holds(&table_key(2, 7)), "no table in between is taken for read");

        // Many statements: their timestamps fold.
        for read_ts in 10..200 {
            set.record_keys([&table_key(5, read_ts)], TimeStamp(read_ts.into()));
        }
        let (oldest, _) = set.read_ts().expect("there are reads");
        assert_eq!(oldest, TimeStamp(9));
        for read_ts in 10..200u16 {
            let key = table_key(5, read_ts);
            let holds = |span: &ReadSpan| {
                span.read_ts <= read_ts.into()
                    && span.start <= key
                    && (span.end.is_empty() || key < span.end)
            };
            assert!(set.all().iter().any(holds), "{read_ts}");
        }
    }
}
