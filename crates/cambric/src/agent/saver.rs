//! Keeps the state of the cluster on disk, for a start without the API.

use std::path::PathBuf;
use std::time::Instant;

use model::NodeName;

use super::core::Core;
use super::persist::{self, Snapshot};
use super::scribe::Scribe;

/// Writes the state when it is new.
#[derive(Debug)]
pub(crate) struct Saver {
    path: PathBuf,
    local: NodeName,
    scribe: Scribe,
}

impl Saver {
    /// Writes to this file the state that this node knows.
    pub(crate) fn new(path: PathBuf, local: NodeName) -> Saver {
        Saver { path, local, scribe: Scribe::new("the state") }
    }

    /// Begins to write what is new, if it is time. The first state of a run is not waited with.
    pub(crate) fn keep(&mut self, core: &Core, now: Instant) {
        let (path, local) = (&self.path, &self.local);
        self.scribe.keep(revision(core), now, || {
            let (path, local, snapshot) = (path.clone(), local.clone(), Snapshot::of(core)?);
            Some(move || persist::save(&path, &local, &snapshot))
        });
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.scribe.deadline()
    }

    /// Writes what is new, and waits until it is written.
    pub(crate) fn finish(&mut self, core: &Core) {
        self.scribe.end(Instant::now());
        let is_new = revision(core).is_some_and(|revision| self.scribe.kept != Some(revision));
        if let Some(snapshot) = Snapshot::of(core).filter(|_| is_new) {
            match persist::save(&self.path, &self.local, &snapshot) {
                Ok(()) => self.scribe.kept = Some(core.revision()),
                Err(error) => self.scribe.failed(&error, Instant::now()),
            }
        }
    }

    /// Puts the state of an earlier run into `core`; says whether there was one.
    pub(crate) fn restore(&mut self, core: &mut Core) -> bool {
        match persist::load(&self.path, &self.local) {
            Ok(Some((network, objects))) => {
                core.restore(network, objects);
                self.scribe.kept = Some(core.revision());
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the state of the last run is of no use");
                false
            }
        }
    }
}

/// Of what is known, if it is worth keeping.
fn revision(core: &Core) -> Option<u64> {
    core.has_plan().then(|| core.revision())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use kube_source::{ClusterNetworkSpec, Event};
    use model::{NetworkConfig, Node};

    use super::super::scribe::{DELAY, LONGEST_REST};
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
        assert!(
            saver.scribe.writing.is_none() && saver.deadline().is_none(),
            "without a plan nothing is known"
        );
        core.take(Event::Synced);
        saver.keep(&core, start);
        saver.scribe.end(start);
        assert_eq!(kept(&path), Vec::<&str>::new());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        // However long the first write has taken.
        let start = start + LONGEST_REST;
        core.take(node("b", 2));
        saver.keep(&core, start);
        core.take(node("c", 3));
        saver.keep(&core, start + DELAY - MS);
        assert!(saver.scribe.writing.is_none());
        assert_eq!(saver.deadline(), Some(start + DELAY));
        saver.keep(&core, start + DELAY);
        assert_eq!(saver.deadline(), None);
        // What comes while the thread writes waits for its turn.
        core.take(node("d", 4));
        saver.scribe.end(start + DELAY);
        assert_eq!(kept(&path), ["b", "c"]);
        saver.keep(&core, start + DELAY);
        assert!(saver.deadline() >= Some(start + DELAY * 2) && saver.scribe.writing.is_none());
        saver.finish(&core);
        assert_eq!(kept(&path), ["b", "c", "d"]);
    }

    #[test]
    fn a_write_that_takes_long_is_rested_from() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, mut saver, start) = (core(), saver(&dir.path().join("state.json")), Instant::now());
        core.take(Event::Synced);
        saver.scribe.kept = Some(0);
        saver.scribe.writing = Some(thread::spawn(|| Ok(MS * 200)));
        saver.scribe.end(start);
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
        saver.scribe.end(start);
        saver.keep(&core, start);
        assert_eq!(saver.deadline(), Some(start + LONGEST_REST));
        fs::create_dir(dir.path().join("run")).unwrap();
        saver.keep(&core, start + LONGEST_REST);
        saver.scribe.end(start);
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
        assert!(saver.scribe.writing.is_none() && saver.deadline().is_none());
    }
}
