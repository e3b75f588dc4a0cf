//! A made-up cluster for the page: five nodes behind a router, 200 pods, 50 services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::{
    Cluster, Encapsulation, Endpoint, EndpointPort, EndpointSlice, Family, NetworkConfig, Node, NodeName,
    ObjectName, PerFamily, Pod, Protocol, Service, ServicePort, TrafficPolicy,
};
use trace::flow::{NamedFlow, Traffic};
use trace::journey::{EndView, Scene};
use web::picture::{Cable, Ground, Kind, Machine, machine_id};
use web::{Finding, Sessions, Source, Verdict, View};

pub const NODES: u8 = 5;
pub const PODS: u8 = 200;
pub const SERVICES: u8 = 50;
/// How many endpoints each service has.
const ENDPOINTS: u8 = 4;

/// The cluster, with a cable that can be cut, and a flow.
#[derive(Clone)]
pub struct Example {
    scene: Arc<Scene>,
    pub cut: Arc<AtomicBool>,
    /// How many packets have gone through the flow.
    pub packets: Arc<AtomicU64>,
}

impl Example {
    pub fn new() -> Example {
        let pods: Vec<Pod> = (0..PODS).map(pod).collect();
        let network = NetworkConfig::parse(
            &["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()],
            &["10.96.0.0/16".to_owned(), "fd00:10:96::/112".to_owned()],
            Encapsulation::default(),
            "auto",
        );
        let slices =
            (0..SERVICES).flat_map(|service| Family::BOTH.map(|family| slice(service, family, &pods)));
        let cluster = Cluster {
            network: network.unwrap(),
            nodes: (1..=NODES).map(node).map(|node| (node.name.clone(), node)).collect(),
            services: (0..SERVICES).map(service).map(|service| (service.name.clone(), service)).collect(),
            slices: slices.map(|slice| (slice.name.clone(), slice)).collect(),
        };
        let scene = Scene { assumed: None, ..Scene::assumed(cluster, pods) };
        Example { scene: Arc::new(scene), cut: Arc::default(), packets: Arc::new(AtomicU64::new(1)) }
    }
}

fn name(kind: &str, number: u8) -> ObjectName {
    ObjectName::new("default", format!("{kind}-{number}"))
}

fn node(number: u8) -> Node {
    let addresses = [format!("192.0.2.1{number}"), format!("2001:db8::1{number}")];
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    let name = NodeName::new(format!("node-{number}")).unwrap();
    Node::parse(name, addresses.iter().map(String::as_str), ranges.iter().map(String::as_str)).unwrap()
}

/// Pod 0 is on the first node, pod 1 on the second, and so on.
fn pod(number: u8) -> Pod {
    let (node, host) = (number % NODES + 1, number + 2);
    Pod {
        name: name("pod", number),
        uid: format!("uid-of-pod-{number}").into(),
        node: NodeName::new(format!("node-{node}")).unwrap(),
        host_network: false,
        addresses: PerFamily {
            v4: Some(IpAddr::from([10, 244, node, host])),
            v6: Some(format!("fd00:10:244:{node}::{host:x}").parse().unwrap()),
        },
    }
}

fn service(number: u8) -> Service {
    Service {
        name: name("service", number),
        cluster_addresses: vec![
            IpAddr::from([10, 96, 0, number + 1]),
            format!("fd00:10:96::{:x}", number + 1).parse().unwrap(),
        ],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

fn slice(service: u8, family: Family, pods: &[Pod]) -> EndpointSlice {
    let endpoint = |pod: &Pod| Endpoint {
        address: *pod.addresses.of(family).unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(pod.node.clone().into()),
        zones: Default::default(),
        nodes: Default::default(),
    };
    let first = usize::from(service * ENDPOINTS);
    EndpointSlice {
        name: ObjectName::new("default", format!("service-{service}-{family}")),
        service: format!("service-{service}").into(),
        family,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: pods[first..first + usize::from(ENDPOINTS)].iter().map(endpoint).collect(),
    }
}

impl Source for Example {
    fn view(&self) -> Result<View, String> {
        let mut ground = Ground::assumed("example".to_owned(), &self.scene);
        let machine = |kind, name: &str, address: &str| Machine {
            id: machine_id(kind, name),
            kind,
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
        };
        let router = machine(Kind::Router, "router", "192.0.2.1");
        let client = machine(Kind::Outside, "client", "198.51.100.7");
        let world = web::picture::Subnet {
            id: "subnet/world".to_owned(),
            name: "world".to_owned(),
            prefixes: vec!["198.51.100.0/24".parse().unwrap()],
        };
        let cables = [
            Cable::new(&router, "eth0", &ground.subnets[0]),
            Cable::new(&router, "eth1", &world),
            Cable::new(&client, "eth0", &world),
        ];
        ground.cables.extend(cables);
        ground.machines.extend([router, client]);
        ground.subnets.push(world);
        if self.cut.load(Ordering::Relaxed) {
            let cable = ground.cables.iter_mut().find(|cable| cable.machine == "node/node-2").unwrap();
            cable.broken = Some("the cable is cut".to_owned());
        }
        Ok(View { scene: self.scene.clone(), ground })
    }

    /// From the first pod to a service, with an endpoint on the third node.
    fn flows(&self, _: &Scene) -> Result<Vec<NamedFlow>, String> {
        let end = |kind, name: &str, node: Option<&str>, address: &str, port| EndView {
            kind,
            name: name.to_owned(),
            node: node.map(str::to_owned),
            address: address.parse().unwrap(),
            port,
        };
        let packets = self.packets.load(Ordering::Relaxed);
        Ok(vec![NamedFlow {
            node: NodeName::new("node-1").unwrap(),
            id: 7,
            zone: 0,
            family: Family::V4,
            protocol: "TCP".to_owned(),
            verdict: trace::flow::Verdict::Established,
            state: None,
            client: end("pod", "default/pod-0", Some("node-1"), "10.244.1.2", Some(40_000)),
            destination: end("service", "default/service-3", None, "10.96.0.4", Some(80)),
            service: None,
            backend: Some(end("pod", "default/pod-12", Some("node-3"), "10.244.3.14", Some(8080))),
            seen_as: None,
            traffic: Some(Traffic {
                sent_bytes: 60 * packets,
                sent_packets: packets,
                received_bytes: 60,
                received_packets: 1,
            }),
            fast_path: false,
            begun: None,
            tunnel: false,
        }])
    }

    fn findings(&self) -> Result<Vec<Verdict>, String> {
        let finding = Finding {
            check: "forwarding".to_owned(),
            place: "net.ipv4.ip_forward".to_owned(),
            what: "is 0".to_owned(),
            hurts: "pods reach nobody".to_owned(),
            cure: "sysctl -w net.ipv4.ip_forward=1".to_owned(),
        };
        Ok(vec![Verdict { node: "node-3".to_owned(), findings: vec![finding], unchecked: Vec::new() }])
    }

    fn sessions(&self) -> Result<Vec<Sessions>, String> {
        let session = |name: &str, state: &str| web::Session {
            name: name.to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            asn: 64513,
            state: state.to_owned(),
            since: 1_700_000_000,
            prefixes: BTreeMap::new(),
            last_error: None,
        };
        let sessions = vec![session("BgpPeer router", "Established"), session("BgpPeer other", "Active")];
        Ok(vec![Sessions { node: "node-1".to_owned(), problems: Vec::new(), sessions }])
    }
}
