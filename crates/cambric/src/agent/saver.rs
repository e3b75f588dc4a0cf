//! Keeps the state of the cluster on disk, for a start without the API. It is written by a thread of its own: that takes
//! longer than a change may wait for the kernel.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use model::NodeName;

use super::core::Core;
use super::persist::{self, Snapshot};

/// What is new waits this long, for what else is new by then.
const DELAY: Duration = Duration::from_secs(1);
/// After a write the pause is this many times as long as it took, so that a big cluster in which something changes all
/// the time does not keep a processor busy,
const REST: u32 = 20;
/// but no longer than this, which is the pause after a write that failed too.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Writes the state when it is new.
#[derive(Debug)]
pub(crate) struct Saver {
    path: PathBuf,
    local: NodeName,
    /// The revision that is in the file, or on its way there.
    kept: Option<u64>,
    due: Option<Instant>,
    not_before: Option<Instant>,
    /// Says how long it has taken.
    writing: Option<JoinHandle<Result<Duration>>>,
}

impl Saver {
    /// Writes to this file the state that this node knows.
    pub(crate) fn new(path: PathBuf, local: NodeName) -> Saver {
        Saver { path, local, kept: None, due: None, not_before: None, writing: None }
    }

    /// Begins to write what is new, if it is time. The first state of a run is not waited with.
    pub(crate) fn keep(&mut self, core: &Core, now: Instant) {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end(now);
        }
        if !self.is_new(core) {
            self.due = None;
            return;
        }
        let delay = if self.kept.is_some() { DELAY } else { Duration::ZERO };
        let due = *self.due.get_or_insert(now + delay);
        let due = self.not_before.map_or(due, |rested| due.max(rested));
        self.due = Some(due);
        if due > now {
            return;
        }
        if self.writing.is_some() {
            self.due = Some(now + DELAY);
        } else if let Some(snapshot) = Snapshot::of(core) {
            self.due = None;
            self.begin(core.revision(), snapshot, now);
        }
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what is new, and waits until it is written.
    pub(crate) fn finish(&mut self, core: &Core) {
        self.end(Instant::now());
        if let Some(snapshot) = Snapshot::of(core).filter(|_| self.is_new(core)) {
            match persist::save(&self.path, &self.local, &snapshot) {
                Ok(()) => self.kept = Some(core.revision()),
                Err(error) => self.failed(&error, Instant::now()),
            }
        }
    }

    /// Puts the state of an earlier run into `core`; says whether there was one.
    pub(crate) fn restore(&mut self, core: &mut Core) -> bool {
        match persist::load(&self.path, &self.local) {
            Ok(Some((network, objects))) => {
                core.restore(network, objects);
                self.kept = Some(core.revision());
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the state of the last run is of no use");
                false
            }
        }
    }

    fn is_new(&self, core: &Core) -> bool {
        core.has_plan() && self.kept != Some(core.revision())
    }

    fn begin(&mut self, revision: u64, snapshot: Snapshot, now: Instant) {
        let (path, local) = (self.path.clone(), self.local.clone());
        let write = move || {
            let start = Instant::now();
            persist::save(&path, &local, &snapshot).map(|()| start.elapsed())
        };
        match thread::Builder::new().name("state".to_owned()).spawn(write).context("cannot start a thread") {
            Ok(thread) => {
                self.writing = Some(thread);
                self.kept = Some(revision);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Waits for the thread that writes, if there is one.
    fn end(&mut self, now: Instant) {
        let Some(writing) = self.writing.take() else { return };
        match writing.join().unwrap_or_else(|_| Err(anyhow!("the thread that writes it has failed"))) {
            Ok(took) => self.not_before = Some(now + (took * REST).min(LONGEST_REST)),
            Err(error) => self.failed(&error, now),
        }
    }

    fn failed(&mut self, error: &anyhow::Error, now: Instant) {
        tracing::warn!(error = format!("{error:#}"), "the state cannot be kept");
        self.kept = None;
        self.not_before = Some(now + LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use kube_source::{ClusterNetworkSpec, Event};
    use model::{NetworkConfig, Node};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn node(name: &str, number: u8) -> Event {
        let (ip, cidr) = (format!("192.0.2.{number}"), format!("fd00:10:244:{number}::/64"));
        Event::Node(Node::parse(NodeName::new(name).unwrap(), [ip.as_str()], [cidr.as_str()]).unwrap())
    }

    fn core() -> Core {
        let mut core = Core::new(NodeName::new("a").unwrap());
        let spec: ClusterNetworkSpec =
            serde_json::from_str(r#"{"podRanges": ["fd00:10:244::/48"]}"#).unwrap();
        core.take(Event::Network(NetworkConfig::try_from(&spec).unwrap()));
        core.take(node("a", 1));
        core
    }

    fn saver(path: &Path) -> Saver {
        Saver::new(path.to_owned(), NodeName::new("a").unwrap())
    }

    /// Which of the nodes b, c and d are in the file.
    fn kept(path: &Path) -> Vec<&'static str> {
        let text = fs::read_to_string(path).unwrap();
        ["b", "c", "d"].into_iter().filter(|name| text.contains(&format!("\"name\":\"{name}\""))).collect()
    }

    #[test]
    fn changes_are_written_together_a_second_after_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (mut core, mut saver, start) = (core(), saver(&path), Instant::now());
        saver.keep(&core, start);
        assert!(saver.writing.is_none() && saver.deadline().is_none(), "without a plan nothing is known");
        core.take(Event::Synced);
        saver.keep(&core, start);
        saver.end(start);
        assert_eq!(kept(&path), Vec::<&str>::new());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        // However long the first write has taken.
        let start = start + LONGEST_REST;
        core.take(node("b", 2));
        saver.keep(&core, start);
        core.take(node("c", 3));
        saver.keep(&core, start + DELAY - MS);
        assert!(saver.writing.is_none());
        assert_eq!(saver.deadline(), Some(start + DELAY));
        saver.keep(&core, start + DELAY);
        assert_eq!(saver.deadline(), None);
        // What comes while the thread writes waits for its turn.
        core.take(node("d", 4));
        saver.end(start + DELAY);
        assert_eq!(kept(&path), ["b", "c"]);
        saver.keep(&core, start + DELAY);
        assert!(saver.deadline() >= Some(start + DELAY * 2) && saver.writing.is_none());
        saver.finish(&core);
        assert_eq!(kept(&path), ["b", "c", "d"]);
    }

    #[test]
    fn a_write_that_takes_long_is_rested_from() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, mut saver, start) = (core(), saver(&dir.path().join("state.json")), Instant::now());
        core.take(Event::Synced);
        saver.kept = Some(0);
        saver.writing = Some(thread::spawn(|| Ok(MS * 200)));
        saver.end(start);
        saver.keep(&core, start);
        assert_eq!(saver.deadline(), Some(start + MS * 4000));
    }

    #[test]
    fn a_write_that_fails_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/state.json");
        let (mut core, mut saver, start) = (core(), saver(&path), Instant::now());
        core.take(Event::Synced);
        saver.keep(&core, start);
        saver.end(start);
        saver.keep(&core, start);
        assert_eq!(saver.deadline(), Some(start + LONGEST_REST));
        fs::create_dir(dir.path().join("run")).unwrap();
        saver.keep(&core, start + LONGEST_REST);
        saver.end(start);
        assert!(path.exists());
    }

    #[test]
    fn what_was_read_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut first = core();
        first.take(Event::Synced);
        saver(&path).finish(&first);
        let (mut core, mut saver) = (Core::new(NodeName::new("a").unwrap()), saver(&path));
        assert!(saver.restore(&mut core));
        saver.keep(&core, Instant::now());
        assert!(saver.writing.is_none() && saver.deadline().is_none());
    }
}
