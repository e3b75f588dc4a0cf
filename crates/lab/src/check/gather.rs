//! Row by row: what is tried, and what is to be expected of it.

use std::net::{IpAddr, SocketAddr};

use model::{Family, NodeName};

use super::bgp;
use super::connections;
use super::evidence::{
    Carried, Connection, Evidence, Exchange, Expected, Heard, Party, Row, SharedNamespace, Transport,
};
use super::forge;
use super::predict::Predictor;
use super::probe::{self, Asked};
use super::processes;
use super::sites;
use super::trial::Ports;
use super::view::{self, Pod, View};
use super::ways::{self, between};
use super::wire::{Flow, Watch};
use crate::echo::Answer;
use crate::topology::{Machine, Role};
use crate::{Error, Result};

/// The rows that are about services, among others.
const SERVICES: [Row; 3] = [Row::Service, Row::Inbound, Row::BehindNat];
/// Up to this many nodes each pair of nodes is tried; beyond, each node and the next.
const ALL_PAIRS: usize = 4;

/// An exchange before the captures have been looked at.
struct Tried {
    exchange: Exchange,
    flow: Flow,
}

/// Tries everything and puts together what came of it.
pub(super) fn gather(view: &View, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<Evidence> {
    let predictor = Predictor::new(view);
    progress("trying forgeries")?;
    let forgeries = forge::forgeries(view)?;
    let watch = Watch::start(view)?;
    let mut tried = Vec::new();
    let mut routes = Vec::new();
    let impossible = impossible(view);
    let possible = |row: &Row| !impossible.iter().any(|(other, _)| other == row);
    for row in Row::ALL.into_iter().filter(|row| possible(row) && !SERVICES.contains(row)) {
        progress(&format!("trying row {}: {}", row.number(), row.title()))?;
        match row {
            Row::Containers => containers(view, &mut tried)?,
            Row::SameNode => pods(view, &predictor, row, &mut tried)?,
            Row::OtherNode => pods(view, &predictor, row, &mut tried)?,
            Row::Nodes => nodes(view, &predictor, &mut tried)?,
            Row::Outbound => outbound(view, &predictor, &mut tried)?,
            Row::NoOverlay => inbound(view, &predictor, &mut tried)?,
            Row::CrossSubnet => pods(view, &predictor, row, &mut tried)?,
            _ => {}
        }
        if row.about_routes() {
            routes.extend(bgp::routes(view, row)?);
        }
    }
    let wire = watch.stop()?;
    let mut blind = wire.blind.clone();
    let connections = services(view, &predictor, &mut blind, progress)?;
    let exchanges =
        tried.into_iter().map(|tried| Exchange { wire: wire.sightings(&tried.flow), ..tried.exchange });
    Ok(Evidence {
        lab: view.lab.to_string(),
        nodes: view.cluster.nodes.keys().map(ToString::to_string).collect(),
        pods: view.pods.len(),
        gateways: view
            .cluster
            .nodes
            .values()
            .flat_map(|node| node.pod_ranges.iter().map(|range| range.gateway()))
            .collect(),
        families: view.families(),
        encapsulation: ways::mode(view),
        exchanges: exchanges.collect(),
        connections,
        blind,
        namespaces: shared_namespaces(view)?,
        forgeries,
        routes,
        impossible,
    })
}

/// Rows 4, 6 and 10: everybody asks services, and pods beyond NAT gateways. They have captures of their own: many are
/// tried at the same time, and known by their marks.
fn services(
    view: &View,
    predictor: &Predictor<'_>,
    blind: &mut Vec<String>,
    progress: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Vec<Connection>> {
    let ports = Ports::new();
    let watch = Watch::start(view)?;
    let mut attempted = Vec::new();
    for row in SERVICES {
        progress(&format!("trying row {}: {}", row.number(), row.title()))?;
        attempted.extend(connections::connect(view, &ports, row)?);
    }
    let wire = watch.stop()?;
    let all = connections::conclude(view, predictor, attempted, &wire);
    blind.extend(wire.blind);
    Ok(all)
}

/// A pod as a party of an exchange.
pub(super) fn pod_party(pod: &Pod, address: IpAddr) -> Party {
    Party { name: pod.full_name(), machine: pod.node.to_string(), address }
}

/// A machine as a party of an exchange.
pub(super) fn machine_party(name: &str, address: IpAddr) -> Party {
    Party { name: name.to_owned(), machine: name.to_owned(), address }
}

fn impossible(view: &View) -> Vec<(Row, String)> {
    let mut impossible = Vec::new();
    if view.cluster.nodes.len() < 2 {
        impossible.push((Row::OtherNode, "there is only one node".to_owned()));
        impossible.push((Row::Nodes, "there is only one node".to_owned()));
    }
    if view.topology.of_role(Role::Outside).next().is_none() {
        impossible.push((Row::Outbound, "there is no outside host".to_owned()));
        impossible.push((Row::Inbound, "there is no outside host".to_owned()));
    }
    if view.cluster.nodes.values().all(|node| node.site.is_none()) {
        impossible.push((Row::BehindNat, "no node is behind a NAT gateway".to_owned()));
    }
    if let Some(why) = connections::obstacle(view) {
        impossible.extend(SERVICES.map(|row| (row, why.clone())));
    }
    let about_routes = Row::ALL.into_iter().filter(|row| row.about_routes());
    impossible.extend(about_routes.filter_map(|row| Some((row, bgp::obstacle(view, row)?))));
    impossible
}

/// The pods with more than one container that have a port each.
fn with_containers(view: &View) -> impl Iterator<Item = &Pod> {
    let named = |pod: &&Pod| {
        let serving = pod.containers.iter().filter(|container| !container.ports.is_empty());
        serving.count() > 1
    };
    view.pods.iter().filter(named)
}

/// Whether there are the pods that it takes to try the rows of this lab.
pub(super) fn enough_pods(view: &View) -> bool {
    let nodes_with_pods = view.cluster.nodes.keys().filter(|node| echo_pods(view, node).next().is_some());
    view.cluster.nodes.keys().any(|node| echo_pods(view, node).count() > 1)
        && nodes_with_pods.count() >= view.cluster.nodes.len().min(2)
        && with_containers(view).next().is_some()
}

pub(super) fn echo_pods<'v>(view: &'v View, node: &NodeName) -> impl Iterator<Item = &'v Pod> {
    view.pods.iter().filter(move |pod| pod.node == *node && pod.port().is_some())
}

fn shared_namespaces(view: &View) -> Result<Vec<SharedNamespace>> {
    let shared = |pod: &Pod| {
        let id = view::open(&pod.netns)?.id().map_err(Error::kernel(pod.full_name()))?;
        Ok(SharedNamespace {
            pod: pod.full_name(),
            node: pod.node.to_string(),
            inode: id.inode,
            containers: pod.containers.len(),
            processes: processes::namespaces(pod),
        })
    };
    with_containers(view).map(shared).collect()
}

/// Row 1: every container answers on the pod's loopback.
fn containers(view: &View, tried: &mut Vec<Tried>) -> Result<()> {
    for pod in with_containers(view) {
        let namespace = view::open(&pod.netns)?;
        for loopback in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
            if pod.addresses.of(Family::of(&loopback)).is_none() {
                continue;
            }
            for (container, (port, transport)) in
                pod.containers.iter().flat_map(|one| one.ports.iter().map(move |port| (one, *port)))
            {
                let name = format!("{}/{}", pod.full_name(), container.name);
                let server = SocketAddr::new(loopback, port);
                let asked = probe::ask(&namespace, server, transport, view.questions());
                let heard = asked.result.as_ref().map_err(Clone::clone).map(|answer| Heard {
                    by: format!(
                        "{}/{}/{}",
                        answer.identity.namespace, answer.identity.pod, answer.identity.container
                    ),
                    source: answer.source,
                });
                tried.push(Tried {
                    exchange: Exchange {
                        row: Row::Containers,
                        from: pod_party(pod, loopback),
                        to: Party { name, ..pod_party(pod, loopback) },
                        transport,
                        expected: Expected { source: loopback, carried: Carried::Nowhere },
                        predicted: None,
                        heard,
                        wire: Vec::new(),
                    },
                    flow: flow(transport, loopback, &asked, server, None),
                });
            }
        }
    }
    Ok(())
}

/// Rows 2, 3 and 9: a pod asks another one.
fn pods(view: &View, predictor: &Predictor<'_>, row: Row, tried: &mut Vec<Tried>) -> Result<()> {
    let pairs: Vec<(&Pod, &Pod)> = match row {
        Row::SameNode => view
            .cluster
            .nodes
            .keys()
            .filter_map(|node| {
                let mut pods = echo_pods(view, node);
                Some((pods.next()?, pods.next()?))
            })
            .collect(),
        _ => node_pairs(view)
            .into_iter()
            .filter_map(|(one, other)| Some((echo_pods(view, one).next()?, echo_pods(view, other).next()?)))
            .collect(),
    };
    for (from, to) in pairs {
        let namespace = view::open(&from.netns)?;
        let Some(port) = to.port() else { continue };
        for family in Family::BOTH {
            let (Some(source), Some(destination)) = (from.addresses.of(family), to.addresses.of(family))
            else {
                continue;
            };
            for transport in Transport::BOTH {
                let server = SocketAddr::new(*destination, port);
                let asked = probe::ask(&namespace, server, transport, view.questions());
                let heard = asked.result.as_ref().map_err(Clone::clone).map(heard);
                let seen = heard.as_ref().ok().map(|heard| heard.source);
                tried.push(Tried {
                    exchange: Exchange {
                        row,
                        from: pod_party(from, *source),
                        to: pod_party(to, *destination),
                        transport,
                        expected: Expected {
                            source: *source,
                            carried: between(view, (&from.node, *source), (&to.node, *destination)),
                        },
                        predicted: Some(predictor.sent_by_pod(from, *source, *destination, transport, port)),
                        heard,
                        wire: Vec::new(),
                    },
                    flow: flow(transport, *source, &asked, server, seen),
                });
            }
        }
    }
    Ok(())
}

/// Row 5: a node asks another one, as if there were no pods.
fn nodes(view: &View, predictor: &Predictor<'_>, tried: &mut Vec<Tried>) -> Result<()> {
    for (from, to) in node_pairs(view) {
        let (Some(one), Some(other)) =
            (view.topology.machine(from.as_str()), view.topology.machine(to.as_str()))
        else {
            continue;
        };
        for family in Family::BOTH {
            let (Some(source), Some(destination)) =
                (one.addresses().of(family).copied(), other.addresses().of(family).copied())
            else {
                continue;
            };
            for transport in Transport::BOTH {
                let predict = |port| predictor.sent_by_node(from, source, destination, transport, port);
                let from = (machine_party(&one.name, source), view.machine_namespace(&one.name)?);
                tried.push(to_machine(
                    view,
                    Row::Nodes,
                    from,
                    source,
                    (other, destination),
                    transport,
                    predict,
                )?);
            }
        }
    }
    Ok(())
}

/// Row 7: a pod of each node asks a host outside.
fn outbound(view: &View, predictor: &Predictor<'_>, tried: &mut Vec<Tried>) -> Result<()> {
    let Some(outside) = view.topology.of_role(Role::Outside).next() else { return Ok(()) };
    // What leaves a site is translated once more, and the capture outside knows nothing of who it was.
    for (name, node) in view.cluster.nodes.iter().filter(|(_, node)| node.site.is_none()) {
        let Some(pod) = view.pods.iter().find(|pod| pod.node == *name) else { continue };
        for family in Family::BOTH {
            let (Some(source), Some(seen), Some(destination)) = (
                pod.addresses.of(family).copied(),
                node.addresses.of(family).copied(),
                outside.addresses().of(family).copied(),
            ) else {
                continue;
            };
            for transport in Transport::BOTH {
                let predict = |port| predictor.sent_by_pod(pod, source, destination, transport, port);
                let from = (pod_party(pod, source), view::open(&pod.netns)?);
                tried.push(to_machine(
                    view,
                    Row::Outbound,
                    from,
                    seen,
                    (outside, destination),
                    transport,
                    predict,
                )?);
            }
        }
    }
    Ok(())
}

/// Row 8: a host outside asks a pod of each node by the pod's own address, and neither is hidden from the other.
fn inbound(view: &View, predictor: &Predictor<'_>, tried: &mut Vec<Tried>) -> Result<()> {
    let Some(outside) = view.topology.of_role(Role::Outside).next() else { return Ok(()) };
    let namespace = view.machine_namespace(&outside.name)?;
    for (pod, port) in view.cluster.nodes.keys().filter_map(|node| {
        let pod = echo_pods(view, node).next()?;
        Some((pod, pod.port()?))
    }) {
        for (family, transport) in
            Family::BOTH.into_iter().flat_map(|family| Transport::BOTH.map(|transport| (family, transport)))
        {
            let (Some(source), Some(destination)) =
                (outside.addresses().of(family).copied(), pod.addresses.of(family).copied())
            else {
                continue;
            };
            let server = SocketAddr::new(destination, port);
            let asked = probe::ask(&namespace, server, transport, view.questions());
            let heard = asked.result.as_ref().map_err(Clone::clone).map(heard);
            let seen = heard.as_ref().ok().map(|heard| heard.source);
            tried.push(Tried {
                exchange: Exchange {
                    row: Row::NoOverlay,
                    from: machine_party(&outside.name, source),
                    to: pod_party(pod, destination),
                    transport,
                    expected: Expected { source, carried: Carried::Plain { source, destination } },
                    predicted: Some(predictor.sent_from_outside(
                        &pod.node,
                        source,
                        destination,
                        transport,
                        port,
                    )),
                    heard,
                    wire: Vec::new(),
                },
                flow: flow(transport, source, &asked, server, seen),
            });
        }
    }
    Ok(())
}

/// What an echo server says of itself and of whom it sees.
fn heard(answer: &Answer) -> Heard {
    Heard { by: format!("{}/{}", answer.identity.namespace, answer.identity.pod), source: answer.source }
}

/// An exchange with a machine of the underlay, which should see `seen` as the source, and nothing encapsulated.
fn to_machine(
    view: &View,
    row: Row,
    (from, namespace): (Party, kernel::netns::NetNs),
    seen: IpAddr,
    (machine, destination): (&Machine, IpAddr),
    transport: Transport,
    predict: impl FnOnce(u16) -> super::evidence::Predicted,
) -> Result<Tried> {
    let there = view.machine_namespace(&machine.name)?;
    let met =
        probe::meet(&namespace, &there, destination, transport, view.questions()).map_err(Error::Other)?;
    let heard = met.asked.result.clone();
    let source = heard.as_ref().ok().copied();
    Ok(Tried {
        flow: flow(transport, from.address, &met.asked, met.server, source),
        exchange: Exchange {
            row,
            from,
            to: machine_party(&machine.name, destination),
            transport,
            expected: Expected { source: seen, carried: Carried::Plain { source: seen, destination } },
            predicted: Some(predict(met.server.port())),
            heard: heard.map(|source| Heard { by: machine.name.clone(), source }),
            wire: Vec::new(),
        },
    })
}

/// What to look for on the wire: packets between the server and what the client is known as.
fn flow<T>(
    transport: Transport,
    own: IpAddr,
    asked: &Asked<T>,
    server: SocketAddr,
    seen: Option<SocketAddr>,
) -> Flow {
    let known = |end: SocketAddr| (end.ip(), Some(end.port()));
    let local = asked.local.map_or((own, None), known);
    Flow { transport, clients: std::iter::once(local).chain(seen.map(known)).collect(), server }
}

/// The pairs of nodes that are tried. Those with a gateway between them are another row's.
fn node_pairs(view: &View) -> Vec<(&NodeName, &NodeName)> {
    let mut pairs = all_pairs(view);
    pairs.retain(|(one, other)| !sites::across(view, one, other));
    pairs
}

fn all_pairs(view: &View) -> Vec<(&NodeName, &NodeName)> {
    let nodes: Vec<&NodeName> = view.cluster.nodes.keys().collect();
    if nodes.len() <= ALL_PAIRS {
        let mut pairs = Vec::new();
        for one in &nodes {
            pairs.extend(nodes.iter().filter(|other| *other != one).map(|other| (*one, *other)));
        }
        return pairs;
    }
    let next = nodes.iter().cycle().skip(1);
    nodes.iter().zip(next).map(|(one, other)| (*one, *other)).collect()
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
