//! What becomes of a prefix that peers have told.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, Node, PerFamily, RouteSource};

use super::{LearnedPath, Places, Refusal};
use crate::underlay::link_to;
use crate::way::{self, Ground, Way};
use crate::{Entry, Obstacle, Underlay};

/// A prefix as it was told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) prefix: IpNet,
    pub(crate) paths: &'a [LearnedPath],
    /// The addresses of this node that are not link-local.
    pub(crate) own_addresses: &'a [IpAddr],
    pub(crate) places: &'a Places,
}

/// The entries that lead to a prefix, and what is wrong with it.
pub(crate) fn route<'n>(
    ground: &Ground<'_>,
    told: &Told<'_>,
    node_at: impl Fn(&IpAddr) -> Option<&'n Node>,
) -> (Vec<Entry>, Vec<Refusal>) {
    let Told { prefix, paths, .. } = *told;
    match admission(ground, told) {
        Admission::Admitted => {}
        Admission::Ignored => return Default::default(),
        Admission::Refused(refusal) => return (Vec::new(), vec![refusal]),
    }
    let mut refusals = Vec::new();
    let mut ways = Vec::new();
    for path in paths {
        match way(ground, prefix, path, node_at(&path.next_hop)) {
            Ok(way) => ways.extend(way),
            Err(refusal) => refusals.push(refusal),
        }
    }
    (way::entries(ground.local, prefix, RouteSource::Bgp, ways), refusals)
}

enum Admission {
    Admitted,
    /// That it is told is as it should be, and yet another knows better.
    Ignored,
    Refused(Refusal),
}

fn admission(ground: &Ground<'_>, told: &Told<'_>) -> Admission {
    let Told { prefix, own_addresses, places, .. } = *told;
    let Ground { network, local, .. } = *ground;
    if let Some(own) = local.pod_ranges.iter().find(|own| own.net().contains(&prefix)) {
        return Admission::Refused(Refusal::OwnRange(*own));
    }
    let mut own_addresses = own_addresses.iter().chain(local.addresses.iter());
    if own_addresses.any(|own| IpNet::from(*own) == prefix) {
        return Admission::Refused(Refusal::OwnAddress);
    }
    // Who announces services announces them to their nodes too.
    if network.service_ranges.iter().any(|range| range.contains(&prefix)) {
        return Admission::Ignored;
    }
    match network.route_source {
        RouteSource::Kubernetes if places.is_in_range(&prefix) => Admission::Ignored,
        RouteSource::Kubernetes | RouteSource::Bgp => Admission::Admitted,
    }
}

/// The way of a path; none if it leads to this node itself.
fn way(
    ground: &Ground<'_>,
    prefix: IpNet,
    path: &LearnedPath,
    node: Option<&Node>,
) -> Result<Option<Way>, Refusal> {
    let family = Family::of_net(&prefix);
    let (next_hop, peer) = (path.next_hop, path.peer.clone());
    let plain = || link_to(ground.subnets, ground.local, next_hop, family).map(|link| (link, next_hop));
    let Some(node) = node else {
        return match plain() {
            Ok(hop) => Ok(Some(Way::plain(hop))),
            Err(Obstacle::NextHopFamily) => {
                Err(Refusal::NextHop { next_hop, peer, obstacle: Obstacle::NextHopFamily })
            }
            Err(_) => Err(Refusal::Beyond { next_hop, peer }),
        };
    };
    if node.name == ground.local.name {
        return Ok(None);
    }
    let way = way::to_node(ground, node, family, plain).map_err(|obstacle| Refusal::Node {
        node: node.name.clone(),
        peer: peer.clone(),
        obstacle,
    })?;
    match way.tunnel_end().filter(|end| leads_into_itself(prefix, end, ground.subnets)) {
        Some(end) => Err(Refusal::Circle { node: node.name.clone(), peer, end }),
        None => Ok(Some(way)),
    }
}

/// Whether packets to the other end of a tunnel would take the route into that tunnel: unless the end is in the subnet
/// of this node, and the subnet is in the prefix.
fn leads_into_itself(prefix: IpNet, end: &IpAddr, subnets: &PerFamily<Underlay>) -> bool {
    let nearer =
        |underlay: &Underlay| underlay.net.contains(end) && underlay.net.prefix_len() > prefix.prefix_len();
    prefix.contains(end) && !subnets.iter().any(nearer)
}
