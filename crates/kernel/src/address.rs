//! Addresses on our links.

use std::net::IpAddr;

use ipnet::IpNet;
use model::LinkName;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::{Entry, Key};

use crate::Result;
use crate::link::Links;
use crate::observed::Found;
use crate::rtnl::{Request, RouteSocket};

/// The addresses of all links. The kernel could give those of one link only, but there are few in any case.
pub(crate) fn dump(socket: &mut RouteSocket) -> Result<Vec<AddressMessage>> {
    let messages =
        socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list the addresses")?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })
        .collect())
}

/// The index of the link, and the address with its prefix length.
pub(crate) fn parts(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    // IPv6 has IFA_LOCAL on point-to-point links only.
    let address = address.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
}

/// The address if it is on a link of ours and not the link-local one that the kernel made.
pub(crate) fn decode(message: &AddressMessage, links: &Links) -> Option<(Key, Found)> {
    let (index, net) = parts(message)?;
    let link = links.at(index).filter(|link| link.ours)?;
    if is_link_local(&net) {
        return None;
    }
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let has = |flag| flags.is_some_and(|flags| flags.contains(flag));
    let name = link.name.clone();
    let found = if !has(AddressFlags::Permanent) {
        Found::Other(format!("address {net} on {name} with a lifetime"))
    } else if net.addr().is_ipv6() && !has(AddressFlags::Nodad) {
        // Somebody else has made it, and on a bridge without ports it can never be used.
        Found::Other(format!("address {net} on {name} that waits for duplicate address detection"))
    } else {
        Found::Entry(Entry::Address { link: name.clone(), net })
    };
    Some((Key::Address(name, net), found))
}

/// The kernel makes these, and takes seconds to be sure of them.
pub(crate) fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

pub(crate) fn add(link: &LinkName, index: u32, net: &IpNet) -> Request {
    let what = format!("add address {net} to {link}");
    Request::replace(RouteNetlinkMessage::NewAddress(message(index, net)), what)
}

pub(crate) fn remove(link: &LinkName, index: u32, net: &IpNet) -> Request {
    let what = format!("remove address {net} from {link}");
    Request::new(RouteNetlinkMessage::DelAddress(message(index, net)), what)
}

fn message(index: u32, net: &IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::from(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    if net.addr().is_ipv6() {
        // A bridge without ports has no carrier, so detection would never end and the address never be used.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}
