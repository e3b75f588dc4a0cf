//! The flows of nodes with names, as they come and go: for `cambric flows`, and whoever shows what moves.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kernel::Waker;
use kernel::conntrack::{Change, Conntrack, Follower, counts};
use kernel::counters::{Tracking, tracking};
use kernel::netns::{NetNs, run_in};
use model::NodeName;
use model::flow::TrackedFlow;
use serde::Serialize;
use trace::flow::{Filter, NamedFlow, Names};
use trace::journey::Scene;

use crate::paths::LabName;
use crate::{Error, Result, live, topology};

/// How many changes wait at most for whoever reads them. What is more waits in the kernel, which then loses some and says
/// so.
const WAITING: usize = 4096;
/// How old names can be, as pods come and go with addresses that others have had.
const NAMES_LAST: Duration = Duration::from_secs(60);
/// How long after names were looked up they are again, when an address of the cluster has none; twice as long each time
/// that this has not helped.
const NAMES_PAUSE: Duration = Duration::from_secs(1);

/// Looks up who there is in the cluster.
pub type Look = Box<dyn FnMut() -> Result<Scene> + Send>;

/// A node whose flows are looked at.
#[derive(Debug)]
pub struct Place {
    /// Its name.
    pub node: NodeName,
    /// Its network namespace.
    pub namespace: NetNs,
}

impl Place {
    /// Tells of the flows that the node tracks now.
    ///
    /// # Errors
    /// [`Error::Kernel`] if they cannot be listed.
    pub fn current(&self, each: &mut (dyn FnMut(TrackedFlow) + Send)) -> Result<()> {
        self.inside(|| Conntrack::open()?.all(each))
    }

    /// Whether the node counts what goes through flows.
    ///
    /// # Errors
    /// [`Error::Kernel`] if its setting cannot be read.
    pub fn counts(&self) -> Result<bool> {
        self.inside(counts)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> kernel::Result<T> + Send) -> Result<T> {
        let failed = Error::kernel(self.node.as_str());
        run_in(&self.namespace, work).and_then(|result| result).map_err(failed)
    }
}

/// The nodes of a lab, or one of them, and how to look up their cluster.
///
/// # Errors
/// [`Error::NoLab`], or [`Error::NoMember`] with the nodes that there are.
pub fn of_lab(lab: &LabName, only: Option<&str>) -> Result<(Vec<Place>, Look)> {
    crate::state::State::read(lab)?;
    let topology = topology::load(&lab.paths().topology())?;
    let all: Vec<String> = topology.nodes().map(|node| node.name.clone()).collect();
    if let Some(only) = only.filter(|only| !all.iter().any(|node| node == only)) {
        return Err(Error::NoMember { lab: lab.clone(), name: only.to_owned(), known: all });
    }
    let wanted = all.iter().filter(|node| only.is_none_or(|only| only == *node));
    let place = |node: &String| {
        let name = NodeName::new(node.as_str()).map_err(|error| Error::Other(error.to_string()))?;
        Ok(Place { node: name, namespace: crate::enter::open(lab, node)? })
    };
    let places = wanted.map(place).collect::<Result<Vec<Place>>>()?;
    let lab = lab.clone();
    Ok((places, Box::new(move || live::listed(&lab).map(|all| Scene::assumed(all.cluster, all.pods)))))
}

/// Those that are wanted of the flows that nodes track now.
///
/// # Errors
/// [`Error::Kernel`] if a node does not tell.
pub fn current(places: &[Place], scene: &Scene, filter: &Filter) -> Result<Vec<NamedFlow>> {
    let names = Names::new(scene);
    let mut found = Vec::new();
    for place in places {
        place.current(&mut |tracked| {
            found.extend(Some(names.name(&place.node, &tracked, false)).filter(|flow| filter.wants(flow)));
        })?;
    }
    Ok(found)
}

/// All flows of these nodes, each once: without what says nothing that others do not say.
pub fn each_once(places: &[Place]) -> Filter {
    Filter { nodes: Some(places.iter().map(|place| place.node.clone()).collect()), ..Filter::default() }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// To a flow.
    Flow(What, Box<NamedFlow>),
    /// So many messages of a node's kernel were lost. Flows that have come and gone meanwhile are not told of; all else is.
    Lost(NodeName, u32),
    /// Packets of which a node's connection tracking could make no flow.
    Untracked(NodeName, Untracked),
    /// Something that whoever reads should know, as a sentence.
    Note(String),
}

/// Packets of which connection tracking could make no flow, since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Untracked {
    /// Those that belong to no flow and can begin none. They pass untranslated, if no rule drops them.
    pub invalid: u64,
    /// Those that were dropped: there was no room, or another flow had the same addresses and ports.
    pub dropped: u64,
}

impl Untracked {
    /// What was counted between two looks; `None` if nothing was.
    fn between(before: &Tracking, now: &Tracking) -> Option<Untracked> {
        let lost = |at: &Tracking| at.dropped + at.insert_failed;
        let untracked = Untracked {
            invalid: now.invalid.saturating_sub(before.invalid),
            dropped: lost(now).saturating_sub(lost(before)),
        };
        (untracked.invalid + untracked.dropped > 0).then_some(untracked)
    }
}

/// What has happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// It was there already.
    Listed,
    /// It has begun.
    Begun,
    /// Something of it is another now, be it that more has gone through it.
    Changed,
    /// It is known no more.
    Ended,
}

/// What the thread of a node tells.
enum News {
    Change(Change),
    Untracked(Untracked),
    Failed(Error),
}

/// Flows of nodes, followed until it is dropped.
///
/// Waiting for what happens next may ask the API, so it is nothing for the threads of an event loop.
pub struct Flows {
    /// `None` only while it is dropped.
    news: Option<Receiver<(NodeName, News)>>,
    watches: Vec<(Waker, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
    naming: Naming,
    ready: VecDeque<Event>,
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Flows {
    /// Follows the flows of nodes; their counters are looked at again after `every`. `look` is how to look up names again,
    /// and `scene` what it has said.
    ///
    /// # Errors
    /// [`Error::Kernel`] if a node does not tell of its flows.
    pub fn follow(places: Vec<Place>, scene: &Scene, look: Look, every: Duration) -> Result<Flows> {
        let (sender, news) = sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |place: Place| {
            let follower = place.inside(|| Follower::open(every))?;
            let waker = follower.waker();
            let (sender, stop) = (sender.clone(), stop.clone());
            let thread = thread::Builder::new()
                .name(format!("flows of {}", place.node))
                .spawn(move || watch(&place, follower, every, &sender, &stop))
                .map_err(|error| Error::system("start a thread", error))?;
            Ok::<_, Error>((waker, thread))
        };
        let mut flows = Flows {
            news: Some(news),
            watches: Vec::new(),
            stop: stop.clone(),
            naming: Naming::new(scene, look),
            ready: VecDeque::new(),
        };
        for place in places {
            flows.watches.push(watch(place)?);
        }
        Ok(flows)
    }

    /// Waits for what happens next; `None` if nothing does in time.
    ///
    /// # Errors
    /// [`Error::Kernel`] if a node does not tell of its flows any more.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Event>> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(event));
        }
        let Some(news) = &self.news else { return Ok(None) };
        let received = match timeout {
            Some(timeout) => news.recv_timeout(timeout),
            None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let (node, news) = match received {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Other("nobody tells of flows any more".to_owned()));
            }
        };
        let (what, tracked) = match news {
            News::Change(Change::Listed(flow)) => (What::Listed, flow),
            News::Change(Change::Begun(flow)) => (What::Begun, flow),
            News::Change(Change::Changed(flow)) => (What::Changed, flow),
            News::Change(Change::Ended(flow)) => (What::Ended, flow),
            News::Change(Change::Lost(count)) => return Ok(Some(Event::Lost(node, count))),
            News::Untracked(untracked) => return Ok(Some(Event::Untracked(node, untracked))),
            News::Failed(error) => return Err(error),
        };
        let note = self.naming.refresh(&tracked, Instant::now());
        let named = self.naming.names.name(&node, &tracked, what == What::Ended);
        self.ready.push_back(Event::Flow(what, Box::new(named)));
        self.ready.extend(note.map(Event::Note));
        Ok(self.ready.pop_front())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that waits for room in the queue sees that nobody reads it any more.
        self.news = None;
        for (waker, thread) in self.watches.drain(..) {
            waker.wake();
            // A panic in it has been shown, and there is nobody left who would miss what it had to say.
            let _ = thread.join();
        }
    }
}

fn watch(
    place: &Place,
    mut follower: Follower,
    every: Duration,
    to: &SyncSender<(NodeName, News)>,
    stop: &AtomicBool,
) {
    let unread = Cell::new(false);
    let tell = |news| unread.set(unread.get() || to.send((place.node.clone(), news)).is_err());
    let look = || {
        place.inside(tracking).unwrap_or_else(|error| {
            tell(News::Failed(error));
            None
        })
    };
    let (mut counted, mut looked) = (look(), Instant::now());
    while !unread.get() && !stop.load(Ordering::Relaxed) {
        if let Err(error) = follower.wait(Some(every), &mut |change| tell(News::Change(change))) {
            return tell(News::Failed(Error::kernel(place.node.as_str())(error)));
        }
        if looked.elapsed() >= every {
            let now = look();
            let untracked = counted.zip(now).and_then(|(before, now)| Untracked::between(&before, &now));
            untracked.into_iter().for_each(|untracked| tell(News::Untracked(untracked)));
            (counted, looked) = (now, Instant::now());
        }
    }
}

/// Names that are looked up again when they are too old.
struct Naming {
    names: Names,
    look: Look,
    looked: Instant,
    pause: Duration,
}

impl Naming {
    fn new(scene: &Scene, look: Look) -> Naming {
        Naming { names: Names::new(scene), look, looked: Instant::now(), pause: NAMES_PAUSE }
    }

    /// Looks names up again if those of a flow may be wrong; what is to be said about that.
    fn refresh(&mut self, tracked: &TrackedFlow, now: Instant) -> Option<String> {
        let old = now.saturating_duration_since(self.looked);
        let wait = if self.names.knows(tracked) { NAMES_LAST } else { self.pause };
        if old < wait {
            return None;
        }
        let looked = (self.look)();
        self.looked = Instant::now();
        let note = match looked {
            Ok(scene) => {
                self.names = Names::new(&scene);
                None
            }
            Err(error) => Some(format!("names are those of before: {error}")),
        };
        let helped = self.names.knows(tracked);
        self.pause = if helped { NAMES_PAUSE } else { (2 * self.pause).min(NAMES_LAST) };
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_untracked_since() {
        let before = Tracking { invalid: 5, dropped: 2, insert_failed: 1, ..Tracking::default() };
        assert_eq!(Untracked::between(&before, &Tracking { flows: 9, ..before }), None);
        let now = Tracking { invalid: 8, dropped: 3, insert_failed: 3, ..before };
        assert_eq!(Untracked::between(&before, &now), Some(Untracked { invalid: 3, dropped: 3 }));
    }
}
