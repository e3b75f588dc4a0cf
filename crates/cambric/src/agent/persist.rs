//! The last state of the cluster on disk, so that an agent that starts while the API is away still has a plan to
//! repair by.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kube_source::{BgpPeerSpec, ClusterNetworkSpec};
use model::{BgpPeer, EndpointSlice, NetworkConfig, Node, NodeName, Reflector, Service, SharedNames};
use serde::{Deserialize, Serialize};

use super::core::{Core, Objects};
use crate::files::{publish, read_json, replace};

/// Services and slices are borrowed when it is written: there may be many. A file without them, which an older agent has
/// left, is of no use: going by it would take the services away.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<S, E> {
    /// The boot that it was written in: after another one nothing of ours is in the kernel, and nothing hurries.
    boot_id: String,
    node: NodeName,
    network: ClusterNetworkSpec,
    nodes: Vec<NodeEntry>,
    services: Vec<S>,
    slices: Vec<E>,
    /// Without passwords, which are in Secrets.
    #[serde(default)]
    bgp_peers: BTreeMap<String, BgpPeerSpec>,
    /// The labels of this node.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeEntry {
    name: NodeName,
    internal_ips: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "externalIPs")]
    external_ips: Vec<String>,
    /// As its label says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    route_reflector: Option<String>,
}

impl From<&Node> for NodeEntry {
    fn from(node: &Node) -> NodeEntry {
        let label = |reflector: Reflector| match reflector.cluster_id {
            Some(id) => id.to_string(),
            None => "true".to_owned(),
        };
        NodeEntry {
            name: node.name.clone(),
            internal_ips: node.addresses.iter().map(ToString::to_string).collect(),
            pod_cidrs: node.pod_ranges.iter().map(ToString::to_string).collect(),
            zone: node.zone.clone(),
            site: node.site.clone(),
            external_ips: node.external.iter().map(ToString::to_string).collect(),
            route_reflector: node.reflector.map(label),
        }
    }
}

impl TryFrom<NodeEntry> for Node {
    type Error = model::NodeError;

    fn try_from(entry: NodeEntry) -> Result<Node, Self::Error> {
        let texts = |list| <[String]>::iter(list).map(String::as_str);
        let node = Node::parse(entry.name, texts(&entry.internal_ips), texts(&entry.pod_cidrs))?
            .with_external(texts(&entry.external_ips))?
            .with_labels(entry.site.as_deref(), entry.route_reflector.as_deref())?;
        Ok(Node { zone: entry.zone, ..node })
    }
}

/// The state of the cluster at one moment. Taking it is cheap: what there may be many of is shared.
#[derive(Debug)]
pub(crate) struct Snapshot {
    network: NetworkConfig,
    nodes: Vec<Node>,
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    peers: Vec<BgpPeer>,
    labels: BTreeMap<String, String>,
}

impl Snapshot {
    /// What is known now; `None` if the network is not.
    pub(crate) fn of(core: &Core) -> Option<Snapshot> {
        Some(Snapshot {
            network: core.network_in_force()?.clone(),
            nodes: core.nodes().values().cloned().collect(),
            services: core.known_services().cloned().collect(),
            slices: core.known_slices().cloned().collect(),
            peers: core.peers().peers.values().cloned().collect(),
            labels: core.peers().labels.clone(),
        })
    }
}

/// Writes the state. Secrets are not in it; the directory is root's all the same.
pub(crate) fn save(path: &Path, local: &NodeName, snapshot: &Snapshot) -> Result<()> {
    let file = File {
        boot_id: boot_id()?,
        node: local.clone(),
        network: ClusterNetworkSpec::from(&snapshot.network),
        nodes: snapshot.nodes.iter().map(NodeEntry::from).collect(),
        services: snapshot.services.iter().map(Arc::as_ref).collect::<Vec<&Service>>(),
        slices: snapshot.slices.iter().map(Arc::as_ref).collect::<Vec<&EndpointSlice>>(),
        bgp_peers: snapshot.peers.iter().map(|peer| (peer.name.to_string(), peer.into())).collect(),
        labels: snapshot.labels.clone(),
    };
    // Piece by piece: as one text it would be as big as all that the agent knows.
    replace(path, 0o600, |to| Ok(serde_json::to_writer(to, &file)?))
}

/// Reads the state that was written in this boot for this node; `None` if there is none.
pub(crate) fn load(path: &Path, local: &NodeName) -> Result<Option<(NetworkConfig, Objects)>> {
    let Some(file) = read_json::<File<Service, EndpointSlice>>(path)? else { return Ok(None) };
    let context = || format!("{} cannot be used", path.display());
    if file.boot_id != boot_id()? || file.node != *local {
        return Ok(None);
    }
    let network = NetworkConfig::try_from(&file.network).with_context(context)?;
    let mut nodes = BTreeMap::new();
    for entry in file.nodes {
        let node = Node::try_from(entry).with_context(context)?;
        nodes.insert(node.name.clone(), node);
    }
    let mut peers = BTreeMap::new();
    for (name, spec) in &file.bgp_peers {
        peers.insert(name.as_str().into(), kube_source::peer(name, spec).with_context(context)?);
    }
    let services = file.services.into_iter().map(|service| (service.name.clone(), service)).collect();
    let mut names = SharedNames::default();
    let mut shared = |mut slice: EndpointSlice| {
        names.share(&mut slice);
        (slice.name.clone(), slice)
    };
    let slices = file.slices.into_iter().map(&mut shared).collect();
    Ok(Some((network, Objects { nodes, services, slices, peers, labels: file.labels })))
}

/// Notes that this is the boot that a file is of.
pub(crate) fn note_boot(path: &Path) -> Result<()> {
    publish(path, boot_id()?.as_bytes(), 0o600).map(drop)
}

/// Whether a file was noted to be of this boot.
pub(crate) fn is_of_this_boot(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|noted| boot_id().is_ok_and(|boot| noted == boot))
}

pub(super) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube_source::Event;
    use model::{
        Endpoint, EndpointPort, Family, ObjectName, PeerPassword, Protocol, ServicePort, TrafficPolicy,
    };

    use super::*;

    fn service() -> Service {
        let port = |name: &str, protocol, port, node_port| ServicePort {
            name: name.into(),
            protocol,
            port,
            node_port,
        };
        Service {
            name: ObjectName::new("shop", "web"),
            cluster_addresses: vec!["10.96.0.7".parse().unwrap(), "fd00:96::7".parse().unwrap()],
            external_addresses: vec!["2001:db8:1::7".parse().unwrap()],
            balancer_addresses: vec!["198.51.100.8".parse().unwrap()],
            balancer_sources: vec!["203.0.113.0/24".parse().unwrap()],
            ports: vec![port("", Protocol::Sctp, 80, Some(30080)), port("dns", Protocol::Udp, 53, None)],
            internal_policy: TrafficPolicy::Local,
            external_policy: TrafficPolicy::Cluster,
            affinity: Some(Duration::from_secs(10_800)),
            health_check_port: Some(31000),
        }
    }

    fn slice() -> EndpointSlice {
        let endpoint = |address: &str, node: Option<&str>, zones: &[&str]| Endpoint {
            address: address.parse().unwrap(),
            ready: node.is_some(),
            serving: node.is_some(),
            terminating: node.is_none(),
            node: node.map(|node| Arc::new(NodeName::new(node).unwrap())),
            zones: zones.iter().map(|zone| Box::from(*zone)).collect(),
            nodes: zones.iter().map(|zone| Box::from(*zone)).collect(),
        };
        EndpointSlice {
            name: ObjectName::new("shop", "web-1"),
            service: "web".into(),
            family: Family::V6,
            ports: vec![EndpointPort { name: "dns".into(), protocol: Protocol::Udp, port: 5353 }],
            endpoints: vec![
                endpoint("fd00:10:244:1::2", Some("a"), &["east", "west"]),
                endpoint("fd00:10:244:1::3", None, &[]),
            ],
        }
    }

    #[test]
    fn most_endpoints_are_an_address_and_a_node() {
        let endpoint =
            Endpoint { zones: Arc::default(), nodes: Arc::default(), ..slice().endpoints[0].clone() };
        let json = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(json, r#"{"address":"fd00:10:244:1::2","node":"a"}"#);
        assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint);
    }

    #[test]
    fn what_is_saved_is_loaded_in_the_same_boot_for_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let name = |text: &str| NodeName::new(text).unwrap();
        let spec: ClusterNetworkSpec = serde_json::from_str(
            r#"{"podRanges": ["10.244.0.0/16", "fd00::/48"], "serviceRanges": ["10.96.0.0/12"], "mtu": 1400,
                "routeSource": "bgp", "bgp": {"asn": 65000, "announce": ["ClusterIP"]},
                "encapsulation": {"vni": 7, "port": 8472}}"#,
        )
        .unwrap();
        let network = NetworkConfig::try_from(&spec).unwrap();
        let mut nodes: BTreeMap<NodeName, Node> = [
            Node::parse(name("a"), ["192.0.2.1", "2001:db8::1"], ["10.244.1.0/24", "fd00:0:0:1::/64"])
                .unwrap(),
            Node::parse(name("b"), ["192.0.2.2"], []).unwrap(),
        ]
        .map(|node| (node.name.clone(), node))
        .into();
        nodes.entry(name("b")).and_modify(|node| {
            node.zone = Some("east".into());
            node.site = Some("berlin".into());
            node.external.v4 = Some("198.51.100.1".parse().unwrap());
            node.reflector = Some(Reflector { cluster_id: Some([1, 0, 0, 1].into()) });
        });
        nodes.entry(name("a")).and_modify(|node| node.reflector = Some(Reflector { cluster_id: None }));
        let peer = serde_json::from_str(
            r#"{"address": "2001:db8::9", "asn": 65001, "nodeSelector": {"matchLabels": {"rack": "1"}},
                "passwordSecret": {"namespace": "net", "name": "bgp", "key": "tor"}, "bfd": {"multiplier": 5},
                "importFilter": [{"prefix": "10.0.0.0/8", "maxLength": 24, "action": "accept"}]}"#,
        )
        .unwrap();
        let peer = kube_source::peer("tor", &peer).unwrap();
        let objects = Objects {
            nodes,
            services: [service()].map(|service| (service.name.clone(), service)).into(),
            slices: [slice()].map(|slice| (slice.name.clone(), slice)).into(),
            peers: [("tor".into(), peer)].into(),
            labels: [("rack".to_owned(), "1".to_owned())].into(),
        };
        let mut core = Core::new(name("a"));
        core.restore(network.clone(), objects.clone());
        assert_eq!(load(&path, &name("a")).unwrap(), None);
        let snapshot = Snapshot::of(&core).unwrap();
        assert!(
            core.known_services().zip(&snapshot.services).all(|(known, taken)| Arc::ptr_eq(known, taken))
        );
        assert!(core.known_slices().zip(&snapshot.slices).all(|(known, taken)| Arc::ptr_eq(known, taken)));
        save(&path, &name("a"), &snapshot).unwrap();
        assert_eq!(load(&path, &name("a")).unwrap(), Some((network, objects)));
        assert_eq!(load(&path, &name("b")).unwrap(), None);
        let passwords = core.peers().peers["tor"].password.clone().unwrap();
        core.take(Event::Passwords([(passwords, Ok(PeerPassword::new("sesame")))].into()));
        save(&path, &name("a"), &Snapshot::of(&core).unwrap()).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("sesame"), "secrets are in no file");

        let noted = dir.path().join("boot");
        assert!(!is_of_this_boot(&noted));
        note_boot(&noted).unwrap();
        assert!(is_of_this_boot(&noted));
        fs::write(&noted, "another").unwrap();
        assert!(!is_of_this_boot(&noted));

        let other_boot = fs::read_to_string(&path).unwrap().replace(&boot_id().unwrap(), "another");
        fs::write(&path, other_boot).unwrap();
        assert_eq!(load(&path, &name("a")).unwrap(), None);
        let mut old: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        old.as_object_mut().unwrap().remove("services");
        old["bootId"] = boot_id().unwrap().into();
        fs::write(&path, old.to_string()).unwrap();
        assert!(load(&path, &name("a")).is_err(), "an older agent's state would take the services away");
        fs::write(&path, "{").unwrap();
        assert!(load(&path, &name("a")).unwrap_err().to_string().contains("state.json cannot be used"));
    }
}
