//! Clusters of any size, and the plan of their first node.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, LinkName, NetworkConfig, Node, NodeName, PerFamily,
    VxlanSettings,
};
use plan::{Entries, Facts, Underlay};

/// Which families the nodes and pods have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    V4,
    V6,
    Dual,
}

impl Stack {
    fn of(self, v4: String, v6: String) -> Vec<String> {
        match self {
            Stack::V4 => vec![v4],
            Stack::V6 => vec![v6],
            Stack::Dual => vec![v4, v6],
        }
    }
}

pub fn name(number: u32) -> NodeName {
    NodeName::new(format!("node-{number}")).unwrap()
}

pub fn node(number: u32, stack: Stack) -> Node {
    let (high, low) = (number / 250, number % 250 + 1);
    let addresses = stack.of(format!("172.16.{high}.{low}"), format!("2001:db8::{high:x}:{low:x}"));
    let (high, low) = (number / 256, number % 256);
    let ranges = stack.of(format!("10.{}.{low}.0/24", 128 + high), format!("fd00:10:{high:x}:{low:x}::/64"));
    Node::parse(name(number), addresses.iter().map(String::as_str), ranges.iter().map(String::as_str))
        .unwrap()
}

pub fn network(stack: Stack, vxlan: VxlanSettings) -> NetworkConfig {
    let pods = stack.of("10.128.0.0/9".into(), "fd00:10::/32".into());
    let services = stack.of("10.96.0.0/12".into(), "fd00:96::/108".into());
    NetworkConfig::parse(&pods, &services, Encapsulation { vxlan, ..Encapsulation::default() }, "auto")
        .unwrap()
}

/// A cluster of `size` nodes, this one (number 0) included.
pub fn cluster(size: u32, stack: Stack) -> Cluster {
    let nodes: BTreeMap<_, _> = (0..size).map(|number| (name(number), node(number, stack))).collect();
    Cluster {
        network: network(stack, VxlanSettings::default()),
        nodes,
        services: BTreeMap::new(),
        slices: BTreeMap::new(),
    }
}

pub fn attachment(number: u8, stack: Stack) -> Attachment {
    let addresses = stack.of(format!("10.128.0.{number}"), format!("fd00:10:0:0::{number:x}"));
    Attachment {
        id: AttachmentId { container_id: format!("sandbox-{number}"), ifname: "eth0".to_owned() },
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// The links of node 0 to the underlay, as `TestNs::underlay` makes them.
pub fn underlay() -> PerFamily<Underlay> {
    let on_eth0 = |net: &str| {
        Some(Underlay { link: LinkName::new("eth0").unwrap(), net: net.parse().unwrap(), mtu: 1500 })
    };
    PerFamily { v4: on_eth0("172.16.0.1/16"), v6: on_eth0("2001:db8::1/64") }
}

/// The plan of node 0, with an underlay of 1500 bytes.
pub fn plan(cluster: &Cluster, attachments: Vec<Attachment>) -> Entries {
    let facts = Facts { underlay: underlay(), attachments, ..Facts::default() };
    let plan = plan::plan(cluster, &name(0), &facts);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    plan.entries
}
