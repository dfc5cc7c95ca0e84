//! Known bugs, for the simulation to show that its checks find them.
//!
//! They exist only in builds with the feature `sabotage`, which nothing but
//! `make sim-bugs` turns on. In every other build [`planted`] is the constant `false`,
//! and the compiler drops what depends on it.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A leader trusts its lease longer than followers keep their promise.
    LeaseTooLong,
    /// A peer answers before what it promises is durable.
    AnswerBeforeSync,
    /// A restarted peer votes at once, although it forgot which leader it heard last.
    VoteAfterRestart,
    /// Apply takes writes of an older shape of the region, wherever their keys lie.
    ApplyIgnoresEpoch,
    /// A read confirmed by the quorum, or by the leader for a follower, is answered before
    /// its index is applied.
    ReadBeforeApply,
    /// A follower reads what it has, without asking its leader.
    FollowersReadUnasked,
    /// Raft snapshots leave the locks out.
    SnapshotWithoutLocks,
    /// Prewrite does not look for newer commits.
    PrewriteIgnoresConflict,
    /// Prewrite does not look for newer commits where a pessimistic lock was lost.
    LostLockIgnoresConflict,
    /// Commands on one key do not wait for each other.
    NoLatches,
    /// Commit ignores that a reader has passed the lock.
    CommitIgnoresReaders,
    /// One-phase commit does not ask what was read before.
    OnePcIgnoresReads,
    /// Async commit does not ask what was read before its locks stood.
    AsyncCommitIgnoresReads,
    /// Whoever finishes an async commit of a dead client looks at one of its locks besides the
    /// primary's, not at all.
    RecoverySkipsSecondaries,
    /// Locks are resolved without asking their primary.
    ResolveWithoutPrimary,
    /// PD hands out timestamps above a bound that is not durable.
    TsoBoundNotDurable,
    /// A SERIALIZABLE transaction commits whatever became of what it has read.
    RefreshSkipped,
    /// Shared locks are not taken.
    SharedLocksAreNoops,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 18] = [
        Bug::LeaseTooLong,
        Bug::AnswerBeforeSync,
        Bug::VoteAfterRestart,
        Bug::ApplyIgnoresEpoch,
        Bug::ReadBeforeApply,
        Bug::FollowersReadUnasked,
        Bug::SnapshotWithoutLocks,
        Bug::PrewriteIgnoresConflict,
        Bug::LostLockIgnoresConflict,
        Bug::NoLatches,
        Bug::CommitIgnoresReaders,
        Bug::OnePcIgnoresReads,
        Bug::AsyncCommitIgnoresReads,
        Bug::RecoverySkipsSecondaries,
        Bug::ResolveWithoutPrimary,
        Bug::TsoBoundNotDurable,
        Bug::RefreshSkipped,
        Bug::SharedLocksAreNoops,
    ];
}

#[cfg(feature = "sabotage")]
thread_local! {
    /// A simulation runs on one thread, so other runs have their own.
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in what this thread runs from now on, or removes it.
#[cfg(feature = "sabotage")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether the bug is planted.
#[cfg(feature = "sabotage")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether the bug is planted: never.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
