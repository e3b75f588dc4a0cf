//! Whom a node speaks BGP with, and what it says. In terms of its own: who speaks does it by these, and nothing of the
//! protocol is known here.
//!
//! Routes from BGP mean sessions between the nodes ([`mesh`]): of each with each, or of all with route reflectors (RFC
//! 4456) if any node is one. A `BgpPeer` is spoken with in any case ([`outside`]).

mod mesh;
mod outside;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use model::{
    Asn, BfdTimers, BgpPeer, Family, HoldTime, NetworkConfig, Node, NodeName, PasswordState, PeerPassword,
    PerFamily, PodRange, RouteFilter, RouteSource, SecretKey,
};

use crate::site::Heard;
use crate::{Problem, Underlay};

/// What is known beside the nodes and the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// All labels of the node that is planned for.
    pub labels: BTreeMap<String, String>,
    /// The `BgpPeer`s by name, whether or not this node is to speak with them.
    pub peers: BTreeMap<Box<str>, BgpPeer>,
    /// The passwords that were asked for.
    pub passwords: BTreeMap<SecretKey, PasswordState>,
}

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The configuration in force.
    pub network: &'a NetworkConfig,
    /// All nodes, this one included.
    pub nodes: &'a BTreeMap<NodeName, Node>,
    /// This one.
    pub local: &'a Node,
    /// The links that have its underlay addresses.
    pub underlay: &'a PerFamily<Underlay>,
    /// Whom there is to speak with besides.
    pub peers: &'a Peers,
}

/// The speaker that a node should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Its AS.
    pub asn: Asn,
    /// Its BGP identifier (RFC 6286).
    pub router_id: Ipv4Addr,
    /// The cluster that it reflects for; none for its own.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its own addresses, which are next hops of its routes.
    pub addresses: PerFamily<IpAddr>,
    /// Whether routes to the pods of other nodes come from its sessions.
    pub routes: bool,
    /// The sessions to have.
    pub sessions: BTreeMap<SessionName, Session>,
    /// The pod ranges of the node, which it tells everybody.
    pub pod_routes: BTreeSet<IpNet>,
    /// Whom the node hears through NAT gateways, which it tells with its pod ranges.
    pub heard: Heard,
}

/// With whom a session is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionName {
    /// Another node.
    Node(NodeName),
    /// A `BgpPeer`.
    Peer(Box<str>),
}

/// As `kubectl` names objects.
impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionName::Node(name) => write!(f, "node/{name}"),
            SessionName::Peer(name) => write!(f, "bgppeer/{name}"),
        }
    }
}

/// A session to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Where the peer is.
    pub address: IpAddr,
    /// Its TCP port, host byte order.
    pub port: u16,
    /// The address to speak from.
    pub source: IpAddr,
    /// The peer's AS.
    pub asn: Asn,
    /// The BGP identifier that it must have; none if that is not known.
    pub router_id: Option<Ipv4Addr>,
    /// Whether the peer is behind a NAT gateway: its connections come from where the gateway is, and none can be opened
    /// towards it.
    pub roaming: bool,
    /// Whether the peer is a client of this reflector.
    pub client: bool,
    /// Whether it is told this node as the next hop of what other nodes have. It always is of what comes from outside.
    pub next_hop_self: bool,
    /// Whether it is no node of the cluster: it is told the addresses of services, and nothing that comes from outside.
    pub outside: bool,
    /// The hold time to propose.
    pub hold_time: HoldTime,
    /// How fast BFD notices that it is gone; none if BFD is not spoken.
    pub bfd: Option<BfdTimers>,
    /// The password of TCP MD5 signatures (RFC 2385).
    pub password: Option<PeerPassword>,
    /// Whether packets from it count only if no router has passed them on (RFC 5082).
    pub ttl_security: bool,
    /// How many prefixes of a family it may announce.
    pub max_prefixes: Option<usize>,
    /// What is taken from it.
    pub import: RouteFilter,
    /// What is told to it.
    pub export: RouteFilter,
}

/// The speaker that the node should be; `None` if there is nobody to speak with. What is in the way of a session goes to
/// `problems`.
pub fn speaker(view: View<'_>, problems: &mut Vec<Problem>) -> Option<Speaker> {
    let View { network, local, .. } = view;
    let mut sessions = match network.route_source {
        RouteSource::Bgp => mesh::sessions(view),
        RouteSource::Kubernetes => BTreeMap::new(),
    };
    outside::add_sessions(view, &mut sessions, problems);
    (!sessions.is_empty()).then(|| Speaker {
        asn: network.bgp.asn,
        router_id: router_id(local),
        cluster_id: local.reflector.and_then(|reflector| reflector.cluster_id),
        addresses: local.addresses.clone(),
        routes: network.route_source == RouteSource::Bgp,
        sessions,
        pod_routes: local.pod_ranges.iter().map(PodRange::net).collect(),
        heard: Heard::new(),
    })
}

/// The BGP identifier of a node: its IPv4 address, if no other node can have the same one. Addresses of a site may occur
/// in another, so there, and without IPv4, it is made from the name, on every node the same.
pub fn router_id(node: &Node) -> Ipv4Addr {
    match node.addresses.v4 {
        Some(IpAddr::V4(address)) if node.site.is_none() => address,
        _ => Ipv4Addr::from(hash(node.name.as_str())),
    }
}

/// FNV-1a in 32 bits (draft-eastlake-fnv), never 0, which no BGP identifier may be (RFC 6286). Two of 1,000 nodes have the
/// same one in one of 9,000 clusters.
fn hash(text: &str) -> u32 {
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// The address with which a node speaks to another that has these: IPv4 if both have it.
fn common(own: &PerFamily<IpAddr>, other: &PerFamily<IpAddr>) -> Option<(IpAddr, IpAddr)> {
    Family::BOTH.into_iter().find_map(|family| Some((*own.of(family)?, *other.of(family)?)))
}
