//! Putting load on a server: one task per connection, in a closed loop; warm-up, measurement
//! and a line of progress each interval.
//!
//! A transaction that fails with an error that passes is tried again with the same inputs, as
//! applications do. Its latency runs from its first attempt to its success.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Target};
use crate::clock;
use crate::error::{BenchError, Failure, task_outcome};
use crate::figures::{Counted, Phase, Recorder};
use crate::random::{Stream, generator};
use crate::report::{Interval, progress_line};
use crate::workload::{Session, Workload};

/// How long one transaction is tried again before its last failure counts as an error that
/// does not pass: longer than a server takes to start anew.
const RETRY_PATIENCE: Duration = Duration::from_secs(120);
/// Longest pause before another attempt, reached by doubling from 1 ms.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(64);
/// Pause while a server cannot be reached.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long transactions under way may go on when the time is over.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);

/// How long and with how many to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections.
    pub threads: usize,
    /// Before measuring.
    pub warmup: Duration,
    /// Measuring; `None`: until stopped.
    pub time: Option<Duration>,
    /// Between two lines of progress; `None`: no lines.
    pub interval: Option<Duration>,
    /// Where all randomness begins.
    pub seed: u64,
    /// Whether to go on after errors that do not pass.
    pub ignore_errors: bool,
}

/// What a run measured.
#[derive(Debug)]
pub struct Measured {
    /// The figures.
    pub counted: Counted,
    /// Over which time.
    pub time: Duration,
    /// The same, interval by interval.
    pub intervals: Vec<Interval>,
    /// Transactions that did not end even after [`FINISH_PATIENCE`].
    pub unfinished: usize,
    /// Whether somebody stopped it.
    pub interrupted: bool,
    /// The error that ended it.
    pub error: Option<BenchError>,
}

/// Why a phase ended before its time.
enum Ending {
    Interrupted,
    /// All workers have done what they had to do.
    Done,
    Failed(Failure),
}

/// Runs the workload.
pub async fn run<W: Workload>(
    workload: &Arc<W>,
    target: &Arc<Target>,
    plan: Plan,
    stop: &CancellationToken,
) -> Result<Measured, BenchError> {
    let recorder = Arc::new(Recorder::new(workload.kinds().len()));
    let finish = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..plan.threads {
        let mut client = Client::new(Arc::clone(target), number);
        clients.spawn(async move { client.connect().await.map(|()| (number, client)) });
    }
    let mut connected = Vec::with_capacity(plan.threads);
    while let Some(client) = clients.join_next().await {
        let client = client.map_err(|error| Failure::Driver(error.to_string())).flatten();
        connected.push(client.map_err(BenchError::failed("connecting"))?);
    }
    let mut run = Run { recorder, workers: JoinSet::new(), plan, intervals: Vec::new() };
    let begin = clock::now();
    for (number, client) in connected {
        let worker = Worker {
            session: workload.session(number),
            client,
            pauses: generator(plan.seed, Stream::Pauses(number)),
            recorder: Arc::clone(&run.recorder),
            finish: finish.clone(),
            ignore_errors: plan.ignore_errors,
        };
        run.workers.spawn(worker.work());
    }
    let mut ending = match plan.warmup.is_zero() {
        true => None,
        false => run.phase(Phase::WarmUp, begin, Some(plan.warmup), stop).await.1,
    };
    let begin = clock::now();
    run.recorder.enter(Phase::Measured);
    let mut counted = run.recorder.figures(Phase::Measured).counted();
    if ending.is_none() {
        (counted, ending) = run.phase(Phase::Measured, begin, plan.time, stop).await;
    }
    let time = clock::now() - begin;
    run.recorder.enter(Phase::Over);
    finish.cancel();
    let (unfinished, late_failure) = run.finish_workers().await;
    let interrupted = matches!(ending, Some(Ending::Interrupted));
    let failure = match ending {
        Some(Ending::Failed(failure)) => Some(failure),
        _ => late_failure,
    };
    Ok(Measured {
        counted,
        time,
        intervals: run.intervals,
        unfinished,
        interrupted,
        error: failure.map(BenchError::failed("the run ended early")),
    })
}

/// A run under way.
struct Run {
    recorder: Arc<Recorder>,
    workers: JoinSet<Result<(), Failure>>,
    plan: Plan,
    intervals: Vec<Interval>,
}

impl Run {
    /// Lets the workers work for a time and reports each interval; what was counted in all,
    /// which is the sum of the intervals, and why it ended early.
    async fn phase(
        &mut self,
        phase: Phase,
        begin: Instant,
        time: Option<Duration>,
        stop: &CancellationToken,
    ) -> (Counted, Option<Ending>) {
        let end = time.map(|time| begin + time);
        let mut earlier = (begin, Counted::default());
        loop {
            let tick = self.plan.interval.map(|interval| earlier.0 + interval);
            let wake = match (tick, end) {
                (Some(tick), Some(end)) => Some(tick.min(end)),
                (tick, end) => tick.or(end),
            };
            let ending = tokio::select! {
                () = until(wake) => None,
                () = stop.cancelled() => Some(Ending::Interrupted),
                Some(ended) = self.workers.join_next() => match task_outcome(ended) {
                    Ok(()) if self.workers.is_empty() => Some(Ending::Done),
                    Ok(()) => continue,
                    Err(failure) => Some(Ending::Failed(failure)),
                },
            };
            let now = clock::now();
            let counted = self.recorder.figures(phase).counted();
            if self.plan.interval.is_some() && now > earlier.0 {
                let interval = Interval::new(now - begin, now - earlier.0, &counted, &earlier.1);
                println!("{}", progress_line(&interval, phase));
                if phase == Phase::Measured {
                    self.intervals.push(interval);
                }
            }
            if ending.is_some() || end.is_some_and(|end| now >= end) {
                return (counted, ending);
            }
            earlier = (wake.unwrap_or(now), counted);
        }
    }

    /// Waits for the transactions under way: how many did not end, and the first failure.
    async fn finish_workers(&mut self) -> (usize, Option<Failure>) {
        let deadline = clock::now() + FINISH_PATIENCE;
        let mut failure = None;
        loop {
            tokio::select! {
                ended = self.workers.join_next() => match ended {
                    Some(ended) => failure = failure.or(task_outcome(ended).err()),
                    None => return (0, failure),
                },
                () = until(Some(deadline)) => {
                    let unfinished = self.workers.len();
                    self.workers.shutdown().await;
                    return (unfinished, failure);
                }
            }
        }
    }
}

/// Resolves at a moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// One connection's task.
struct Worker<S> {
    session: S,
    client: Client,
    pauses: StdRng,
    recorder: Arc<Recorder>,
    finish: CancellationToken,
    ignore_errors: bool,
}

impl<S: Session> Worker<S> {
    /// Draws and executes until told to finish, or there is nothing left to do.
    async fn work(mut self) -> Result<(), Failure> {
        while !self.finish.is_cancelled() {
            let Some(drawn) = self.session.draw() else { break };
            self.pause(drawn.keying).await;
            if self.finish.is_cancelled() {
                break;
            }
            self.execute(drawn.kind).await?;
            self.pause(drawn.thinking).await;
        }
        self.client.close().await;
        Ok(())
    }

    /// Executes what was drawn until it succeeds, is given up, or the run ends.
    async fn execute(&mut self, kind: usize) -> Result<(), Failure> {
        let begin = clock::now();
        let mut attempts = 0;
        loop {
            let failure = match self.session.execute(&mut self.client, attempts > 0).await {
                Ok(outcome) => {
                    self.recorder.success(kind, clock::now() - begin, outcome);
                    return Ok(());
                }
                Err(failure) => failure,
            };
            self.recorder.failure(failure.label());
            self.client.recover(&failure).await;
            if !failure.is_retryable() || clock::now() - begin > RETRY_PATIENCE {
                if self.ignore_errors && failure.is_ignorable() {
                    self.recorder.given_up();
                    return Ok(());
                }
                return Err(failure);
            }
            if self.finish.is_cancelled() {
                return Ok(());
            }
            attempts += 1;
            let pause = match failure {
                Failure::Unreachable(_) => RECONNECT_PAUSE,
                _ => self.backoff(attempts),
            };
            self.pause(pause).await;
        }
    }

    /// The first repeat comes at once; later ones spread over a time that doubles.
    fn backoff(&mut self, attempts: u32) -> Duration {
        let longest = match attempts {
            1 => Duration::ZERO,
            _ => Duration::from_millis(1 << attempts.min(16)).min(RETRY_PAUSE_MAX),
        };
        longest.mul_f64(self.pauses.random_range(0.5..=1.0))
    }

    /// Pauses, unless the run ends before.
    async fn pause(&mut self, pause: Duration) {
        if !pause.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.finish.cancelled() => {}
            }
        }
    }
}
