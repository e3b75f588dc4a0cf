//! Connections to services: which are tried, and what the rows of the network model say of them, whatever the plans say.

use std::net::{IpAddr, SocketAddr};

use model::{Family, NodeName, Service, TrafficPolicy};

use super::cast::{Cast, PORT, Role};
use super::evidence::{Aspect, Carried, Fate, Leg, Party, Path, Row, Target, Transport};
use super::gather::{echo_pods, machine_party, pod_party};
use super::sites;
use super::view::{Pod, View};
use super::ways::{between, own_address};
use crate::topology::{self, Machine};

/// How often a client connects, so that each of three endpoints has its turn: one is left out in one of 300,000 checks.
const OFTEN: usize = 34;
/// How often a client connects that stays with its endpoint.
const AGAIN: usize = 8;
/// A port that no service has.
const UNUSED: u16 = 9;

/// A connection that is to be tried.
#[derive(Debug, Clone)]
pub(super) struct Case<'v> {
    pub(super) client: Client<'v>,
    pub(super) target: Target,
    pub(super) aspect: Aspect,
    pub(super) transport: Transport,
    pub(super) fate: Fate,
    pub(super) times: usize,
    pub(super) row: Row,
    /// The address that the client takes, if it is not its first.
    pub(super) source: Option<IpAddr>,
}

/// Who connects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client<'v> {
    /// A pod.
    Pod(&'v Pod),
    /// A node.
    Node(&'v NodeName),
    /// A host outside of the cluster, whose packets come to this node.
    Outside(&'v Machine, &'v NodeName),
}

impl<'v> Client<'v> {
    /// The row that is about connections of such a client.
    /// The node that its packets come to first.
    fn node(self) -> &'v NodeName {
        match self {
            Client::Pod(pod) => &pod.node,
            Client::Node(node) | Client::Outside(_, node) => node,
        }
    }

    pub(super) fn party(self, view: &View, family: Family) -> Option<Party> {
        match self {
            Client::Pod(pod) => Some(pod_party(pod, *pod.addresses.of(family)?)),
            Client::Node(node) => Some(machine_party(node.as_str(), node_address(view, node, family)?)),
            Client::Outside(host, _) => Some(machine_party(&host.name, *host.addresses().of(family)?)),
        }
    }
}

/// A kind of address of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address<'v> {
    Cluster,
    Balancer,
    External,
    /// A port of this node.
    Node(&'v NodeName),
}

/// The cases of a lab, of one row.
pub(super) fn cases<'v>(view: &'v View, cast: &Cast<'v>, row: Row) -> Vec<Case<'v>> {
    let stage = Stage { view, cast: *cast };
    let all = match row {
        Row::Service => stage.inside(),
        Row::BehindNat => return across(view, cast),
        _ => stage.outside(),
    };
    let both = |family| Transport::BOTH.map(|transport| (family, transport));
    let ways: Vec<(Family, Transport)> = view.families().into_iter().flat_map(both).collect();
    all.iter()
        .flat_map(|plot| ways.iter().filter_map(|(family, transport)| stage.case(plot, *family, *transport)))
        .collect()
}

/// A case in each family and by each transport.
struct Plot<'v> {
    client: Client<'v>,
    role: Role,
    at: Address<'v>,
    aspect: Aspect,
    times: usize,
}

struct Stage<'v> {
    view: &'v View,
    cast: Cast<'v>,
}

impl<'v> Stage<'v> {
    /// Pods and nodes connect.
    fn inside(&self) -> Vec<Plot<'v>> {
        let nodes = self.nodes();
        let pods = self.cast.pods().map(Client::Pod);
        let mut all = Vec::new();
        for client in pods.chain(nodes.iter().map(|node| Client::Node(node))) {
            let own = client.node();
            // Its own node, and another one.
            let other = nodes.iter().copied().find(|node| *node != own);
            let mut addresses =
                vec![Address::Cluster, Address::Balancer, Address::External, Address::Node(own)];
            addresses.extend(other.map(Address::Node));
            let itself =
                matches!(client, Client::Pod(pod) if pod.full_name() == self.cast.endpoint.full_name());
            let aspect = if itself { Aspect::Itself } else { Aspect::Answer };
            let plot = |role, at, aspect, times| Plot { client, role, at, aspect, times };
            all.extend(addresses.iter().map(|at| plot(Role::One, *at, aspect, 1)));
            all.extend(addresses.iter().map(|at| plot(Role::Local, *at, Aspect::Local, 1)));
            all.extend(addresses.iter().take(4).map(|at| plot(Role::Empty, *at, Aspect::Refusal, 1)));
        }
        let one_of_each = [Client::Pod(self.cast.beside), Client::Node(&self.cast.endpoint.node)];
        for client in one_of_each.into_iter().chain(self.cast.apart.map(Client::Pod)) {
            let plot = |role, aspect, times| Plot { client, role, at: Address::Cluster, aspect, times };
            all.push(plot(Role::Several, Aspect::Share, OFTEN));
            all.push(plot(Role::Sticky, Aspect::Affinity, AGAIN));
        }
        all
    }

    /// A host outside connects, through each node.
    fn outside(&self) -> Vec<Plot<'v>> {
        let Some(host) = self.view.topology.of_role(topology::Role::Outside).next() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for node in self.nodes() {
            let client = Client::Outside(host, node);
            let addresses = [Address::Node(node), Address::Balancer, Address::External, Address::Cluster];
            let plot = |role, at, aspect, times| Plot { client, role, at, aspect, times };
            all.extend(addresses.map(|at| plot(Role::One, at, Aspect::Answer, 1)));
            all.extend(addresses.map(|at| plot(Role::Local, at, Aspect::Local, 1)));
            all.extend(addresses.map(|at| plot(Role::Empty, at, Aspect::Refusal, 1)));
        }
        let client = Client::Outside(host, &self.cast.endpoint.node);
        let at = Address::Node(&self.cast.endpoint.node);
        all.push(Plot { client, role: Role::Several, at, aspect: Aspect::Share, times: OFTEN });
        all.push(Plot { client, role: Role::Sticky, at, aspect: Aspect::Affinity, times: AGAIN });
        all
    }

    /// The nodes that take part: those of the pods, and one more if there is one.
    fn nodes(&self) -> Vec<&'v NodeName> {
        let mut nodes: Vec<&NodeName> = Vec::new();
        // Nobody can open a connection to a node beyond a gateway.
        let near = |node: &&NodeName| !sites::across(self.view, node, &self.cast.endpoint.node);
        let all = self.cast.pods().map(|pod| &pod.node).chain(self.view.cluster.nodes.keys());
        for node in all.filter(near) {
            if nodes.len() < 3 && !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    fn service(&self, role: Role) -> Option<&'v Service> {
        self.view.cluster.services.get(&role.object())
    }

    fn case(&self, plot: &Plot<'v>, family: Family, transport: Transport) -> Option<Case<'v>> {
        let Plot { client, role, at, aspect, times } = *plot;
        let service = self.service(role)?;
        let port = service.ports.iter().find(|port| port.protocol.number() == transport.number())?;
        let of_family =
            |addresses: &[IpAddr]| addresses.iter().copied().find(|one| Family::of(one) == family);
        let (kind, address, port) = match at {
            Address::Cluster => ("cluster address", of_family(&service.cluster_addresses)?, port.port),
            Address::Balancer => ("balancer address", of_family(&service.balancer_addresses)?, port.port),
            Address::External => ("external address", of_family(&service.external_addresses)?, port.port),
            Address::Node(node) => ("node port", node_address(self.view, node, family)?, port.node_port?),
        };
        let through = match client {
            Client::Outside(_, node) => Some(node.to_string()),
            _ => None,
        };
        Some(Case {
            client,
            target: Target {
                name: format!("{kind} of {}", role.name()),
                address: SocketAddr::new(address, port),
                through,
            },
            aspect,
            transport,
            fate: self.fate(client, at, role, address)?,
            times,
            row: match client {
                Client::Pod(_) | Client::Node(_) => Row::Service,
                Client::Outside(..) => Row::Inbound,
            },
            source: None,
        })
    }

    /// What the rows say of a connection to an address of a service.
    fn fate(&self, client: Client<'v>, at: Address<'v>, role: Role, address: IpAddr) -> Option<Fate> {
        let family = Family::of(&address);
        let own = client.party(self.view, family)?;
        let first = client.node();
        // Where it is translated, and how it comes there.
        let (node, source, legs) = match (client, at) {
            (Client::Outside(host, _), _) => {
                let carried = Carried::Plain { source: own.address, destination: address };
                let leg = Leg::new(&host.name, first, carried);
                (first, Source::Stranger(own.address), vec![leg])
            }
            (_, Address::Node(node)) if node != first => {
                let source = node_address(self.view, first, family)?;
                let carried = Carried::Plain { source, destination: address };
                (node, Source::Stranger(source), vec![Leg::new(first, node, carried)])
            }
            (Client::Pod(pod), _) => (first, Source::Pod(pod), Vec::new()),
            (Client::Node(_), _) => (first, Source::Node, Vec::new()),
        };
        let stranger = matches!(source, Source::Stranger(_));
        // In the cluster a service's outer addresses are as good as its cluster address under the policy Cluster.
        let local = role.policy() == TrafficPolicy::Local && (at == Address::Cluster || stranger);
        let endpoints = self.cast.endpoints(role);
        if endpoints.is_empty() {
            return Some(Fate::Refused { legs });
        }
        let usable: Vec<&&Pod> = endpoints.iter().filter(|pod| !local || pod.node == *node).collect();
        if usable.is_empty() {
            return Some(Fate::Silent { legs });
        }
        let path = |pod: &&&Pod| {
            let address = *pod.addresses.of(family)?;
            let source = match source {
                Source::Pod(client) if client.full_name() != pod.full_name() => own.address,
                Source::Stranger(address) if local && at != Address::Cluster => address,
                _ => own_address(self.view, node, &pod.node, family)?,
            };
            let mut legs = legs.clone();
            match between(self.view, (node, source), (&pod.node, address)) {
                Carried::Nowhere => {}
                carried => legs.push(Leg::new(node, &pod.node, carried)),
            }
            Some(Path { by: pod.full_name(), source, legs })
        };
        let paths: Option<Vec<Path>> = usable.iter().map(path).collect();
        Some(Fate::answered(paths?))
    }
}

/// Row 10: a pod of each node, and the node itself, connect to a pod of each node beyond a gateway, and by services.
fn across<'v>(view: &'v View, cast: &Cast<'v>) -> Vec<Case<'v>> {
    let nodes: Vec<&NodeName> = view.cluster.nodes.keys().collect();
    let pod_of = |node: &NodeName| echo_pods(view, node).next();
    let behind = cast.endpoints(Role::Behind);
    let mut all = Vec::new();
    for from in &nodes {
        let clients = pod_of(from).map(Client::Pod).into_iter().chain([Client::Node(from)]);
        for (client, family) in
            clients.flat_map(|client| view.families().into_iter().map(move |family| (client, family)))
        {
            let mut targets = Vec::new();
            for to in nodes.iter().filter(|to| sites::across(view, from, to)) {
                targets.extend(pod_of(to).and_then(|pod| {
                    // A node takes its address to pods.
                    let own = view.cluster.nodes.get(*from)?.pod_ranges.of(family)?.gateway();
                    let source = matches!(client, Client::Node(_)).then_some(own);
                    Some((pod.full_name(), *pod.addresses.of(family)?, pod.port()?, pod, source))
                }));
            }
            for role in [Role::One, Role::Behind] {
                let endpoint = if role == Role::One { Some(cast.endpoint) } else { behind.first().copied() };
                let Some(pod) = endpoint.filter(|pod| sites::across(view, from, &pod.node)) else { continue };
                let addresses =
                    view.cluster.services.get(&role.object()).map(|service| &service.cluster_addresses);
                let address = addresses.into_iter().flatten().find(|address| Family::of(address) == family);
                let name = format!("cluster address of {}", role.name());
                targets.extend(address.map(|address| (name, *address, PORT, pod, None)));
            }
            for (name, address, port, pod, source) in targets {
                let Some(fate) = across_fate(view, client, family, pod) else { continue };
                let target = Target { name, address: SocketAddr::new(address, port), through: None };
                all.extend(Transport::BOTH.map(|transport| Case {
                    client,
                    target: target.clone(),
                    aspect: Aspect::Answer,
                    transport,
                    fate: fate.clone(),
                    times: 1,
                    row: Row::BehindNat,
                    source,
                }));
            }
        }
    }
    all
}

fn across_fate(view: &View, client: Client<'_>, family: Family, pod: &Pod) -> Option<Fate> {
    let node = client.node();
    let source = match client {
        Client::Pod(pod) => *pod.addresses.of(family)?,
        _ => view.cluster.nodes.get(node)?.pod_ranges.of(family)?.gateway(),
    };
    let destination = *pod.addresses.of(family)?;
    let ways = sites::ways(view, (node, source), (&pod.node, destination));
    Some(Fate::answered(ways.into_iter().map(|legs| Path { by: pod.full_name(), source, legs })))
}

/// What a connection comes from where it is translated.
#[derive(Clone, Copy)]
enum Source<'v> {
    Pod(&'v Pod),
    /// The node itself.
    Node,
    /// Anybody else, under this address.
    Stranger(IpAddr),
}

/// Cases of what no service has: an address of the service ranges, and a port of an address that is a service's.
pub(super) fn unserved<'v>(view: &'v View, cast: &Cast<'v>, row: Row) -> Vec<Case<'v>> {
    let stage = Stage { view, cast: *cast };
    let host = view.topology.of_role(topology::Role::Outside).next();
    let clients: Vec<Client<'v>> = match row {
        Row::Service => vec![Client::Pod(cast.beside), Client::Node(&cast.endpoint.node)],
        _ => host.into_iter().map(|host| Client::Outside(host, &cast.endpoint.node)).collect(),
    };
    let mut all = Vec::new();
    for client in clients {
        for family in view.families() {
            let served = stage.service(Role::One).map(|service| service.cluster_addresses.clone());
            let served = served.into_iter().flatten().find(|address| Family::of(address) == family);
            let ranges = view.cluster.network.service_ranges.iter();
            let free = ranges.filter(|range| Family::of_net(range) == family).find_map(last_address);
            let targets = [("unused port", served, UNUSED), ("unused address", free, PORT)];
            for (name, address, port) in targets {
                let (Some(address), Some(own)) = (address, client.party(view, family)) else { continue };
                let (legs, through) = match client {
                    Client::Outside(host, node) => {
                        let carried = Carried::Plain { source: own.address, destination: address };
                        let leg = Leg::new(&host.name, node, carried);
                        (vec![leg], Some(node.to_string()))
                    }
                    _ => (Vec::new(), None),
                };
                all.extend(Transport::BOTH.map(|transport| Case {
                    client,
                    target: Target {
                        name: name.to_owned(),
                        address: (address, port).into(),
                        through: through.clone(),
                    },
                    aspect: Aspect::Refusal,
                    transport,
                    fate: Fate::Refused { legs: legs.clone() },
                    times: 1,
                    row,
                    source: None,
                }));
            }
        }
    }
    all
}

/// The last address of a range that can be a service's: they are given from the first on.
fn last_address(range: &ipnet::IpNet) -> Option<IpAddr> {
    match range {
        ipnet::IpNet::V4(net) => net.hosts().next_back().map(IpAddr::V4),
        ipnet::IpNet::V6(net) => Some(IpAddr::V6(net.broadcast())),
    }
}

fn node_address(view: &View, node: &NodeName, family: Family) -> Option<IpAddr> {
    view.cluster.nodes.get(node)?.addresses.of(family).copied()
}
