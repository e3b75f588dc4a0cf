//! The plans of all nodes, and what they say of a node's own packets.

use std::net::IpAddr;

use model::{Cluster, Family, NodeName, PodRange, RouteSource};
use plan::{Facts, Input, LearnedPath, NodePlan, Planner};

use super::World;
use super::lookup::{connected, link_address, lookup, owns};

impl World {
    /// Plans every node of a cluster, by what its kernel says of itself. There are no NAT gateways.
    pub fn planned(cluster: &Cluster, facts: impl Fn(&NodeName) -> Facts) -> World {
        let planned = |name: &NodeName| World::plan_of(cluster, name, facts(name));
        let nodes = cluster.nodes.iter().map(|(name, node)| (name.clone(), (node.clone(), planned(name))));
        World { nodes: nodes.collect(), gateways: Vec::new() }
    }

    /// The plan of a node. Where routes come from BGP, every other node has told it of its pod ranges.
    pub fn plan_of(cluster: &Cluster, name: &NodeName, facts: Facts) -> NodePlan {
        match cluster.network.route_source {
            RouteSource::Kubernetes => plan::plan(cluster, name, &facts),
            RouteSource::Bgp => by_bgp(cluster, name, facts),
        }
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
        of_route.or_else(own).or_else(|| object.pod_ranges.of(family).map(PodRange::gateway))
    }
}

fn by_bgp(cluster: &Cluster, name: &NodeName, facts: Facts) -> NodePlan {
    let mut planner = Planner::new(name.clone());
    let others = cluster.nodes.values().filter(|node| node.name != *name);
    let told = others.flat_map(|node| {
        node.pod_ranges.iter().filter_map(|range| {
            let next_hop = *node.addresses.of(range.family()).or(node.addresses.v6.as_ref())?;
            let path = LearnedPath { next_hop, peer: node.name.as_str().into(), stale: false };
            Some(Input::Learned(range.net(), vec![path]))
        })
    });
    let inputs = [Input::Network(cluster.network.clone()), Input::Underlay(facts.underlay)]
        .into_iter()
        .chain([Input::Addresses(facts.addresses), Input::Attachments(facts.attachments)])
        .chain(cluster.nodes.values().cloned().map(Input::Node))
        .chain(cluster.services.values().cloned().map(Input::Service))
        .chain(cluster.slices.values().cloned().map(Input::Slice))
        .chain(told)
        .chain([Input::Heard(facts.contacts.heard)])
        .chain(facts.contacts.others.into_iter().map(|(name, contact)| Input::Contact(name, Some(contact))))
        .chain([Input::Converged]);
    for input in inputs {
        planner.update(input);
    }
    planner.plan()
}
