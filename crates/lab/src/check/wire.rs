//! The underlay, watched at all nodes and outside hosts at once.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use kernel::netns;
use model::LinkName;
use trace::capture::{
    self, Capture, Captured, Direction, Limits, Options, Packet, Payload, Recorder, Tunnels,
};

use super::evidence::{Carried, Sighting, Transport, Way};
use super::view::View;
use crate::{Error, Result};

/// The running captures.
#[derive(Debug)]
pub(super) struct Watch {
    recorders: Vec<(String, Recorder)>,
    tunnels: Tunnels,
}

/// What was captured.
#[derive(Debug)]
pub(super) struct Wire {
    packets: Vec<(String, Way, Packet)>,
    /// The positions of the packets by their transport and each of their ports.
    by_port: HashMap<(u8, u16), Vec<usize>>,
    /// The machines whose captures miss packets.
    pub(super) blind: Vec<String>,
}

/// The packets of one exchange.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) transport: Transport,
    /// What the client is known as, to itself and to the server; without a port where that is not known.
    pub(super) clients: Vec<(IpAddr, Option<u16>)>,
    pub(super) server: SocketAddr,
}

/// Which UDP port is VXLAN in this cluster.
pub(super) fn tunnels(view: &View) -> Tunnels {
    Tunnels { vxlan_port: view.cluster.network.encapsulation.vxlan.port.value() }
}

impl Watch {
    /// Captures on every link that a node or outside host has to the underlay.
    pub(super) fn start(view: &View) -> Result<Watch> {
        let mut recorders = Vec::new();
        for machine in view.ends() {
            let namespace = view.machine_namespace(&machine.name)?;
            for interface in &machine.interfaces {
                let link = LinkName::new(interface.link.as_str())
                    .map_err(|error| Error::Other(format!("{}: {error}", machine.name)))?;
                let capture = netns::run_in(&namespace, || Capture::open(&Options::on(link)))
                    .map_err(Error::kernel(machine.name.as_str()))?;
                let recorder = capture.and_then(|capture| Recorder::start(capture, Limits::default()));
                recorders.push((machine.name.clone(), recorder.map_err(failed(&machine.name))?));
            }
        }
        Ok(Watch { recorders, tunnels: tunnels(view) })
    }

    /// Ends the captures.
    pub(super) fn stop(self) -> Result<Wire> {
        let mut wire = Wire { packets: Vec::new(), by_port: HashMap::new(), blind: Vec::new() };
        for (machine, recorder) in self.recorders {
            let recording = recorder.stop().map_err(failed(&machine))?;
            if recording.incomplete {
                wire.blind.push(machine.clone());
            }
            let decoded =
                recording.frames.iter().map(|captured| (way(captured), captured.decode(&self.tunnels)));
            wire.packets.extend(decoded.map(|(way, packet)| (machine.clone(), way, packet)));
        }
        for (index, (_, _, packet)) in wire.packets.iter().enumerate() {
            let Some((transport, from, to)) = ends(packet) else { continue };
            for port in BTreeSet::from([from.port(), to.port()]) {
                wire.by_port.entry((transport.number(), port)).or_default().push(index);
            }
        }
        Ok(wire)
    }
}

impl Wire {
    /// The packets of an exchange, wherever they were seen.
    pub(super) fn sightings(&self, flow: &Flow) -> Vec<Sighting> {
        let of_flow = |(at, way, packet): &(String, Way, Packet)| {
            let answer = flow.is_answer(packet)?;
            let (carried, packet) = (carried(packet), packet.to_string());
            Some(Sighting { at: at.clone(), way: *way, answer, carried, packet })
        };
        self.packets.iter().filter_map(of_flow).collect()
    }

    /// The packets of a client whose port is nobody else's, whatever addresses and other ports they have.
    pub(super) fn of_client(&self, transport: Transport, port: u16) -> Vec<Sighting> {
        self.found(transport, port, |_, to| Some(to.port() == port))
    }

    /// The packets between a client, whose port may not be known, and a server.
    pub(super) fn between(
        &self,
        transport: Transport,
        (client, port): (IpAddr, Option<u16>),
        server: SocketAddr,
    ) -> Vec<Sighting> {
        let is_client = |end: SocketAddr| end.ip() == client && port.is_none_or(|port| port == end.port());
        self.found(transport, server.port(), |from, to| match () {
            () if to == server && is_client(from) => Some(false),
            () if from == server && is_client(to) => Some(true),
            () => None,
        })
    }

    /// The packets from a source to anybody, and the answers.
    pub(super) fn of_source(&self, transport: Transport, source: SocketAddr) -> Vec<Sighting> {
        self.found(transport, source.port(), |from, to| match () {
            () if from == source => Some(false),
            () if to == source => Some(true),
            () => None,
        })
    }

    /// The packets with a port of which `is_answer` says whether they are answers or requests.
    fn found(
        &self,
        transport: Transport,
        port: u16,
        is_answer: impl Fn(SocketAddr, SocketAddr) -> Option<bool>,
    ) -> Vec<Sighting> {
        let found = self.by_port.get(&(transport.number(), port)).into_iter().flatten();
        let found = found.filter_map(|index| self.packets.get(*index));
        let sighting = |(at, way, packet): &(String, Way, Packet)| {
            let (_, from, to) = ends(packet)?;
            let answer = is_answer(from, to)?;
            let (carried, packet) = (carried(packet), packet.to_string());
            Some(Sighting { at: at.clone(), way: *way, answer, carried, packet })
        };
        found.filter_map(sighting).collect()
    }
}

impl Flow {
    /// Whether a packet is one of the answer, or of the request; `None` if it is neither.
    fn is_answer(&self, packet: &Packet) -> Option<bool> {
        let (_, source, destination) = ends(packet).filter(|(transport, ..)| *transport == self.transport)?;
        let client = |end: &SocketAddr| {
            let is_it = |port: &Option<u16>| port.is_none_or(|port| port == end.port());
            self.clients.iter().any(|(address, port)| *address == end.ip() && is_it(port))
        };
        if destination == self.server && client(&source) {
            Some(false)
        } else if source == self.server && client(&destination) {
            Some(true)
        } else {
            None
        }
    }
}

/// The transport of a packet and its ends, inside all tunnels.
fn ends(packet: &Packet) -> Option<(Transport, SocketAddr, SocketAddr)> {
    let ip = packet.innermost().ip()?;
    let transport = match ip.payload {
        Payload::Tcp(_) => Transport::Tcp,
        Payload::Udp(_) => Transport::Udp,
        _ => return None,
    };
    let (from, to) = ip.ports()?;
    Some((transport, (ip.source, from).into(), (ip.destination, to).into()))
}

/// How a packet is carried, from what is around it.
fn carried(packet: &Packet) -> Carried {
    let Some(outer) = packet.ip() else { return Carried::Otherwise };
    let (source, destination) = (outer.source, outer.destination);
    match packet.inner() {
        None => Carried::Plain { source, destination },
        Some((capture::Encapsulation::Vxlan(vni), inner)) if inner.inner().is_none() => {
            let port = outer.ports().map_or(0, |(_, to)| to);
            Carried::Vxlan { vni, port, source, destination }
        }
        Some((capture::Encapsulation::Ip, inner)) if inner.inner().is_none() => {
            Carried::Ipip { source, destination }
        }
        Some(_) => Carried::Otherwise,
    }
}

pub(super) fn way(captured: &Captured) -> Way {
    match captured.direction {
        Direction::In => Way::In,
        Direction::Out => Way::Out,
    }
}

pub(super) fn failed(machine: &str) -> impl FnOnce(capture::CaptureError) -> Error {
    let machine = machine.to_owned();
    move |error| Error::Other(format!("{machine}: {error}"))
}
