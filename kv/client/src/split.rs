//! Cuts regions at many keys: in rounds, several regions at a time.
//!
//! **Flow.** A store takes [`SPLIT_KEYS_MAX`] keys per command. A region that is to be cut at
//! more is first cut at keys evenly spaced among them; the next round finds as many regions,
//! each led by itself, and cuts those at the same time. So 1,000 keys take two rounds and
//! 100,000 three, and no command is large.
//!
//! **Invariants.** A key that begins a region already is left alone, so a repeated call ends
//! what an earlier one began. A region whose birth was not told, because the answer was lost, is
//! found by the next round and counts like one that was. Rounds end with the deadline: a key is cut at, or the call fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::kv::SplitRegionRequest;
use cairn_proto::meta::Region;
use futures::StreamExt;

use crate::backoff::{BackoffKind, Deadline, Retrier};
use crate::client::KvClient;
use crate::error::KvError;
use crate::region_cache::CachedRegion;
use crate::request::{Cmd, RequestOptions, SendError, expect_response};

/// Keys one command may cut a region at: the command's entry creates that many regions on
/// every store before anything behind it is applied.
pub const SPLIT_KEYS_MAX: usize = 64;

/// A region with the keys it is cut at in this round.
type Cut = (Arc<CachedRegion>, Vec<Bytes>);

/// What a round may do and what it found.
struct Round {
    cuts: Vec<Cut>,
    /// Regions that begin at one of the keys already.
    there: Vec<Arc<CachedRegion>>,
}

/// How a cut ended.
#[derive(Default)]
struct CutOutcome {
    /// What the region fell into; nothing if it has changed meanwhile.
    regions: Vec<Region>,
    /// Keys at which it may have been cut although nobody said so.
    untold: Vec<Bytes>,
}

impl KvClient {
    /// Splits the regions that hold the keys, so that each key begins a region. Answers the
    /// regions that were born of it, in no order; keys that begin a region already add none.
    pub async fn split_regions(
        &self,
        keys: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Vec<Region>, KvError> {
        let deadline = Deadline::after(timeout);
        let mut retrier = self.retrier_until(deadline);
        let mut keys: BTreeSet<Bytes> = keys.into_iter().collect();
        let mut born: Vec<Region> = Vec::new();
        let mut untold: BTreeSet<Bytes> = BTreeSet::new();
        loop {
            let Round { cuts, there } = self.plan_round(&keys, &mut retrier).await?;
            for region in there {
                keys.remove(&region.region.start_key);
                if untold.remove(&region.region.start_key) {
                    born.push(region.region.clone());
                }
            }
            if cuts.is_empty() {
                return Ok(born);
            }
            let attempts = cuts.into_iter().map(|cut| self.cut(cut, deadline));
            let mut answers =
                futures::stream::iter(attempts).buffer_unordered(self.config.concurrency.max(1));
            let before = keys.len();
            while let Some(outcome) = answers.next().await {
                let outcome = outcome?;
                untold.extend(outcome.untold);
                for region in outcome.regions {
                    if keys.remove(&region.start_key) {
                        born.push(region);
                    }
                }
            }
            if keys.len() == before {
                let reason = || format!("regions change while {before} keys are to be cut at");
                retrier.wait(BackoffKind::StaleRoute, Duration::ZERO, reason).await?;
            }
        }
    }

    /// What this round cuts, and which keys are done with.
    async fn plan_round(
        &self,
        keys: &BTreeSet<Bytes>,
        retrier: &mut Retrier,
    ) -> Result<Round, KvError> {
        let mut round = Round { cuts: Vec::new(), there: Vec::new() };
        let mut rest = keys.iter().peekable();
        while let Some(first) = rest.peek().copied() {
            let region = self.cache.locate_patiently(first, retrier).await?;
            let mut inside = Vec::new();
            while let Some(key) = rest.next_if(|key| region.contains(key)) {
                match *key == region.region.start_key {
                    true => round.there.push(Arc::clone(&region)),
                    false => inside.push(key.clone()),
                }
            }
            if !inside.is_empty() {
                round.cuts.push((region, evenly_spaced(inside, SPLIT_KEYS_MAX)));
            }
        }
        Ok(round)
    }

    /// Cuts one region.
    async fn cut(&self, (region, keys): Cut, deadline: Deadline) -> Result<CutOutcome, KvError> {
        let store_id = region.leader.store_id;
        let build = || Cmd::SplitRegion(SplitRegionRequest { keys: keys.clone() });
        let options = RequestOptions::default();
        let mut retrier = self.retrier_until(deadline);
        match self.cache.send_to_region(region, &options, &mut retrier, &build).await {
            Ok(response) => {
                let response = expect_response!(response, SplitRegion)?;
                self.cache.insert_reported(response.regions.clone(), store_id);
                Ok(CutOutcome { regions: response.regions, ..CutOutcome::default() })
            }
            Err(SendError::Regroup) if retrier.maybe_executed() => {
                Ok(CutOutcome { untold: keys, ..CutOutcome::default() })
            }
            Err(SendError::Regroup) => Ok(CutOutcome::default()),
            Err(SendError::Failed(error)) => Err(error),
        }
    }
}

/// At most `most` of the keys, with as many left out between any two.
fn evenly_spaced(keys: Vec<Bytes>, most: usize) -> Vec<Bytes> {
    let count = keys.len();
    if count <= most {
        return keys;
    }
    // The n-th of `most` marks between `most + 1` pieces.
    (1..=most).map(|mark| keys[mark * count / (most + 1)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region_cache::KeyRange;
    use crate::testing::{Cluster, Fault};

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn number(n: usize) -> Bytes {
        format!("k{n:05}").into()
    }

    async fn starts(client: &KvClient) -> Vec<Bytes> {
        let regions = client.locate_range(&KeyRange::default()).await.expect("covers");
        regions.iter().map(|region| region.region.start_key.clone()).collect()
    }

    #[test]
    fn keys_of_one_round_lie_evenly() {
        let keys: Vec<Bytes> = (0..10).map(number).collect();
        assert_eq!(evenly_spaced(keys.clone(), 10), keys);
        assert_eq!(evenly_spaced(keys, 4), [2, 4, 6, 8].map(number));
    }

    #[tokio::test(start_paused = true)]
    async fn only_regions_that_are_new_are_answered() {
        let cluster = Cluster::split_at(&["c"]);
        let client = cluster.client();
        let keys = ["h", "e", "c", "b", "h"].map(Bytes::from).to_vec();
        let born = client.split_regions(keys.clone(), TIMEOUT).await.expect("splits");
        let mut born: Vec<Bytes> = born.into_iter().map(|region| region.start_key).collect();
        born.sort();
        assert_eq!(born, ["b", "e", "h"]);
        assert_eq!(starts(&client).await, ["", "b", "c", "e", "h"]);
        assert!(client.split_regions(keys, TIMEOUT).await.expect("splits").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_keys_are_cut_at_in_few_commands_of_bounded_size() {
        let cluster = Cluster::split_at(&[]);
        let client = cluster.client();
        let keys: Vec<Bytes> = (0..1_000).map(number).collect();
        let born = client.split_regions(keys, TIMEOUT).await.expect("splits");
        assert_eq!(born.len(), 1_000);
        assert_eq!(starts(&client).await.len(), 1_001);
        let commands = cluster.calls().iter().filter(|call| call.contains("split")).count();
        assert_eq!(commands, 1 + SPLIT_KEYS_MAX + 1, "one, then one for each piece");
    }

    /// The store has cut the region and its answer is lost: the regions are new all the same.
    #[tokio::test(start_paused = true)]
    async fn regions_whose_birth_was_not_told_count() {
        let cluster = Cluster::split_at(&["c"]);
        cluster.fault("split_region", Fault::LostAfter);
        let client = cluster.client();
        let keys = ["c", "e", "h"].map(Bytes::from).to_vec();
        let born = client.split_regions(keys, TIMEOUT).await.expect("splits");
        let mut born: Vec<Bytes> = born.into_iter().map(|region| region.start_key).collect();
        born.sort();
        assert_eq!(born, ["e", "h"], "c began a region before");
        assert_eq!(starts(&client).await, ["", "c", "e", "h"]);
    }

    /// Somebody else cuts the region between the look-up and the command.
    #[tokio::test(start_paused = true)]
    async fn regions_that_change_meanwhile_are_looked_up_again() {
        let cluster = Cluster::split_at(&[]);
        cluster.fault("split_region", Fault::Split("e"));
        let client = cluster.client();
        let keys = ["b", "e", "h"].map(Bytes::from).to_vec();
        let born = client.split_regions(keys, TIMEOUT).await.expect("splits");
        assert_eq!(born.len(), 2, "e began a region already");
        assert_eq!(starts(&client).await, ["", "b", "e", "h"]);
    }
}
