//! A packet's way and its answer's, for somebody to read: who sends what to whom, hop by hop, and which object is the
//! cause of each.
//!
//! [`Scene`] is the cluster, [`Query`] the question, [`Journey`] the answer. Its fields are the JSON of
//! `cambric trace --json`; [`text`] and [`drawing`] show it in a terminal.

pub mod drawing;
mod hops;
mod party;
mod points;
mod scene;
pub mod text;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::{Family, NodeName, PerFamily, Protocol, Service};
use serde::Serialize;

pub use hops::{Action, HopView};
pub use party::{Named, Party, PartyError, Port};
pub use points::{Outer, Place, Point, Way};
pub use scene::Scene;

pub(crate) use party::protocol_name;

use crate::{End, Loss, Outcome, Packet, Start, Step, Walk, World, answer};

// IANA protocol numbers
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What is to be traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Who sends.
    pub source: Named,
    /// To whom.
    pub destination: Named,
    /// By what; none for TCP to a port and ICMP without one.
    pub transport: Option<Transport>,
    /// In which family; none for the first that both have.
    pub family: Option<Family>,
    /// The node that packets from outside come to.
    pub via: Option<NodeName>,
}

/// A protocol that packets can be traced of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, an echo request.
    Icmp,
}

impl Transport {
    /// The IANA protocol number in a family.
    pub fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Transport::Tcp, _) => Protocol::Tcp.number(),
            (Transport::Udp, _) => Protocol::Udp.number(),
            (Transport::Icmp, Family::V4) => ICMP,
            (Transport::Icmp, Family::V6) => ICMPV6,
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Both are of one cluster and have no family in common.
    #[error("{from} has {}, {to} has {}: there is no way between them{}", families(&.has.0), families(&.has.1), wanted(*.family))]
    Family {
        /// The source.
        from: String,
        /// The destination.
        to: String,
        /// The families that each has.
        has: (Vec<Family>, Vec<Family>),
        /// The family that was asked for.
        family: Option<Family>,
    },
    /// Services do not send.
    #[error("{0} sends nothing; name the pod or node that does")]
    ServiceSends(String),
    /// A service port that there is not.
    #[error("{service} has no port {port}; it has {known}")]
    NoPort {
        /// The service.
        service: String,
        /// What was asked for.
        port: String,
        /// What there is.
        known: String,
    },
    /// A service has several ports.
    #[error("{service} has several ports; say which, as {service}:PORT: {known}")]
    WhichPort {
        /// The service.
        service: String,
        /// What there is.
        known: String,
    },
    /// A port where there is none.
    #[error("TCP and UDP need a port; name it after the destination, as {0}:80")]
    PortNeeded(String),
    /// ICMP has no ports.
    #[error("ICMP has no ports; leave out the port, or the protocol")]
    IcmpPort,
    /// A name for a port of something that names no ports.
    #[error("only services' ports have names; use a number instead of \"{0}\"")]
    NamedPort(String),
    /// It is not known where packets from outside come to.
    #[error("packets from outside come to a node first; say to which with --via NODE")]
    Via,
    /// No node of the name.
    #[error("--via: there is no node \"{0}\"")]
    NoNode(String),
    /// The source has no address that it could send from.
    #[error("{0} has no {1} address to send from")]
    NoAddress(String, Family),
}

fn families(families: &[Family]) -> String {
    match families {
        [] => "no address".to_owned(),
        some => some.iter().map(Family::to_string).collect::<Vec<_>>().join(" and "),
    }
}

fn wanted(family: Option<Family>) -> String {
    family.map(|family| format!(" by {family}")).unwrap_or_default()
}

/// What becomes of a packet, in all ways that it can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Journey {
    /// Who sends.
    pub source: EndView,
    /// To whom.
    pub destination: EndView,
    /// The protocol's name.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// What was assumed, as nobody knows.
    pub assumed: Option<String>,
    /// Whether it arrives, whichever way it takes, and so does the answer.
    pub delivered: bool,
    /// Whether what follows in the same connection may go by the fast path. The ways are those of the first packets.
    pub fast_path: bool,
    /// The ways.
    pub ways: Vec<Route>,
    /// The packet as it is sent.
    #[serde(skip)]
    pub packet: Packet,
    /// Where it is sent from.
    #[serde(skip)]
    pub start: Start,
}

/// A party of a journey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndView {
    /// `pod`, `node`, `service` or `outside`.
    pub kind: &'static str,
    /// Its name; the address of somebody outside.
    pub name: String,
    /// The node that it is or is on.
    pub node: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The port, host byte order.
    pub port: Option<u16>,
}

impl EndView {
    pub(crate) fn of(party: &Party, address: IpAddr, port: Option<u16>) -> EndView {
        let (kind, name, node) = match party {
            Party::Pod(pod) => ("pod", pod.name.to_string(), Some(pod.node.to_string())),
            Party::Node(node) => ("node", node.to_string(), Some(node.to_string())),
            Party::Service(name) => ("service", name.to_string(), None),
            Party::Outside(address) => ("outside", address.to_string(), None),
        };
        EndView { kind, name, node, address, port }
    }
}

/// One of the ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// One in how many connections takes it.
    pub one_in: u64,
    /// Who gets it; `None` if nobody does.
    pub end: Option<EndView>,
    /// Why nobody does, or why the answer is lost.
    pub lost: Option<Lost>,
    /// The way there.
    pub there: Vec<HopView>,
    /// The way of the answer.
    pub back: Vec<HopView>,
    /// Where it can be seen on the way there.
    pub points: Vec<Point>,
    /// Where the answer can be seen.
    pub points_back: Vec<Point>,
}

/// Where and why a packet is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// On which node.
    pub node: String,
    /// Why.
    pub why: String,
    /// The object that is the cause, if one is.
    pub object: Option<String>,
    /// Whether the sender is told.
    pub told: bool,
    /// Whether it is the answer that is lost.
    pub answer: bool,
}

impl Scene {
    /// Answers a question.
    ///
    /// # Errors
    /// [`QueryError`] if it has no answer.
    pub fn journey(&self, query: &Query) -> Result<Journey, QueryError> {
        let (source, destination) = (&query.source.party, &query.destination.party);
        if let Party::Service(name) = source {
            return Err(QueryError::ServiceSends(format!("service {name}")));
        }
        let (port, transport) = self.port(query)?;
        let (family, from, to) = self.ends(query)?;
        let start = self.start(query, &to)?;
        let begin: BTreeSet<NodeName> = match &start {
            Start::Pod(node, _) | Start::Node(node) | Start::Outside { node } => [node.clone()].into(),
        };
        let from = match &start {
            // It takes the address of its way there.
            Start::Node(node) if query.source.address.is_none() => {
                let (_, world) = self.ways(&start, Packet::new(from, to, transport, port), &begin);
                world.source(node, &to)
            }
            _ => Some(from),
        };
        let from = from.ok_or_else(|| QueryError::NoAddress(source.to_string(), family))?;
        let packet = Packet::new(from, to, transport, port);
        let (ways, world) = self.ways(&start, packet, &begin);
        let ways: Vec<Route> = ways.iter().map(|way| self.route(&world, &start, packet, way)).collect();
        let delivered = ways.iter().all(|way| way.lost.is_none());
        Ok(Journey {
            fast_path: delivered && self.may_go_fast(&start, packet, &ways),
            delivered,
            source: EndView::of(source, from, None),
            destination: EndView::of(destination, to, port),
            protocol: protocol_name(packet.protocol),
            family: family.to_string(),
            assumed: self.assumed.clone(),
            ways,
            packet,
            start,
        })
    }

    /// Whether the fast path takes connections that begin with a packet, on one of its ways: those of pods to other pods.
    fn may_go_fast(&self, start: &Start, packet: Packet, ways: &[Route]) -> bool {
        let has_flows = matches!(packet.transport(), Some(Transport::Tcp | Transport::Udp));
        let to_another = |way: &Route| {
            way.end.as_ref().is_some_and(|end| end.kind == "pod" && end.address != packet.source)
        };
        let taken = has_flows && matches!(start, Start::Pod(..)) && ways.iter().any(to_another);
        self.cluster.network.fast_path && taken
    }

    fn route(&self, world: &World, start: &Start, packet: Packet, way: &Outcome) -> Route {
        let Outcome { one_in, walk } = way;
        let back = answer(world, start, packet, walk);
        let reply = |walk: &Walk| Packet {
            source: walk.packet.destination,
            destination: walk.packet.source,
            destination_port: None,
            ..walk.packet
        };
        let back_start = match &walk.end {
            End::Pod(node, link) => Some(Start::Pod(node.clone(), link.clone())),
            End::Node(node) => Some(Start::Node(node.clone())),
            End::Outside => walk.hops.last().map(|hop| Start::Outside { node: hop.node.clone() }),
            End::Lost(_) => None,
        };
        let lost = self.lost(start, walk, false);
        let lost = lost.or_else(|| self.lost(back_start.as_ref()?, back.as_ref()?, true));
        let back_points =
            || Some(points::points(self, world, back_start.as_ref()?, reply(walk), back.as_ref()?));
        Route {
            one_in: *one_in,
            end: self.arrival(walk),
            lost,
            there: hops::hops(self, world, packet, walk),
            back: back.as_ref().map(|back| hops::hops(self, world, reply(walk), back)).unwrap_or_default(),
            points: points::points(self, world, start, packet, walk),
            points_back: back_points().unwrap_or_default(),
        }
    }

    fn lost(&self, start: &Start, walk: &Walk, answer: bool) -> Option<Lost> {
        let End::Lost(loss) = &walk.end else { return None };
        let (Start::Pod(first, _) | Start::Node(first) | Start::Outside { node: first }) = start;
        let last = walk.hops.last();
        let node = last.map_or(first, |hop| &hop.node);
        // What led to the chain that ends it says more than that does.
        let led = match loss {
            Loss::Dropped { .. } | Loss::Refused { .. } => last,
            _ => None,
        };
        let led = led.and_then(|hop| match &hop.step {
            Step::Rule { comment, element: None, .. } => Some((format!("{comment}: "), hop)),
            Step::Rule { .. } => Some((String::new(), hop)),
            _ => None,
        });
        let (cause, origin) = led.map_or((String::new(), None), |(cause, hop)| (cause, hop.origin.as_ref()));
        Some(Lost {
            node: node.to_string(),
            why: format!("{cause}{loss}"),
            object: origin.map(|origin| hops::object(self, origin)),
            told: matches!(loss, Loss::Refused { .. }),
            answer,
        })
    }

    fn arrival(&self, walk: &Walk) -> Option<EndView> {
        let Packet { destination, destination_port: port, .. } = walk.packet;
        let party = match &walk.end {
            End::Pod(node, link) => Party::Pod(self.pod_at(node, link)?.clone()),
            End::Node(node) => Party::Node(node.clone()),
            End::Outside => Party::Outside(destination),
            End::Lost(_) => return None,
        };
        Some(EndView::of(&party, destination, port))
    }

    /// The port and the protocol.
    fn port(&self, query: &Query) -> Result<(Option<u16>, Transport), QueryError> {
        let Named { party, port, .. } = &query.destination;
        if let (Some(_), Some(Transport::Icmp)) = (port, query.transport) {
            return Err(QueryError::IcmpPort);
        }
        if let Party::Service(name) = party
            && query.transport != Some(Transport::Icmp)
            && let Some(service) = self.cluster.services.get(name)
        {
            return service_port(service, port.as_ref(), query.transport);
        }
        match (port, query.transport) {
            (Some(Port::Name(name)), _) => Err(QueryError::NamedPort(name.clone())),
            (Some(Port::Number(port)), transport) => Ok((Some(*port), transport.unwrap_or(Transport::Tcp))),
            (None, None | Some(Transport::Icmp)) => Ok((None, Transport::Icmp)),
            (None, Some(_)) => Err(QueryError::PortNeeded(party.to_string())),
        }
    }

    /// The family and the addresses.
    fn ends(&self, query: &Query) -> Result<(Family, IpAddr, IpAddr), QueryError> {
        let of = |named: &Named| match named.address {
            Some(address) => {
                let mut one = PerFamily::default();
                one.insert(Family::of(&address), address);
                one
            }
            None => self.addresses(&named.party),
        };
        let (from, to) = (of(&query.source), of(&query.destination));
        // A node can have a pod range in a family in which it has no address of its own.
        let from = match (&query.source.party, query.source.address) {
            (Party::Node(name), None) => {
                let ranges =
                    self.cluster.nodes.get(name).map(|node| node.pod_ranges.clone()).unwrap_or_default();
                let gateway = |family| ranges.of(family).map(model::PodRange::gateway);
                PerFamily {
                    v4: from.v4.or_else(|| gateway(Family::V4)),
                    v6: from.v6.or_else(|| gateway(Family::V6)),
                }
            }
            _ => from,
        };
        let fits = |family: &Family| query.family.is_none_or(|wanted| wanted == *family);
        let both = |family: Family| Some((family, *from.of(family)?, *to.of(family)?));
        let found = Family::BOTH.into_iter().filter(fits).find_map(both);
        found.ok_or_else(|| {
            let has = |one: &PerFamily<IpAddr>| one.iter().map(Family::of).collect();
            QueryError::Family {
                from: query.source.party.to_string(),
                to: query.destination.party.to_string(),
                has: (has(&from), has(&to)),
                family: query.family,
            }
        })
    }

    fn start(&self, query: &Query, to: &IpAddr) -> Result<Start, QueryError> {
        Ok(match &query.source.party {
            Party::Pod(pod) => Start::Pod(pod.node.clone(), pod.attachment().id.host_link()),
            Party::Node(node) => Start::Node(node.clone()),
            Party::Service(name) => return Err(QueryError::ServiceSends(format!("service {name}"))),
            Party::Outside(_) => {
                let of_destination = || match &query.destination.party {
                    Party::Node(_) => self.node_with(to),
                    Party::Pod(pod) => Some(pod.node.clone()),
                    Party::Service(_) | Party::Outside(_) => None,
                };
                let node = query.via.clone().or_else(of_destination).ok_or(QueryError::Via)?;
                if !self.cluster.nodes.contains_key(&node) {
                    return Err(QueryError::NoNode(node.to_string()));
                }
                Start::Outside { node }
            }
        })
    }
}

impl Packet {
    fn new(source: IpAddr, destination: IpAddr, transport: Transport, port: Option<u16>) -> Packet {
        let protocol = transport.number(Family::of(&destination));
        Packet { source, destination, protocol, destination_port: port }
    }
}

fn service_port(
    service: &Service,
    port: Option<&Port>,
    transport: Option<Transport>,
) -> Result<(Option<u16>, Transport), QueryError> {
    let transport_of = |protocol| match protocol {
        Protocol::Tcp => Some(Transport::Tcp),
        Protocol::Udp => Some(Transport::Udp),
        Protocol::Sctp => None,
    };
    let fits = |each: &&model::ServicePort| {
        let of = transport_of(each.protocol);
        of.is_some() && transport.is_none_or(|wanted| Some(wanted) == of)
    };
    let name = || format!("service/{}", service.name);
    let known = || party::ports(service);
    let candidates: Vec<&model::ServicePort> = service.ports.iter().filter(fits).collect();
    let chosen = match port {
        // A port that the service does not have can be sent to all the same.
        Some(Port::Number(number)) => {
            let one = candidates.iter().find(|each| each.port == *number);
            let of = one.and_then(|one| transport_of(one.protocol));
            return Ok((Some(*number), transport.or(of).unwrap_or(Transport::Tcp)));
        }
        Some(Port::Name(wanted)) => {
            candidates.iter().find(|each| *each.name == **wanted).ok_or_else(|| QueryError::NoPort {
                service: name(),
                port: format!("\"{wanted}\""),
                known: known(),
            })?
        }
        None => match candidates.as_slice() {
            [one] => one,
            // The usual pair of one number by TCP and UDP.
            [first, rest @ ..] if rest.iter().all(|each| each.port == first.port) => {
                candidates.iter().find(|each| each.protocol == Protocol::Tcp).unwrap_or(first)
            }
            [] => {
                return Err(QueryError::NoPort {
                    service: name(),
                    port: "of this protocol".to_owned(),
                    known: known(),
                });
            }
            _ => return Err(QueryError::WhichPort { service: name(), known: known() }),
        },
    };
    Ok((Some(chosen.port), transport_of(chosen.protocol).unwrap_or(Transport::Tcp)))
}

/// An address with its port, if it has one.
pub fn address(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

#[cfg(test)]
mod tests;
