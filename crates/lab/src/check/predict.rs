//! What the plans of the nodes say of a packet.

mod service;

use std::net::IpAddr;

use model::{Attachment, AttachmentId, Cluster, Family, LinkName, NodeName, PerFamily, RouteSource};
use plan::{Entry, Facts, Input, Key, LearnedPath, Link, NodePlan, Planner, Underlay};
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
        let cluster = &view.cluster;
        let planned = |name: &NodeName| {
            let on_node = view.pods.iter().filter(|pod| pod.node == *name);
            let attachments = on_node.map(attachment).collect();
            let (underlay, contacts) = (underlay(view, name), sites::contacts(view, name));
            let facts = Facts { attachments, underlay, contacts, ..Facts::default() };
            match cluster.network.route_source {
                RouteSource::Kubernetes => plan::plan(cluster, name, &facts),
                RouteSource::Bgp => by_bgp(cluster, name, facts),
            }
        };
        let nodes = cluster.nodes.iter().map(|(name, node)| (name.clone(), (node.clone(), planned(name))));
        Predictor { view, world: World { nodes: nodes.collect(), gateways: sites::gateways(view) } }
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
                let machine = self.view.machine_with(&walk.packet.destination);
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

/// The plan of a node that every other node has told of its pod ranges.
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

/// The links of a node to the underlay, as the lab has laid them.
pub(super) fn underlay(view: &View, node: &NodeName) -> PerFamily<Underlay> {
    let mut underlay = PerFamily::default();
    for interface in view.topology.machine(node.as_str()).into_iter().flat_map(|machine| &machine.interfaces)
    {
        let (Ok(link), Some(subnet)) =
            (LinkName::new(interface.link.as_str()), view.topology.subnets.get(interface.subnet))
        else {
            continue;
        };
        for net in interface.addresses.iter() {
            let family = Family::of_net(net);
            underlay.insert(family, Underlay { link: link.clone(), net: *net, mtu: subnet.mtu });
        }
    }
    underlay
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
