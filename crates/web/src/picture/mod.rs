//! The picture: what there is, each thing under an id by which the page finds it, and how it hangs together. No I/O.
//!
//! Ids of what packets can be sent from or to are as `cambric trace` takes them: `pod/NAMESPACE/NAME`, `node/NAME`,
//! `service/NAMESPACE/NAME`.

mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{EndpointSlice, Family, ObjectName, Pod, Service};
use serde::Serialize;
use trace::journey::Scene;

pub use way::{Crossing, Way, of_flow, way};

/// All that is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// What is below the cluster.
    #[serde(flatten)]
    pub ground: Ground,
    /// What is not known and was assumed, as a sentence.
    pub assumed: Option<String>,
    /// The pods.
    pub pods: Vec<PodView>,
    /// The services.
    pub services: Vec<ServiceView>,
}

/// The underlay: machines, subnets, and the cables between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ground {
    /// What it is the ground of.
    pub title: String,
    /// Nodes, routers, NAT gateways and hosts outside.
    pub machines: Vec<Machine>,
    /// The subnets.
    pub subnets: Vec<Subnet>,
    /// Each from a machine to a subnet.
    pub cables: Vec<Cable>,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A node of the cluster.
    Node,
    /// A router.
    Router,
    /// A NAT gateway.
    Gateway,
    /// A host outside.
    Outside,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The id: [`machine_id`].
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The id of a machine.
pub fn machine_id(kind: Kind, name: &str) -> String {
    let kind = match kind {
        Kind::Node => "node",
        Kind::Router => "router",
        Kind::Gateway => "gateway",
        Kind::Outside => "outside",
    };
    format!("{kind}/{name}")
}

/// A subnet of the underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// The id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
}

/// What joins a machine to a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cable {
    /// The id.
    pub id: String,
    /// The id of the machine.
    pub machine: String,
    /// The link in the machine.
    pub link: String,
    /// The id of the subnet.
    pub subnet: String,
    /// Why no packet passes; `None` if it is whole.
    pub broken: Option<String>,
}

impl Cable {
    /// A cable that is whole.
    pub fn new(machine: &Machine, link: &str, subnet: &Subnet) -> Cable {
        Cable {
            id: format!("cable/{}/{link}", machine.name),
            machine: machine.id.clone(),
            link: link.to_owned(),
            subnet: subnet.id.clone(),
            broken: None,
        }
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// The id.
    pub id: String,
    /// As namespace/name.
    pub name: String,
    /// The id of its node.
    pub node: String,
    /// Whether it has the node's network.
    pub host_network: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// The id.
    pub id: String,
    /// As namespace/name.
    pub name: String,
    /// Its addresses in the cluster.
    pub addresses: Vec<IpAddr>,
    /// Its ports, as `cambric trace` takes them: by number.
    pub ports: Vec<PortView>,
    /// The ids of the pods and nodes that are ready behind it.
    pub endpoints: Vec<String>,
    /// How many endpoints are ready at addresses that no pod or node has.
    pub elsewhere: usize,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Its name, which may be empty.
    pub name: String,
    /// The number, host byte order.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

fn pod_id(name: &ObjectName) -> String {
    format!("pod/{name}")
}

impl Picture {
    /// The picture of a cluster on its ground.
    pub fn new(scene: &Scene, ground: &Ground) -> Picture {
        let mut pods: Vec<&Pod> = scene.pods.iter().collect();
        pods.sort_by_key(|pod| (&pod.node, &pod.name));
        let behind = Behind::new(scene);
        Picture {
            ground: ground.clone(),
            assumed: scene.assumed.clone(),
            pods: pods.into_iter().map(pod_view).collect(),
            services: scene.cluster.services.values().map(|service| behind.view(service)).collect(),
        }
    }
}

fn pod_view(pod: &Pod) -> PodView {
    PodView {
        id: pod_id(&pod.name),
        name: pod.name.to_string(),
        node: machine_id(Kind::Node, pod.node.as_str()),
        host_network: pod.host_network,
        addresses: pod.addresses.iter().copied().collect(),
    }
}

/// Who is behind services.
struct Behind<'s> {
    slices: BTreeMap<(&'s str, &'s str), Vec<&'s EndpointSlice>>,
    owners: BTreeMap<IpAddr, String>,
}

impl<'s> Behind<'s> {
    fn new(scene: &'s Scene) -> Behind<'s> {
        let mut slices: BTreeMap<_, Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in scene.cluster.slices.values() {
            slices.entry((&*slice.name.namespace, &*slice.service)).or_default().push(slice);
        }
        let of_node = scene.cluster.nodes.values().flat_map(|node| {
            let id = machine_id(Kind::Node, node.name.as_str());
            node.addresses.iter().map(move |address| (*address, id.clone()))
        });
        let pods = scene.pods.iter().filter(|pod| !pod.host_network);
        let of_pod = pods.flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod_id(&pod.name))));
        Behind { slices, owners: of_node.chain(of_pod).collect() }
    }

    fn view(&self, service: &Service) -> ServiceView {
        let key = (&*service.name.namespace, &*service.name.name);
        let slices = self.slices.get(&key).into_iter().flatten();
        let ready: BTreeSet<IpAddr> = slices
            .flat_map(|slice| slice.endpoints.iter())
            .filter(|endpoint| endpoint.ready)
            .map(|endpoint| endpoint.address)
            .collect();
        let known: BTreeSet<&String> = ready.iter().filter_map(|address| self.owners.get(address)).collect();
        ServiceView {
            id: format!("service/{}", service.name),
            name: service.name.to_string(),
            addresses: service.cluster_addresses.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| PortView {
                    name: port.name.to_string(),
                    port: port.port,
                    protocol: port.protocol.to_string(),
                })
                .collect(),
            endpoints: known.into_iter().cloned().collect(),
            elsewhere: ready.iter().filter(|address| !self.owners.contains_key(address)).count(),
        }
    }
}

impl Ground {
    /// The ground as far as it can be made out from nodes' own links: nodes with prefixes in common are in one subnet, and
    /// every cable is taken to be whole.
    pub fn assumed(title: String, scene: &Scene) -> Ground {
        let mut ground = Ground { title, ..Ground::default() };
        for (name, node) in &scene.cluster.nodes {
            let machine = Machine {
                id: machine_id(Kind::Node, name.as_str()),
                kind: Kind::Node,
                name: name.to_string(),
                addresses: node.addresses.iter().copied().collect(),
            };
            let mut links: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
            for one in scene.underlay.get(name).into_iter().flat_map(|underlay| underlay.iter()) {
                links.entry(one.link.as_str()).or_default().push(one.net.trunc());
            }
            for (link, mut prefixes) in links {
                prefixes.sort_by_key(|prefix| (Family::of_net(prefix), *prefix));
                let cable = Cable::new(&machine, link, ground.subnet(&prefixes));
                ground.cables.push(cable);
            }
            ground.machines.push(machine);
        }
        ground
    }

    /// The subnet that has one of these prefixes, or a new one.
    fn subnet(&mut self, prefixes: &[IpNet]) -> &Subnet {
        let shared = |subnet: &Subnet| subnet.prefixes.iter().any(|prefix| prefixes.contains(prefix));
        let index = self.subnets.iter().position(shared).unwrap_or_else(|| {
            let name = prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.subnets.push(Subnet { id: format!("subnet/{name}"), name, prefixes: prefixes.to_vec() });
            self.subnets.len() - 1
        });
        &self.subnets[index]
    }
}

#[cfg(test)]
mod tests;
