//! Captures on the links that packets may come by, and what of it has which mark.

use std::collections::{BTreeMap, BTreeSet};

use kernel::netns;
use model::LinkName;
use serde::Serialize;
use trace::capture::{
    Capture, CaptureError, Captured, Direction, Encapsulation, Limits, Options, Packet, Payload, Recorder,
    Tunnels,
};
use trace::journey::{Journey, Outer, Place, Point, Way};

use super::Stage;
use super::probe::{Sender, has, is_echo};
use crate::check::trial::Mark;
use crate::{Error, Result};

/// The link of a pod.
const POD_LINK: &str = "eth0";

/// A packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sighting {
    /// Whether it is the answer.
    pub answer: bool,
    /// Where, and how it looked.
    pub point: Point,
}

/// The running captures.
pub(super) struct Watch {
    recorders: Vec<(Place, String, Recorder)>,
    tunnels: Tunnels,
}

impl Watch {
    /// Captures on the bridges, tunnels and uplinks of the nodes, and in the pods, that journeys may lead to.
    pub(super) fn start(stage: &Stage, journeys: &[Journey]) -> Result<Watch> {
        let points = journeys.iter().flat_map(|journey| &journey.ways);
        let points = points.flat_map(|way| way.points.iter().chain(&way.points_back));
        let places: BTreeSet<&Place> = points.map(|point| &point.place).collect();
        let mut recorders = Vec::new();
        for place in places {
            let (name, links) = match place {
                Place::Pod(name) => (name, vec![POD_LINK.to_owned()]),
                Place::Node(name) => {
                    let own =
                        stage.topology.machine(name).into_iter().flat_map(|machine| &machine.interfaces);
                    let own = own.map(|interface| interface.link.clone());
                    let ours = [LinkName::bridge(), LinkName::vxlan_v4(), LinkName::vxlan_v6()];
                    (name, own.chain(ours.map(|link| link.to_string())).collect())
                }
            };
            let namespace = crate::enter::open(&stage.lab, name)?;
            for link in links {
                let failed = |error: CaptureError| Error::Other(format!("{name}: {error}"));
                let of = LinkName::new(link.as_str()).map_err(|error| Error::Other(error.to_string()))?;
                let capture = netns::run_in(&namespace, || Capture::open(&Options::on(of)))
                    .map_err(Error::kernel(name.as_str()))?;
                let capture = match capture {
                    // A node has the tunnels of its families only.
                    Err(CaptureError::NoLink { .. }) => continue,
                    capture => capture.map_err(failed)?,
                };
                let recorder = Recorder::start(capture, Limits::default()).map_err(failed)?;
                recorders.push((place.clone(), link, recorder));
            }
        }
        let vxlan_port = stage.scene.cluster.network.encapsulation.vxlan.port.value();
        Ok(Watch { recorders, tunnels: Tunnels { vxlan_port } })
    }

    /// Ends the captures; what was seen by its mark, in the order of time, and whether anything was missed.
    pub(super) fn stop(self, senders: &[Sender]) -> Result<(BTreeMap<Mark, Vec<Sighting>>, bool)> {
        let mut blind = false;
        let mut seen = Vec::new();
        for (place, link, recorder) in self.recorders {
            let recording = recorder.stop().map_err(|error| Error::Other(error.to_string()))?;
            blind |= recording.incomplete;
            for captured in recording.frames {
                let packet = captured.decode(&self.tunnels);
                let found = senders
                    .iter()
                    .find_map(|sender| Some((sender.mark, answers(sender, &captured, &packet)?)));
                let Some((mark, answer)) = found else { continue };
                let Some(point) = point(&place, &link, &captured, &packet, answer) else { continue };
                seen.push((captured.time, mark, Sighting { answer, point }));
            }
        }
        seen.sort_by_key(|(time, ..)| *time);
        let mut by_mark: BTreeMap<Mark, Vec<Sighting>> = BTreeMap::new();
        for (_, mark, sighting) in seen {
            let all = by_mark.entry(mark).or_default();
            // Nobody knows that a segment was sent again, but that it looks the same.
            if !all.contains(&sighting) {
                all.push(sighting);
            }
        }
        Ok((by_mark, blind))
    }
}

/// Whether a packet has a sender's mark, and if so, whether it is the answer.
fn answers(sender: &Sender, captured: &Captured, packet: &Packet) -> Option<bool> {
    let ip = packet.innermost().ip()?;
    match &ip.payload {
        Payload::Tcp(tcp) => {
            let first = tcp.flags.syn && !tcp.flags.ack && tcp.sequence == sender.mark.0;
            let answer = tcp.flags.ack
                && (tcp.flags.syn || tcp.flags.rst)
                && tcp.acknowledgement == sender.mark.0.wrapping_add(1);
            (first || answer).then_some(answer)
        }
        Payload::Udp(_) => has(&captured.frame, sender.mark).then(|| {
            // An echo server repeats what it was asked, in a field of its answer.
            captured.frame.windows(7).any(|window| window == b"\"asked\"")
        }),
        Payload::Icmp(icmp) => {
            let (request, reply) = is_echo(icmp.kind, ip.protocol);
            ((request || reply) && has(&captured.frame, sender.mark)).then_some(reply)
        }
        _ => None,
    }
}

fn point(place: &Place, link: &str, captured: &Captured, packet: &Packet, answer: bool) -> Option<Point> {
    let inner = packet.innermost().ip()?;
    let around = packet.ip()?;
    let outer = packet.inner().map(|(how, _)| match how {
        Encapsulation::Vxlan(vni) => Outer::Vxlan {
            vni,
            port: around.ports().map_or(0, |(_, to)| to),
            source: around.source,
            destination: around.destination,
        },
        Encapsulation::Ip => Outer::Ipip { source: around.source, destination: around.destination },
    });
    let way = match captured.direction {
        Direction::In => Way::In,
        Direction::Out => Way::Out,
    };
    let port = inner.ports().map(|(_, to)| to).filter(|_| !answer);
    Some(Point {
        place: place.clone(),
        link: link.to_owned(),
        way,
        outer,
        source: inner.source,
        destination: inner.destination,
        port,
        always: true,
    })
}
