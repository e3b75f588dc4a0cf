//! Routes of ours in the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::{Family, LinkName};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::{Entry, Key, ROUTE_PROTOCOL, Route};

use crate::link::Links;
use crate::observed::Found;
use crate::rtnl::{Request, RouteSocket};
use crate::{Error, Result};

/// The metric of a route for which none was asked (`IP6_RT_PRIO_USER`, net/ip6_fib.h; IPv4 has 0).
fn default_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

/// The routes of ours in the main table. The kernel does the filtering.
pub(crate) fn dump(socket: &mut RouteSocket, family: Family) -> Result<Vec<RouteMessage>> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = address_family(family);
    filter.header.table = RouteHeader::RT_TABLE_MAIN;
    filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    let what = format!("list the {family} routes");
    let messages = match socket.dump(&RouteNetlinkMessage::GetRoute(filter), &what) {
        // In a namespace that never had a route there is no table either.
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
        result => result?,
    };
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) if is_ours(&route) => Some(route),
            _ => None,
        })
        .collect())
}

pub(crate) fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
        && message.header.table == RouteHeader::RT_TABLE_MAIN
        && !message.header.flags.contains(RouteFlags::Cloned)
}

/// The key of a route of ours and what it holds; `None` if the route cannot stand under the key, because it has
/// another metric or type of service than planned ones.
pub(crate) fn decode(message: &RouteMessage, links: &Links) -> Option<(Key, Found)> {
    let parts = Parts::of(message)?;
    let family = Family::of_net(&parts.destination);
    if parts.metric != default_metric(family) || message.header.tos != 0 {
        return None;
    }
    let link = parts.link.and_then(|index| links.at(index)).map(|link| link.name.clone());
    let plain = parts.plain && message.header.kind == RouteType::Unicast;
    let found = match (parts.via, link) {
        (Some(via), Some(link)) if plain => Found::Entry(Entry::Route(Route {
            destination: parts.destination,
            via,
            link,
            source: parts.source,
            onlink: message.header.flags.contains(RouteFlags::Onlink),
        })),
        _ => Found::Other(format!("route {} with other settings", parts.destination)),
    };
    Some((Key::Route(parts.destination), found))
}

/// Which destination a message is about.
pub(crate) fn destination(message: &RouteMessage) -> Option<IpNet> {
    Parts::of(message).map(|parts| parts.destination)
}

struct Parts {
    destination: IpNet,
    via: Option<IpAddr>,
    source: Option<IpAddr>,
    link: Option<u32>,
    metric: u32,
    /// Whether it has nothing that planned routes do not have.
    plain: bool,
}

impl Parts {
    fn of(message: &RouteMessage) -> Option<Parts> {
        let any = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut parts =
            Parts { destination: any.into(), via: None, source: None, link: None, metric: 0, plain: true };
        let mut address = any;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => address = ip(destination)?,
                RouteAttribute::Gateway(gateway) => parts.via = ip(gateway),
                RouteAttribute::PrefSource(source) => parts.source = ip(source),
                RouteAttribute::Oif(index) => parts.link = Some(*index),
                RouteAttribute::Priority(metric) => parts.metric = *metric,
                RouteAttribute::Metrics(metrics) => parts.plain &= metrics.is_empty(),
                // The next hop of an IPv4 route is of the other family (RFC 8950).
                RouteAttribute::Via(RouteVia::Inet6(via)) => parts.via = Some(IpAddr::V6(*via)),
                RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) | RouteAttribute::Via(_) => {
                    parts.plain = false;
                }
                _ => {}
            }
        }
        parts.destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
        Some(parts)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Adds a route where there is none.
pub(crate) fn add(route: &Route, index: u32) -> Request {
    Request::create(RouteNetlinkMessage::NewRoute(message(route, index)), format!("add {}", describe(route)))
}

/// Puts a route in the place of the one of ours that is there.
pub(crate) fn replace(route: &Route, index: u32) -> Request {
    let what = format!("change to {}", describe(route));
    Request::replace(RouteNetlinkMessage::NewRoute(message(route, index)), what)
}

/// Has packets to one address leave by a link, without a next hop.
pub(crate) fn lead(address: &IpAddr, link: &LinkName, index: u32) -> Request {
    let mut message = header(&IpNet::from(*address));
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    let what = format!("lead packets to {address} to {link}");
    Request::replace(RouteNetlinkMessage::NewRoute(message), what)
}

/// Removes the route of ours to a destination.
pub(crate) fn remove(destination: &IpNet) -> Request {
    let mut message = header(destination);
    message.attributes.push(RouteAttribute::Priority(default_metric(Family::of_net(destination))));
    message.header.kind = RouteType::Unspec;
    Request::new(RouteNetlinkMessage::DelRoute(message), format!("remove route {destination}"))
}

/// Removes exactly the route that a message of the kernel describes.
pub(crate) fn remove_exactly(mut message: RouteMessage) -> Request {
    let what =
        format!("remove route {}", destination(&message).map(|net| net.to_string()).unwrap_or_default());
    message.header.flags &= RouteFlags::Onlink;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    Request::new(RouteNetlinkMessage::DelRoute(message), what)
}

fn message(route: &Route, index: u32) -> RouteMessage {
    let mut message = header(&route.destination);
    message.header.kind = RouteType::Unicast;
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(match (&route.destination, route.via) {
        (IpNet::V4(_), IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
        (_, via) => RouteAttribute::Gateway(via.into()),
    });
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn header(destination: &IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of_net(destination));
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.attributes = vec![RouteAttribute::Destination(destination.network().into())];
    message
}

fn describe(route: &Route) -> String {
    format!("route {} via {} dev {}", route.destination, route.via, route.link)
}

/// The route that packets to an address take, where a planned route was refused.
pub(crate) struct Holder {
    /// Whether it is the route of ours that is to be replaced.
    pub(crate) ours: bool,
    /// Whether it leads to another link. The default route does not count, because IPv6 next hops may be in it.
    pub(crate) elsewhere: bool,
    /// What to tell of it.
    pub(crate) error: Error,
}

/// Asks which route has the place of `route`, or its next hop: the one for `address`.
pub(crate) fn holder(
    socket: &mut RouteSocket,
    route: &Route,
    address: IpAddr,
    links: &Links,
) -> Result<Holder> {
    let family = Family::of(&address);
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message.header.flags = RouteFlags::FibMatch;
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    let what = format!("look up the route to {address}");
    let found = match socket.query(&RouteNetlinkMessage::GetRoute(message), &what)? {
        RouteNetlinkMessage::NewRoute(found) => found,
        other => return Err(Error::Answer { what, why: format!("{other:?}") }),
    };
    let Some(parts) = Parts::of(&found) else {
        return Err(Error::Answer { what, why: format!("{found:?}") });
    };
    let link = parts.link.and_then(|index| links.at(index));
    let exact = parts.destination == route.destination;
    let (destination, protocol) = (parts.destination, u8::from(found.header.protocol));
    let through = link.map(|link| format!(" dev {}", link.name)).unwrap_or_default();
    Ok(Holder {
        ours: exact && is_ours(&found),
        elsewhere: parts.destination.prefix_len() > 0 && link.is_none_or(|link| link.name != route.link),
        error: Error::Foreign {
            what: format!("add {}", describe(route)),
            obstacle: format!("a route {destination}{through} of protocol {protocol}"),
            remedy: format!("see \"ip route show {destination}\" and remove it, or stop what makes it"),
        },
    })
}
