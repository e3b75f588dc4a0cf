//! A traced packet, really sent: what was predicted and what was captured, side by side.
//!
//! [`compare`] and [`sightings()`] are pure, as is the [`filter()`] that lets only a probe's own packets through. [`send`]
//! has the sockets, and a [`Watch`] the captures. Like a [`Capture`](crate::capture::Capture) they belong to the network namespace of the thread that
//! opens them; which namespace that is, is for whoever calls.

mod compare;
mod filter;
mod render;
pub mod send;
mod sightings;
mod watch;

pub use self::compare::{Comparison, Row, compare};
pub use self::filter::filter;
pub use self::render::{json, text};
pub use self::sightings::{Frame, Sighting, sightings};
pub use self::watch::Watch;

/// Something by which the packets of a probe are known wherever they are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u32);

impl Mark {
    /// What the payload of datagrams and echo requests has in it.
    pub fn text(self) -> String {
        format!("cambric-trace-{:08x}", self.0)
    }
}

/// What the sender of a probe got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer, with what is known of it: what follows "an answer".
    Answer(String),
    /// A refusal: a TCP reset, or an ICMP error that the port cannot be reached.
    Refusal,
    /// Nothing, for as long as it waited.
    Nothing,
    /// Something else.
    Other(String),
}

/// What came of a probe.
#[derive(Debug, Clone)]
pub struct Observation {
    /// What its sender got.
    pub reply: Reply,
    /// Whether who gets it is known to answer.
    pub answers: bool,
    /// Where it and its answer were seen, in the order of time.
    pub sightings: Vec<Sighting>,
    /// Whether a capture missed packets, and so proves nothing.
    pub blind: bool,
}
