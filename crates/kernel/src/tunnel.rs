//! The tunnel's entries of a plan, in the programs of IP in IP and what they go by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use model::{LinkName, PerFamily};
use plan::ipip::{NextHop, Table};
use plan::{Change, Entries, Entry, Key, Planned, Route};

use crate::diff::Op;
use crate::ipip::{self, Counters, Ipip};
use crate::netns::NetNs;
use crate::report::{Failure, Report, Verb};
use crate::{Error, Result};

/// The programs of one namespace, if it has any.
#[derive(Debug, Default)]
pub(crate) struct Tunnel {
    /// The BPF file system; without one the tunnel's entries are left alone.
    mount: Option<PathBuf>,
    ipip: Option<Ipip>,
    /// Whether something is sent by the tunnel. If not, it is no failure that there is none.
    needed: bool,
    /// The uplinks that could not be given the programs.
    bare: BTreeSet<LinkName>,
}

/// The steps of the tunnel before and after those of the kernel's routes.
#[derive(Debug, Default)]
pub(crate) struct Staged<'o> {
    before: Vec<&'o Op<'o>>,
    after: Vec<&'o Op<'o>>,
    last: Vec<&'o Op<'o>>,
    /// Where packets could not be sent by the tunnel.
    barred: BTreeSet<IpNet>,
}

impl Tunnel {
    pub(crate) fn pin_in(&mut self, mount: &Path) {
        self.mount = Some(mount.to_owned());
    }

    /// Whether the tunnel's entries are left alone.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.mount.is_none()
    }

    /// Takes note of what a plan needs.
    pub(crate) fn plan(&mut self, plan: &Entries) {
        self.needed = plan.keys().any(|key| matches!(key, Key::TunnelRoute(_)));
    }

    /// Takes note of what a change needs more.
    pub(crate) fn change(&mut self, change: &Change) {
        let needs = |(key, planned): (&Key, &Option<Planned>)| {
            matches!(key, Key::TunnelRoute(_)) && planned.is_some()
        };
        self.needed |= change.keys.iter().any(needs);
    }

    /// What the kernel holds; nothing if it has no programs, or will have none.
    pub(crate) fn observe(&mut self) -> Table {
        let found = self.open().and_then(Ipip::observe);
        found.unwrap_or_else(|_| {
            // Why is told when something is to be made. Perhaps it can be opened anew.
            self.ipip = None;
            Table::default()
        })
    }

    /// How many packets met which fate; `None` if there are no programs.
    pub(crate) fn counters(&self) -> Option<Result<Counters>> {
        self.ipip.as_ref().map(Ipip::counters)
    }

    /// For how long nothing was heard of each node; `None` if there are no programs. Those that an earlier process has left
    /// have heard on.
    pub(crate) fn heard(&mut self) -> Option<Result<BTreeMap<IpAddr, PerFamily<Duration>>>> {
        // Why they cannot be opened is told when something is to be made.
        self.open().ok().map(|ipip| ipip.last_heard())
    }

    /// Takes away what is left of others, if all that is wanted is there.
    pub(crate) fn tidy(&mut self, plan: &Entries, report: &mut Report) {
        let Some(ipip) = self.ipip.as_mut().filter(|_| self.bare.is_empty()) else { return };
        let uplinks = plan.keys().filter_map(|key| match key {
            Key::TunnelUplink(link) => Some(link.clone()),
            _ => None,
        });
        if let Err(error) = ipip.tidy(&uplinks.collect()) {
            report.tunnel = Some(unusable(error));
        }
    }

    /// Takes the programs and all that is pinned away.
    pub(crate) fn remove(&mut self) -> Result<()> {
        let Some(mount) = &self.mount else { return Ok(()) };
        self.ipip = None;
        ipip::remove(&directory(mount)?)?;
        ipip::unmount(mount)
    }

    /// Sorts the steps of the tunnel.
    ///
    /// Where the other node is the kernel's next hop, a packet can do without the tunnel, but one that fills the uplink does
    /// not fit into it. So the tunnel begins there after the kernel's route has its MTU, and ends before that has another.
    /// Where the next hop is nobody, the tunnel begins before the kernel's route leads into it, and ends after.
    pub(crate) fn stage<'o>(&mut self, ops: &'o [Op<'o>]) -> Staged<'o> {
        let mut staged = Staged::default();
        if self.is_left_alone() {
            return staged;
        }
        let routes: BTreeSet<IpNet> =
            ops.iter().filter_map(|op| route(op).map(|route| route.destination)).collect();
        for op in ops {
            match op {
                Op::Make(planned) | Op::Change(planned) => match &planned.entry {
                    Entry::TunnelRoute { destination, route } => {
                        let later = route.next_hop == NextHop::Kept && routes.contains(destination);
                        if later { staged.after.push(op) } else { staged.before.push(op) }
                    }
                    Entry::TunnelLocal(_) | Entry::TunnelNode(_) | Entry::TunnelUplink(_) => {
                        staged.before.push(op);
                    }
                    _ => {}
                },
                Op::Remove(Key::TunnelRoute(destination)) => {
                    let earlier = routes.contains(destination) && self.keeps(*destination);
                    if earlier { staged.before.push(op) } else { staged.last.push(op) }
                }
                Op::Remove(Key::TunnelLocal(_) | Key::TunnelNode(_) | Key::TunnelUplink(_)) => {
                    staged.last.push(op);
                }
                _ => {}
            }
        }
        staged
    }

    /// What comes before the kernel's routes.
    pub(crate) fn before(&mut self, staged: &mut Staged<'_>, report: &mut Report) {
        if self.is_left_alone() {
            return;
        }
        let error = match self.open() {
            Err(error) => unusable(error),
            Ok(_) => {
                staged.barred = self.carry_out(&staged.before, report);
                return;
            }
        };
        let mut wanted = staged.before.iter().chain(&staged.after).filter_map(|op| planned(op));
        staged.barred = wanted.clone().filter_map(destination).collect();
        match wanted.next() {
            Some(first) if self.needed => {
                report.blocked += wanted.count();
                report.failures.push(failure(first, error));
            }
            Some(_) => report.tunnel = Some(error),
            None => {}
        }
    }

    /// What comes after the kernel's routes.
    pub(crate) fn after(&mut self, staged: &Staged<'_>, report: &mut Report) {
        if self.ipip.is_some() {
            self.carry_out(&staged.after, report);
        }
    }

    /// What goes when nothing leads to it any more.
    pub(crate) fn last(&mut self, staged: &Staged<'_>, report: &mut Report) {
        if self.ipip.is_some() {
            self.carry_out(&staged.last, report);
        }
    }

    /// Whether packets that take a route would need a tunnel that is not there.
    pub(crate) fn bars(&self, staged: &Staged<'_>, route: &Route) -> bool {
        if staged.barred.contains(&route.destination) {
            return true;
        }
        if !route.hops.iter().any(|hop| self.bare.contains(&hop.link)) {
            return false;
        }
        let mut later = staged.after.iter().filter_map(|op| planned(op)).filter_map(destination);
        let there = |ipip: &Ipip| matches!(ipip.route(route.destination), Ok(Some(_)));
        later.any(|later| later == route.destination) || self.ipip.as_ref().is_some_and(there)
    }

    fn keeps(&self, destination: IpNet) -> bool {
        let route = self.ipip.as_ref().and_then(|ipip| ipip.route(destination).ok().flatten());
        route.is_some_and(|route| route.next_hop == NextHop::Kept)
    }

    fn open(&mut self) -> Result<&mut Ipip> {
        match &mut self.ipip {
            Some(ipip) => Ok(ipip),
            none => {
                let missing = || Error::Missing {
                    what: "pin programs".to_owned(),
                    missing: "a place for it".to_owned(),
                };
                let mount = self.mount.as_ref().ok_or_else(missing)?;
                ipip::mount(mount)?;
                Ok(none.insert(Ipip::open(&directory(mount)?)?))
            }
        }
    }

    /// The destinations whose routes could not be made.
    fn carry_out(&mut self, ops: &[&Op<'_>], report: &mut Report) -> BTreeSet<IpNet> {
        let mut barred = BTreeSet::new();
        let Some(ipip) = &mut self.ipip else { return barred };
        for op in ops {
            let (key, origin, verb, result) = match op {
                Op::Make(planned) | Op::Change(planned) => {
                    let verb = if matches!(op, Op::Make(_)) { Verb::Made } else { Verb::Changed };
                    (planned.entry.key(), Some(&planned.origin), verb, make(ipip, &planned.entry))
                }
                Op::Remove(key) => ((*key).clone(), None, Verb::Removed, take(ipip, key)),
                _ => continue,
            };
            if let Key::TunnelUplink(link) = &key {
                match &result {
                    Ok(()) => drop(self.bare.remove(link)),
                    Err(_) => drop(self.bare.insert(link.clone())),
                }
            }
            match result {
                Ok(()) => report.done(verb, key, origin),
                Err(error) if !self.needed => report.tunnel = Some(unusable(error)),
                Err(error) => {
                    if let Key::TunnelRoute(destination) = &key {
                        barred.insert(*destination);
                    }
                    let error = unusable(error);
                    report.failures.push(Failure { key, origin: origin.cloned(), error });
                }
            }
        }
        barred
    }
}

/// A directory of the namespace's own: a run directory may come to another one.
fn directory(mount: &Path) -> Result<PathBuf> {
    Ok(mount.join(NetNs::current()?.id()?.inode.to_string()))
}

fn make(ipip: &mut Ipip, entry: &Entry) -> Result<()> {
    match entry {
        Entry::TunnelLocal(address) => ipip.set_local(*address, true),
        Entry::TunnelNode(address) => ipip.set_node(*address, true),
        Entry::TunnelUplink(link) => ipip.set_uplink(link, true),
        Entry::TunnelRoute { destination, route } => ipip.set_route(*destination, Some(route)),
        _ => Ok(()),
    }
}

fn take(ipip: &mut Ipip, key: &Key) -> Result<()> {
    match key {
        Key::TunnelLocal(address) => ipip.set_local(*address, false),
        Key::TunnelNode(address) => ipip.set_node(*address, false),
        Key::TunnelUplink(link) => ipip.set_uplink(link, false),
        Key::TunnelRoute(destination) => ipip.set_route(*destination, None),
        _ => Ok(()),
    }
}

fn planned<'o>(op: &'o Op<'_>) -> Option<&'o Planned> {
    match op {
        Op::Make(planned) | Op::Change(planned) => Some(planned),
        _ => None,
    }
}

fn route<'o>(op: &'o Op<'_>) -> Option<&'o Route> {
    match &planned(op)?.entry {
        Entry::Route(route) => Some(route),
        _ => None,
    }
}

fn destination(planned: &Planned) -> Option<IpNet> {
    match &planned.entry {
        Entry::TunnelRoute { destination, .. } => Some(*destination),
        _ => None,
    }
}

fn failure(planned: &Planned, error: Error) -> Failure {
    Failure { key: planned.entry.key(), origin: Some(planned.origin.clone()), error }
}

fn unusable(error: Error) -> Error {
    Error::Tunnel { source: Box::new(error) }
}
