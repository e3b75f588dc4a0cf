//! The lab as its topology, its API and its namespaces tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Node as ApiNode, Pod as ApiPod};
use kernel::netns::{self, NetNs};
use kube::api::{Api, ListParams};
use kube_source::{ClusterNetwork, SINGLETON};
use model::{Cluster, Family, NetworkConfig, Node, NodeName, PerFamily, REFLECTOR_LABEL, SITE_LABEL};

use super::evidence::Transport;
use super::probe;
use super::sites::{self, Sites};
use crate::paths::LabName;
use crate::topology::{self, Machine, Role, Topology};
use crate::{Error, Result};

/// All that a check needs to know of a lab.
#[derive(Debug)]
pub(super) struct View {
    pub(super) lab: LabName,
    pub(super) topology: Topology,
    pub(super) cluster: Cluster,
    /// The pods that are ready and have a network namespace of their own.
    pub(super) pods: Vec<Pod>,
    /// Whom the nodes hear through tunnels; nothing in a lab without NAT gateways.
    pub(super) heard: BTreeMap<NodeName, sites::Heard>,
}

/// A pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) node: NodeName,
    pub(super) addresses: PerFamily<IpAddr>,
    pub(super) containers: Vec<Container>,
    /// The path of its network namespace.
    pub(super) netns: PathBuf,
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) ports: Vec<(u16, Transport)>,
    /// The number of its process, as its status says.
    pub(super) pid: Option<i32>,
}

impl Pod {
    /// The pod as namespace/name.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// A container and port that speak both transports, if there is one.
    pub(super) fn port(&self) -> Option<u16> {
        let all: BTreeSet<u16> =
            self.containers.iter().flat_map(|container| &container.ports).map(|(port, _)| *port).collect();
        let serves = |port: &u16, transport| {
            self.containers.iter().any(|container| container.ports.contains(&(*port, transport)))
        };
        all.into_iter().find(|port| Transport::BOTH.into_iter().all(|transport| serves(port, transport)))
    }
}

impl View {
    /// Looks at a lab.
    ///
    /// # Errors
    /// [`Error`] if the lab is not up, its API does not answer, or it has no `ClusterNetwork` in force.
    pub(super) async fn load(lab: &LabName, client: &kube::Client) -> Result<View> {
        let topology = topology::load(&lab.paths().topology())?;
        let cluster = Cluster {
            network: network(client).await?,
            nodes: nodes(client).await?,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        };
        let pods: Api<ApiPod> = Api::all(client.clone());
        let pods = pods.list(&ListParams::default()).await.map_err(api("list the pods"))?;
        let mut ready: Vec<Pod> = pods.items.into_iter().filter_map(pod).collect();
        let namespaces = pod_namespaces(lab, &ready)?;
        ready.retain_mut(|pod| match namespaces.get(&pod.full_name()) {
            Some(path) => {
                pod.netns.clone_from(path);
                true
            }
            None => false,
        });
        for pod in &mut ready {
            forget_other_servers(pod)?;
        }
        let heard = sites::all_heard(lab, &cluster)?;
        Ok(View { lab: lab.clone(), topology, cluster, pods: ready, heard })
    }

    /// What there is to know of NAT gateways.
    pub(super) fn sites(&self) -> Sites<'_> {
        Sites { topology: &self.topology, cluster: &self.cluster, heard: &self.heard }
    }

    /// The namespace of a machine.
    pub(super) fn machine_namespace(&self, machine: &str) -> Result<NetNs> {
        open(&Path::new(netns::NAMED).join(self.lab.namespace(machine)))
    }

    /// Nodes and outside hosts: the machines whose links are watched.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Machine> {
        let of = |role| move |machine: &&Machine| machine.role == role;
        let machines = &self.topology.machines;
        machines.iter().filter(of(Role::Node)).chain(machines.iter().filter(of(Role::Outside)))
    }

    /// How often a connection is asked. The fast path has a connection once it is set up, and lets few packets on the
    /// kernel's path then.
    pub(super) fn questions(&self) -> usize {
        if self.cluster.network.fast_path { 50 } else { 1 }
    }

    /// The families in which a pod has addresses.
    pub(super) fn families(&self) -> Vec<Family> {
        let has =
            |family: &Family| self.cluster.nodes.values().any(|node| node.pod_ranges.of(*family).is_some());
        Family::BOTH.into_iter().filter(has).collect()
    }
}

/// Opens a namespace by its path.
pub(super) fn open(path: &Path) -> Result<NetNs> {
    NetNs::open(path).map_err(Error::kernel(path.display().to_string()))
}

/// Makes an error of the API one of the lab.
pub(super) fn api(what: &'static str) -> impl Fn(kube::Error) -> Error {
    move |error| Error::Other(format!("the lab's API: cannot {what}: {error}"))
}

async fn network(client: &kube::Client) -> Result<NetworkConfig> {
    let networks: Api<ClusterNetwork> = Api::all(client.clone());
    let network = networks.get(SINGLETON).await.map_err(api("read the ClusterNetwork"))?;
    NetworkConfig::try_from(&network.spec)
        .map_err(|error| Error::Other(format!("ClusterNetwork {SINGLETON} is not in force: {error}")))
}

async fn nodes(client: &kube::Client) -> Result<BTreeMap<NodeName, Node>> {
    let nodes: Api<ApiNode> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await.map_err(api("list the nodes"))?;
    let parse = |node: ApiNode| {
        let wrong = |error: &dyn std::fmt::Display| Error::Other(format!("the lab's API: {error}"));
        let name = NodeName::new(node.metadata.name.unwrap_or_default()).map_err(|error| wrong(&error))?;
        let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
        let of_kind = |kind: &'static str| {
            addresses.iter().filter(move |one| one.type_ == kind).map(|one| one.address.as_str())
        };
        let labels = node.metadata.labels.unwrap_or_default();
        let label = |name: &str| labels.get(name).map(String::as_str);
        let ranges = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
        let node = Node::parse(name.clone(), of_kind("InternalIP"), ranges.iter().map(String::as_str))
            .and_then(|node| node.with_external(of_kind("ExternalIP")))
            .and_then(|node| node.with_labels(label(SITE_LABEL), label(REFLECTOR_LABEL)));
        Ok((name, node.map_err(|error| wrong(&error))?))
    };
    nodes.items.into_iter().map(parse).collect()
}

/// A pod that is ready and not in its node's own namespace.
fn pod(pod: ApiPod) -> Option<Pod> {
    let (spec, status) = (pod.spec?, pod.status?);
    let ready = |kind: &str, conditions: &[k8s_openapi::api::core::v1::PodCondition]| {
        conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
    };
    if spec.host_network == Some(true)
        || pod.metadata.deletion_timestamp.is_some()
        || !ready("Ready", status.conditions.as_deref().unwrap_or_default())
    {
        return None;
    }
    let mut addresses = PerFamily::default();
    for entry in status.pod_ips.unwrap_or_default() {
        let address: IpAddr = entry.ip.parse().ok()?;
        addresses.insert(Family::of(&address), address);
    }
    let statuses = status.container_statuses.unwrap_or_default();
    // A container is `cambric://UID/CONTAINER/PID`.
    let pid = |name: &str| {
        let status = statuses.iter().find(|status| status.name == name)?;
        status.container_id.as_ref()?.rsplit('/').next()?.parse().ok()
    };
    let containers = spec.containers.into_iter().map(|container| Container {
        pid: pid(&container.name),
        name: container.name,
        ports: container
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| {
                let transport = match port.protocol.as_deref() {
                    None | Some("TCP") => Transport::Tcp,
                    Some("UDP") => Transport::Udp,
                    Some(_) => return None,
                };
                Some((u16::try_from(port.container_port).ok()?, transport))
            })
            .collect(),
    });
    Some(Pod {
        namespace: pod.metadata.namespace?,
        name: pod.metadata.name?,
        uid: pod.metadata.uid?,
        node: NodeName::new(spec.node_name?).ok()?,
        containers: containers.collect(),
        netns: PathBuf::new(),
        addresses: Some(addresses).filter(|addresses| !addresses.is_empty())?,
    })
}

/// The namespaces of the lab's pods, by the pods' full names. Which is whose is asked of the kernel: an address can
/// be bound only where it is.
fn pod_namespaces(lab: &LabName, pods: &[Pod]) -> Result<BTreeMap<String, PathBuf>> {
    let directory = Path::new(netns::NAMED);
    let entries = fs::read_dir(directory).map_err(|error| Error::io("list", directory, error))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", directory, error))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let candidates: Vec<&Pod> = pods
            .iter()
            .filter(|pod| name.starts_with(&lab.pod_namespace_prefix(pod.node.as_str())))
            .collect();
        // A pod that is just going may take its namespace along.
        let Ok(namespace) = NetNs::open(&path) else { continue };
        if candidates.is_empty() {
            continue;
        }
        let owner = netns::run_in(&namespace, || candidates.into_iter().find(|pod| is_here(pod)))
            .map_err(Error::kernel(name))?;
        found.extend(owner.map(|pod| (pod.full_name(), path.clone())));
    }
    Ok(found)
}

/// Takes the ports from containers that run a program of their own: they cannot say whom they see. One that does not
/// answer at all keeps them, for that is something to be noticed.
pub(super) fn forget_other_servers(pod: &mut Pod) -> Result<()> {
    let namespace = open(&pod.netns)?;
    let loopback: IpAddr = match pod.addresses.v4 {
        Some(_) => Ipv4Addr::LOCALHOST.into(),
        None => Ipv6Addr::LOCALHOST.into(),
    };
    for container in &mut pod.containers {
        let other =
            container.ports.iter().filter(|(_, transport)| *transport == Transport::Tcp).any(|(port, _)| {
                let asked = probe::ask(&namespace, (loopback, *port).into(), Transport::Tcp, 1);
                asked.local.is_some() && asked.result.is_err()
            });
        if other {
            container.ports.clear();
        }
    }
    Ok(())
}

/// Whether all addresses of a pod are in the calling thread's namespace.
fn is_here(pod: &Pod) -> bool {
    pod.addresses.iter().all(|address| UdpSocket::bind((*address, 0)).is_ok())
}
