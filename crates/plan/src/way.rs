//! How packets get to another node: as they are, or in a tunnel. Whoever says what is behind the node, the way to it is
//! this one.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use model::{
    Family, LinkName, MacAddr, NetworkConfig, Node, PerFamily, PodRange, RouteSource, Sending, When,
};

use crate::ipip::{self, NextHop, Outer};
use crate::local::tunnel_link;
use crate::underlay::known;
use crate::{Entry, Hop, Obstacle, Route, Underlay};

/// Where all ways begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) network: &'a NetworkConfig,
    /// The node that is planned for.
    pub(crate) local: &'a Node,
    /// The links that have its underlay addresses.
    pub(crate) subnets: &'a PerFamily<Underlay>,
}

/// A way to packets' next hop, and what becomes of them on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) hop: Hop,
    pub(crate) carrier: Carrier,
}

/// What packets are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// Nothing. The node itself takes its underlay address then: the other node's pods answer to that as well.
    Plain,
    /// VXLAN to a node's underlay address.
    Vxlan(IpAddr),
    /// IP in IP.
    Ipip {
        route: ipip::Route,
        /// What fits into it, in bytes.
        mtu: u32,
    },
}

impl Way {
    pub(crate) fn plain((link, via): (LinkName, IpAddr)) -> Way {
        Way { hop: Hop { via, link }, carrier: Carrier::Plain }
    }

    /// Where the outer packets go.
    pub(crate) fn tunnel_end(&self) -> Option<IpAddr> {
        match self.carrier {
            Carrier::Plain => None,
            Carrier::Vxlan(end) => Some(end),
            Carrier::Ipip { route, .. } => Some(route.outer.destination()),
        }
    }
}

/// How packets of a family get to `remote`; `plain` is how they would without encapsulation.
pub(crate) fn to_node(
    ground: &Ground<'_>,
    remote: &Node,
    family: Family,
    plain: impl Fn() -> Result<(LinkName, IpAddr), Obstacle>,
) -> Result<Way, Obstacle> {
    let plain = || plain().map(Way::plain);
    match ground.network.encapsulation.sending {
        Sending::Vxlan(When::Always) => vxlan(ground, remote, family),
        Sending::Vxlan(When::CrossSubnet) => plain().or_else(|_| vxlan(ground, remote, family)),
        Sending::Ipip(When::Always) => ipip(ground, remote, family, plain().ok().map(|way| way.hop)),
        Sending::Ipip(When::CrossSubnet) => plain().or_else(|_| ipip(ground, remote, family, None)),
        Sending::Plain => plain(),
    }
}

/// The underlay family between two nodes: IPv4 if both have it.
pub(crate) fn tunnel_family(local: &Node, remote: &Node) -> Option<Family> {
    let both =
        |family: &Family| local.addresses.of(*family).is_some() && remote.addresses.of(*family).is_some();
    Family::BOTH.into_iter().find(both)
}

/// Whether a pod range of another node leaves the ranges of this one alone.
pub(crate) fn is_apart(local: &Node, range: &PodRange) -> Result<(), PodRange> {
    match local.pod_ranges.of(range.family()) {
        Some(own) if own.net().contains(&range.net()) || range.net().contains(&own.net()) => Err(*own),
        _ => Ok(()),
    }
}

fn vxlan(ground: &Ground<'_>, remote: &Node, family: Family) -> Result<Way, Obstacle> {
    let (underlay, address) = outer_end(ground, remote, family)?;
    let via = gateway(ground, remote, family)?;
    Ok(Way { hop: Hop { via, link: tunnel_link(underlay) }, carrier: Carrier::Vxlan(address) })
}

/// The kernel's next hop is the other node itself, if it is in the subnet. If it is not, or has no address that the
/// kernel takes for a next hop, there is one that nobody has: the gateway of the range, at an Ethernet address that is
/// as good as any, since the programs look for the next hop themselves.
fn ipip(ground: &Ground<'_>, remote: &Node, family: Family, neighbour: Option<Hop>) -> Result<Way, Obstacle> {
    let (underlay, address) = outer_end(ground, remote, family)?;
    let own = *ground.local.addresses.of(underlay).ok_or(Obstacle::Family(underlay))?;
    let outer = Outer::new(own, address).ok_or(Obstacle::Family(underlay))?;
    between(ground, outer, family, neighbour, || gateway(ground, remote, family), None)
}

/// In IP in IP between two outer addresses. `neighbour` is the other end with an address of the pods' family, if it is in a
/// subnet of this node with that; on the link of the outer addresses that is the same neighbour. `nobody` is the next hop
/// that nobody has. With a time for which the other end may be silent.
pub(crate) fn between(
    ground: &Ground<'_>,
    outer: Outer,
    family: Family,
    neighbour: Option<Hop>,
    nobody: impl Fn() -> Result<IpAddr, Obstacle>,
    hold: Option<Duration>,
) -> Result<Way, Obstacle> {
    let (underlay, address) = (outer.family(), outer.destination());
    let Underlay { link, net, mtu } = known(ground.subnets, underlay, outer.source())?;
    // An IPv6 route has no IPv4 next hop.
    let near = match (family, underlay) {
        (Family::V6, Family::V4) => neighbour.filter(|hop| hop.link == *link).map(|hop| hop.via),
        _ => Some(address),
    };
    let (via, next_hop) = match near.filter(|_| net.contains(&address)) {
        Some(via) => (via, NextHop::Kept),
        None => (nobody()?, NextHop::Asked),
    };
    let route = ipip::Route { outer, next_hop, hold };
    let mtu = mtu.saturating_sub(outer.overhead());
    Ok(Way { hop: Hop { via, link: link.clone() }, carrier: Carrier::Ipip { route, mtu } })
}

fn outer_end(ground: &Ground<'_>, remote: &Node, family: Family) -> Result<(Family, IpAddr), Obstacle> {
    let underlay = tunnel_family(ground.local, remote).ok_or(Obstacle::Family(family))?;
    let address = remote.addresses.of(underlay).ok_or(Obstacle::Family(underlay))?;
    Ok((underlay, *address))
}

/// The address of the other node that has a neighbour entry on the tunnel's link. IPv4 packets can go by an IPv6 one.
fn gateway(ground: &Ground<'_>, remote: &Node, family: Family) -> Result<IpAddr, Obstacle> {
    let families: &[Family] = match family {
        Family::V4 => &[Family::V4, Family::V6],
        Family::V6 => &[Family::V6],
    };
    let range = families.iter().find_map(|family| remote.pod_ranges.of(*family));
    let range = range.filter(|range| is_apart(ground.local, range).is_ok());
    range.map(PodRange::gateway).ok_or(Obstacle::NoGateway(family))
}

/// The entries that lead packets for `destination` by any of the ways, of which the first is the best.
///
/// What goes into IP in IP is told by the destination alone, so there is but one such way, and none beside it.
pub(crate) fn entries(
    local: &Node,
    destination: IpNet,
    learned: RouteSource,
    mut ways: Vec<Way>,
) -> Vec<Entry> {
    let is_ipip = |way: &Way| matches!(way.carrier, Carrier::Ipip { .. });
    match ways.first() {
        None => return Vec::new(),
        Some(best) if is_ipip(best) => ways.truncate(1),
        Some(_) => ways.retain(|way| !is_ipip(way)),
    }
    let mut entries = Vec::new();
    let mut mtu = None;
    if let Some(Way { carrier: Carrier::Ipip { route, mtu: fits }, .. }) = ways.first() {
        entries.push(Entry::TunnelRoute { destination, route: *route });
        mtu = Some(*fits);
    }
    let tunnelled = ways.iter().any(|way| way.carrier != Carrier::Plain);
    let own = || local.pod_ranges.of(Family::of_net(&destination)).map(PodRange::gateway);
    let source = if tunnelled { own() } else { None };
    let mut hops: Vec<Hop> = ways.into_iter().map(|way| way.hop).collect();
    hops.sort();
    hops.dedup();
    entries.push(Entry::Route(Route { destination, hops, source, mtu, learned }));
    entries
}

/// What has to be known on the way's link of a next hop that nobody has.
pub(crate) fn neighbour(way: &Way) -> Option<Entry> {
    match way.carrier {
        Carrier::Ipip { route, .. } if route.next_hop == NextHop::Asked => Some(Entry::Neighbour {
            link: way.hop.link.clone(),
            address: way.hop.via,
            mac: MacAddr::for_tunnel(&route.outer.destination()),
        }),
        _ => None,
    }
}
