//! The fast path of a plan, kept as the plan and the kernel's own path are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use model::LinkName;
use plan::fast::{Place, Reach, place, reach};
use plan::{Change, Entries, Key};

use crate::bpf::bpffs;
use crate::fast::{self, Counters, Fast, Side};
use crate::report::Report;
use crate::{Error, Result};

/// Changes of more frontends than that end all flows, which takes no longer for more.
const MANY: usize = 1000;

/// The fast path of one namespace, if it has one.
#[derive(Debug)]
pub(crate) struct FastPath {
    /// A BPF file system for what the CNI plugin has to know.
    mount: Option<PathBuf>,
    fast: Option<Fast>,
    places: BTreeSet<Place>,
    /// Whether connection tracking has forgotten all that the last change of services wanted it to.
    is_cleared: bool,
}

impl Default for FastPath {
    fn default() -> FastPath {
        FastPath { mount: None, fast: None, places: BTreeSet::new(), is_cleared: true }
    }
}

/// How the fast path fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FastPathState {
    /// The links on which packets are looked at.
    pub links: Vec<LinkName>,
    /// The addresses of pods of this node whose flows it takes.
    pub pods: usize,
    /// What packets and flows have met.
    pub counters: Counters,
}

impl FastPath {
    pub(crate) fn pin_in(&mut self, mount: &Path) {
        self.mount = Some(mount.to_owned());
    }

    /// Brings it to a plan, which the kernel's own path has come to. If something was changed on the way there, all flows
    /// are forgotten.
    pub(crate) fn follow(&mut self, plan: &Entries, report: &mut Report) {
        if !plan.contains_key(&Key::FastPath) {
            self.end();
            return;
        }
        let wanted: BTreeSet<Place> = plan.keys().filter_map(place).collect();
        if let Err(error) = self.bring_to(wanted, report.writes() > 0 || report.flows_removed > 0) {
            self.fail(error, report);
        }
    }

    /// Takes part in a change of a plan, after the kernel's own path has.
    pub(crate) fn change(&mut self, change: &Change, report: &mut Report) {
        if self.fast.is_none() {
            return;
        }
        // What could not be cleared of connections is when somebody next tries, whatever that changes.
        let is_cleared = report.services.is_none();
        let everything = !std::mem::replace(&mut self.is_cleared, is_cleared) || !is_cleared;
        if let Err(error) = self.take_part(change, everything) {
            self.fail(error, report);
        }
    }

    /// Forgets all flows, because somebody else has changed something.
    pub(crate) fn doubt(&mut self) -> Result<()> {
        let done = self.fast.as_mut().map_or(Ok(()), Fast::invalidate);
        if done.is_err() {
            self.end();
        }
        done
    }

    /// Has it go on for a while.
    pub(crate) fn attend(&mut self) -> Result<()> {
        self.fast.as_mut().map_or(Ok(()), Fast::attend)
    }

    /// How it fares; `None` if there is none.
    pub(crate) fn state(&self) -> Option<Result<FastPathState>> {
        let fast = self.fast.as_ref()?;
        let pods = self.places.iter().filter(|place| matches!(place, Place::Pod(..))).count();
        let state = || {
            let links = fast.links().cloned().collect();
            Ok(FastPathState { links, pods, counters: fast.counters()? })
        };
        Some(state())
    }

    /// Takes away what a process that was killed has left pinned.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.end();
        self.mount.as_deref().map_or(Ok(()), |mount| fast::unpin(&fast::directory(mount)?))
    }

    fn end(&mut self) {
        self.fast = None;
        self.places.clear();
    }

    /// Without it, all packets take the kernel's path.
    fn fail(&mut self, error: Error, report: &mut Report) {
        self.end();
        report.fast_path = Some(Error::FastPath { source: Box::new(error) });
    }

    fn bring_to(&mut self, wanted: BTreeSet<Place>, has_changed: bool) -> Result<()> {
        if self.fast.is_none() {
            self.places.clear();
            let pins = match &self.mount {
                Some(mount) => {
                    bpffs::mount(mount)?;
                    Some(fast::directory(mount)?)
                }
                None => None,
            };
            self.fast = Some(Fast::open(pins.as_deref())?);
        }
        let Some(fast) = &mut self.fast else { return Ok(()) };
        // Forgotten before anything is learned by what follows, and again by what goes.
        if has_changed {
            fast.invalidate()?;
        }
        fast.look_around()?;
        for gone in self.places.difference(&wanted) {
            take(fast, gone, &wanted)?;
        }
        // Those that are known as well: a link may be another one of the same name.
        for there in &wanted {
            put(fast, there)?;
        }
        self.places = wanted;
        fast.attend()
    }

    fn take_part(&mut self, change: &Change, mut everything: bool) -> Result<()> {
        let Some(fast) = &mut self.fast else { return Ok(()) };
        let mut places = BTreeSet::new();
        let frontends = &change.services.frontends;
        everything |= change.services.settings || frontends.len() > MANY;
        if change.keys.keys().any(|key| matches!(place(key), Some(Place::Pod(..)))) {
            fast.look_around()?;
        }
        for key in change.keys.keys() {
            match reach(key) {
                Reach::Nothing => {}
                Reach::At(net) => drop(places.insert(net)),
                Reach::Everything => everything = true,
            }
        }
        // What goes before what comes: a pod may have got the address of one that is gone, by another link.
        for place in
            change.keys.iter().filter(|(_, planned)| planned.is_none()).filter_map(|(key, _)| place(key))
        {
            self.places.remove(&place);
            take(fast, &place, &self.places)?;
        }
        for place in
            change.keys.iter().filter(|(_, planned)| planned.is_some()).filter_map(|(key, _)| place(key))
        {
            put(fast, &place)?;
            self.places.insert(place);
        }
        if everything {
            return fast.invalidate();
        }
        fast.invalidate_frontends(frontends.keys())?;
        places.into_iter().try_for_each(|net: IpNet| fast.invalidate_at(net))
    }
}

/// A pod whose link is not there, or is left to the kernel, has no place.
fn put(fast: &mut Fast, place: &Place) -> Result<()> {
    match place {
        Place::Wire(link) => fast.set_link(link, Some(Side::Wire)).map(drop),
        Place::Pod(address, link) => {
            let there = match fast.set_link(link, Some(Side::Pod)) {
                Err(Error::Foreign { .. }) => false,
                result => result?,
            };
            fast.set_pod(*address, there.then_some(link))
        }
        Place::Node(address) => fast.set_host(*address, true),
        Place::Elsewhere(net) => fast.set_range(*net, true),
    }
}

/// The link of a pod that has another address still keeps the programs.
fn take(fast: &mut Fast, place: &Place, left: &BTreeSet<Place>) -> Result<()> {
    match place {
        Place::Wire(link) => fast.set_link(link, None).map(drop),
        Place::Pod(address, link) => {
            fast.set_pod(*address, None)?;
            let shares = |other: &Place| matches!(other, Place::Pod(_, other) if other == link);
            if left.iter().any(shares) { Ok(()) } else { fast.set_link(link, None).map(drop) }
        }
        Place::Node(address) => fast.set_host(*address, false),
        Place::Elsewhere(net) => fast.set_range(*net, false),
    }
}
