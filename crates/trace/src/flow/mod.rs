//! Flows that nodes' connection tracking knows, with names instead of addresses.
//!
//! [`Names`] has the names of a cluster and makes a [`NamedFlow`] of a flow; a [`Filter`] says which of them are wanted.
//! Their fields are the JSON of `cambric flows --json`.

mod filter;
mod names;

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use model::flow::{Counters, Phase, TrackedFlow};
use model::{Family, NodeName};
use plan::services::ServicePortName;
use serde::{Serialize, Serializer};

pub use filter::Filter;
pub use names::Names;

use crate::journey::EndView;

/// A flow as one node tracks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedFlow {
    /// The node that tracks it.
    pub node: NodeName,
    /// Tells it from later flows of the same addresses and ports, together with these.
    pub id: u32,
    /// The zone of connection tracking; 0 but where somebody else makes zones.
    pub zone: u16,
    /// `IPv4` or `IPv6`.
    #[serde(serialize_with = "in_words")]
    pub family: Family,
    /// The protocol's name.
    pub protocol: String,
    /// What has become of it.
    pub verdict: Verdict,
    /// The kernel's name for the state of its connection, as `SYN_SENT`, if its protocol has connections.
    pub state: Option<&'static str>,
    /// Who has begun it.
    pub client: EndView,
    /// Whom it was sent to.
    pub destination: EndView,
    /// The port of a service whose address that is, as `default/web:http`.
    #[serde(serialize_with = "perhaps_in_words")]
    pub service: Option<ServicePortName>,
    /// Who answers, if the destination is rewritten.
    pub backend: Option<EndView>,
    /// Whom the other side takes for the client, if the source is rewritten.
    pub seen_as: Option<EndView>,
    /// What the client has sent and received; null where the kernel does not count.
    pub traffic: Option<Traffic>,
    /// Whether most of its packets may go by the fast path, where connection tracking does not see them: then the traffic
    /// is the least that it was.
    pub fast_path: bool,
    /// When it began, in seconds since 1970; null where the kernel keeps no time.
    #[serde(serialize_with = "seconds")]
    pub begun: Option<SystemTime>,
    /// Whether it carries packets between nodes that are in flows of their own.
    pub tunnel: bool,
}

/// What went through a flow, as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Bytes from the client, with the headers from IP on.
    pub sent_bytes: u64,
    /// Packets from the client.
    pub sent_packets: u64,
    /// Bytes to the client.
    pub received_bytes: u64,
    /// Packets to the client.
    pub received_packets: u64,
}

impl From<Counters> for Traffic {
    fn from(Counters { sent, received }: Counters) -> Traffic {
        Traffic {
            sent_bytes: sent.bytes,
            sent_packets: sent.packets,
            received_bytes: received.bytes,
            received_packets: received.packets,
        }
    }
}

/// What has become of a flow, as far as connection tracking can know.
///
/// A flow is known once its first packet has passed all hooks. What was dropped or refused before, on the node that tracks,
/// is no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing has come back yet.
    New,
    /// There was an answer.
    Replied,
    /// The connection is set up; where there are no connections, packets have gone to and fro.
    Established,
    /// A side has said that it is done.
    Closing,
    /// It was answered, and has ended.
    Closed,
    /// The answer was no: a TCP reset, or an SCTP abort.
    Refused,
    /// It has ended, and nothing ever came back.
    Unanswered,
}

impl Verdict {
    /// All of them, in the order of a flow's life.
    pub const ALL: [Verdict; 7] = [
        Verdict::New,
        Verdict::Replied,
        Verdict::Established,
        Verdict::Closing,
        Verdict::Closed,
        Verdict::Refused,
        Verdict::Unanswered,
    ];

    /// What has become of a flow.
    pub fn of(tracked: &TrackedFlow, ended: bool) -> Verdict {
        let status = tracked.flow.status;
        let phase = tracked.connection.map(|connection| connection.phase);
        let answers = tracked.counters.is_some_and(|counters| counters.received.packets > 0);
        match (status.answered(), phase) {
            // What breaks a connection off at once is not taken for an answer.
            (false, Some(Phase::Reset)) => Verdict::Refused,
            (false, _) if answers => Verdict::Refused,
            (false, _) if ended => Verdict::Unanswered,
            (false, _) => Verdict::New,
            (true, _) if ended => Verdict::Closed,
            (true, Some(Phase::Reset)) => Verdict::Closed,
            (true, Some(Phase::Closing)) => Verdict::Closing,
            (true, Some(Phase::Established)) => Verdict::Established,
            (true, None) if status.assured() => Verdict::Established,
            (true, Some(Phase::Opening) | None) => Verdict::Replied,
        }
    }

    /// Whether the flow is or may have been established.
    pub fn was_established(self) -> bool {
        matches!(self, Verdict::Established | Verdict::Closing | Verdict::Closed)
    }

    /// As it is written, in JSON too.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::New => "new",
            Verdict::Replied => "replied",
            Verdict::Established => "established",
            Verdict::Closing => "closing",
            Verdict::Closed => "closed",
            Verdict::Refused => "refused",
            Verdict::Unanswered => "unanswered",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl NamedFlow {
    /// Whether it says nothing that the flows of these nodes do not say without it: it is a node's talk with itself or with
    /// a multicast group, or it carries other flows, or the client's node tracks it too, where it has the service that was
    /// asked for.
    pub fn is_aside(&self, nodes: &BTreeSet<NodeName>) -> bool {
        let elsewhere =
            |node: &str| node != self.node.as_str() && nodes.iter().any(|one| one.as_str() == node);
        let itself = self.client.address.is_loopback() || self.destination.address.is_multicast();
        self.tunnel || itself || self.client.node.as_deref().is_some_and(elsewhere)
    }

    /// Its ends, all that are known.
    pub fn ends(&self) -> impl Iterator<Item = &EndView> {
        [&self.client, &self.destination].into_iter().chain(&self.backend).chain(&self.seen_as)
    }
}

fn in_words<S: Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn perhaps_in_words<S: Serializer>(value: &Option<ServicePortName>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

fn seconds<S: Serializer>(value: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    let since = value.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map(|since| since.as_secs_f64()).serialize(to)
}

#[cfg(test)]
mod tests;
