//! Routes of ours in the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::{Family, LinkName, RouteSource};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::{Entry, Hop, Key, Route, route_protocol, route_source};

use crate::link::Links;
use crate::observed::Found;
use crate::rtnl::{Request, RouteSocket, address_family, ip_address, next_hop};
use crate::{Error, Result};

/// Where routes of ours are known from, each with a protocol number.
const SOURCES: [RouteSource; 2] = [RouteSource::Kubernetes, RouteSource::Bgp];

/// The metric of routes that are there for a moment only: they go before planned ones, and are never taken for one.
const LEAD_METRIC: u32 = 1;

/// About how many addresses the kernel is asked to find the route of a destination.
const PROBES: usize = 16;

/// The metric of a route for which none was asked (`IP6_RT_PRIO_USER`, net/ip6_fib.h; IPv4 has 0).
fn default_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

/// The routes of ours in the main table. The kernel does the filtering, by one protocol number at a time.
pub(crate) fn dump(socket: &mut RouteSocket, family: Family) -> Result<Vec<RouteMessage>> {
    let mut found = Vec::new();
    for source in SOURCES {
        let mut filter = RouteMessage::default();
        filter.header.address_family = address_family(family);
        filter.header.table = RouteHeader::RT_TABLE_MAIN;
        filter.header.protocol = RouteProtocol::Other(route_protocol(source));
        let what = format!("list the {family} routes");
        let messages = match socket.dump(&RouteNetlinkMessage::GetRoute(filter), &what) {
            // In a namespace that never had a route there is no table either.
            Err(error) if error.errno() == Some(libc::ENOENT) => continue,
            result => result?,
        };
        found.extend(messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) if is_ours(&route) => Some(route),
            _ => None,
        }));
    }
    Ok(found)
}

pub(crate) fn is_ours(message: &RouteMessage) -> bool {
    source(message).is_some()
        && message.header.table == RouteHeader::RT_TABLE_MAIN
        && !message.header.flags.contains(RouteFlags::Cloned)
}

/// Where a route is known from, if its protocol is one of ours.
fn source(message: &RouteMessage) -> Option<RouteSource> {
    route_source(u8::from(message.header.protocol))
}

/// The key of a route of ours and what it holds; `None` if the route cannot stand under the key, because it has
/// another metric or type of service than planned ones.
pub(crate) fn decode(message: &RouteMessage, links: &Links) -> Option<(Key, Found)> {
    let parts = Parts::of(message)?;
    let family = Family::of_net(&parts.destination);
    if parts.metric != default_metric(family) || message.header.tos != 0 {
        return None;
    }
    let key = Key::Route(parts.destination);
    let plain = parts.plain && message.header.kind == RouteType::Unicast;
    let found = match (parts.hops(links), source(message)) {
        (Some(hops), Some(learned)) if plain => Found::Entry(Entry::Route(Route {
            destination: parts.destination,
            hops,
            source: parts.source,
            mtu: parts.mtu,
            learned,
        })),
        _ => Found::Other(format!("route {} with other settings", parts.destination)),
    };
    Some((key, found))
}

/// Which destination a message is about.
pub(crate) fn destination(message: &RouteMessage) -> Option<IpNet> {
    Parts::of(message).map(|parts| parts.destination)
}

struct Parts {
    destination: IpNet,
    source: Option<IpAddr>,
    metric: u32,
    mtu: Option<u32>,
    /// The index of the link and the next hop of each of its ways.
    ways: Vec<(Option<u32>, Option<IpAddr>)>,
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
        let mut parts = Parts {
            destination: any.into(),
            source: None,
            metric: 0,
            mtu: None,
            ways: Vec::new(),
            plain: true,
        };
        let mut address = any;
        let mut link = None;
        let mut several = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => address = ip_address(destination)?,
                RouteAttribute::PrefSource(source) => parts.source = ip_address(source),
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Priority(metric) => parts.metric = *metric,
                RouteAttribute::Metrics(metrics) => match metrics.as_slice() {
                    [] => {}
                    [RouteMetric::Mtu(mtu)] => parts.mtu = Some(*mtu),
                    _ => parts.plain = false,
                },
                RouteAttribute::MultiPath(hops) => several = Some(hops),
                RouteAttribute::Encap(_) => parts.plain = false,
                _ => {}
            }
        }
        parts.destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
        match several {
            None => {
                parts.plain &= message.header.flags.contains(RouteFlags::Onlink);
                parts.ways.push((link, next_hop(&message.attributes)));
            }
            Some(hops) => {
                for hop in hops {
                    // A weight of one is written as zero. Whether the link is up is another question.
                    parts.plain &= hop.hops == 0 && hop.flags.contains(RouteNextHopFlags::Onlink);
                    parts.plain &=
                        !hop.attributes.iter().any(|each| matches!(each, RouteAttribute::Encap(_)));
                    parts.ways.push((Some(hop.interface_index), next_hop(&hop.attributes)));
                }
            }
        }
        Some(parts)
    }

    /// The ways as planned routes have them; `None` if a link is not known or there is no next hop.
    fn hops(&self, links: &Links) -> Option<Vec<Hop>> {
        let hop = |(index, via): &(Option<u32>, Option<IpAddr>)| {
            Some(Hop { via: (*via)?, link: links.at((*index)?)?.name.clone() })
        };
        let mut hops: Vec<Hop> = self.ways.iter().map(hop).collect::<Option<_>>()?;
        hops.sort();
        (!hops.is_empty()).then_some(hops)
    }
}

/// Adds a route where there is none. `indices` are those of its hops' links.
pub(crate) fn add(route: &Route, indices: &[u32]) -> Request {
    Request::create(
        RouteNetlinkMessage::NewRoute(message(route, indices)),
        format!("add {}", describe(route)),
    )
}

/// Puts a route in the place of the one of ours that is there.
pub(crate) fn replace(route: &Route, indices: &[u32]) -> Request {
    let what = format!("change to {}", describe(route));
    Request::replace(RouteNetlinkMessage::NewRoute(message(route, indices)), what)
}

/// Has packets to one address leave by a link, without a next hop.
pub(crate) fn lead(address: &IpAddr, link: &LinkName, index: u32) -> Request {
    let mut message = header(&IpNet::from(*address), RouteSource::Kubernetes);
    message.header.kind = RouteType::Unicast;
    message.attributes.extend([RouteAttribute::Oif(index), RouteAttribute::Priority(LEAD_METRIC)]);
    let what = format!("lead packets to {address} to {link}");
    Request::replace(RouteNetlinkMessage::NewRoute(message), what)
}

/// Takes back what [`lead`] has made.
pub(crate) fn lead_no_more(address: &IpAddr) -> Request {
    remove(&IpNet::from(*address), RouteSource::Kubernetes, LEAD_METRIC)
}

/// Removes the route of ours to a destination, wherever it is known from: what is not there is an error.
pub(crate) fn removals(destination: &IpNet) -> [Request; 2] {
    let metric = default_metric(Family::of_net(destination));
    SOURCES.map(|source| remove(destination, source, metric))
}

fn remove(destination: &IpNet, source: RouteSource, metric: u32) -> Request {
    let mut message = header(destination, source);
    message.attributes.push(RouteAttribute::Priority(metric));
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

fn message(route: &Route, indices: &[u32]) -> RouteMessage {
    let mut message = header(&route.destination, route.learned);
    message.header.kind = RouteType::Unicast;
    let gateway = |via: IpAddr| match (&route.destination, via) {
        (IpNet::V4(_), IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
        (_, via) => RouteAttribute::Gateway(via.into()),
    };
    match (route.hops.as_slice(), indices) {
        ([hop], [index]) => {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.extend([gateway(hop.via), RouteAttribute::Oif(*index)]);
        }
        (hops, indices) => {
            let hops = hops.iter().zip(indices).map(|(hop, index)| {
                let mut one = RouteNextHop::default();
                one.flags = RouteNextHopFlags::Onlink;
                one.interface_index = *index;
                one.attributes = vec![gateway(hop.via)];
                one
            });
            message.attributes.push(RouteAttribute::MultiPath(hops.collect()));
        }
    }
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

fn header(destination: &IpNet, source: RouteSource) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of_net(destination));
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(route_protocol(source));
    message.attributes = vec![RouteAttribute::Destination(destination.network().into())];
    message
}

/// What to call a route in a report.
pub(crate) fn describe(route: &Route) -> String {
    let hops: Vec<String> = route.hops.iter().map(Hop::to_string).collect();
    format!("route {} {}", route.destination, hops.join(" and "))
}

/// A route that is in the way of a planned one.
pub(crate) struct Holder {
    /// Whether it is ours.
    pub(crate) ours: bool,
    /// Its destination.
    destination: IpNet,
    /// The links by which it leads; `None` for one that is not known.
    links: Vec<Option<LinkName>>,
    protocol: u8,
}

impl Holder {
    /// Whether it leads by another link. The default route does not count, because IPv6 next hops may be in it.
    pub(crate) fn leads_elsewhere(&self, link: &LinkName) -> bool {
        self.destination.prefix_len() > 0 && self.links.iter().any(|each| each.as_ref() != Some(link))
    }

    /// That it keeps `route` from being made.
    pub(crate) fn obstructs(&self, route: &Route) -> Error {
        let Holder { destination, protocol, .. } = self;
        let through: String = self.links.iter().flatten().map(|link| format!(" dev {link}")).collect();
        Error::Foreign {
            what: format!("add {}", describe(route)),
            obstacle: format!("a route {destination}{through} of protocol {protocol}"),
            remedy: format!("see \"ip route show {destination}\" and remove it, or stop what makes it"),
        }
    }
}

/// Asks which way packets to an address take, or with `RouteFlags::FibMatch` which route. `what` follows "cannot" in errors.
pub(crate) fn look_up(
    socket: &mut RouteSocket,
    address: IpAddr,
    flags: RouteFlags,
    what: &str,
) -> Result<RouteMessage> {
    let family = Family::of(&address);
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = family.bits();
    message.header.flags = flags;
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    match socket.query(&RouteNetlinkMessage::GetRoute(message), what)? {
        RouteNetlinkMessage::NewRoute(found) => Ok(found),
        other => Err(Error::Answer { what: what.to_owned(), why: format!("{other:?}") }),
    }
}

/// Asks which route packets to an address take.
pub(crate) fn route_to(socket: &mut RouteSocket, address: IpAddr, links: &Links) -> Result<Holder> {
    let what = format!("look up the route to {address}");
    let found = look_up(socket, address, RouteFlags::FibMatch, &what)?;
    let Some(parts) = Parts::of(&found) else {
        return Err(Error::Answer { what, why: format!("{found:?}") });
    };
    let name = |(index, _): &(Option<u32>, _)| Some(links.at((*index)?)?.name.clone());
    Ok(Holder {
        ours: is_ours(&found),
        destination: parts.destination,
        links: parts.ways.iter().map(name).collect(),
        protocol: u8::from(found.header.protocol),
    })
}

/// Asks which route has exactly this destination; `None` if it cannot be told.
///
/// The kernel can only be asked about addresses, and the first of them may be in a longer prefix. Then the first after
/// that one is asked about, and so on, for a while.
pub(crate) fn route_at(socket: &mut RouteSocket, destination: &IpNet, links: &Links) -> Option<Holder> {
    let mut address = destination.network();
    for _ in 0..PROBES {
        let found = route_to(socket, address, links).ok()?;
        if found.destination == *destination {
            return Some(found);
        }
        if !destination.contains(&found.destination) {
            return None;
        }
        address = after(&found.destination).filter(|next| destination.contains(next))?;
    }
    None
}

/// The address that follows a prefix.
fn after(net: &IpNet) -> Option<IpAddr> {
    match net.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}
