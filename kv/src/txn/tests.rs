//! Golden scripts of the commands (`testscripts/`), and random transactions
//! held against a model.
//!
//! A script speaks one command per line and shows the answer and every change:
//!
//! ```text
//! prewrite a=1 delete/b lock/c insert/d/4 check/e primary=a start=10 [ttl=..] [one_pc=..]
//! prewrite a=1 b=2 primary=a start=10 async=15 [secondaries=b/c]
//! pessimistic_lock a b primary=a start=10 for_update=15 [ttl=..] [skip_locked=..]
//! pessimistic_lock a primary=a start=10 for_update=15 shared=true [claimed=true]
//! prewrite held/a=1 primary=a start=10 for_update=15 [locked=12]
//! prewrite a=1 primary=a start=10 assert=exist|not_exist [level=off|strict]
//! prewrite held/lock/a primary=a start=10 for_update=15 shared=true
//! prewrite a=1 primary=a start=10 generation=2
//! pessimistic_rollback a b start=10 [for_update=15] [locked=12]
//! commit a b start=10 commit=20
//! rollback a start=10 | cleanup a start=10 current=0
//! check_txn_status a lock=10 caller=15 current=1000ms rollback_if_not_exist=true [pessimistic=true]
//! check_secondary_locks b c start=10 [only_look=true]
//! resolve_lock start=10 commit=20 [keys] | heart_beat a start=10 ttl=5000
//! scan_lock max=30 | get a ts=20 [resolved=10] [own=true] | scan from to ts=20 [desc=true] | dump
//! ```
//!
//! `UPDATE_GOLDENFILES=1` rewrites the expected output.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use cairn_engine::{Cf, IterOptions, KvEngine, MemoryEngine, WriteBatch, WriteOp};
use cairn_proto::kv::{self, key_error::Kind};
use cairn_types::TimeStamp;
use goldenscript::{Argument, Command};
use proptest::prelude::*;

use super::*;
use crate::mvcc::{
    Lock, MvccReader, MvccTxn, PairSink, ReadError, SHORT_VALUE_BYTES_MAX, ScanOptions, Scanner,
    Write, keys,
};

/// What a command answered.
type Outcome<T> = Result<T, Box<kv::KeyError>>;

/// The store of one script.
#[derive(Default)]
pub(super) struct Store {
    pub(super) engine: MemoryEngine,
}

impl Store {
    pub(super) fn reader(&self) -> MvccReader {
        MvccReader::new(self.engine.snapshot())
    }

    /// Runs a command and applies its changes, unless it answers an error.
    pub(super) fn run<T>(
        &self,
        command: impl FnOnce(&mut MvccReader, &mut MvccTxn) -> Result<T, TxnError>,
    ) -> (Outcome<T>, WriteBatch) {
        let mut txn = MvccTxn::new();
        match command(&mut self.reader(), &mut txn) {
            Ok(value) => {
                let batch = txn.into_batch();
                self.engine.write(batch.clone(), false).unwrap();
                (Ok(value), batch)
            }
            Err(error) => (Err(Box::new(error.into_key_error().unwrap())), WriteBatch::new()),
        }
    }

    /// `chosen_ts`: what the scheduler would have chosen.
    pub(super) fn prewrite(
        &self,
        request: &kv::PrewriteRequest,
        chosen_ts: Option<TimeStamp>,
    ) -> (kv::PrewriteResponse, WriteBatch) {
        let (response, batch) =
            self.run(|reader, txn| Ok(prewrite::run(reader, txn, request, chosen_ts)?));
        (response.unwrap(), batch)
    }

    fn commit(&self, keys: &[Bytes], start_ts: u64, commit_ts: u64) -> Outcome<()> {
        let request = kv::CommitRequest { keys: keys.to_vec(), start_ts, commit_ts };
        self.run(|reader, txn| commit::run(reader, txn, &request)).0
    }

    pub(super) fn rollback(&self, keys: &[Bytes], start_ts: u64) -> Outcome<()> {
        let request = kv::RollbackRequest { keys: keys.to_vec(), start_ts };
        self.run(|reader, txn| rollback::run(reader, txn, &request)).0
    }
}

/// Collects pairs.
#[derive(Default)]
struct Pairs(Vec<(Vec<u8>, Vec<u8>)>);

impl PairSink for Pairs {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.0.push((raw_key.to_vec(), value.to_vec()));
    }
}

// --- Golden scripts -------------------------------------------------------

fn text(bytes: &[u8]) -> String {
    if bytes.len() > 60 {
        return format!("<{} bytes>", bytes.len());
    }
    String::from_utf8_lossy(bytes).into_owned()
}

fn show_ts(ts: TimeStamp) -> String {
    match ts.physical_ms() {
        _ if ts.is_max() => "max".into(),
        0 => ts.0.to_string(),
        ms if ts.logical() == 0 => format!("{ms}ms"),
        ms => format!("{ms}ms_{}", ts.logical()),
    }
}

fn parse_ts(value: &str) -> Result<u64, Box<dyn Error>> {
    if value == "max" {
        return Ok(u64::MAX);
    }
    if let Some((ms, logical)) = value.split_once("ms") {
        let logical =
            if logical.is_empty() { 0 } else { logical.trim_start_matches('_').parse()? };
        return Ok(TimeStamp::compose(ms.parse()?, logical).0);
    }
    Ok(value.parse()?)
}

fn raw(user_key: &[u8]) -> String {
    let mut raw = Vec::new();
    keys::decode_user_key(user_key, &mut raw).unwrap();
    text(&raw)
}

fn show_record(cf: Cf, key: &[u8], value: Option<&[u8]>) -> String {
    let place = match cf {
        Cf::Lock => raw(key),
        _ => {
            let (user_key, ts) = keys::split_ts(key).unwrap();
            format!("{}/{}", raw(user_key), show_ts(ts))
        }
    };
    let Some(value) = value else { return format!("{} {place}", cf.name()) };
    let content = match cf {
        Cf::Default => text(value),
        Cf::Lock => {
            let lock = Lock::decode(value).unwrap();
            let holders: Vec<String> = lock.holders().map(show_lock).collect();
            match lock.is_shared {
                true => format!("shared:\n      {}", holders.join("\n      ")),
                false => holders.join(", "),
            }
        }
        Cf::Write => show_write(&Write::decode(value).unwrap()),
    };
    format!("{} {place} = {content}", cf.name())
}

fn show_lock(lock: &Lock) -> String {
    let mut out = format!(
        "{:?} primary={} start={} ttl={} min_commit={}",
        lock.kind,
        text(&lock.primary),
        show_ts(lock.start_ts),
        lock.ttl_ms,
        show_ts(lock.min_commit_ts)
    );
    if !lock.for_update_ts.is_zero() {
        write!(out, " for_update={}", show_ts(lock.for_update_ts)).unwrap();
    }
    if lock.use_async_commit {
        let others = lock.secondaries.iter().map(|key| text(key)).collect::<Vec<_>>();
        write!(out, " async=[{}]", others.join("/")).unwrap();
    }
    if let Some(value) = &lock.short_value {
        write!(out, " value={}", text(value)).unwrap();
    }
    if lock.generation > 0 {
        write!(out, " generation={}", lock.generation).unwrap();
    }
    if let Some(ts) = lock.last_change {
        write!(out, " last_change={}", show_ts(ts)).unwrap();
    }
    out
}

fn show_write(write: &Write<'_>) -> String {
    let mut out = format!("{:?} start={}", write.kind, show_ts(write.start_ts));
    if let Some(value) = write.short_value {
        write!(out, " value={}", text(value)).unwrap();
    }
    if write.is_protected {
        out.push_str(" protected");
    }
    if write.has_overlapped_rollback {
        out.push_str(" overlapped_rollback");
    }
    if let Some(ts) = write.last_change {
        write!(out, " last_change={}", show_ts(ts)).unwrap();
    }
    out
}

fn show_info(info: &kv::LockInfo) -> String {
    format!(
        "lock on {} primary={} start={} ttl={} min_commit={}",
        text(&info.key),
        text(&info.primary),
        show_ts(info.start_ts.into()),
        info.ttl_ms,
        show_ts(info.min_commit_ts.into())
    ) + if info.use_async_commit { " async" } else { "" }
        + if info.is_shared { " shared" } else { "" }
        + &show_others(&info.shared_with)
}

fn show_others(others: &[kv::LockInfo]) -> String {
    let starts: Vec<String> = others.iter().map(|info| show_ts(info.start_ts.into())).collect();
    if starts.is_empty() { String::new() } else { format!(" with={}", starts.join("/")) }
}

fn show_error(error: &kv::KeyError) -> String {
    match error.kind.as_ref().expect("an error says its kind") {
        Kind::Locked(info) => format!("Locked: {}", show_info(info)),
        Kind::Conflict(c) => format!(
            "{:?} WriteConflict on {} start={} with start={} commit={}",
            c.reason(),
            text(&c.key),
            show_ts(c.start_ts.into()),
            show_ts(c.conflict_start_ts.into()),
            show_ts(c.conflict_commit_ts.into())
        ),
        Kind::AlreadyExist(e) => format!("AlreadyExist {}", text(&e.key)),
        Kind::TxnNotFound(e) => format!("TxnNotFound {}", text(&e.primary_key)),
        Kind::CommitTsExpired(e) => format!(
            "CommitTsExpired {} commit={} min_commit={}",
            text(&e.key),
            show_ts(e.attempted_commit_ts.into()),
            show_ts(e.min_commit_ts.into())
        ),
        Kind::TxnLockNotFound(e) => format!("TxnLockNotFound {}", text(&e.key)),
        Kind::Abort(reason) => format!("Abort {reason}"),
        Kind::Committed(c) => format!("Committed at {}", show_ts(c.commit_ts.into())),
        Kind::AssertionFailed(failed) => format!(
            "AssertionFailed {} {:?}, start={} commit={}",
            text(&failed.key),
            failed.assertion(),
            show_ts(failed.existing_start_ts.into()),
            show_ts(failed.existing_commit_ts.into())
        ),
    }
}

fn show_changes(batch: &WriteBatch) -> String {
    let mut out = String::new();
    for op in batch.ops() {
        match op {
            WriteOp::Put { cf, key, value } => {
                writeln!(out, "  + {}", show_record(*cf, key, Some(value))).unwrap();
            }
            WriteOp::Delete { cf, key } => {
                writeln!(out, "  - {}", show_record(*cf, key, None)).unwrap();
            }
            WriteOp::DeleteRange { .. } => out.push_str("  - range\n"),
        }
    }
    out
}

/// Arguments of one script line: named ones, and the rest in order.
struct Args {
    named: BTreeMap<String, String>,
    rest: Vec<Argument>,
}

const NAMES: &[&str] = &[
    "primary",
    "start",
    "commit",
    "ttl",
    "one_pc",
    "min_commit",
    "assert",
    "level",
    "pessimistic",
    "ts",
    "lock",
    "caller",
    "current",
    "rollback_if_not_exist",
    "max",
    "resolved",
    "desc",
    "limit",
    "key_only",
    "for_update",
    "skip_locked",
    "async",
    "secondaries",
    "locked",
    "only_look",
    "shared",
    "claimed",
    "force_sync_commit",
    "generation",
    "own",
];

impl Args {
    fn new(command: &Command) -> Args {
        let mut args = Args { named: BTreeMap::new(), rest: Vec::new() };
        for arg in &command.args {
            match arg {
                Argument::KeyValue(key, value) if NAMES.contains(&key.as_str()) => {
                    args.named.insert(key.clone(), value.clone());
                }
                other => args.rest.push(other.clone()),
            }
        }
        args
    }

    fn ts(&self, name: &str) -> Result<u64, Box<dyn Error>> {
        self.named.get(name).map_or(Ok(0), |value| parse_ts(value))
    }

    fn keys(&self) -> Vec<Bytes> {
        let mut keys = Vec::new();
        for arg in &self.rest {
            if let Argument::Positional(key) = arg {
                keys.push(Bytes::from(key.clone()));
            }
        }
        keys
    }

    fn secondaries(&self) -> Vec<Bytes> {
        let named = self.named.get("secondaries").map_or("", String::as_str);
        let keys = named.split('/').filter(|key| !key.is_empty());
        keys.map(|key| Bytes::from(key.to_string())).collect()
    }

    fn key(&self, position: usize) -> Bytes {
        self.keys().get(position).cloned().unwrap_or_default()
    }

    fn mutations(&self) -> Result<Vec<kv::Mutation>, Box<dyn Error>> {
        use kv::MutationOp::*;
        let locked_ts = match self.ts("locked")? {
            0 => self.ts("for_update")?,
            locked_ts => locked_ts,
        };
        let assertion = match self.named.get("assert").map(String::as_str) {
            None => kv::Assertion::None,
            Some("exist") => kv::Assertion::Exist,
            Some(_) => kv::Assertion::NotExist,
        };
        let assertion = assertion.into();
        self.rest
            .iter()
            .map(|arg| {
                // `held/` stands before the key of a pessimistic lock.
                let held = |key: &str| match key.strip_prefix("held/") {
                    Some(key) => (true, key.to_string()),
                    None => (false, key.to_string()),
                };
                let (op, key, value) = match arg {
                    Argument::KeyValue(key, value) => (OpPut, key.clone(), value.clone()),
                    Argument::Positional(word) => {
                        let (is_locked, word) = held(word);
                        let mut parts = word.splitn(3, '/');
                        let op = match parts.next().unwrap_or_default() {
                            "delete" => OpDelete,
                            "lock" => OpLock,
                            "insert" => OpInsert,
                            "check" => OpCheckNotExists,
                            other => return Err(format!("unknown mutation {other}").into()),
                        };
                        let mut key = parts.next().unwrap_or_default().to_string();
                        if is_locked {
                            key.insert_str(0, "held/");
                        }
                        (op, key, parts.next().unwrap_or_default().to_string())
                    }
                    _ => return Err("unknown argument".into()),
                };
                // `long` stands for a value that is stored in CF default.
                let value =
                    if value == "long" { "v".repeat(SHORT_VALUE_BYTES_MAX + 1) } else { value };
                let (is_locked, key) = held(&key);
                let (op, key, value) = (op.into(), key.into(), value.into());
                let is_shared = self.named.contains_key("shared");
                Ok(kv::Mutation { op, key, value, is_locked, locked_ts, assertion, is_shared })
            })
            .collect()
    }
}

impl Store {
    fn script_write(&self, command: &Command, args: &Args) -> Result<String, Box<dyn Error>> {
        let (start_ts, commit_ts) = (args.ts("start")?, args.ts("commit")?);
        let (outcome, batch) = match command.name.as_str() {
            "prewrite" => {
                let request = kv::PrewriteRequest {
                    mutations: args.mutations()?,
                    primary: Bytes::from(args.named.get("primary").cloned().unwrap_or_default()),
                    start_ts,
                    lock_ttl_ms: args.ts("ttl")?,
                    min_commit_ts: args.ts("min_commit")?,
                    for_update_ts: args.ts("for_update")?,
                    try_one_pc: args.named.contains_key("one_pc"),
                    use_async_commit: args.named.contains_key("async"),
                    secondaries: args.secondaries(),
                    generation: args.ts("generation")?,
                    assertion_level: match args.named.get("level").map(String::as_str) {
                        Some("off") => kv::AssertionLevel::Off.into(),
                        Some("strict") => kv::AssertionLevel::Strict.into(),
                        _ => kv::AssertionLevel::Fast.into(),
                    },
                    ..Default::default()
                };
                // `async=0`: the scheduler could not choose.
                let chosen_ts = args.ts("one_pc")?.max(args.ts("async")?);
                let chosen_ts = (chosen_ts > 0).then_some(chosen_ts.into());
                let (response, batch) = self.prewrite(&request, chosen_ts);
                let mut out = String::new();
                for error in &response.errors {
                    writeln!(out, "{}", show_error(error))?;
                }
                if response.errors.is_empty() {
                    out.push_str("ok");
                }
                if response.one_pc_commit_ts > 0 {
                    write!(out, " one_pc_commit={}", show_ts(response.one_pc_commit_ts.into()))?;
                }
                if request.use_async_commit && response.errors.is_empty() {
                    write!(out, " min_commit={}", show_ts(response.min_commit_ts.into()))?;
                }
                (Ok(out), batch)
            }
            "pessimistic_lock" => {
                let request = kv::PessimisticLockRequest {
                    keys: args.keys(),
                    primary: Bytes::from(args.named.get("primary").cloned().unwrap_or_default()),
                    start_ts,
                    for_update_ts: args.ts("for_update")?,
                    lock_ttl_ms: args.ts("ttl")?,
                    skip_locked: args.named.contains_key("skip_locked"),
                    is_shared: args.named.contains_key("shared"),
                    ..Default::default()
                };
                let is_claimed = args.named.contains_key("claimed");
                let claimed = request.keys.iter().filter(|_| is_claimed).cloned().collect();
                self.run(|reader, txn| {
                    let response = pessimistic_lock::run(reader, txn, &request, &claimed)?;
                    if let Some(error) = response.errors.into_iter().next() {
                        return Err(TxnError::Key(Box::new(error)));
                    }
                    let shown = request.keys.iter().zip(&response.results).map(|(key, result)| {
                        let key = text(key);
                        let held = match result.held_ts {
                            0 => String::new(),
                            ts => format!(", held at {}", show_ts(ts.into())),
                        };
                        match result.conflict_ts {
                            _ if result.is_skipped => format!("{key} skipped"),
                            0 => format!("{key} locked{held}"),
                            ts => {
                                let at = show_ts(ts.into());
                                format!("{key} locked, but committed at {at}{held}")
                            }
                        }
                    });
                    Ok(shown.collect::<Vec<_>>().join("\n"))
                })
            }
            "pessimistic_rollback" => {
                let keys = args.keys();
                let locked_ts = match args.ts("locked")? {
                    0 => Vec::new(),
                    locked_ts => vec![locked_ts; keys.len()],
                };
                let for_update_ts = args.ts("for_update")?;
                let request =
                    kv::PessimisticRollbackRequest { keys, start_ts, for_update_ts, locked_ts };
                self.run(|reader, txn| {
                    pessimistic_rollback::run(reader, txn, &request).map(|()| "ok".into())
                })
            }
            "commit" => {
                let request = kv::CommitRequest { keys: args.keys(), start_ts, commit_ts };
                self.run(|reader, txn| commit::run(reader, txn, &request).map(|()| "ok".into()))
            }
            "rollback" => {
                let request = kv::RollbackRequest { keys: args.keys(), start_ts };
                self.run(|reader, txn| rollback::run(reader, txn, &request).map(|()| "ok".into()))
            }
            "cleanup" => {
                let request = kv::CleanupRequest {
                    key: args.key(0),
                    start_ts,
                    current_ts: args.ts("current")?,
                };
                self.run(|reader, txn| cleanup::run(reader, txn, &request).map(|()| "ok".into()))
            }
            "check_txn_status" => {
                let request = kv::CheckTxnStatusRequest {
                    primary_key: args.key(0),
                    lock_ts: args.ts("lock")?,
                    caller_start_ts: args.ts("caller")?,
                    current_ts: args.ts("current")?,
                    rollback_if_not_exist: args.named.contains_key("rollback_if_not_exist"),
                    force_sync_commit: args.named.contains_key("force_sync_commit"),
                    resolving_pessimistic_lock: args.named.contains_key("pessimistic"),
                };
                self.run(|reader, txn| {
                    let status = check_txn_status::run(reader, txn, &request)?;
                    let other =
                        status.lock_info.as_ref().filter(|lock| lock.primary != args.key(0));
                    let other = other.map(|lock| format!(" ask {}", text(&lock.primary)));
                    Ok(format!(
                        "{:?} ttl={} commit={}{}",
                        status.action(),
                        status.lock_ttl_ms,
                        show_ts(status.commit_ts.into()),
                        other.unwrap_or_default()
                    ))
                })
            }
            "check_secondary_locks" => {
                let request = kv::CheckSecondaryLocksRequest {
                    keys: args.keys(),
                    start_ts,
                    only_look: args.named.contains_key("only_look"),
                };
                self.run(|reader, txn| {
                    let found = check_secondary_locks::run(reader, txn, &request)?;
                    let mut out = format!("commit={}\n", show_ts(found.commit_ts.into()));
                    for lock in &found.locks {
                        out += &(show_info(lock) + "\n");
                    }
                    Ok(out)
                })
            }
            "resolve_lock" => {
                let mut keys = args.keys();
                if keys.is_empty() {
                    keys = resolve_lock::find(&self.reader(), start_ts.into(), b"", b"")?;
                }
                self.run(|reader, txn| {
                    resolve_lock::run(reader, txn, start_ts.into(), commit_ts.into(), &keys)
                        .map(|()| "ok".into())
                })
            }
            "heart_beat" => {
                let request = kv::TxnHeartBeatRequest {
                    primary: args.key(0),
                    start_ts,
                    advise_ttl_ms: args.ts("ttl")?,
                };
                self.run(|reader, txn| {
                    txn_heart_beat::run(reader, txn, &request).map(|ttl| format!("ttl={ttl}"))
                })
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        let outcome = outcome.unwrap_or_else(|error: Box<kv::KeyError>| show_error(&error));
        Ok(format!("{}\n{}", outcome.trim_end(), show_changes(&batch)))
    }

    fn script_scan(&self, args: &Args) -> Result<String, Box<dyn Error>> {
        let options = ScanOptions {
            start: args.key(0),
            end: args.key(1),
            read_ts: args.ts("ts")?.into(),
            desc: args.named.contains_key("desc"),
            key_only: args.named.contains_key("key_only"),
            resolved: Arc::new([]),
        };
        let mut scanner = Scanner::new(self.engine.snapshot(), options);
        let mut out = String::new();
        loop {
            let mut pairs = Pairs::default();
            let more = scanner.next_batch(&mut pairs, 1);
            for (key, value) in pairs.0 {
                writeln!(out, "{} = {}", text(&key), text(&value))?;
            }
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(ReadError::Locked(info)) => writeln!(out, "Locked: {}", show_info(&info))?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if out.is_empty() { "(empty)\n".into() } else { out })
    }

    fn dump(&self) -> String {
        let mut out = String::new();
        for cf in [Cf::Lock, Cf::Default, Cf::Write] {
            let mut iter = self.engine.snapshot().iter(cf, IterOptions::default());
            let mut valid = iter.seek_to_first().unwrap();
            while valid {
                writeln!(out, "{}", show_record(cf, iter.key(), Some(iter.value()))).unwrap();
                valid = iter.next().unwrap();
            }
        }
        out
    }
}

impl goldenscript::Runner for Store {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let args = Args::new(command);
        match command.name.as_str() {
            "get" => {
                let resolved: Vec<u64> = match args.ts("resolved")? {
                    0 => vec![],
                    ts => vec![ts],
                };
                let (key, read_ts) = (args.key(0), args.ts("ts")?.into());
                let found = match args.named.contains_key("own") {
                    true => self.reader().get_own(&key, read_ts, &resolved),
                    false => self.reader().get(&key, read_ts, &resolved),
                };
                Ok(match found {
                    Ok(Some(value)) => text(&value),
                    Ok(None) => "(none)".into(),
                    Err(ReadError::Locked(info)) => format!("Locked: {}", show_info(&info)),
                    Err(error) => return Err(error.into()),
                })
            }
            "scan" => self.script_scan(&args),
            "scan_lock" => {
                let request = kv::ScanLockRequest { max_ts: args.ts("max")?, ..Default::default() };
                let locks = scan_lock::run(&self.reader(), &request, b"", b"")?;
                Ok(locks.iter().fold(String::new(), |out, info| out + &show_info(info) + "\n"))
            }
            "dump" => Ok(self.dump()),
            _ => self.script_write(command, &args),
        }
    }
}

#[test]
fn golden_scripts() {
    let folder = "src/txn/testscripts";
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        goldenscript::run(&mut Store::default(), &path).unwrap();
    }
}

// --- Random transactions --------------------------------------------------

/// What one random transaction does, and how it ends.
#[derive(Clone, Debug)]
struct Script {
    writes: BTreeMap<u8, Option<u8>>,
    end: End,
    /// Repeat every command, as a client that lost the answer would.
    retry: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    OnePhase,
    Rollback,
    /// The client vanishes after the primary committed.
    CommitPrimaryOnly,
    /// The client vanishes after prewrite.
    Abandon,
}

fn arbitrary_script() -> impl Strategy<Value = Script> {
    let end = prop_oneof![
        3 => Just(End::Commit),
        2 => Just(End::OnePhase),
        1 => Just(End::Rollback),
        1 => Just(End::CommitPrimaryOnly),
        1 => Just(End::Abandon),
    ];
    let writes = proptest::collection::btree_map(0u8..6, proptest::option::of(any::<u8>()), 1..4);
    (writes, end, any::<bool>()).prop_map(|(writes, end, retry)| Script { writes, end, retry })
}

fn key_of(number: u8) -> Bytes {
    format!("key{number}").into()
}

/// Every third value is long.
fn value_of(number: u8) -> Bytes {
    if number.is_multiple_of(3) {
        vec![number; SHORT_VALUE_BYTES_MAX + 1].into()
    } else {
        vec![number].into()
    }
}

/// Settles every lock the way a reader would: through its primary.
fn resolve_all(store: &Store, now: u64) {
    for (key, lock) in store.reader().scan_locks(b"", b"", 100, |_| true).unwrap() {
        let request = kv::CheckTxnStatusRequest {
            primary_key: lock.primary.clone(),
            lock_ts: lock.start_ts.0,
            caller_start_ts: 0,
            current_ts: now,
            rollback_if_not_exist: true,
            force_sync_commit: false,
            resolving_pessimistic_lock: false,
        };
        let (status, _) = store.run(|reader, txn| check_txn_status::run(reader, txn, &request));
        let status = status.unwrap();
        assert_eq!(status.lock_ttl_ms, 0);
        let commit_ts = TimeStamp(status.commit_ts);
        store
            .run(|reader, txn| {
                resolve_lock::run(reader, txn, lock.start_ts, commit_ts, std::slice::from_ref(&key))
            })
            .0
            .unwrap();
    }
}

type Model = BTreeMap<Bytes, BTreeMap<u64, Option<Bytes>>>;

fn model_at(model: &Model, ts: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for (key, versions) in model {
        if let Some((_, Some(value))) = versions.range(..=ts).next_back() {
            rows.push((key.to_vec(), value.to_vec()));
        }
    }
    rows
}

fn play(store: &Store, model: &mut Model, script: &Script, start_ts: u64) {
    let keys: Vec<Bytes> = script.writes.keys().map(|&key| key_of(key)).collect();
    let commit_ts = start_ts + 5;
    let is_one_pc = matches!(script.end, End::OnePhase);
    let request = kv::PrewriteRequest {
        mutations: script
            .writes
            .iter()
            .map(|(&key, value)| kv::Mutation {
                op: if value.is_some() { kv::MutationOp::OpPut } else { kv::MutationOp::OpDelete }
                    .into(),
                key: key_of(key),
                value: value.map(value_of).unwrap_or_default(),
                ..Default::default()
            })
            .collect(),
        primary: keys[0].clone(),
        start_ts,
        try_one_pc: is_one_pc,
        ..Default::default()
    };
    let times = if script.retry { 2 } else { 1 };
    for _ in 0..times {
        let (response, _) = store.prewrite(&request, is_one_pc.then_some(commit_ts.into()));
        assert!(response.errors.is_empty(), "{:?}", response.errors);
        assert_eq!(response.one_pc_commit_ts, if is_one_pc { commit_ts } else { 0 });
    }
    let is_committed = match script.end {
        End::Abandon => false,
        End::OnePhase => true,
        End::Rollback => {
            (0..times).for_each(|_| store.rollback(&keys, start_ts).unwrap());
            assert!(store.commit(&keys, start_ts, commit_ts).is_err());
            false
        }
        End::Commit | End::CommitPrimaryOnly => {
            let keys = if matches!(script.end, End::Commit) { &keys } else { &keys[..1] };
            (0..times).for_each(|_| store.commit(keys, start_ts, commit_ts).unwrap());
            assert!(store.rollback(keys, start_ts).is_err());
            true
        }
    };
    if is_committed {
        for (&key, value) in &script.writes {
            model.entry(key_of(key)).or_default().insert(commit_ts, value.map(value_of));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_transactions_match_the_model(
        scripts in proptest::collection::vec(arbitrary_script(), 1..40),
    ) {
        let store = Store::default();
        let mut model = Model::new();
        for (position, script) in scripts.iter().enumerate() {
            let start_ts = 10 + position as u64 * 10;
            play(&store, &mut model, script, start_ts);
            resolve_all(&store, u64::MAX - 1);
        }
        let end_ts = 20 + scripts.len() as u64 * 10;
        for ts in (0..end_ts).step_by(3).chain([u64::MAX]) {
            let expected = model_at(&model, ts);
            for desc in [false, true] {
                let options = ScanOptions {
                    start: Bytes::new(),
                    end: Bytes::new(),
                    read_ts: ts.into(),
                    desc,
                    key_only: false,
                    resolved: Arc::new([]),
                };
                let mut pairs = Pairs::default();
                let mut scanner = Scanner::new(store.engine.snapshot(), options);
                while scanner.next_batch(&mut pairs, 2).unwrap() {}
                if desc {
                    pairs.0.reverse();
                }
                prop_assert_eq!(&pairs.0, &expected);
            }
            let mut reader = store.reader();
            for number in 0..6 {
                let key = key_of(number);
                let found = reader.get(&key, ts.into(), &[]).unwrap();
                let row = expected.iter().find(|(name, _)| name[..] == key[..]);
                prop_assert_eq!(found.as_deref(), row.map(|(_, value)| value.as_slice()));
            }
        }
    }
}
