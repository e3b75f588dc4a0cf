//! How the planned node reaches the others, for people.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, Node, NodeName};

use crate::{Entry, Key, Planner};

/// How packets get to a node's pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// As they are.
    Direct,
    /// In VXLAN.
    Vxlan,
    /// In IP in IP.
    Ipip,
    /// By way of another node, which carries them through a NAT gateway.
    Through(NodeName),
    /// Not at all: there is no route to its pods of this family.
    NoWay(Family),
    /// Not at all: it has no pod range.
    NoRange,
}

impl Planner {
    /// The other nodes, each with how its pods are reached. If that is not the same in both families, it is said of the
    /// one that has no way, or else of IPv4.
    pub fn reach(&self) -> impl Iterator<Item = (&NodeName, Reach)> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.local);
        others.map(|(name, node)| (name, self.reach_of(node)))
    }

    fn reach_of(&self, remote: &Node) -> Reach {
        let of_range = |family: &Family| {
            let range = remote.pod_ranges.of(*family)?;
            Some(self.by_route(remote, &range.net()).unwrap_or(Reach::NoWay(*family)))
        };
        let ways: Vec<Reach> = Family::BOTH.iter().filter_map(of_range).collect();
        let none = ways.iter().find(|way| matches!(way, Reach::NoWay(_)));
        none.or(ways.first()).cloned().unwrap_or(Reach::NoRange)
    }

    /// How the route to a pod range leads there; none if there is no route.
    fn by_route(&self, remote: &Node, range: &IpNet) -> Option<Reach> {
        let entries = &self.entries;
        let Entry::Route(route) = &entries.get(&Key::Route(*range))?.entry else { return None };
        let hop = route.hops.first()?;
        if let Some(Entry::TunnelRoute { route, .. }) =
            entries.get(&Key::TunnelRoute(*range)).map(|planned| &planned.entry)
        {
            return Some(self.by_way_of(remote, &route.outer.destination()).unwrap_or(Reach::Ipip));
        }
        if [LinkName::vxlan_v4(), LinkName::vxlan_v6()].contains(&hop.link) {
            return Some(Reach::Vxlan);
        }
        Some(self.by_way_of(remote, &hop.via).unwrap_or(Reach::Direct))
    }

    /// The node at an address, if that is none of the remote's own.
    fn by_way_of(&self, remote: &Node, address: &IpAddr) -> Option<Reach> {
        let own = remote.addresses.iter().chain(remote.external.iter()).any(|own| own == address);
        if own {
            return None;
        }
        self.node_at(address).filter(|name| **name != remote.name).cloned().map(Reach::Through)
    }
}

#[cfg(test)]
mod tests {
    use model::{Encapsulation, NetworkConfig, PerFamily, Sending, When};

    use super::*;
    use crate::{Input, Underlay};

    fn node(number: u8, subnet: u8, ranges: &[String]) -> Node {
        let name = NodeName::new(format!("node-{number}")).unwrap();
        let address = format!("192.0.{subnet}.{number}");
        Node::parse(name, [address.as_str()], ranges.iter().map(String::as_str)).unwrap()
    }

    fn range(number: u8) -> Vec<String> {
        vec![format!("10.244.{number}.0/24")]
    }

    fn reached(sending: Sending) -> Vec<(String, Reach)> {
        let encapsulation = Encapsulation { sending, ..Encapsulation::default() };
        let network =
            NetworkConfig::parse(&["10.244.0.0/16".to_owned()], &[], encapsulation, "auto").unwrap();
        let mut planner = Planner::new(NodeName::new("node-1").unwrap());
        let underlay = Underlay {
            link: LinkName::new("eth0").unwrap(),
            net: "192.0.2.1/24".parse().unwrap(),
            mtu: 1500,
        };
        planner.update(Input::Network(network));
        planner.update(Input::Underlay(PerFamily { v4: Some(underlay), v6: None }));
        for node in [node(1, 2, &range(1)), node(2, 2, &range(2)), node(3, 3, &range(3)), node(4, 2, &[])] {
            planner.update(Input::Node(node));
        }
        planner.reach().map(|(name, reach)| (name.to_string(), reach)).collect()
    }

    fn expected(near: Reach, far: Reach) -> Vec<(String, Reach)> {
        vec![("node-2".to_owned(), near), ("node-3".to_owned(), far), ("node-4".to_owned(), Reach::NoRange)]
    }

    #[test]
    fn nodes_are_reached_as_the_mode_says() {
        assert_eq!(reached(Sending::Vxlan(When::Always)), expected(Reach::Vxlan, Reach::Vxlan));
        assert_eq!(reached(Sending::Vxlan(When::CrossSubnet)), expected(Reach::Direct, Reach::Vxlan));
        assert_eq!(reached(Sending::Ipip(When::CrossSubnet)), expected(Reach::Direct, Reach::Ipip));
        assert_eq!(reached(Sending::Plain), expected(Reach::Direct, Reach::NoWay(Family::V4)));
    }
}
