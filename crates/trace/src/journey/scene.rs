//! The cluster that packets are sent through on paper.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Cluster, Family, LinkName, Node, NodeName, PerFamily, Pod, RouteSource};
use plan::site::Contacts;
use plan::{Facts, NodePlan, Underlay};

use crate::{End, Gateway, Hop, Outcome, Packet, Start, Step, World, walk_all};

/// The MTU of Ethernet, in bytes.
const ETHERNET_MTU: u32 = 1500;
/// The lengths of the prefixes that subnets are taken to have where nobody says.
const SUBNETS: PerFamily<u8> = PerFamily { v4: Some(24), v6: Some(64) };

/// The cluster, with what only the nodes' kernels know.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What the API holds.
    pub cluster: Cluster,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The nodes' links to the underlay.
    pub underlay: BTreeMap<NodeName, PerFamily<Underlay>>,
    /// What nodes know of each other beyond the API, where there are NAT gateways.
    pub contacts: BTreeMap<NodeName, Contacts>,
    /// The NAT gateways.
    pub gateways: Vec<Gateway>,
    /// What is not known of the underlay and was assumed, as a sentence; `None` if nothing was.
    pub assumed: Option<String>,
    /// Changes to plans before packets are sent through them: what would be if a node held something else.
    pub changes: Vec<fn(&mut World)>,
}

impl Scene {
    /// A cluster of which nothing is known but what the API says: uplinks as Ethernet has them, and nodes whose addresses
    /// are close to each other in one subnet.
    pub fn assumed(cluster: Cluster, pods: Vec<Pod>) -> Scene {
        let links = |node: &Node| {
            let mut links = PerFamily::default();
            for address in node.addresses.iter() {
                let family = Family::of(address);
                let length = SUBNETS.of(family).copied().unwrap_or(family.bits());
                let (Ok(net), Ok(link)) = (IpNet::new(*address, length), LinkName::new("uplink")) else {
                    continue;
                };
                links.insert(family, Underlay { link, net, mtu: ETHERNET_MTU });
            }
            links
        };
        let mut assumed = vec![format!(
            "the API does not tell nodes' links: assumed are an MTU of {ETHERNET_MTU} and subnets of /24 and /64"
        )];
        assumed.extend(assumed_beside_links(&cluster));
        Scene {
            underlay: cluster.nodes.iter().map(|(name, node)| (name.clone(), links(node))).collect(),
            cluster,
            pods,
            contacts: BTreeMap::new(),
            gateways: Vec::new(),
            assumed: Some(assumed.join(", ")),
            changes: Vec::new(),
        }
    }

    /// Takes in what nodes say of their own links, all that a packet comes to.
    pub fn learn(&mut self, links: impl IntoIterator<Item = (NodeName, PerFamily<Underlay>)>) {
        self.underlay.extend(links);
        let assumed = assumed_beside_links(&self.cluster);
        self.assumed = (!assumed.is_empty()).then(|| format!("assumed is {}", assumed.join(", ")));
    }

    /// What a node's kernel says of itself.
    pub fn facts(&self, node: &NodeName) -> Facts {
        let pods = self.pods.iter().filter(|pod| pod.node == *node && !pod.host_network);
        let underlay = self.underlay.get(node).cloned().unwrap_or_default();
        let own = self.cluster.nodes.get(node).into_iter();
        let own = own.flat_map(|own| {
            let gateways = own.pod_ranges.iter().map(model::PodRange::gateway);
            own.addresses.iter().copied().chain(gateways)
        });
        let addresses: BTreeSet<IpAddr> = own.chain(underlay.iter().map(|link| link.net.addr())).collect();
        Facts {
            attachments: pods.map(Pod::attachment).collect(),
            addresses: addresses.into_iter().collect(),
            underlay,
            contacts: self.contacts.get(node).cloned().unwrap_or_default(),
        }
    }

    /// The plans of all nodes.
    pub fn world(&self) -> World {
        let world = World::planned(&self.cluster, |node| self.facts(node));
        self.changed(World { gateways: self.gateways.clone(), ..world })
    }

    /// The ways of a packet, and a world with the plans of the nodes that it comes to. A cluster may have thousands of
    /// nodes, and a packet comes to a few.
    pub(super) fn ways(
        &self,
        start: &Start,
        packet: Packet,
        begin: &BTreeSet<NodeName>,
    ) -> (Vec<Outcome>, World) {
        let mut wanted = begin.clone();
        loop {
            let planned = |(name, node): (&NodeName, &Node)| {
                let plan = match wanted.contains(name) {
                    true => World::plan_of(&self.cluster, name, self.facts(name)),
                    false => NodePlan::default(),
                };
                (name.clone(), (node.clone(), plan))
            };
            let nodes = self.cluster.nodes.iter().map(planned).collect();
            let world = self.changed(World { nodes, gateways: self.gateways.clone() });
            let ways: Vec<Outcome> = walk_all(&world, start, packet).collect();
            let before = wanted.len();
            wanted.extend(ways.iter().flat_map(|way| self.nodes_of(way)));
            if wanted.len() == before {
                return (ways, world);
            }
        }
    }

    fn changed(&self, mut world: World) -> World {
        self.changes.iter().for_each(|change| change(&mut world));
        world
    }

    /// The nodes that a way leads to.
    fn nodes_of<'a>(&'a self, way: &'a Outcome) -> impl Iterator<Item = NodeName> + 'a {
        let led_to = |hop: &Hop| match &hop.step {
            Step::Encapsulated { destination, .. }
            | Step::Wrapped { destination, .. }
            | Step::Translated { destination, .. } => Some(*destination),
            Step::Routed { via, .. } => *via,
            _ => None,
        };
        let addresses = way.walk.hops.iter().filter_map(led_to).chain([way.walk.packet.destination]);
        let end = match &way.walk.end {
            End::Pod(node, _) | End::Node(node) => Some(node.clone()),
            End::Outside | End::Lost(_) => None,
        };
        let of_hops = way.walk.hops.iter().map(|hop| hop.node.clone());
        of_hops.chain(addresses.flat_map(|address| self.nodes_with(address))).chain(end)
    }

    /// The nodes that have an underlay address: nodes of different sites may have the same.
    fn nodes_with(&self, address: IpAddr) -> impl Iterator<Item = NodeName> + '_ {
        let has = move |node: &&Node| node.addresses.iter().any(|own| *own == address);
        self.cluster.nodes.values().filter(has).map(|node| node.name.clone())
    }

    /// The first node that has an underlay address.
    pub fn node_with(&self, address: &IpAddr) -> Option<NodeName> {
        self.nodes_with(*address).next()
    }

    /// The pod that has an address of its own.
    pub fn pod_with(&self, address: &IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network && pod.addresses.iter().any(|own| own == address))
    }

    /// The pod whose host link this is, as plans have it.
    pub fn pod_at(&self, node: &NodeName, link: &LinkName) -> Option<&Pod> {
        let is_it = |pod: &&Pod| pod.node == *node && pod.attachment().id.host_link() == *link;
        self.pods.iter().find(is_it)
    }
}

fn assumed_beside_links(cluster: &Cluster) -> Vec<String> {
    let mut assumed = Vec::new();
    if cluster.network.route_source == RouteSource::Bgp {
        assumed.push("that every node has told every other of its pods by BGP".to_owned());
    }
    if cluster.nodes.values().any(|node| node.site.is_some()) {
        assumed.push("that nothing has passed the NAT gateways of sites yet".to_owned());
    }
    assumed
}
