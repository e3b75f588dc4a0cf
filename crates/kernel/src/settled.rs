//! Waiting for what the kernel does only some time after it has acknowledged a request.
//!
//! A link passes packets from when a work queue has noticed its carrier (`linkwatch_event`, net/core/link_watch.c), and
//! packets to an IPv6 address are taken in from when another has made its local route, without duplicate address
//! detection too (`addrconf_dad_work`, net/ipv6/addrconf.c). Where many links and namespaces come and go, that can be after
//! the first packets, which are then lost; a connection is a second late.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_packet_route::link::{LinkAttribute, State};
use netlink_packet_route::route::{RouteFlags, RouteType};

use crate::netlink::NetlinkSocket;
use crate::rtnl::RouteSocket;
use crate::waker::ready;
use crate::{Error, Result, link, route};

/// A limit for [`wait`] that is far more than the work queues take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What a network namespace tells of its links and routes. Listens from when it is first waited for.
pub struct News(NetlinkSocket);

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("News").finish_non_exhaustive()
    }
}

impl News {
    /// Of the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no rtnetlink or the process no descriptor left.
    pub fn open() -> Result<News> {
        NetlinkSocket::open(libc::NETLINK_ROUTE).map(News)
    }

    fn listen(&self) -> Result<()> {
        // Of an IPv6 address the kernel tells before it has made the route.
        let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV6_ROUTE];
        groups.into_iter().try_for_each(|group| self.0.listen(group as libc::c_int))
    }

    /// Waits until anything has changed. What, is not looked at: so news that there was no room for are none the less news.
    fn next(&self, deadline: Instant) -> Result<()> {
        let mut buffer = Vec::new();
        ready([self.0.as_fd()], Some(deadline))?;
        while self.0.receive(&mut buffer, libc::MSG_DONTWAIT).is_ok() {}
        Ok(())
    }
}

/// Waits until links that are up at both ends pass packets, and packets to IPv6 addresses are taken in. IPv4 addresses need
/// no waiting for. `socket` and `news` are of the same network namespace, whichever the calling thread is in.
///
/// # Errors
/// [`Error::System`] with what still is not so when the time is over; else what the kernel says, as that there is no such link.
pub fn wait(
    socket: &mut RouteSocket,
    news: &News,
    links: &[&str],
    addresses: &[IpAddr],
    limit: Duration,
) -> Result<()> {
    let mut open: Vec<Awaited<'_>> = links.iter().map(|link| Awaited::Link(link)).collect();
    open.extend(addresses.iter().filter(|address| address.is_ipv6()).copied().map(Awaited::Address));
    let deadline = Instant::now() + limit;
    // What is so already, as it mostly is, is not listened for.
    let mut listens = false;
    loop {
        while let Some(awaited) = open.last() {
            if !awaited.is_so(socket)? {
                break;
            }
            open.pop();
        }
        let Some(awaited) = open.last() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(Error::System { what: awaited.what(), source: std::io::ErrorKind::TimedOut.into() });
        }
        if listens {
            news.next(deadline)?;
        } else {
            // What happens before is looked at once more.
            news.listen()?;
            listens = true;
        }
    }
}

/// Something that the kernel has been asked for.
enum Awaited<'a> {
    Link(&'a str),
    Address(IpAddr),
}

impl Awaited<'_> {
    fn is_so(&self, socket: &mut RouteSocket) -> Result<bool> {
        let what = self.what();
        match self {
            // Since Linux 6.8 the question has the kernel notice the carrier.
            Awaited::Link(name) => Ok(link::query(socket, name, &what)?
                .attributes
                .contains(&LinkAttribute::OperState(State::Up))),
            Awaited::Address(address) => match route::look_up(socket, *address, RouteFlags::empty(), &what) {
                Err(error) if error.errno() == Some(libc::ENETUNREACH) => Ok(false),
                found => Ok(found?.header.kind == RouteType::Local),
            },
        }
    }

    fn what(&self) -> String {
        match self {
            Awaited::Link(name) => format!("see link {name} pass packets"),
            Awaited::Address(address) => format!("see packets to {address} taken in"),
        }
    }
}
