//! What the plans of the nodes say of a connection to a service.

use std::net::IpAddr;

use trace::{End, Loss, Start, Step, Walk, walk_all};

use super::{Predictor, attachment, packet, step_in_words};
use crate::check::cases::{Case, Client};
use crate::check::evidence::{Carried, Fate, Leg, Path};

impl Predictor<'_> {
    /// What becomes of a connection, and the steps of each of its ways.
    pub(in crate::check) fn connection(&self, case: &Case<'_>, source: IpAddr) -> (Fate, Vec<Vec<String>>) {
        let start = match case.client {
            Client::Pod(pod) => Start::Pod(pod.node.clone(), attachment(pod).id.host_link()),
            Client::Node(node) => Start::Node(node.clone()),
            Client::Outside(_, node) => Start::Outside { node: node.clone() },
        };
        let first = packet(source, case.target.address.ip(), case.transport, case.target.address.port());
        let walks: Vec<Walk> = walk_all(&self.world, &start, first).map(|outcome| outcome.walk).collect();
        let steps = walks.iter().map(|walk| walk.hops.iter().map(step_in_words).collect()).collect();
        let legs = |walk: &Walk| self.legs(case, source, walk);
        // A connection that can end in different ways is none that a row speaks of: the worst is told.
        let lost = walks.iter().find(|walk| !matches!(walk.end, End::Pod(..)));
        let fate = match lost {
            None => Fate::answered(walks.iter().map(|walk| Path {
                by: self.end(walk),
                source: walk.packet.source,
                legs: legs(walk),
            })),
            Some(walk) => match &walk.end {
                End::Lost(Loss::Refused { .. }) => Fate::Refused { legs: legs(walk) },
                End::Lost(Loss::Dropped { .. }) => Fate::Silent { legs: legs(walk) },
                _ => Fate::answered([Path {
                    by: self.end(walk),
                    source: walk.packet.source,
                    legs: legs(walk),
                }]),
            },
        };
        (fate, steps)
    }

    /// The parts of a walk that are on the underlay.
    fn legs(&self, case: &Case<'_>, source: IpAddr, walk: &Walk) -> Vec<Leg> {
        let mut now = (source, case.target.address.ip());
        let plain = |(source, destination)| Carried::Plain { source, destination };
        let mut legs = Vec::new();
        let mut at = match case.client {
            Client::Outside(host, _) => host.name.clone(),
            Client::Pod(pod) => pod.node.to_string(),
            Client::Node(node) => node.to_string(),
        };
        let mut tunnel = None;
        for hop in &walk.hops {
            // From node to node it goes in a tunnel, or as it is.
            if hop.node.as_str() != at {
                let to = hop.node.to_string();
                let (carried, arrives) = tunnel.take().unwrap_or_else(|| (plain(now), plain(now)));
                legs.push(Leg { from: std::mem::replace(&mut at, to.clone()), to, carried, arrives });
            }
            match &hop.step {
                Step::Rewritten { destination, .. } => now.1 = *destination,
                Step::SourceRewritten { source } | Step::Masqueraded { source } => now.0 = *source,
                Step::Encapsulated { link, source, destination, .. } => {
                    let carried = self.tunnel(&hop.node, link, *source, *destination);
                    tunnel = Some((carried, carried));
                }
                Step::Wrapped { source, destination, .. } => {
                    let carried = Carried::Ipip { source: *source, destination: *destination };
                    tunnel = Some((carried, carried));
                }
                Step::Translated { source, destination, .. } => {
                    let arrives = Carried::Ipip { source: *source, destination: *destination };
                    tunnel = tunnel.map(|(carried, _)| (carried, arrives));
                }
                _ => {}
            }
        }
        if walk.end == End::Outside {
            legs.push(Leg::new(at, self.end(walk), plain(now)));
        }
        legs
    }
}
