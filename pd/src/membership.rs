//! How a member begins: alone, together with others, or by joining a cluster.
//!
//! **Invariants.** Who a member is, is durable before it sends a message. Its token is
//! durable before it asks to join, so that asking again after a crash is recognised.
//!
//! A folder of the time of single members has a log and no identity: it is member 1.

use cairn_engine::RaftLog;
use cairn_pd_client::GrpcPdClient;
use rand::Rng;
use rand::rngs::StdRng;

use crate::error::OpenError;
use crate::replication::snapshot::Position;
use crate::replication::{GROUP_ID, Identity, MemberFiles};
use crate::server::PdConfig;
use crate::state::members::{Members, SOLE_MEMBER_ID};
use crate::state::{MemberInfo, State};

/// What a member begins with.
pub(crate) struct Begun {
    pub identity: Identity,
    /// Members before the first entry of the log.
    pub founders: Members,
    /// Where others are reached, as the operator says now.
    pub addresses: Vec<(u64, String)>,
}

/// Finds out who the member is, or makes it somebody.
pub(crate) async fn begin(
    config: &PdConfig,
    log: &dyn RaftLog,
    files: &dyn MemberFiles,
    rng: &mut StdRng,
) -> Result<Begun, OpenError> {
    let snapshot = files.snapshot()?;
    let known = files.identity()?.filter(|identity| identity.member_id != 0);
    let has_log = log.state(GROUP_ID)?.is_some();
    // A snapshot at position 0 alone: the member died while it was being founded.
    let has_past = snapshot.as_ref().is_some_and(|(_, at)| at.index > 0);
    if known.is_some() || has_log || has_past {
        return resume(config, files, rng, snapshot);
    }
    let token = files.identity()?.map_or_else(|| rng.random_range(1..u64::MAX), |one| one.token);
    if !config.join.is_empty() {
        return join(config, files, token).await;
    }
    let (member_id, founders) = if config.initial_cluster.is_empty() {
        (SOLE_MEMBER_ID, Members::default())
    } else {
        let founders = Members::found(config.initial_cluster.clone())?;
        let own = founders.find(&config.name).map(|member| member.id);
        let own = own.ok_or_else(|| {
            OpenError::Config(format!("--initial-cluster does not name {}", config.name))
        })?;
        (own, founders)
    };
    found(files, Identity { member_id, token }, founders)
}

/// A cluster's first moment, as this member sees it.
fn found(
    files: &dyn MemberFiles,
    identity: Identity,
    founders: Members,
) -> Result<Begun, OpenError> {
    if !founders.founders().is_empty() {
        let state = State { members: founders.clone(), ..State::default() };
        files.save_snapshot(&state, Position::default())?;
    }
    files.save_identity(identity)?;
    Ok(Begun { identity, founders, addresses: Vec::new() })
}

/// A member that has been here before.
fn resume(
    config: &PdConfig,
    files: &dyn MemberFiles,
    rng: &mut StdRng,
    snapshot: Option<(State, Position)>,
) -> Result<Begun, OpenError> {
    let identity = match files.identity()? {
        Some(identity) => identity,
        None => {
            let token = rng.random_range(1..u64::MAX);
            let identity = Identity { member_id: SOLE_MEMBER_ID, token };
            files.save_identity(identity)?;
            identity
        }
    };
    let members = snapshot.map(|(state, _)| state.members).unwrap_or_default();
    if members.was_removed(identity.member_id) {
        return Err(OpenError::Removed);
    }
    // The list of old may be right in who there is and wrong in where.
    let told = config.initial_cluster.iter().filter_map(|(name, address)| {
        let member = members.find(name)?;
        Some((member.id, address.clone()))
    });
    let addresses = told.collect();
    Ok(Begun { identity, founders: Members::from_founders(members.founders().to_vec()), addresses })
}

/// Asks a cluster to take this member in. It begins as a learner.
async fn join(config: &PdConfig, files: &dyn MemberFiles, token: u64) -> Result<Begun, OpenError> {
    files.save_identity(Identity { member_id: 0, token })?;
    let cluster = GrpcPdClient::connect(&config.join).await?;
    let joined = cluster.add_member(&config.name, &config.addr, token).await?;
    let founders = joined.founders.into_iter().map(|member| MemberInfo {
        id: member.member_id,
        name: member.name,
        address: member.client_url,
        ..MemberInfo::default()
    });
    let founders = Members::from_founders(founders.collect());
    let identity = Identity { member_id: joined.member_id, token };
    tracing::info!(member = identity.member_id, "joins as a learner");
    let begun = found(files, identity, founders)?;
    let addresses = joined.members.into_iter().map(|one| (one.member_id, one.client_url));
    Ok(Begun { addresses: addresses.collect(), ..begun })
}
