//! Slows writers down before the data engine stops them.
//!
//! RocksDB brakes hard when memtables, files of the top level or compaction debt pile up:
//! the apply thread stands still, and with it every region of the store. Here new data is
//! held back at the door instead, evenly and before it holds latches or log space (TiKV
//! RFC 0067): above half of the way to the engine's brakes writers share a rate that
//! shrinks while the pressure grows and recovers when it falls; close to the brakes they
//! are told to come back later.
//!
//! Writers wait in order of their arrival. Sending them away would let newcomers pass them
//! by, again and again. Small writes wait in a lane of their own that is guaranteed half of
//! the rate: a change of one row does not wait behind the mebibytes of a bulk load.
//!
//! **Concurrency.** The watch thread observes, any thread asks for admission.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cairn_engine::Pressure;
use parking_lot::Mutex;

use super::Busy;
use super::clock::MonotonicTime;

/// Pressure at which writers begin to share a rate.
const SLOW_LEVEL: f64 = 0.5;
/// Pressure at which the rate is given up again.
const FREE_LEVEL: f64 = 0.35;
/// Pressure at which new data is refused.
const REFUSE_LEVEL: f64 = 0.95;
/// While pressure grows the rate shrinks by this factor with every look.
const SHRINK: f64 = 0.9;
/// While pressure falls the rate grows by this factor with every look.
const GROW: f64 = 1.08;
/// The rate never falls below this: a disk that cannot do it is broken.
const RATE_MIN: f64 = 1024.0 * 1024.0;
/// Weight of the newest look in the average of what came in.
const AVERAGE_WEIGHT: f64 = 0.2;
/// Longest a writer is made to wait; beyond it is sent away. Those who wait hold memory and a
/// place among the store's commands, what they were granted outlives a change of the rate, and
/// the locks of their transactions must not expire meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// When those who are sent away should come back.
const BACKOFF_MS: u32 = 500;
/// Largest write that goes by the lane of small ones.
const SMALL_WRITE_BYTES: u64 = 16 * 1024;

#[derive(Debug, Default)]
struct State {
    /// Bytes per second that may come in; `None` = all that comes.
    rate: Option<f64>,
    /// When everything admitted will have been paid for, by lane: small writes, large ones.
    paid_until: [MonotonicTime; 2],
    /// Written to the engine up to the last look.
    written_bytes: u64,
    /// Bytes per second that the engine took lately, led regions or not.
    average: f64,
    last_look: MonotonicTime,
    last_level: f64,
}

/// The door for new data.
#[derive(Debug, Default)]
pub struct FlowControl {
    state: Mutex<State>,
    /// Whether there is a rate: asked without the lock.
    is_limited: AtomicBool,
    is_closed: AtomicBool,
    /// Writers that were made to wait.
    delayed: AtomicU64,
    /// Writers that were sent away.
    refused: AtomicU64,
}

impl FlowControl {
    /// Takes in what the engine says now, and how much was written to it since the start: for
    /// all regions, since a store may lead the busy one only since a moment ago.
    pub fn observe(&self, pressure: Pressure, written_bytes: u64, now: MonotonicTime) {
        let mut state = self.state.lock();
        let written = written_bytes - std::mem::replace(&mut state.written_bytes, written_bytes);
        let elapsed = now.since(state.last_look).as_secs_f64();
        if elapsed > 0.0 && state.last_look.0 > 0 {
            let rate = written as f64 / elapsed;
            state.average += (rate - state.average) * AVERAGE_WEIGHT;
        }
        let level = pressure.level;
        state.rate = match state.rate {
            None if level < SLOW_LEVEL => None,
            None => Some(state.average.max(RATE_MIN)),
            Some(_) if level < FREE_LEVEL => None,
            Some(rate) if level > state.last_level => Some((rate * SHRINK).max(RATE_MIN)),
            Some(rate) if level < state.last_level => Some(rate * GROW),
            same => same,
        };
        state.last_level = level;
        state.last_look = now;
        self.is_limited.store(state.rate.is_some(), Ordering::Relaxed);
        self.is_closed.store(pressure.is_stopped || level >= REFUSE_LEVEL, Ordering::Relaxed);
    }

    /// Whether new data is refused.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// How long a write of so many bytes has to wait, or that it should come back.
    pub fn admit(&self, bytes: u64, now: MonotonicTime) -> Result<Duration, Busy> {
        if self.is_closed() {
            return Err(self.refuse());
        }
        if !self.is_limited.load(Ordering::Relaxed) {
            return Ok(Duration::ZERO);
        }
        let mut state = self.state.lock();
        let Some(rate) = state.rate else {
            return Ok(Duration::ZERO);
        };
        let lane = usize::from(bytes > SMALL_WRITE_BYTES);
        // A lane that nobody waits in leaves its half to the other one.
        let rate = if state.paid_until[1 - lane] > now { rate / 2.0 } else { rate };
        let start = state.paid_until[lane].max(now);
        let wait = start.since(now);
        if wait > WAIT_MAX {
            return Err(self.refuse());
        }
        // Whoever comes waits for those before, not for its own bytes: one write larger
        // than the rate may go as well.
        state.paid_until[lane] = start.plus(Duration::from_secs_f64(bytes as f64 / rate));
        if !wait.is_zero() {
            self.delayed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(wait)
    }

    fn refuse(&self) -> Busy {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Busy { reason: "the engine's compaction is behind".to_owned(), backoff_ms: BACKOFF_MS }
    }

    /// Name and value of its counters, for exposition.
    pub fn values(&self) -> Vec<(&'static str, u64)> {
        let rate = self.state.lock().rate;
        vec![
            ("flow_delayed_writes", self.delayed.load(Ordering::Relaxed)),
            ("flow_refused_writes", self.refused.load(Ordering::Relaxed)),
            // 0: no limit.
            ("flow_rate_bytes", rate.unwrap_or(0.0) as u64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(200);

    fn at(level: f64) -> Pressure {
        Pressure { level, ..Pressure::default() }
    }

    /// A model of an engine that drains `drain` bytes per second and stops at `full`
    /// waiting bytes, fed by writers that want to write without end.
    #[test]
    fn the_rate_settles_near_what_the_engine_can_do() {
        let (drain, full) = (10_000_000.0, 100_000_000.0);
        let flow = FlowControl::default();
        let mut now = MonotonicTime(1_000_000_000);
        let mut waiting = 0.0f64;
        let mut worst: f64 = 0.0;
        let mut written = 0.0;
        let mut all = 0;
        for look in 0..2000 {
            flow.observe(at(waiting / full), all, now);
            let end = now.plus(LOOK);
            // Writers offer 100 MB/s in pieces of 64 KiB.
            for _ in 0..300 {
                match flow.admit(65_536, now) {
                    Ok(wait) if now.plus(wait) < end => {
                        waiting += 65_536.0;
                        all += 65_536;
                        written += if look > 1000 { 65_536.0 } else { 0.0 };
                    }
                    _ => break,
                }
            }
            waiting = (waiting - drain * LOOK.as_secs_f64()).max(0.0);
            worst = worst.max(waiting / full);
            now = end;
        }
        assert!(worst < 1.0, "the engine never stops writers: {worst}");
        let rate = written / (999.0 * LOOK.as_secs_f64());
        assert!(rate > drain * 0.8, "the engine is kept busy: {rate}");
    }

    /// A door whose rate is one mebibyte per second.
    fn slowed(now: MonotonicTime) -> FlowControl {
        let flow = FlowControl::default();
        flow.observe(at(0.6), 0, now);
        assert_eq!(flow.state.lock().rate, Some(RATE_MIN));
        flow
    }

    #[test]
    fn writers_wait_in_order_of_their_arrival() {
        let now = MonotonicTime(1_000_000_000);
        let flow = slowed(now);
        let (bytes, each) = (RATE_MIN as u64 / 4, WAIT_MAX / 4);
        for before in 0..=4 {
            assert_eq!(flow.admit(bytes, now), Ok(each * before));
        }
        assert!(flow.admit(bytes, now).is_err(), "the queue is bounded");
        // A newcomer passes nobody by.
        assert_eq!(flow.admit(bytes, now.plus(each)), Ok(WAIT_MAX));
    }

    #[test]
    fn small_writes_do_not_wait_behind_large_ones() {
        let now = MonotonicTime(1_000_000_000);
        let flow = slowed(now);
        assert_eq!(flow.admit(RATE_MIN as u64, now), Ok(Duration::ZERO));
        assert_eq!(flow.admit(RATE_MIN as u64, now), Ok(Duration::from_secs(1)));
        assert_eq!(flow.admit(1024, now), Ok(Duration::ZERO));
        let half = Duration::from_secs_f64(1024.0 * 2.0 / RATE_MIN);
        assert_eq!(flow.admit(1024, now), Ok(half), "they share half of the rate");
    }

    #[test]
    fn free_when_nothing_waits_and_closed_at_the_brakes() {
        let flow = FlowControl::default();
        let now = MonotonicTime(1_000_000_000);
        flow.observe(at(0.1), 0, now);
        assert_eq!(flow.admit(1 << 40, now), Ok(Duration::ZERO));
        flow.observe(at(0.99), 0, now.plus(LOOK));
        assert!(flow.admit(1, now.plus(LOOK)).is_err());
        flow.observe(at(0.1), 0, now.plus(LOOK * 2));
        assert_eq!(flow.admit(1, now.plus(LOOK * 2)), Ok(Duration::ZERO));
        let refused = flow.values().into_iter().find(|(name, _)| *name == "flow_refused_writes");
        assert_eq!(refused, Some(("flow_refused_writes", 1)));
    }
}
