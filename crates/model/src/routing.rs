//! Where the routes to pods come from, and whom BGP is spoken with.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ObjectName;

/// How a node knows of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteSource {
    /// From the Node objects of the Kubernetes API.
    #[default]
    Kubernetes,
    /// From BGP peers (RFC 4271).
    Bgp,
}

/// What nodes say and believe in BGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpSettings {
    /// The AS of the nodes.
    pub asn: Asn,
    /// Which addresses of services are announced to peers, beside the node's pod ranges.
    pub announce: ServiceAddresses,
    /// The hold time that nodes propose to each other.
    pub hold_time: HoldTime,
    /// How fast BFD (RFC 5880) notices that another node of the same subnet is gone; none if nodes do not speak it.
    pub bfd: Option<BfdTimers>,
}

impl Default for BgpSettings {
    /// AS 64512, the first that is free for private use (RFC 6996); no addresses of services, no BFD.
    fn default() -> Self {
        BgpSettings {
            asn: Asn(64_512),
            announce: ServiceAddresses::default(),
            hold_time: HoldTime::default(),
            bfd: None,
        }
    }
}

/// After how many seconds of silence a session is over (RFC 4271, section 4.2): 0 for never, or at least 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

impl HoldTime {
    /// Takes a number of seconds as hold time.
    ///
    /// # Errors
    /// [`TimerError::Hold`] for 1 and 2, which RFC 4271 forbids, and what does not fit 16 bits.
    pub fn new(seconds: u64) -> Result<HoldTime, TimerError> {
        match u16::try_from(seconds) {
            Ok(0 | 3..) => Ok(HoldTime(seconds as u16)),
            _ => Err(TimerError::Hold(seconds)),
        }
    }

    /// The time in seconds.
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for HoldTime {
    /// 90 seconds, as RFC 4271 suggests (section 10).
    fn default() -> Self {
        HoldTime(90)
    }
}

/// A time of BGP or BFD that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    /// A hold time.
    #[error("holdTimeSeconds: {0} is no hold time; use 0 (never) or 3 to 65535")]
    Hold(u64),
    /// An interval of BFD.
    #[error("bfd.intervalMilliseconds: {0} is out of range; use 10 to 60000")]
    Interval(u64),
    /// A multiplier of BFD.
    #[error("bfd.multiplier: {0} is out of range; use 1 to 255, for instance 3")]
    Multiplier(u64),
}

/// Kinds of addresses of services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceAddresses {
    /// `spec.clusterIPs`.
    pub cluster: bool,
    /// `spec.externalIPs`.
    pub external: bool,
    /// `status.loadBalancer.ingress`.
    pub balancer: bool,
}

impl ServiceAddresses {
    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == ServiceAddresses::default()
    }
}

/// The number of an autonomous system: 1 to 2³²−1 (RFC 6793), without those that are no AS: 23456 (RFC 6793), 65535 (RFC
/// 7300) and 4294967295 (RFC 7300).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(u32);

/// A number that no autonomous system can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is the number of no autonomous system; use 1 to 4294967294 except 23456 and 65535, for instance 64512"
)]
pub struct AsnError(u64);

impl Asn {
    /// Takes a number as that of an autonomous system.
    ///
    /// # Errors
    /// [`AsnError`] if no autonomous system can have it.
    pub fn new(value: u64) -> Result<Asn, AsnError> {
        match u32::try_from(value) {
            Ok(0 | 23_456 | 65_535 | u32::MAX) | Err(_) => Err(AsnError(value)),
            Ok(asn) => Ok(Asn(asn)),
        }
    }

    /// The number.
    pub fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A router outside the cluster, or anything else that nodes speak BGP with: a `BgpPeer`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BgpPeer {
    /// `metadata.name`.
    pub name: Box<str>,
    /// The labels that a node has which speaks with it; all nodes do if there are none.
    pub nodes: BTreeMap<String, String>,
    /// Where it is.
    pub address: IpAddr,
    /// Its TCP port, host byte order.
    pub port: u16,
    /// Its AS.
    pub asn: Asn,
    /// Where the password of TCP MD5 signatures (RFC 2385) is; none if segments are not signed.
    pub password: Option<SecretKey>,
    /// Whether packets from it count only if no router has passed them on (RFC 5082).
    pub ttl_security: bool,
    /// The hold time to propose.
    pub hold_time: HoldTime,
    /// How fast BFD (RFC 5880) notices that it is gone; none if BFD is not spoken.
    pub bfd: Option<BfdTimers>,
    /// How many prefixes of a family it may announce.
    pub max_prefixes: Option<usize>,
    /// What is taken from it.
    pub import: RouteFilter,
    /// What is told to it.
    pub export: RouteFilter,
}

/// How often packets of BFD are sent, and how many may be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BfdTimers {
    /// Between two packets, in either direction.
    pub interval: Duration,
    /// After so many missing packets the peer is taken to be gone.
    pub multiplier: u8,
}

impl BfdTimers {
    /// Takes an interval in milliseconds and a multiplier; the default for what is left out.
    ///
    /// # Errors
    /// [`TimerError`] for what is out of range.
    pub fn new(interval: Option<u64>, multiplier: Option<u64>) -> Result<BfdTimers, TimerError> {
        let mut timers = BfdTimers::default();
        if let Some(interval) = interval {
            if !(10..=60_000).contains(&interval) {
                return Err(TimerError::Interval(interval));
            }
            timers.interval = Duration::from_millis(interval);
        }
        if let Some(multiplier) = multiplier {
            timers.multiplier = match u8::try_from(multiplier) {
                Ok(multiplier @ 1..) => multiplier,
                _ => return Err(TimerError::Multiplier(multiplier)),
            };
        }
        Ok(timers)
    }
}

impl Default for BfdTimers {
    /// Three packets of 300 ms.
    fn default() -> Self {
        BfdTimers { interval: Duration::from_millis(300), multiplier: 3 }
    }
}

/// Which prefixes pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteFilter {
    /// The rules; the first that matches decides. What none matches passes, except for the default route.
    pub rules: Vec<RouteRule>,
}

/// A rule about the prefixes that lie in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteRule {
    /// What the prefixes lie in.
    pub within: IpNet,
    /// Their shortest length; none for that of `within`.
    pub min: Option<u8>,
    /// Their longest length; none for the longest of the family.
    pub max: Option<u8>,
    /// Whether they pass.
    pub accept: bool,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretKey {
    /// The Secret.
    pub secret: ObjectName,
    /// Its key.
    pub key: Box<str>,
}

/// A password. It shows itself in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerPassword(Box<str>);

impl PeerPassword {
    /// Takes a text as password.
    pub fn new(text: impl Into<Box<str>>) -> PeerPassword {
        PeerPassword(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Whether a peer's password is known, and if not, why.
pub type PasswordState = Result<PeerPassword, String>;

impl fmt::Debug for PeerPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerPassword")
    }
}

/// That a node is a route reflector (RFC 4456), as its label `cambric.io/route-reflector` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reflector {
    /// The cluster id that it shares with other reflectors of the same clients; none for its own BGP identifier.
    pub cluster_id: Option<Ipv4Addr>,
}

/// A label `cambric.io/route-reflector` that says nothing that can be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no cluster id; use \"\" or \"true\" for a route reflector of its own, a cluster id such as 1.0.0.1 for \
     one of several with the same clients, or remove the label"
)]
pub struct ReflectorError(String);

impl FromStr for Reflector {
    type Err = ReflectorError;

    /// Reads the label's value.
    fn from_str(value: &str) -> Result<Reflector, ReflectorError> {
        if matches!(value, "" | "true") {
            return Ok(Reflector { cluster_id: None });
        }
        match value.parse::<Ipv4Addr>() {
            Ok(id) if !id.is_unspecified() => Ok(Reflector { cluster_id: Some(id) }),
            _ => Err(ReflectorError(value.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reflector_is_one_of_its_own_or_of_a_cluster() {
        let cluster = |value: &str| value.parse::<Reflector>().map(|reflector| reflector.cluster_id);
        assert_eq!(cluster(""), Ok(None));
        assert_eq!(cluster("true"), Ok(None));
        assert_eq!(cluster("1.0.0.1"), Ok(Some([1, 0, 0, 1].into())));
        for wrong in ["false", "0.0.0.0", "1.0.0", "1"] {
            let error = cluster(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{wrong}\" is no cluster id; use \"\"")), "{error}");
        }
    }

    #[test]
    fn times_are_checked() {
        assert!(HoldTime::new(1).is_err() && HoldTime::new(65_536).is_err());
        assert_eq!(HoldTime::new(0).map(HoldTime::seconds), Ok(0));
        assert_eq!(HoldTime::new(3).map(HoldTime::seconds), Ok(3));
        assert_eq!(BfdTimers::new(None, None), Ok(BfdTimers::default()));
        assert_eq!(BfdTimers::new(Some(9), None), Err(TimerError::Interval(9)));
        assert_eq!(BfdTimers::new(None, Some(256)), Err(TimerError::Multiplier(256)));
        let timers = BfdTimers { interval: Duration::from_millis(50), multiplier: 5 };
        assert_eq!(BfdTimers::new(Some(50), Some(5)), Ok(timers));
    }

    #[test]
    fn numbers_that_are_no_as_are_refused_with_what_would_be_right() {
        for value in [0, 23_456, 65_535, 4_294_967_295, 4_294_967_296] {
            let error = Asn::new(value).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{value} is the number of no autonomous system; use 1")),
                "{error}"
            );
        }
        for value in [1, 64_512, 4_294_967_294] {
            assert_eq!(Asn::new(value).map(|asn| u64::from(asn.value())), Ok(value));
        }
    }

    #[test]
    fn a_password_does_not_show_itself() {
        assert!(!format!("{:?}", PeerPassword::new("sesame")).contains("sesame"));
        assert_eq!(PeerPassword::new("sesame").reveal(), "sesame");
    }
}
