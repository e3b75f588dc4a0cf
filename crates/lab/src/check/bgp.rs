//! Rows 8 and 9: routes that come from BGP, and what goes by them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use model::{Family, Node, NodeName, PodRange, RouteSource, Sending, When};

use super::evidence::{ExpectedRoute, RouteFinding, RouteWay, Row};
use super::sites;
use super::view::View;
use super::ways::{in_one_subnet, is_plain};
use crate::fabric::{self, Found};
use crate::topology::{Interface, Machine, Role};
use crate::{Error, Result};

/// The protocols under which speakers of BGP put routes into a router: ours, as FRR, and BIRD (`RTPROT_BGP` and
/// `RTPROT_BIRD`, linux/rtnetlink.h).
const ROUTERS: [u8; 2] = [fabric::BGP, 12];
/// How long sessions may take to come up, and routes to come by them.
pub(super) const ROUTED_TIME: Duration = Duration::from_secs(20);
/// How soon is looked again.
pub(super) const AGAIN: Duration = Duration::from_millis(50);
/// The tunnel devices of a node.
const TUNNELS: [&str; 2] = ["vxlan.cambric", "vxlan6.cambric"];

/// Why a lab cannot have a row, if it cannot.
pub(super) fn obstacle(view: &View, row: Row) -> Option<String> {
    let network = &view.cluster.network;
    let sending = network.encapsulation.sending;
    let mode = match row {
        Row::NoOverlay if sending != Sending::Plain => Some("packets between nodes are encapsulated"),
        Row::CrossSubnet
            if !matches!(sending, Sending::Vxlan(When::CrossSubnet) | Sending::Ipip(When::CrossSubnet)) =>
        {
            Some("encapsulation is not by subnet")
        }
        _ if network.route_source != RouteSource::Bgp => {
            Some("routes come from the Node objects, not from BGP")
        }
        Row::NoOverlay if view.topology.bgp_routers().next().is_none() => Some("no router speaks BGP"),
        Row::NoOverlay if view.topology.of_role(Role::Outside).next().is_none() => {
            Some("there is no outside host")
        }
        Row::CrossSubnet => missing_pair(view),
        _ => None,
    };
    mode.map(str::to_owned)
}

/// There must be nodes that share a subnet, and nodes that do not.
fn missing_pair(view: &View) -> Option<&'static str> {
    let nodes: Vec<&NodeName> = view.cluster.nodes.keys().collect();
    let pairs = nodes
        .iter()
        .flat_map(|one| nodes.iter().filter(move |other| *other != one).map(move |other| (*one, *other)));
    // Beyond a gateway it is another row.
    let together: Vec<bool> = pairs
        .filter(|(one, other)| !sites::across(view, one, other))
        .flat_map(|(one, other)| {
            view.families().into_iter().map(move |family| in_one_subnet(view, one, other, family))
        })
        .collect();
    match (together.contains(&true), together.contains(&false)) {
        (true, true) => None,
        (false, _) => Some("no two nodes share a subnet"),
        (true, false) if view.heard.is_empty() => Some("all nodes share one subnet"),
        (true, false) => Some("nodes of different subnets are behind NAT gateways"),
    }
}

/// What the kernels have for the nodes' pod ranges: those of the nodes, and for row 8 those of the routers that speak BGP.
pub(super) fn routes(view: &View, row: Row) -> Result<Vec<RouteFinding>> {
    let mut findings = Vec::new();
    for machine in view.topology.nodes() {
        let expected = ExpectedRoute {
            protocols: vec![plan::route_protocol(RouteSource::Bgp)],
            way: RouteWay::Tunnel { links: Vec::new() },
        };
        let name = node_name(machine)?;
        // Beyond gateways packets go in stretches, which are another row's.
        let near = |node: &&Node| node.name != name && !sites::across(view, &node.name, &name);
        let others = view.cluster.nodes.values().filter(near);
        let table = fabric::routes(&view.lab.namespace(&machine.name))?;
        for (node, range) in others.flat_map(ranges) {
            let way = way(view, machine, &name, node, range);
            let expected = ExpectedRoute { way, ..expected.clone() };
            findings.push(finding(row, machine, range.net(), expected, &table));
        }
    }
    for (router, _) in view.topology.bgp_routers().filter(|_| row == Row::NoOverlay) {
        let table = fabric::routes(&view.lab.namespace(&router.name))?;
        for (node, range) in view.cluster.nodes.values().flat_map(ranges) {
            let Some(way) = neighbour(view, router, node, range.family()) else { continue };
            let expected = ExpectedRoute { protocols: ROUTERS.into(), way };
            findings.push(finding(row, router, range.net(), expected, &table));
        }
    }
    Ok(findings)
}

/// Waits until all routes are as they should be, but not for ever: what never is, the check is there to find. Nobody tells
/// who is no speaker that the others have spoken.
pub(super) fn wait_routed(view: &View, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let rows: Vec<Row> =
        Row::ALL.into_iter().filter(|row| row.about_routes() && obstacle(view, *row).is_none()).collect();
    let deadline = Instant::now() + ROUTED_TIME;
    for row in rows {
        while routes(view, row)?.iter().any(|finding| !finding.faults().is_empty())
            && Instant::now() < deadline
        {
            go_on()?;
            std::thread::sleep(AGAIN);
        }
    }
    Ok(())
}

fn node_name(machine: &Machine) -> Result<NodeName> {
    NodeName::new(machine.name.as_str()).map_err(|error| Error::Other(error.to_string()))
}

fn ranges(node: &Node) -> impl Iterator<Item = (&Node, &PodRange)> {
    node.pod_ranges.iter().map(move |range| (node, range))
}

fn finding(
    row: Row,
    at: &Machine,
    destination: IpNet,
    expected: ExpectedRoute,
    table: &[Found],
) -> RouteFinding {
    let found = table.iter().filter(|route| route.destination == destination).cloned().collect();
    RouteFinding { row, at: at.name.clone(), destination, expected, found }
}

/// How a node's route leads to the pods of another.
fn way(view: &View, machine: &Machine, from: &NodeName, to: &Node, range: &PodRange) -> RouteWay {
    let tunnel = || RouteWay::Tunnel { links: TUNNELS.map(str::to_owned).into() };
    let uplink = machine.interfaces.first().map(|uplink| uplink.link.clone());
    let way = match view.cluster.network.encapsulation.sending {
        _ if is_plain(view, from, &to.name, range.family()) => neighbour(view, machine, to, range.family()),
        // What is to be encapsulated leaves by the uplink as well. Its next hop is one that nobody has.
        Sending::Ipip(_) => uplink.map(|link| RouteWay::Neighbour { via: range.gateway(), link }),
        _ => None,
    };
    way.unwrap_or_else(tunnel)
}

/// The way to a node that is in one of a machine's subnets: to its address of the family, or, if it has none, to the other
/// (RFC 8950).
fn neighbour(view: &View, machine: &Machine, node: &Node, family: Family) -> Option<RouteWay> {
    let there = view.topology.machine(node.name.as_str())?;
    let theirs = |ours: &Interface| there.interfaces.iter().find(|theirs| theirs.subnet == ours.subnet);
    let (ours, theirs) = machine.interfaces.iter().find_map(|ours| Some((ours, theirs(ours)?)))?;
    let via: IpAddr = theirs.addresses.of(family).or(theirs.addresses.v6.as_ref())?.addr();
    Some(RouteWay::Neighbour { via, link: ours.link.clone() })
}
