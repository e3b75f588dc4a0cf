//! What could not be planned.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, NodeName, ObjectName, PodRange};

use crate::services::Frontend;
use crate::{Key, Obstacle, Origin, Refusal};

/// Something in the cluster's state that keeps a part of the plan from being made. The rest is planned all the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// The node has no underlay address.
    #[error(
        "Node {0} has no InternalIP in status.addresses, so it cannot be reached; set --node-ip of its kubelet"
    )]
    NoAddress(NodeName),
    /// The node has no pod range.
    #[error(
        "Node {0} has no spec.podCIDRs, so it can have no pods; see that the cluster allocates node CIDRs"
    )]
    NoRange(NodeName),
    /// Two nodes without a common underlay family.
    #[error("Node {remote} and Node {local} have no address family in common, so no tunnel can join them")]
    NoCommonFamily {
        /// The node that is planned for.
        local: NodeName,
        /// The other one.
        remote: NodeName,
    },
    /// A pod range that cannot be reached without encapsulation.
    #[error(
        "Node {remote}: there is no route to its pod range {range}, because encapsulation is none and {obstacle}"
    )]
    NoPlainRoute {
        /// The other node.
        remote: NodeName,
        /// Its range.
        range: PodRange,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// A pod range to which nothing can be sent in IP in IP.
    #[error("Node {remote}: nothing can be sent to its pod range {range} in IP in IP, because {obstacle}")]
    NoTunnel {
        /// The other node.
        remote: NodeName,
        /// Its range.
        range: PodRange,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// What BGP peers have told and is not planned as they did, or not at all.
    #[error("BGP: {prefix}{} {refusal}", beside(*.others))]
    Learned {
        /// One of the prefixes.
        prefix: IpNet,
        /// How many there are beside it.
        others: usize,
        /// Why.
        refusal: Refusal,
    },
    /// VXLAN to a node beyond a NAT gateway.
    #[error(
        "{behind}, and cannot be reached in VXLAN: that is sent from any UDP port to port {port} of an address, and the \
         gateway passes on only what the inside has asked for; use protocol ipip in spec.encapsulation"
    )]
    VxlanThroughGateway {
        /// Who is behind which gateway.
        behind: String,
        /// The port of VXLAN, host byte order.
        port: u16,
    },
    /// No encapsulation to a node beyond a NAT gateway.
    #[error(
        "{behind}, and cannot be reached without encapsulation: the gateway knows no way to pods; use protocol ipip in \
         spec.encapsulation"
    )]
    PlainThroughGateway {
        /// Who is behind which gateway.
        behind: String,
    },
    /// Two sites, and nobody outside.
    #[error(
        "Node {remote} of site {other} cannot be reached from site {own}: neither gateway lets in what the other sends \
         first, and there is no node outside of all sites that both have a session with; add one"
    )]
    NoRelay {
        /// The other node.
        remote: NodeName,
        /// The site of this node.
        own: Box<str>,
        /// The other one.
        other: Box<str>,
    },
    /// A gateway that is nowhere.
    #[error(
        "Node {remote} cannot be reached: nobody knows the outer address of the NAT gateway of site {site}, as none of its \
         nodes has a BGP session with this node; give them the address as ExternalIP, or see what keeps the sessions down"
    )]
    NoGateway {
        /// The node behind it.
        remote: NodeName,
        /// Its site.
        site: Box<str>,
    },
    /// Two objects that claim the same entry.
    #[error("{loser} and {winner} both claim {}; {winner} keeps it until one of them changes", claim(.key))]
    Conflict {
        /// What both claim.
        key: Box<Key>,
        /// Who has it.
        winner: Origin,
        /// Who has not.
        loser: Origin,
    },
    /// Two services that claim the same address and port.
    #[error(
        "Service {loser} and Service {winner} both claim {frontend}; {winner} keeps it until one of them changes"
    )]
    FrontendConflict {
        /// What both claim.
        frontend: Frontend,
        /// Who has it.
        winner: ObjectName,
        /// Who has not.
        loser: ObjectName,
    },
    /// Two services with the same port for health checks.
    #[error(
        "Service {loser} and Service {winner} both have spec.healthCheckNodePort {port}; {winner} is answered for \
         until one of them changes"
    )]
    HealthPortConflict {
        /// The port, host byte order.
        port: u16,
        /// Whose endpoints are told.
        winner: ObjectName,
        /// Whose are not.
        loser: ObjectName,
    },
    /// A `BgpPeer` whose password is not known.
    #[error(
        "BgpPeer {peer}: there is no session, because the password of spec.passwordSecret is unknown: {reason}"
    )]
    NoPassword {
        /// The peer.
        peer: Box<str>,
        /// Why.
        reason: String,
    },
    /// A `BgpPeer` of a family that this node does not have.
    #[error(
        "BgpPeer {peer}: there is no session, because spec.address {address} is {family} and Node {node} has no {family} \
         InternalIP to speak from; give it one, or leave it out with spec.nodeSelector"
    )]
    NoAddressForPeer {
        /// The peer.
        peer: Box<str>,
        /// Its address.
        address: IpAddr,
        /// This node.
        node: NodeName,
        /// The family of both.
        family: Family,
    },
    /// A `BgpPeer` with the address of another peer.
    #[error(
        "BgpPeer {peer}: there is no session, because spec.address {address} is that of {holder}; use an address that \
         only this peer has"
    )]
    PeerAddressTaken {
        /// The peer.
        peer: Box<str>,
        /// Its address.
        address: IpAddr,
        /// Whose it is.
        holder: String,
    },
    /// A remote node's range overlaps this node's own.
    #[error("Node {remote}: pod range {range} overlaps {own}, a range of this node, and is left out")]
    OverlapsLocal {
        /// The other node.
        remote: NodeName,
        /// Its range.
        range: PodRange,
        /// The range of this node.
        own: PodRange,
    },
    /// A node's range is among the addresses of services.
    #[error(
        "Node {node}: pod range {range} overlaps {services} in spec.serviceRanges, whose addresses are refused \
         unless a service has them; its pods cannot be reached"
    )]
    AmongServices {
        /// The node.
        node: NodeName,
        /// Its range.
        range: PodRange,
        /// The range of services.
        services: IpNet,
    },
    /// The underlay is too narrow.
    #[error(
        "the MTU of {address} is {underlay} bytes, which leaves pods {left}; {family} needs at least {least}"
    )]
    MtuTooSmall {
        /// The underlay address of this node.
        address: IpAddr,
        /// The MTU of the link that has it, in bytes.
        underlay: u32,
        /// What is left for pods, in bytes.
        left: u32,
        /// The family that needs more.
        family: Family,
        /// What it needs, in bytes.
        least: u32,
    },
    /// A fixed MTU that does not fit.
    #[error(
        "spec.mtu: {configured} bytes do not fit; this node's underlay leaves {most}, which is used instead"
    )]
    MtuTooBig {
        /// The MTU asked for, in bytes.
        configured: u32,
        /// The biggest that fits, in bytes.
        most: u32,
    },
}

fn beside(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", like another prefix,".to_owned(),
        count => format!(", like {count} others,"),
    }
}

fn claim(key: &Key) -> String {
    match key {
        Key::Route(net) => format!("the pod range {net}"),
        Key::Forwarding(_, mac) => format!("the tunnel address {mac}"),
        Key::Neighbour(_, address) => format!("the gateway address {address}"),
        Key::TunnelNode(address) => format!("the underlay address {address}"),
        Key::TunnelRoute(net) => format!("packets to the pod range {net}"),
        Key::Member(member) => format!("the entry {} of set {}", member.key_text(), member.set),
        other => format!("{other:?}"),
    }
}
