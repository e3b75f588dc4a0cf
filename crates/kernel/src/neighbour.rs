//! Permanent neighbours and forwarding entries: all those of our VXLAN devices, and neighbours on links of others that
//! are marked as ours.

use std::net::IpAddr;

use model::{Family, LinkName, MacAddr, RouteSource};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::{Entry, Key, route_protocol};

use crate::Result;
use crate::link::{LinkKind, LinkState, Links};
use crate::observed::Found;
use crate::rtnl::{Request, RouteSocket};

/// `NUD_PERMANENT`, linux/neighbour.h.
const PERMANENT: u16 = 0x80;

/// The forwarding entries of a link.
pub(crate) fn forwarding_of(
    socket: &mut RouteSocket,
    link: &LinkName,
    index: u32,
) -> Result<Vec<NeighbourMessage>> {
    let mut filter = NeighbourMessage::default();
    filter.header.family = AddressFamily::Bridge;
    filter.attributes = vec![NeighbourAttribute::IfIndex(index)];
    dump(socket, filter, &format!("list the forwarding entries of {link}"))
}

/// The neighbours of all links in one family: those that are ours can be on any.
pub(crate) fn all(socket: &mut RouteSocket, family: Family) -> Result<Vec<NeighbourMessage>> {
    let mut filter = NeighbourMessage::default();
    filter.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    dump(socket, filter, &format!("list the {family} neighbours"))
}

fn dump(socket: &mut RouteSocket, filter: NeighbourMessage, what: &str) -> Result<Vec<NeighbourMessage>> {
    let messages = socket.dump(&RouteNetlinkMessage::GetNeighbour(filter), what)?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        })
        .collect())
}

/// The key of an entry that is ours, and what it holds; `None` for what the kernel resolves by itself and what others
/// have made.
pub(crate) fn decode(message: &NeighbourMessage, links: &Links) -> Option<(Key, Found)> {
    let state = links.at(message.header.ifindex)?;
    if !is_ours(message, state) {
        return None;
    }
    let link = state.name.clone();
    let permanent = u16::from(message.header.state) & PERMANENT != 0;
    let parts = Parts::of(message);
    if message.header.family == AddressFamily::Bridge {
        let (Some(mac), true) = (parts.mac, message.header.flags.contains(NeighbourFlags::Own)) else {
            return None;
        };
        let found = match parts.address {
            Some(node) if permanent && !parts.qualified => {
                Found::Entry(Entry::Forwarding { link: link.clone(), mac, node })
            }
            _ => Found::Other(format!("forwarding entry {mac} on {link} with other settings")),
        };
        return Some((Key::Forwarding(link, mac), found));
    }
    if message.header.flags.contains(NeighbourFlags::Proxy) || !(permanent || is_marked(message)) {
        return None;
    }
    let address = parts.address?;
    let found = match parts.mac {
        Some(mac) if permanent => Found::Entry(Entry::Neighbour { link: link.clone(), address, mac }),
        Some(_) => Found::Other(format!("neighbour {address} on {link} that is not permanent")),
        None => Found::Other(format!("neighbour {address} on {link} without an Ethernet address")),
    };
    Some((Key::Neighbour(link, address), found))
}

/// Whether an entry is on a VXLAN device of ours, or has our mark.
fn is_ours(message: &NeighbourMessage, link: &LinkState) -> bool {
    (link.ours && matches!(link.kind, LinkKind::Vxlan { .. })) || is_marked(message)
}

/// Whether a neighbour has the routing protocol of ours (`NDA_PROTOCOL`, linux/neighbour.h). Forwarding entries have none.
fn is_marked(message: &NeighbourMessage) -> bool {
    message.header.family != AddressFamily::Bridge && message.attributes.contains(&mark())
}

fn mark() -> NeighbourAttribute {
    NeighbourAttribute::Protocol(RouteProtocol::Other(route_protocol(RouteSource::Kubernetes)))
}

/// The message with which the kernel takes a neighbour away, if it is one of ours on a link of others.
pub(crate) fn removal(message: &NeighbourMessage, links: &Links) -> Option<(Key, Request)> {
    let state = links.at(message.header.ifindex).filter(|state| !state.ours && is_marked(message))?;
    let address = Parts::of(message).address?;
    let key = Key::Neighbour(state.name.clone(), address);
    Some((key, remove(&state.name, state.index, &address)))
}

/// The key of an entry that is ours, whatever it holds.
pub(crate) fn key(message: &NeighbourMessage, links: &Links) -> Option<Key> {
    let link = links.at(message.header.ifindex).filter(|link| is_ours(message, link))?;
    let parts = Parts::of(message);
    if message.header.family == AddressFamily::Bridge {
        Some(Key::Forwarding(link.name.clone(), parts.mac?))
    } else {
        Some(Key::Neighbour(link.name.clone(), parts.address?))
    }
}

struct Parts {
    address: Option<IpAddr>,
    mac: Option<MacAddr>,
    /// Whether a forwarding entry has a port, identifier or link of its own.
    qualified: bool,
}

impl Parts {
    fn of(message: &NeighbourMessage) -> Parts {
        let mut parts = Parts { address: None, mac: None, qualified: false };
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(address) => parts.address = ip(address),
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    parts.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                NeighbourAttribute::Port(_) | NeighbourAttribute::Vni(_) | NeighbourAttribute::IfIndex(_) => {
                    parts.qualified = true;
                }
                _ => {}
            }
        }
        parts
    }
}

/// In messages about forwarding entries the family of the address is known from its length only.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}

pub(crate) fn forward(link: &LinkName, index: u32, mac: &MacAddr, node: &IpAddr) -> Request {
    let message = forwarding(index, mac, Some(node));
    Request::replace(
        RouteNetlinkMessage::NewNeighbour(message),
        format!("add forwarding entry {mac} to {node} on {link}"),
    )
}

pub(crate) fn stop_forwarding(link: &LinkName, index: u32, mac: &MacAddr) -> Request {
    let message = forwarding(index, mac, None);
    Request::new(
        RouteNetlinkMessage::DelNeighbour(message),
        format!("remove forwarding entry {mac} from {link}"),
    )
}

pub(crate) fn add(link: &LinkName, index: u32, address: &IpAddr, mac: &MacAddr) -> Request {
    let message = neighbour(index, address, Some(mac));
    Request::replace(
        RouteNetlinkMessage::NewNeighbour(message),
        format!("add neighbour {address} with {mac} on {link}"),
    )
}

pub(crate) fn remove(link: &LinkName, index: u32, address: &IpAddr) -> Request {
    let message = neighbour(index, address, None);
    Request::new(
        RouteNetlinkMessage::DelNeighbour(message),
        format!("remove neighbour {address} from {link}"),
    )
}

fn forwarding(index: u32, mac: &MacAddr, node: Option<&IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message.attributes.extend(node.map(|node| NeighbourAttribute::Destination((*node).into())));
    message
}

fn neighbour(index: u32, address: &IpAddr, mac: Option<&MacAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::from(*address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination((*address).into()), mark()];
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}
