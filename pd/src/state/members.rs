//! Members of the placement driver: who belongs to the Raft group, and where.
//!
//! **Data.** The list changes by entries of the log alone; Raft's configuration is
//! made of it ([`Members::conf_state`]), so that both change together. A log begins
//! with its *founders*, which are in no entry: who replays a log from its first entry
//! starts with them.
//!
//! **Invariants.** An id is never used again. There is always a voter. Changes are
//! one member at a time, so that the majorities before and after overlap (Raft
//! dissertation, section 4.1).
//!
//! A data folder of the time of single members names nobody: the one voter is
//! [`SOLE_MEMBER_ID`] then.

use std::collections::BTreeMap;

use cairn_pd_client::PdError;
use raft::eraftpb::ConfState;

use super::MemberInfo;

/// The id of a member that began alone.
pub const SOLE_MEMBER_ID: u64 = 1;
/// Most members: more only slow every write down.
pub const MEMBERS_MAX: usize = 7;

/// The members as of some entry of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    founders: Vec<MemberInfo>,
    list: BTreeMap<u64, MemberInfo>,
    last_id: u64,
}

impl Members {
    /// The members a cluster begins with: ids by the order of names, so that all of
    /// them number themselves alike.
    pub fn found(mut named: Vec<(String, String)>) -> Result<Members, PdError> {
        named.sort();
        let invalid = |reason: String| Err(PdError::InvalidArgument(reason));
        if named.is_empty() || named.len() > MEMBERS_MAX {
            return invalid(format!("{} members: must be 1 to {MEMBERS_MAX}", named.len()));
        }
        if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return invalid(format!("two members are named {}", pair[0].0));
        }
        let member = |(at, (name, address)): (usize, (String, String))| MemberInfo {
            id: at as u64 + SOLE_MEMBER_ID,
            name,
            address,
            ..MemberInfo::default()
        };
        let founders: Vec<MemberInfo> = named.into_iter().enumerate().map(member).collect();
        Ok(Members::from_founders(founders))
    }

    /// What a log with these founders begins with; none: the sole member of old.
    pub fn from_founders(founders: Vec<MemberInfo>) -> Members {
        let list = founders.iter().map(|member| (member.id, member.clone())).collect();
        let last_id = founders.iter().map(|member| member.id).max().unwrap_or(0);
        Members { founders, list, last_id }
    }

    /// Reads what a snapshot holds.
    pub(super) fn restore(
        founders: Vec<MemberInfo>,
        list: Vec<MemberInfo>,
        last_id: u64,
    ) -> Members {
        let list = list.into_iter().map(|member| (member.id, member)).collect();
        Members { founders, list, last_id }
    }

    /// The members the log began with.
    pub fn founders(&self) -> &[MemberInfo] {
        &self.founders
    }

    /// The highest id ever used.
    pub fn last_id(&self) -> u64 {
        self.last_id.max(SOLE_MEMBER_ID)
    }

    /// The highest id that an entry or a founder used; zero: none did.
    pub(super) fn last_used_id(&self) -> u64 {
        self.last_id
    }

    /// The members by id; empty when only the sole member of old exists.
    pub fn iter(&self) -> impl Iterator<Item = &MemberInfo> {
        self.list.values()
    }

    /// A member by id.
    pub fn get(&self, id: u64) -> Option<&MemberInfo> {
        self.list.get(&id)
    }

    /// A member by name or, if none is called so, by id.
    pub fn find(&self, name_or_id: &str) -> Option<&MemberInfo> {
        let named = self.list.values().find(|member| member.name == name_or_id);
        named.or_else(|| self.list.get(&name_or_id.parse().ok()?))
    }

    /// Whether the id belongs to the group.
    pub fn contains(&self, id: u64) -> bool {
        self.list.contains_key(&id) || (self.list.is_empty() && id == SOLE_MEMBER_ID)
    }

    /// Whether the id belonged to the group once and does no more.
    pub fn was_removed(&self, id: u64) -> bool {
        !self.contains(id) && id <= self.last_id()
    }

    /// Ids of those who vote.
    pub fn voters(&self) -> Vec<u64> {
        if self.list.is_empty() {
            return vec![SOLE_MEMBER_ID];
        }
        self.list.values().filter(|member| !member.learner).map(|member| member.id).collect()
    }

    /// Raft's configuration.
    pub fn conf_state(&self) -> ConfState {
        let learners = self.list.values().filter(|member| member.learner);
        ConfState {
            voters: self.voters(),
            learners: learners.map(|member| member.id).collect(),
            ..ConfState::default()
        }
    }

    /// Checksum over the founders.
    pub fn founders_checksum(&self) -> u64 {
        let mut hasher = crc32fast::Hasher::new();
        for founder in &self.founders {
            // Addresses may be corrected later; names and ids may not.
            hasher.update(format!("{}={};", founder.id, founder.name).as_bytes());
        }
        u64::from(hasher.finalize())
    }

    /// Name, address and token of a member; whether it votes stays.
    pub(super) fn put(&mut self, member: MemberInfo) -> Result<(), PdError> {
        if !self.contains(member.id) {
            return Err(no_member(member.id));
        }
        self.refuse_twin(&member)?;
        let learner = self.get(member.id).is_some_and(|known| known.learner);
        self.list.insert(member.id, MemberInfo { learner, ..member });
        Ok(())
    }

    /// A learner with an id above all others.
    pub(super) fn add(&mut self, member: MemberInfo) -> Result<(), PdError> {
        self.refuse_twin(&member)?;
        if member.id <= self.last_id() {
            return Err(PdError::Unavailable(format!("member id {} is used", member.id)));
        }
        if self.list.len() >= MEMBERS_MAX {
            return Err(PdError::InvalidArgument(format!("there are {MEMBERS_MAX} members")));
        }
        if self.list.is_empty() {
            let sole = MemberInfo { id: SOLE_MEMBER_ID, ..MemberInfo::default() };
            self.list.insert(sole.id, sole);
        }
        self.last_id = member.id;
        self.list.insert(member.id, MemberInfo { learner: true, ..member });
        Ok(())
    }

    pub(super) fn promote(&mut self, id: u64) -> Result<(), PdError> {
        let member = self.list.get_mut(&id).ok_or_else(|| no_member(id))?;
        member.learner = false;
        Ok(())
    }

    pub(super) fn remove(&mut self, id: u64) -> Result<(), PdError> {
        if !self.contains(id) {
            return Err(no_member(id));
        }
        if self.voters() == [id] {
            return Err(PdError::InvalidArgument(
                "the last voting member cannot be removed".into(),
            ));
        }
        self.last_id = self.last_id();
        self.list.remove(&id);
        Ok(())
    }

    fn refuse_twin(&self, member: &MemberInfo) -> Result<(), PdError> {
        let twin =
            self.list.values().find(|known| known.id != member.id && known.name == member.name);
        match twin {
            Some(twin) => Err(PdError::InvalidArgument(format!(
                "the name {} is taken by member {} at {}",
                member.name, twin.id, twin.address
            ))),
            None => Ok(()),
        }
    }
}

fn no_member(id: u64) -> PdError {
    PdError::InvalidArgument(format!("there is no member {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<(String, String)> {
        names.iter().map(|name| ((*name).to_owned(), format!("{name}:2379"))).collect()
    }

    fn member(id: u64, name: &str) -> MemberInfo {
        MemberInfo { id, name: name.into(), address: format!("{name}:1"), ..Default::default() }
    }

    #[test]
    fn founders_number_themselves_alike() {
        let one = Members::found(named(&["b", "a", "c"])).expect("valid");
        let other = Members::found(named(&["c", "b", "a"])).expect("valid");
        assert_eq!(one, other);
        assert_eq!(one.find("b").map(|member| member.id), Some(2));
        assert_eq!(one.find("3").map(|member| member.name.as_str()), Some("c"));
        assert_eq!(one.voters(), [1, 2, 3]);
        assert!(Members::found(named(&["a", "a"])).is_err());
        assert!(Members::found(Vec::new()).is_err());
        let moved = vec![("a".to_owned(), "elsewhere:1".to_owned())];
        let moved = Members::found(moved).expect("valid").founders_checksum();
        assert_eq!(moved, Members::found(named(&["a"])).expect("valid").founders_checksum());
        assert_ne!(one.founders_checksum(), moved);
    }

    #[test]
    fn ids_are_never_used_again() {
        let mut members = Members::default();
        assert_eq!((members.voters(), members.last_id()), (vec![1], 1));
        members.add(member(2, "b")).expect("new");
        assert_eq!(members.conf_state().learners, [2]);
        members.promote(2).expect("a learner");
        members.remove(1).expect("another votes");
        assert!(members.was_removed(1) && !members.was_removed(3));
        assert_eq!(members.voters(), [2]);
        assert!(members.remove(2).is_err(), "the last voter");
        assert!(members.add(member(1, "a")).is_err());
        assert!(members.add(member(3, "b")).is_err(), "the name is taken");
        members.add(member(3, "a")).expect("new id");
        members.remove(3).expect("a learner");
        assert!(members.add(member(3, "c")).is_err());
    }
}
