//! What another node adds to the plan of this one.

use std::net::IpAddr;

use model::{Family, MacAddr, Node, PodRange, RouteSource, Sending};

use crate::local::{is_complete, prefix, stray, tunnel_link};
use crate::rules::Value;
use crate::tables::{NODES, TUNNELLED};
use crate::underlay::next_hop;
use crate::way::{self, Carrier, Ground};
use crate::{Entry, Member, Problem};

/// The entries that lead from the local node to the pods of `remote`, and that let its packets in. There are routes to
/// the pod ranges that are `routed`; others have to be told of.
///
/// The way through the tunnel is there even if no route leads into it: when one does, nothing is missing.
pub(crate) fn remote(
    ground: &Ground<'_>,
    remote: &Node,
    routed: impl Fn(&PodRange) -> bool,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let Ground { network, local, subnets } = *ground;
    // A node's packets are accepted from all of its addresses, whichever of them it prefers to send from.
    let mut entries: Vec<Entry> = remote
        .addresses
        .iter()
        .flat_map(|address| [node_member(address), Entry::TunnelNode(*address)])
        .collect();
    if !is_complete(network, remote, problems) {
        return entries;
    }
    let Some(underlay) = way::tunnel_family(local, remote) else {
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
        let plain = || next_hop(subnets, local, remote, range.family());
        match way::to_node(ground, remote, range.family(), plain) {
            Ok(way) => {
                entries.extend(way::neighbour(&way));
                if matches!(way.carrier, Carrier::Ipip { .. }) {
                    entries.push(prefix(TUNNELLED, range));
                }
                if routed(range) {
                    entries.extend(way::entries(local, range.net(), RouteSource::Kubernetes, vec![way]));
                }
            }
            Err(obstacle) if routed(range) => {
                let (remote, range) = (remote.name.clone(), *range);
                problems.push(match network.encapsulation.sending {
                    Sending::Ipip(_) => Problem::NoTunnel { remote, range, obstacle },
                    _ => Problem::NoPlainRoute { remote, range, obstacle },
                });
            }
            // Who tells of the range says how it is reached.
            Err(_) => {}
        }
    }
    entries
}

fn node_member(address: &IpAddr) -> Entry {
    Entry::Member(Member {
        family: Family::of(address).into(),
        set: NODES,
        key: [Value::Address(*address)].into(),
    })
}

pub(crate) fn apart(local: &Node, remote: &Node, range: &PodRange, problems: &mut Vec<Problem>) -> bool {
    let overlap = way::is_apart(local, range).err();
    problems.extend(overlap.map(|own| Problem::OverlapsLocal {
        remote: remote.name.clone(),
        range: *range,
        own,
    }));
    overlap.is_none()
}
