//! What this node does about a probe. No I/O and no clock.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kube_source::{PROBE_LIFETIME, ProbePhase, ProbePod, ProbeProtocol, ProbeSpec, ProbeStatus};
use model::{Attachment, Family, LinkName, NodeName, PerFamily, Pod};
use plan::Underlay;
use trace::journey::Transport;
use trace::live::Mark;

use crate::probe;

/// How many probes a node looks for at the same time.
const AT_ONCE: usize = 4;

/// What is to be done about a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it is for other nodes.
    NotOurs,
    /// Nothing, as it is too old; the agent of the sender's node deletes it.
    Expired {
        /// Whether this is that agent.
        delete: bool,
    },
    /// It cannot be done, for this reason.
    Refuse(String),
    /// This.
    Do(Job),
}

/// This node's part of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) mark: Mark,
    pub(super) transport: Transport,
    pub(super) to: SocketAddr,
    /// The sender's port, host byte order.
    pub(super) port: u16,
    /// At whose interfaces it is looked for, beside the node's.
    pub(super) pods: Vec<ProbePod>,
    /// Whether this node sends it, and as whom: itself, or the pod at this place in `pods`.
    pub(super) sends: Option<Option<usize>>,
    sender: String,
    watchers: Vec<String>,
}

/// Judges a probe of a UID and an age, while so many others run.
pub(super) fn judge(own: &NodeName, spec: &ProbeSpec, uid: &str, age: Duration, running: usize) -> Verdict {
    let sends = spec.sender.node == own.as_str();
    if age >= Duration::from_secs(PROBE_LIFETIME) {
        return Verdict::Expired { delete: sends };
    }
    let Some(watcher) = spec.watchers.iter().find(|watcher| watcher.node == own.as_str()) else {
        return match sends {
            true => Verdict::Refuse(format!("spec.watchers: the sender's node {own} is not among them")),
            false => Verdict::NotOurs,
        };
    };
    if running >= AT_ONCE {
        return Verdict::Refuse(format!("{running} probes are under way here; try again in a few seconds"));
    }
    match job(spec, uid, &watcher.pods, sends) {
        Ok(job) => Verdict::Do(job),
        Err(reason) => Verdict::Refuse(reason),
    }
}

fn job(spec: &ProbeSpec, uid: &str, pods: &[ProbePod], sends: bool) -> Result<Job, String> {
    let packet = &spec.packet;
    let destination: IpAddr = packet
        .destination
        .parse()
        .map_err(|_| format!("spec.packet.destination: \"{}\" is not an IP address", packet.destination))?;
    let port = match (packet.protocol, packet.port) {
        (ProbeProtocol::Icmp, None) => 0,
        (ProbeProtocol::Icmp, Some(_)) => return Err("spec.packet.port: ICMP has no ports".to_owned()),
        (_, Some(port)) if port > 0 => port,
        _ => return Err("spec.packet.port: TCP and UDP need one, from 1 to 65535".to_owned()),
    };
    let mut pods = pods.to_vec();
    let sends = sends.then(|| {
        spec.sender.pod.as_ref().map(|sender| {
            pods.iter().position(|pod| pod == sender).unwrap_or_else(|| {
                pods.push(sender.clone());
                pods.len() - 1
            })
        })
    });
    let mark = probe::mark(uid);
    Ok(Job {
        mark,
        transport: probe::transport(packet.protocol),
        to: SocketAddr::new(destination, port),
        port: probe::sender_port(mark, packet.port),
        pods,
        sends,
        sender: spec.sender.node.clone(),
        watchers: spec.watchers.iter().map(|watcher| watcher.node.clone()).collect(),
    })
}

/// What comes next while a node looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// To wait for others.
    Wait,
    /// To send it.
    Send,
    /// To say what was seen.
    Tell,
    /// To give up, as it will not be sent.
    GiveUp(String),
}

impl Job {
    /// What comes next, by what the nodes say.
    pub(super) fn next(&self, status: &ProbeStatus) -> Next {
        let refused = status.nodes.iter().find(|report| report.phase == ProbePhase::Refused);
        if let Some(report) = refused {
            return Next::GiveUp(format!("node {} has refused", report.node));
        }
        let phase = |node: &String| {
            status.nodes.iter().find(|report| report.node == *node).map(|report| report.phase)
        };
        match self.sends {
            Some(_) if self.watchers.iter().all(|node| phase(node).is_some()) => Next::Send,
            None if phase(&self.sender) == Some(ProbePhase::Done) => Next::Tell,
            _ => Next::Wait,
        }
    }
}

/// What the worker knows of the node.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) underlay: PerFamily<Underlay>,
    pub(crate) attachments: Vec<Attachment>,
    /// The UDP port of VXLAN, host byte order.
    pub(crate) vxlan_port: u16,
}

impl View {
    /// The links of the node on which packets are looked for: bridge, tunnels and uplinks.
    pub(super) fn links(&self) -> Vec<LinkName> {
        let mut links = vec![LinkName::bridge(), LinkName::vxlan_v4(), LinkName::vxlan_v6()];
        for underlay in self.underlay.iter() {
            if !links.contains(&underlay.link) {
                links.push(underlay.link.clone());
            }
        }
        links
    }

    /// The attachment of a pod that a probe names, if the pod is on this node, and still the same.
    pub(super) fn attachment(
        &self,
        own: &NodeName,
        wanted: &ProbePod,
        found: Option<&Pod>,
    ) -> Result<&Attachment, String> {
        let name = format!("pod {}/{}", wanted.namespace, wanted.name);
        let pod = found.ok_or_else(|| format!("{name} is gone, or has no address"))?;
        if *pod.uid != *wanted.uid {
            return Err(format!(
                "{name} is another by now: its UID is {}, and not {} as asked for",
                pod.uid, wanted.uid
            ));
        }
        if pod.node != *own {
            return Err(format!("{name} is not on this node, but on {}", pod.node));
        }
        if pod.host_network {
            return Err(format!("{name} has the node's own network (hostNetwork); trace from node/{own}"));
        }
        let has = |attachment: &&Attachment| {
            Family::BOTH
                .iter()
                .filter_map(|family| pod.addresses.of(*family))
                .any(|address| attachment.addresses.contains(address))
        };
        let attachment = self.attachments.iter().find(has);
        attachment.ok_or_else(|| format!("{name} has no interface of this network on this node"))
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
