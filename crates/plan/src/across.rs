//! What a node beyond a NAT gateway adds to the plan of this one.

use model::{NetworkConfig, Node, PodRange, Sending};

use crate::local::{is_complete, pod_mtu, prefix, stray};
use crate::remote::apart;
use crate::site::{HOLD, NoWay, View, Way};
use crate::tables::TUNNELLED;
use crate::underlay::next_hop;
use crate::way::{self, Ground};
use crate::{Entry, Problem, Route};

/// The entries that lead to the pods of `remote`, if they are `routed`, and that let its packets in. Those of another site's nodes are let in by
/// the gateway's address, which is not this node's own business.
pub(crate) fn across(
    ground: &Ground<'_>,
    view: View<'_>,
    remote: &Node,
    routed: bool,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let Ground { network, local, subnets } = *ground;
    let mut entries = Vec::new();
    if remote.site.is_none() {
        entries.extend(view.accepted(remote).into_iter().map(Entry::TunnelNode));
    }
    if !is_complete(network, remote, problems) {
        return entries;
    }
    let ranges: Vec<&PodRange> =
        remote.pod_ranges.iter().filter(|range| apart(local, remote, range, problems)).collect();
    entries.extend(ranges.iter().filter_map(|range| stray(network, range)));
    if !matches!(network.encapsulation.sending, Sending::Ipip(_)) {
        problems.push(behind_gateway(network, local, remote));
        return entries;
    }
    for range in ranges {
        let led = match view.way(remote, range.family()) {
            Ok(Way::As(node)) => {
                let plain = || next_hop(subnets, local, node, range.family());
                way::to_node(ground, node, range.family(), plain)
            }
            Ok(Way::Tunnel { outer, held }) => {
                let led = way::between(
                    ground,
                    outer,
                    range.family(),
                    None,
                    || Ok(range.gateway()),
                    held.then_some(HOLD),
                );
                entries.extend(led.iter().filter_map(way::neighbour));
                led
            }
            Err(no_way) => {
                let problem = none(local, remote, no_way);
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
                continue;
            }
        };
        match led {
            Ok(led) if routed => {
                let (mtu, _) = pod_mtu(network, local, subnets);
                let led = way::entries(local, range.net(), network.route_source, vec![led]);
                entries.extend(led.into_iter().map(|entry| in_stretches(local, range, mtu, entry)));
            }
            Ok(_) => {}
            Err(obstacle) => {
                problems.push(Problem::NoTunnel { remote: remote.name.clone(), range: *range, obstacle });
            }
        }
        entries.push(prefix(TUNNELLED, range));
    }
    entries
}

/// What this node itself sends has its address to its pods, on the first of several stretches too: beyond the gateway
/// nobody could answer to its underlay address. And it is no longer than what the tunnel takes, whoever has that.
fn in_stretches(local: &Node, range: &PodRange, mtu: u32, entry: Entry) -> Entry {
    match entry {
        Entry::Route(route) => {
            let source = local.pod_ranges.of(range.family()).map(PodRange::gateway);
            Entry::Route(Route { source, mtu: Some(route.mtu.unwrap_or(mtu)), ..route })
        }
        other => other,
    }
}

fn none(local: &Node, remote: &Node, no_way: NoWay<'_>) -> Problem {
    let (local, remote) = (local.name.clone(), remote.name.clone());
    match no_way {
        NoWay::Relay { own, other } => Problem::NoRelay { remote, own: own.into(), other: other.into() },
        NoWay::Gateway(site) => Problem::NoGateway { remote, site: site.into() },
        NoWay::Family(other) => Problem::NoCommonFamily { local, remote: other.name.clone() },
    }
}

fn behind_gateway(network: &NetworkConfig, local: &Node, remote: &Node) -> Problem {
    let (remote_name, port) = (remote.name.clone(), network.encapsulation.vxlan.port.value());
    let behind = match (&remote.site, &local.site) {
        (Some(site), _) => format!("Node {remote_name} is behind the NAT gateway of site {site}"),
        (None, site) => {
            let site = site.as_deref().unwrap_or_default();
            format!("Node {remote_name} is outside of site {site}, behind whose NAT gateway this node is")
        }
    };
    match network.encapsulation.sending {
        Sending::Plain => Problem::PlainThroughGateway { behind },
        _ => Problem::VxlanThroughGateway { behind, port },
    }
}
