//! Who takes part when services are tried.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Endpoint, EndpointPort, EndpointSlice, Family, NodeName, ObjectName, Protocol, Service, ServicePort,
    TrafficPolicy,
};

use super::gather::echo_pods;
use super::pods::NAMESPACE;
use super::sites;
use super::view::{Pod, View};

/// The port of the services' own addresses.
pub(super) const PORT: u16 = 80;
/// How long a client of [`Role::Sticky`] stays with its endpoint, in seconds.
pub(super) const AFFINITY: u32 = 60;

/// What a service is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Has one endpoint, for everybody.
    One,
    /// Has one endpoint, for those that come to its node.
    Local,
    /// Has no endpoint.
    Empty,
    /// Has several endpoints.
    Several,
    /// Has several endpoints, and each client stays with one.
    Sticky,
    /// Has one endpoint, which is behind a NAT gateway if any is.
    Behind,
}

impl Role {
    pub(super) const ALL: [Role; 6] =
        [Role::One, Role::Local, Role::Empty, Role::Several, Role::Sticky, Role::Behind];

    /// The name of its service.
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::One => "one",
            Role::Local => "local",
            Role::Empty => "empty",
            Role::Several => "several",
            Role::Sticky => "sticky",
            Role::Behind => "behind",
        }
    }

    pub(super) fn object(self) -> ObjectName {
        ObjectName::new(NAMESPACE, self.name())
    }

    pub(super) fn policy(self) -> TrafficPolicy {
        if self == Role::Local { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
    }

    /// Its addresses that are no cluster addresses: what a balancer has, and what the administrator says.
    ///
    /// They are of ranges for tests of network devices (RFC 2544, RFC 5180), which are nobody's.
    pub(super) fn balancer_address(self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    pub(super) fn external_address(self, family: Family) -> IpAddr {
        self.address(family, 2)
    }

    fn address(self, family: Family, kind: u8) -> IpAddr {
        let number = self as u8 + 1;
        match family {
            Family::V4 => IpAddr::from([198, 18, kind, number]),
            Family::V6 => IpAddr::from([0x2001, 2, 0, u16::from(kind), 0, 0, 0, u16::from(number)]),
        }
    }
}

/// The ranges of [`Role::balancer_address`] and [`Role::external_address`].
pub(super) fn ranges() -> [IpNet; 2] {
    [
        IpNet::new_assert([198, 18, 0, 0].into(), 15),
        IpNet::new_assert([0x2001u16, 2, 0, 0, 0, 0, 0, 0].into(), 48),
    ]
}

/// The pods that take part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cast<'v> {
    /// The endpoint where there is only one.
    pub(super) endpoint: &'v Pod,
    /// A pod beside it.
    pub(super) beside: &'v Pod,
    /// A pod on another node, if there is another node.
    pub(super) apart: Option<&'v Pod>,
    /// A pod behind a NAT gateway, if there is a gateway.
    pub(super) behind: Option<&'v Pod>,
}

impl<'v> Cast<'v> {
    /// The first pods that fit; `None` if no node has two.
    pub(super) fn of(view: &'v View) -> Option<Cast<'v>> {
        let has_site = |node: &&NodeName| sites::site(view, node).is_some();
        let nodes = view.cluster.nodes.keys().filter(|node| !has_site(node));
        let behind = view.cluster.nodes.keys().filter(has_site).find_map(|node| echo_pods(view, node).next());
        let (endpoint, beside) = nodes.clone().find_map(|node| {
            let mut pods = echo_pods(view, node);
            Some((pods.next()?, pods.next()?))
        })?;
        let apart =
            nodes.filter(|node| **node != endpoint.node).find_map(|node| echo_pods(view, node).next());
        Some(Cast { endpoint, beside, apart, behind })
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &'v Pod> + use<'v> {
        [self.endpoint, self.beside].into_iter().chain(self.apart)
    }

    /// The endpoints of a service.
    pub(super) fn endpoints(&self, role: Role) -> Vec<&'v Pod> {
        match role {
            Role::One | Role::Local => vec![self.endpoint],
            Role::Empty => Vec::new(),
            Role::Several | Role::Sticky => self.pods().collect(),
            Role::Behind => self.behind.into_iter().collect(),
        }
    }

    /// A service's slices: one for each endpoint and family, as endpoints may have different ports.
    pub(super) fn slices(&self, role: Role) -> Vec<EndpointSlice> {
        let slice = |pod: &Pod, address: &IpAddr| {
            let family = Family::of(address);
            let port = pod.port()?;
            let family_name = family.to_string().to_lowercase();
            let name = format!("{}-{}-{}-{family_name}", role.name(), pod.namespace, pod.name);
            Some(EndpointSlice {
                name: ObjectName::new(NAMESPACE, name),
                service: role.name().into(),
                family,
                ports: PROTOCOLS
                    .map(|(name, protocol)| EndpointPort { name: name.into(), protocol, port })
                    .into(),
                endpoints: vec![Endpoint {
                    address: *address,
                    ready: true,
                    serving: true,
                    terminating: false,
                    node: Some(pod.node.clone().into()),
                    zones: Default::default(),
                    nodes: Default::default(),
                }],
            })
        };
        let endpoints = self.endpoints(role);
        endpoints
            .iter()
            .flat_map(|pod| pod.addresses.iter().filter_map(|address| slice(pod, address)))
            .collect()
    }
}

/// The ports that each service has.
pub(super) const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// A service with the addresses and node ports that it has been given.
pub(super) fn service(
    role: Role,
    cluster_addresses: Vec<IpAddr>,
    node_ports: &BTreeMap<Protocol, u16>,
) -> Service {
    let families: Vec<Family> = cluster_addresses.iter().map(Family::of).collect();
    let port = |(name, protocol): (&str, Protocol)| ServicePort {
        name: name.into(),
        protocol,
        port: PORT,
        node_port: node_ports.get(&protocol).copied(),
    };
    Service {
        name: role.object(),
        external_addresses: families.iter().map(|family| role.external_address(*family)).collect(),
        balancer_addresses: families.iter().map(|family| role.balancer_address(*family)).collect(),
        cluster_addresses,
        balancer_sources: Vec::new(),
        ports: PROTOCOLS.map(port).into(),
        internal_policy: role.policy(),
        external_policy: role.policy(),
        affinity: (role == Role::Sticky).then(|| std::time::Duration::from_secs(AFFINITY.into())),
        health_check_port: None,
    }
}
