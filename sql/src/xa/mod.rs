//! XA: this cluster's branch of a transaction that a client spreads over several servers.
//!
//! ```text
//! XA START x ─► ACTIVE ─ XA END x ─► IDLE ─ XA PREPARE x ─► prepared, apart from the session
//!                                     ├ XA COMMIT x ONE PHASE       ├ XA COMMIT x    by any session
//!                                     └ XA ROLLBACK x               └ XA ROLLBACK x  of any node
//! ```
//!
//! **Data.** Until PREPARE the branch is the session's transaction, and ends with its session. PREPARE
//! makes it a [`record`] and locks that live until somebody decides; the session is free then
//! (MySQL's `xa_detach_on_prepare`, which is ON by default).
//!
//! **What a prepared branch holds back.** The safe point of garbage collection ([`oldest`]), however
//! old it is; schema changes of the tables that it wrote ([`wait_for_branches`]), for it wrote in
//! their old form; and whoever wants its rows.
//!
//! **Who finishes what crashes left** ([`finish_left_behind`]): the node that collects garbage.
//!
//! Source: MySQL 8.4 manual, 15.3.8 "XA Transactions".

pub mod record;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_kv_client::{KvError, Preparation};
use cairn_parser::ast::{Xa, XaStart, Xid};
use cairn_planner::OutputColumn;
use cairn_types::{Datum, FieldType, MysqlError, TableId, TimeStamp, errno};
use parking_lot::Mutex;

use self::record::{Branch, State};
use crate::domain::Domain;
use crate::error::{Result, SqlError};
use crate::session::Session;
use crate::sink::ResultSink;
use crate::table_locks;

/// Between looks at branches that hold a schema change back.
const BRANCHES_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Branches of this node's sessions that are not prepared yet.
#[derive(Debug, Default)]
pub struct OpenBranches(Mutex<HashSet<Xid>>);

/// A name that is taken on this node until dropped.
#[derive(Debug)]
struct Taken {
    xid: Xid,
    domain: Arc<Domain>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.domain.open_branches.0.lock().remove(&self.xid);
    }
}

/// The branch of a session.
#[derive(Debug, Default)]
pub struct SessionBranch(Option<Open>);

#[derive(Debug)]
struct Open {
    name: Taken,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Between `XA START` and `XA END`.
    Active,
    /// Behind `XA END`.
    Idle,
    /// Its work is gone, with the error that says why; the client has not heard it yet.
    Failed(u16),
    /// The client has heard it: only the end is left.
    RollbackOnly(u16),
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Active | Stage::Failed(_) => "ACTIVE",
            Stage::Idle => "IDLE",
            Stage::RollbackOnly(_) => "ROLLBACK ONLY",
        }
    }
}

fn error(code: u16) -> SqlError {
    SqlError::Mysql(MysqlError::with_args(code, &[]))
}

/// Error 1399.
fn wrong_state(state: &str) -> SqlError {
    SqlError::Mysql(MysqlError::with_args(errno::ER_XAER_RMFAIL, &[&state]))
}

impl SessionBranch {
    fn stage(&self) -> Option<Stage> {
        self.0.as_ref().map(|open| open.stage)
    }

    fn is(&self, xid: &Xid) -> bool {
        self.0.as_ref().is_some_and(|open| open.name.xid == *xid)
    }

    /// Refuses what begins or ends transactions while the session has a branch.
    pub fn check_none(&self) -> Result<()> {
        self.stage().map_or(Ok(()), |stage| Err(wrong_state(stage.name())))
    }

    /// Refuses to read or write for a branch that takes no more work.
    pub fn check_takes_work(&self) -> Result<()> {
        match self.stage() {
            None | Some(Stage::Active) => Ok(()),
            Some(Stage::Failed(code)) => Err(error(code)),
            Some(stage @ (Stage::Idle | Stage::RollbackOnly(_))) => Err(wrong_state(stage.name())),
        }
    }

    /// The transaction was rolled back, because of a deadlock.
    pub fn lost_transaction(&mut self) {
        if let Some(open) = &mut self.0 {
            open.stage = Stage::Failed(errno::ER_XA_RBDEADLOCK);
        }
    }

    /// The session has no branch any more.
    pub fn forget(&mut self) {
        self.0 = None;
    }

    /// Refuses all stages but one, and other names.
    fn expect(&self, stage: Stage, xid: &Xid) -> Result<()> {
        match self.stage() {
            Some(found) if found != stage => Err(wrong_state(found.name())),
            None => Err(wrong_state("NON-EXISTING")),
            Some(_) if !self.is(xid) => Err(error(errno::ER_XAER_NOTA)),
            Some(_) => Ok(()),
        }
    }
}

/// Runs a statement that answers OK.
pub async fn run(session: &mut Session, xa: &Xa) -> Result<()> {
    match xa {
        Xa::Start { xid, option } => start(session, xid, *option).await,
        Xa::End { xid, suspend } => end(session, xid, *suspend),
        Xa::Prepare(xid) => prepare(session, xid).await,
        Xa::Commit { xid, one_phase } if session.branch.is(xid) => {
            commit_own(session, *one_phase).await
        }
        Xa::Commit { xid, one_phase } => {
            check_free(session)?;
            table_locks::enter_commit(session).await?;
            commit_prepared(session, xid, *one_phase).await
        }
        Xa::Rollback(xid) if session.branch.is(xid) => roll_back_own(session).await,
        Xa::Rollback(xid) => {
            check_free(session)?;
            roll_back_prepared(session, xid).await
        }
        Xa::Recover { .. } => Err(error(errno::ER_XAER_INVAL)),
    }
}

async fn start(session: &mut Session, xid: &Xid, option: Option<XaStart>) -> Result<()> {
    let stage = session.branch.stage();
    if option == Some(XaStart::Resume) && stage == Some(Stage::Idle) {
        if !session.branch.is(xid) {
            return Err(error(errno::ER_XAER_NOTA));
        }
        session.branch.0.iter_mut().for_each(|open| open.stage = Stage::Active);
        return Ok(());
    }
    if option.is_some() {
        return Err(error(errno::ER_XAER_INVAL));
    }
    session.branch.check_none()?;
    if session.transaction.is_open() || session.table_locks.has_tables() {
        return Err(error(errno::ER_XAER_OUTSIDE));
    }
    let domain = Arc::clone(&session.domain);
    if !domain.open_branches.0.lock().insert(xid.clone()) {
        return Err(error(errno::ER_XAER_DUPID));
    }
    let name = Taken { xid: xid.clone(), domain };
    if record::find(&session.domain, xid).await?.is_some() {
        return Err(error(errno::ER_XAER_DUPID));
    }
    session.open_transaction();
    if session.transaction.modes().is_some_and(|modes| modes.is_serializable()) {
        // What it reads can be looked at again when it commits only, which is past PREPARE's promise.
        session.roll_back().await?;
        return Err(SqlError::not_supported("XA transactions at SERIALIZABLE"));
    }
    if session.reads_past() {
        session.roll_back().await?;
        return Err(SqlError::not_supported("XA transactions that read the past"));
    }
    session.branch.0 = Some(Open { name, stage: Stage::Active });
    Ok(())
}

fn end(session: &mut Session, xid: &Xid, suspend: bool) -> Result<()> {
    if suspend {
        return Err(error(errno::ER_XAER_INVAL));
    }
    let failed = match session.branch.stage() {
        Some(Stage::Failed(code)) => Some(code),
        _ => None,
    };
    if failed.is_none() {
        session.branch.expect(Stage::Active, xid)?;
    } else if !session.branch.is(xid) {
        return Err(error(errno::ER_XAER_NOTA));
    }
    let stage = failed.map_or(Stage::Idle, Stage::RollbackOnly);
    session.branch.0.iter_mut().for_each(|open| open.stage = stage);
    failed.map_or(Ok(()), |code| Err(error(code)))
}

/// `XA PREPARE`: whatever happens, the session has no branch afterwards.
async fn prepare(session: &mut Session, xid: &Xid) -> Result<()> {
    session.branch.expect(Stage::Idle, xid)?;
    let _name = session.branch.0.take();
    let outcome = session.prepare_transaction(xid).await;
    outcome.map_err(|cause| failed(session, cause))
}

/// How the end of a branch that failed is told; the cause is left as a warning.
fn failed(session: &mut Session, cause: SqlError) -> SqlError {
    let code = match &cause {
        SqlError::Mysql(told) if is_xa(told.code) => return cause,
        SqlError::Kv(KvError::UndeterminedCommit { .. }) => errno::ER_XAER_RMERR,
        _ => errno::ER_XA_RBROLLBACK,
    };
    let cause = cause.to_mysql();
    session.warn(cause.code, cause.message);
    error(code)
}

fn is_xa(code: u16) -> bool {
    matches!(code, errno::ER_XAER_NOTA..=errno::ER_XA_RBROLLBACK | errno::ER_XAER_DUPID)
}

/// Makes a transaction, written with a version of the schema that `check_lease` speaks for, a
/// prepared branch.
pub async fn prepare_branch(
    domain: &Domain,
    xid: &Xid,
    transaction: &cairn_kv_client::Transaction,
    schema_version: i64,
    check_lease: impl Fn() -> Result<()>,
) -> Result<()> {
    let tables = crate::lock_view::related_tables(transaction, usize::MAX);
    let preparation = transaction.begin_prepare().await?;
    let now = match domain.now_ts().await {
        Ok(now) => now,
        Err(error) => {
            preparation.abandon().await;
            return Err(error);
        }
    };
    let mut branch = Branch::new(xid, preparation.prepared(), now);
    (branch.schema_version, branch.tables) = (schema_version, tables);
    match record::put(domain, &branch).await {
        Ok(true) => {}
        outcome => {
            preparation.abandon().await;
            // A record of unknown fate is rolled back in time.
            return Err(outcome.err().unwrap_or_else(|| error(errno::ER_XAER_DUPID)));
        }
    }
    let outcome = async {
        // Whoever changes the schema has waited for this node so far, and from here on for the
        // record.
        check_lease()?;
        lock_all(domain, &branch, preparation).await?;
        record::turn(domain, &branch, State::Prepared).await
    };
    let outcome = outcome.await;
    match outcome {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(overtaken(domain, xid, &branch).await),
        // It may stand as prepared, if only the answer was lost, and somebody may have decided by
        // now: so it is not undone behind the record's back.
        Err(cause) => match record::turn(domain, &branch, State::RollingBack).await {
            Ok(Some(branch)) => {
                if let Err(error) = carry_out(domain, &branch).await {
                    tracing::warn!(%error, "a branch is left to be rolled back");
                }
                Err(cause)
            }
            Ok(None) => Err(overtaken(domain, xid, &branch).await),
            Err(_) => {
                tracing::warn!(%cause, start_ts = branch.start_ts().0, "a branch may be prepared");
                Err(error(errno::ER_XAER_RMERR))
            }
        },
    }
}

/// Locks all keys, and tells those who collect what crashes leave behind that it is still at it.
async fn lock_all(domain: &Domain, branch: &Branch, preparation: Preparation<'_>) -> Result<()> {
    let mut locks = std::pin::pin!(preparation.lock());
    loop {
        if let Ok(outcome) = tokio::time::timeout(record::RENEW_AFTER, &mut locks).await {
            return Ok(outcome?);
        }
        if record::renew(domain, branch).await?.is_none() {
            return Err(error(errno::ER_XA_RBROLLBACK));
        }
    }
}

/// Somebody else decided about a branch before its record said `Prepared`, or right after it did. Locks
/// that came behind a rollback are removed: no record is left that leads to them.
async fn overtaken(domain: &Domain, xid: &Xid, branch: &Branch) -> SqlError {
    let roll_back = async {
        let found = record::find(domain, xid).await?;
        let found = found.filter(|found| found.start_ts() == branch.start_ts());
        match found.map(|found| found.state) {
            None | Some(State::RollingBack) => {
                Ok(domain.kv.roll_back_prepared(&branch.prepared()?).await?)
            }
            Some(State::Preparing | State::Prepared | State::Committing) => Ok(false),
        }
    };
    match roll_back.await {
        Ok(true) => error(errno::ER_XA_RBROLLBACK),
        // Committed, by somebody who found it prepared.
        Ok(false) => error(errno::ER_XAER_RMERR),
        Err(SqlError::Kv(cause)) => {
            tracing::warn!(%cause, start_ts = branch.start_ts().0, "a branch may have left locks");
            error(errno::ER_XAER_RMERR)
        }
        Err(cause) => cause,
    }
}

/// `XA COMMIT`, of the session's own branch.
async fn commit_own(session: &mut Session, one_phase: bool) -> Result<()> {
    match session.branch.stage() {
        Some(Stage::Idle) if one_phase => {
            session.branch.forget();
            let outcome = session.commit().await;
            outcome.map_err(|cause| failed(session, cause))
        }
        // As MySQL does, also behind `XA END`.
        Some(Stage::Failed(code) | Stage::RollbackOnly(code)) => {
            session.branch.forget();
            session.roll_back().await?;
            Err(error(code))
        }
        stage => Err(wrong_state(stage.map_or("NON-EXISTING", Stage::name))),
    }
}

/// `XA ROLLBACK`, of the session's own branch.
async fn roll_back_own(session: &mut Session) -> Result<()> {
    if matches!(session.branch.stage(), Some(Stage::Active | Stage::Failed(_))) {
        return Err(wrong_state(Stage::Active.name()));
    }
    session.branch.forget();
    session.roll_back().await
}

/// Another branch is not decided about from within a transaction: that could not be undone.
fn check_free(session: &Session) -> Result<()> {
    let is_free = !session.transaction.is_open() && session.branch.stage().is_none();
    if is_free { Ok(()) } else { Err(error(errno::ER_XAER_OUTSIDE)) }
}

async fn find(session: &Session, xid: &Xid) -> Result<Branch> {
    let branch = record::find(&session.domain, xid).await?;
    let branch = branch.filter(|branch| branch.state != State::Preparing);
    branch.ok_or_else(|| error(errno::ER_XAER_NOTA))
}

async fn commit_prepared(session: &Session, xid: &Xid, one_phase: bool) -> Result<()> {
    let branch = find(session, xid).await?;
    if one_phase {
        return Err(wrong_state("PREPARED"));
    }
    match record::turn(&session.domain, &branch, State::Committing).await? {
        Some(branch) => carry_out(&session.domain, &branch).await,
        None => Err(told_otherwise(session, xid, "ROLLING BACK").await?),
    }
}

async fn roll_back_prepared(session: &Session, xid: &Xid) -> Result<()> {
    let branch = find(session, xid).await?;
    match record::turn(&session.domain, &branch, State::RollingBack).await? {
        Some(branch) => carry_out(&session.domain, &branch).await,
        None => Err(told_otherwise(session, xid, "COMMITTING").await?),
    }
}

/// Somebody else's word counts.
async fn told_otherwise(session: &Session, xid: &Xid, state: &str) -> Result<SqlError> {
    find(session, xid).await.map(|_| wrong_state(state))
}

/// Does what was decided about a branch; may be repeated.
async fn carry_out(domain: &Domain, branch: &Branch) -> Result<()> {
    let prepared = branch.prepared()?;
    let outcome = match branch.state {
        State::Preparing | State::Prepared => return Ok(()),
        State::Committing => domain.kv.commit_prepared(&prepared).await,
        State::RollingBack => domain.kv.roll_back_prepared(&prepared).await.map(|is_rolled_back| {
            if !is_rolled_back {
                tracing::error!(
                    start_ts = prepared.start_ts.0,
                    "a branch to roll back is committed"
                );
            }
        }),
    };
    match outcome {
        Ok(()) => record::remove(domain, branch).await,
        Err(cause @ KvError::TxnAborted { .. }) => {
            // Nobody but this room ends a prepared branch.
            tracing::error!(%cause, start_ts = prepared.start_ts.0, "a prepared branch is gone");
            record::remove(domain, branch).await?;
            Err(error(errno::ER_XA_RBROLLBACK))
        }
        Err(cause) => Err(cause.into()),
    }
}

// --- XA RECOVER -------------------------------------------------------------------------

/// Columns of `XA RECOVER`.
pub fn recover_columns() -> Vec<OutputColumn> {
    let column = |name: &str, ty| OutputColumn::computed(name, ty);
    vec![
        column("formatID", FieldType::bigint()),
        column("gtrid_length", FieldType::bigint()),
        column("bqual_length", FieldType::bigint()),
        column("data", FieldType::varchar(258)),
    ]
}

/// `XA RECOVER`: the branches whose fate is open, or not carried out yet.
pub async fn recover(
    session: &mut Session,
    convert_xid: bool,
    sink: &mut dyn ResultSink,
) -> Result<()> {
    let branches = record::all(&session.domain).await?;
    sink.begin_rows(recover_columns().into()).await?;
    for branch in branches.iter().filter(|branch| branch.state != State::Preparing) {
        let Xid { gtrid, bqual, format_id } = branch.xid()?;
        let lengths = [gtrid.len(), bqual.len()].map(|length| Datum::Int(length as i64));
        let [gtrid_length, bqual_length] = lengths;
        let data = [gtrid, bqual].concat();
        let data = match convert_xid {
            true => Datum::text(format!("0x{}", crate::regions::key_text::hex(&data))),
            false => Datum::Bytes(data),
        };
        sink.row(&[Datum::Int(format_id.into()), gtrid_length, bqual_length, data]).await?;
    }
    sink.end_rows(session.status_flags(), session.diagnostics.list.len()).await
}

// --- what branches hold back ------------------------------------------------------------

/// The oldest branch: nothing that it may have read is collected.
pub async fn oldest(domain: &Domain) -> Result<Option<TimeStamp>> {
    Ok(record::all(domain).await?.iter().map(Branch::start_ts).min())
}

/// Waits until no branch has written one of the tables under a schema older than `version`.
pub async fn wait_for_branches(domain: &Domain, tables: &[TableId], version: i64) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    wait_while_any(domain, |branch| {
        branch.schema_version < version
            && tables.iter().any(|table| branch.tables.contains(&table.0))
    })
    .await
}

/// Waits until there is no branch of a schema older than `version`, whatever it wrote.
pub async fn wait_for_all_branches(domain: &Domain, version: i64) -> Result<()> {
    wait_while_any(domain, |branch| branch.schema_version < version).await
}

async fn wait_while_any(domain: &Domain, is_in_the_way: impl Fn(&Branch) -> bool) -> Result<()> {
    while record::all(domain).await?.iter().any(&is_in_the_way) {
        tokio::time::sleep(BRANCHES_POLL_INTERVAL).await;
    }
    Ok(())
}

/// Ends branches that a crash left behind, one by one. One that cannot be ended now stays for the
/// next turn, and is in no other one's way.
pub async fn finish_left_behind(domain: &Domain) -> Result<()> {
    let now = domain.now_ts().await?;
    let branches = record::all(domain).await?;
    for branch in branches.iter().filter(|branch| branch.is_left_behind(now)) {
        if let Err(error) = finish(domain, branch).await {
            let start_ts = branch.start_ts().0;
            tracing::warn!(%error, start_ts, state = ?branch.state, "a branch that a crash left behind stays");
        }
    }
    Ok(())
}

async fn finish(domain: &Domain, branch: &Branch) -> Result<()> {
    let branch = match branch.state {
        State::Preparing => record::turn(domain, branch, State::RollingBack).await?,
        _ => Some(branch.clone()),
    };
    let Some(branch) = branch else { return Ok(()) };
    tracing::info!(start_ts = branch.start_ts().0, state = ?branch.state, "a branch is finished");
    carry_out(domain, &branch).await
}
