//! How the sessions stand, for `cambric status bgp` and Prometheus.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bgp::bfd::Reachability;
use bgp::{PeerStatus, SessionState};
use model::Family;
use plan::bgp::Speaker;
use serde::{Deserialize, Serialize};

use crate::clock::unix_now;

/// What is known of a point in time may differ by this, in seconds, from one look to the next.
const UNCERTAIN: u64 = 2;

/// What `cambric status bgp` reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BgpStatus {
    /// The speaker; none if there is nobody to speak with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speaker: Option<SpeakerStatus>,
    /// What is wrong with it as a whole.
    pub(crate) problems: Vec<String>,
    /// The sessions, by name.
    pub(crate) sessions: Vec<SessionStatus>,
}

/// The speaker itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpeakerStatus {
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_id: Option<Ipv4Addr>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionStatus {
    /// As kubectl names the object.
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// From where the peer's packets come, if that is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<IpAddr>,
    pub(crate) asn: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) router_id: Option<Ipv4Addr>,
    pub(crate) state: SessionState,
    /// Since when it is up, or down, in seconds since 1970.
    pub(crate) since: u64,
    /// How often it has come up.
    pub(crate) established: u64,
    /// In seconds, if it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_time: Option<u64>,
    /// By family, if it is exchanged: prefixes received and taken, and told.
    pub(crate) prefixes: BTreeMap<String, Prefixes>,
    /// Prefixes that could not be told for want of a next hop.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) without_next_hop: usize,
    /// Whether its routes are kept until it is back (RFC 4724).
    pub(crate) stale: bool,
    /// What BFD says, if it is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bfd: Option<Bfd>,
    /// From where somebody with its identifier connects in vain, if that is not its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) translated: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

/// Prefixes of a family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prefixes {
    pub(crate) received: usize,
    pub(crate) advertised: usize,
}

/// What BFD says of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Bfd {
    Up,
    Down,
    /// It has not been heard yet, or has stopped on purpose.
    Unknown,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl BgpStatus {
    /// How things stand. `before` is what was known last: what has not changed since looks the same.
    pub(super) fn new(
        speaker: &Speaker,
        problems: Vec<String>,
        peers: &[PeerStatus],
        bfd: impl Fn(&str) -> Option<Option<Reachability>>,
        before: &BgpStatus,
    ) -> BgpStatus {
        let now = unix_now().as_secs();
        let known: BTreeMap<&str, &SessionStatus> =
            before.sessions.iter().map(|session| (session.name.as_str(), session)).collect();
        let session = |peer: &PeerStatus| {
            let since = now.saturating_sub(peer.for_time.as_secs());
            let known = known.get(peer.name.as_str()).map(|session| session.since);
            let since = known.filter(|known| known.abs_diff(since) <= UNCERTAIN).unwrap_or(since);
            SessionStatus::new(peer, since, bfd(peer.name.as_str()))
        };
        BgpStatus {
            speaker: Some(SpeakerStatus {
                asn: speaker.asn.value(),
                router_id: speaker.router_id,
                cluster_id: speaker.cluster_id,
            }),
            problems,
            sessions: peers.iter().map(session).collect(),
        }
    }

    /// How many sessions are up.
    pub(super) fn up(&self) -> usize {
        self.sessions.iter().filter(|session| session.is_up()).count()
    }

    /// The prefixes of all sessions, by family.
    pub(super) fn prefixes(&self, family: Family) -> Prefixes {
        let of_family = self.sessions.iter().filter_map(|session| session.prefixes.get(&family.to_string()));
        of_family.fold(Prefixes::default(), |sum, one| Prefixes {
            received: sum.received + one.received,
            advertised: sum.advertised + one.advertised,
        })
    }
}

impl SessionStatus {
    /// Whether routes are exchanged.
    pub(crate) fn is_up(&self) -> bool {
        self.state == SessionState::Established
    }

    fn new(peer: &PeerStatus, since: u64, bfd: Option<Option<Reachability>>) -> SessionStatus {
        let [received, advertised] = [peer.received, peer.advertised];
        let prefixes = |(index, family): (usize, Family)| {
            let prefixes = Prefixes { received: received[index], advertised: advertised[index] };
            (peer.families.contains(family) || prefixes != Prefixes::default())
                .then(|| (family.to_string(), prefixes))
        };
        SessionStatus {
            name: peer.name.to_string(),
            address: peer.address,
            remote: peer.remote.filter(|remote| *remote != peer.address),
            asn: peer.asn,
            router_id: peer.router_id,
            state: peer.state,
            since,
            established: peer.established,
            hold_time: peer.hold_time.map(|time| time.as_secs()),
            prefixes: Family::BOTH.into_iter().enumerate().filter_map(prefixes).collect(),
            without_next_hop: peer.without_next_hop,
            stale: peer.stale,
            bfd: bfd.map(|state| match state {
                Some(Reachability::Up) => Bfd::Up,
                Some(Reachability::Down(_)) => Bfd::Down,
                Some(Reachability::Unknown) | None => Bfd::Unknown,
            }),
            translated: peer.translated,
            last_error: peer.last_error.clone(),
        }
    }
}
