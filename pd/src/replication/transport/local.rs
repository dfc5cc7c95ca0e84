//! Members that share a process: messages go from mailbox to mailbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use raft::eraftpb::Message;

use super::{Inbox, Transport};

/// The members of a process.
#[derive(Default)]
pub struct LocalNetwork {
    members: RwLock<BTreeMap<u64, Inbox>>,
}

impl LocalNetwork {
    /// A network without members.
    pub fn new() -> Arc<LocalNetwork> {
        Arc::new(LocalNetwork::default())
    }

    /// The member neither sends nor receives any more.
    pub fn detach(&self, member_id: u64) {
        self.members.write().remove(&member_id);
    }
}

impl Transport for LocalNetwork {
    fn attach(&self, member_id: u64, inbox: Inbox) {
        self.members.write().insert(member_id, inbox);
    }

    fn send(&self, to: u64, _address: &str, messages: Vec<Message>) {
        let members = self.members.read();
        let from = messages.first().map_or(0, |message| message.from);
        let Some(sender) = members.get(&from) else { return };
        match members.get(&to) {
            Some(receiver) => match receiver.admit(&sender.head(to)) {
                Ok(()) => receiver.deliver(messages),
                Err(super::Refusal::Removed) => sender.report_removed(),
                Err(super::Refusal::Stranger(reason)) => tracing::warn!(reason, "message refused"),
            },
            None => sender.report_unreachable(to),
        }
    }
}
