//! The hops of a walk in words, each with the object that is its cause.

use std::net::IpAddr;

use model::LinkName;
use plan::{Entry, Key, Link, NodePlan, Origin};
use serde::Serialize;

use super::points::Outer;
use super::{Scene, address};
use crate::{End, Hop, Packet, Step, Walk, World};

/// What a hop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// A rule lets it pass.
    Rule,
    /// A bridge forwards it.
    Bridge,
    /// A route is taken.
    Route,
    /// The destination is rewritten.
    RewriteDestination,
    /// The source is rewritten.
    RewriteSource,
    /// The destination of an answer is restored.
    RestoreDestination,
    /// The source of an answer is restored.
    RestoreSource,
    /// It goes into a tunnel.
    Encapsulate,
    /// A NAT gateway on the way rewrites the addresses around it.
    TranslateOuter,
    /// It comes out of a tunnel.
    Decapsulate,
    /// It has arrived.
    Deliver,
    /// It is lost.
    Lose,
}

/// Something that happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HopView {
    /// Where.
    pub node: String,
    /// What.
    pub action: Action,
    /// In words.
    pub text: String,
    /// The link, if it is about one.
    pub device: Option<String>,
    /// The object that is the cause; `None` where the kernel decides alone.
    pub object: Option<String>,
    /// The chain of the rule that decides.
    pub chain: Option<String>,
    /// What the rule says of itself.
    pub comment: Option<String>,
    /// The element of a map that decides.
    pub element: Option<String>,
    /// The packet's source afterwards.
    pub source: IpAddr,
    /// The packet's destination afterwards.
    pub destination: IpAddr,
    /// The packet's destination port afterwards, host byte order.
    pub port: Option<u16>,
    /// What is put around it.
    pub outer: Option<Outer>,
    /// How long the packet can be to fit, in bytes.
    pub mtu: Option<u32>,
}

pub(super) fn hops(scene: &Scene, world: &World, mut packet: Packet, walk: &Walk) -> Vec<HopView> {
    let mut views = Vec::new();
    for hop in &walk.hops {
        packet.after(&hop.step);
        views.push(view(scene, world, &packet, hop));
    }
    views.extend(last(scene, &walk.packet, walk));
    views
}

fn view(scene: &Scene, world: &World, packet: &Packet, hop: &Hop) -> HopView {
    let plan = world.nodes.get(&hop.node).map(|(_, plan)| plan);
    let blank = |action, text| HopView {
        object: hop.origin.as_ref().map(|origin| object(scene, origin)),
        ..blank(hop.node.to_string(), action, text, packet)
    };
    let mtu = |link: &LinkName| plan.and_then(|plan| mtu(plan, link));
    let with = |link: &LinkName, view: HopView| HopView { device: Some(link.to_string()), ..view };
    match &hop.step {
        Step::Rule { chain, comment, element } => HopView {
            chain: Some(chain.to_string()),
            comment: Some((*comment).to_owned()),
            element: element.as_ref().map(ToString::to_string),
            ..blank(Action::Rule, format!("chain {chain}: {comment}"))
        },
        Step::Bridged { bridge } => HopView {
            mtu: mtu(bridge),
            ..with(bridge, blank(Action::Bridge, format!("bridged by {bridge}")))
        },
        Step::Routed { destination, via, link } => {
            let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
            let text = match link {
                Some(link) => format!("route {destination}{via} dev {link}"),
                None => "the node's own route".to_owned(),
            };
            let device = link.as_ref().map(ToString::to_string);
            HopView { device, mtu: link.as_ref().and_then(mtu), ..blank(Action::Route, text) }
        }
        Step::Rewritten { destination, port } => {
            let to = address(*destination, Some(*port));
            blank(Action::RewriteDestination, format!("destination becomes {to}"))
        }
        Step::SourceRewritten { source } | Step::Masqueraded { source } => {
            blank(Action::RewriteSource, format!("source becomes {source}"))
        }
        Step::DestinationRestored { destination } => blank(
            Action::RestoreDestination,
            format!("connection tracking: destination becomes {destination}"),
        ),
        Step::SourceRestored { source } => {
            blank(Action::RestoreSource, format!("connection tracking: source becomes {source}"))
        }
        Step::Encapsulated { link, source, destination, .. } => {
            let outer = plan.and_then(|plan| Outer::vxlan(Some(plan), link, *source, *destination));
            let what = outer.as_ref().map_or_else(|| "a tunnel".to_owned(), ToString::to_string);
            let left = mtu(link).map(|mtu| format!(", up to {mtu} bytes")).unwrap_or_default();
            HopView {
                outer,
                mtu: mtu(link),
                ..with(link, blank(Action::Encapsulate, format!("into {what}{left}")))
            }
        }
        Step::Wrapped { link, source, destination, mtu } => {
            let outer = Outer::Ipip { source: *source, destination: *destination };
            let left = mtu.map(|mtu| format!(", up to {mtu} bytes")).unwrap_or_default();
            let text = format!("into {outer}{left}");
            HopView { outer: Some(outer), mtu: *mtu, ..with(link, blank(Action::Encapsulate, text)) }
        }
        Step::Translated { site, source, destination } => {
            let outer = Outer::Ipip { source: *source, destination: *destination };
            let text = format!("the NAT gateway of site {site} makes it {outer}");
            HopView { outer: Some(outer), ..blank(Action::TranslateOuter, text) }
        }
        Step::Unwrapped => blank(Action::Decapsulate, "out of IP in IP".to_owned()),
        Step::Decapsulated { link } => {
            with(link, blank(Action::Decapsulate, format!("out of the tunnel by {link}")))
        }
    }
}

/// What the last hop leads to.
fn last(scene: &Scene, packet: &Packet, walk: &Walk) -> Option<HopView> {
    let at = walk.hops.last().map(|hop| hop.node.to_string());
    let (node, action, text) = match &walk.end {
        End::Pod(node, link) => {
            let name = scene.pod_at(node, link).map(|pod| pod.name.to_string());
            let name = name.unwrap_or_else(|| link.to_string());
            (node.to_string(), Action::Deliver, format!("delivered to {name}, from {}", packet.source))
        }
        End::Node(node) => (
            node.to_string(),
            Action::Deliver,
            format!("delivered to the node itself, from {}", packet.source),
        ),
        End::Outside => {
            let text = format!("leaves the cluster, from {} to {}", packet.source, packet.destination);
            (at?, Action::Deliver, text)
        }
        End::Lost(loss) => (at?, Action::Lose, format!("LOST: {loss}")),
    };
    Some(blank(node, action, text, packet))
}

fn blank(node: String, action: Action, text: String, packet: &Packet) -> HopView {
    let Packet { source, destination, destination_port: port, .. } = *packet;
    HopView {
        node,
        action,
        text,
        device: None,
        object: None,
        chain: None,
        comment: None,
        element: None,
        source,
        destination,
        port,
        outer: None,
        mtu: None,
    }
}

fn mtu(plan: &NodePlan, link: &LinkName) -> Option<u32> {
    match &plan.entries.get(&Key::Link(link.clone()))?.entry {
        Entry::Link(Link::Bridge { mtu, .. } | Link::Vxlan { mtu, .. }) => Some(*mtu),
        _ => None,
    }
}

/// An object as kubectl would name it.
pub(super) fn object(scene: &Scene, origin: &Origin) -> String {
    match origin {
        Origin::Attachment(id) => {
            let pod = scene.pods.iter().find(|pod| pod.attachment().id == *id);
            pod.map_or_else(|| origin.to_string(), |pod| format!("Pod {}", pod.name))
        }
        origin => origin.to_string(),
    }
}
