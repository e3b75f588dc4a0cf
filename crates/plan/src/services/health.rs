//! What load balancers are told that ask a node whether it has endpoints of a service (`healthCheckNodePort`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::{EndpointSlice, Family, Node, ObjectName, PerFamily, Service, TrafficPolicy};

use crate::Problem;

/// How a service stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ObjectName,
    /// How many of its endpoints on this node are ready, in the families that the service has.
    pub local_endpoints: PerFamily<usize>,
}

impl HealthCheck {
    /// How many endpoints a balancer is told that asks over this family. What it asks over need not be what it sends
    /// over, so one that the service does not have is answered with the other's number.
    pub fn endpoints(&self, asked_over: Family) -> usize {
        let local = &self.local_endpoints;
        local.of(asked_over).or_else(|| local.iter().next()).copied().unwrap_or(0)
    }
}

/// The port on which a service is asked for, and the answer; `None` if nobody asks.
///
/// As in kube-proxy (`LocalReadyEndpoints` in pkg/proxy/endpointschangetracker.go) an address counts once, and those
/// that terminate do not count, though they serve while there is no other: new clients should go elsewhere.
pub(super) fn health_check<'a>(
    node: &Node,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> Option<(u16, HealthCheck)> {
    let port = service.health_check_port?;
    if service.external_policy != TrafficPolicy::Local {
        return None;
    }
    let here = |family| {
        let slices = slices.clone().filter(move |slice| slice.family == family && !slice.ports.is_empty());
        let ready = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
            endpoint.ready && endpoint.node.as_ref().is_some_and(|name| **name == node.name)
        });
        ready.map(|endpoint| endpoint.address).collect::<BTreeSet<IpAddr>>().len()
    };
    let mut local_endpoints = PerFamily::default();
    for family in Family::BOTH {
        if service.cluster_addresses.iter().any(|address| Family::of(address) == family) {
            local_endpoints.insert(family, here(family));
        }
    }
    Some((port, HealthCheck { service: service.name.clone(), local_endpoints }))
}

/// The health checks of all services. Of several on one port the first by name counts, on every node the same.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    by_port: BTreeMap<u16, BTreeMap<ObjectName, HealthCheck>>,
    ports: BTreeMap<ObjectName, u16>,
}

impl HealthChecks {
    /// Puts a service's check in the place of the one that it had, and `answers` right.
    pub(super) fn replace(
        &mut self,
        service: &ObjectName,
        check: Option<(u16, HealthCheck)>,
        answers: &mut BTreeMap<u16, HealthCheck>,
    ) {
        let before = match &check {
            Some((port, _)) => self.ports.insert(service.clone(), *port),
            None => self.ports.remove(service),
        };
        let after = check.as_ref().map(|(port, _)| *port);
        if let Some(port) = before
            && let Some(checks) = self.by_port.get_mut(&port)
        {
            checks.remove(service);
        }
        if let Some((port, check)) = check {
            self.by_port.entry(port).or_default().insert(service.clone(), check);
        }
        for port in before.into_iter().chain(after) {
            match self.by_port.get(&port).and_then(|checks| checks.values().next()) {
                Some(first) => answers.insert(port, first.clone()),
                None => {
                    self.by_port.remove(&port);
                    answers.remove(&port)
                }
            };
        }
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.by_port.iter().flat_map(|(port, checks)| {
            let winner = checks.keys().next();
            checks.keys().skip(1).zip(winner.into_iter().cycle()).map(|(loser, winner)| {
                Problem::HealthPortConflict { port: *port, winner: winner.clone(), loser: loser.clone() }
            })
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use model::{Endpoint, EndpointPort, NodeName, Protocol};

    use super::*;

    pub(in crate::services) fn node() -> Node {
        let name = NodeName::new("here").unwrap();
        Node::parse(name, ["192.0.2.1", "2001:db8::1"], ["10.244.0.0/24", "fd00:10:244::/64"]).unwrap()
    }

    pub(in crate::services) fn service(name: &str, addresses: &[&str]) -> Service {
        Service {
            name: ObjectName::new("shop", name),
            cluster_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            external_addresses: Vec::new(),
            balancer_addresses: Vec::new(),
            balancer_sources: Vec::new(),
            ports: Vec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Local,
            affinity: None,
            health_check_port: Some(32000),
        }
    }

    /// Endpoints by address, node, and whether they are `r`eady, `s`erving, `t`erminating.
    pub(in crate::services) fn slice(ports: &[u16], endpoints: &[(&str, &str, &str)]) -> EndpointSlice {
        let endpoint = |(address, node, conditions): &(&str, &str, &str)| Endpoint {
            address: address.parse().unwrap(),
            ready: conditions.contains('r'),
            serving: conditions.contains('s'),
            terminating: conditions.contains('t'),
            node: Some(Arc::new(NodeName::new(*node).unwrap())),
            zones: Arc::new([]),
            nodes: Arc::new([]),
        };
        let port = |port: &u16| EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: *port };
        let endpoints: Vec<Endpoint> = endpoints.iter().map(endpoint).collect();
        EndpointSlice {
            name: ObjectName::new("shop", "web-1"),
            service: "web".into(),
            family: endpoints.first().map_or(Family::V4, |endpoint| Family::of(&endpoint.address)),
            ports: ports.iter().map(port).collect(),
            endpoints,
        }
    }

    fn local(service: &Service, slices: &[EndpointSlice]) -> PerFamily<usize> {
        health_check(&node(), service, slices.iter()).unwrap().1.local_endpoints
    }

    #[test]
    fn addresses_that_are_ready_here_count_once() {
        let slices = [
            slice(
                &[80, 443],
                &[
                    ("10.0.0.1", "here", "rs"),
                    ("10.0.0.2", "there", "rs"),
                    ("10.0.0.3", "here", "st"),
                    ("10.0.0.4", "here", ""),
                ],
            ),
            slice(&[80], &[("10.0.0.1", "here", "rs"), ("10.0.0.5", "here", "rs")]),
            slice(&[80], &[("fd00::1", "here", "rs")]),
            slice(&[], &[("10.0.0.6", "here", "rs")]),
        ];
        let both = service("web", &["10.96.0.1", "fd00:96::1"]);
        assert_eq!(local(&both, &slices), PerFamily { v4: Some(2), v6: Some(1) });
        let one = service("web", &["fd00:96::1"]);
        assert_eq!(local(&one, &slices), PerFamily { v4: None, v6: Some(1) });
    }

    #[test]
    fn a_family_that_the_service_has_not_is_answered_with_the_other() {
        let check = |v4, v6| HealthCheck {
            service: ObjectName::new("shop", "web"),
            local_endpoints: PerFamily { v4, v6 },
        };
        let asked = |check: HealthCheck| Family::BOTH.map(|family| check.endpoints(family));
        assert_eq!(asked(check(Some(2), Some(0))), [2, 0]);
        assert_eq!(asked(check(None, Some(3))), [3, 3]);
        assert_eq!(asked(check(Some(3), None)), [3, 3]);
    }

    #[test]
    fn nobody_asks_for_a_service_whose_traffic_goes_everywhere() {
        let mut everywhere = service("web", &["10.96.0.1"]);
        everywhere.external_policy = TrafficPolicy::Cluster;
        assert_eq!(health_check(&node(), &everywhere, [].iter()), None);
        let unasked = Service { health_check_port: None, ..service("web", &["10.96.0.1"]) };
        assert_eq!(health_check(&node(), &unasked, [].iter()), None);
    }

    #[test]
    fn of_two_services_on_one_port_the_first_has_it() {
        let (mut checks, mut answers) = (HealthChecks::default(), BTreeMap::new());
        let mut put = |checks: &mut HealthChecks, name: &str, port: Option<u16>| {
            let service = Service { health_check_port: port, ..service(name, &["10.96.0.1"]) };
            checks.replace(&service.name, health_check(&node(), &service, [].iter()), &mut answers);
            answers.iter().map(|(port, check)| format!("{port} {}", check.service.name)).collect::<Vec<_>>()
        };
        assert_eq!(put(&mut checks, "b", Some(32000)), ["32000 b"]);
        assert_eq!(checks.problems().count(), 0);
        assert_eq!(put(&mut checks, "a", Some(32000)), ["32000 a"]);
        assert_eq!(put(&mut checks, "c", Some(32000)), ["32000 a"]);
        let problems: Vec<String> = checks.problems().map(|problem| problem.to_string()).collect();
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("Service shop/b and Service shop/a"), "{problems:?}");
        assert_eq!(put(&mut checks, "a", Some(32001)), ["32000 b", "32001 a"]);
        assert_eq!(put(&mut checks, "b", None), ["32000 c", "32001 a"]);
        assert_eq!(put(&mut checks, "c", None), ["32001 a"]);
        assert_eq!(put(&mut checks, "a", None), Vec::<String>::new());
        assert_eq!(checks.problems().count(), 0);
    }
}
