//! The members of the placement driver: who there are, who comes, who goes.
//!
//! A new member begins as a learner, which the leader lets vote once it has nearly
//! everything. Members change one at a time.

use std::sync::atomic::Ordering;

use cairn_pd_client::PdError;
use cairn_proto::pd::{AddMemberResponse, Member};

use crate::replication::shared::SILENT_AFTER_MS;
use crate::server::PdServer;
use crate::state::members::{MEMBERS_MAX, Members};
use crate::state::{Kind, MemberInfo};

/// A learner that lacks fewer entries has caught up.
const PROMOTE_LAG_MAX: u64 = 100;
/// Longest name of a member.
const NAME_BYTES_MAX: usize = 64;

impl PdServer {
    /// The members and which of them leads, as far as this one knows.
    pub fn members(&self) -> (Vec<Member>, Option<Member>) {
        let shared = self.shared();
        let status = shared.status();
        let progress = shared.progress();
        let now_ms = self.clock.monotonic_ms();
        let own_id = shared.member_id();
        let shown = |member: &MemberInfo| {
            let known = progress.get(&member.id);
            let heard = known.is_some_and(|known| known.is_well(now_ms));
            let own = member.id == own_id;
            let last_index = if own { shared.last_index() } else { 0 };
            Member {
                name: member.name.clone(),
                member_id: member.id,
                client_url: shared.address(member.id),
                learner: member.learner,
                healthy: own || heard || member.id == status.leader_id,
                log_index: known.map_or(last_index, |known| known.matched),
            }
        };
        let members: Vec<Member> = shared.state().read().members.iter().map(shown).collect();
        let leader = members.iter().find(|member| member.member_id == status.leader_id).cloned();
        (members, leader)
    }

    /// Takes a member in as a learner; asking again with the same token answers the same.
    pub async fn add_member(
        &self,
        name: String,
        address: String,
        token: u64,
    ) -> Result<AddMemberResponse, PdError> {
        check_name(&name)?;
        if !is_address(&address) {
            return Err(PdError::InvalidArgument(format!("'{address}' is not HOST:PORT")));
        }
        let known = {
            let state = self.shared().state().read();
            let members = &state.members;
            match members.find(&name).filter(|member| member.name == name) {
                Some(member) if token != 0 && member.token == token => Ok(member.id),
                Some(member) => {
                    return Err(PdError::InvalidArgument(format!(
                        "the name {name} is taken by member {} at {}; if that one lost its folder, \
                         remove it first (cairn ctl member remove {name})",
                        member.id, member.address
                    )));
                }
                None => {
                    refuse_address(members, &address)?;
                    if members.iter().count() >= MEMBERS_MAX {
                        return Err(PdError::InvalidArgument(format!(
                            "there are {MEMBERS_MAX} members already"
                        )));
                    }
                    Err(members.last_id() + 1)
                }
            }
        };
        let member_id = match known {
            Ok(member_id) => member_id,
            Err(id) => {
                let member = MemberInfo { id, name, address, token, learner: true };
                tracing::info!(member = id, name = member.name, "a member joins");
                self.replication.propose(Kind::AddLearner(member)).await?;
                id
            }
        };
        let (members, _) = self.members();
        let state = self.shared().state().read();
        let founders = state.members.founders().iter().map(|founder| Member {
            name: founder.name.clone(),
            member_id: founder.id,
            client_url: founder.address.clone(),
            ..Member::default()
        });
        let founders = founders.collect();
        Ok(AddMemberResponse { header: None, member_id, founders, members })
    }

    /// Takes a member out for good. Answers what the operator should know.
    pub async fn remove_member(&self, name_or_id: &str) -> Result<String, PdError> {
        let member = self.find_member(name_or_id)?;
        if !member.learner {
            self.check_quorum_without(&member)?;
        }
        if member.id == self.shared().member_id() {
            // Whoever leads next does it.
            let to = self.best_successor().ok_or_else(|| {
                PdError::InvalidArgument("no other member can take over leadership".into())
            })?;
            self.hand_over(to).await?;
            return Err(PdError::NotLeader(self.shared().address(to)));
        }
        tracing::info!(member = member.id, name = member.name, "a member is removed");
        self.replication.propose(Kind::RemoveMember(member.id)).await?;
        let voters = self.shared().state().read().members.voters().len();
        Ok(even_warning(voters).unwrap_or_default())
    }

    /// Another voter leads.
    pub async fn transfer_member(&self, name_or_id: &str) -> Result<(), PdError> {
        let member = self.find_member(name_or_id)?;
        if member.id == self.shared().member_id() {
            return Ok(());
        }
        if member.learner {
            return Err(PdError::InvalidArgument(format!("{} does not vote yet", member.name)));
        }
        if !self.is_well(member.id) {
            self.check_heard_long_enough()?;
            return Err(PdError::InvalidArgument(format!(
                "{} was not heard for {} s",
                member.name,
                SILENT_AFTER_MS / 1_000
            )));
        }
        self.hand_over(member.id).await
    }

    fn find_member(&self, name_or_id: &str) -> Result<MemberInfo, PdError> {
        let state = self.shared().state().read();
        state.members.find(name_or_id).cloned().ok_or_else(|| {
            let names: Vec<&str> = state.members.iter().map(|one| one.name.as_str()).collect();
            PdError::InvalidArgument(format!(
                "no member is called {name_or_id}; there are {}",
                names.join(", ")
            ))
        })
    }

    /// Whether the member was heard lately.
    fn is_well(&self, member_id: u64) -> bool {
        if member_id == self.shared().member_id() {
            return true;
        }
        let now_ms = self.clock.monotonic_ms();
        self.shared().progress().get(&member_id).is_some_and(|known| known.is_well(now_ms))
    }

    /// A new leader cannot tell yet who is well: the question may be asked again.
    fn check_heard_long_enough(&self) -> Result<(), PdError> {
        let led_since_ms = self.led_since_ms.load(Ordering::Relaxed);
        if self.clock.monotonic_ms().saturating_sub(led_since_ms) < SILENT_AFTER_MS {
            return Err(PdError::Unavailable("the new leader has not heard everybody yet".into()));
        }
        Ok(())
    }

    /// Those who stay must be able to decide without whoever goes.
    fn check_quorum_without(&self, member: &MemberInfo) -> Result<(), PdError> {
        let mut voters = self.shared().state().read().members.voters();
        voters.retain(|id| *id != member.id);
        if voters.is_empty() {
            return Err(PdError::InvalidArgument(
                "the last voting member cannot be removed".into(),
            ));
        }
        let well = voters.iter().filter(|id| self.is_well(**id)).count();
        if well > voters.len() / 2 {
            return Ok(());
        }
        self.check_heard_long_enough()?;
        Err(PdError::InvalidArgument(format!(
            "without {} only {well} of {} voting members would be reachable, which is no majority; \
             bring the others back or remove them first",
            member.name,
            voters.len()
        )))
    }

    /// Writes down what members told of themselves; lets learners vote that caught up.
    pub(crate) async fn tend_members(&self) -> Result<(), PdError> {
        for told in self.shared().take_news() {
            self.replication.propose(Kind::PutMember(told)).await?;
        }
        let last_index = self.shared().last_index();
        let progress = self.shared().progress();
        let learners: Vec<u64> = {
            let state = self.shared().state().read();
            state.members.iter().filter(|member| member.learner).map(|one| one.id).collect()
        };
        for id in learners {
            let Some(progress) = progress.get(&id) else { continue };
            let caught_up = progress.matched > 0
                && !progress.needs_snapshot
                && progress.matched + PROMOTE_LAG_MAX >= last_index;
            if caught_up && self.is_well(id) {
                self.replication.propose(Kind::PromoteMember(id)).await?;
                let voters = self.shared().state().read().members.voters().len();
                tracing::info!(member = id, voters, "the new member votes");
                if let Some(warning) = even_warning(voters) {
                    tracing::warn!("{warning}");
                }
            }
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), PdError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(fits) {
        return Err(PdError::InvalidArgument(format!(
            "member name '{name}': 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'"
        )));
    }
    Ok(())
}

fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn refuse_address(members: &Members, address: &str) -> Result<(), PdError> {
    match members.iter().find(|member| member.address == address) {
        Some(member) => Err(PdError::InvalidArgument(format!(
            "the address {address} belongs to member {}",
            member.name
        ))),
        None => Ok(()),
    }
}

/// An even number of voters survives the loss of no more than the odd one below.
pub(crate) fn even_warning(voters: usize) -> Option<String> {
    let survives = (voters - 1) / 2;
    (voters.is_multiple_of(2)).then(|| {
        format!(
            "{voters} voting members survive the loss of {survives}, no more than {} would: an odd \
             number is better",
            voters - 1
        )
    })
}
