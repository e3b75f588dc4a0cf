//! Random clusters, and packets through the plans of their nodes.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Attachment, AttachmentId, Cluster, Encapsulation, Family, LinkName, NetworkConfig, Node, NodeName,
    PerFamily, PodRange, Sending, When,
};
use plan::{Facts, Underlay, plan};
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
    pub sending: Sending,
    /// Whether a node is in the second subnet of two.
    pub far: Vec<bool>,
}

/// How packets between pods of two nodes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Tunnel,
    /// In IP in IP.
    Wrapped,
    Plain,
    /// There is no way.
    None,
}

impl Shape {
    /// How packets of a family get from one node to another, by what the modes say and not by any plan.
    pub fn way(&self, from: &NodeName, to: &NodeName, family: Family) -> Way {
        let far = |name: &NodeName| {
            self.far[name.as_str().strip_prefix("node-").unwrap().parse::<usize>().unwrap()]
        };
        // IPv4 goes by IPv6 next hops where there is no IPv4, and not the other way round.
        let plain = far(from) == far(to) && (family == Family::V4 || self.underlay.v6.is_some());
        match self.sending {
            Sending::Vxlan(When::Always) => Way::Tunnel,
            Sending::Ipip(When::Always) => Way::Wrapped,
            Sending::Ipip(When::CrossSubnet) => {
                if plain {
                    Way::Plain
                } else {
                    Way::Wrapped
                }
            }
            Sending::Vxlan(When::CrossSubnet) => {
                if plain {
                    Way::Plain
                } else {
                    Way::Tunnel
                }
            }
            Sending::Plain => {
                if plain {
                    Way::Plain
                } else {
                    Way::None
                }
            }
        }
    }
}

pub fn families() -> impl Strategy<Value = PerFamily<()>> {
    prop_oneof![
        Just(PerFamily { v4: Some(()), v6: None }),
        Just(PerFamily { v4: None, v6: Some(()) }),
        Just(PerFamily { v4: Some(()), v6: Some(()) }),
    ]
}

pub fn shape() -> impl Strategy<Value = Shape> {
    let sending = prop_oneof![
        Just(Sending::Vxlan(When::Always)),
        Just(Sending::Vxlan(When::CrossSubnet)),
        Just(Sending::Ipip(When::Always)),
        Just(Sending::Ipip(When::CrossSubnet)),
        Just(Sending::Plain),
    ];
    let nodes = prop::collection::vec((0u8..4, any::<bool>()), 1..7);
    (families(), families(), nodes, any::<bool>(), sending).prop_map(
        |(underlay, pods, nodes, stray, sending)| {
            let (nodes, far) = nodes.into_iter().unzip();
            Shape { underlay, pods, nodes, stray, sending, far }
        },
    )
}

pub struct Built {
    pub cluster: Cluster,
    pub facts: BTreeMap<NodeName, Facts>,
}

/// A node's underlay address with the prefix length of its subnet.
pub fn node_net(family: Family, index: usize, far: bool) -> IpNet {
    let far = u8::from(far);
    match family {
        Family::V4 => IpNet::new_assert([192, 0, 2, (far << 7) + index as u8 + 1].into(), 25),
        Family::V6 => IpNet::new_assert([0x2001, 0xdb8, 0, far.into(), 0, 0, 0, index as u16 + 1].into(), 64),
    }
}

/// The link that a node has its address on.
pub fn underlay(net: IpNet) -> Underlay {
    Underlay { link: LinkName::new("eth0").unwrap(), net, mtu: 1500 }
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
        Encapsulation { sending: shape.sending, ..Encapsulation::default() },
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
            site: None,
            external: PerFamily::default(),
            reflector: None,
            zone: None,
        };
        let mut facts = Facts::default();
        for family in both(&shape.underlay) {
            let net = node_net(family, index, shape.far[index]);
            node.addresses.insert(family, net.addr());
            facts.underlay.insert(family, underlay(net));
        }
        for family in both(&shape.pods) {
            node.pod_ranges.insert(family, pod_range(family, index, shape.stray && index == 0));
        }
        facts.attachments = (0..*pods).map(|pod| pod_on(&node, pod)).collect();
        built.facts.insert(name.clone(), facts);
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
    World { nodes: built.cluster.nodes.iter().map(planned).collect(), ..World::default() }
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
