//! Random clusters, and packets through the plans of their nodes.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, Family, NetworkConfig, Node, NodeName, PerFamily,
    PodRange, VxlanSettings,
};
use plan::{Facts, plan};
use proptest::prelude::*;
use trace::{Packet, World};

pub const TCP: u8 = 6;

#[derive(Debug, Clone)]
pub struct Shape {
    pub underlay: PerFamily<()>,
    pub pods: PerFamily<()>,
    /// Pods per node.
    pub nodes: Vec<u8>,
    /// Whether a node's pod range lies outside the cluster's.
    pub stray: bool,
}

pub fn families() -> impl Strategy<Value = PerFamily<()>> {
    prop_oneof![
        Just(PerFamily { v4: Some(()), v6: None }),
        Just(PerFamily { v4: None, v6: Some(()) }),
        Just(PerFamily { v4: Some(()), v6: Some(()) }),
    ]
}

pub fn shape() -> impl Strategy<Value = Shape> {
    (families(), families(), prop::collection::vec(0u8..4, 1..7), any::<bool>())
        .prop_map(|(underlay, pods, nodes, stray)| Shape { underlay, pods, nodes, stray })
}

pub struct Built {
    pub cluster: Cluster,
    pub facts: BTreeMap<NodeName, Facts>,
}

pub fn node_address(family: Family, index: usize) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 0, 2, index as u8 + 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, index as u16 + 1]),
    }
}

pub fn pod_range(family: Family, index: usize, stray: bool) -> PodRange {
    let third = if stray { 200 } else { 244 };
    match family {
        Family::V4 => PodRange::new(IpNet::new_assert([10, third, index as u8, 0].into(), 24)),
        Family::V6 => PodRange::new(IpNet::new_assert(
            [0xfd00, 0x10, u16::from(third), index as u16, 0, 0, 0, 0].into(),
            64,
        )),
    }
    .unwrap()
}

pub fn build(shape: &Shape) -> Built {
    let both =
        |has: &PerFamily<()>| Family::BOTH.into_iter().filter(|f| has.of(*f).is_some()).collect::<Vec<_>>();
    let network = NetworkConfig::parse(
        &["10.244.0.0/16".to_owned(), "fd00:10:f4::/48".to_owned()],
        &["10.96.0.0/12".to_owned(), "fd00:10:96::/112".to_owned()],
        Encapsulation::Vxlan(VxlanSettings::default()),
        "auto",
    )
    .unwrap();
    let mut built = Built {
        cluster: Cluster {
            network,
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        },
        facts: BTreeMap::new(),
    };
    for (index, pods) in shape.nodes.iter().enumerate() {
        let name = NodeName::new(format!("node-{index}")).unwrap();
        let mut node = Node {
            name: name.clone(),
            addresses: PerFamily::default(),
            pod_ranges: PerFamily::default(),
            zone: None,
        };
        for family in both(&shape.underlay) {
            node.addresses.insert(family, node_address(family, index));
        }
        for family in both(&shape.pods) {
            node.pod_ranges.insert(family, pod_range(family, index, shape.stray && index == 0));
        }
        let attachments = (0..*pods).map(|pod| pod_on(&node, pod)).collect();
        built.facts.insert(name.clone(), Facts { attachments, ..Facts::default() });
        built.cluster.nodes.insert(name, node);
    }
    built
}

pub fn pod_on(node: &Node, pod: u8) -> Attachment {
    let nth = |range: &PodRange| match range.first_pod() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(pod)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(pod)).into()),
    };
    Attachment {
        id: AttachmentId { container_id: format!("{}-{pod}", node.name), ifname: "eth0".to_owned() },
        addresses: node.pod_ranges.iter().map(nth).collect(),
    }
}

pub fn world(built: &Built) -> World {
    let planned = |(name, node): (&NodeName, &Node)| {
        (name.clone(), (node.clone(), plan(&built.cluster, name, &built.facts[name])))
    };
    World { nodes: built.cluster.nodes.iter().map(planned).collect() }
}

pub fn pods(built: &Built) -> Vec<(NodeName, Attachment)> {
    let of = |(name, facts): (&NodeName, &Facts)| {
        facts.attachments.iter().map(|pod| (name.clone(), pod.clone())).collect::<Vec<_>>()
    };
    built.facts.iter().flat_map(of).collect()
}

pub fn packet(source: IpAddr, destination: IpAddr) -> Packet {
    Packet { source, destination, protocol: TCP, destination_port: Some(80) }
}
