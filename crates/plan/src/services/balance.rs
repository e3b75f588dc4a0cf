//! What one service adds to the plan.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{EndpointSlice, Family, Node, Service, ServicePort, TrafficPolicy};

use super::choose::{Candidate, any_usable, choose};
use super::{Backend, Balancer, Frontend, ServicePortName, Target};

/// What a service is planned for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    /// The node's addresses that accept node ports.
    pub(super) node_addresses: &'a [IpAddr],
}

/// The frontends of a service, and what becomes of connections to them.
pub(super) fn balance<'a>(
    place: Place<'_>,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> Vec<(Frontend, Balancer)> {
    let mut all = Vec::new();
    for port in &service.ports {
        for family in Family::BOTH {
            let name =
                || Arc::new(ServicePortName { service: service.name.clone(), port: port.name.clone() });
            let addresses = Addresses::of(place, service, port, family);
            // A service has the families of its cluster addresses, and no others at its other addresses.
            if !addresses.cluster.is_empty() {
                let candidates = candidates(port, family, slices.clone());
                all.extend(addresses.balance(place.node, service, port, &name(), &candidates));
            }
        }
    }
    all
}

/// The addresses of one family at which a port of a service is reached.
struct Addresses {
    cluster: Vec<IpAddr>,
    external: Vec<IpAddr>,
    balancer: Vec<IpAddr>,
    node: Vec<IpAddr>,
}

impl Addresses {
    fn of(place: Place<'_>, service: &Service, port: &ServicePort, family: Family) -> Addresses {
        let of_family = |list: &[IpAddr]| {
            list.iter().copied().filter(|address| Family::of(address) == family).collect::<Vec<_>>()
        };
        Addresses {
            cluster: of_family(&service.cluster_addresses),
            external: of_family(&service.external_addresses),
            balancer: of_family(&service.balancer_addresses),
            node: port.node_port.map_or_else(Vec::new, |_| of_family(place.node_addresses)),
        }
    }

    fn balance(
        &self,
        node: &Node,
        service: &Service,
        port: &ServicePort,
        name: &Arc<ServicePortName>,
        candidates: &[Candidate<'_>],
    ) -> Vec<(Frontend, Balancer)> {
        let any = any_usable(candidates);
        let target = |policy| target(choose(candidates, node, policy), any);
        let (everywhere, here) = (target(TrafficPolicy::Cluster), target(TrafficPolicy::Local));
        let internal = match service.internal_policy {
            TrafficPolicy::Cluster => &everywhere,
            TrafficPolicy::Local => &here,
        };
        let outside = match service.external_policy {
            TrafficPolicy::Cluster => None,
            TrafficPolicy::Local => Some(&here),
        };
        let lingering = lingering(candidates);
        let affinity = service.affinity.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1));
        let balancer = |target: &Target, outside: Option<&Target>, exposed| Balancer {
            service: name.clone(),
            target: target.clone(),
            outside: outside.cloned(),
            exposed,
            affinity,
            sources: None,
            lingering: lingering.clone(),
        };
        let at =
            |address: &IpAddr, number| Frontend { address: *address, protocol: port.protocol, port: number };
        let mut all: Vec<(Frontend, Balancer)> = Vec::new();
        all.extend(
            self.cluster.iter().map(|address| (at(address, port.port), balancer(internal, None, false))),
        );
        let exposed = balancer(&everywhere, outside, true);
        all.extend(self.external.iter().map(|address| (at(address, port.port), exposed.clone())));
        all.extend(self.balancer.iter().map(|address| {
            let sources = sources(&service.balancer_sources, Family::of(address));
            (at(address, port.port), Balancer { sources, ..exposed.clone() })
        }));
        if let Some(node_port) = port.node_port {
            all.extend(self.node.iter().map(|address| (at(address, node_port), exposed.clone())));
        }
        all
    }
}

/// Of a list that names no source of a family, none of that family is let in: a list is there to shut others out.
fn sources(ranges: &[IpNet], family: Family) -> Option<Arc<[IpNet]>> {
    (!ranges.is_empty()).then(|| {
        IpNet::aggregate(&ranges.to_vec()).into_iter().filter(|net| Family::of_net(net) == family).collect()
    })
}

fn target(chosen: Vec<Candidate<'_>>, any: bool) -> Target {
    if chosen.is_empty() {
        return if any { Target::Drop } else { Target::Refuse };
    }
    Target::Backends(backends(chosen.iter()))
}

/// The endpoints that serve while they terminate.
fn lingering(candidates: &[Candidate<'_>]) -> Arc<[Backend]> {
    let going = |Candidate { endpoint, .. }: &&Candidate<'_>| endpoint.serving && endpoint.terminating;
    backends(candidates.iter().filter(going))
}

/// Sorted, so that the same endpoints are the same plan; one that two slices have counts once.
fn backends<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> Arc<[Backend]> {
    let backend =
        |candidate: &Candidate<'_>| Backend { address: candidate.endpoint.address, port: candidate.port };
    let mut backends: Vec<Backend> = candidates.map(backend).collect();
    backends.sort_unstable();
    backends.dedup();
    backends.into()
}

/// The endpoints of a port. An endpoint may be in two slices while it moves from one to the other.
fn candidates<'a>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let here = slice.ports.iter().filter(|each| each.name == port.name && each.protocol == port.protocol);
        for endpoint_port in here {
            let with_port = |endpoint| Candidate { endpoint, port: endpoint_port.port };
            all.extend(slice.endpoints.iter().map(with_port));
        }
    }
    all
}
