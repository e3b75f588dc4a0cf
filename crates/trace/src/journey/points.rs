//! Where a packet can be seen on its way, and how it looks there.

use std::net::IpAddr;

use model::{Family, LinkName, NodeName};
use plan::{Entry, Key, Link, NodePlan};
use serde::Serialize;

use super::Scene;
use crate::{End, Packet, Start, Step, Walk, World};

/// Which way a packet goes, seen from a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// Out by it.
    Out,
    /// In by it.
    In,
}

/// Where links are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// In a pod, by its full name.
    Pod(String),
    /// In a node.
    Node(String),
}

/// A packet on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Where.
    pub place: Place,
    /// The link.
    pub link: String,
    /// Which way it goes.
    pub way: Way,
    /// What is around it, if anything is.
    pub outer: Option<Outer>,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its destination port, host byte order, if it has one and that is known.
    pub port: Option<u16>,
    /// Whether it is there in any case. What is bridged to another pod than it was sent to passes the bridge's own device
    /// as long as the node does not know that pod's Ethernet address (`br_nf_pre_routing_finish_bridge`,
    /// net/bridge/br_netfilter_hooks.c).
    pub always: bool,
}

/// What is around a packet in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "protocol")]
pub enum Outer {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// The network identifier.
        vni: u32,
        /// The UDP destination port, host byte order.
        port: u16,
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
    },
    /// IP in IP (RFC 2003, RFC 2473).
    Ipip {
        /// The outer source address.
        source: IpAddr,
        /// The outer destination address.
        destination: IpAddr,
    },
}

impl Outer {
    /// The outer destination address.
    pub fn destination(&self) -> &IpAddr {
        let (Outer::Vxlan { destination, .. } | Outer::Ipip { destination, .. }) = self;
        destination
    }

    /// How the tunnel device of a plan carries packets.
    pub(super) fn vxlan(
        plan: Option<&NodePlan>,
        link: &LinkName,
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<Outer> {
        match &plan?.entries.get(&Key::Link(link.clone()))?.entry {
            Entry::Link(Link::Vxlan { vni, port, .. }) => {
                Some(Outer::Vxlan { vni: vni.value(), port: port.value(), source, destination })
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outer::Vxlan { vni, source, destination, .. } => {
                write!(f, "VXLAN {vni} {source} > {destination}")
            }
            Outer::Ipip { source, destination } => write!(f, "IP in IP {source} > {destination}"),
        }
    }
}

impl Packet {
    fn changed_by(mut self, step: &Step) -> bool {
        let before = self;
        self.after(step);
        self != before
    }
}

/// The points of a walk, in order: pods' links, the bridge where packets are routed, tunnels and uplinks.
pub(super) fn points(scene: &Scene, world: &World, start: &Start, packet: Packet, walk: &Walk) -> Vec<Point> {
    let mut trail = Trail { scene, packet, points: Vec::new(), at: None, leaving: None, outer: None };
    match start {
        Start::Pod(node, link) => {
            trail.pod(node, link, Way::Out);
            trail.at = Some(node.clone());
        }
        Start::Node(node) => trail.at = Some(node.clone()),
        Start::Outside { node } => trail.enter(node),
    }
    let mut from_pod = matches!(start, Start::Pod(..));
    for hop in &walk.hops {
        if trail.at.as_ref() != Some(&hop.node) {
            trail.leave();
            trail.enter(&hop.node);
        }
        match &hop.step {
            Step::Bridged { bridge } => {
                from_pod = false;
                if trail.packet.destination != packet.destination {
                    trail.link(bridge.as_str(), Way::Out);
                    trail.points.last_mut().into_iter().for_each(|point| point.always = false);
                }
            }
            Step::Routed { link, .. } => {
                if std::mem::take(&mut from_pod) {
                    trail.link(LinkName::bridge().as_str(), Way::In);
                }
                let link = link.as_ref().map(ToString::to_string);
                trail.leaving = Some(link.unwrap_or_else(|| trail.uplink(&hop.node, None)));
            }
            Step::Encapsulated { link, source, destination, .. } => {
                trail.leave();
                let plan = world.nodes.get(&hop.node).map(|(_, plan)| plan);
                trail.outer = Outer::vxlan(plan, link, *source, *destination);
                trail.leaving = Some(trail.uplink(&hop.node, Some(Family::of(destination))));
            }
            Step::Wrapped { source, destination, .. } => {
                trail.outer = Some(Outer::Ipip { source: *source, destination: *destination });
            }
            Step::Translated { source, destination, .. } => {
                trail.leave();
                trail.outer = Some(Outer::Ipip { source: *source, destination: *destination });
            }
            Step::Unwrapped => trail.outer = None,
            Step::Decapsulated { link } => {
                trail.outer = None;
                trail.link(link.as_str(), Way::In);
            }
            step => {
                // The bridge's own device is past what rewrites destinations, and before what rewrites sources.
                let of_destination =
                    matches!(step, Step::Rewritten { .. } | Step::DestinationRestored { .. });
                if from_pod && !of_destination && trail.packet.changed_by(step) {
                    from_pod = false;
                    trail.link(LinkName::bridge().as_str(), Way::In);
                }
                trail.packet.after(step);
            }
        }
    }
    match &walk.end {
        End::Lost(_) => {}
        End::Pod(node, link) => {
            trail.arrive(node);
            trail.pod(node, link, Way::In);
        }
        End::Node(node) => {
            if from_pod && trail.at.as_ref() == Some(node) {
                trail.link(LinkName::bridge().as_str(), Way::In);
            }
            trail.arrive(node);
        }
        End::Outside => trail.leave(),
    }
    trail.points
}

struct Trail<'a> {
    scene: &'a Scene,
    packet: Packet,
    points: Vec<Point>,
    at: Option<NodeName>,
    /// The link that it is about to leave by: what is rewritten is so before that.
    leaving: Option<String>,
    outer: Option<Outer>,
}

impl Trail<'_> {
    fn arrive(&mut self, node: &NodeName) {
        self.leave();
        if self.at.as_ref() != Some(node) {
            self.enter(node);
        }
    }

    fn leave(&mut self) {
        if let Some(link) = self.leaving.take() {
            self.link(&link, Way::Out);
        }
    }

    /// It comes to another node, by its uplink.
    fn enter(&mut self, node: &NodeName) {
        self.at = Some(node.clone());
        let family = self.outer.as_ref().map(|outer| Family::of(outer.destination()));
        let uplink = self.uplink(node, family);
        self.link(&uplink, Way::In);
    }

    fn uplink(&self, node: &NodeName, family: Option<Family>) -> String {
        let links = self.scene.underlay.get(node);
        let family = family.unwrap_or_else(|| Family::of(&self.packet.destination));
        let link = links.and_then(|links| links.of(family).or_else(|| links.iter().next()));
        link.map_or_else(|| "uplink".to_owned(), |underlay| underlay.link.to_string())
    }

    fn pod(&mut self, node: &NodeName, link: &LinkName, way: Way) {
        let Some(pod) = self.scene.pod_at(node, link) else { return };
        self.push(Place::Pod(pod.name.to_string()), "eth0", way);
    }

    fn link(&mut self, link: &str, way: Way) {
        let Some(node) = &self.at else { return };
        self.push(Place::Node(node.to_string()), link, way);
    }

    fn push(&mut self, place: Place, link: &str, way: Way) {
        let Packet { source, destination, destination_port: port, .. } = self.packet;
        let outer = self.outer.clone();
        self.points.push(Point {
            place,
            link: link.to_owned(),
            way,
            outer,
            source,
            destination,
            port,
            always: true,
        });
    }
}
