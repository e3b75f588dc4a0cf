//! The networks between the nodes, and the way to another node without encapsulation.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, LinkName, Node, PerFamily};

/// The link that has an underlay address of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: LinkName,
    /// The address with its prefix length: who is in the prefix is reached without a router.
    pub net: IpNet,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What keeps packets from another node if they are not encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Obstacle {
    /// The node is in another subnet.
    #[error(
        "{address} is not in {subnet}, the subnet of this node; use protocol vxlan or ipip with when crossSubnet"
    )]
    OtherSubnet {
        /// Its underlay address.
        address: IpAddr,
        /// The subnet of this node.
        subnet: IpNet,
    },
    /// The nodes lack addresses of the family.
    #[error("the two nodes do not both have an {0} InternalIP; give them one, or use protocol vxlan or ipip")]
    Family(Family),
    /// An IPv6 route with an IPv4 next hop.
    #[error("IPv6 packets cannot go by an IPv4 next hop; have its peer tell an IPv6 one")]
    NextHopFamily,
    /// The node has no pod range of the family.
    #[error(
        "the node has no pod range whose gateway could take {0} packets from a tunnel; see spec.podCIDRs"
    )]
    NoGateway(Family),
    /// The subnet of this node is not known.
    #[error("no link of this node has its InternalIP {0}; see --node-ip of its kubelet")]
    NoSubnet(IpAddr),
}

/// The link and the next hop by which packets of a family go to `remote` as they are.
///
/// IPv4 packets can go by an IPv6 next hop, if the nodes have only IPv6 in common (RFC 8950). The kernel cannot do it
/// the other way round.
pub(crate) fn next_hop(
    underlay: &PerFamily<Underlay>,
    local: &Node,
    remote: &Node,
    of: Family,
) -> Result<(LinkName, IpAddr), Obstacle> {
    let families: &'static [Family] = match of {
        Family::V4 => &[Family::V4, Family::V6],
        Family::V6 => &[Family::V6],
    };
    let both = |family: &'static Family| {
        Some((family, local.addresses.of(*family)?, *remote.addresses.of(*family)?))
    };
    let (family, own, address) = families.iter().find_map(both).ok_or(Obstacle::Family(of))?;
    let Underlay { link, net, .. } = known(underlay, *family, *own)?;
    if !net.contains(&address) {
        return Err(Obstacle::OtherSubnet { address, subnet: net.trunc() });
    }
    Ok((link.clone(), address))
}

/// The link by which packets of a family go to a next hop in a subnet of this node.
pub(crate) fn link_to(
    underlay: &PerFamily<Underlay>,
    local: &Node,
    next_hop: IpAddr,
    of: Family,
) -> Result<LinkName, Obstacle> {
    let family = Family::of(&next_hop);
    if of == Family::V6 && family == Family::V4 {
        return Err(Obstacle::NextHopFamily);
    }
    let own = local.addresses.of(family).ok_or(Obstacle::Family(family))?;
    let Underlay { link, net, .. } = known(underlay, family, *own)?;
    if !net.contains(&next_hop) {
        return Err(Obstacle::OtherSubnet { address: next_hop, subnet: net.trunc() });
    }
    Ok(link.clone())
}

/// The link that has the node's own address of a family. Between a change of the node's address and the next look at its
/// links it is on none that is known.
pub(crate) fn known(
    underlay: &PerFamily<Underlay>,
    family: Family,
    own: IpAddr,
) -> Result<&Underlay, Obstacle> {
    underlay.of(family).filter(|underlay| underlay.net.addr() == own).ok_or(Obstacle::NoSubnet(own))
}
