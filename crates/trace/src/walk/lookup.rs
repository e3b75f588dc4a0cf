//! What a plan says of an address or a link.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, MacAddr, Node, NodeName};
use plan::{Entry, Key, Link, Member, NodePlan, Origin, Route, SetName, TableFamily, Value, ipip};

use super::World;

pub(super) fn entry<'p>(plan: &'p NodePlan, key: &Key) -> Option<&'p Entry> {
    plan.entries.get(key).map(|planned| &planned.entry)
}

/// Whether the node itself has the address: as an underlay address, or on one of our links.
pub(super) fn owns(world: &World, name: &NodeName, plan: &NodePlan, address: &IpAddr) -> bool {
    let underlay = |(node, _): &(Node, NodePlan)| node.addresses.iter().any(|own| own == address);
    let on_link = |key: &Key| matches!(key, Key::Address(_, net) if net.addr() == *address);
    world.nodes.get(name).is_some_and(underlay) || plan.entries.keys().any(on_link)
}

/// The range on one of our links that the address is in.
pub(super) fn connected(plan: &NodePlan, address: &IpAddr) -> Option<(IpNet, LinkName, Option<Origin>)> {
    plan.entries.iter().find_map(|(key, planned)| match key {
        Key::Address(link, net) if net.contains(address) => {
            Some((net.trunc(), link.clone(), Some(planned.origin.clone())))
        }
        _ => None,
    })
}

/// The address of a family on one of our links.
pub(super) fn link_address(plan: &NodePlan, link: &LinkName, family: Family) -> Option<IpAddr> {
    plan.entries.keys().find_map(|key| match key {
        Key::Address(of, net) if of == link && Family::of_net(net) == family => Some(net.addr()),
        _ => None,
    })
}

/// The longest of our routes that matches.
pub(super) fn lookup<'p>(plan: &'p NodePlan, address: &IpAddr) -> Option<(&'p Route, Origin)> {
    let host = IpNet::from(*address);
    (0..=host.prefix_len()).rev().find_map(|length| {
        let net = IpNet::new(*address, length).ok()?.trunc();
        let planned = plan.entries.get(&Key::Route(net))?;
        match &planned.entry {
            Entry::Route(route) => Some((route, planned.origin.clone())),
            _ => None,
        }
    })
}

/// How packets to an address that leave by an uplink go in IP in IP, if they do; the longest prefix counts.
pub(super) fn ipip<'p>(plan: &'p NodePlan, address: &IpAddr) -> Option<(&'p ipip::Route, Origin)> {
    let host = IpNet::from(*address);
    (0..=host.prefix_len()).rev().find_map(|length| {
        let net = IpNet::new(*address, length).ok()?.trunc();
        let planned = plan.entries.get(&Key::TunnelRoute(net))?;
        match &planned.entry {
            Entry::TunnelRoute { route, .. } => Some((route, planned.origin.clone())),
            _ => None,
        }
    })
}

pub(super) fn vxlan(plan: &NodePlan, link: &LinkName) -> Option<(IpAddr, u32, u16, MacAddr)> {
    match entry(plan, &Key::Link(link.clone())) {
        Some(Entry::Link(Link::Vxlan { local, vni, port, mac, .. })) => {
            Some((*local, vni.value(), port.value(), *mac))
        }
        _ => None,
    }
}

/// The members of the bridge table, which say which address and which Ethernet address is behind which port.
fn guard(plan: &NodePlan) -> impl Iterator<Item = (&LinkName, &Value)> {
    let from = Key::Member(Member { family: TableFamily::Bridge, set: SetName(""), key: [].into() });
    plan.entries.range(from..).map_while(|(key, _)| match key {
        Key::Member(member) if member.family == TableFamily::Bridge => match &*member.key {
            [Value::Link(link), value] => Some((link, value)),
            _ => None,
        },
        _ => None,
    })
}

pub(super) fn pod_mac(plan: &NodePlan, port: &LinkName) -> Option<MacAddr> {
    guard(plan).find_map(|(link, value)| match value {
        Value::Mac(mac) if link == port => Some(*mac),
        _ => None,
    })
}

pub(super) fn pod_port(plan: &NodePlan, address: &IpAddr) -> Option<LinkName> {
    guard(plan).find_map(|(link, value)| (*value == Value::Address(*address)).then(|| link.clone()))
}
