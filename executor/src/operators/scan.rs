//! Reads pairs from a list of key ranges, batch by batch: what both scans share.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::context::{ChunkRows, ExecContext};
use crate::error::{ExecError, Result};
use crate::source::{KeyRange, KvBatch, KvScan, KvSource, RowRead};

/// Pairs of all ranges: the ranges in their order, or all backwards.
///
/// Runs of single-key ranges become one point read each instead of many scans.
pub(super) struct RangeScanner {
    source: Arc<dyn KvSource>,
    ranges: VecDeque<KeyRange>,
    desc: bool,
    current: Option<Box<dyn KvScan>>,
    batch: KvBatch,
    sizes: ChunkRows,
    ctx: ExecContext,
}

impl RangeScanner {
    /// A scanner of `ranges`, which are given in ascending order.
    pub(super) fn new(
        source: Arc<dyn KvSource>,
        ranges: Vec<KeyRange>,
        desc: bool,
        ctx: ExecContext,
    ) -> RangeScanner {
        let ranges = match desc {
            false => ranges.into(),
            true => ranges.into_iter().rev().collect(),
        };
        let sizes = ctx.chunk_rows();
        RangeScanner { source, ranges, desc, current: None, batch: KvBatch::new(), sizes, ctx }
    }

    /// The next pairs; `None` when drained.
    pub(super) async fn next(&mut self) -> Result<Option<&KvBatch>> {
        self.ctx.check()?;
        self.batch.clear();
        let limit = self.sizes.advance();
        while self.batch.len() < limit {
            if let Some(scan) = &mut self.current {
                let left = limit - self.batch.len();
                if !scan.next_batch(&mut self.batch, left).await? {
                    self.current = None;
                }
                self.ctx.check()?;
                continue;
            }
            match self.ranges.front() {
                None => break,
                Some(range) if range.is_point() => self.read_points(limit).await?,
                Some(_) => {
                    let range = self.ranges.pop_front().expect("there is a range");
                    self.current = Some(self.source.scan(range, self.desc).await?);
                }
            }
        }
        if self.batch.is_empty() {
            return Ok(None);
        }
        self.report_position();
        Ok(Some(&self.batch))
    }

    async fn read_points(&mut self, limit: usize) -> Result<()> {
        let mut keys: Vec<Bytes> = Vec::new();
        while keys.len() < limit - self.batch.len()
            && self.ranges.front().is_some_and(KeyRange::is_point)
        {
            keys.extend(self.ranges.pop_front().map(|range| range.start));
        }
        let found = self.source.batch_get(&keys).await?;
        for (key, read) in keys.iter().zip(found) {
            match read {
                RowRead::Found(value) => self.batch.push(key, &value),
                RowRead::Missing => {}
                // The request's ranges lie in one region, which is led here.
                RowRead::Remote => {
                    return Err(ExecError::Corrupted("a scanned key lies elsewhere"));
                }
            }
        }
        Ok(())
    }

    /// Tells where a reader that got everything up to here would go on.
    fn report_position(&self) {
        let last = self.batch.key(self.batch.len() - 1);
        self.ctx.scan_position.reach(match self.desc {
            true => Bytes::copy_from_slice(last),
            false => KeyRange::point(last).end,
        });
    }
}
