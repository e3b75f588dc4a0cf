//! Which addresses of services this node tells BGP peers.
//!
//! A node draws in what it can serve. With `externalTrafficPolicy: Local` that is what has an endpoint on the node, and one
//! that terminates does not count: it is gone before the news of it has spread. Cluster addresses go by
//! `internalTrafficPolicy` in the same way.
//!
//! What no endpoint serves anywhere is not told at all, as in MetalLB (`ShouldAnnounce` in speaker/bgp_controller.go): if
//! another cluster has the same address, clients are to find that one. Calico and Cilium tell it all the same, but they
//! too leave out nodes without endpoints if the policy is Local.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;

use model::{Endpoint, EndpointSlice, Family, Node, ObjectName, Service, ServiceAddresses, TrafficPolicy};

/// The addresses of one service that the node tells.
pub(super) fn announced<'a>(
    node: &Node,
    kinds: ServiceAddresses,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    if kinds.is_empty() {
        return all;
    }
    for family in Family::BOTH {
        let of_family = |address: &&IpAddr| Family::of(address) == family;
        // A service has the families of its cluster addresses, and no others at its other addresses.
        if !service.cluster_addresses.iter().any(|address| of_family(&address)) {
            continue;
        }
        let with_ports =
            slices.clone().filter(move |slice| slice.family == family && !slice.ports.is_empty());
        let endpoints = || with_ports.clone().flat_map(|slice| &slice.endpoints);
        let anywhere = endpoints().any(usable);
        let here = endpoints().any(|endpoint| endpoint.ready && is_on(endpoint, node));
        let served = |policy| match policy {
            TrafficPolicy::Cluster => anywhere,
            TrafficPolicy::Local => here,
        };
        let (internal, external) = (served(service.internal_policy), served(service.external_policy));
        for (addresses, wanted) in [
            (&service.cluster_addresses, kinds.cluster && internal),
            (&service.external_addresses, kinds.external && external),
            (&service.balancer_addresses, kinds.balancer && external),
        ] {
            all.extend(addresses.iter().filter(of_family).filter(|_| wanted));
        }
    }
    all
}

/// Whether it gets connections if no better one is there.
fn usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || (endpoint.serving && endpoint.terminating)
}

fn is_on(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.node.as_ref().is_some_and(|name| **name == node.name)
}

/// The addresses that are told, with the services that have them.
///
/// One that a node of the cluster has is not told: `externalIPs` may name nodes, and a route to them would take the place
/// of the one by which routers reach them.
#[derive(Debug, Default)]
pub(super) struct Announced {
    by_service: BTreeMap<ObjectName, BTreeSet<IpAddr>>,
    counts: BTreeMap<IpAddr, usize>,
    nodes: BTreeMap<IpAddr, usize>,
}

impl Announced {
    /// Puts a service's addresses in the place of those that it had, and `told` right; what is another now goes to
    /// `changes`.
    pub(super) fn replace(
        &mut self,
        service: &ObjectName,
        addresses: BTreeSet<IpAddr>,
        told: &mut BTreeSet<IpAddr>,
        changes: &mut BTreeMap<IpAddr, bool>,
    ) {
        let before = match addresses.is_empty() {
            true => self.by_service.remove(service),
            false => self.by_service.insert(service.clone(), addresses.clone()),
        };
        let before = before.unwrap_or_default();
        addresses.difference(&before).for_each(|address| *self.counts.entry(*address).or_default() += 1);
        before.difference(&addresses).for_each(|address| discount(&mut self.counts, address));
        self.settle(before.symmetric_difference(&addresses), told, changes);
    }

    /// Takes in that a node has come, or has gone.
    pub(super) fn node(
        &mut self,
        node: &Node,
        comes: bool,
        told: &mut BTreeSet<IpAddr>,
        changes: &mut BTreeMap<IpAddr, bool>,
    ) {
        let addresses: BTreeSet<IpAddr> =
            node.addresses.iter().chain(node.external.iter()).copied().collect();
        for address in &addresses {
            match comes {
                true => *self.nodes.entry(*address).or_default() += 1,
                false => discount(&mut self.nodes, address),
            }
        }
        self.settle(addresses.iter(), told, changes);
    }

    fn settle<'a>(
        &self,
        addresses: impl Iterator<Item = &'a IpAddr>,
        told: &mut BTreeSet<IpAddr>,
        changes: &mut BTreeMap<IpAddr, bool>,
    ) {
        for address in addresses {
            let wanted = self.counts.contains_key(address) && !self.nodes.contains_key(address);
            let new = if wanted { told.insert(*address) } else { told.remove(address) };
            if new {
                changes.insert(*address, wanted);
            }
        }
    }
}

fn discount(counts: &mut BTreeMap<IpAddr, usize>, address: &IpAddr) {
    if let btree_map::Entry::Occupied(mut count) = counts.entry(*address) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{node, service, slice};
    use super::*;

    const ALL: ServiceAddresses = ServiceAddresses { cluster: true, external: true, balancer: true };

    /// A service with an address of each kind and family.
    fn web(internal_policy: TrafficPolicy, external_policy: TrafficPolicy) -> Service {
        let addresses = |list: [&str; 2]| list.map(|text| text.parse().unwrap()).into();
        Service {
            external_addresses: addresses(["203.0.113.1", "2001:db8:1::1"]),
            balancer_addresses: addresses(["198.51.100.1", "2001:db8:2::1"]),
            internal_policy,
            external_policy,
            ..service("web", &["10.96.0.1", "fd00:96::1"])
        }
    }

    fn told(kinds: ServiceAddresses, service: &Service, slices: &[EndpointSlice]) -> Vec<String> {
        announced(&node(), kinds, service, slices.iter()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_told_depends_on_the_policy_and_where_endpoints_are() {
        use TrafficPolicy::{Cluster, Local};
        const C: &str = "10.96.0.1";
        const E: &str = "203.0.113.1";
        const B: &str = "198.51.100.1";
        // Policies, endpoints by node and conditions, and what is told.
        type Case<'a> = ((TrafficPolicy, TrafficPolicy), &'a [(&'a str, &'a str)], &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            ((Cluster, Cluster), &[("there", "rs")], &[C, B, E]),
            ((Cluster, Cluster), &[("there", "st")], &[C, B, E]),
            ((Cluster, Cluster), &[("there", "t")], &[]),
            ((Cluster, Cluster), &[], &[]),
            ((Cluster, Local), &[("there", "rs")], &[C]),
            ((Cluster, Local), &[("there", "rs"), ("here", "rs")], &[C, B, E]),
            ((Cluster, Local), &[("there", "rs"), ("here", "st")], &[C]),
            ((Local, Cluster), &[("there", "rs")], &[B, E]),
            ((Local, Local), &[("there", "rs")], &[]),
            ((Local, Local), &[("here", "rs")], &[C, B, E]),
        ];
        for ((internal, external), endpoints, expected) in cases {
            let web = web(*internal, *external);
            let endpoints: Vec<(&str, &str, &str)> =
                endpoints.iter().map(|(node, conditions)| ("10.0.0.1", *node, *conditions)).collect();
            let slices = [slice(&[80], &endpoints)];
            assert_eq!(told(ALL, &web, &slices), *expected, "{internal:?} {external:?} {endpoints:?}");
        }
    }

    #[test]
    fn each_family_goes_by_its_own_endpoints_and_each_kind_by_the_settings() {
        let web = web(TrafficPolicy::Cluster, TrafficPolicy::Cluster);
        let six = [slice(&[80], &[("fd00::1", "there", "rs")])];
        assert_eq!(told(ALL, &web, &six), ["2001:db8:1::1", "2001:db8:2::1", "fd00:96::1"]);
        assert_eq!(
            told(ServiceAddresses { cluster: true, ..ServiceAddresses::default() }, &web, &six),
            ["fd00:96::1"]
        );
        assert_eq!(
            told(ServiceAddresses { external: true, ..ServiceAddresses::default() }, &web, &six),
            ["2001:db8:1::1"]
        );
        assert_eq!(
            told(ServiceAddresses { balancer: true, ..ServiceAddresses::default() }, &web, &six),
            ["2001:db8:2::1"]
        );
        let portless = [slice(&[], &[("10.0.0.1", "here", "rs")])];
        assert_eq!(told(ALL, &web, &portless), Vec::<String>::new());
    }

    #[test]
    fn an_address_is_told_as_long_as_one_service_has_it_and_no_node() {
        let (mut announced, mut told) = (Announced::default(), BTreeSet::new());
        let name = |text: &str| ObjectName::new("shop", text);
        let set =
            |list: &[&str]| -> BTreeSet<IpAddr> { list.iter().map(|text| text.parse().unwrap()).collect() };
        let mut put = |announced: &mut Announced, service: &str, list: &[&str]| {
            let mut changes = BTreeMap::new();
            announced.replace(&name(service), set(list), &mut told, &mut changes);
            changes.iter().map(|(address, comes)| format!("{address} {comes}")).collect::<Vec<_>>()
        };
        assert_eq!(put(&mut announced, "a", &["10.0.0.1", "fd00::1"]), ["10.0.0.1 true", "fd00::1 true"]);
        assert_eq!(put(&mut announced, "b", &["10.0.0.1"]), Vec::<String>::new());
        assert_eq!(put(&mut announced, "a", &["10.0.0.2"]), ["10.0.0.2 true", "fd00::1 false"]);
        assert_eq!(put(&mut announced, "b", &["192.0.2.1"]), ["10.0.0.1 false", "192.0.2.1 true"]);
        let mut changes = BTreeMap::new();
        announced.node(&node(), true, &mut told, &mut changes);
        assert_eq!(changes, [("192.0.2.1".parse().unwrap(), false)].into());
        // A change of the node: it comes anew before it goes.
        announced.node(&node(), true, &mut told, &mut changes);
        announced.node(&node(), false, &mut told, &mut changes);
        assert!(!told.contains(&"192.0.2.1".parse::<IpAddr>().unwrap()));
        announced.node(&node(), false, &mut told, &mut changes);
        assert_eq!(told, set(&["10.0.0.2", "192.0.2.1"]));
    }
}
