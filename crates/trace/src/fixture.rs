//! A cluster for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{
    Cluster, Encapsulation, Endpoint, EndpointPort, EndpointSlice, Family, NetworkConfig, Node, NodeName,
    ObjectName, PerFamily, Pod, Protocol, Service, ServicePort, TrafficPolicy,
};

use crate::journey::Scene;

fn node(name: &str, number: u8) -> Node {
    let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
    let ranges = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    Node::parse(
        NodeName::new(name).unwrap(),
        addresses.iter().map(String::as_str),
        ranges.iter().map(String::as_str),
    )
    .unwrap()
}

pub(crate) fn pod(name: &str, node: u8, number: u8) -> Pod {
    Pod {
        name: ObjectName::new("default", name),
        node: NodeName::new(format!("node-{node}")).unwrap(),
        host_network: false,
        addresses: PerFamily {
            v4: Some(IpAddr::from([10, 244, node, number])),
            v6: Some(format!("fd00:10:244:{node}::{number}").parse().unwrap()),
        },
    }
}

/// Two nodes, a client, and a service with an endpoint on each.
pub(crate) fn scene() -> Scene {
    let network = NetworkConfig::parse(
        &["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()],
        &["10.96.0.0/16".to_owned(), "fd00:10:96::/112".to_owned()],
        Encapsulation::default(),
        "auto",
    )
    .unwrap();
    let pods = vec![pod("client", 1, 2), pod("web-1", 1, 3), pod("web-2", 2, 2)];
    let service = Service {
        name: ObjectName::new("default", "web"),
        cluster_addresses: vec!["10.96.0.10".parse().unwrap(), "fd00:10:96::10".parse().unwrap()],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        balancer_sources: Vec::new(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30_080),
        }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    };
    let slice = |family: Family| EndpointSlice {
        name: ObjectName::new("default", format!("web-{family}")),
        service: "web".into(),
        family,
        ports: [EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: pods[1..]
            .iter()
            .map(|pod| Endpoint {
                address: *pod.addresses.of(family).unwrap(),
                ready: true,
                serving: true,
                terminating: false,
                node: Some(pod.node.clone().into()),
                zones: Default::default(),
                nodes: Default::default(),
            })
            .collect(),
    };
    let nodes = [node("node-1", 1), node("node-2", 2)];
    let cluster = Cluster {
        network,
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        services: BTreeMap::from([(service.name.clone(), service)]),
        slices: Family::BOTH.map(slice).into_iter().map(|slice| (slice.name.clone(), slice)).collect(),
    };
    Scene::assumed(cluster, pods)
}
