//! What the kernel says of a pod's interface and of the node's end of it.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, MacAddr};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};

use super::ALIAS_PREFIX;
use crate::rtnl::RouteSocket;
use crate::{Result, link};

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: LinkName,
    /// Its number in its namespace.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its Ethernet address, if it is of that kind.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its alias; empty if it has none.
    pub alias: String,
    /// The index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// The number of the group that it is in (`ip link show group`); 0 unless somebody chose another.
    pub group: u32,
    /// Whether, as a port of a bridge, it may send a frame back by the port that it came in by.
    pub hairpin: bool,
    /// The number that this namespace knows the one of a veth's other end by, if that is another (`IFLA_LINK_NETNSID`).
    pub peer_namespace: Option<i32>,
}

/// A default route in the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Its family.
    pub family: Family,
    /// The next hop, if there is one.
    pub via: Option<IpAddr>,
    /// The index of the outgoing interface.
    pub interface: Option<u32>,
}

impl Interface {
    /// Whether it is the node's end of a pod's veth pair, by its alias.
    pub fn is_pods(&self) -> bool {
        self.alias.starts_with(ALIAS_PREFIX)
    }

    fn decode(message: &LinkMessage) -> Option<Interface> {
        let mut name = None;
        let (mut mac, mut mtu, mut alias, mut bridge, mut hairpin) = (None, 0, String::new(), None, false);
        let (mut group, mut peer_namespace) = (0, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = LinkName::new(text.clone()).ok(),
                LinkAttribute::IfAlias(text) => alias.clone_from(text),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(MacAddr),
                LinkAttribute::Controller(index) => bridge = Some(*index),
                LinkAttribute::Group(number) => group = *number,
                LinkAttribute::LinkNetNsId(number) => peer_namespace = Some(*number),
                LinkAttribute::LinkInfo(infos) => hairpin = is_hairpin(infos),
                _ => {}
            }
        }
        let up = message.header.flags.contains(LinkFlags::Up);
        Some(Interface {
            name: name?,
            index: message.header.index,
            up,
            mac,
            mtu,
            alias,
            bridge,
            group,
            hairpin,
            peer_namespace,
        })
    }
}

fn is_hairpin(infos: &[LinkInfo]) -> bool {
    infos.iter().any(|info| {
        matches!(info, LinkInfo::PortData(InfoPortData::BridgePort(port))
            if port.contains(&InfoBridgePort::HairpinMode(true)))
    })
}

pub(super) fn interface(socket: &mut RouteSocket, name: &LinkName) -> Result<Option<Interface>> {
    Ok(link::find(socket, name)?.as_ref().and_then(Interface::decode))
}

pub(super) fn interfaces(socket: &mut RouteSocket) -> Result<Vec<Interface>> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let messages = socket.dump(&RouteNetlinkMessage::GetLink(message), "list the links")?;
    let link = |message| match message {
        RouteNetlinkMessage::NewLink(link) => Interface::decode(&link),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(link).collect())
}

pub(super) fn addresses(socket: &mut RouteSocket, interface: &Interface) -> Result<Vec<IpNet>> {
    let mut filter = AddressMessage::default();
    filter.header.index = interface.index;
    let what = format!("list the addresses of {}", interface.name);
    let messages = socket.dump(&RouteNetlinkMessage::GetAddress(filter), &what)?;
    let net = |message: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return None };
        // IPv6 has IFA_LOCAL on point-to-point links only; where it is, IFA_ADDRESS is the far end's.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
        let ours = message.header.index == interface.index;
        ours.then(|| IpNet::new(address, message.header.prefix_len).ok()).flatten()
    };
    Ok(messages.into_iter().filter_map(net).collect())
}

pub(super) fn default_routes(socket: &mut RouteSocket) -> Result<Vec<DefaultRoute>> {
    let mut routes = Vec::new();
    for family in Family::BOTH {
        let mut filter = RouteMessage::default();
        filter.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        filter.header.table = RouteHeader::RT_TABLE_MAIN;
        let messages = socket
            .dump(&RouteNetlinkMessage::GetRoute(filter), &format!("list the {family} routes of the pod"))?;
        routes.extend(messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => default_route(family, route),
            _ => None,
        }));
    }
    Ok(routes)
}

fn default_route(family: Family, message: &RouteMessage) -> Option<DefaultRoute> {
    if message.header.destination_prefix_length != 0 || message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = DefaultRoute { family, via: None, interface: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.via = Some((*address).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => route.via = Some((*address).into()),
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            _ => {}
        }
    }
    Some(route)
}
