//! The names of a cluster, by address.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::flow::TrackedFlow;
use model::{NodeName, PodRange, Protocol};
use plan::services::ServicePortName;

use super::{NamedFlow, Verdict};
use crate::journey::{EndView, Party, Scene, protocol_name};

/// IP in IP: IPv4 (RFC 2003) and IPv6 (RFC 2473) in either.
const IN_IP: [u8; 2] = [4, 41];

/// Who has which address, and which service is at which port.
#[derive(Debug, Clone, Default)]
pub struct Names {
    parties: HashMap<IpAddr, Party>,
    services: HashMap<(SocketAddr, u8), ServicePortName>,
    node_ports: HashMap<(u16, u8), ServicePortName>,
    /// By their first addresses. They do not overlap.
    ranges: BTreeMap<IpAddr, (PodRange, NodeName)>,
    vxlan_port: u16,
    /// Whether the cluster has the fast path.
    fast_path: bool,
}

impl Names {
    /// The names of all that a cluster has.
    pub fn new(scene: &Scene) -> Names {
        let network = &scene.cluster.network;
        let vxlan_port = network.encapsulation.vxlan.port.value();
        let mut names = Names { vxlan_port, fast_path: network.fast_path, ..Names::default() };
        for (address, party) in scene.holders() {
            names.parties.entry(address).or_insert_with(|| party.party());
        }
        for service in scene.cluster.services.values() {
            for port in &service.ports {
                let name = ServicePortName { service: service.name.clone(), port: port.name.clone() };
                let protocol = port.protocol.number();
                for address in service.addresses() {
                    names.services.insert((SocketAddr::new(*address, port.port), protocol), name.clone());
                }
                if let Some(node_port) = port.node_port {
                    names.node_ports.insert((node_port, protocol), name);
                }
            }
        }
        for node in scene.cluster.nodes.values() {
            let ranges =
                node.pod_ranges.iter().map(|range| (range.net().network(), (*range, node.name.clone())));
            names.ranges.extend(ranges);
        }
        names
    }

    /// A flow that a node tracks, or has tracked until now.
    pub fn name(&self, node: &NodeName, tracked: &TrackedFlow, ended: bool) -> NamedFlow {
        let flow = &tracked.flow;
        let has_ports = Protocol::from_number(flow.protocol).is_some();
        let end = |of: SocketAddr| self.end(node, of.ip(), has_ports.then_some(of.port()));
        let (original, reply) = (&flow.original, &flow.reply);
        let (client, destination) = (end(original.source), end(original.destination));
        let backend = (reply.source != original.destination).then(|| end(reply.source));
        let seen_as = (reply.destination != original.source).then(|| end(reply.destination));
        let verdict = Verdict::of(tracked, ended);
        // What it leaves alone is in docs/fast-path.md.
        let between_pods =
            [&client, backend.as_ref().unwrap_or(&destination)].iter().all(|end| end.kind == "pod");
        let kind = Protocol::from_number(flow.protocol);
        let is_taken =
            matches!(kind, Some(Protocol::Tcp | Protocol::Udp)) && between_pods && seen_as.is_none();
        NamedFlow {
            node: node.clone(),
            id: flow.id,
            zone: flow.zone,
            family: flow.family(),
            protocol: protocol_name(flow.protocol),
            fast_path: self.fast_path && is_taken && verdict.was_established(),
            verdict,
            state: tracked.connection.map(|connection| connection.name),
            service: self.service(&destination, flow.protocol),
            backend,
            seen_as,
            traffic: tracked.counters.map(Into::into),
            begun: tracked.begun,
            tunnel: self.is_tunnel(flow.protocol, &client, &destination),
            client,
            destination,
        }
    }

    /// Whether all addresses of pods and services of the cluster that a flow has belong to somebody who is known. Those of
    /// others have no names here.
    pub fn knows(&self, tracked: &TrackedFlow) -> bool {
        let (original, reply) = (&tracked.flow.original, &tracked.flow.reply);
        let ends = [original.source, original.destination, reply.source, reply.destination];
        ends.iter().all(|end| self.parties.contains_key(&end.ip()) || self.range(end.ip()).is_none())
    }

    fn end(&self, node: &NodeName, address: IpAddr, port: Option<u16>) -> EndView {
        if address.is_loopback() {
            return EndView::of(&Party::Node(node.clone()), address, port);
        }
        match (self.parties.get(&address), self.range(address)) {
            (Some(party), _) => EndView::of(party, address, port),
            // A pod that has come or gone too late to be known.
            (None, Some(node)) => EndView {
                node: Some(node.to_string()),
                kind: "pod",
                name: address.to_string(),
                address,
                port,
            },
            (None, None) => EndView::of(&Party::Outside(address), address, port),
        }
    }

    /// The node whose pods have an address.
    fn range(&self, address: IpAddr) -> Option<&NodeName> {
        let (_, (range, node)) = self.ranges.range(..=address).next_back()?;
        range.net().contains(&address).then_some(node)
    }

    fn service(&self, end: &EndView, protocol: u8) -> Option<ServicePortName> {
        let port = end.port?;
        let at = (SocketAddr::new(end.address, port), protocol);
        let by_node = || self.node_ports.get(&(port, protocol)).filter(|_| end.kind == "node");
        self.services.get(&at).or_else(by_node).cloned()
    }

    fn is_tunnel(&self, protocol: u8, client: &EndView, destination: &EndView) -> bool {
        let by_vxlan = protocol == Protocol::Udp.number() && destination.port == Some(self.vxlan_port);
        let between_nodes = [client, destination].iter().all(|end| end.kind == "node");
        between_nodes && (by_vxlan || IN_IP.contains(&protocol))
    }
}
