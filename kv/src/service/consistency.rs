//! Replicas compared with each other, a region at a time and slowly.
//!
//! **What is compared**: all rows visible at a timestamp a little in the past, with their
//! commit timestamps. Once no lock of that time is left nothing can change them, on
//! no replica and whatever was collected there since, so that replicas need not stop at
//! one log index. A replica that has not applied as far as the leader had, or meets a
//! lock, has no answer yet.
//!
//! **Flow**: every [`INTERVAL`] a store takes the next region it leads, each once in a
//! [`ROUND_MIN`] at most; it sums the region up and asks the other replicas. Each reads all its
//! blocks on the way, so a damaged file comes to light too. If one replica differs from all
//! others, and these agree, it is told to rebuild itself ([`crate::raftstore`]'s way with
//! damage); any other difference is an error in the log that a person must look at.

use std::sync::Arc;
use std::time::Duration;

use cairn_engine::EngineSnapshot;
use cairn_pd_client::PdClient;
use cairn_proto::kv;
use cairn_types::TimeStamp;
use tokio_util::sync::CancellationToken;

use crate::gc::VersionFilter;
use crate::mvcc::{PairSink, ReadError, ScanOptions, Scanner};
use crate::raftstore::snapshot::Pace;
use crate::raftstore::transport::connect;
use crate::raftstore::{Clock, RaftKv, RaftRouter, RegionId};

/// Between two regions. A store with a thousand regions compares each about three times
/// a day.
const INTERVAL: Duration = Duration::from_secs(30);
/// From the first region to the first region again at least. Reading a region takes a second or two
/// of processor time, which a store with a few busy regions has better use for.
const ROUND_MIN: Duration = Duration::from_secs(3600);
/// How far back the timestamp lies: transactions of that time have mostly ended.
const BACK_MS: u64 = 30_000;
/// Bytes per second that a comparison reads of each replica.
pub const BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;
/// Rows between two pauses.
const ROWS_PER_TURN: usize = 1024;
/// What a replica may take to sum up its region.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// What a replica holds at a timestamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// CRC over keys and values, in order.
    pub checksum: u32,
    /// Rows.
    pub rows: u64,
}

#[derive(Default)]
struct Summing {
    hasher: crc32fast::Hasher,
    rows: u64,
    bytes: u64,
}

impl PairSink for Summing {
    fn push(&mut self, raw_key: &[u8], value: &[u8]) {
        self.hasher.update(&(raw_key.len() as u64).to_le_bytes());
        self.hasher.update(raw_key);
        self.hasher.update(&(value.len() as u64).to_le_bytes());
        self.hasher.update(value);
        self.rows += 1;
        self.bytes += (raw_key.len() + value.len()) as u64;
    }
}

/// Sums up what the view holds of the region at the timestamp.
pub async fn sum_up(
    view: Arc<dyn EngineSnapshot>,
    region: &cairn_proto::meta::Region,
    read_ts: TimeStamp,
    pace: &Pace,
) -> Result<Sum, ReadError> {
    let options = ScanOptions {
        start: region.start_key.clone(),
        end: region.end_key.clone(),
        read_ts,
        desc: false,
        key_only: false,
        resolved: Arc::new([]),
    };
    let mut scanner = Scanner::new(view, options);
    let mut summing = Summing::default();
    loop {
        let more = scanner.next_batch(&mut summing, ROWS_PER_TURN)?;
        let pause = pace.take(std::mem::take(&mut summing.bytes));
        if !more {
            let Summing { hasher, rows, .. } = summing;
            return Ok(Sum { checksum: hasher.finalize(), rows });
        }
        // Gives way to others also when there is nothing to wait for.
        tokio::time::sleep(pause.max(Duration::from_micros(1))).await;
    }
}

/// Whom the sums tell to rebuild, by position: the one that differs from all others, if
/// those agree and are a majority.
fn odd_one_out(sums: &[Sum]) -> Option<usize> {
    if sums.len() < 3 {
        return None;
    }
    let differs = |at: usize| {
        let others: Vec<&Sum> =
            sums.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, sum)| sum).collect();
        others.windows(2).all(|pair| pair[0] == pair[1]) && *others[0] != sums[at]
    };
    (0..sums.len()).find(|at| differs(*at))
}

/// Sums up replicas of this store, and compares those it leads with the others.
pub struct Checker {
    router: Arc<RaftRouter>,
    pd: Arc<dyn PdClient>,
    pace: Pace,
    collected: VersionFilter,
}

impl Checker {
    /// Reads at most [`BYTES_PER_SECOND`], for whoever asks.
    pub fn new(
        router: Arc<RaftRouter>,
        pd: Arc<dyn PdClient>,
        clock: Arc<dyn Clock>,
        collected: VersionFilter,
    ) -> Checker {
        Checker { router, pd, pace: Pace::new(clock, BYTES_PER_SECOND), collected }
    }

    /// Answers another store, or a person.
    pub async fn answer(
        &self,
        request: &kv::CheckRegionRequest,
    ) -> Result<kv::CheckRegionResponse, String> {
        if request.compare {
            return self.compare(request.region_id).await;
        }
        let sum = self.sum_up_replica(request).await?;
        if request.rebuild == Some(sum.checksum) {
            self.router.rebuild_replica(RegionId(request.region_id));
        }
        Ok(kv::CheckRegionResponse { checksum: sum.checksum, rows: sum.rows, ..Default::default() })
    }

    /// Compares regions until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async {
            let mut last_region = 0;
            let mut round_end = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(INTERVAL).await;
                if last_region == 0 {
                    tokio::time::sleep_until(round_end).await;
                }
                let id = |info: &kv::RegionPeerInfo| info.region.as_ref().map_or(0, |r| r.id);
                let infos = self.router.region_infos();
                let next = infos.iter().find(|info| info.is_leader && id(info) > last_region);
                let next_region = next.map_or(0, id);
                if last_region == 0 && next_region > 0 {
                    round_end = tokio::time::Instant::now() + ROUND_MIN;
                }
                last_region = next_region;
                if last_region > 0
                    && let Err(reason) = self.compare(last_region).await
                {
                    tracing::debug!(region = last_region, reason, "replicas are not compared now");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    fn info(&self, region_id: u64) -> Option<kv::RegionPeerInfo> {
        let is_asked = |info: &kv::RegionPeerInfo| {
            info.region.as_ref().is_some_and(|region| region.id == region_id)
        };
        self.router.region_infos().into_iter().find(is_asked)
    }

    async fn sum_up_replica(&self, request: &kv::CheckRegionRequest) -> Result<Sum, String> {
        let info = self.info(request.region_id).ok_or("no such region here")?;
        let region = info.region.ok_or("no region")?;
        if region.epoch != request.epoch || info.applied_index < request.applied_index {
            return Err("the replica is at another point".to_owned());
        }
        let view = self.router.engine_view();
        // The view may be of after a split or merge: then it is not what was asked for.
        let after = self.info(request.region_id).and_then(|info| info.region);
        if after.is_none_or(|after| after.epoch != request.epoch) {
            return Err("the region changes".to_owned());
        }
        let read_ts = TimeStamp(request.read_ts);
        let sum = sum_up(view, &region, read_ts, &self.pace).await;
        let sum = sum.map_err(|error| error.to_string())?;
        // Below the safe point each replica holds what its compactions have left.
        if read_ts < self.collected.safe_point() {
            return Err("versions of that time may have been collected".to_owned());
        }
        Ok(sum)
    }

    /// Compares one region that this store leads.
    async fn compare(&self, region_id: u64) -> Result<kv::CheckRegionResponse, String> {
        let info = self.info(region_id).filter(|info| info.is_leader);
        let info = info.ok_or("the region is not led here")?;
        let region = info.region.ok_or("no region")?;
        let now = self.pd.get_ts().await.map_err(|error| error.to_string())?;
        let read_ts = TimeStamp::compose(now.physical_ms().saturating_sub(BACK_MS), 0);
        let request = kv::CheckRegionRequest {
            region_id,
            epoch: region.epoch,
            read_ts: read_ts.0,
            applied_index: info.applied_index,
            ..Default::default()
        };
        let own_store = self.router.store_id().0;
        let mut sums = vec![self.sum_up_replica(&request).await?];
        let mut stores = vec![own_store];
        for peer in region.peers.iter().filter(|peer| peer.store_id != own_store) {
            sums.push(self.ask(peer.store_id, request).await?);
            stores.push(peer.store_id);
        }
        let differs = |at: &usize| sums[*at] != sums[0];
        let differing_stores: Vec<u64> =
            (0..sums.len()).filter(differs).map(|at| stores[at]).collect();
        if !differing_stores.is_empty() {
            tracing::error!(region = region_id, ?stores, ?sums, "replicas differ");
            if let Some(odd) = odd_one_out(&sums) {
                let verdict =
                    kv::CheckRegionRequest { rebuild: Some(sums[odd].checksum), ..request };
                if odd == 0 {
                    self.router.rebuild_replica(RegionId(region_id));
                } else {
                    self.ask(stores[odd], verdict).await?;
                }
            }
        }
        let Sum { checksum, rows } = sums[0];
        Ok(kv::CheckRegionResponse { checksum, rows, differing_stores })
    }

    async fn ask(&self, store_id: u64, request: kv::CheckRegionRequest) -> Result<Sum, String> {
        let mut client = connect(self.pd.as_ref(), store_id).await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.check_region(request));
        let answer = answer.await.map_err(|_| "a replica does not answer".to_owned())?;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        Ok(Sum { checksum: answer.checksum, rows: answer.rows })
    }
}

#[cfg(test)]
mod tests {
    use cairn_engine::{KvEngine, MemoryEngine};

    use super::*;
    use crate::mvcc::{MvccTxn, Write, WriteKind, keys};

    fn sum(checksum: u32) -> Sum {
        Sum { checksum, rows: 1 }
    }

    #[tokio::test]
    async fn sums_tell_rows_apart_and_nothing_else() {
        let region = cairn_proto::meta::Region::default();
        let pace = Pace::new(Arc::new(crate::raftstore::ManualClock::new()), 0);
        let sum_of = async |engine: &MemoryEngine| {
            sum_up(engine.snapshot(), &region, TimeStamp(50), &pace).await.unwrap()
        };
        let put = |engine: &MemoryEngine, key: &[u8], ts: u64, value: &[u8]| {
            let mut txn = MvccTxn::new();
            let mut write = Write::new(WriteKind::Put, TimeStamp(ts - 1));
            write.short_value = Some(value);
            txn.put_write(&keys::user_key(key), TimeStamp(ts), &write);
            engine.write(txn.into_batch(), false).unwrap();
        };
        let (one, other) = (MemoryEngine::new(), MemoryEngine::new());
        put(&one, b"a", 10, b"1");
        put(&other, b"a", 10, b"1");
        // Versions that were collected, or are too new, make no difference.
        put(&one, b"a", 5, b"old");
        put(&one, b"b", 60, b"new");
        assert_eq!(sum_of(&one).await, sum_of(&other).await);
        assert_eq!(sum_of(&one).await.rows, 1);
        put(&other, b"a", 20, b"2");
        assert_ne!(sum_of(&one).await, sum_of(&other).await);
    }

    #[test]
    fn only_a_single_odd_one_is_told() {
        assert_eq!(odd_one_out(&[sum(1), sum(1), sum(1)]), None);
        assert_eq!(odd_one_out(&[sum(1), sum(2), sum(1)]), Some(1));
        assert_eq!(odd_one_out(&[sum(2), sum(1), sum(1)]), Some(0));
        assert_eq!(odd_one_out(&[sum(1), sum(2), sum(3)]), None);
        assert_eq!(odd_one_out(&[sum(1), sum(2)]), None, "who is right?");
        assert_eq!(odd_one_out(&[sum(1), sum(1), sum(2), sum(2)]), None);
    }
}
