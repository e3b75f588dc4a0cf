//! A cluster with many services.

use std::sync::Arc;

use model::{
    Endpoint, EndpointPort, EndpointSlice, Family, NodeName, ObjectName, Protocol, Service, ServicePort,
    TrafficPolicy,
};
use plan::{Input, Planner};

use crate::cluster::{self, Stack};

/// A planner for node 0 that knows the network and nothing else.
pub(crate) fn planner() -> Planner {
    let mut planner = Planner::new(cluster::name(0));
    planner.update(Input::Network(cluster::network(Stack::V4, model::VxlanSettings::default())));
    planner.update(Input::Node(cluster::node(0, Stack::V4)));
    planner
}

/// Service `number` with TCP port 80.
pub(crate) fn service(number: u32) -> Service {
    let [_, high, middle, low] = (0x0a60_0000 + number + 1).to_be_bytes();
    Service {
        name: name(number),
        cluster_addresses: vec![[10, high, middle, low].into()],
        external_addresses: vec![],
        balancer_addresses: vec![],
        balancer_sources: vec![],
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_port: None,
    }
}

/// The endpoints of service `number`: as many as asked for, from `first` up, on nodes other than this one.
pub(crate) fn slice(number: u32, first: u32, count: u32) -> EndpointSlice {
    let none: Arc<[Box<str>]> = Arc::new([]);
    let node: Arc<NodeName> = Arc::new(cluster::name(1));
    let endpoint = |index: u32| {
        let [_, high, middle, low] = (number * 16 + index % 16 + 0x0001_0000).to_be_bytes();
        Endpoint {
            address: [10, 128 + high, middle, low].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: Some(node.clone()),
            zones: none.clone(),
            nodes: none.clone(),
        }
    };
    EndpointSlice {
        name: name(number),
        service: name(number).name,
        family: Family::V4,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (first..first + count).map(endpoint).collect(),
    }
}

fn name(number: u32) -> ObjectName {
    ObjectName::new("default", format!("service-{number}"))
}
