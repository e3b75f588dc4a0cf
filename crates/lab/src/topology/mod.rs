//! The topology of a lab: subnets, and the machines in them.
//!
//! [`parse`] takes the text of a topology file and gives the whole network that it describes: every interface with
//! its addresses, every route. It does no I/O, and the same text always gives the same network.

mod addresses;
mod bgp;
mod check;
mod error;
mod nat;
mod network;
mod peers;
mod routes;
mod source;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use kube_source::BgpPeerSpec;
use model::{Family, LinkName, PerFamily};
use plan::Underlay;

pub(crate) use addresses::usable;
pub use bgp::{RouterBgp, SUBNET_LABEL, Session};
pub use error::TopologyError;
pub use nat::Nat;
pub use network::Network;

use crate::{Error, Result};

/// The most machines that a topology can have.
pub const MAX_MACHINES: usize = 256;

/// The most subnets that a topology can have.
pub const MAX_SUBNETS: usize = 64;

/// A topology, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The pods' network.
    pub network: Network,
    /// The subnets in the order of the file.
    pub subnets: Vec<Subnet>,
    /// Routers, NAT gateways, nodes and outside hosts, in this order, and each kind in the order of the file.
    pub machines: Vec<Machine>,
    /// The `BgpPeer`s by name: those of the file, or, if it says nothing of any, the routers that speak BGP.
    pub peers: BTreeMap<String, BgpPeerSpec>,
}

/// A subnet of the underlay: one broadcast domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its name, which is also its bridge's.
    pub name: String,
    /// Its prefixes, at least one.
    pub prefixes: PerFamily<IpNet>,
    /// The MTU of all interfaces in it, in bytes of IP packet.
    pub mtu: u32,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Forwards between its subnets.
    Router,
    /// Forwards from its first interface's subnet to its second's, under its own address there.
    NatGateway,
    /// A node of the cluster.
    Node,
    /// A host that is not of the cluster.
    Outside,
}

impl Role {
    /// Whether machines of this role forward packets of others.
    pub fn forwards(self) -> bool {
        matches!(self, Role::Router | Role::NatGateway)
    }

    /// What such a machine is called in a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Role::Router => "router",
            Role::NatGateway => "NAT gateway",
            Role::Node => "node",
            Role::Outside => "outside host",
        }
    }
}

/// A node, router, NAT gateway or outside host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name: a DNS label of at most [`crate::paths::MAX_MEMBER_NAME`] bytes.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its interfaces: `eth0`, `eth1` and so on. A NAT gateway's first is the inner one.
    pub interfaces: Vec<Interface>,
    /// Its routes beyond its own subnets.
    pub routes: Vec<Route>,
    /// A node's labels.
    pub labels: BTreeMap<String, String>,
    /// What a router says in BGP; none if it speaks none.
    pub bgp: Option<RouterBgp>,
    /// How a NAT gateway translates.
    pub nat: Option<Nat>,
}

impl Machine {
    /// The address of its first interface in each family.
    pub fn addresses(&self) -> PerFamily<IpAddr> {
        let first = self.interfaces.first();
        let of = |family| first.and_then(|one| one.addresses.of(family)).map(IpNet::addr);
        PerFamily { v4: of(Family::V4), v6: of(Family::V6) }
    }
}

/// An interface of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the machine.
    pub link: String,
    /// The position in [`Topology::subnets`] of the subnet it is in.
    pub subnet: usize,
    /// Its addresses with the lengths of the subnet's prefixes, one in each family of the subnet.
    pub addresses: PerFamily<IpNet>,
}

/// A route of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to; of length 0 for the default route.
    pub destination: IpNet,
    /// The next hop, of the same family, in one of the machine's subnets.
    pub gateway: IpAddr,
}

impl Topology {
    /// The nodes of the cluster.
    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.of_role(Role::Node)
    }

    /// The machines of a role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(move |machine| machine.role == role)
    }

    /// The links of a node to the underlay, as plans are made from them.
    pub fn underlay(&self, node: &str) -> PerFamily<Underlay> {
        let mut underlay = PerFamily::default();
        for interface in self.machine(node).into_iter().flat_map(|machine| &machine.interfaces) {
            let (Ok(link), Some(subnet)) =
                (LinkName::new(interface.link.as_str()), self.subnets.get(interface.subnet))
            else {
                continue;
            };
            for net in interface.addresses.iter() {
                underlay
                    .insert(Family::of_net(net), Underlay { link: link.clone(), net: *net, mtu: subnet.mtu });
            }
        }
        underlay
    }

    /// The machine of a name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// The machine that has an address.
    pub fn machine_with(&self, address: &IpAddr) -> Option<&Machine> {
        let has = |machine: &&Machine| {
            let nets = machine.interfaces.iter().flat_map(|interface| interface.addresses.iter());
            nets.into_iter().any(|net| net.addr() == *address)
        };
        self.machines.iter().find(has)
    }
}

/// Parses the text of a topology file.
///
/// # Errors
/// [`TopologyError`] for the first thing in it that cannot be used.
pub fn parse(text: &str) -> Result<Topology, TopologyError> {
    let file: source::File = serde_saphyr::from_str(text)?;
    check::check(&file)
}

/// Reads a topology file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Topology`] if it cannot be used.
pub fn load(path: &Path) -> Result<Topology> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::io("read the topology", path, source))?;
    parse(&text).map_err(|error| Error::Topology { file: path.to_owned(), error })
}

#[cfg(test)]
mod tests;
