//! What the plans of the nodes say of a packet.

mod service;

use std::net::IpAddr;

use model::{Attachment, AttachmentId, LinkName, NodeName};
use plan::{Entry, Facts, Key, Link};
use trace::{End, Hop, Packet, Start, Step, Walk, World, walk};

use super::evidence::{Carried, Predicted, Transport};
use super::sites;
use super::view::{Pod, View};

/// The plans of all nodes, made from what the API holds.
#[derive(Debug)]
pub(super) struct Predictor<'v> {
    view: &'v View,
    world: World,
}

impl<'v> Predictor<'v> {
    pub(super) fn new(view: &'v View) -> Predictor<'v> {
        let facts = |name: &NodeName| {
            let on_node = view.pods.iter().filter(|pod| pod.node == *name);
            let attachments = on_node.map(attachment).collect();
            let underlay = view.topology.underlay(name.as_str());
            let contacts = sites::contacts(&view.sites(), name);
            Facts { attachments, underlay, contacts, ..Facts::default() }
        };
        let world = World::planned(&view.cluster, facts);
        Predictor { view, world: World { gateways: sites::gateways(&view.sites()), ..world } }
    }

    /// What becomes of a packet that a pod sends from an address of its own.
    pub(super) fn sent_by_pod(
        &self,
        pod: &Pod,
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Predicted {
        let start = Start::Pod(pod.node.clone(), attachment(pod).id.host_link());
        self.predict(&start, packet(source, destination, transport, port))
    }

    /// What becomes of a packet that a node sends.
    pub(super) fn sent_by_node(
        &self,
        node: &NodeName,
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Predicted {
        self.predict(&Start::Node(node.clone()), packet(source, destination, transport, port))
    }

    /// What becomes of a packet that a host outside of the cluster sends, if it comes to this node.
    pub(super) fn sent_from_outside(
        &self,
        node: &NodeName,
        source: IpAddr,
        destination: IpAddr,
        transport: Transport,
        port: u16,
    ) -> Predicted {
        self.predict(&Start::Outside { node: node.clone() }, packet(source, destination, transport, port))
    }

    fn predict(&self, start: &Start, packet: Packet) -> Predicted {
        let walk = walk(&self.world, start, packet);
        let steps = walk.hops.iter().map(step_in_words);
        Predicted {
            end: self.end(&walk),
            source: walk.packet.source,
            carried: self.carried(start, &walk),
            steps: steps.collect(),
        }
    }

    fn end(&self, walk: &Walk) -> String {
        match &walk.end {
            End::Pod(node, link) => {
                let is_it = |pod: &&Pod| pod.node == *node && attachment(pod).id.host_link() == *link;
                let pod = self.view.pods.iter().find(is_it);
                pod.map_or_else(|| format!("an unknown pod on {node}"), Pod::full_name)
            }
            End::Node(name) => name.to_string(),
            End::Outside => {
                let machine = self.view.topology.machine_with(&walk.packet.destination);
                machine.map_or_else(|| "outside".to_owned(), |machine| machine.name.clone())
            }
            End::Lost(loss) => format!("nowhere: {loss}"),
        }
    }

    /// How a node's tunnel device carries a packet.
    fn tunnel(&self, node: &NodeName, link: &LinkName, source: IpAddr, destination: IpAddr) -> Carried {
        let plan = self.world.nodes.get(node).map(|(_, plan)| plan);
        let planned = plan.and_then(|plan| plan.entries.get(&Key::Link(link.clone())));
        match planned.map(|planned| &planned.entry) {
            Some(Entry::Link(Link::Vxlan { vni, port, .. })) => {
                Carried::Vxlan { vni: vni.value(), port: port.value(), source, destination }
            }
            _ => Carried::Otherwise,
        }
    }

    fn carried(&self, start: &Start, walk: &Walk) -> Carried {
        let (Start::Pod(begin, _) | Start::Node(begin) | Start::Outside { node: begin }) = start;
        let tunnels = walk.hops.iter().filter_map(|hop| match &hop.step {
            Step::Encapsulated { link, source, destination, .. } => {
                Some(self.tunnel(&hop.node, link, *source, *destination))
            }
            Step::Wrapped { source, destination, .. } => {
                Some(Carried::Ipip { source: *source, destination: *destination })
            }
            _ => None,
        });
        let tunnels: Vec<Carried> = tunnels.collect();
        match (tunnels.as_slice(), &walk.end) {
            ([], End::Pod(node, _) | End::Node(node))
                if node == begin && !matches!(start, Start::Outside { .. }) =>
            {
                Carried::Nowhere
            }
            ([], End::Lost(_)) => Carried::Nowhere,
            ([], _) => Carried::Plain { source: walk.packet.source, destination: walk.packet.destination },
            ([tunnel], _) => *tunnel,
            _ => Carried::Otherwise,
        }
    }
}

/// A step with the node and the object that it comes from.
fn step_in_words(hop: &Hop) -> String {
    match &hop.origin {
        Some(origin) => format!("{}: {} ({origin})", hop.node, hop.step),
        None => format!("{}: {}", hop.node, hop.step),
    }
}

fn packet(source: IpAddr, destination: IpAddr, transport: Transport, port: u16) -> Packet {
    Packet { source, destination, protocol: transport.number(), destination_port: Some(port) }
}

/// A pod's interface. On paper any identifier will do, as long as no two pods have the same.
fn attachment(pod: &Pod) -> Attachment {
    Attachment {
        id: AttachmentId { container_id: pod.full_name(), ifname: "eth0".to_owned() },
        addresses: pod.addresses.iter().copied().collect(),
    }
}
