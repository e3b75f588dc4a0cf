//! How packets between pods of two nodes are carried, by the mode and not by any plan.

use std::net::IpAddr;

use model::{Encapsulation, Family, NodeName, Sending, When};

use super::evidence::Carried;
use super::view::View;

/// The mode in a word or two.
pub(super) fn mode(view: &View) -> String {
    let Encapsulation { sending, vxlan } = view.cluster.network.encapsulation;
    match sending {
        Sending::Vxlan(When::Always) => format!("VXLAN {}", vxlan.vni.value()),
        Sending::Vxlan(When::CrossSubnet) => format!("VXLAN {} across subnets", vxlan.vni.value()),
        Sending::Ipip(When::Always) => "IP in IP".to_owned(),
        Sending::Ipip(When::CrossSubnet) => "IP in IP across subnets".to_owned(),
        Sending::Plain => "no encapsulation".to_owned(),
    }
}

/// How a packet between these addresses gets from a node to the pod's.
pub(super) fn between(
    view: &View,
    (from, source): (&NodeName, IpAddr),
    (to, destination): (&NodeName, IpAddr),
) -> Carried {
    if from == to {
        return Carried::Nowhere;
    }
    if is_plain(view, from, to, Family::of(&destination)) {
        return Carried::Plain { source, destination };
    }
    let Encapsulation { sending, vxlan } = view.cluster.network.encapsulation;
    let address = |node: &NodeName, family| {
        view.topology.machine(node.as_str()).and_then(|machine| machine.addresses().of(family).copied())
    };
    let underlay =
        Family::BOTH.into_iter().find_map(|family| Some((address(from, family)?, address(to, family)?)));
    match underlay {
        Some((source, destination)) if matches!(sending, Sending::Ipip(_)) => {
            Carried::Ipip { source, destination }
        }
        Some((source, destination)) => {
            Carried::Vxlan { vni: vxlan.vni.value(), port: vxlan.port.value(), source, destination }
        }
        None => Carried::Otherwise,
    }
}

/// The address with which a node talks to a pod that may be on another node: that of the tunnel and the bridge, or that of
/// the uplink where packets go as they are.
pub(super) fn own_address(view: &View, node: &NodeName, to: &NodeName, family: Family) -> Option<IpAddr> {
    let node_object = view.cluster.nodes.get(node)?;
    let uplink = node_object.addresses.of(family).filter(|_| node != to && is_plain(view, node, to, family));
    uplink.copied().or_else(|| node_object.pod_ranges.of(family).map(model::PodRange::gateway))
}

/// Whether pods' packets of a family go from one node to another as they are.
pub(super) fn is_plain(view: &View, from: &NodeName, to: &NodeName, family: Family) -> bool {
    match view.cluster.network.encapsulation.sending {
        Sending::Vxlan(When::Always) | Sending::Ipip(When::Always) => false,
        Sending::Vxlan(When::CrossSubnet) | Sending::Ipip(When::CrossSubnet) => {
            in_one_subnet(view, from, to, family)
        }
        Sending::Plain => true,
    }
}

/// Whether two nodes have a subnet in common in which packets of a family can go as they are: IPv4 packets can do so
/// by IPv6 next hops, if the nodes have no IPv4 addresses.
pub(super) fn in_one_subnet(view: &View, from: &NodeName, to: &NodeName, family: Family) -> bool {
    let interfaces = |node: &NodeName| {
        let machine = view.topology.machine(node.as_str());
        machine.into_iter().flat_map(|machine| machine.interfaces.iter()).collect::<Vec<_>>()
    };
    let (ours, theirs) = (interfaces(from), interfaces(to));
    let both = |family: Family| {
        let pairs = ours.iter().flat_map(|one| theirs.iter().map(move |other| (one, other)));
        pairs
            .filter(|(one, other)| one.addresses.of(family).is_some() && other.addresses.of(family).is_some())
            .map(|(one, other)| one.subnet == other.subnet)
            .collect::<Vec<_>>()
    };
    match both(family) {
        none if none.is_empty() && family == Family::V4 => both(Family::V6).contains(&true),
        pairs => pairs.contains(&true),
    }
}
