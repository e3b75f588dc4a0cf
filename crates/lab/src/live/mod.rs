//! A traced packet, really sent: what was predicted and what was captured, side by side.

mod sightings;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kernel::netns::{self, NetNs};
use kube_source::Snapshot;
use model::{Family, NodeName, RouteSource};
use trace::Packet;
use trace::journey::{EndView, Journey, Query, Scene, Transport};
use trace::live::{Comparison, Mark, Observation, Reply, compare, send};

use self::sightings::Watch;
use crate::check::event_loop::{event_loop, unless_interrupted};
use crate::check::evidence::{Got, Transport as Asked};
use crate::check::sites::{self, Sites};
use crate::check::trial::{Ports, attempt};
use crate::paths::LabName;
use crate::signals::Interrupts;
use crate::topology::{self, Role, Topology};
use crate::{Error, Result};

/// How long an answer may take. In a lab it takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many packets are sent at the same time.
const AT_ONCE: usize = 64;

/// A lab in which packets can be traced and sent.
#[derive(Debug)]
pub struct Stage {
    lab: LabName,
    topology: Topology,
    /// The cluster of the lab.
    pub scene: Scene,
    ports: Ports,
}

/// Who sends what.
struct Sender {
    from: NetNs,
    packet: Packet,
    mark: Mark,
}

/// The cluster of a lab, as its API tells it.
///
/// # Errors
/// [`Error`] if the API does not answer, or does not tell what is needed.
pub(crate) fn listed(lab: &LabName) -> Result<Snapshot> {
    event_loop()?.block_on(listing(lab))
}

async fn listing(lab: &LabName) -> Result<Snapshot> {
    let other = |error: &dyn std::fmt::Display| Error::Other(format!("the lab's API: {error}"));
    let client = kube_source::client(Some(&lab.paths().kubeconfig())).await.map_err(|error| other(&error))?;
    kube_source::snapshot(&client).await.map_err(|error| other(&error))
}

/// The cluster of a lab.
///
/// # Errors
/// [`Error`] if its API does not tell what is needed.
pub(crate) async fn scene(lab: &LabName, topology: &Topology) -> Result<Scene> {
    let Snapshot { cluster, pods, .. } = listing(lab).await?;
    let heard = sites::all_heard(lab, &cluster)?;
    let known = Sites { topology, cluster: &cluster, heard: &heard };
    let contact = |node: &NodeName| (node.clone(), sites::contacts(&known, node));
    let underlay = |node: &NodeName| (node.clone(), topology.underlay(node.as_str()));
    let by_bgp = cluster.network.route_source == RouteSource::Bgp;
    Ok(Scene {
        underlay: cluster.nodes.keys().map(underlay).collect(),
        contacts: cluster.nodes.keys().map(contact).collect(),
        gateways: sites::gateways(&known),
        assumed: by_bgp
            .then(|| "assumed is that every node has told every other of its pods by BGP".to_owned()),
        changes: Vec::new(),
        pods,
        cluster,
    })
}

impl Stage {
    /// Looks at a lab.
    ///
    /// # Errors
    /// [`Error`] if the lab is not up, or its API does not tell what is needed.
    pub fn load(lab: &LabName, interrupts: &Interrupts) -> Result<Stage> {
        let topology = topology::load(&lab.paths().topology())?;
        let scene = event_loop()?.block_on(unless_interrupted(interrupts, scene(lab, &topology)))?;
        Ok(Stage { lab: lab.clone(), topology, scene, ports: Ports::new() })
    }

    /// Traces a packet, sends it, and compares.
    ///
    /// # Errors
    /// [`Error`] if the question has no answer, or nothing can be sent or captured.
    pub fn trace(&self, query: &Query) -> Result<(Journey, Observation, Comparison)> {
        let journey = self.scene.journey(query).map_err(|error| Error::Other(error.to_string()))?;
        if journey.source.kind == "outside" && self.scene.node_with(&journey.packet.destination).is_none() {
            return Err(Error::Other(format!(
                "a host outside can be sent from only to nodes' own addresses, as the lab's routers know no way to {}; \
                 leave out --live",
                journey.packet.destination
            )));
        }
        let observation = self.observe(std::slice::from_ref(&journey))?.pop();
        let observation = observation.ok_or_else(|| Error::Other("nothing was sent".to_owned()))?;
        let comparison = compare(&journey, &observation);
        Ok((journey, observation, comparison))
    }

    /// The address of a host outside, if the lab has one.
    pub fn outside(&self, family: Family) -> Option<IpAddr> {
        self.topology.of_role(Role::Outside).find_map(|machine| machine.addresses().of(family).copied())
    }

    /// The machine or pod of the lab that is an end of a journey.
    fn machine(&self, end: &EndView) -> Result<String> {
        if end.kind != "outside" {
            return Ok(end.name.clone());
        }
        let found = self.topology.machine_with(&end.address).map(|machine| machine.name.clone());
        found.ok_or_else(|| Error::Other(format!("no machine of the lab has the address {}", end.address)))
    }

    /// Sends the packets of journeys, each once, and says where each was seen.
    ///
    /// # Errors
    /// [`Error`] if nothing can be sent or captured.
    pub fn observe(&self, journeys: &[Journey]) -> Result<Vec<Observation>> {
        let senders = journeys.iter().map(|journey| self.sender(journey)).collect::<Result<Vec<Sender>>>()?;
        let watch = Watch::start(self, journeys)?;
        let replies = send_all(&senders, &self.ports);
        let marks: Vec<Mark> = senders.iter().map(|sender| sender.mark).collect();
        let (mut seen, blind) = watch.stop(&marks)?;
        let observed = |(mark, reply): (&Mark, Reply)| Observation {
            reply,
            answers: true,
            sightings: seen.remove(mark).unwrap_or_default(),
            blind,
        };
        Ok(marks.iter().zip(replies).map(observed).collect())
    }

    fn sender(&self, journey: &Journey) -> Result<Sender> {
        let from = crate::enter::open(&self.lab, &self.machine(&journey.source)?)?;
        Ok(Sender { from, packet: journey.packet, mark: self.ports.mark() })
    }
}

impl Sender {
    /// Sends, and asks the echo server there, if it is one, who it is and whom it sees.
    fn send(&self, ports: &Ports) -> Reply {
        let Packet { source, destination, destination_port, .. } = self.packet;
        let to = SocketAddr::new(destination, destination_port.unwrap_or_default());
        let asked = match self.packet.transport() {
            Some(Transport::Tcp) => Asked::Tcp,
            Some(Transport::Udp) => Asked::Udp,
            Some(Transport::Icmp) | None => {
                let sent = || send::send(to, Transport::Icmp, self.mark, std::iter::empty(), PATIENCE);
                return match netns::run_in(&self.from, sent) {
                    Ok(Reply::Answer(_)) => Reply::Answer(format!("of {destination} to {source}")),
                    Ok(reply) => reply,
                    Err(error) => Reply::Other(error.to_string()),
                };
            }
        };
        match attempt(&self.from, to, asked, ports, PATIENCE, self.mark, 1).got {
            Got::Answer(heard) => Reply::Answer(format!("of {}, which saw {}", heard.by, heard.source)),
            Got::Refusal => Reply::Refusal,
            Got::Nothing => Reply::Nothing,
            Got::Other(what) => Reply::Other(what),
        }
    }
}

/// Sends all, some at the same time.
fn send_all(senders: &[Sender], ports: &Ports) -> Vec<Reply> {
    let results: Vec<Mutex<Option<Reply>>> = senders.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(sender), Some(result)) = (senders.get(index), results.get(index)) else { return };
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.send(ports));
        }
    };
    thread::scope(|scope| {
        for _ in 0..senders.len().min(AT_ONCE) {
            scope.spawn(work);
        }
    });
    let reply = |result: Mutex<Option<Reply>>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| reply(result).unwrap_or(Reply::Nothing)).collect()
}
