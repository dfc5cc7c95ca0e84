//! What Raft entries carry.
//!
//! **Data.** An entry's first byte is its kind.
//! ```text
//! 0x01 write:        varint conf_ver, varint version, operations (cairn_engine::batch)
//! 0x02 split:        SplitCommand
//! 0x03 compact log:  CompactLogCommand
//! 0x04 prepare merge, 0x05 commit merge, 0x06 roll back merge: see `merge`
//! ```
//! An empty entry is a new leader's first. Membership changes are entries of Raft's own
//! kind whose context is a [`ConfChangeCommand`].

use bytes::Bytes;
use cairn_engine::WriteBatch;
use cairn_engine::batch::{put_varint, take_varint};
use cairn_proto::meta;
use prost::Message;

use super::error::RaftStoreError;
use super::ids::RegionEpoch;

const KIND_WRITE: u8 = 0x01;
const KIND_SPLIT: u8 = 0x02;
const KIND_COMPACT_LOG: u8 = 0x03;
const KIND_PREPARE_MERGE: u8 = 0x04;
const KIND_COMMIT_MERGE: u8 = 0x05;
const KIND_ROLLBACK_MERGE: u8 = 0x06;

/// Splits a region at keys; the region keeps the rightmost part.
#[derive(Clone, PartialEq, Message)]
pub struct SplitCommand {
    /// Epoch the proposer saw.
    #[prost(message, optional, tag = "1")]
    pub epoch: Option<meta::RegionEpoch>,
    /// New regions, in key order; the parent keeps what lies behind them.
    #[prost(message, repeated, tag = "2")]
    pub pieces: Vec<SplitPiece>,
}

/// One region split off.
#[derive(Clone, PartialEq, Message)]
pub struct SplitPiece {
    /// Raw key at which it ends; it begins where the one before it ends.
    #[prost(bytes = "bytes", tag = "1")]
    pub end_key: Bytes,
    /// Its id.
    #[prost(uint64, tag = "2")]
    pub region_id: u64,
    /// Ids of its peers, in the order of the parent's peers.
    #[prost(uint64, repeated, tag = "3")]
    pub peer_ids: Vec<u64>,
}

/// Drops entries up to and including an index.
#[derive(Clone, PartialEq, Message)]
pub struct CompactLogCommand {
    /// Last entry dropped.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Its term.
    #[prost(uint64, tag = "2")]
    pub term: u64,
}

/// In the source's log: it is about to be absorbed, and serves nothing from here on.
#[derive(Clone, PartialEq, Message)]
pub struct PrepareMergeCommand {
    /// The source's epoch as the proposer saw it.
    #[prost(message, optional, tag = "1")]
    pub epoch: Option<meta::RegionEpoch>,
    /// The target, at the epoch at which it must still be.
    #[prost(message, optional, tag = "2")]
    pub target: Option<meta::Region>,
    /// Every peer of the source holds the entries up to here.
    #[prost(uint64, tag = "3")]
    pub min_index: u64,
}

/// In the target's log: it takes over the source's range.
#[derive(Clone, PartialEq, Message)]
pub struct CommitMergeCommand {
    /// Epoch of the target; exactly, or nothing happens.
    #[prost(message, optional, tag = "1")]
    pub epoch: Option<meta::RegionEpoch>,
    /// The source after `PrepareMerge`.
    #[prost(message, optional, tag = "2")]
    pub source: Option<meta::Region>,
    /// Index of the source's `PrepareMerge`.
    #[prost(uint64, tag = "3")]
    pub prepare_index: u64,
    /// Every peer of the source holds the entries up to here.
    #[prost(uint64, tag = "4")]
    pub min_index: u64,
    /// The source's entries from there up to `PrepareMerge` (raft's own encoding).
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub entries: Vec<Bytes>,
}

/// In the source's log: the merge will not happen, the source serves again.
#[derive(Clone, PartialEq, Message)]
pub struct RollbackMergeCommand {
    /// Index of the `PrepareMerge` that is undone.
    #[prost(uint64, tag = "1")]
    pub prepare_index: u64,
}

/// A membership change, as the context of Raft's own entry: one change is simple, several
/// enter a joint state, none leaves it. A forced one names all that are members after it.
#[derive(Clone, PartialEq, Message)]
pub struct ConfChangeCommand {
    /// Epoch the proposer saw.
    #[prost(message, optional, tag = "1")]
    pub epoch: Option<meta::RegionEpoch>,
    /// What is done, all at once.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<PeerChange>,
    /// Not empty: after most voters were lost for good these are the members, whatever the
    /// region was before; `changes` is empty then.
    #[prost(message, repeated, tag = "3")]
    pub forced: Vec<meta::Peer>,
}

/// A change of one peer.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PeerChange {
    /// What is done.
    #[prost(enumeration = "ConfChangeKind", tag = "1")]
    pub kind: i32,
    /// To whom.
    #[prost(message, optional, tag = "2")]
    pub peer: Option<meta::Peer>,
}

impl PeerChange {
    /// The change of a peer.
    pub fn new(kind: ConfChangeKind, peer: meta::Peer) -> PeerChange {
        PeerChange { kind: kind.into(), peer: Some(peer) }
    }
}

/// What may be done to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeKind {
    /// Makes a learner a voter.
    AddVoter = 0,
    /// Adds a learner, or makes a voter one.
    AddLearner = 1,
    /// Removes a peer.
    Remove = 2,
}

/// A decoded entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Writes to the data engine.
    Write {
        /// Epoch the proposer saw.
        epoch: RegionEpoch,
        /// What to write.
        batch: WriteBatch,
    },
    /// Splits the region.
    Split(SplitCommand),
    /// Drops old entries.
    CompactLog(CompactLogCommand),
    /// Prepares a merge.
    PrepareMerge(PrepareMergeCommand),
    /// Completes a merge.
    CommitMerge(CommitMergeCommand),
    /// Gives a merge up.
    RollbackMerge(RollbackMergeCommand),
}

/// Encodes a write; done once, on the caller's thread.
pub fn encode_write(epoch: RegionEpoch, batch: &WriteBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.size_bytes() + 24);
    out.push(KIND_WRITE);
    put_varint(&mut out, epoch.conf_ver);
    put_varint(&mut out, epoch.version);
    batch.encode(&mut out);
    out
}

/// Encodes a split.
pub fn encode_split(command: &SplitCommand) -> Vec<u8> {
    encode_message(KIND_SPLIT, command)
}

/// Encodes a compaction of the log.
pub fn encode_compact_log(command: &CompactLogCommand) -> Vec<u8> {
    encode_message(KIND_COMPACT_LOG, command)
}

/// Encodes the beginning of a merge.
pub fn encode_prepare_merge(command: &PrepareMergeCommand) -> Vec<u8> {
    encode_message(KIND_PREPARE_MERGE, command)
}

/// Encodes the end of a merge.
pub fn encode_commit_merge(command: &CommitMergeCommand) -> Vec<u8> {
    encode_message(KIND_COMMIT_MERGE, command)
}

/// Encodes the abandonment of a merge.
pub fn encode_rollback_merge(command: &RollbackMergeCommand) -> Vec<u8> {
    encode_message(KIND_ROLLBACK_MERGE, command)
}

/// Whether an entry's data is a write, without decoding it.
pub fn is_write(data: &[u8]) -> bool {
    data.first() == Some(&KIND_WRITE)
}

/// Whether an entry's data is a split, without decoding it.
pub fn is_split(data: &[u8]) -> bool {
    data.first() == Some(&KIND_SPLIT)
}

/// Decodes an entry's data; writes share its memory.
pub fn decode(mut data: Bytes) -> Result<Command, RaftStoreError> {
    if data.is_empty() {
        return Err(RaftStoreError::Corrupted("empty command"));
    }
    let kind = data.split_to(1)[0];
    match kind {
        KIND_WRITE => {
            let conf_ver = take_varint(&mut data)?;
            let version = take_varint(&mut data)?;
            let batch = WriteBatch::decode(data)?;
            Ok(Command::Write { epoch: RegionEpoch { conf_ver, version }, batch })
        }
        KIND_SPLIT => SplitCommand::decode(data)
            .map(Command::Split)
            .map_err(|_| RaftStoreError::Corrupted("split command")),
        KIND_COMPACT_LOG => CompactLogCommand::decode(data)
            .map(Command::CompactLog)
            .map_err(|_| RaftStoreError::Corrupted("compact command")),
        KIND_PREPARE_MERGE => PrepareMergeCommand::decode(data)
            .map(Command::PrepareMerge)
            .map_err(|_| RaftStoreError::Corrupted("prepare merge command")),
        KIND_COMMIT_MERGE => CommitMergeCommand::decode(data)
            .map(Command::CommitMerge)
            .map_err(|_| RaftStoreError::Corrupted("commit merge command")),
        KIND_ROLLBACK_MERGE => RollbackMergeCommand::decode(data)
            .map(Command::RollbackMerge)
            .map_err(|_| RaftStoreError::Corrupted("roll back merge command")),
        _ => Err(RaftStoreError::Corrupted("kind of command")),
    }
}

fn encode_message(kind: u8, message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.encoded_len() + 1);
    out.push(kind);
    message.encode(&mut out).expect("a vector takes any length");
    out
}

#[cfg(test)]
mod tests {
    use cairn_engine::Cf;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_round_trip() {
        let mut batch = WriteBatch::new();
        batch.put(Cf::Write, &b"zk"[..], &b"v"[..]);
        batch.delete(Cf::Lock, &b"zk"[..]);
        batch.delete_range(Cf::Default, &b"za"[..], &b"zb"[..]);
        let epoch = RegionEpoch { conf_ver: 300, version: 7 };
        let data = Bytes::from(encode_write(epoch, &batch));
        assert_eq!(decode(data).unwrap(), Command::Write { epoch, batch });

        let split = SplitCommand {
            epoch: Some(epoch.into()),
            pieces: vec![SplitPiece {
                end_key: Bytes::from_static(b"m"),
                region_id: 9,
                peer_ids: vec![10, 11],
            }],
        };
        let data = Bytes::from(encode_split(&split));
        assert!(is_split(&data));
        assert_eq!(decode(data).unwrap(), Command::Split(split));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(Bytes::from(bytes));
        }
    }
}
