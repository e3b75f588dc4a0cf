//! What an operator wants to know of a peer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Families, PeerName};

/// How far a session is (RFC 4271, section 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionState {
    /// Nothing is attempted at present.
    Idle,
    /// A connection is being opened.
    Connect,
    /// The peer is to open a connection, or the next attempt to do so is due later.
    Active,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A peer, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// What it is called.
    pub name: PeerName,
    /// Where it is.
    pub address: IpAddr,
    /// From where the session comes, if it is up: for one that roams, where it is now.
    pub remote: Option<IpAddr>,
    /// Its AS.
    pub asn: u32,
    /// How far the session is.
    pub state: SessionState,
    /// For how long it has been up, or down.
    pub for_time: Duration,
    /// The peer's BGP identifier, if the session is up.
    pub router_id: Option<Ipv4Addr>,
    /// The families exchanged, if the session is up.
    pub families: Families,
    /// The hold time agreed on, if the session is up.
    pub hold_time: Option<Duration>,
    /// Prefixes received and taken: IPv4, IPv6.
    pub received: [usize; 2],
    /// Prefixes told: IPv4, IPv6.
    pub advertised: [usize; 2],
    /// Prefixes told that could not be, because there is no next hop to tell with them.
    pub without_next_hop: usize,
    /// Whether its routes are kept until it is back.
    pub stale: bool,
    /// How often the session has come up.
    pub established: u64,
    /// UPDATE messages received, and those with errors that cost a route or an attribute (RFC 7606).
    pub updates: u64,
    /// UPDATE messages with errors.
    pub malformed_updates: u64,
    /// Another address than the peer's, from which somebody with its identifier has connected, and was not answered: a
    /// gateway that translates addresses is on the way. Until the session is up.
    pub translated: Option<IpAddr>,
    /// Why the session or an attempt at it last ended.
    pub last_error: Option<String>,
}
