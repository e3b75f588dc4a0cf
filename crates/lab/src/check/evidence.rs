//! What was found out about a lab: facts, without a judgement.

mod route;
mod service;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use model::Family;
use serde::Serialize;

pub use self::route::{ExpectedRoute, RouteFinding, RouteWay, Shown};
pub use self::service::{Aspect, Connection, Fate, Got, Leg, Path, Target, Try};

/// All that was gathered in one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The lab.
    pub lab: String,
    /// The nodes.
    pub nodes: Vec<String>,
    /// How many pods there are.
    pub pods: usize,
    /// The addresses by which nodes talk to pods.
    pub gateways: Vec<IpAddr>,
    /// The families in which pods have addresses.
    pub families: Vec<Family>,
    /// How packets between nodes should be carried, for the reader.
    pub encapsulation: String,
    /// Captures that miss packets, and so prove nothing.
    pub blind: Vec<String>,
    /// Who shares a network namespace.
    pub namespaces: Vec<SharedNamespace>,
    /// Requests and their answers.
    pub exchanges: Vec<Exchange>,
    /// Connections to services.
    pub connections: Vec<Connection>,
    /// Packets that should not arrive.
    pub forgeries: Vec<Forgery>,
    /// Routes that rows are about.
    pub routes: Vec<RouteFinding>,
    /// Rows that this lab cannot have, and why.
    pub impossible: Vec<(Row, String)>,
}

/// A row of the network model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "u8")]
pub enum Row {
    /// Containers of one pod.
    Containers,
    /// Pod to pod on the same node.
    SameNode,
    /// Pod to pod on another node.
    OtherNode,
    /// Pod to service.
    Service,
    /// Node to node.
    Nodes,
    /// Outside to service or pod.
    Inbound,
    /// Pod to outside.
    Outbound,
    /// No overlay.
    NoOverlay,
    /// Plain in a subnet, encapsulated between subnets.
    CrossSubnet,
    /// Nodes behind a NAT gateway.
    BehindNat,
}

impl Row {
    /// All rows, in order.
    pub const ALL: [Row; 10] = [
        Row::Containers,
        Row::SameNode,
        Row::OtherNode,
        Row::Service,
        Row::Nodes,
        Row::Inbound,
        Row::Outbound,
        Row::NoOverlay,
        Row::CrossSubnet,
        Row::BehindNat,
    ];

    /// The number in the network model, from 1.
    pub fn number(self) -> u8 {
        self.into()
    }

    /// What the row is about.
    pub fn title(self) -> &'static str {
        match self {
            Row::Containers => "containers of one pod",
            Row::SameNode => "pod to pod, same node",
            Row::OtherNode => "pod to pod, other node",
            Row::Service => "pod to service",
            Row::Nodes => "node to node",
            Row::Inbound => "outside to service or pod",
            Row::Outbound => "pod to outside",
            Row::NoOverlay => "no overlay",
            Row::CrossSubnet => "cross-subnet",
            Row::BehindNat => "nodes behind NAT",
        }
    }

    /// Whether it says where routes come from.
    pub fn about_routes(self) -> bool {
        matches!(self, Row::NoOverlay | Row::CrossSubnet)
    }
}

impl From<Row> for u8 {
    fn from(row: Row) -> u8 {
        row as u8 + 1
    }
}

/// The network namespaces of a pod's containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedNamespace {
    /// The pod, as namespace/name.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// The inode of the pod's network namespace.
    pub inode: u64,
    /// How many containers the pod has.
    pub containers: usize,
    /// The inode of the network namespace of each container's process, by the container's name.
    pub processes: Vec<(String, u64)>,
}

/// One end of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// A pod as namespace/name, with the container where that matters; or a machine's name.
    pub name: String,
    /// The machine that it is, or runs on.
    pub machine: String,
    /// Its own address.
    pub address: IpAddr,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name == self.machine {
            write!(f, "{} {}", self.name, self.address)
        } else {
            write!(f, "{} {} on {}", self.name, self.address, self.machine)
        }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both.
    pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        })
    }
}

/// How a packet is on the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "as")]
pub enum Carried {
    /// Not at all.
    Nowhere,
    /// As it is.
    Plain {
        /// Its source address.
        source: IpAddr,
        /// Its destination address.
        destination: IpAddr,
    },
    /// In VXLAN.
    Vxlan {
        /// The network identifier.
        vni: u32,
        /// The UDP port, host byte order.
        port: u16,
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
    },
    /// In IP in IP.
    Ipip {
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
    },
    /// In more than one tunnel.
    Otherwise,
}

impl Carried {
    /// How the answer to such a packet is carried.
    #[must_use]
    pub fn reversed(self) -> Carried {
        match self {
            Carried::Plain { source, destination } => {
                Carried::Plain { source: destination, destination: source }
            }
            Carried::Vxlan { vni, port, source, destination } => {
                Carried::Vxlan { vni, port, source: destination, destination: source }
            }
            Carried::Ipip { source, destination } => {
                Carried::Ipip { source: destination, destination: source }
            }
            Carried::Nowhere | Carried::Otherwise => self,
        }
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Carried::Nowhere => f.write_str("nothing"),
            Carried::Plain { source, destination } => write!(f, "plain {source} > {destination}"),
            Carried::Vxlan { vni, port, source, destination } => {
                write!(f, "VXLAN {vni} port {port} {source} > {destination}")
            }
            Carried::Ipip { source, destination } => write!(f, "IP in IP {source} > {destination}"),
            Carried::Otherwise => f.write_str("another encapsulation"),
        }
    }
}

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// The row that it is to prove.
    pub row: Row,
    /// Who asked.
    pub from: Party,
    /// Who was asked.
    pub to: Party,
    /// By what.
    pub transport: Transport,
    /// What the row says.
    pub expected: Expected,
    /// What the plans of the nodes say; `None` where no plan has a say.
    pub predicted: Option<Predicted>,
    /// What the far end saw, or why nobody knows.
    pub heard: Result<Heard, String>,
    /// What was on the underlay.
    pub wire: Vec<Sighting>,
}

/// What a row says of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// The source address that the far end sees.
    pub source: IpAddr,
    /// How the request is carried.
    pub carried: Carried,
}

/// What the plans of the nodes say of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Predicted {
    /// Who gets the request.
    pub end: String,
    /// The source address that it has then.
    pub source: IpAddr,
    /// How it is carried.
    pub carried: Carried,
    /// The steps on the way, each with the node and the object that it comes from.
    pub steps: Vec<String>,
}

/// What the far end saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    /// Who says so.
    pub by: String,
    /// The source that it saw.
    pub source: SocketAddr,
}

/// Which way a captured packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// Out of the machine.
    Out,
    /// Into it.
    In,
}

/// A packet of an exchange, captured on a machine's link to the underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// The machine.
    pub at: String,
    /// Which way it went there.
    pub way: Way,
    /// Whether it belongs to the answer.
    pub answer: bool,
    /// How it was carried.
    pub carried: Carried,
    /// The packet as a line.
    pub packet: String,
}

/// A packet that should not arrive, and one like it that should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgery {
    /// The row that it belongs to.
    pub row: Row,
    /// What was forged.
    pub kind: ForgeryKind,
    /// Who sent it.
    pub from: Party,
    /// Whom it was to reach.
    pub to: Party,
    /// The source address that it pretended to have.
    pub pretended: IpAddr,
    /// The forged packet where it was last seen; `None` if it was not even sent.
    pub seen: Option<String>,
    /// Whether it arrived.
    pub arrived: bool,
    /// Whether the like of it from the one who may send it arrived, or why that is not known.
    pub control: Result<bool, String>,
}

/// A kind of forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ForgeryKind {
    /// A VXLAN packet from a host that is no node.
    StrangersVxlan,
    /// An IP in IP packet from a host that is no node.
    StrangersIpip,
    /// A packet from a pod with another pod's source address.
    SpoofedSource,
}

impl ForgeryKind {
    /// What it is called in the report.
    pub fn title(self) -> &'static str {
        match self {
            ForgeryKind::StrangersVxlan => "VXLAN from a stranger",
            ForgeryKind::StrangersIpip => "IP in IP from a stranger",
            ForgeryKind::SpoofedSource => "another pod's source",
        }
    }
}
