//! The way of a packet through the picture.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use trace::flow::NamedFlow;
use trace::journey::{EndView, Journey, Place, Point, Route};

use super::{Ground, Kind, machine_id};

/// A packet's way from thing to thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The ids of pods, machines, cables and subnets in the order in which it comes through them.
    pub there: Vec<String>,
    /// The broken cables on it.
    pub broken: Vec<Crossing>,
}

/// A broken cable on a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Crossing {
    /// The id of the cable.
    pub cable: String,
    /// What is broken, in words.
    pub why: String,
}

/// The way there of one of a journey's routes. Where a packet is between two machines, nodes do not know; it is taken to
/// go by as few routers and gateways as there are.
pub fn way(ground: &Ground, journey: &Journey, route: &Route) -> Way {
    let there = joined(ground, stations(ground, journey, route));
    let broken = ground.cables.iter().filter(|cable| there.contains(&cable.id));
    let broken = broken.filter_map(|cable| {
        let machine = ground.machines.iter().find(|machine| machine.id == cable.machine)?;
        let why = format!("{} of {}: {}", cable.link, machine.name, cable.broken.as_ref()?);
        Some(Crossing { cable: cable.id.clone(), why })
    });
    Way { broken: broken.collect(), there }
}

/// The ids that a flow goes through, from the client to who answers; only those of the ends, if what is between them is
/// not known.
pub fn of_flow(ground: &Ground, flow: &NamedFlow) -> Vec<String> {
    let (client, other) = (&flow.client, flow.backend.as_ref().unwrap_or(&flow.destination));
    let node = |end: &EndView| end.node.as_ref().map(|node| machine_id(Kind::Node, node));
    let stations = [end(ground, client), node(client), node(other), end(ground, other)];
    joined(ground, stations.into_iter().flatten().collect())
}

/// Stations with what is between them.
fn joined(ground: &Ground, stations: Vec<String>) -> Vec<String> {
    let mut there: Vec<String> = Vec::new();
    for station in stations {
        let between = there.last().and_then(|last| between(ground, last, &station)).unwrap_or_default();
        there.extend(between);
        if there.last() != Some(&station) {
            there.push(station);
        }
    }
    there
}

/// The pods and machines that know of the packet.
fn stations(ground: &Ground, journey: &Journey, route: &Route) -> Vec<String> {
    let mut stations = Vec::new();
    stations.extend(end(ground, &journey.source));
    for point in &route.points {
        stations.extend(of_pod(point, journey, route));
        stations.push(match &point.place {
            Place::Pod(name) => format!("pod/{name}"),
            Place::Node(name) => machine_id(Kind::Node, name),
        });
    }
    stations.extend(route.end.as_ref().and_then(|last| end(ground, last)));
    stations.dedup();
    stations
}

/// The node of a pod, before the pod that a packet comes to.
fn of_pod(point: &Point, journey: &Journey, route: &Route) -> Option<String> {
    let Place::Pod(name) = &point.place else { return None };
    let end = route.end.as_ref().filter(|end| end.name == *name && journey.source.name != *name)?;
    Some(machine_id(Kind::Node, end.node.as_ref()?))
}

fn end(ground: &Ground, end: &EndView) -> Option<String> {
    match end.kind {
        "outside" => {
            let has = |machine: &&super::Machine| machine.addresses.contains(&end.address);
            ground.machines.iter().find(has).map(|machine| machine.id.clone())
        }
        kind => Some(format!("{kind}/{}", end.name)),
    }
}

/// What is between two machines: cables, subnets, and machines that forward. `None` if one is no machine, or nothing
/// joins them.
fn between(ground: &Ground, from: &str, to: &str) -> Option<Vec<String>> {
    let is_machine = |id: &str| ground.machines.iter().any(|machine| machine.id == id);
    if from == to || !is_machine(from) || !is_machine(to) {
        return None;
    }
    let forwards = |id: &str| {
        let is_it = |machine: &&super::Machine| machine.id == id;
        ground.machines.iter().find(is_it).is_none_or(|one| matches!(one.kind, Kind::Router | Kind::Gateway))
    };
    // By which cable each was come to, and from where.
    let mut come: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut open = VecDeque::from([from]);
    while let Some(here) = open.pop_front() {
        if here == to {
            return Some(back(&come, from, to));
        }
        if here != from && !forwards(here) {
            continue;
        }
        for cable in &ground.cables {
            let far = match here {
                here if here == cable.machine => cable.subnet.as_str(),
                here if here == cable.subnet => cable.machine.as_str(),
                _ => continue,
            };
            if far != from && !come.contains_key(far) {
                come.insert(far, (here, &cable.id));
                open.push_back(far);
            }
        }
    }
    None
}

/// The way that was found, without its ends.
fn back(come: &BTreeMap<&str, (&str, &str)>, from: &str, to: &str) -> Vec<String> {
    let mut way = Vec::new();
    let mut at = to;
    while let Some((before, cable)) = come.get(at) {
        way.push((*cable).to_owned());
        if *before == from {
            break;
        }
        way.push((*before).to_owned());
        at = before;
    }
    way.reverse();
    way
}
