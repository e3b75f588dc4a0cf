//! Routes that BGP peers have told: what is known of them, and what becomes of it.

mod paths;
mod places;
mod planning;
mod refusal;
mod route;

use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use paths::Learned;
pub(crate) use places::Places;
pub use refusal::Refusal;
pub(crate) use route::{Told, route};

/// One way to a prefix that a peer has told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LearnedPath {
    /// The next hop: a node of the cluster, or something in a subnet of this node.
    pub next_hop: IpAddr,
    /// What the peer is called.
    pub peer: Arc<str>,
    /// Whether the peer is away, and the path is kept until it is back (RFC 4724).
    pub stale: bool,
}
