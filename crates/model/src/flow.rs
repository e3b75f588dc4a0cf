//! Flows that a node's connection tracking knows.

use std::net::SocketAddr;
use std::time::SystemTime;

use crate::Family;

/// What is known of a flow (`enum ip_conntrack_status`, linux/netfilter/nf_conntrack_common.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// Whether packets have gone both ways (`IPS_SEEN_REPLY`).
    pub fn answered(self) -> bool {
        self.has(1)
    }

    /// Whether it is not forgotten early when the table is full (`IPS_ASSURED`): it has gone both ways for longer than a
    /// question and its answer.
    pub fn assured(self) -> bool {
        self.has(2)
    }

    /// Whether the source is rewritten (`IPS_SRC_NAT`).
    pub fn source_rewritten(self) -> bool {
        self.has(4)
    }

    /// Whether the destination is rewritten (`IPS_DST_NAT`).
    pub fn destination_rewritten(self) -> bool {
        self.has(5)
    }

    fn has(self, bit: u32) -> bool {
        self.0 & 1 << bit != 0
    }
}

/// Where the packets of one direction come from and go to. Where the protocol has no ports they are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Who sends them.
    pub source: SocketAddr,
    /// Whom they are for.
    pub destination: SocketAddr,
    /// The zone, if it is that of this direction alone; else 0.
    pub zone: u16,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its IANA protocol number.
    pub protocol: u8,
    /// Packets as whoever began it sends them.
    pub original: Tuple,
    /// Answers, as they are before they are translated back: their source is who really answers.
    pub reply: Tuple,
    /// What is known of it.
    pub status: Status,
    /// Tells it from a later flow of the same addresses and ports.
    pub id: u32,
    /// The zone of both directions; else 0.
    pub zone: u16,
}

impl Flow {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(&self.original.source.ip())
    }
}

/// A flow, with what connection tracking keeps about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedFlow {
    /// The flow.
    pub flow: Flow,
    /// Where its connection stands, if its protocol has connections.
    pub connection: Option<Connection>,
    /// What went each way; `None` if the kernel does not count (`net.netfilter.nf_conntrack_acct`).
    pub counters: Option<Counters>,
    /// When it began; `None` if the kernel keeps no time (`net.netfilter.nf_conntrack_timestamp`).
    pub begun: Option<SystemTime>,
}

/// What went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// From whoever began the flow.
    pub sent: Count,
    /// Answers.
    pub received: Count,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the headers from IP on.
    pub bytes: u64,
}

/// Where a connection stands, as somebody sees it who watches its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The kernel's name for it, as `SYN_SENT`.
    pub name: &'static str,
    /// What it means.
    pub phase: Phase,
}

/// What a state of a connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It is being set up.
    Opening,
    /// Both sides have agreed to it.
    Established,
    /// A side has said that it is done.
    Closing,
    /// A side has broken it off.
    Reset,
}
