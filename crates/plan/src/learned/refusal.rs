//! Why what a peer has told is not planned as it was told.

use std::net::IpAddr;
use std::sync::Arc;

use model::{NodeName, PodRange};

use crate::Obstacle;

/// Why a path, or a prefix with all of its paths, is left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The prefix is in a pod range of this node.
    #[error("lies in {0}, a pod range of this node, which it knows better")]
    OwnRange(PodRange),
    /// The prefix is an address of this node.
    #[error("is an address of this node")]
    OwnAddress,
    /// The next hop cannot be reached without asking for a route to it.
    #[error(
        "has the next hop {next_hop}, told by {peer}, which is in no subnet of this node and no node's address; next \
         hops behind routers are not looked up, so have {peer} tell itself as next hop"
    )]
    Beyond {
        /// The next hop.
        next_hop: IpAddr,
        /// Who has told it.
        peer: Arc<str>,
    },
    /// The next hop can take no such packets.
    #[error("has the next hop {next_hop}, told by {peer}, which cannot be used: {obstacle}")]
    NextHop {
        /// The next hop.
        next_hop: IpAddr,
        /// Who has told it.
        peer: Arc<str>,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// The next hop is a node that cannot be reached.
    #[error("leads to Node {node}, as {peer} has told, which cannot be reached: {obstacle}")]
    Node {
        /// The node.
        node: NodeName,
        /// Who has told it.
        peer: Arc<str>,
        /// What is in the way.
        obstacle: Obstacle,
    },
    /// The tunnel's own packets would take the route.
    #[error(
        "leads to Node {node} by a tunnel, as {peer} has told, but contains {end}, the other end of the tunnel, which \
         would lead into itself"
    )]
    Circle {
        /// The node.
        node: NodeName,
        /// Who has told it.
        peer: Arc<str>,
        /// The underlay address of the node.
        end: IpAddr,
    },
}
