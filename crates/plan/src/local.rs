//! What a node needs for itself: bridge, tunnel devices, settings and tables.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Encapsulation, Family, LinkName, MIN_MTU, MacAddr, Mtu, NetworkConfig, Node, NodeFile, PerFamily,
    PodRange,
};

use crate::rules::{SetName, Value};
use crate::tables::{self, CLUSTER_PODS, LOCAL_PODS};
use crate::{Entry, Link, Member, Problem};

/// What VXLAN over IPv4 adds to a packet, in bytes: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, section 5).
pub const ENCAPSULATION_OVERHEAD_V4: u32 = 50;
/// What VXLAN over IPv6 adds to a packet, in bytes: IPv6 40, UDP 8, VXLAN 8, inner Ethernet 14.
pub const ENCAPSULATION_OVERHEAD_V6: u32 = 70;

/// The smallest MTU that IPv4 can use, in bytes (RFC 791: every host must accept 576).
const MIN_MTU_V4: u32 = 576;
/// The MTU of Ethernet, in bytes, where the underlay's is not known yet.
const ETHERNET_MTU: u32 = 1500;

/// The entries of the node itself. `underlay_mtu` is in bytes, by family of the underlay address.
pub(crate) fn local(
    network: &NetworkConfig,
    node: &Node,
    underlay_mtu: &PerFamily<u32>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    if node.addresses.is_empty() {
        problems.push(Problem::NoAddress(node.name.clone()));
    }
    if node.pod_ranges.is_empty() {
        problems.push(Problem::NoRange(node.name.clone()));
    }
    among_services(network, node, problems);
    let mut entries = settings(node);
    entries.extend(bridge(network, node, underlay_mtu, problems));
    entries.extend(tunnels(network, node, underlay_mtu));
    entries.extend(firewall(network, node));
    entries
}

/// The MTU of the node's pods in bytes, and what is wrong with it.
///
/// It is the underlay's less the encapsulation, in the family that the node prefers for its tunnels.
pub fn pod_mtu(
    network: &NetworkConfig,
    node: &Node,
    underlay_mtu: &PerFamily<u32>,
) -> (u32, Option<Problem>) {
    let Some((address, underlay)) = Family::BOTH.into_iter().find_map(|family| {
        let address = node.addresses.of(family)?;
        Some((*address, underlay_mtu.of(family).copied().unwrap_or(ETHERNET_MTU)))
    }) else {
        return (ETHERNET_MTU - ENCAPSULATION_OVERHEAD_V6, None);
    };
    let most = tunnel_mtu(underlay, Family::of(&address));
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
pub fn node_file(network: &NetworkConfig, node: &Node, underlay_mtu: &PerFamily<u32>) -> Option<NodeFile> {
    let pod_ranges: Vec<PodRange> = node.pod_ranges.iter().copied().collect();
    (!pod_ranges.is_empty()).then(|| NodeFile {
        node: node.name.to_string(),
        bridge: LinkName::bridge(),
        mtu: pod_mtu(network, node, underlay_mtu).0,
        pod_ranges,
    })
}

fn tunnel_mtu(underlay: u32, family: Family) -> u32 {
    underlay.saturating_sub(match family {
        Family::V4 => ENCAPSULATION_OVERHEAD_V4,
        Family::V6 => ENCAPSULATION_OVERHEAD_V6,
    })
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
    let mut settings: Vec<Entry> = paths.into_iter().map(|path| setting(path, "1")).collect();
    if node.pod_ranges.v6.is_some() {
        // Until duplicate address detection of its link-local address is over, the bridge cannot ask for neighbours, so
        // a node's first pod could not be reached for up to two seconds.
        settings.push(setting(&format!("net/ipv6/conf/{}/accept_dad", LinkName::bridge()), "0"));
    }
    settings
}

fn bridge(
    network: &NetworkConfig,
    node: &Node,
    underlay_mtu: &PerFamily<u32>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let Some(first) = node.pod_ranges.iter().next() else { return Vec::new() };
    let (mtu, problem) = pod_mtu(network, node, underlay_mtu);
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

fn tunnels(network: &NetworkConfig, node: &Node, underlay_mtu: &PerFamily<u32>) -> Vec<Entry> {
    let Encapsulation::Vxlan(vxlan) = network.encapsulation;
    let device = |address: &IpAddr| {
        let family = Family::of(address);
        let underlay = underlay_mtu.of(family).copied().unwrap_or(ETHERNET_MTU);
        Entry::Link(Link::Vxlan {
            name: tunnel_link(family),
            vni: vxlan.vni,
            port: vxlan.port,
            local: *address,
            mac: MacAddr::for_tunnel(address),
            mtu: tunnel_mtu(underlay, family),
        })
    };
    node.addresses.iter().map(device).collect()
}

/// The VXLAN device of an underlay family.
pub(crate) fn tunnel_link(family: Family) -> LinkName {
    match family {
        Family::V4 => LinkName::vxlan_v4(),
        Family::V6 => LinkName::vxlan_v6(),
    }
}

fn firewall(network: &NetworkConfig, node: &Node) -> Vec<Entry> {
    let Encapsulation::Vxlan(vxlan) = network.encapsulation;
    let mut entries = vec![
        Entry::Table(tables::bridged()),
        Entry::Table(tables::routed(Family::V4, &vxlan)),
        Entry::Table(tables::routed(Family::V6, &vxlan)),
    ];
    entries.extend(node.pod_ranges.iter().map(|range| prefix(LOCAL_PODS, range)));
    entries.extend(network.pod_ranges.iter().map(|range| prefix(CLUSTER_PODS, range)));
    entries.extend(node.pod_ranges.iter().filter_map(|range| stray(network, range)));
    entries
}

/// Notes ranges of a node that services have. Those of the cluster are checked with the `ClusterNetwork`.
pub(crate) fn among_services(network: &NetworkConfig, node: &Node, problems: &mut Vec<Problem>) {
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

fn prefix(set: SetName, range: &PodRange) -> Entry {
    let net: IpNet = range.net();
    Entry::Member(Member { family: range.family().into(), set, key: [Value::Prefix(net)].into() })
}
