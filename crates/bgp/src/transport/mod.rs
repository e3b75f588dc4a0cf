//! The speaker on TCP, and BFD on UDP.

pub mod bfd;
mod connection;
mod driver;
mod handle;
mod password;
mod socket;
mod udp;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

pub use driver::start;
pub use handle::{Handle, Stopped};
pub use password::{Password, PasswordError};

use crate::{RibChange, SessionEvent};

/// The port of BGP.
pub const PORT: u16 = 179;

/// What the transport itself is told to be.
#[derive(Default)]
pub struct Options {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Where to record what the speaker is told, for [`crate::record::replay`].
    pub record: Option<Box<dyn io::Write + Send>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("record", &self.record.is_some())
            .finish()
    }
}

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTransport {
    /// The port to connect to.
    pub port: u16,
    /// The address to connect from.
    pub source: Option<IpAddr>,
    /// The password of TCP MD5 signatures (RFC 2385).
    pub password: Option<Password>,
    /// Whether packets count only if no router has passed them on (RFC 5082).
    pub ttl_security: bool,
}

impl Default for PeerTransport {
    fn default() -> PeerTransport {
        PeerTransport { port: PORT, source: None, password: None, ttl_security: false }
    }
}

/// What the user of the speaker is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The best paths of a prefix are others now.
    Rib(RibChange),
    /// A peer's session has come or gone.
    Session(SessionEvent),
    /// See [`crate::Output::Converged`].
    Converged,
}
