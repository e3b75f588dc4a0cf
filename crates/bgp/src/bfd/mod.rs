//! Bidirectional Forwarding Detection: whether a neighbour can be reached, within a fraction of a second.
//!
//! Asynchronous mode over a single hop (RFC 5880, RFC 5881), without authentication, echo and demand mode. Like the
//! speaker's, the core has neither clock nor socket: [`Neighbours`] is told what happened and answers with what is to
//! be done.

mod neighbours;
mod packet;
mod session;

use std::net::IpAddr;
use std::time::Duration;

pub use neighbours::Neighbours;
pub use packet::{Diagnostic, State};

/// The port of control packets over a single hop (RFC 5881, section 4).
pub const PORT: u16 = 3784;

/// How a neighbour is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BfdConfig {
    /// How often we would send at most.
    pub min_tx: Duration,
    /// How often we can receive at most.
    pub min_rx: Duration,
    /// So many packets of ours may be lost before the neighbour gives us up.
    pub multiplier: u8,
}

impl Default for BfdConfig {
    /// Three packets, 300 ms apart.
    fn default() -> BfdConfig {
        BfdConfig { min_tx: Duration::from_millis(300), min_rx: Duration::from_millis(300), multiplier: 3 }
    }
}

/// Something that is to be done, or to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a packet to a neighbour.
    Send {
        /// The neighbour.
        to: IpAddr,
        /// The packet.
        bytes: [u8; packet::LENGTH],
    },
    /// A neighbour's state is another.
    Changed(Change),
}

/// A neighbour's state is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The neighbour.
    pub neighbour: IpAddr,
    /// Whether it can be reached, we know not (yet), or its operator wants it to be silent.
    pub reachability: Reachability,
    /// Whether the neighbour's BFD goes on when its control plane ends, as it has said last (RFC 5880, section 4.1, bit C):
    /// what is known of it is known of the path then, whatever becomes of BGP.
    pub independent: bool,
}

/// What is known of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// Packets go both ways.
    Up,
    /// They did, and do no more.
    Down(Diagnostic),
    /// They did, and the neighbour has said that it stops on purpose (RFC 5882, section 3.2), or has begun anew without a
    /// reason of its own to be down (RFC 5880, section 4.1, diagnostic 0). Says nothing of whether it can be reached.
    Unknown,
}
