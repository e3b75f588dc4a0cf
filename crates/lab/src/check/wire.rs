//! The underlay, watched at all nodes and outside hosts at once.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use kernel::netns;
use model::LinkName;
use trace::capture::{
    self, Capture, Captured, Direction, Limits, Options, Packet, Payload, Recorder, Tunnels,
};
use trace::live::{Mark, begins};

use super::evidence::{Carried, Sighting, Transport, Way};
use super::view::View;
use crate::{Error, Result};

/// The running captures.
#[derive(Debug)]
pub(super) struct Watch {
    recorders: Vec<(String, Recorder)>,
    tunnels: Tunnels,
}

/// A packet, at which machine, and which way it went there.
type Seen = (String, Way, Packet);

/// What was captured.
#[derive(Debug, Default)]
pub(super) struct Wire {
    packets: Vec<Seen>,
    /// The positions of the packets from one end to another.
    flows: HashMap<Ends, Vec<usize>>,
    /// The ends of what began with a mark, from the client to the server, as they were anywhere.
    marked: HashMap<(Transport, Mark), BTreeSet<(SocketAddr, SocketAddr)>>,
    /// The machines whose captures miss packets.
    pub(super) blind: Vec<String>,
}

/// A transport, and from where to where, inside all tunnels.
type Ends = (Transport, SocketAddr, SocketAddr);

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
        let mut wire = Wire::default();
        for (machine, recorder) in self.recorders {
            let recording = recorder.stop().map_err(failed(&machine))?;
            if recording.incomplete {
                wire.blind.push(machine.clone());
            }
            for captured in &recording.frames {
                wire.add(&machine, captured, &self.tunnels);
            }
        }
        Ok(wire)
    }
}

impl Wire {
    fn add(&mut self, machine: &str, captured: &Captured, tunnels: &Tunnels) {
        let packet = captured.decode(tunnels);
        if let Some(ends @ (transport, from, to)) = ends(&packet) {
            self.flows.entry(ends).or_default().push(self.packets.len());
            if let Some(mark) = begins(captured, &packet) {
                self.marked.entry((transport, mark)).or_default().insert((from, to));
            }
        }
        self.packets.push((machine.to_owned(), way(captured), packet));
    }

    /// The packets of an exchange, wherever they were seen.
    pub(super) fn sightings(&self, flow: &Flow) -> Vec<Sighting> {
        let of_flow = |packet: &Seen| Some(sighting(packet, flow.is_answer(&packet.2)?));
        self.packets.iter().filter_map(of_flow).collect()
    }

    /// The packets of what began with a mark, whatever addresses and ports they have on their way.
    pub(super) fn of_mark(&self, transport: Transport, mark: Mark) -> Vec<Sighting> {
        let mut found: Vec<(usize, bool)> = Vec::new();
        for (client, server) in self.marked.get(&(transport, mark)).into_iter().flatten() {
            for (ends, answer) in
                [((transport, *client, *server), false), ((transport, *server, *client), true)]
            {
                found.extend(self.flows.get(&ends).into_iter().flatten().map(|index| (*index, answer)));
            }
        }
        found.sort_unstable();
        let seen = |(index, answer)| Some(sighting(self.packets.get(index)?, answer));
        found.into_iter().filter_map(seen).collect()
    }
}

fn sighting((at, way, packet): &Seen, answer: bool) -> Sighting {
    Sighting { at: at.clone(), way: *way, answer, carried: carried(packet), packet: packet.to_string() }
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

fn ends(packet: &Packet) -> Option<Ends> {
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use etherparse::PacketBuilder;
    use model::Family;

    use super::*;

    const MARK: Mark = Mark(0x1234_5678);
    const OTHER: Mark = Mark(0x8765_4321);

    fn add(wire: &mut Wire, machine: &str, frame: Vec<u8>) {
        let captured = Captured {
            time: UNIX_EPOCH,
            link_index: 1,
            direction: Direction::Out,
            length: frame.len(),
            frame,
        };
        wire.add(machine, &captured, &Tunnels::default());
    }

    fn headers(from: SocketAddr, to: SocketAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            mixed => panic!("{mixed:?}"),
        }
    }

    /// A segment that opens a connection, or the answer to it.
    fn segment(from: SocketAddr, to: SocketAddr, mark: Mark, answer: bool) -> Vec<u8> {
        let (sequence, acknowledged) = if answer { (99, mark.0 + 1) } else { (mark.0, 0) };
        let tcp = headers(from, to).tcp(from.port(), to.port(), sequence, 500).syn();
        let tcp = if answer { tcp.ack(acknowledged) } else { tcp };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[]).unwrap();
        frame
    }

    fn datagram(from: SocketAddr, to: SocketAddr, text: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        headers(from, to).udp(from.port(), to.port()).write(&mut frame, text.as_bytes()).unwrap();
        frame
    }

    fn found(wire: &Wire, transport: Transport) -> Vec<(String, bool)> {
        let found = wire.of_mark(transport, MARK).into_iter();
        found.map(|sighting| (sighting.at, sighting.answer)).collect()
    }

    /// The ends of a client, as which it is known to a first node and to a second, of a node port and of an endpoint.
    fn ends_of(family: Family) -> [SocketAddr; 5] {
        let texts = match family {
            Family::V4 => {
                ["10.1.0.2:12000", "172.16.0.1:46020", "10.2.0.1:5000", "172.16.0.2:30000", "10.2.0.2:8080"]
            }
            Family::V6 => [
                "[fd00:1::2]:12000",
                "[2001:db8::1]:46020",
                "[fd00:2::1]:5000",
                "[2001:db8::2]:30000",
                "[fd00:2::2]:8080",
            ],
        };
        texts.map(|text| text.parse().unwrap())
    }

    #[test]
    fn a_connection_is_known_whatever_its_ports_become() {
        for family in Family::BOTH {
            let [client, first, second, port, endpoint] = ends_of(family);
            let mut wire = Wire::default();
            add(&mut wire, "a", segment(first, port, MARK, false));
            add(&mut wire, "b", segment(second, endpoint, MARK, false));
            add(&mut wire, "c", segment(endpoint, second, MARK, true));
            add(&mut wire, "d", segment(port, first, MARK, true));
            // Of others: from the same source, to the same server, with the client's own port.
            add(&mut wire, "x", segment(first, endpoint, OTHER, false));
            add(&mut wire, "x", segment(SocketAddr::new(first.ip(), 46021), port, OTHER, false));
            add(&mut wire, "x", segment(client, port, OTHER, false));
            add(&mut wire, "x", datagram(first, port, "JSON"));
            let wanted = [("a", false), ("b", false), ("c", true), ("d", true)];
            assert_eq!(found(&wire, Transport::Tcp), wanted.map(|(at, answer)| (at.to_owned(), answer)));
            assert_eq!(found(&wire, Transport::Udp), []);
        }
    }

    #[test]
    fn an_answer_that_repeats_the_question_is_none() {
        for family in Family::BOTH {
            let [_, first, second, port, endpoint] = ends_of(family);
            let mut wire = Wire::default();
            let question = format!("JSON {}", MARK.text());
            let answer = format!("{{\"asked\": \"{question}\"}}");
            add(&mut wire, "d", datagram(port, first, &answer));
            add(&mut wire, "a", datagram(first, port, &question));
            add(&mut wire, "b", datagram(second, endpoint, &question));
            add(&mut wire, "c", datagram(endpoint, second, &answer));
            add(&mut wire, "x", datagram(first, endpoint, &format!("JSON {}", OTHER.text())));
            let wanted = [("d", true), ("a", false), ("b", false), ("c", true)];
            assert_eq!(found(&wire, Transport::Udp), wanted.map(|(at, answer)| (at.to_owned(), answer)));
        }
    }
}
