//! What a speaker and its peers are told to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use model::Family;
use serde::{Deserialize, Serialize};

use crate::{Community, Families, LargeCommunity, PeerName, PrefixFilter};

/// The speaker itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerConfig {
    /// The AS of this speaker.
    pub asn: u32,
    /// The BGP identifier: unique in the AS, customarily one of the node's IPv4 addresses.
    pub router_id: Ipv4Addr,
    /// The cluster of which this speaker is a reflector; none for the router id.
    pub cluster_id: Option<Ipv4Addr>,
    /// How many equally good next hops a prefix may have; 1 turns multipath off.
    pub multipath: usize,
    /// Whether paths through different neighbour ASes may share a prefix's traffic.
    pub multipath_across_as: bool,
    /// Whether the routes of an earlier run are still in the kernel: peers are then asked to keep theirs to us
    /// (RFC 4724, bits R and F).
    pub restarting: bool,
    /// After a restart, for how long at most routes of peers are still coming in. Until then what was learned is not told to
    /// the consumer of the table, whose routes of before stay in force (RFC 4724, section 4.1), and peers are not told the
    /// end of our routes. Routes themselves they are told at once.
    pub deferral: Duration,
    /// After a restart, for how long at most [`crate::Output::Converged`] waits for peers that have not come back.
    pub convergence: Duration,
    /// For how long at most stale routes of a peer that has come back wait for the end of its routes.
    pub stale_time: Duration,
}

impl SpeakerConfig {
    /// A speaker with the usual settings.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> SpeakerConfig {
        SpeakerConfig {
            asn,
            router_id,
            cluster_id: None,
            multipath: 16,
            multipath_across_as: false,
            restarting: false,
            deferral: Duration::from_secs(3),
            convergence: Duration::from_secs(60),
            stale_time: Duration::from_secs(120),
        }
    }

    /// The cluster id in force.
    pub fn cluster(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id)
    }

    /// Checks what would make an OPEN that no peer accepts.
    ///
    /// # Errors
    /// [`ConfigError`] for the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, value: String, wanted| {
            Err(ConfigError { object: "speaker".to_owned(), field, value, wanted })
        };
        if self.asn == 0 {
            return wrong("asn", "0".to_owned(), "a number from 1 to 4294967295");
        }
        if self.router_id.is_unspecified() {
            return wrong("router id", self.router_id.to_string(), "an address that is not 0.0.0.0");
        }
        if self.multipath == 0 {
            return wrong("multipath", "0".to_owned(), "at least 1");
        }
        Ok(())
    }
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// What it is called.
    pub name: PeerName,
    /// Where it is reached, and from where its connections come.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// Whether it is left to the peer to open the connection.
    pub passive: bool,
    /// Whether its connections may come from any address: behind a NAT gateway, the address can change. Such a peer is
    /// passive and known by its identifier.
    pub roaming: bool,
    /// The BGP identifier it must have. Peers that share an address, behind a NAT gateway, are told apart by it.
    pub router_id: Option<Ipv4Addr>,
    /// The hold time to propose, in seconds: 0 (no keepalives) or at least 3.
    pub hold_time: u16,
    /// The longest wait between two attempts to connect; the first ones come quicker.
    pub connect_retry: Duration,
    /// The families to exchange.
    pub families: Families,
    /// Whether the peer is a client of this reflector (RFC 4456).
    pub reflector_client: bool,
    /// For how long, in seconds up to 4095, the peer is asked to keep our routes when we are gone (RFC 4724); none
    /// turns graceful restart off.
    pub restart_time: Option<u16>,
    /// How many prefixes of a family it may send.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Our own addresses, as next hops of the families in which the session's own address is none.
    pub own_addresses: OwnAddresses,
    /// What happens to its routes.
    pub import: Import,
    /// What happens to ours on the way to it.
    pub export: Export,
}

/// Our own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OwnAddresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl OwnAddresses {
    /// The address of a family.
    pub fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// A limit on what a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPrefixes {
    /// The most prefixes of one family.
    pub count: usize,
    /// How long to stay apart after the limit was passed.
    pub hold_down: Duration,
}

/// The treatment of received routes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Import {
    /// What is taken.
    pub filter: PrefixFilter,
    /// The next hop to keep.
    pub next_hop: ImportNextHop,
    /// The local preference to set; from another AS, none is taken over.
    pub local_pref: Option<u32>,
    /// Communities to add.
    pub communities: Vec<Community>,
    /// Large communities to add.
    pub large_communities: Vec<LargeCommunity>,
}

/// Which next hop a received route is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ImportNextHop {
    /// The one it came with.
    #[default]
    AsReceived,
    /// The address from which the peer's packets come: for a peer behind a NAT gateway, which cannot know it.
    PeerAddress,
}

/// The treatment of routes that are sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Export {
    /// What is told.
    pub filter: PrefixFilter,
    /// Whether routes from other ASes are told to a peer of our AS with ourselves as next hop. To other ASes that is
    /// always so.
    pub next_hop_self: bool,
    /// Whether a reflector tells the peer of routes of our AS with itself as next hop too: for a peer that cannot reach
    /// the others.
    pub reflect_next_hop_self: bool,
    /// Whether routes from other ASes are kept back: who has no transit to offer is a stub.
    pub stub: bool,
    /// Routes with one of these are kept back.
    pub withhold: Vec<LargeCommunity>,
    /// The MED to set towards another AS; without it, only the MED of our own routes is told.
    pub med: Option<u32>,
    /// The same for routes that do not begin here, if it is another.
    pub med_of_others: Option<u32>,
    /// Communities to add.
    pub communities: Vec<Community>,
    /// Large communities to add.
    pub large_communities: Vec<LargeCommunity>,
}

impl PeerConfig {
    /// A peer with the usual settings.
    pub fn new(name: impl Into<PeerName>, address: IpAddr, asn: u32) -> PeerConfig {
        PeerConfig {
            name: name.into(),
            address,
            asn,
            passive: false,
            roaming: false,
            router_id: None,
            hold_time: 90,
            connect_retry: Duration::from_secs(30),
            families: Families::BOTH,
            reflector_client: false,
            restart_time: Some(120),
            max_prefixes: None,
            own_addresses: OwnAddresses::default(),
            import: Import::default(),
            export: Export::default(),
        }
    }

    /// Checks what would make an OPEN that the peer does not accept.
    ///
    /// # Errors
    /// [`ConfigError`] for the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, value: String, wanted| {
            Err(ConfigError { object: format!("peer {}", self.name), field, value, wanted })
        };
        if self.asn == 0 {
            return wrong("asn", "0".to_owned(), "a number from 1 to 4294967295");
        }
        if self.roaming && !(self.passive && self.router_id.is_some()) {
            return wrong("roaming", "true".to_owned(), "a passive peer with a router id, or false");
        }
        if self.hold_time == 1 || self.hold_time == 2 {
            return wrong("hold time", self.hold_time.to_string(), "0 or at least 3 seconds");
        }
        if self.restart_time.is_some_and(|seconds| seconds > 4095) {
            let value = self.restart_time.map(|seconds| seconds.to_string()).unwrap_or_default();
            return wrong("restart time", value, "at most 4095 seconds");
        }
        if self.families.is_empty() {
            return wrong("families", self.families.to_string(), "at least one");
        }
        Ok(())
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field} is {value}: expected {wanted}")]
pub struct ConfigError {
    object: String,
    field: &'static str,
    value: String,
    wanted: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_object_field_value_and_what_would_be_right() {
        let mut peer = PeerConfig::new("edge", "192.0.2.1".parse().unwrap(), 65001);
        assert_eq!(peer.check(), Ok(()));
        peer.roaming = true;
        assert!(peer.check().unwrap_err().to_string().starts_with("peer edge: roaming is true"));
        peer.roaming = false;
        peer.hold_time = 2;
        assert_eq!(
            peer.check().unwrap_err().to_string(),
            "peer edge: hold time is 2: expected 0 or at least 3 seconds"
        );
        let mut speaker = SpeakerConfig::new(65000, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(speaker.check(), Ok(()));
        speaker.asn = 0;
        assert!(speaker.check().unwrap_err().to_string().starts_with("speaker: asn is 0"));
    }
}
