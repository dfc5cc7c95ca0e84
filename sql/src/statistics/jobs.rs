//! What ANALYZE does on this node, and did lately: `SHOW ANALYZE STATUS`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock;

/// Jobs that are remembered.
const JOBS_MAX: usize = 128;

/// One table being analyzed, or analyzed.
#[derive(Debug)]
pub struct Job {
    /// Name of the database.
    pub database: String,
    /// Name of the table.
    pub table: String,
    /// What is done.
    pub info: String,
    /// The connection that asked for it.
    pub process_id: Option<u32>,
    /// Microseconds since the Unix epoch.
    pub started_micros: i64,
    /// Rows that the table was thought to have.
    pub expected_rows: u64,
    /// Rows read so far.
    pub rows: AtomicU64,
    end: Mutex<Option<End>>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct End {
    /// Microseconds since the Unix epoch.
    pub at_micros: i64,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Job {
    /// One that begins now.
    pub fn begin(
        database: &str,
        table: &str,
        info: String,
        process_id: Option<u32>,
        expected_rows: u64,
    ) -> Job {
        Job {
            database: database.to_owned(),
            table: table.to_owned(),
            info,
            process_id,
            started_micros: clock::unix_micros(),
            expected_rows,
            rows: AtomicU64::new(0),
            end: Mutex::default(),
        }
    }

    /// How it ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// What became of it.
    pub fn state(&self) -> &'static str {
        match &*self.end.lock() {
            None => "running",
            Some(End { failure: None, .. }) => "finished",
            Some(End { failure: Some(_), .. }) => "failed",
        }
    }

    fn finish(&self, failure: Option<String>) {
        let mut end = self.end.lock();
        if end.is_none() {
            *end = Some(End { at_micros: clock::unix_micros(), failure });
        }
    }

    /// Share of the rows that were expected.
    pub fn progress(&self) -> f64 {
        if self.end().is_some_and(|end| end.failure.is_none()) {
            return 1.0;
        }
        let rows = self.rows.load(Ordering::Relaxed) as f64;
        (rows / self.expected_rows.max(1) as f64).min(1.0)
    }
}

/// A job under way; one that is dropped before it ended was interrupted.
pub struct Running(Arc<Job>);

impl Running {
    /// The job.
    pub fn job(&self) -> &Job {
        &self.0
    }

    /// It has ended.
    pub fn end<T, E: std::fmt::Display>(self, outcome: Result<T, E>) -> Result<T, E> {
        self.0.finish(outcome.as_ref().err().map(E::to_string));
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.finish(Some("Query execution was interrupted".to_owned()));
    }
}

/// The jobs of a node, the newest last.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<VecDeque<Arc<Job>>>);

impl Jobs {
    /// Adds one.
    pub fn begin(&self, job: Job) -> Running {
        let job = Arc::new(job);
        let mut jobs = self.0.lock();
        if jobs.len() == JOBS_MAX {
            jobs.pop_front();
        }
        jobs.push_back(Arc::clone(&job));
        Running(job)
    }

    /// All that are remembered.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_end_one_way_or_another_and_are_forgotten_in_time() {
        let jobs = Jobs::default();
        let begin = || jobs.begin(Job::begin("d", "t", String::new(), None, 10));
        let running = begin();
        running.job().rows.store(5, Ordering::Relaxed);
        assert_eq!((running.job().state(), running.job().progress()), ("running", 0.5));
        assert!(running.end(Ok::<(), String>(())).is_ok());
        drop(begin());
        let failed = begin().end(Err::<(), _>("no room"));
        assert_eq!(failed, Err("no room"));
        let states: Vec<_> = jobs.all().iter().map(|job| job.state()).collect();
        assert_eq!(states, ["finished", "failed", "failed"]);
        (0..JOBS_MAX).for_each(|_| drop(begin()));
        assert_eq!(jobs.all().len(), JOBS_MAX);
    }
}
