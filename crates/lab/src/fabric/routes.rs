//! The routes of a machine as its kernel tells them, and those that its BGP speaker puts there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use kernel::rtnl::{Request, RouteSocket, address_family, ip_address, next_hop};
use model::Family;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use serde::Serialize;

use super::{open, within};
use crate::{Error, Result};

/// The protocol of a route that was learned by BGP (`RTPROT_BGP`, linux/rtnetlink.h).
pub const BGP: u8 = 186;
/// The metric of such routes, so that they are never in the place of others, nor others in theirs.
const METRIC: u32 = 20;

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Where to.
    pub destination: IpNet,
    /// Who has put it there (`rtm_protocol`, rtnetlink(7)).
    pub protocol: u8,
    /// Its next hops.
    pub next_hops: Vec<FoundHop>,
}

/// One of a route's next hops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundHop {
    /// The neighbour; none if the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The link.
    pub link: String,
    /// Whether the neighbour is on the link whatever the addresses say.
    pub onlink: bool,
}

/// The unicast routes of a namespace's main table.
///
/// # Errors
/// [`Error::Kernel`] if they cannot be listed.
pub fn routes(namespace: &str) -> Result<Vec<Found>> {
    within(&open(namespace)?, namespace, |socket| {
        let list = |socket: &mut RouteSocket| -> kernel::Result<Vec<Found>> {
            let links = links(socket)?;
            let mut all = dump(socket, Family::V4, &links)?;
            all.extend(dump(socket, Family::V6, &links)?);
            Ok(all)
        };
        list(socket).map_err(Error::kernel(namespace))
    })
}

/// The names of links by their indices.
type Links = BTreeMap<u32, String>;

fn links(socket: &mut RouteSocket) -> kernel::Result<Links> {
    let links = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "list the links")?;
    let named = |message: RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewLink(link) => {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some((link.header.index, name)),
                _ => None,
            })
        }
        _ => None,
    };
    Ok(links.into_iter().filter_map(named).collect())
}

fn dump(socket: &mut RouteSocket, family: Family, links: &Links) -> kernel::Result<Vec<Found>> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = address_family(family);
    filter.header.table = RouteHeader::RT_TABLE_MAIN;
    let messages =
        match socket.dump(&RouteNetlinkMessage::GetRoute(filter), &format!("list the {family} routes")) {
            // In a namespace that never had a route there is no table either.
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
            result => result?,
        };
    let found = messages.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => decode(route, family, links),
        _ => None,
    });
    Ok(found.collect())
}

fn decode(message: &RouteMessage, family: Family, links: &Links) -> Option<Found> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let name = |index: u32| links.get(&index).cloned().unwrap_or_else(|| format!("link {index}"));
    let onlink = header.flags.contains(RouteFlags::Onlink);
    let mut single = FoundHop { via: next_hop(&message.attributes), link: String::new(), onlink };
    let mut several = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => address = ip_address(destination)?,
            RouteAttribute::Oif(index) => single.link = name(*index),
            RouteAttribute::MultiPath(hops) => several.extend(hops.iter().map(|hop| FoundHop {
                via: next_hop(&hop.attributes),
                link: name(hop.interface_index),
                onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
            })),
            _ => {}
        }
    }
    let destination = IpNet::new(address, header.destination_prefix_length).ok()?;
    let next_hops = if several.is_empty() { vec![single] } else { several };
    Some(Found { destination, protocol: header.protocol.into(), next_hops })
}

/// What a machine's BGP speaker has in the machine's main table.
#[derive(Debug)]
pub(crate) struct Learned {
    socket: RouteSocket,
}

impl Learned {
    /// For the namespace of the calling thread.
    pub(crate) fn open() -> kernel::Result<Learned> {
        Ok(Learned { socket: RouteSocket::open()? })
    }

    /// The destinations that are there.
    pub(crate) fn destinations(&mut self) -> kernel::Result<BTreeSet<IpNet>> {
        let mut all = BTreeSet::new();
        for family in Family::BOTH {
            let found = dump(&mut self.socket, family, &Links::new())?;
            all.extend(found.iter().filter(|route| route.protocol == BGP).map(|route| route.destination));
        }
        Ok(all)
    }

    /// Leads a destination to next hops, in the place of those that it had.
    pub(crate) fn set(&mut self, destination: &IpNet, next_hops: &BTreeSet<IpAddr>) -> kernel::Result<()> {
        let mut message = header(destination);
        message.header.kind = RouteType::Unicast;
        let attribute = |hop: &IpAddr| match (destination, hop) {
            (IpNet::V4(_), IpAddr::V6(hop)) => RouteAttribute::Via(RouteVia::Inet6(*hop)),
            _ => RouteAttribute::Gateway((*hop).into()),
        };
        message.attributes.extend(match next_hops.len() {
            0 | 1 => next_hops.iter().map(attribute).next(),
            _ => {
                Some(RouteAttribute::MultiPath(next_hops.iter().map(|hop| several(attribute(hop))).collect()))
            }
        });
        let words: Vec<String> = next_hops.iter().map(ToString::to_string).collect();
        let what = format!("set the route {destination} via {}", words.join(" and "));
        self.socket.request(Request::replace(RouteNetlinkMessage::NewRoute(message), what))
    }

    /// Removes the route to a destination. That there is none is no error.
    pub(crate) fn remove(&mut self, destination: &IpNet) -> kernel::Result<()> {
        let mut message = header(destination);
        message.header.kind = RouteType::Unspec;
        let what = format!("remove the route {destination}");
        match self.socket.request(Request::new(RouteNetlinkMessage::DelRoute(message), what)) {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }
}

fn several(hop: RouteAttribute) -> RouteNextHop {
    let mut next = RouteNextHop::default();
    next.attributes = vec![hop];
    next
}

fn header(destination: &IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of_net(destination));
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(BGP);
    message.header.scope = RouteScope::Universe;
    message.attributes =
        vec![RouteAttribute::Destination(destination.network().into()), RouteAttribute::Priority(METRIC)];
    message
}
