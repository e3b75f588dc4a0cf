//! What a trace asks of the nodes' agents, and what it makes of their answers. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use kube_source::{
    MOST_WATCHERS, ProbePacket, ProbePhase, ProbePod, ProbeReport, ProbeSender, ProbeSpec, ProbeStatus,
    ProbeWatcher,
};
use model::{NodeName, PerFamily, Pod};
use plan::Underlay;
use trace::Start;
use trace::journey::{Journey, Place, Scene, Transport};
use trace::live::{Observation, Reply, Sighting};

use crate::probe;

/// The probe that shows what becomes of a journey's packet.
///
/// # Errors
/// Why there can be none.
pub(super) fn spec(scene: &Scene, journey: &Journey) -> Result<ProbeSpec, String> {
    let transport = journey.packet.transport().ok_or("this protocol cannot be sent; leave out --live")?;
    let sender = match &journey.start {
        Start::Pod(node, link) => {
            let pod = scene.pod_at(node, link).map(named);
            ProbeSender { node: node.to_string(), pod }
        }
        Start::Node(node) => ProbeSender { node: node.to_string(), pod: None },
        Start::Outside { .. } => {
            return Err("a host outside can be sent from in a lab only; leave out --live, or trace from a pod or node"
                .to_owned());
        }
    };
    let watchers = watchers(scene, journey, &sender);
    let most = watchers.iter().map(|watcher| watcher.pods.len()).max().unwrap_or_default();
    if watchers.len() > MOST_WATCHERS || most > MOST_WATCHERS {
        return Err(format!(
            "the packet may come to {} nodes, and up to {most} pods of one; --live looks at {MOST_WATCHERS} of each at \
             most: trace to one of the pods instead",
            watchers.len()
        ));
    }
    apart(scene, journey, &watchers)?;
    let destination = journey.packet.destination.to_string();
    let packet = ProbePacket {
        protocol: probe::protocol(transport),
        destination,
        port: journey.packet.destination_port,
    };
    Ok(ProbeSpec { sender, packet, watchers })
}

/// What passes NAT gateways depends on whom they remember, which only the nodes know: nothing can be predicted of it here.
fn apart(scene: &Scene, journey: &Journey, watchers: &[ProbeWatcher]) -> Result<(), String> {
    let nodes = &scene.cluster.nodes;
    let site = |name: &str| nodes.get(&NodeName::new(name).ok()?)?.site.as_deref();
    let (Start::Pod(start, _) | Start::Node(start) | Start::Outside { node: start }) = &journey.start;
    let own = site(start.as_str());
    let ends =
        watchers.iter().map(|watcher| watcher.node.as_str()).chain(journey.destination.node.as_deref());
    let beyond = ends.into_iter().any(|node| site(node) != own);
    // What is lost on paper may be so for want of a gateway's memory.
    let lost = || journey.ways.iter().any(|way| way.lost.is_some());
    let sites = || nodes.values().any(|node| node.site.as_deref() != own);
    if beyond || (lost() && sites()) {
        return Err("the packet may pass the NAT gateway of a site; --live works between nodes of one site, and in a lab"
            .to_owned());
    }
    Ok(())
}

fn named(pod: &Pod) -> ProbePod {
    ProbePod {
        namespace: pod.name.namespace.to_string(),
        name: pod.name.name.to_string(),
        uid: pod.uid.to_string(),
    }
}

/// The nodes that the packet or its answer may come to, with the pods there.
fn watchers(scene: &Scene, journey: &Journey, sender: &ProbeSender) -> Vec<ProbeWatcher> {
    let points = journey.ways.iter().flat_map(|way| way.points.iter().chain(&way.points_back));
    let places: BTreeSet<&Place> = points.map(|point| &point.place).collect();
    let mut nodes: BTreeMap<String, Vec<ProbePod>> = [(sender.node.clone(), Vec::new())].into();
    for place in places {
        match place {
            Place::Node(node) => drop(nodes.entry(node.clone()).or_default()),
            Place::Pod(name) => {
                let pod = scene.pods.iter().find(|pod| pod.name.to_string() == *name);
                let Some(pod) = pod else { continue };
                nodes.entry(pod.node.to_string()).or_default().push(named(pod));
            }
        }
    }
    nodes.into_iter().map(|(node, pods)| ProbeWatcher { node, pods }).collect()
}

/// How far the agents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// These have not answered yet.
    Waiting(Vec<String>),
    /// One has refused.
    Refused(String),
    /// All have said what they saw.
    Done,
}

pub(super) fn progress(spec: &ProbeSpec, status: &ProbeStatus) -> Progress {
    let refused = status.nodes.iter().find(|report| report.phase == ProbePhase::Refused);
    if let Some(ProbeReport { node, message, .. }) = refused {
        let why = message.as_deref().unwrap_or("it does not say why");
        return Progress::Refused(format!("the agent of {node} refuses: {why}"));
    }
    let done = |node: &String| {
        status.nodes.iter().any(|report| report.node == *node && report.phase == ProbePhase::Done)
    };
    let waiting: Vec<String> =
        spec.watchers.iter().map(|watcher| watcher.node.clone()).filter(|node| !done(node)).collect();
    if waiting.is_empty() { Progress::Done } else { Progress::Waiting(waiting) }
}

/// Which agents have not even said that they look: what hinders all.
pub(super) fn silent(spec: &ProbeSpec, status: &ProbeStatus) -> Vec<String> {
    let heard = |node: &String| status.nodes.iter().any(|report| report.node == *node);
    spec.watchers.iter().map(|watcher| watcher.node.clone()).filter(|node| !heard(node)).collect()
}

/// What the nodes say of their links.
pub(super) fn links(status: &ProbeStatus) -> Vec<(NodeName, PerFamily<Underlay>)> {
    let one = |report: &ProbeReport| {
        Some((NodeName::new(report.node.as_str()).ok()?, probe::underlay_in(&report.underlay)))
    };
    status.nodes.iter().filter_map(one).collect()
}

/// What all have seen.
pub(super) fn observation(transport: Transport, status: &ProbeStatus) -> Observation {
    let mut sightings: Vec<Sighting> = status.nodes.iter().flat_map(probe::sightings_in).collect();
    sightings.sort_by_key(|sighting| sighting.time);
    let reply = status.nodes.iter().find_map(|report| report.reply.as_ref()).map(probe::reply_in);
    Observation {
        reply: reply.unwrap_or(Reply::Nothing),
        // Whoever listens for datagrams need not answer one that says nothing to him.
        answers: transport != Transport::Udp,
        sightings,
        blind: status.nodes.iter().any(|report| report.incomplete),
    }
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
