//! News of changes in the kernel, whoever made them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use model::LinkName;
use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use plan::services::TABLE;
use plan::{Entry, Key, Table, TableName};

use crate::link::{LinkState, Links};
use crate::netlink::{Frame, NetlinkSocket, attributes, frames};
use crate::observed::Found;
use crate::rtnl::RouteSocket;
use crate::waker::{Waker, ready};
use crate::{Error, Result, address, neighbour, route};

/// Room for what arrives while nobody reads, in bytes: about 10,000 changes.
const BUFFER: usize = 16 * 1024 * 1024;

/// Multicast groups (`enum rtnetlink_groups`, linux/rtnetlink.h): links, neighbours and forwarding entries, addresses
/// and routes of both families.
const ROUTE_GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// `NFNLGRP_NFTABLES` and `NFNL_SUBSYS_NFTABLES`, linux/netfilter/nfnetlink.h.
const NFTABLES_GROUP: u32 = 7;
const NFTABLES: u16 = 10;
/// `NLM_F_REPLACE`, linux/netlink.h.
const REPLACE: u16 = 0x100;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new, has other settings, or is gone.
    Link {
        /// The link.
        name: LinkName,
        /// What it is now; `None` if it is gone.
        state: Option<LinkState>,
    },
    /// An address, not a link-local one, came to or went from a link that is not ours.
    Address {
        /// The link.
        link: LinkName,
        /// The address with its prefix length.
        net: IpNet,
        /// Whether it is there.
        there: bool,
    },
    /// Something of ours is new, changed or gone; or something else took its place.
    Entry {
        /// Under which key.
        key: Key,
        /// What stands there now; `None` if nothing.
        found: Option<Found>,
    },
    /// Somebody else changed one of the node's own tables.
    Table,
    /// Somebody else changed one of the services' tables.
    Services,
    /// More happened than there was room for: what, is unknown.
    Overrun,
    /// A [`Waker`] was used.
    Woken,
}

impl Event {
    /// Whether the change takes the kernel away from a plan. `planned` says what the plan has under a key.
    ///
    /// What we write ourselves comes back as an event; then the kernel and the plan agree.
    pub fn contradicts(&self, planned: impl Fn(&Key) -> Option<Entry>) -> bool {
        match self {
            Event::Entry { key, found: Some(Found::Entry(entry)) } => planned(key).as_ref() != Some(entry),
            // Another kind of route of ours: nobody else makes them.
            Event::Entry { key: Key::Route(_), found: Some(Found::Other(_)) } => true,
            Event::Entry { key, found: Some(Found::Other(_) | Found::Foreign) } => planned(key).is_some(),
            Event::Entry { key, found: None } => planned(key).is_some(),
            Event::Link { name, state } => match (planned(&Key::Link(name.clone())), state) {
                (Some(Entry::Link(wanted)), Some(state)) => {
                    !state.ours || !state.is_ready(&wanted) || state.link().as_ref() != Some(&wanted)
                }
                (Some(_), _) => true,
                (None, Some(state)) if state.pods => {
                    let port = state.up && state.hairpin && state.bridge.is_some();
                    !port && planned(&Key::Port(name.clone())).is_some()
                }
                (None, Some(state)) => state.ours,
                (None, None) => false,
            },
            Event::Table | Event::Services | Event::Overrun => true,
            Event::Address { .. } | Event::Woken => false,
        }
    }
}

/// Has a [`Monitor`] not hear of tables for a while.
///
/// While somebody listens, the kernel makes a message of a page for each element of a commit before it looks who wants it:
/// a hundred thousand of them are some 400 MiB, and take longer than the commit itself.
pub struct Hush(Arc<NetlinkSocket>);

impl std::fmt::Debug for Hush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hush").finish_non_exhaustive()
    }
}

impl Hush {
    /// Stops to listen. What others change from now on is not heard.
    pub(crate) fn begin(&self) -> Result<()> {
        self.set(libc::NETLINK_DROP_MEMBERSHIP)
    }

    /// Listens again.
    pub(crate) fn end(&self) -> Result<()> {
        self.set(libc::NETLINK_ADD_MEMBERSHIP)
    }

    fn set(&self, option: libc::c_int) -> Result<()> {
        self.0
            .set(libc::SOL_NETLINK, option, NFTABLES_GROUP as libc::c_int)
            .map_err(|source| Error::System { what: "listen to the kernel's news".into(), source })
    }
}

/// Listens to what changes in one network namespace: links, addresses, routes, neighbours and tables.
///
/// The kernel's own resolution of neighbours is left out, and so are changes of links that do not concern us.
pub struct Monitor {
    routes: NetlinkSocket,
    tables: Arc<NetlinkSocket>,
    waker: Waker,
    links: Links,
    /// The port of our own netfilter socket, whose changes are no news.
    own: Option<u32>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens a monitor in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no rtnetlink or no nftables.
    pub fn open() -> Result<Monitor> {
        Monitor::with_buffer(BUFFER)
    }

    /// Opens a monitor with room for `bytes` of unread messages.
    ///
    /// # Errors
    /// As [`Monitor::open`].
    pub fn with_buffer(bytes: usize) -> Result<Monitor> {
        let size = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let subscribe = |protocol, groups: &[u32]| {
            let socket = NetlinkSocket::open(protocol)?;
            socket.set_buffers(4096, size)?;
            groups.iter().try_for_each(|group| socket.listen(*group as libc::c_int))?;
            Ok::<_, Error>(socket)
        };
        let routes = subscribe(libc::NETLINK_ROUTE, &ROUTE_GROUPS)?;
        let tables = subscribe(libc::NETLINK_NETFILTER, &[NFTABLES_GROUP])?;
        // After the subscription, so that no change falls between the two.
        let links = Links::read(&mut RouteSocket::open()?)?;
        Ok(Monitor {
            routes,
            tables: Arc::new(tables),
            waker: Waker::new()?,
            links,
            own: None,
            buffer: Vec::new(),
        })
    }

    /// Leaves out changes of tables that are made through this netlink port. The kernel drops them before they take
    /// room: a hundred thousand elements of our own would else crowd out what others do.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel takes no filter.
    pub fn ignore_port(&mut self, port: u32) -> Result<()> {
        self.own = Some(port);
        self.tables
            .drop_from(port)
            .map_err(|source| Error::System { what: "filter the kernel's news".into(), source })
    }

    /// A handle with which a [`Kernel`](crate::Kernel) commits much without being told of it.
    pub fn hush(&self) -> Hush {
        Hush(self.tables.clone())
    }

    /// A handle with which other threads can wake this monitor.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until something changes, a waker is used, or the time is over; then the result is empty.
    ///
    /// # Errors
    /// [`Error::System`] if a socket fails.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Vec<Event>> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut events = Vec::new();
        loop {
            let descriptors = [self.routes.as_fd(), self.tables.as_fd(), self.waker.as_fd()];
            let [routes, tables, woken] = ready(descriptors, deadline)?;
            if routes {
                self.drain_routes(&mut events)?;
            }
            if tables {
                self.drain_tables(&mut events)?;
            }
            if woken {
                self.waker.calm();
                events.push(Event::Woken);
            }
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !events.is_empty() || over {
                return Ok(events);
            }
        }
    }

    fn drain_routes(&mut self, events: &mut Vec<Event>) -> Result<()> {
        loop {
            match self.routes.receive(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(datagram) => {
                    for frame in frames(datagram) {
                        events.extend(news(&frame, &mut self.links));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(Event::Overrun);
                    // What was lost may have been about links.
                    self.links = Links::read(&mut RouteSocket::open()?)?;
                }
                Err(error) => return finished(error),
            }
        }
    }

    fn drain_tables(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let [mut node, mut services] = [false; 2];
        loop {
            match self.tables.receive(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(datagram) => {
                    for frame in frames(datagram).filter(|frame| Some(frame.port) != self.own) {
                        node |= is_about(&frame, Table::NODE);
                        services |= is_about(&frame, TABLE);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Overrun),
                Err(error) => {
                    events.extend(node.then_some(Event::Table));
                    events.extend(services.then_some(Event::Services));
                    return finished(error);
                }
            }
        }
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("own", &self.own).finish_non_exhaustive()
    }
}

/// What a receive that gave nothing means.
fn finished(error: io::Error) -> Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(Error::System { what: "read the kernel's news".to_owned(), source: error }),
    }
}

/// Every nftables message but those about generations begins with the name of a table (attribute 1), after the
/// four bytes of `struct nfgenmsg`.
fn is_about(frame: &Frame<'_>, name: TableName) -> bool {
    frame.kind >> 8 == NFTABLES
        && attributes(frame.body.get(4..).unwrap_or_default())
            .any(|(kind, found)| kind == 1 && found.strip_suffix(&[0]) == Some(name.0.as_bytes()))
}

fn news(frame: &Frame<'_>, links: &mut Links) -> Option<Event> {
    let message = RouteNetlinkMessage::parse_with_param(frame.body, frame.kind).ok()?;
    match &message {
        RouteNetlinkMessage::NewLink(link) => {
            let before = links.at(link.header.index).cloned();
            let name = links.take_in(&message)?;
            let state = links.named(&name).cloned();
            (state != before).then_some(Event::Link { name, state })
        }
        RouteNetlinkMessage::DelLink(_) => {
            links.take_in(&message).map(|name| Event::Link { name, state: None })
        }
        RouteNetlinkMessage::NewAddress(address) => address_news(address, true, links),
        RouteNetlinkMessage::DelAddress(address) => address_news(address, false, links),
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            let (key, found) = neighbour::decode(neighbour, links)?;
            Some(Event::Entry { key, found: Some(found) })
        }
        RouteNetlinkMessage::DelNeighbour(neighbour) => {
            neighbour::key(neighbour, links).map(|key| Event::Entry { key, found: None })
        }
        RouteNetlinkMessage::NewRoute(route) => route_news(route, frame.flags & REPLACE != 0, links),
        RouteNetlinkMessage::DelRoute(route) if route::is_ours(route) => {
            let (key, _) = route::decode(route, links)?;
            Some(Event::Entry { key, found: None })
        }
        _ => None,
    }
}

fn address_news(
    message: &netlink_packet_route::address::AddressMessage,
    there: bool,
    links: &Links,
) -> Option<Event> {
    if let Some((key, found)) = address::decode(message, links) {
        return Some(Event::Entry { key, found: there.then_some(found) });
    }
    let (index, net) = address::parts(message)?;
    let link = links.at(index).filter(|link| !link.ours && !address::is_link_local(&net))?;
    Some(Event::Address { link: link.name.clone(), net, there })
}

fn route_news(message: &RouteMessage, replaces: bool, links: &Links) -> Option<Event> {
    if route::is_ours(message) {
        let (key, found) = route::decode(message, links)?;
        return Some(Event::Entry { key, found: Some(found) });
    }
    // Another's route is of interest only if it may have taken the place of ours.
    let destination = route::destination(message)?;
    (replaces && message.header.table == RouteHeader::RT_TABLE_MAIN)
        .then_some(Event::Entry { key: Key::Route(destination), found: Some(Found::Foreign) })
}
