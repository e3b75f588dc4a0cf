//! What the core is told, and what it answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::Family;
use serde::{Deserialize, Serialize};

use crate::{Attributes, Community, LargeCommunity, PeerConfig, PeerName};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A peer is to be had, or to be had otherwise.
    SetPeer(Box<PeerConfig>),
    /// A peer is to be had no more.
    RemovePeer(PeerName),
    /// A peer's session is to begin anew.
    ResetPeer(PeerName),
    /// A peer is to send its routes again.
    RefreshPeer(PeerName, Family),
    /// The peer's data path is gone: its routes go, whatever TCP thinks.
    PeerUnreachable(PeerName),
    /// BFD has lost the peer, whose BFD ends with its BGP: if its session is up, its data path is gone. If the session has
    /// ended before, it restarts, and says nothing of the path (RFC 5882, section 4.3.2).
    PeerLost(PeerName),
    /// Packets go to the peer and back (BFD): an attempt to connect makes sense.
    PeerReachable(PeerName),
    /// A route begins here.
    Announce(IpNet, LocalRoute),
    /// A route begins here no more.
    Withdraw(IpNet),
    /// A connection that was asked for is there.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Our address on it.
        local: IpAddr,
    },
    /// Somebody has connected.
    Accepted {
        /// The connection.
        connection: ConnectionId,
        /// From where.
        from: IpAddr,
        /// Our address on it.
        local: IpAddr,
    },
    /// A connection could not be made, or is gone.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: String,
    },
    /// Bytes came in.
    Received {
        /// The connection.
        connection: ConnectionId,
        /// The bytes, as they came.
        #[serde(with = "crate::record::hex")]
        bytes: Vec<u8>,
    },
    /// All that was to be sent on a connection has been handed to the kernel.
    Drained {
        /// The connection.
        connection: ConnectionId,
    },
    /// Time has passed.
    Tick,
    /// The speaker ends for good: peers are told to forget its routes.
    Stop,
}

/// A route that begins here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LocalRoute {
    /// The next hop to tell; none for this speaker itself.
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    /// MED.
    #[serde(default)]
    pub med: Option<u32>,
    /// Local preference, for peers of this AS.
    #[serde(default)]
    pub local_pref: Option<u32>,
    /// Communities.
    #[serde(default)]
    pub communities: Vec<Community>,
    /// Large communities.
    #[serde(default)]
    pub large_communities: Vec<LargeCommunity>,
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConnectionId {
    /// Opened by this speaker, which numbered it.
    Outgoing(u64),
    /// Opened by the other side; the transport numbered it.
    Incoming(u64),
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionId::Outgoing(number) => write!(f, "out-{number}"),
            ConnectionId::Incoming(number) => write!(f, "in-{number}"),
        }
    }
}

/// Something that is to be done, or to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a connection.
    Connect {
        /// What to call it.
        connection: ConnectionId,
        /// For which peer.
        peer: PeerName,
        /// Where to.
        address: IpAddr,
    },
    /// Send bytes.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// The bytes.
        bytes: bytes::Bytes,
    },
    /// Close a connection once everything on it has been sent. No [`Input::Closed`] is needed.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// The best paths of a prefix are others now.
    Rib(RibChange),
    /// A peer's session has come or gone.
    Session(SessionEvent),
    /// After a start: every peer has sent what it has, or has had its time. Routes of an earlier run that are not in
    /// the table by now will not come.
    Converged,
}

/// What is best for a prefix now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibChange {
    /// The prefix.
    pub prefix: IpNet,
    /// The paths to use, the best first; none if there is no route any more.
    pub paths: Vec<BestPath>,
}

/// A path in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestPath {
    /// Whose it is; none for a route that begins here.
    pub peer: Option<PeerName>,
    /// Its attributes, with the next hop.
    pub attributes: Arc<Attributes>,
    /// Whether its peer is away and it is kept until it is back (RFC 4724).
    pub stale: bool,
}

/// A session has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvent {
    /// The peer.
    pub peer: PeerName,
    /// Why it is gone; none if it has come.
    pub down: Option<String>,
}
