//! Permanent neighbours and forwarding entries of our VXLAN devices.

use std::net::IpAddr;

use model::{LinkName, MacAddr};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::{Entry, Key};

use crate::Result;
use crate::link::{LinkKind, Links};
use crate::observed::Found;
use crate::rtnl::{Request, RouteSocket};

/// `NUD_PERMANENT`, linux/neighbour.h.
const PERMANENT: u16 = 0x80;

/// The neighbours of a link in one family; with `AddressFamily::Bridge` its forwarding entries.
pub(crate) fn dump(
    socket: &mut RouteSocket,
    family: AddressFamily,
    link: &LinkName,
    index: u32,
) -> Result<Vec<NeighbourMessage>> {
    let mut filter = NeighbourMessage::default();
    filter.header.family = family;
    filter.attributes = vec![NeighbourAttribute::IfIndex(index)];
    let kind = if family == AddressFamily::Bridge { "forwarding entries" } else { "neighbours" };
    let messages =
        socket.dump(&RouteNetlinkMessage::GetNeighbour(filter), &format!("list the {kind} of {link}"))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        })
        .collect())
}

/// The key of an entry on a VXLAN device of ours, and what it holds; `None` for what the kernel resolves by itself.
pub(crate) fn decode(message: &NeighbourMessage, links: &Links) -> Option<(Key, Found)> {
    let state = links.at(message.header.ifindex)?;
    if !state.ours || !matches!(state.kind, LinkKind::Vxlan { .. }) {
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
    if !permanent || message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = parts.address?;
    let found = match parts.mac {
        Some(mac) => Found::Entry(Entry::Neighbour { link: link.clone(), address, mac }),
        None => Found::Other(format!("neighbour {address} on {link} without an Ethernet address")),
    };
    Some((Key::Neighbour(link, address), found))
}

/// The key of an entry on a VXLAN device of ours, whatever it holds.
pub(crate) fn key(message: &NeighbourMessage, links: &Links) -> Option<Key> {
    let link = links.at(message.header.ifindex).filter(|link| link.ours)?;
    if !matches!(link.kind, LinkKind::Vxlan { .. }) {
        return None;
    }
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
    message.attributes = vec![NeighbourAttribute::Destination((*address).into())];
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}
