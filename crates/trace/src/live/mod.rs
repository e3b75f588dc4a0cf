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
pub use self::sightings::{Frame, Sighting, begins, sightings};
pub use self::watch::Watch;

/// What a mark's text begins with; its number follows, in eight hexadecimal digits.
const TEXT: &str = "cambric-trace-";

/// Something by which the packets of a probe are known wherever they are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u32);

impl Mark {
    /// What the payload of datagrams and echo requests has in it.
    pub fn text(self) -> String {
        format!("{TEXT}{:08x}", self.0)
    }

    /// The mark whose text bytes have in them.
    fn find(bytes: &[u8]) -> Option<Mark> {
        let at = bytes.windows(TEXT.len()).position(|window| window == TEXT.as_bytes())?;
        let digits = bytes.get(at + TEXT.len()..)?.get(..8)?;
        u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok().map(Mark)
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
