//! Finding the leader among PD's members, and calling it.
//!
//! **Flow.** Every known member is asked at once who leads; the first useful answer
//! counts. Members tell their addresses, so that a client that was given one finds the
//! others when that one dies. A member that does not lead (any more) names the leader,
//! which is asked first.
//!
//! **Invariants.** A call ends within its deadline. Repeats wait with jitter; those that
//! reached a member are paid from the client's budget. Every operation may be repeated
//! (ids and timestamps of a lost answer are simply never used).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cairn_proto::pd::pd_client::PdClient as PdStub;
use cairn_proto::pd::{GetMembersRequest, GetMembersResponse, Header, ResponseHeader};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::backoff::{Backoff, RetryBudget};
use crate::error::PdError;

/// Time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time a member may take to say who leads.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time a call may take with all its attempts.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent member is noticed after these two together, about when the others have elected a
/// new leader. Streams, which have no deadline of their own, end then too.
const KEEP_ALIVE_EVERY: Duration = Duration::from_millis(500);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// First and longest wait between attempts. An election takes one or two seconds: a
/// longer wait would only add to it.
const BACKOFF_MS: (u64, u64) = (20, 250);
/// Repeats that may be saved up.
const RETRY_BURST_MAX: u32 = 500;
/// Members remembered besides the endpoints given.
const LEARNED_MAX: usize = 16;

/// The stub of the generated service.
pub(crate) type Stub = PdStub<Channel>;

/// The member that led when it was asked last.
#[derive(Clone)]
pub(crate) struct Leader {
    pub stub: Stub,
    /// Tells one finding from the next.
    number: u64,
}

/// The way to whichever member leads.
pub(crate) struct LeaderChannel {
    endpoints: Vec<String>,
    /// Addresses that members told.
    learned: Mutex<BTreeSet<String>>,
    /// Who leads, as a member that does not has told.
    hint: Mutex<Option<String>>,
    leader: ArcSwapOption<Leader>,
    found: AtomicU64,
    /// One search for the leader at a time.
    search: tokio::sync::Mutex<()>,
    cluster_id: AtomicU64,
    budget: RetryBudget,
    seed: AtomicU64,
}

impl LeaderChannel {
    pub fn new(endpoints: Vec<String>, seed: u64) -> LeaderChannel {
        LeaderChannel {
            endpoints,
            learned: Mutex::default(),
            hint: Mutex::default(),
            leader: ArcSwapOption::empty(),
            found: AtomicU64::new(0),
            search: tokio::sync::Mutex::new(()),
            cluster_id: AtomicU64::new(0),
            budget: RetryBudget::new(RETRY_BURST_MAX),
            seed: AtomicU64::new(seed),
        }
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Acquire)
    }

    /// The next call looks for a leader and learns which cluster it serves.
    pub fn forget_cluster(&self) {
        self.cluster_id.store(0, Ordering::Release);
        self.leader.store(None);
    }

    /// What every request says of where it belongs.
    pub fn header(&self) -> Option<Header> {
        Some(Header { cluster_id: self.cluster_id(), allow_follower: false })
    }

    /// The waiting series of one call.
    pub fn backoff(&self) -> Backoff {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, seed)
    }

    /// The leader; looks for it when none is known.
    pub async fn leader(&self) -> Result<Leader, PdError> {
        if let Some(leader) = self.leader.load_full() {
            return Ok((*leader).clone());
        }
        let _searching = self.search.lock().await;
        if let Some(leader) = self.leader.load_full() {
            return Ok((*leader).clone());
        }
        let stub = self.find_leader().await?;
        let number = self.found.fetch_add(1, Ordering::Relaxed);
        let leader = Leader { stub, number };
        self.leader.store(Some(Arc::new(leader.clone())));
        Ok(leader)
    }

    async fn find_leader(&self) -> Result<Stub, PdError> {
        let hint = self.hint.lock().take();
        if let Some(address) = hint
            && let Ok(stub) = self.ask_member(&address).await
        {
            return Ok(stub);
        }
        let members = self.members();
        let mut asked: FuturesUnordered<_> =
            members.iter().map(|address| self.ask_member(address)).collect();
        let mut last = PdError::Unavailable("no endpoint is configured".into());
        while let Some(outcome) = asked.next().await {
            match outcome {
                Ok(stub) => return Ok(stub),
                // A misled client should hear that, whatever the others say.
                Err(_) if matches!(last, PdError::ClusterMismatch(_)) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Every address at which a member may be.
    pub fn members(&self) -> Vec<String> {
        let mut members = self.endpoints.clone();
        let learned = self.learned.lock();
        let new =
            learned.iter().filter(|one| !members.iter().any(|known| same_address(known, one)));
        members.extend(new.cloned().collect::<Vec<_>>());
        members
    }

    /// Forgets that leader, so that the next call looks for one. `error` may name it.
    pub fn forget(&self, leader: &Leader, error: &PdError) {
        if let PdError::NotLeader(address) = error
            && !address.is_empty()
        {
            *self.hint.lock() = Some(address.clone());
        }
        // Somebody else may have found the next one already.
        self.leader.rcu(|known| match known {
            Some(known) if known.number == leader.number => None,
            other => other.clone(),
        });
    }

    async fn ask_member(&self, endpoint: &str) -> Result<Stub, PdError> {
        let (stub, response) = self.get_members(endpoint).await?;
        let Some(leader) = response.leader else {
            return Err(PdError::Unavailable(format!("{endpoint} knows of no leader")));
        };
        // A member without an address of its own is reached the way we came.
        if leader.client_url.is_empty() || same_address(&leader.client_url, endpoint) {
            return Ok(stub);
        }
        connect(&leader.client_url).await
    }

    /// What one member knows of the members.
    pub async fn get_members(&self, endpoint: &str) -> Result<(Stub, GetMembersResponse), PdError> {
        let mut stub = connect(endpoint).await?;
        let request = GetMembersRequest { header: self.header() };
        let response = tokio::time::timeout(ASK_TIMEOUT, stub.get_members(request))
            .await
            .map_err(|_| PdError::Unavailable(format!("{endpoint} does not answer")))?
            .map_err(|status| PdError::Unavailable(format!("{endpoint}: {status}")))?
            .into_inner();
        PdError::from_header(response.header.as_ref())?;
        self.learn(&response)?;
        Ok((stub, response))
    }

    fn learn(&self, response: &GetMembersResponse) -> Result<(), PdError> {
        let found = response.header.as_ref().map_or(0, |header| header.cluster_id);
        let known = self.cluster_id();
        if known != 0 && found != 0 && known != found {
            return Err(PdError::ClusterMismatch(format!(
                "expected cluster {known}, found cluster {found}"
            )));
        }
        if found != 0 {
            self.cluster_id.store(found, Ordering::Release);
        }
        let addresses = response.members.iter().map(|member| &member.client_url);
        let usable = addresses.filter(|address| address.contains(':')).take(LEARNED_MAX);
        *self.learned.lock() = usable.cloned().collect();
        Ok(())
    }

    /// A member that did not know its cluster when it was found may know it now.
    fn learn_identity(&self, answer: &impl Answer) {
        let found = answer.header().map_or(0, |header| header.cluster_id);
        if self.cluster_id() == 0 && found != 0 {
            self.cluster_id.store(found, Ordering::Release);
        }
    }

    /// Calls the leader until it answers or the time is over. `send` makes one
    /// attempt.
    pub async fn call<T, F>(&self, send: impl Fn(Stub, Option<Header>) -> F) -> Result<T, PdError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.repeat(&send, false).await
    }

    /// As [`LeaderChannel::call`]; while nobody leads, any member may answer from what it
    /// has applied.
    pub async fn read<T, F>(&self, send: impl Fn(Stub, Option<Header>) -> F) -> Result<T, PdError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.repeat(&send, true).await
    }

    async fn repeat<T, F>(
        &self,
        send: &impl Fn(Stub, Option<Header>) -> F,
        followers: bool,
    ) -> Result<T, PdError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.budget.earn();
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut backoff = self.backoff();
        loop {
            let (error, paid) = match self.leader().await {
                Ok(leader) => match attempt(send(leader.stub.clone(), self.header())).await {
                    Err(error) if error.is_retryable() => {
                        self.forget(&leader, &error);
                        (error, true)
                    }
                    Ok(answer) => {
                        self.learn_identity(&answer);
                        return Ok(answer);
                    }
                    Err(error) => return Err(error),
                },
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) if followers => match self.ask_followers(send).await {
                    Some(answer) => return Ok(answer),
                    None => (error, false),
                },
                Err(error) => (error, false),
            };
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline || (paid && !self.budget.spend()) {
                return Err(error);
            }
            tracing::debug!(%error, "call of the placement driver is repeated");
            tokio::time::sleep(delay).await;
        }
    }

    async fn ask_followers<T, F>(&self, send: &impl Fn(Stub, Option<Header>) -> F) -> Option<T>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let header = Some(Header { cluster_id: self.cluster_id(), allow_follower: true });
        let members = self.members();
        let mut asked: FuturesUnordered<_> = members
            .iter()
            .map(|address| async { attempt(send(connect(address).await?, header)).await })
            .collect();
        while let Some(outcome) = asked.next().await {
            if let Ok(answer) = outcome {
                return Some(answer);
            }
        }
        None
    }
}

async fn attempt<T, F>(sending: F) -> Result<T, PdError>
where
    T: Answer,
    F: Future<Output = Result<Response<T>, Status>>,
{
    let timeout_ms = ATTEMPT_TIMEOUT.as_millis() as u64;
    let response = tokio::time::timeout(ATTEMPT_TIMEOUT, sending)
        .await
        .map_err(|_| PdError::DeadlineExceeded { timeout_ms })?
        .map_err(|status| unavailable(&status))?
        .into_inner();
    PdError::from_header(response.header())?;
    Ok(response)
}

/// A response, whose header may hold PD's error.
pub(crate) trait Answer {
    /// The header, if the member sent one.
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! answers {
    ($($response:ident),* $(,)?) => {$(
        impl Answer for cairn_proto::pd::$response {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        }
    )*};
}

answers!(
    GetMembersResponse,
    SteerResponse,
    ScatterRegionsResponse,
    AllocIdResponse,
    BootstrapResponse,
    IsBootstrappedResponse,
    PutStoreResponse,
    GetStoreResponse,
    GetAllStoresResponse,
    StoreHeartbeatResponse,
    RegionHeartbeatResponse,
    GetRegionResponse,
    ScanRegionsResponse,
    AskSplitResponse,
    ReportPeersResponse,
    ReportSplitResponse,
    GetGcSafePointResponse,
    UpdateGcSafePointResponse,
    GetBoundsResponse,
    GetConfigResponse,
    PutConfigResponse,
    NotifySchemaResponse,
    AddMemberResponse,
    RemoveMemberResponse,
    TransferMemberResponse,
);

/// Network trouble as an error of this crate.
pub(crate) fn unavailable(status: &Status) -> PdError {
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::Unimplemented => {
            PdError::InvalidArgument(status.message().to_owned())
        }
        tonic::Code::FailedPrecondition => PdError::ClusterMismatch(status.message().to_owned()),
        _ => PdError::Unavailable(status.to_string()),
    }
}

fn without_scheme(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest)
}

fn same_address(left: &str, right: &str) -> bool {
    without_scheme(left) == without_scheme(right)
}

async fn connect(address: &str) -> Result<Stub, PdError> {
    let uri = format!("http://{}", without_scheme(address));
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| PdError::InvalidArgument(format!("address {address}: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| PdError::Unavailable(format!("{address}: {}", root_cause(&error))))?;
    Ok(Stub::new(channel))
}

/// The innermost cause: the outer ones only say "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
