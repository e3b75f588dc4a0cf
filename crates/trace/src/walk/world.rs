//! The plans of all nodes, and what they say of a node's own packets.

use std::net::IpAddr;

use model::{Cluster, Family, NodeName};
use plan::Facts;

use super::World;
use super::lookup::{connected, link_address, lookup, owns};

impl World {
    /// Plans every node of a cluster, by what its kernel says of itself.
    pub fn planned(cluster: &Cluster, facts: impl Fn(&NodeName) -> Facts) -> World {
        let planned = |name: &NodeName| plan::plan(cluster, name, &facts(name));
        let nodes = cluster.nodes.iter().map(|(name, node)| (name.clone(), (node.clone(), planned(name))));
        World { nodes: nodes.collect() }
    }

    /// The address that a node takes for what it sends to a destination itself, as the kernel chooses it: that of the
    /// route, or one of the link.
    pub fn source(&self, node: &NodeName, destination: &IpAddr) -> Option<IpAddr> {
        let (object, plan) = self.nodes.get(node)?;
        let family = Family::of(destination);
        if owns(self, node, plan, destination) {
            return Some(*destination);
        }
        if let Some((_, link, _)) = connected(plan, destination) {
            return link_address(plan, &link, family);
        }
        let of_route = lookup(plan, destination).and_then(|(route, _)| route.source);
        let own = || object.addresses.of(family).copied();
        of_route.or_else(own).or_else(|| object.pod_ranges.of(family).map(model::PodRange::gateway))
    }
}
