//! The records of prepared transactions, in the meta keyspace.
//!
//! **Data.** One record per branch, from before its first lock stands until its fate is carried
//! out. Its state is what counts; it changes by transactions of its own, so that of two who
//! want different things one is first, and the other one learns of it.
//!
//! ```text
//!            PREPARE: locks stand            COMMIT
//! Preparing ───────────────────────► Prepared ─────► Committing ───► (no record)
//!     │ failed, or too old              │ ROLLBACK
//!     └────────────► RollingBack ◄──────┘
//!                         └───► (no record)
//! ```
//!
//! **Why in this order.** The record comes before the locks: a crash in between leaves a record
//! that has no locks, never locks that live for ever without a record that says how to remove
//! them. It becomes `Prepared` behind the locks: a crash before leaves `Preparing`, which
//! whoever collects garbage rolls back, and PREPARE was not answered; a crash behind leaves a
//! branch that `XA RECOVER` lists. Collecting and preparing cannot both win, since each must
//! change the record first. A decision is written before it is carried out: whoever finds
//! it carries it out, however often, and nobody decides otherwise.

use std::time::Duration;

use bytes::Bytes;
use cairn_kv_client::Prepared;
use cairn_parser::ast::Xid;
use cairn_types::TimeStamp;
use serde::{Deserialize, Serialize};

use crate::catalog::meta;
use crate::catalog::record::{self, Change, Changed};
use crate::domain::Domain;
use crate::error::{Result, SqlError};

/// How long PREPARE may go without saying that it is still at it until its branch may be rolled back: so
/// long rows stay locked, about, when a node dies in the midst of it. Nothing rests on clocks:
/// who is too late finds that out from the record.
const PREPARE_MAX_MS: u64 = 20_000;
/// It says so after this time.
pub const RENEW_AFTER: Duration = Duration::from_millis(PREPARE_MAX_MS / 4);

/// What is to become of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its locks are being taken.
    Preparing,
    /// Whoever decides, decides.
    Prepared,
    /// It was told to commit.
    Committing,
    /// It was told to roll back, or was never prepared.
    RollingBack,
}

/// A branch. Keys and names are in hexadecimal: people read this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// What is to become of it.
    pub state: State,
    gtrid: String,
    bqual: String,
    format_id: u32,
    start_ts: u64,
    primary: Option<String>,
    spans: Vec<(String, String)>,
    /// The schema that its writes were made for.
    pub schema_version: i64,
    /// Tables that it has locks of.
    pub tables: Vec<i64>,
    /// When it may be given up if it is still `Preparing`, by PD's clock.
    prepare_until_ms: u64,
}

impl Branch {
    /// One that is about to be prepared.
    pub fn new(xid: &Xid, prepared: &Prepared, now: TimeStamp) -> Branch {
        let hex_span = |(first, last): &(Bytes, Bytes)| (hex(first), hex(last));
        Branch {
            state: State::Preparing,
            gtrid: hex(&xid.gtrid),
            bqual: hex(&xid.bqual),
            format_id: xid.format_id,
            start_ts: prepared.start_ts.0,
            primary: prepared.primary.as_ref().map(|key| hex(key)),
            spans: prepared.spans.iter().map(hex_span).collect(),
            schema_version: 0,
            tables: Vec::new(),
            prepare_until_ms: now.physical_ms() + PREPARE_MAX_MS,
        }
    }

    /// Its name.
    pub fn xid(&self) -> Result<Xid> {
        let (gtrid, bqual) = (unhex(&self.gtrid)?, unhex(&self.bqual)?);
        Ok(Xid { gtrid, bqual, format_id: self.format_id })
    }

    /// What its end needs.
    pub fn prepared(&self) -> Result<Prepared> {
        let key = |text: &String| unhex(text).map(Bytes::from);
        let span = |(first, last): &(String, String)| Ok((key(first)?, key(last)?));
        Ok(Prepared {
            start_ts: self.start_ts(),
            primary: self.primary.as_ref().map(key).transpose()?,
            spans: self.spans.iter().map(span).collect::<Result<_>>()?,
        })
    }

    /// Its transaction.
    pub fn start_ts(&self) -> TimeStamp {
        TimeStamp(self.start_ts)
    }

    /// Whether it is nobody's business any more to go on with it but ours.
    pub fn is_left_behind(&self, now: TimeStamp) -> bool {
        match self.state {
            State::Preparing => self.prepare_until_ms < now.physical_ms(),
            State::Prepared => false,
            State::Committing | State::RollingBack => true,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    crate::regions::key_text::hex(bytes)
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let damaged = || SqlError::DamagedSchema(format!("prepared transaction: {text}"));
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    };
    pairs.map(byte).collect::<Option<_>>().ok_or_else(damaged)
}

/// Key of a branch's record.
fn key_of(xid: &Xid) -> Bytes {
    meta::prepared_key(&hex(&xid.gtrid), &hex(&xid.bqual), xid.format_id)
}

/// All branches there are at the snapshot's time.
pub async fn all(domain: &Domain) -> Result<Vec<Branch>> {
    let snapshot = domain.kv.snapshot(domain.now_ts().await?);
    let entries = meta::prepared(&snapshot).await?;
    entries.iter().map(|(key, value)| meta::from_json(key, value)).collect()
}

/// Whether there is a branch of that name.
pub async fn find(domain: &Domain, xid: &Xid) -> Result<Option<Branch>> {
    record::find(domain, &key_of(xid)).await
}

/// Keeps a branch; false when there is one of that name.
pub async fn put(domain: &Domain, branch: &Branch) -> Result<bool> {
    let key = key_of(&branch.xid()?);
    let put = |found: Option<&Branch>, _| match found {
        None => Change::Put(branch.clone()),
        Some(_) => Change::Keep,
    };
    Ok(match record::change(domain, &key, put).await? {
        // Of a try before that was not known to have succeeded.
        Changed::Kept(found) => found.as_ref() == Some(branch),
        Changed::Put(_) | Changed::Deleted => true,
    })
}

/// Moves a branch from one of the states to another; answers it, or `None` when it is gone or in a
/// state from which no way leads there.
pub async fn turn(domain: &Domain, branch: &Branch, to: State) -> Result<Option<Branch>> {
    let key = key_of(&branch.xid()?);
    // Another branch may have taken the name since.
    let is_it = |found: &Branch| found.start_ts == branch.start_ts;
    let turn = |found: Option<&Branch>, _| match found {
        Some(found) if is_it(found) && leads(found.state, to) => {
            Change::Put(Branch { state: to, ..found.clone() })
        }
        _ => Change::Keep,
    };
    Ok(match record::change(domain, &key, turn).await? {
        Changed::Put(branch) => Some(branch),
        Changed::Kept(found) => found.filter(|found| is_it(found) && found.state == to),
        Changed::Deleted => None,
    })
}

/// Gives a branch more time to be prepared; answers it, or `None` when it is somebody else's by now.
pub async fn renew(domain: &Domain, branch: &Branch) -> Result<Option<Branch>> {
    let key = key_of(&branch.xid()?);
    let renew = |found: Option<&Branch>, now| renewed(found, branch, now);
    match record::change(domain, &key, renew).await? {
        Changed::Put(branch) => Ok(Some(branch)),
        Changed::Kept(_) | Changed::Deleted => Ok(None),
    }
}

fn renewed(found: Option<&Branch>, branch: &Branch, now: TimeStamp) -> Change<Branch> {
    let prepare_until_ms = now.physical_ms() + PREPARE_MAX_MS;
    match found {
        Some(found) if found.start_ts == branch.start_ts && found.state == State::Preparing => {
            Change::Put(Branch { prepare_until_ms, ..found.clone() })
        }
        _ => Change::Keep,
    }
}

fn leads(from: State, to: State) -> bool {
    matches!(
        (from, to),
        (State::Preparing, State::Prepared | State::RollingBack)
            | (State::Prepared, State::Committing | State::RollingBack)
    )
}

/// Forgets a branch whose fate is carried out.
pub async fn remove(domain: &Domain, branch: &Branch) -> Result<()> {
    let key = key_of(&branch.xid()?);
    let remove = |found: Option<&Branch>, _| match found {
        Some(found) if found.start_ts == branch.start_ts => Change::Delete,
        _ => Change::Keep,
    };
    record::change(domain, &key, remove).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch() -> Branch {
        let xid = Xid { gtrid: b"a\xff".to_vec(), bqual: Vec::new(), format_id: 7 };
        let (first, last) = (Bytes::from_static(b"t1"), Bytes::from_static(b"t2"));
        let prepared = Prepared {
            start_ts: TimeStamp::compose(1_000, 3),
            primary: Some(first.clone()),
            spans: vec![(first, last)],
        };
        let branch = Branch::new(&xid, &prepared, TimeStamp::compose(2_000, 0));
        let stored = meta::to_json(&branch).expect("JSON");
        let read: Branch = meta::from_json(b"mx", &stored).expect("what was written");
        assert_eq!((read.xid().expect("hex"), read.prepared().expect("hex")), (xid, prepared));
        read
    }

    #[test]
    fn a_branch_that_was_not_prepared_in_time_is_left_behind() {
        let mut branch = branch();
        let at = |ms| TimeStamp::compose(ms, 0);
        assert!(!branch.is_left_behind(at(2_000 + PREPARE_MAX_MS)));
        assert!(branch.is_left_behind(at(2_001 + PREPARE_MAX_MS)));
        branch.state = State::Prepared;
        assert!(!branch.is_left_behind(at(u64::from(u32::MAX))));
        branch.state = State::Committing;
        assert!(branch.is_left_behind(at(2_000)));
    }

    #[test]
    fn who_is_still_at_it_has_more_time() {
        let branch = branch();
        let at = |ms| TimeStamp::compose(ms, 0);
        let Change::Put(renewed_branch) = renewed(Some(&branch), &branch, at(30_000)) else {
            panic!("it is renewed")
        };
        assert!(branch.is_left_behind(at(50_000)) && !renewed_branch.is_left_behind(at(50_000)));
        let lost = Branch { state: State::RollingBack, ..branch.clone() };
        let other = Branch { start_ts: branch.start_ts + 1, ..branch.clone() };
        for found in [None, Some(&lost), Some(&other)] {
            assert!(matches!(renewed(found, &branch, at(30_000)), Change::Keep));
        }
    }

    #[test]
    fn what_was_decided_stays_decided() {
        use State::*;
        let all = [Preparing, Prepared, Committing, RollingBack];
        let ways = all.map(|from| all.iter().filter(|to| leads(from, **to)).count());
        assert_eq!(ways, [2, 2, 0, 0]);
        assert!(!leads(Preparing, Committing));
    }

    #[test]
    fn damaged_hexadecimal_is_an_error() {
        for bad in ["0", "0g", "ü0"] {
            assert!(unhex(bad).is_err(), "{bad}");
        }
    }
}
