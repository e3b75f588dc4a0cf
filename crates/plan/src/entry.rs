//! The entries of a plan: what one node's kernel should hold, each under a key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{AttachmentId, LinkName, MacAddr, NodeName, Vni, VxlanPort};

use crate::services::{ServicePlan, ServicePortName};
use crate::site::Keepalive;
use crate::{Problem, Route, SetName, Table, TableFamily, Value, ipip};

/// Entries by key. The order of keys is the order in which entries can be made.
pub type Entries = BTreeMap<Key, Planned>;

/// All that one node's kernel should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// What the kernel should hold.
    pub entries: Entries,
    /// What connections to services become.
    pub services: ServicePlan,
    /// What could not be planned, and why.
    pub problems: Vec<Problem>,
    /// What is to be sent every [`crate::site::KEEPALIVE_INTERVAL`].
    pub keepalives: BTreeSet<Keepalive>,
}

/// An entry and the object it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What the kernel should hold.
    pub entry: Entry,
    /// Why.
    pub origin: Origin,
}

/// The object that an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The `ClusterNetwork`, or the node itself.
    ClusterNetwork,
    /// What BGP peers have told of a prefix.
    Learned(IpNet),
    /// The nodes behind one NAT gateway.
    Site(Box<str>),
    /// A node of the cluster.
    Node(NodeName),
    /// A port of a service.
    Service(Arc<ServicePortName>),
    /// A pod's interface on this node.
    Attachment(AttachmentId),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::ClusterNetwork => f.write_str("ClusterNetwork"),
            Origin::Learned(prefix) => write!(f, "BGP route {prefix}"),
            Origin::Site(site) => write!(f, "site {site}"),
            Origin::Node(name) => write!(f, "Node {name}"),
            Origin::Service(name) => write!(f, "Service {name}"),
            Origin::Attachment(id) => write!(f, "Pod interface {id}"),
        }
    }
}

/// What makes an entry the same entry when its content changes. Keys are ordered so that an entry comes after
/// those it needs: tables before their members, links before what is on them, neighbours before routes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An nftables table of ours, by family.
    Table(TableFamily),
    /// An element of a set in one of our tables.
    Member(Member),
    /// A network interface.
    Link(LinkName),
    /// A pod's host link, as a port of the bridge.
    Port(LinkName),
    /// A kernel setting, as a path below `/proc/sys`.
    Sysctl(String),
    /// An address on one of our links.
    Address(LinkName, IpNet),
    /// A permanent entry in the forwarding table of a VXLAN device.
    Forwarding(LinkName, MacAddr),
    /// A permanent neighbour entry.
    Neighbour(LinkName, IpAddr),
    /// An outer address at which this node takes IP in IP. What the programs go by comes before the programs.
    TunnelLocal(IpAddr),
    /// An outer address from which IP in IP is taken.
    TunnelNode(IpAddr),
    /// What the programs do with packets that leave by an uplink, by destination.
    TunnelRoute(IpNet),
    /// An uplink with the programs of IP in IP.
    TunnelUplink(LinkName),
    /// The fast path.
    FastPath,
    /// A route in the main table, by destination.
    Route(IpNet),
}

impl Key {
    /// The kind of the entry in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Key::Table(_) => "table",
            Key::Member(_) => "member",
            Key::Link(_) => "link",
            Key::Port(_) => "port",
            Key::Sysctl(_) => "sysctl",
            Key::Address(..) => "address",
            Key::Forwarding(..) => "forwarding",
            Key::Neighbour(..) => "neighbour",
            Key::TunnelLocal(_) => "tunnel-local",
            Key::TunnelNode(_) => "tunnel-node",
            Key::TunnelUplink(_) => "tunnel-uplink",
            Key::TunnelRoute(_) => "tunnel-route",
            Key::FastPath => "fast-path",
            Key::Route(_) => "route",
        }
    }
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Sets, chains and rules of an nftables table. The elements of the sets are [`Entry::Member`]s.
    Table(Table),
    /// An element of a set.
    Member(Member),
    /// A network interface, up.
    Link(Link),
    /// The node's end of a pod's veth pair is a port of the bridge, up, and may send a frame back by the port that
    /// it came in by (hairpin mode, for a pod that reaches itself through a service).
    ///
    /// The CNI plugin makes the link and the port; a bridge that was deleted and made again has lost its ports. A
    /// link that does not exist is not an error: the pod is gone or not there yet, and only the plugin makes it.
    Port {
        /// The node's end of the pair.
        link: LinkName,
        /// The bridge.
        bridge: LinkName,
    },
    /// A kernel setting.
    Sysctl {
        /// The path below `/proc/sys`.
        path: String,
        /// What it should hold.
        value: String,
    },
    /// An address on a link.
    Address {
        /// The link.
        link: LinkName,
        /// The address with its prefix length.
        net: IpNet,
    },
    /// A forwarding entry: packets to this Ethernet address go to that node.
    Forwarding {
        /// The VXLAN device.
        link: LinkName,
        /// The Ethernet address of the remote node's tunnel device.
        mac: MacAddr,
        /// The underlay address of the remote node.
        node: IpAddr,
    },
    /// A neighbour that needs no resolution.
    ///
    /// It has the protocol number of our routes (`NDA_PROTOCOL`, linux/neighbour.h), which is what marks it on a link of
    /// others.
    Neighbour {
        /// The link.
        link: LinkName,
        /// The network address.
        address: IpAddr,
        /// The Ethernet address.
        mac: MacAddr,
    },
    /// An outer address of this node: IP in IP that is sent to it is unpacked.
    TunnelLocal(IpAddr),
    /// An outer address of another node: IP in IP from it is taken, whatever this node sends. All else is dropped.
    TunnelNode(IpAddr),
    /// A link to the underlay with the programs of IP in IP.
    TunnelUplink(LinkName),
    /// Packets to a destination that leave by such a link go in IP in IP.
    ///
    /// They leave by it only if a route leads them there: the [`Entry::Route`] to the same destination.
    TunnelRoute {
        /// The destination.
        destination: IpNet,
        /// How they go.
        route: ipip::Route,
    },
    /// Packets of flows that are known go by the fast path. What it goes by is in other entries ([`crate::fast`]).
    FastPath,
    /// A route.
    Route(Route),
}

/// A network interface of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The bridge that pods are attached to.
    Bridge {
        /// Its name.
        name: LinkName,
        /// Its Ethernet address, fixed so that pods' neighbour entries stay right when ports come and go.
        mac: MacAddr,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// A VXLAN device that learns nothing.
    Vxlan {
        /// Its name.
        name: LinkName,
        /// The network identifier.
        vni: Vni,
        /// The UDP destination port.
        port: VxlanPort,
        /// The underlay address of this node.
        local: IpAddr,
        /// Its Ethernet address.
        mac: MacAddr,
        /// Its MTU in bytes: the underlay's less the encapsulation.
        mtu: u32,
    },
    /// A port of the bridge that pods are attached to, and down. It is there for the room that packets from pods have before
    /// them for an outer header: a bridge has all its ports leave as much as any of them needs. It is a VXLAN device,
    /// which needs as much as the outer headers that we put there.
    Headroom {
        /// Its name.
        name: LinkName,
        /// An underlay address of this node, of the family of the bigger outer headers.
        local: IpAddr,
        /// Its Ethernet address, which is nobody's in the cluster's pods.
        mac: MacAddr,
    },
}

impl Link {
    /// The link's name.
    pub fn name(&self) -> &LinkName {
        match self {
            Link::Bridge { name, .. } | Link::Vxlan { name, .. } | Link::Headroom { name, .. } => name,
        }
    }
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The family of the table.
    pub family: TableFamily,
    /// The set.
    pub set: SetName,
    /// The fields of the element, in the order of the set's declaration. An entry and its key share them.
    pub key: Arc<[Value]>,
}

impl Entry {
    /// The key under which the entry stands in a plan.
    pub fn key(&self) -> Key {
        match self {
            Entry::Table(table) => Key::Table(table.family),
            Entry::Member(member) => Key::Member(member.clone()),
            Entry::Link(link) => Key::Link(link.name().clone()),
            Entry::Port { link, .. } => Key::Port(link.clone()),
            Entry::Sysctl { path, .. } => Key::Sysctl(path.clone()),
            Entry::Address { link, net } => Key::Address(link.clone(), *net),
            Entry::Forwarding { link, mac, .. } => Key::Forwarding(link.clone(), *mac),
            Entry::Neighbour { link, address, .. } => Key::Neighbour(link.clone(), *address),
            Entry::TunnelLocal(address) => Key::TunnelLocal(*address),
            Entry::TunnelNode(address) => Key::TunnelNode(*address),
            Entry::TunnelUplink(link) => Key::TunnelUplink(link.clone()),
            Entry::TunnelRoute { destination, .. } => Key::TunnelRoute(*destination),
            Entry::FastPath => Key::FastPath,
            Entry::Route(route) => Key::Route(route.destination),
        }
    }
}
