//! The walker: a packet's way through the plans of the nodes, on paper.
//!
//! It reads nothing but plans: routes, neighbours, forwarding entries and rules as [`plan`] made them. So what it
//! says is what the plans mean, and a test can hold it against what is captured on the wire.

mod answer;
mod display;
mod draws;
mod elements;
mod filter;
mod gateways;
mod lookup;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{LinkName, MacAddr, Node, NodeName};
use plan::{ChainName, NodePlan, Origin, SetName, Value};

pub use answer::answer;
pub use gateways::Gateway;
pub use steps::{walk, walk_all};

/// The nodes with their plans.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Each node with what its kernel should hold.
    pub nodes: BTreeMap<NodeName, (Node, NodePlan)>,
    /// The NAT gateways between them.
    pub gateways: Vec<Gateway>,
}

/// A packet as its sender makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport protocol (IANA protocol numbers).
    pub protocol: u8,
    /// The destination port, host byte order, if the protocol has ports.
    pub destination_port: Option<u16>,
}

/// Where a packet begins its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// In the pod whose host link this is.
    Pod(NodeName, LinkName),
    /// In the node itself.
    Node(NodeName),
    /// Outside of the cluster.
    Outside {
        /// The node whose uplink it comes to.
        node: NodeName,
    },
}

/// One of the ways that a packet can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One in how many packets takes it.
    pub one_in: u64,
    /// The way.
    pub walk: Walk,
}

/// A packet's way and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// What happened to it, in order.
    pub hops: Vec<Hop>,
    /// Where it ended.
    pub end: End,
    /// The packet as it arrived, or as it was when it was lost.
    pub packet: Packet,
}

/// Something that happened to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// On which node.
    pub node: NodeName,
    /// What.
    pub step: Step,
    /// The object whose entry decided it; `None` where the kernel decides alone.
    pub origin: Option<Origin>,
}

/// One step of a packet's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A rule decided.
    Rule {
        /// The chain.
        chain: ChainName,
        /// What the rule says of itself.
        comment: &'static str,
        /// The element of a map that it went by, if it went by one.
        element: Option<MapElement>,
    },
    /// A bridge forwarded it between two of its ports, or between a port and the node.
    Bridged {
        /// The bridge.
        bridge: LinkName,
    },
    /// A route was taken.
    Routed {
        /// The destination of the route.
        destination: ipnet::IpNet,
        /// The next hop, if it is not on the link itself.
        via: Option<IpAddr>,
        /// The outgoing link: a tunnel device, or the node's uplink if the packet goes to another node as it is; `None`
        /// for the node's own way out, which is not ours.
        link: Option<LinkName>,
    },
    /// The destination became an endpoint of a service; which service is in the hop's origin.
    Rewritten {
        /// The endpoint's address.
        destination: IpAddr,
        /// The endpoint's port, host byte order.
        port: u16,
    },
    /// The source address became the one by which the node reaches the endpoint of a service.
    SourceRewritten {
        /// The new source address.
        source: IpAddr,
    },
    /// The source address became that of the node.
    Masqueraded {
        /// The new source address.
        source: IpAddr,
    },
    /// It is an answer, and its destination became the sender of the connection's first packet again.
    DestinationRestored {
        /// That sender's address.
        destination: IpAddr,
    },
    /// It is an answer, and its source became what the connection's first packet was sent to.
    SourceRestored {
        /// That address.
        source: IpAddr,
    },
    /// It was put into VXLAN.
    Encapsulated {
        /// The device.
        link: LinkName,
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
        /// The inner Ethernet destination.
        mac: MacAddr,
    },
    /// It was taken out of VXLAN.
    Decapsulated {
        /// The device.
        link: LinkName,
    },
    /// It was put into IP in IP.
    Wrapped {
        /// The uplink.
        link: LinkName,
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
        /// How long it can have been, in bytes.
        mtu: Option<u32>,
    },
    /// A NAT gateway changed the outer addresses on the way.
    Translated {
        /// The site that is behind the gateway.
        site: Box<str>,
        /// The outer source address from there on.
        source: IpAddr,
        /// The outer destination address from there on.
        destination: IpAddr,
    },
    /// It was taken out of IP in IP.
    Unwrapped,
}

/// An element of a map in a node's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapElement {
    /// The map.
    pub map: SetName,
    /// Its key.
    pub key: Vec<Value>,
}

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// In the pod whose host link this is.
    Pod(NodeName, LinkName),
    /// In a node itself.
    Node(NodeName),
    /// Outside of the cluster, by the node's own uplink.
    Outside,
    /// Nowhere.
    Lost(Loss),
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A rule dropped it.
    Dropped {
        /// The chain of the rule.
        chain: ChainName,
        /// What the rule says of itself.
        comment: &'static str,
    },
    /// A rule dropped it and told its sender so, by a TCP reset or an ICMP error.
    Refused {
        /// The chain of the rule.
        chain: ChainName,
        /// What the rule says of itself.
        comment: &'static str,
    },
    /// A map leads to a chain that its table does not have.
    NoSuchChain(ChainName),
    /// A route leads to a next hop without a neighbour entry.
    NoNeighbour(IpAddr),
    /// A neighbour entry leads to an Ethernet address without a forwarding entry.
    NoForwarding(MacAddr),
    /// A tunnel or a route leads to an address that no node has.
    NoSuchNode(IpAddr),
    /// The receiving node has no such tunnel device, or it has another Ethernet address or network identifier.
    TunnelMismatch(LinkName),
    /// The receiving node takes no IP in IP from this address.
    Stranger(IpAddr),
    /// A NAT gateway remembers another node of its site, and lets nobody else through.
    Remembered {
        /// The site.
        site: Box<str>,
        /// The node that it remembers.
        node: NodeName,
    },
    /// A NAT gateway lets in only what the inside has asked for, and nobody has.
    NotAsked {
        /// The site behind it.
        site: Box<str>,
    },
    /// The address is in a node's range, and no pod has it.
    NoSuchPod(IpAddr),
    /// The way led through so many nodes that it must be a circle.
    Loop,
}

#[cfg(test)]
mod services_tests;
