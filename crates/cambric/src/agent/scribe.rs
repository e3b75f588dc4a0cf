//! Writes files that are as big as the cluster, each by a thread of its own: that takes longer than a change may wait
//! for the kernel.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// What is new waits this long, for what else is new by then.
pub(super) const DELAY: Duration = Duration::from_secs(1);
/// After a write the pause is this many times as long as it took, so that a big cluster in which something changes all
/// the time does not keep a processor busy,
const REST: u32 = 20;
/// but no longer than this, which is the pause after a write that failed too.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(30);

/// When a file is written again.
#[derive(Debug)]
pub(super) struct Scribe {
    /// What is in the file, in words.
    what: &'static str,
    /// The revision that is in the file, or on its way there.
    pub(super) kept: Option<u64>,
    due: Option<Instant>,
    not_before: Option<Instant>,
    /// Says how long it has taken.
    pub(super) writing: Option<JoinHandle<Result<Duration>>>,
}

impl Scribe {
    pub(super) fn new(what: &'static str) -> Scribe {
        Scribe { what, kept: None, due: None, not_before: None, writing: None }
    }

    /// Begins to write a revision if it is new, and if it is time. The first of a run is not waited with. `content` is
    /// what there is to write, and how.
    pub(super) fn keep<W>(&mut self, revision: Option<u64>, now: Instant, content: impl FnOnce() -> Option<W>)
    where
        W: FnOnce() -> Result<()> + Send + 'static,
    {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end(now);
        }
        let Some(revision) = revision.filter(|revision| self.kept != Some(*revision)) else {
            self.due = None;
            return;
        };
        let delay = if self.kept.is_some() { DELAY } else { Duration::ZERO };
        let due = *self.due.get_or_insert(now + delay);
        let due = self.not_before.map_or(due, |rested| due.max(rested));
        self.due = Some(due);
        if due > now {
            return;
        }
        if self.writing.is_some() {
            self.due = Some(now + DELAY);
        } else if let Some(write) = content() {
            self.due = None;
            self.begin(revision, write, now);
        }
    }

    /// When there is something to do next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    fn begin(&mut self, revision: u64, write: impl FnOnce() -> Result<()> + Send + 'static, now: Instant) {
        let timed = move || {
            let start = Instant::now();
            write().map(|()| start.elapsed())
        };
        match thread::Builder::new().name("scribe".to_owned()).spawn(timed).context("cannot start a thread") {
            Ok(thread) => {
                self.writing = Some(thread);
                self.kept = Some(revision);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Waits for the thread that writes, if there is one.
    pub(super) fn end(&mut self, now: Instant) {
        let Some(writing) = self.writing.take() else { return };
        match writing.join().unwrap_or_else(|_| Err(anyhow!("the thread that writes it has failed"))) {
            Ok(took) => self.not_before = Some(now + (took * REST).min(LONGEST_REST)),
            Err(error) => self.failed(&error, now),
        }
    }

    pub(super) fn failed(&mut self, error: &anyhow::Error, now: Instant) {
        tracing::warn!(error = format!("{error:#}"), "{} cannot be kept", self.what);
        self.kept = None;
        self.not_before = Some(now + LONGEST_REST);
    }
}
