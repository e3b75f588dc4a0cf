//! What a node needs for itself: bridge, tunnel devices, settings and tables.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Family, LinkName, MIN_MTU, MacAddr, Mtu, NetworkConfig, Node, NodeFile, PerFamily, PodRange, Sending,
};

use crate::ipip::Outer;
use crate::rules::{SetName, Value};
use crate::tables::{self, CLUSTER_PODS, LOCAL_PODS};
use crate::underlay::known;
use crate::{Entry, Link, Member, Problem, Underlay};

/// What VXLAN over IPv4 adds to a packet, in bytes: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, section 5).
pub const ENCAPSULATION_OVERHEAD_V4: u32 = 50;
/// What VXLAN over IPv6 adds to a packet, in bytes: IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14.
pub const ENCAPSULATION_OVERHEAD_V6: u32 = 70;

/// The smallest MTU that IPv4 can use, in bytes (RFC 791: every host must accept 576).
const MIN_MTU_V4: u32 = 576;
/// The MTU of Ethernet, in bytes, where the underlay's is not known yet.
const ETHERNET_MTU: u32 = 1500;

/// The entries of the node itself.
pub(crate) fn local(
    network: &NetworkConfig,
    node: &Node,
    underlay: &PerFamily<Underlay>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    is_complete(network, node, problems);
    let mut entries = settings(node);
    entries.extend(fast_path(network));
    entries.extend(bridge(network, node, underlay, problems));
    entries.extend(tunnels(network, node, underlay));
    entries.extend(headroom(network, node));
    entries.extend(acceptance(node));
    entries.extend(ipip(node, underlay));
    entries.extend(firewall(network, node));
    entries
}

/// The MTU of the node's pods in bytes, and what is wrong with it.
///
/// It is the underlay's less the encapsulation, in the family that the node prefers for its tunnels. Without
/// encapsulation it is the underlay's, in the family where that is smaller.
pub fn pod_mtu(
    network: &NetworkConfig,
    node: &Node,
    underlay: &PerFamily<Underlay>,
) -> (u32, Option<Problem>) {
    let mut links = node.addresses.iter().map(|address| (*address, link_mtu(underlay, address)));
    let found = match network.encapsulation.sending {
        Sending::Vxlan(_) => links.next().map(|(address, mtu)| (address, mtu, tunnel_mtu(mtu, &address))),
        Sending::Ipip(_) => links.next().map(|(address, mtu)| (address, mtu, ipip_mtu(mtu, &address))),
        Sending::Plain => links.min_by_key(|(_, mtu)| *mtu).map(|(address, mtu)| (address, mtu, mtu)),
    };
    let Some((address, underlay, most)) = found else {
        return (ETHERNET_MTU - ENCAPSULATION_OVERHEAD_V6, None);
    };
    let (mtu, problem) = match network.mtu {
        Mtu::Fixed(configured) if configured > most => (most, Some(Problem::MtuTooBig { configured, most })),
        Mtu::Fixed(configured) => (configured, None),
        Mtu::Auto => (most, None),
    };
    let family = if node.pod_ranges.v6.is_some() { Family::V6 } else { Family::V4 };
    let least = if family == Family::V6 { MIN_MTU } else { MIN_MTU_V4 };
    if mtu < least {
        return (least, Some(Problem::MtuTooSmall { address, underlay, left: most, family, least }));
    }
    (mtu, problem)
}

/// What the CNI plugin on this node needs to know; `None` while the node has no pod range.
pub fn node_file(network: &NetworkConfig, node: &Node, underlay: &PerFamily<Underlay>) -> Option<NodeFile> {
    let pod_ranges: Vec<PodRange> = node.pod_ranges.iter().copied().collect();
    (!pod_ranges.is_empty()).then(|| NodeFile {
        node: node.name.to_string(),
        bridge: LinkName::bridge(),
        mtu: pod_mtu(network, node, underlay).0,
        pod_ranges,
    })
}

/// The MTU of the link that has an underlay address.
fn link_mtu(underlay: &PerFamily<Underlay>, address: &IpAddr) -> u32 {
    underlay.of(Family::of(address)).map_or(ETHERNET_MTU, |underlay| underlay.mtu)
}

fn tunnel_mtu(underlay: u32, address: &IpAddr) -> u32 {
    underlay.saturating_sub(match Family::of(address) {
        Family::V4 => ENCAPSULATION_OVERHEAD_V4,
        Family::V6 => ENCAPSULATION_OVERHEAD_V6,
    })
}

fn ipip_mtu(underlay: u32, address: &IpAddr) -> u32 {
    underlay.saturating_sub(Outer::overhead_of(Family::of(address)))
}

fn settings(node: &Node) -> Vec<Entry> {
    // Bridged packets must pass netfilter: a service's backend may be on the client's own bridge.
    let mut paths = vec!["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
    if node.pod_ranges.v4.is_some() {
        paths.push("net/ipv4/ip_forward");
    }
    if node.pod_ranges.v6.is_some() {
        paths.push("net/ipv6/conf/all/forwarding");
    }
    let setting = |path: &str, value: &str| Entry::Sysctl { path: path.to_owned(), value: value.to_owned() };
    // What went through a flow is counted only from its beginning on, so it is too late when somebody wants to know.
    paths.push("net/netfilter/nf_conntrack_acct");
    let mut settings: Vec<Entry> = paths.into_iter().map(|path| setting(path, "1")).collect();
    if node.pod_ranges.v6.is_some() {
        // Until duplicate address detection of its link-local address is over, the bridge cannot ask for neighbours, so
        // a node's first pod could not be reached for up to two seconds.
        settings.push(setting(&format!("net/ipv6/conf/{}/accept_dad", LinkName::bridge()), "0"));
    }
    settings
}

/// What sends packets of known flows past the kernel's own path.
///
/// Connection tracking then sees a few packets of a connection and takes the rest for lost, so it must not be strict about
/// sequence numbers: what it takes for invalid it does not translate.
fn fast_path(network: &NetworkConfig) -> Vec<Entry> {
    if !network.fast_path {
        return Vec::new();
    }
    let path = "net/netfilter/nf_conntrack_tcp_be_liberal".to_owned();
    vec![Entry::Sysctl { path, value: "1".to_owned() }, Entry::FastPath]
}

fn bridge(
    network: &NetworkConfig,
    node: &Node,
    underlay: &PerFamily<Underlay>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let Some(first) = node.pod_ranges.iter().next() else { return Vec::new() };
    let (mtu, problem) = pod_mtu(network, node, underlay);
    problems.extend(problem);
    let name = LinkName::bridge();
    let mut entries = vec![Entry::Link(Link::Bridge {
        name: name.clone(),
        mac: MacAddr::for_bridge(&first.gateway()),
        mtu,
    })];
    entries.extend(
        node.pod_ranges.iter().map(|range| Entry::Address { link: name.clone(), net: range.gateway_net() }),
    );
    entries
}

fn tunnels(network: &NetworkConfig, node: &Node, underlay: &PerFamily<Underlay>) -> Vec<Entry> {
    let vxlan = network.encapsulation.vxlan;
    let device = |address: &IpAddr| {
        Entry::Link(Link::Vxlan {
            name: tunnel_link(Family::of(address)),
            vni: vxlan.vni,
            port: vxlan.port,
            local: *address,
            mac: MacAddr::for_tunnel(address),
            mtu: tunnel_mtu(link_mtu(underlay, address), address),
        })
    };
    node.addresses.iter().map(device).collect()
}

/// What spares packets from pods being copied for want of room for their outer header. Those of UDP have room for none.
fn headroom(network: &NetworkConfig, node: &Node) -> Option<Entry> {
    let local = *node.addresses.iter().last()?;
    let encapsulates = network.encapsulation.sending != Sending::Plain && !node.pod_ranges.is_empty();
    let mac = MacAddr::for_tunnel(&local);
    encapsulates.then(|| Entry::Link(Link::Headroom { name: LinkName::headroom(), local, mac }))
}

/// What makes the VXLAN devices take IPv4 packets from pods to which another link leads: the other nodes' senders may
/// follow another mode. The kernel validates IPv4 sources (RFC 3704), and on a link without an address it takes only those
/// that it would send to by the same link, however loose the validation is.
fn acceptance(node: &Node) -> Vec<Entry> {
    let Some(gateway) = node.pod_ranges.v4.map(|range| range.gateway()) else { return Vec::new() };
    let on_link = |address: &IpAddr| {
        let link = tunnel_link(Family::of(address));
        let path = format!("net/ipv4/conf/{link}/rp_filter");
        [Entry::Address { link, net: gateway.into() }, Entry::Sysctl { path, value: "2".to_owned() }]
    };
    node.addresses.iter().flat_map(on_link).collect()
}

/// What makes the node take IP in IP, whatever it sends itself.
fn ipip<'a>(node: &'a Node, underlay: &'a PerFamily<Underlay>) -> impl Iterator<Item = Entry> + use<'a> {
    let uplink = |address: &IpAddr| {
        known(underlay, Family::of(address), *address).ok().map(|on| Entry::TunnelUplink(on.link.clone()))
    };
    node.addresses
        .iter()
        .flat_map(move |address| [Some(Entry::TunnelLocal(*address)), uplink(address)])
        .flatten()
}

/// The VXLAN device of an underlay family.
pub(crate) fn tunnel_link(family: Family) -> LinkName {
    match family {
        Family::V4 => LinkName::vxlan_v4(),
        Family::V6 => LinkName::vxlan_v6(),
    }
}

fn firewall(network: &NetworkConfig, node: &Node) -> Vec<Entry> {
    let vxlan = network.encapsulation.vxlan;
    let table = |family| {
        let gateway = node.pod_ranges.of(family).map(PodRange::gateway);
        Entry::Table(tables::routed(family, &vxlan, gateway))
    };
    let mut entries = vec![Entry::Table(tables::bridged()), table(Family::V4), table(Family::V6)];
    entries.extend(node.pod_ranges.iter().map(|range| prefix(LOCAL_PODS, range)));
    entries.extend(network.pod_ranges.iter().map(|range| prefix(CLUSTER_PODS, range)));
    entries.extend(node.pod_ranges.iter().filter_map(|range| stray(network, range)));
    entries
}

/// Whether a node has what it takes to be reached; notes what is missing, or wrong with it.
pub(crate) fn is_complete(network: &NetworkConfig, node: &Node, problems: &mut Vec<Problem>) -> bool {
    among_services(network, node, problems);
    if node.addresses.is_empty() {
        problems.push(Problem::NoAddress(node.name.clone()));
    }
    if node.pod_ranges.is_empty() {
        problems.push(Problem::NoRange(node.name.clone()));
    }
    !node.addresses.is_empty() && !node.pod_ranges.is_empty()
}

/// Notes ranges of a node that services have. Those of the cluster are checked with the `ClusterNetwork`.
fn among_services(network: &NetworkConfig, node: &Node, problems: &mut Vec<Problem>) {
    for range in node.pod_ranges.iter() {
        let net = range.net();
        let clash = |services: &&IpNet| services.contains(&net) || net.contains(*services);
        problems.extend(network.service_ranges.iter().find(clash).map(|services| Problem::AmongServices {
            node: node.name.clone(),
            range: *range,
            services: *services,
        }));
    }
}

/// The element for a node's range that is outside the cluster's: it is pod traffic all the same.
pub(crate) fn stray(network: &NetworkConfig, range: &PodRange) -> Option<Entry> {
    let known = |known: &PodRange| known.net().contains(&range.net());
    (!network.pod_ranges.iter().any(known)).then(|| prefix(CLUSTER_PODS, range))
}

/// The element for a pod range in a set of the node's table.
pub(crate) fn prefix(set: SetName, range: &PodRange) -> Entry {
    let net: IpNet = range.net();
    Entry::Member(Member { family: range.family().into(), set, key: [Value::Prefix(net)].into() })
}
