//! The requests that the fabric is made of.

use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use kernel::netns::NetNs;
use kernel::rtnl::{Request, RouteSocket, address_family};
use model::Family;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::topology::Route;

/// The index of the loopback interface in every namespace (`LOOPBACK_IFINDEX`, net/net_namespace.h).
pub(super) const LOOPBACK: u32 = 1;

/// A bridge, up, that floods multicast: without a querier, snooping would lose neighbour discovery.
pub(super) fn bridge(index: u32, name: &str, mtu: u32) -> Request {
    let mut message = link(index, name, mtu);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
    ]));
    Request::create(RouteNetlinkMessage::NewLink(message), format!("make bridge {name}"))
}

/// One end of a cable.
pub(super) struct End<'a> {
    pub(super) index: u32,
    pub(super) name: &'a str,
}

/// A veth pair from the namespace of the socket into another, both ends down. No end is ever anywhere else.
pub(super) fn cable(near: &End<'_>, far: &End<'_>, far_namespace: &NetNs, mtu: u32) -> Request {
    let mut peer = link(far.index, far.name, mtu);
    peer.attributes.push(LinkAttribute::NetNsFd(far_namespace.as_fd().as_raw_fd()));
    let mut message = link(near.index, near.name, mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let what = format!("make the cable from {} to {}", near.name, far.name);
    Request::create(RouteNetlinkMessage::NewLink(message), what)
}

/// Makes a link a port of a bridge and brings it up.
pub(super) fn plug(port: &End<'_>, bridge: u32) -> Request {
    let mut message = up_message(port.index);
    message.attributes.push(LinkAttribute::Controller(bridge));
    Request::new(RouteNetlinkMessage::SetLink(message), format!("plug {} into its bridge", port.name))
}

/// Brings a link up.
pub(super) fn up(index: u32, name: &str) -> Request {
    Request::new(RouteNetlinkMessage::SetLink(up_message(index)), format!("bring {name} up"))
}

/// Brings a link up or down, by its name.
pub(super) fn up_or_down(name: &str, up: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let state = if up { "up" } else { "down" };
    Request::new(RouteNetlinkMessage::SetLink(message), format!("bring {name} {state}"))
}

/// Puts an address on a link. In IPv6 it is usable at once, without duplicate address detection (`IFA_F_NODAD`).
pub(super) fn address(index: u32, link: &str, address: &IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(net) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    Request::create(RouteNetlinkMessage::NewAddress(message), format!("give {link} the address {address}"))
}

/// The removal of an address.
pub(super) fn no_address(index: u32, link: &str, address: &IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = address_family(Family::of_net(address));
    message.attributes = vec![AddressAttribute::Local(address.addr())];
    Request::new(RouteNetlinkMessage::DelAddress(message), format!("take the address {address} from {link}"))
}

/// The addresses of a family that a link has, without those that the kernel gives by itself.
pub(super) fn addresses(socket: &mut RouteSocket, index: u32, family: Family) -> kernel::Result<Vec<IpNet>> {
    let listed =
        socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list the addresses")?;
    let of_link = |message: RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewAddress(message)
            if message.header.index == index && message.header.scope == AddressScope::Universe =>
        {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            IpNet::new(address?, message.header.prefix_len).ok()
        }
        _ => None,
    };
    Ok(listed.into_iter().filter_map(of_link).filter(|net| Family::of_net(net) == family).collect())
}

/// A route through a neighbour.
pub(super) fn route(route: &Route) -> Request {
    let what = format!("add the route {} via {}", route.destination, route.gateway);
    Request::create(RouteNetlinkMessage::NewRoute(route_message(route)), what)
}

/// The same, in the place of another to the same destination.
pub(super) fn replaced_route(route: &Route) -> Request {
    let what = format!("set the route {} via {}", route.destination, route.gateway);
    Request::replace(RouteNetlinkMessage::NewRoute(route_message(route)), what)
}

/// The removal of a route.
pub(super) fn no_route(route: &Route) -> Request {
    let what = format!("remove the route {} via {}", route.destination, route.gateway);
    Request::new(RouteNetlinkMessage::DelRoute(route_message(route)), what)
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(&route.gateway));
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    message.attributes.push(RouteAttribute::Gateway(route.gateway.into()));
    message
}

fn link(index: u32, name: &str, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
    message
}

fn up_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}
