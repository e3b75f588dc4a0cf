//! What another node adds to the plan of this one.

use std::net::IpAddr;

use model::{
    Family, LinkName, MacAddr, NetworkConfig, Node, PerFamily, PodRange, RouteSource, Sending, When,
};

use crate::ipip::{NextHop, Outer};
use crate::local::{among_services, prefix, stray, tunnel_link};
use crate::rules::Value;
use crate::tables::{NODES, TUNNELLED};
use crate::underlay::{known, next_hop};
use crate::{Entry, Hop, Member, Obstacle, Problem, Route, Underlay, ipip};

/// The entries that lead from `local` to the pods of `remote`, and that let its packets in.
///
/// The way through the tunnel is there even if no route leads into it: when one does, nothing is missing.
pub(crate) fn remote(
    network: &NetworkConfig,
    local: &Node,
    subnets: &PerFamily<Underlay>,
    remote: &Node,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    // A node's packets are accepted from all of its addresses, whichever of them it prefers to send from.
    let mut entries: Vec<Entry> = remote
        .addresses
        .iter()
        .flat_map(|address| [node_member(address), Entry::TunnelNode(*address)])
        .collect();
    among_services(network, remote, problems);
    if remote.addresses.is_empty() {
        problems.push(Problem::NoAddress(remote.name.clone()));
        return entries;
    }
    if remote.pod_ranges.is_empty() {
        problems.push(Problem::NoRange(remote.name.clone()));
        return entries;
    }
    let Some(underlay) = tunnel_family(local, remote) else {
        problems.push(Problem::NoCommonFamily { local: local.name.clone(), remote: remote.name.clone() });
        return entries;
    };
    let Some(address) = remote.addresses.of(underlay) else { return entries };
    let link = tunnel_link(underlay);
    let mac = MacAddr::for_tunnel(address);
    let ranges: Vec<&PodRange> =
        remote.pod_ranges.iter().filter(|range| apart(local, remote, range, problems)).collect();
    if !ranges.is_empty() {
        entries.push(Entry::Forwarding { link: link.clone(), mac, node: *address });
    }
    for range in ranges {
        entries.extend(stray(network, range));
        entries.push(Entry::Neighbour { link: link.clone(), address: range.gateway(), mac });
        let plain =
            || next_hop(subnets, local, remote, range).map(|hop| vec![Entry::Route(direct(range, hop))]);
        let vxlan = || vec![Entry::Route(tunnelled(local, range, &link))];
        let ipip = || ipip(subnets, local, (underlay, *address), range);
        let way = match network.encapsulation.sending {
            Sending::Vxlan(When::Always) => Ok(vxlan()),
            Sending::Vxlan(When::CrossSubnet) => plain().or_else(|_| Ok(vxlan())),
            Sending::Ipip(When::Always) => ipip(),
            Sending::Ipip(When::CrossSubnet) => plain().or_else(|_| ipip()),
            Sending::Plain => plain(),
        };
        match way {
            Ok(way) => entries.extend(way),
            Err(obstacle) => {
                let (remote, range) = (remote.name.clone(), *range);
                problems.push(match network.encapsulation.sending {
                    Sending::Ipip(_) => Problem::NoTunnel { remote, range, obstacle },
                    _ => Problem::NoPlainRoute { remote, range, obstacle },
                });
            }
        }
    }
    entries
}

/// The way to a pod range of the node with an underlay address, in IP in IP.
///
/// The kernel's next hop is the other node itself, if it is in the subnet. If it is not, or has no address that the
/// kernel takes for a next hop, there is one that nobody has: the gateway of the range, at an Ethernet address that is
/// as good as any, since the programs look for the next hop themselves.
fn ipip(
    subnets: &PerFamily<Underlay>,
    local: &Node,
    (family, address): (Family, IpAddr),
    range: &PodRange,
) -> Result<Vec<Entry>, Obstacle> {
    let Some(own) = local.addresses.of(family).copied() else { return Err(Obstacle::Family(family)) };
    let Underlay { link, net, mtu } = known(subnets, family, own)?;
    let outer = Outer::new(own, address).ok_or(Obstacle::Family(family))?;
    let near = net.contains(&address) && (range.family() == Family::V4 || family == Family::V6);
    let mut entries = Vec::new();
    let (via, next_hop) = if near {
        (address, NextHop::Kept)
    } else {
        let mac = MacAddr::for_tunnel(&address);
        entries.push(Entry::Neighbour { link: link.clone(), address: range.gateway(), mac });
        (range.gateway(), NextHop::Asked)
    };
    entries.extend([
        prefix(TUNNELLED, range),
        Entry::TunnelRoute { destination: range.net(), route: ipip::Route { outer, next_hop, hold: None } },
        Entry::Route(Route {
            hops: vec![Hop { via, link: link.clone() }],
            mtu: Some(mtu.saturating_sub(outer.overhead())),
            ..tunnelled(local, range, link)
        }),
    ]);
    Ok(entries)
}

fn tunnelled(local: &Node, range: &PodRange, link: &LinkName) -> Route {
    let source = local.pod_ranges.of(range.family()).map(PodRange::gateway);
    Route { source, ..direct(range, (link.clone(), range.gateway())) }
}

/// The node itself takes its underlay address to get there: the other node's pods answer to that as well.
fn direct(range: &PodRange, (link, via): (LinkName, IpAddr)) -> Route {
    Route {
        destination: range.net(),
        hops: vec![Hop { via, link }],
        source: None,
        mtu: None,
        learned: RouteSource::Kubernetes,
    }
}

/// The underlay family between two nodes: IPv4 if both have it.
fn tunnel_family(local: &Node, remote: &Node) -> Option<Family> {
    let both =
        |family: &Family| local.addresses.of(*family).is_some() && remote.addresses.of(*family).is_some();
    Family::BOTH.into_iter().find(both)
}

fn node_member(address: &IpAddr) -> Entry {
    Entry::Member(Member {
        family: Family::of(address).into(),
        set: NODES,
        key: [Value::Address(*address)].into(),
    })
}

fn apart(local: &Node, remote: &Node, range: &PodRange, problems: &mut Vec<Problem>) -> bool {
    let Some(own) = local.pod_ranges.of(range.family()) else { return true };
    let overlap = own.net().contains(&range.net()) || range.net().contains(&own.net());
    if overlap {
        problems.push(Problem::OverlapsLocal { remote: remote.name.clone(), range: *range, own: *own });
    }
    !overlap
}
