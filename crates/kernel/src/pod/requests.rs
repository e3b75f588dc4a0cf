//! The messages that make a veth pair and what is on it.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::RawFd;

use ipnet::IpNet;
use model::{Family, LinkName, MacAddr};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Interface;
use crate::Result;
use crate::rtnl::{Request, RouteSocket};

/// The loopback device has this index in every namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;

/// A veth pair across two namespaces.
pub(super) struct Pair<'a> {
    pub(super) host: &'a LinkName,
    pub(super) host_mac: MacAddr,
    pub(super) bridge: u32,
    pub(super) name: &'a LinkName,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    pub(super) namespace: RawFd,
    pub(super) alias: String,
}

/// Makes the pair, the node's end up and on the bridge. If anything fails there is none.
pub(super) fn create(node: &mut RouteSocket, pair: &Pair<'_>) -> Result<()> {
    let what = format!("make veth pair {} and {}", pair.host, pair.name);
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(pair.name.to_string()),
        LinkAttribute::Address(pair.mac.0.to_vec()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NetNsFd(pair.namespace),
    ];
    let mut new = up(0);
    new.attributes = vec![
        LinkAttribute::IfName(pair.host.to_string()),
        LinkAttribute::Address(pair.host_mac.0.to_vec()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::Controller(pair.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    // What the kernel takes for a link that is there only. It works the datagram off without a break, so nobody
    // who is killed can leave a link without the alias.
    let mut dress = LinkMessage::default();
    dress.attributes = vec![
        LinkAttribute::IfName(pair.host.to_string()),
        LinkAttribute::IfAlias(pair.alias.clone()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    let mut results = node
        .batch(&[
            Request::create(RouteNetlinkMessage::NewLink(new), what),
            Request::new(RouteNetlinkMessage::NewLink(dress), format!("set up bridge port {}", pair.host)),
        ])
        .into_iter();
    results.next().unwrap_or(Ok(()))?;
    if let Some(Err(error)) = results.next() {
        // The first error is the one to tell.
        let mut gone = LinkMessage::default();
        gone.attributes = vec![LinkAttribute::IfName(pair.host.to_string())];
        let _ = node.request(Request::new(RouteNetlinkMessage::DelLink(gone), "remove it again"));
        return Err(error);
    }
    Ok(())
}

pub(super) fn delete(interface: &Interface) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = interface.index;
    Request::new(RouteNetlinkMessage::DelLink(message), format!("remove link {}", interface.name))
}

/// Puts a link into another group; nothing else of it changes.
pub(super) fn regroup(interface: &Interface, group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = interface.index;
    message.attributes = vec![LinkAttribute::Group(group)];
    let what = format!("put link {} into group {group}", interface.name);
    Request::new(RouteNetlinkMessage::SetLink(message), what)
}

/// What comes before the addresses: the loopback device and the interface up.
///
/// With IPv6 the link-local address is ours to give, since the one that the kernel makes cannot be used before
/// duplicate address detection is through, a second or two.
pub(super) fn activation(name: &LinkName, index: u32, ipv6: bool) -> Vec<Request> {
    let set = |message, what: String| Request::new(RouteNetlinkMessage::SetLink(message), what);
    let mut requests = vec![set(up(LOOPBACK), "bring the pod's loopback device up".to_owned())];
    if ipv6 {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
        requests.push(set(message, format!("keep the kernel from making a link-local address on {name}")));
    }
    requests.push(set(up(index), format!("bring the pod's interface {name} up")));
    requests
}

/// The addresses and then the default routes; with the latter their family.
pub(super) fn addressing(
    name: &LinkName,
    index: u32,
    nets: &[(IpNet, IpAddr)],
    link_local: Option<Ipv6Addr>,
) -> Vec<(Option<Family>, Request)> {
    let link_local = link_local.map(|address| IpNet::new_assert(address.into(), 64));
    let addresses = link_local.iter().chain(nets.iter().map(|(net, _)| net)).map(|net| {
        let message = RouteNetlinkMessage::NewAddress(address(index, net));
        (None, Request::create(message, format!("add address {net} to the pod's interface {name}")))
    });
    let routes = nets.iter().map(|(net, gateway)| {
        let family = Family::of_net(net);
        let what = format!("add the {family} default route via {gateway} on the pod's interface {name}");
        (Some(family), Request::create(RouteNetlinkMessage::NewRoute(default_route(index, gateway)), what))
    });
    addresses.chain(routes).collect()
}

fn up(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn address(index: u32, net: &IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::from(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    if let IpAddr::V6(address) = net.addr() {
        // The address is ours alone by construction; detection would keep it from being used for a second or two.
        message.header.flags = AddressHeaderFlags::Nodad;
        if address.is_unicast_link_local() {
            message.header.scope = AddressScope::Link;
        }
    }
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

fn default_route(index: u32, gateway: &IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::from(*gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    let via = match gateway {
        IpAddr::V4(v4) => RouteAddress::Inet(*v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(*v6),
    };
    message.attributes = vec![RouteAttribute::Gateway(via), RouteAttribute::Oif(index)];
    message
}
