//! The part of the planner that is about routes which peers have told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Node, NodeName, PodRange, RouteSource};

use super::{LearnedPath, Told, route};
use crate::planner::Planner;
use crate::way::Ground;
use crate::{Change, Entry, Key, Origin, Planned};

impl Planner {
    /// The paths to a prefix that peers have told, the best first.
    pub fn learned(&self, prefix: &IpNet) -> &[LearnedPath] {
        self.learned.paths(prefix).map(|paths| &**paths).unwrap_or_default()
    }

    /// The prefixes that peers have told.
    pub fn learned_prefixes(&self) -> impl Iterator<Item = &IpNet> {
        self.learned.prefixes()
    }

    /// Whether routes that an earlier run was told by peers have to stay in the kernel, though the plan does not have
    /// them: those of this run are not all known yet. `peers` is whether there are any beside the nodes.
    pub fn retains_learned(&self, peers: bool) -> bool {
        !self.learned.converged && (peers || self.is_routed_by_bgp())
    }

    fn is_routed_by_bgp(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network.route_source == RouteSource::Bgp)
    }

    pub(crate) fn learn(&mut self, prefix: IpNet, paths: Vec<LearnedPath>, change: &mut Change) {
        self.learned.set(prefix, paths);
        self.replan_learned([prefix], change);
    }

    pub(crate) fn converged(&mut self, change: &mut Change) {
        if !std::mem::replace(&mut self.learned.converged, true) && self.is_routed_by_bgp() {
            let told = self.learned.prefixes().filter(|prefix| !self.places.nodes_with(prefix).is_empty());
            self.replan_learned(told.copied().collect::<Vec<_>>(), change);
            self.replan_remotes(change);
        }
    }

    /// After a change of what all ways depend on.
    pub(crate) fn replan_all_learned(&mut self, change: &mut Change) {
        let all: Vec<IpNet> = self.learned.prefixes().copied().collect();
        self.replan_learned(all, change);
    }

    /// After a change of a node from what it was to what it is.
    pub(crate) fn replan_learned_by(&mut self, nodes: [Option<&Node>; 2], change: &mut Change) {
        let mut prefixes = BTreeSet::new();
        for node in nodes.into_iter().flatten() {
            for address in node.addresses.iter() {
                prefixes.extend(self.learned.by_hop(address));
            }
            for range in node.pod_ranges.iter() {
                prefixes.extend(self.learned.within(&range.net()));
            }
        }
        self.replan_learned(prefixes, change);
    }

    /// After a change of the node's own addresses.
    pub(crate) fn replan_learned_at(&mut self, addresses: &[IpAddr], change: &mut Change) {
        let hosts = addresses.iter().map(|address| IpNet::from(*address));
        let told: Vec<IpNet> = hosts.filter(|host| self.learned.paths(host).is_some()).collect();
        self.replan_learned(told, change);
    }

    fn replan_learned(&mut self, prefixes: impl IntoIterator<Item = IpNet>, change: &mut Change) {
        for prefix in prefixes {
            let was_there = self.has_learned(&prefix);
            self.replan_prefix(prefix, change);
            // Until peers have told all, a node's range that none has told is routed by the Node object.
            if self.has_learned(&prefix) != was_there && self.falls_back() {
                for name in self.places.nodes_with(&prefix).to_vec() {
                    self.replan_remote(&name, change);
                }
            }
        }
    }

    /// Whether the Node objects stand in for what peers have not told yet.
    pub(crate) fn falls_back(&self) -> bool {
        self.is_routed_by_bgp() && !self.learned.converged
    }

    /// Whether a pod range is routed because its Node object says so.
    pub(crate) fn is_routed_by_node(&self, range: &PodRange) -> bool {
        !self.is_routed_by_bgp() || (self.falls_back() && !self.has_learned(&range.net()))
    }

    /// Whether a prefix has a route because peers have told of it.
    fn has_learned(&self, prefix: &IpNet) -> bool {
        let planned = self.entries.get(&Key::Route(*prefix));
        planned.is_some_and(|planned| matches!(planned.origin, Origin::Learned(_)))
    }

    fn replan_prefix(&mut self, prefix: IpNet, change: &mut Change) {
        let planned = match (&self.network, self.nodes.get(&self.local), self.learned.paths(&prefix)) {
            // Beyond a NAT gateway a next hop says little: it is seen to who has a tunnel.
            _ if self.is_across(&prefix) || self.is_hearsay(&prefix) => Default::default(),
            (Some(network), Some(local), Some(paths)) => {
                let ground = Ground { network, local, subnets: &self.facts.underlay };
                let own_addresses = &self.facts.addresses;
                let told = Told { prefix, paths, own_addresses, places: &self.places };
                let node_at = |address: &IpAddr| self.nodes.get(self.node_at(address)?);
                route(&ground, &told, node_at)
            }
            _ => Default::default(),
        };
        let (mut entries, refusals) = planned;
        self.learned.refuse(&prefix, refusals);
        let origin = Origin::Learned(prefix);
        // Of a prefix there can be no other entries, so what it had need not be written down.
        for key in [Key::TunnelRoute(prefix), Key::Route(prefix)] {
            match entries.iter().position(|entry| entry.key() == key) {
                Some(place) => {
                    let entry: Entry = entries.swap_remove(place);
                    self.claim(key, Planned { entry, origin: origin.clone() }, change);
                }
                None => self.release(&key, &origin, change),
            }
        }
    }

    /// The name of the node that a next hop is. Those of other sites are none: others may have the same addresses.
    pub fn node_at(&self, next_hop: &IpAddr) -> Option<&NodeName> {
        let own = self.nodes.get(&self.local).and_then(|local| local.site.as_deref());
        let near = |name: &&NodeName| {
            let site = self.nodes.get(*name).and_then(|node| node.site.as_deref());
            site.is_none() || site == own
        };
        self.places.nodes_at(next_hop).iter().find(near)
    }

    /// Whether a prefix is a pod range of a node beyond a NAT gateway.
    fn is_across(&self, prefix: &IpNet) -> bool {
        let Some(local) = self.nodes.get(&self.local) else { return false };
        let nodes = self.places.nodes_with(prefix).iter().filter_map(|name| self.nodes.get(name));
        nodes.into_iter().any(|node| node.site != local.site)
    }

    /// Whether others than the node whose pod range a prefix is tell of it, while the node itself may still do so: what a
    /// reflector passes on is often there first, and may lead by the reflector and back.
    fn is_hearsay(&self, prefix: &IpNet) -> bool {
        let owners = self.places.nodes_with(prefix);
        let own = |path: &LearnedPath| self.node_at(&path.next_hop).is_some_and(|node| owners.contains(node));
        self.falls_back() && !owners.is_empty() && !self.learned(prefix).iter().any(own)
    }
}
