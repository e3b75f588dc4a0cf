//! Probes in the words of the API, and in those of the trace: what agents write, and `cambric trace --live` reads.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use kube_source::{
    ProbeOuter, ProbeProtocol, ProbeReply, ProbeReplyKind, ProbeReport, ProbeSighting, ProbeUnderlay,
};
use model::{Family, LinkName, PerFamily};
use plan::Underlay;
use trace::journey::{Outer, Place, Point, Transport, Way};
use trace::live::send::PORTS;
use trace::live::{Mark, Reply, Sighting};

/// The mark of a probe. It follows from the UID, which the API server chooses: nobody can have agents look for a mark that
/// others' packets have.
pub(crate) fn mark(uid: &str) -> Mark {
    Mark(model::fnv1a(uid.as_bytes()) as u32)
}

/// The sender's port of a probe, host byte order; another than the destination's, so that an answer is told from it.
pub(crate) fn sender_port(mark: Mark, destination: Option<u16>) -> u16 {
    let span = u32::from(PORTS.end - PORTS.start);
    let port = PORTS.start + (mark.0 % (span - 1)) as u16;
    if Some(port) == destination { port + 1 } else { port }
}

pub(crate) fn transport(protocol: ProbeProtocol) -> Transport {
    match protocol {
        ProbeProtocol::Tcp => Transport::Tcp,
        ProbeProtocol::Udp => Transport::Udp,
        ProbeProtocol::Icmp => Transport::Icmp,
    }
}

pub(crate) fn protocol(transport: Transport) -> ProbeProtocol {
    match transport {
        Transport::Tcp => ProbeProtocol::Tcp,
        Transport::Udp => ProbeProtocol::Udp,
        Transport::Icmp => ProbeProtocol::Icmp,
    }
}

pub(crate) fn reply_out(reply: &Reply) -> ProbeReply {
    let (kind, message) = match reply {
        Reply::Answer(of) => (ProbeReplyKind::Answer, of.clone()),
        Reply::Refusal => (ProbeReplyKind::Refusal, String::new()),
        Reply::Nothing => (ProbeReplyKind::Nothing, String::new()),
        Reply::Other(what) => (ProbeReplyKind::Other, what.clone()),
    };
    ProbeReply { kind, message }
}

pub(crate) fn reply_in(reply: &ProbeReply) -> Reply {
    match reply.kind {
        ProbeReplyKind::Answer => Reply::Answer(reply.message.clone()),
        ProbeReplyKind::Refusal => Reply::Refusal,
        ProbeReplyKind::Nothing => Reply::Nothing,
        ProbeReplyKind::Other => Reply::Other(reply.message.clone()),
    }
}

pub(crate) fn underlay_out(underlay: &PerFamily<Underlay>) -> Vec<ProbeUnderlay> {
    let one = |Underlay { link, net, mtu }: &Underlay| ProbeUnderlay {
        link: link.to_string(),
        address: net.to_string(),
        mtu: *mtu,
    };
    underlay.iter().map(one).collect()
}

/// What a node says of its links; what is no link is left out.
pub(crate) fn underlay_in(links: &[ProbeUnderlay]) -> PerFamily<Underlay> {
    let mut underlay = PerFamily::default();
    for ProbeUnderlay { link, address, mtu } in links {
        let (Ok(link), Ok(net)) = (LinkName::new(link.as_str()), address.parse::<ipnet::IpNet>()) else {
            continue;
        };
        underlay.insert(Family::of(&net.addr()), Underlay { link, net, mtu: *mtu });
    }
    underlay
}

pub(crate) fn sighting_out(sighting: &Sighting) -> ProbeSighting {
    let Point { place, link, way, outer, source, destination, port, .. } = &sighting.point;
    let since = sighting.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    ProbeSighting {
        time: i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        answer: sighting.answer,
        pod: match place {
            Place::Pod(name) => Some(name.clone()),
            Place::Node(_) => None,
        },
        link: link.clone(),
        out: *way == Way::Out,
        source: source.to_string(),
        destination: destination.to_string(),
        port: *port,
        outer: outer.as_ref().map(outer_out),
    }
}

fn outer_out(outer: &Outer) -> ProbeOuter {
    match outer {
        Outer::Vxlan { vni, port, source, destination } => ProbeOuter {
            source: source.to_string(),
            destination: destination.to_string(),
            vni: Some(*vni),
            port: Some(*port),
        },
        Outer::Ipip { source, destination } => ProbeOuter {
            source: source.to_string(),
            destination: destination.to_string(),
            vni: None,
            port: None,
        },
    }
}

/// What a node says it has seen; what is no address is left out.
pub(crate) fn sightings_in(report: &ProbeReport) -> Vec<Sighting> {
    report.sightings.iter().filter_map(|sighting| sighting_in(&report.node, sighting)).collect()
}

fn sighting_in(node: &str, seen: &ProbeSighting) -> Option<Sighting> {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let outer = match &seen.outer {
        None => None,
        Some(outer) => {
            let (source, destination) = (address(&outer.source)?, address(&outer.destination)?);
            Some(match outer.vni {
                Some(vni) => Outer::Vxlan { vni, port: outer.port.unwrap_or_default(), source, destination },
                None => Outer::Ipip { source, destination },
            })
        }
    };
    let point = Point {
        place: seen.pod.clone().map_or_else(|| Place::Node(node.to_owned()), Place::Pod),
        link: seen.link.clone(),
        way: if seen.out { Way::Out } else { Way::In },
        outer,
        source: address(&seen.source)?,
        destination: address(&seen.destination)?,
        port: seen.port,
        always: true,
    };
    let time = UNIX_EPOCH + Duration::from_micros(u64::try_from(seen.time).unwrap_or_default());
    Some(Sighting { time, answer: seen.answer, point })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_writes_is_what_is_read() {
        let point = |outer, place| Point {
            place,
            link: "eth0".to_owned(),
            way: Way::Out,
            outer,
            source: "10.244.1.2".parse().unwrap(),
            destination: "10.244.2.2".parse().unwrap(),
            port: Some(80),
            always: true,
        };
        let (source, destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let time = UNIX_EPOCH + Duration::from_micros(1_900_000_000_000_001);
        let all: Vec<Sighting> = [
            (None, Place::Pod("default/a".to_owned())),
            (Some(Outer::Ipip { source, destination }), Place::Node("n".to_owned())),
            (Some(Outer::Vxlan { vni: 7, port: 4789, source, destination }), Place::Node("n".to_owned())),
        ]
        .into_iter()
        .map(|(outer, place)| Sighting { time, answer: false, point: point(outer, place) })
        .collect();
        let read: Vec<Sighting> = all.iter().filter_map(|one| sighting_in("n", &sighting_out(one))).collect();
        assert_eq!(read, all);
        for reply in [
            Reply::Answer("of x".to_owned()),
            Reply::Refusal,
            Reply::Nothing,
            Reply::Other("it cannot send".to_owned()),
        ] {
            assert_eq!(reply_in(&reply_out(&reply)), reply);
        }
    }

    #[test]
    fn the_senders_port_is_never_the_destinations() {
        let mark = mark("0f0e7ad6-9c7b-4b1d-9a53-0d6c0b8d8a01");
        let port = sender_port(mark, None);
        assert!(PORTS.contains(&port) && PORTS.contains(&sender_port(mark, Some(port))));
        assert_ne!(sender_port(mark, Some(port)), port);
    }
}
