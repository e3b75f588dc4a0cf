//! Which of the packets that were captured are a probe's, and how they looked.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::SystemTime;

use super::Mark;
use super::send::is_echo;
use crate::capture::{Captured, Direction, Encapsulation, Packet, Payload, Tunnels};
use crate::journey::{Outer, Place, Point, Way};

/// A packet that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When.
    pub time: SystemTime,
    /// Whether it is the answer.
    pub answer: bool,
    /// Where, and how it looked.
    pub point: Point,
}

/// A captured frame, and where.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where.
    pub place: Place,
    /// The link there.
    pub link: String,
    /// The frame.
    pub captured: Captured,
}

/// A server's address and port, and the port of its client. The client's address is not in it: what a node has put in its
/// place may be taken back before the answer is on any link.
type Flow = (IpAddr, u16, u16);

/// What was seen by its mark, in the order of time. All else is passed over, whoever's it is.
///
/// A TCP segment has the mark as its sequence number, and its answer acknowledges that; datagrams and echo requests have
/// its text. A server's answer to a datagram need not repeat it: it is one if it comes from where a marked datagram was seen
/// to go, to the port that that came from.
pub fn sightings(mut frames: Vec<Frame>, marks: &[Mark], tunnels: &Tunnels) -> BTreeMap<Mark, Vec<Sighting>> {
    frames.sort_by_key(|frame| frame.captured.time);
    let packets: Vec<(Frame, Packet)> = frames
        .into_iter()
        .map(|frame| {
            let packet = frame.captured.decode(tunnels);
            (frame, packet)
        })
        .collect();
    let flows = flows(&packets, marks);
    let mut seen: BTreeMap<Mark, Vec<Sighting>> = BTreeMap::new();
    for (frame, packet) in &packets {
        let Some((mark, answer)) = whose(&frame.captured, packet, marks, &flows) else { continue };
        let Some(point) = point(frame, packet, answer) else { continue };
        let all = seen.entry(mark).or_default();
        // Nobody knows that a segment was sent again, but that it looks the same.
        if !all.iter().any(|before| before.answer == answer && before.point == point) {
            all.push(Sighting { time: frame.captured.time, answer, point });
        }
    }
    seen
}

/// Where marked datagrams have gone.
fn flows(packets: &[(Frame, Packet)], marks: &[Mark]) -> HashMap<Flow, Mark> {
    let mut flows: HashMap<Flow, Mark> = HashMap::new();
    for (frame, packet) in packets {
        let mark = begins(&frame.captured, packet).filter(|mark| marks.contains(mark));
        let (Some(mark), Some((there, back))) = (mark, ends(packet)) else { continue };
        // What a server sends back has the mark too if it repeats what it was asked.
        if !flows.contains_key(&back) {
            flows.insert(there, mark);
        }
    }
    flows
}

/// The mark whose text a frame has in it, if it is one of these.
fn text(captured: &Captured, marks: &[Mark]) -> Option<Mark> {
    Mark::find(&captured.frame).filter(|mark| marks.contains(mark))
}

/// The mark with which a packet begins a probe, by TCP or UDP. The first segment of a TCP connection always has one, whoever
/// sends it.
pub fn begins(captured: &Captured, packet: &Packet) -> Option<Mark> {
    match &packet.innermost().ip()?.payload {
        Payload::Tcp(tcp) => (tcp.flags.syn && !tcp.flags.ack).then_some(Mark(tcp.sequence)),
        Payload::Udp(_) if !repeats(captured) => Mark::find(&captured.frame),
        _ => None,
    }
}

/// Whether it is the answer of a lab's echo server, which has a field with what it was asked.
fn repeats(captured: &Captured) -> bool {
    captured.frame.windows(7).any(|window| window == b"\"asked\"")
}

/// A datagram's flow if it goes to the server, and if it comes from it.
fn ends(packet: &Packet) -> Option<(Flow, Flow)> {
    let ip = packet.innermost().ip()?;
    match &ip.payload {
        Payload::Udp(udp) => Some((
            (ip.destination, udp.destination_port, udp.source_port),
            (ip.source, udp.source_port, udp.destination_port),
        )),
        _ => None,
    }
}

/// Which mark a packet has, and whether it is the answer.
fn whose(
    captured: &Captured,
    packet: &Packet,
    marks: &[Mark],
    flows: &HashMap<Flow, Mark>,
) -> Option<(Mark, bool)> {
    let ip = packet.innermost().ip()?;
    match &ip.payload {
        Payload::Tcp(tcp) => {
            let is_answer = tcp.flags.ack && (tcp.flags.syn || tcp.flags.rst);
            let (mark, answer) = match begins(captured, packet) {
                Some(mark) => (mark, false),
                None if is_answer => (Mark(tcp.acknowledgement.wrapping_sub(1)), true),
                None => return None,
            };
            marks.contains(&mark).then_some((mark, answer))
        }
        Payload::Udp(_) => {
            let (there, back) = ends(packet)?;
            let there = flows.get(&there).map(|mark| (*mark, false));
            let of_echo = || text(captured, marks).filter(|_| repeats(captured));
            there.or_else(|| flows.get(&back).copied().or_else(of_echo).map(|mark| (mark, true)))
        }
        Payload::Icmp(icmp) => {
            let (request, reply) = is_echo(icmp.kind, ip.protocol);
            let mark = text(captured, marks)?;
            (request || reply).then_some((mark, reply))
        }
        _ => None,
    }
}

fn point(frame: &Frame, packet: &Packet, answer: bool) -> Option<Point> {
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
    let way = match frame.captured.direction {
        Direction::In => Way::In,
        Direction::Out => Way::Out,
    };
    let port = inner.ports().map(|(_, to)| to).filter(|_| !answer);
    Some(Point {
        place: frame.place.clone(),
        link: frame.link.clone(),
        way,
        outer,
        source: inner.source,
        destination: inner.destination,
        port,
        always: true,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use etherparse::PacketBuilder;

    use super::*;

    const MARK: Mark = Mark(7);

    fn datagram(time: u64, from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &str) -> Frame {
        let mut frame = Vec::new();
        let headers = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).udp(from.1, to.1);
        headers.write(&mut frame, payload.as_bytes()).unwrap();
        Frame {
            place: Place::Node("a".to_owned()),
            link: "cbr0".to_owned(),
            captured: Captured {
                time: UNIX_EPOCH + Duration::from_secs(time),
                link_index: 1,
                direction: Direction::In,
                length: frame.len(),
                frame,
            },
        }
    }

    #[test]
    fn a_servers_own_words_are_an_answer_only_to_the_probe() {
        let (client, gateway, server) = ([10, 0, 0, 1], [10, 0, 0, 254], ([10, 0, 0, 2], 53));
        let asked = format!("JSON {}", MARK.text());
        let frames = vec![
            // Somebody else asks the same server, and gets an answer.
            datagram(1, (client, 40_000), server, "somebody else's"),
            datagram(2, server, (client, 40_000), "for somebody else"),
            // The probe has another source on its way than its answer has as a destination.
            datagram(3, (gateway, 12_345), server, &asked),
            datagram(4, server, (client, 12_345), "what a name server says"),
        ];
        let seen = sightings(frames, &[MARK], &Tunnels::default()).remove(&MARK).unwrap();
        let seen: Vec<(bool, IpAddr, IpAddr)> = seen
            .iter()
            .map(|sighting| (sighting.answer, sighting.point.source, sighting.point.destination))
            .collect();
        assert_eq!(seen, [(false, gateway.into(), server.0.into()), (true, server.0.into(), client.into())]);
    }
}
