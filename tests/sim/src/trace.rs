//! The record of a run: a hash over every event, and the events themselves on request.

use std::fmt::{self, Write};
use std::hash::Hasher;
use std::time::Duration;

use foldhash::quality::FixedState;
use parking_lot::Mutex;

/// Events of one run.
pub struct Trace {
    inner: Mutex<Inner>,
}

struct Inner {
    hasher: foldhash::quality::FoldHasher<'static>,
    events: u64,
    lines: Option<Vec<String>>,
}

/// Feeds text to the hash without keeping it.
struct HashText<'a>(&'a mut foldhash::quality::FoldHasher<'static>);

impl Write for HashText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    /// An empty record; the lines cost memory and are kept only when somebody reads them.
    pub fn new(keeps_lines: bool) -> Trace {
        use std::hash::BuildHasher;
        Trace {
            inner: Mutex::new(Inner {
                hasher: FixedState::with_seed(0).build_hasher(),
                events: 0,
                lines: keeps_lines.then(Vec::new),
            }),
        }
    }

    /// Adds an event.
    pub fn note(&self, at: Duration, event: fmt::Arguments<'_>) {
        let inner = &mut *self.inner.lock();
        inner.events += 1;
        inner.hasher.write_u128(at.as_nanos());
        // Writing to a hash does not fail.
        let _ = HashText(&mut inner.hasher).write_fmt(event);
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{:>10.3} {event}", at.as_secs_f64()));
        }
    }

    /// The hash of everything so far, and how many events it covers.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hasher.clone().finish(), inner.events)
    }

    /// The events kept.
    pub fn lines(&self) -> Vec<String> {
        self.inner.lock().lines.clone().unwrap_or_default()
    }
}
