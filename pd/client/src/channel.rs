//! Finding the leader among PD's endpoints, and calling it.
//!
//! **Invariants.** A call ends within its deadline. Repeats wait with jitter and
//! are paid from the client's budget; every operation may be repeated (ids and
//! timestamps of a lost answer are simply never used).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cairn_proto::pd::pd_client::PdClient as PdStub;
use cairn_proto::pd::{GetMembersRequest, GetMembersResponse, Header, ResponseHeader};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::backoff::{Backoff, RetryBudget};
use crate::error::PdError;

/// Time to make a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time a call may take with all its attempts.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead peer is noticed after this and the time-out behind it.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// First and longest wait between attempts.
const BACKOFF_MS: (u64, u64) = (20, 1_000);
/// Repeats that may be saved up.
const RETRY_BURST_MAX: u32 = 500;

/// The stub of the generated service.
pub(crate) type Stub = PdStub<Channel>;

/// The way to whichever member leads.
pub(crate) struct LeaderChannel {
    endpoints: Vec<String>,
    leader: ArcSwapOption<Stub>,
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
            leader: ArcSwapOption::empty(),
            search: tokio::sync::Mutex::new(()),
            cluster_id: AtomicU64::new(0),
            budget: RetryBudget::new(RETRY_BURST_MAX),
            seed: AtomicU64::new(seed),
        }
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Acquire)
    }

    /// What every request says of where it belongs.
    pub fn header(&self) -> Option<Header> {
        Some(Header { cluster_id: self.cluster_id() })
    }

    /// The waiting series of one call.
    pub fn backoff(&self) -> Backoff {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, seed)
    }

    /// The leader's stub; looks for the leader when none is known.
    pub async fn leader(&self) -> Result<Stub, PdError> {
        if let Some(stub) = self.leader.load_full() {
            return Ok((*stub).clone());
        }
        let _searching = self.search.lock().await;
        if let Some(stub) = self.leader.load_full() {
            return Ok((*stub).clone());
        }
        let mut last = PdError::Unavailable("no endpoint is configured".into());
        for endpoint in &self.endpoints {
            match self.ask_member(endpoint).await {
                Ok(stub) => {
                    self.leader.store(Some(Arc::new(stub.clone())));
                    return Ok(stub);
                }
                Err(error @ PdError::ClusterMismatch(_)) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Forgets the leader, so that the next call looks for it.
    pub fn forget_leader(&self) {
        self.leader.store(None);
    }

    async fn ask_member(&self, endpoint: &str) -> Result<Stub, PdError> {
        let mut stub = connect(endpoint).await?;
        let request = GetMembersRequest { header: self.header() };
        let response = tokio::time::timeout(ATTEMPT_TIMEOUT, stub.get_members(request))
            .await
            .map_err(|_| PdError::Unavailable(format!("{endpoint} does not answer")))?
            .map_err(|status| PdError::Unavailable(format!("{endpoint}: {status}")))?
            .into_inner();
        PdError::from_header(response.header.as_ref())?;
        self.learn_cluster(&response)?;
        let leader = response.leader.unwrap_or_default().client_url;
        // A member without an address of its own is reached the way we came.
        if leader.is_empty() || same_address(&leader, endpoint) {
            return Ok(stub);
        }
        connect(&leader).await
    }

    fn learn_cluster(&self, response: &GetMembersResponse) -> Result<(), PdError> {
        let found = response.header.as_ref().map_or(0, |header| header.cluster_id);
        let known = self.cluster_id();
        if known != 0 && known != found {
            return Err(PdError::ClusterMismatch(format!(
                "expected cluster {known}, found cluster {found}"
            )));
        }
        self.cluster_id.store(found, Ordering::Release);
        Ok(())
    }

    /// Calls the leader until it answers or the time is over. `send` makes one
    /// attempt.
    pub async fn call<T, F>(&self, send: impl Fn(Stub) -> F) -> Result<T, PdError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.budget.earn();
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut backoff = self.backoff();
        loop {
            let error = match self.attempt(&send).await {
                Ok(response) => return Ok(response),
                Err(error) if !error.is_retryable() => return Err(error),
                Err(error) => error,
            };
            self.forget_leader();
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline || !self.budget.spend() {
                return Err(error);
            }
            tracing::debug!(%error, "call of the placement driver is repeated");
            tokio::time::sleep(delay).await;
        }
    }

    async fn attempt<T, F>(&self, send: &impl Fn(Stub) -> F) -> Result<T, PdError>
    where
        T: Answer,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let stub = self.leader().await?;
        let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, send(stub)).await;
        let timeout_ms = ATTEMPT_TIMEOUT.as_millis() as u64;
        let response = answer
            .map_err(|_| PdError::DeadlineExceeded { timeout_ms })?
            .map_err(|status| unavailable(&status))?
            .into_inner();
        PdError::from_header(response.header())?;
        Ok(response)
    }
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
    ReportSplitResponse,
    GetGcSafePointResponse,
    UpdateGcSafePointResponse,
    GetConfigResponse,
    PutConfigResponse,
    NotifySchemaResponse,
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
