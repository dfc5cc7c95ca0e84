//! Taking leadership over, and giving it up.
//!
//! **Flow.** Raft says that this member leads and has applied everything of earlier terms.
//! Then the server takes the term over: it gives a new cluster its identity, makes a
//! timestamp bound durable above everything its predecessors can have handed out, goes on
//! with ids behind theirs, and forgets what heartbeats told in an earlier leadership. Only
//! then does the gate open.
//!
//! **Invariants**
//! - What is proposed while a term is taken over is proposed in that term or not at all.
//! - A new leader has heard of no store and calls none down: silence counts from here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_pd_client::PdError;
use cairn_types::sabotage::{Bug, planted};
use rand::Rng;

use crate::cluster::Cluster;
use crate::server::PdServer;
use crate::state::{Kind, MemberInfo};

/// Pause before a term that could not be taken over is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a hand-over may take: the new leader only lacks what is under way.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

impl PdServer {
    /// Whether this member may serve as the leader right now; else who may.
    pub fn check_leads(&self) -> Result<(), PdError> {
        if self.shared().gate().is_open(self.clock.monotonic_ms()) {
            return Ok(());
        }
        let leader_id = self.shared().status().leader_id;
        let elsewhere = leader_id != self.shared().member_id();
        let address = if elsewhere { self.shared().leader_address() } else { String::new() };
        Err(PdError::NotLeader(address))
    }

    /// Takes over each term that this member leads; ends when the member does.
    pub(crate) async fn run_leadership(&self) {
        let mut status = self.shared().watch_status();
        let mut taken_over = 0;
        loop {
            let now = *status.borrow_and_update();
            if now.stopped || now.removed {
                self.stopping().cancel();
                return;
            }
            if now.leads && now.term != taken_over {
                match self.take_over(now.term).await {
                    Ok(()) => taken_over = now.term,
                    Err(error) => {
                        tracing::warn!(term = now.term, %error, "taking the term over");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                continue;
            }
            tokio::select! {
                () = self.stopping().cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn take_over(&self, term: u64) -> Result<(), PdError> {
        let (cluster_id, tso_bound_ms, id_bound, own) = {
            let state = self.shared().state().read();
            let own = state.members.get(self.shared().member_id()).cloned();
            (state.cluster_id, state.tso_bound_ms, state.id_bound, own)
        };
        if cluster_id == 0 {
            let fresh = self.rng.lock().random_range(1..=u64::MAX >> 1);
            self.replication.propose_in(term, Kind::InitCluster(fresh)).await?;
        }
        let named = self.introduction();
        if own.as_ref() != Some(&named) {
            self.replication.propose_in(term, Kind::PutMember(named)).await?;
        }
        self.tso.begin_at(tso_bound_ms);
        let bound_ms = self.tso.next_bound_ms();
        if !planted(Bug::TsoBoundNotDurable) {
            self.replication.propose_in(term, Kind::TsoBound(bound_ms)).await?;
        }
        self.tso.raise_bound(bound_ms);
        self.ids.lock().skip(id_bound);
        let now_ms = self.clock.monotonic_ms();
        self.forget_heartbeats(now_ms);
        *self.recovery.lock() = None;
        self.led_since_ms.store(now_ms, Ordering::Relaxed);
        self.replication.open_gate(term)
    }

    /// From now on nobody has reported, and silence counts.
    pub(crate) fn forget_heartbeats(&self, now_ms: u64) {
        *self.cluster.lock() = Cluster::new(self.config.max_replicas.max(1), now_ms);
    }

    /// This member as it shows itself to the others.
    fn introduction(&self) -> MemberInfo {
        MemberInfo {
            id: self.shared().member_id(),
            name: self.config.name.clone(),
            address: self.config.addr.clone(),
            token: self.token,
            learner: false,
        }
    }

    /// Lets another voter lead, so that this member can stop without a pause for the
    /// others. Does nothing unless it leads and somebody can take over.
    pub async fn resign(&self) {
        if self.check_leads().is_err() {
            return;
        }
        if let Some(to) = self.best_successor()
            && let Err(error) = self.hand_over(to).await
        {
            tracing::warn!(%error, "handing leadership over");
        }
    }

    /// The voter that lacks least, of those heard lately.
    pub(crate) fn best_successor(&self) -> Option<u64> {
        let now_ms = self.clock.monotonic_ms();
        let voters = self.shared().state().read().members.voters();
        let progress = self.shared().progress();
        let well = progress
            .into_iter()
            .filter(|(id, progress)| voters.contains(id) && progress.is_well(now_ms));
        well.max_by_key(|(_, progress)| progress.matched).map(|(id, _)| id)
    }

    /// Lets that member lead; returns when it does.
    pub(crate) async fn hand_over(&self, to: u64) -> Result<(), PdError> {
        let mut status = self.shared().watch_status();
        self.replication.transfer(to)?;
        let led = status.wait_for(|status| status.leader_id == to || status.stopped);
        match tokio::time::timeout(TRANSFER_TIMEOUT, led).await {
            Ok(Ok(status)) if status.leader_id == to => Ok(()),
            _ => Err(PdError::Unavailable(format!("member {to} did not take over in time"))),
        }
    }
}
