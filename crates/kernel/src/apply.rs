//! Carries out the steps of a difference.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::LinkName;
use netlink_packet_route::route::RouteMessage;
use plan::{Entry, Hop, Key, Link, Origin, Planned, Route};

use crate::diff::Op;
use crate::link::{LinkState, Links};
use crate::report::{Failure, Report, Verb};
use crate::rtnl::{Request, RouteSocket};
use crate::tables::{Tables, Work};
use crate::tunnel::{Staged, Tunnel};
use crate::{Error, Result, address, link, neighbour, route, sysctl};

/// The names of links that only we have a use for.
const LINKS: [&str; 4] = ["cbr0", "vxlan.cambric", "vxlan6.cambric", "room.cambric"];
/// How many messages are made before they are sent: those of 5,000 nodes at once would take as much memory as all else.
const JOBS: usize = 1024;

/// Carries out steps and keeps account of them.
pub(crate) struct Apply<'a> {
    socket: &'a mut RouteSocket,
    tables: &'a mut Tables,
    tunnel: &'a mut Tunnel,
    links: Links,
    /// Links that could not be made, and those that are not ours: nothing is put on them.
    barred: BTreeSet<LinkName>,
    report: Report,
}

/// What a message to the kernel is done for.
struct Job<'a> {
    request: Request,
    subject: Subject<'a>,
    /// What it does; `None` for a part of what another message is counted for.
    verb: Option<Verb>,
}

enum Subject<'a> {
    /// An entry of the plan.
    Planned(&'a Planned),
    /// Something that is in no plan.
    Gone(Key),
}

impl<'a> Apply<'a> {
    pub(crate) fn new(
        socket: &'a mut RouteSocket,
        tables: &'a mut Tables,
        tunnel: &'a mut Tunnel,
        links: Links,
    ) -> Apply<'a> {
        Apply { socket, tables, tunnel, links, barred: BTreeSet::new(), report: Report::default() }
    }

    /// Carries out `ops`, which are in the order of [`diff`](crate::diff()).
    pub(crate) fn run(mut self, ops: &[Op<'_>]) -> Report {
        self.tables(ops, false);
        for op in ops {
            self.link(op);
        }
        for op in ops {
            self.setting(op);
        }
        let mut staged = self.tunnel.stage(ops);
        self.tunnel.before(&mut staged, &mut self.report);
        self.doubles(ops);
        self.additions(ops, &staged);
        self.tunnel.after(&staged, &mut self.report);
        self.removals(ops);
        self.tunnel.last(&staged, &mut self.report);
        self.tables(ops, true);
        self.report
    }

    /// Tables and their elements, in one transaction: those to be made, or those to be removed.
    fn tables(&mut self, ops: &[Op<'_>], removing: bool) {
        let work = if removing { Work::removals(ops) } else { Work::additions(ops) };
        if !work.is_empty() {
            self.tables.apply(&work, &mut self.report);
        }
    }

    fn link(&mut self, op: &Op<'_>) {
        let (planned, verb) = match op {
            Op::Make(planned) => (*planned, Verb::Made),
            Op::Change(planned) => (*planned, Verb::Changed),
            Op::Rebuild(planned) => (*planned, Verb::Rebuilt),
            _ => return,
        };
        let Entry::Link(wanted) = &planned.entry else { return };
        let bridge = match wanted {
            Link::Bridge { .. } | Link::Vxlan { .. } => None,
            // The bridge is made first.
            Link::Headroom { .. } => match self.on(planned, &LinkName::bridge()) {
                None => return,
                bridge => bridge,
            },
        };
        match self.make_link(op, wanted, bridge) {
            Ok(()) => self.report.done(verb, planned.entry.key(), Some(&planned.origin)),
            Err(error) => {
                self.barred.insert(wanted.name().clone());
                self.fail(planned.entry.key(), Some(&planned.origin), error);
            }
        }
    }

    fn make_link(&mut self, op: &Op<'_>, wanted: &Link, bridge: Option<u32>) -> Result<()> {
        let name = wanted.name();
        let there = self.links.named(name);
        match (op, there) {
            (_, Some(state)) if !state.ours => return Err(in_the_way(wanted, state)),
            (Op::Change(_), Some(state)) => link::adjust(self.socket, wanted, state.index, bridge)?,
            (_, Some(state)) => {
                let request = link::delete(state.index, name);
                self.socket.request(request)?;
                self.links.remove(name);
                self.create_link(wanted, bridge)?;
            }
            (_, None) => self.create_link(wanted, bridge)?,
        }
        Ok(())
    }

    fn create_link(&mut self, wanted: &Link, bridge: Option<u32>) -> Result<()> {
        let index = self.links.free_index()?;
        match link::create(self.socket, wanted, index, bridge) {
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                // Somebody else was faster; or another VXLAN device has the identifier and the port.
                match link::read(self.socket, wanted.name())? {
                    Some(state) => return Err(in_the_way(wanted, &state)),
                    None => return Err(error),
                }
            }
            result => result?,
        }
        if let Some(state) = link::read(self.socket, wanted.name())? {
            self.links.insert(state);
        }
        Ok(())
    }

    fn setting(&mut self, op: &Op<'_>) {
        let (Op::Make(planned) | Op::Change(planned)) = op else { return };
        let Entry::Sysctl { path, value } = &planned.entry else { return };
        match sysctl::write(path, value) {
            Ok(()) => self.report.done(Verb::Changed, planned.entry.key(), Some(&planned.origin)),
            Err(error) => self.fail(planned.entry.key(), Some(&planned.origin), error),
        }
    }

    /// Leaves one route to each destination, which additions change.
    fn doubles(&mut self, ops: &[Op<'_>]) {
        let double = |op: &Op<'_>| match op {
            Op::RemoveDouble(message) => removal_of(message),
            _ => None,
        };
        self.send(ops.iter().filter_map(double).collect());
    }

    /// What is on links: added or changed where it is, many messages at a time. No route leads into a tunnel that is
    /// not there.
    fn additions(&mut self, ops: &[Op<'_>], staged: &Staged<'_>) {
        let mut jobs = Vec::new();
        let mut held = Vec::new();
        let mut missing: BTreeSet<IpAddr> = BTreeSet::new();
        for op in ops {
            let (planned, verb) = match op {
                Op::Make(planned) => (*planned, Verb::Made),
                Op::Change(planned) => (*planned, Verb::Changed),
                _ => continue,
            };
            if jobs.len() >= JOBS {
                held.extend(self.send(std::mem::take(&mut jobs)));
            }
            let request = match &planned.entry {
                Entry::Address { link, net } => {
                    let index = self.on(planned, link);
                    // Routes name the bridge's addresses as their source, whatever else has them.
                    if index.is_none() && *link == LinkName::bridge() {
                        missing.insert(net.addr());
                    }
                    index.map(|index| address::add(link, index, net))
                }
                Entry::Forwarding { link, mac, node } => {
                    self.on(planned, link).map(|index| neighbour::forward(link, index, mac, node))
                }
                Entry::Neighbour { link, address, mac } => {
                    self.on(planned, link).map(|index| neighbour::add(link, index, address, mac))
                }
                Entry::Route(wanted)
                    if wanted.source.is_some_and(|source| missing.contains(&source))
                        || self.tunnel.bars(staged, wanted) =>
                {
                    self.report.blocked += 1;
                    None
                }
                Entry::Route(wanted) => {
                    let indices: Option<Vec<u32>> =
                        wanted.hops.iter().map(|hop| self.on(planned, &hop.link)).collect();
                    indices.map(|indices| match verb {
                        Verb::Changed => route::replace(wanted, &indices),
                        _ => route::add(wanted, &indices),
                    })
                }
                Entry::Port { link, bridge } => {
                    jobs.extend(self.attachment(planned, link, bridge));
                    continue;
                }
                _ => continue,
            };
            jobs.extend(request.map(|request| Job {
                request,
                subject: Subject::Planned(planned),
                verb: Some(verb),
            }));
        }
        held.extend(self.send(jobs));
        self.settle_routes(held);
    }

    /// The index of the link that an entry stands on, if it can stand there.
    fn on(&mut self, planned: &Planned, link: &LinkName) -> Option<u32> {
        let own_link = LINKS.contains(&link.as_str());
        let what = || format!("put {} on {link}", describe(&planned.entry));
        let error = match self.links.named(link) {
            Some(state) if state.ours || !own_link => return Some(state.index),
            // Why is told once, with the link.
            _ if self.barred.contains(link) => {
                self.report.blocked += 1;
                return None;
            }
            Some(state) => {
                Error::Foreign { what: what(), obstacle: state.describe(), remedy: REMEDY.to_owned() }
            }
            None => {
                self.report.reconcile_needed |= own_link;
                Error::Missing { what: what(), missing: format!("link {link}") }
            }
        };
        self.fail(planned.entry.key(), Some(&planned.origin), error);
        None
    }

    /// The requests for a pod's port: none if there is no such link.
    fn attachment<'o>(&mut self, planned: &'o Planned, link: &LinkName, bridge: &LinkName) -> Vec<Job<'o>> {
        let Some(port) = self.links.named(link).cloned() else { return Vec::new() };
        if !port.pods {
            let error = Error::Foreign {
                what: format!("attach {link} to bridge {bridge}"),
                obstacle: port.describe(),
                remedy: "rename or remove it, and delete the pod so that it is made again".to_owned(),
            };
            self.fail(planned.entry.key(), Some(&planned.origin), error);
            return Vec::new();
        }
        let Some(index) = self.on(planned, bridge) else { return Vec::new() };
        let [join, mode] = link::attach(&port, bridge, index);
        let job = |request, verb| Job { request, subject: Subject::Planned(planned), verb };
        vec![job(join, Some(Verb::Changed)), job(mode, None)]
    }

    /// What nobody wants any more.
    fn removals(&mut self, ops: &[Op<'_>]) {
        let mut jobs = Vec::new();
        for op in ops {
            let (request, key) = match op {
                Op::Remove(key @ Key::Route(destination)) => {
                    let job = |request| Job {
                        request,
                        subject: Subject::Gone((*key).clone()),
                        verb: Some(Verb::Removed),
                    };
                    jobs.extend(route::removals(destination).map(job));
                    continue;
                }
                Op::Remove(key) => match self.removal(key) {
                    Some(request) => (request, (*key).clone()),
                    None => continue,
                },
                Op::RemoveRoute(message) => {
                    jobs.extend(removal_of(message));
                    continue;
                }
                Op::RemoveLink(state) => {
                    (link::delete(state.index, &state.name), Key::Link(state.name.clone()))
                }
                _ => continue,
            };
            jobs.push(Job { request, subject: Subject::Gone(key), verb: Some(Verb::Removed) });
        }
        self.send(jobs);
    }

    fn removal(&self, key: &Key) -> Option<Request> {
        // What was on a link that is gone is gone, and what is on another's link of the name is not ours.
        let index = |link| self.links.named(link).filter(|state| state.ours).map(|state| state.index);
        match key {
            Key::Address(link, net) => Some(address::remove(link, index(link)?, net)),
            Key::Forwarding(link, mac) => Some(neighbour::stop_forwarding(link, index(link)?, mac)),
            Key::Neighbour(link, address) if LINKS.contains(&link.as_str()) => {
                Some(neighbour::remove(link, index(link)?, address))
            }
            // One with our mark.
            Key::Neighbour(link, address) => {
                Some(neighbour::remove(link, self.links.named(link)?.index, address))
            }
            Key::TunnelLocal(_) | Key::TunnelNode(_) | Key::TunnelRoute(_) | Key::TunnelUplink(_) => None,
            Key::Route(_)
            | Key::Table(_)
            | Key::Member(_)
            | Key::Link(_)
            | Key::Port(_)
            | Key::Sysctl(_)
            | Key::FastPath => None,
        }
    }

    /// Sends many messages at a time and counts what came of them. The result are the routes whose place is held.
    fn send<'o>(&mut self, jobs: Vec<Job<'o>>) -> Vec<(&'o Planned, Error)> {
        let (requests, subjects): (Vec<Request>, Vec<(Subject<'o>, Option<Verb>)>) =
            jobs.into_iter().map(|job| (job.request, (job.subject, job.verb))).unzip();
        let mut held = Vec::new();
        for (result, (subject, verb)) in self.socket.batch(&requests).into_iter().zip(subjects) {
            match (result, subject) {
                (Ok(()), subject) => {
                    let (key, origin) = match subject {
                        Subject::Planned(planned) => (planned.entry.key(), Some(&planned.origin)),
                        Subject::Gone(key) => (key, None),
                    };
                    if let Some(verb) = verb {
                        self.report.done(verb, key, origin);
                    }
                }
                (Err(error), Subject::Gone(_)) if already_gone(&error) => {}
                (Err(error), Subject::Planned(planned @ Planned { entry: Entry::Route(_), .. }))
                    if matches!(error.errno(), Some(libc::EEXIST | libc::EINVAL)) =>
                {
                    held.push((planned, error));
                }
                (Err(error), Subject::Planned(planned)) => {
                    self.fail(planned.entry.key(), Some(&planned.origin), error);
                }
                (Err(error), Subject::Gone(key)) => self.fail(key, None, error),
            }
        }
        held
    }

    /// Routes that could not be added or changed: ours is replaced, and another's is left alone.
    fn settle_routes(&mut self, held: Vec<(&Planned, Error)>) {
        let mut jobs = Vec::new();
        for (planned, error) in held {
            let Entry::Route(wanted) = &planned.entry else { continue };
            match self.settled(wanted, error) {
                Ok(requests) => jobs.extend(requests.into_iter().map(|(request, verb)| Job {
                    request,
                    subject: Subject::Planned(planned),
                    verb,
                })),
                Err(error) => self.fail(planned.entry.key(), Some(&planned.origin), error),
            }
        }
        for (planned, error) in self.send(jobs) {
            self.fail(planned.entry.key(), Some(&planned.origin), error);
        }
    }

    /// What it takes to have a route that was refused.
    fn settled(&mut self, wanted: &Route, error: Error) -> Result<Vec<(Request, Option<Verb>)>> {
        let index = |hop: &Hop| self.links.named(&hop.link).map(|link| link.index);
        let Some(indices) = wanted.hops.iter().map(index).collect::<Option<Vec<u32>>>() else {
            return Err(error);
        };
        let exists = error.errno() == Some(libc::EEXIST);
        let again = match route::route_at(self.socket, &wanted.destination, &self.links) {
            Some(holder) if holder.ours => (route::replace(wanted, &indices), Some(Verb::Changed)),
            Some(holder) => return Err(holder.obstructs(wanted)),
            None if exists => return Err(error),
            None => (route::add(wanted, &indices), Some(Verb::Made)),
        };
        // IPv6 takes no next hop on one link that a route, be it the one to replace, puts on another. A route to the
        // next hop alone says otherwise for as long as it takes, and there is no gap.
        let mut led = Vec::new();
        for (hop, index) in wanted.hops.iter().zip(indices).filter(|(hop, _)| hop.via.is_ipv6() && !exists) {
            match route::route_to(self.socket, hop.via, &self.links) {
                Ok(holder) if !holder.leads_elsewhere(&hop.link) => {}
                Ok(holder) if holder.ours => led.push((hop, index)),
                Ok(holder) => return Err(holder.obstructs(wanted)),
                // Nothing leads there, so nothing leads elsewhere.
                Err(_) => {}
            }
        }
        let lead = led.iter().map(|(hop, index)| (route::lead(&hop.via, &hop.link, *index), None));
        let no_more = led.iter().map(|(hop, _)| (route::lead_no_more(&hop.via), None));
        Ok(lead.chain([again]).chain(no_more).collect())
    }

    fn fail(&mut self, key: Key, origin: Option<&Origin>, error: Error) {
        // The link went away between the look at it and the message.
        self.report.reconcile_needed |= error.errno() == Some(libc::ENODEV);
        self.report.failures.push(Failure { key, origin: origin.cloned(), error });
    }
}

fn removal_of<'a>(message: &RouteMessage) -> Option<Job<'a>> {
    Some(Job {
        request: route::remove_exactly(message.clone()),
        subject: Subject::Gone(Key::Route(route::destination(message)?)),
        verb: Some(Verb::Removed),
    })
}

fn describe(entry: &Entry) -> String {
    match entry {
        Entry::Address { net, .. } => format!("address {net}"),
        Entry::Forwarding { mac, node, .. } => format!("forwarding entry {mac} to {node}"),
        Entry::Neighbour { address, mac, .. } => format!("neighbour {address} with {mac}"),
        Entry::Route(route) => route::describe(route),
        Entry::Port { link, .. } => format!("port {link}"),
        entry => format!("{:?}", entry.key()),
    }
}

/// Whether a removal failed because there was nothing to remove.
fn already_gone(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::EADDRNOTAVAIL))
}

const REMEDY: &str = "rename or remove it; if it was ours, give it back its alias \"cambric\"";

fn in_the_way(wanted: &Link, state: &LinkState) -> Error {
    Error::Foreign {
        what: format!("add {}", link::describe(wanted)),
        obstacle: state.describe(),
        remedy: REMEDY.to_owned(),
    }
}
