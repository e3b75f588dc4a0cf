//! The answer to a packet: what connection tracking has rewritten is rewritten back.

use model::NodeName;
use plan::Origin;

use super::steps::Walker;
use super::{End, Hop, Packet, Start, Step, Walk, World};

/// A connection as a node's connection tracking knows it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) node: NodeName,
    /// Its first packet as it came to the node.
    pub(super) first: Packet,
    /// And as it left it.
    pub(super) passed_on: Packet,
    /// Whose entry rewrote the source.
    pub(super) source_origin: Option<Origin>,
    /// Whose entry rewrote the destination.
    pub(super) destination_origin: Option<Origin>,
}

impl Connection {
    /// Whether a packet goes the other way.
    pub(super) fn answered_by(&self, packet: &Packet) -> bool {
        let Packet { source, destination, .. } = self.passed_on;
        (packet.source, packet.destination) == (destination, source)
    }
}

/// Walks the answer to a packet that has arrived: from the end of its walk to where it came from. `packet` is what was
/// sent. `None` if the packet did not arrive.
pub fn answer(world: &World, start: &Start, packet: Packet, walk: &Walk) -> Option<Walk> {
    let from = match &walk.end {
        End::Pod(node, link) => Start::Pod(node.clone(), link.clone()),
        End::Node(node) => Start::Node(node.clone()),
        End::Outside => {
            let (Start::Pod(first, _) | Start::Node(first) | Start::Outside { node: first }) = start;
            Start::Outside { node: walk.hops.last().map_or_else(|| first.clone(), |hop| hop.node.clone()) }
        }
        End::Lost(_) => return None,
    };
    let reply = Packet {
        source: walk.packet.destination,
        destination: walk.packet.source,
        // The client's port, which nothing is known of.
        destination_port: None,
        ..walk.packet
    };
    Some(Walker::new(world, reply).with(connections(packet, &walk.hops)).walk(&from))
}

/// What the nodes on a way know of the connection, once its first packet has taken it.
fn connections(mut packet: Packet, hops: &[Hop]) -> Vec<Connection> {
    let mut known: Vec<Connection> = Vec::new();
    for hop in hops {
        if known.last().is_none_or(|last| last.node != hop.node) {
            known.push(Connection {
                node: hop.node.clone(),
                first: packet,
                passed_on: packet,
                source_origin: None,
                destination_origin: None,
            });
        }
        let Some(connection) = known.last_mut() else { continue };
        packet.after(&hop.step);
        connection.passed_on = packet;
        match hop.step {
            Step::Rewritten { .. } => connection.destination_origin.clone_from(&hop.origin),
            Step::SourceRewritten { .. } | Step::Masqueraded { .. } => {
                connection.source_origin.clone_from(&hop.origin);
            }
            _ => {}
        }
    }
    known
}

impl Packet {
    /// Makes of the packet what a step makes of it.
    pub fn after(&mut self, step: &Step) {
        match step {
            Step::Rewritten { destination, port } => {
                self.destination = *destination;
                self.destination_port = Some(*port);
            }
            Step::DestinationRestored { destination } => self.destination = *destination,
            Step::SourceRewritten { source }
            | Step::Masqueraded { source }
            | Step::SourceRestored { source } => self.source = *source,
            _ => {}
        }
    }
}
