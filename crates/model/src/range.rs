//! The range of pod addresses of one node.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::Family;

/// The pod addresses of one node in one family: an entry of a Node's `spec.podCIDRs`.
///
/// The first host address is the gateway: the address of the node's bridge, and the one with which the node
/// itself talks to pods of other nodes through a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpNet", into = "IpNet")]
pub struct PodRange(IpNet);

/// A prefix that cannot be a node's pod range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not a prefix at all.
    #[error(
        "pod range \"{0}\" is not an address prefix; it would look like 10.244.1.0/24 or fd00:10:244:1::/64"
    )]
    Syntax(String),
    /// No room for a gateway and a pod.
    #[error(
        "pod range {0} has no room for a gateway and a pod; use /30 or shorter for IPv4, /126 or shorter for IPv6"
    )]
    TooSmall(IpNet),
    /// Not an address that a pod can have.
    #[error("pod range {0} is not unicast; use a private range such as 10.244.0.0/16 or fd00:10:244::/56")]
    NotUnicast(IpNet),
}

impl PodRange {
    /// Takes a prefix as a node's pod range; host bits are cleared.
    ///
    /// # Errors
    /// [`RangeError`] if it is too small or not unicast.
    pub fn new(net: IpNet) -> Result<PodRange, RangeError> {
        let net = net.trunc();
        let first = net.network();
        if net.prefix_len() > net.max_prefix_len() - 2 {
            return Err(RangeError::TooSmall(net));
        }
        if first.is_multicast() || first.is_loopback() || first.is_unspecified() || net.prefix_len() == 0 {
            return Err(RangeError::NotUnicast(net));
        }
        Ok(PodRange(net))
    }

    /// The prefix.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The family of the addresses.
    pub fn family(&self) -> Family {
        Family::of_net(&self.0)
    }

    /// The first host address: the gateway of this node's pods.
    pub fn gateway(&self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
        }
    }

    /// The gateway with the length of the range, as it is put on the bridge.
    pub fn gateway_net(&self) -> IpNet {
        match (self.gateway(), self.0) {
            (IpAddr::V4(gateway), IpNet::V4(net)) => Ipv4Net::new_assert(gateway, net.prefix_len()).into(),
            (IpAddr::V6(gateway), IpNet::V6(net)) => Ipv6Net::new_assert(gateway, net.prefix_len()).into(),
            _ => self.0,
        }
    }

    /// The first address that a pod can have.
    pub fn first_pod(&self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 2).into()),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 2).into()),
        }
    }

    /// The last address that a pod can have: in IPv4 the one before the broadcast address.
    pub fn last_pod(&self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.broadcast()) - 1).into()),
            IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        }
    }

    /// Whether a pod of this node can have the address.
    pub fn holds_pod(&self, address: &IpAddr) -> bool {
        self.0.contains(address) && (self.first_pod()..=self.last_pod()).contains(address)
    }
}

impl fmt::Display for PodRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PodRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for PodRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        PodRange::new(text.parse().map_err(|_| RangeError::Syntax(text.to_owned()))?)
    }
}

impl TryFrom<IpNet> for PodRange {
    type Error = RangeError;

    fn try_from(net: IpNet) -> Result<Self, Self::Error> {
        PodRange::new(net)
    }
}

impl From<PodRange> for IpNet {
    fn from(range: PodRange) -> Self {
        range.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_and_pods_of_both_families() {
        for (range, gateway, first, last) in [
            ("10.244.1.0/24", "10.244.1.1", "10.244.1.2", "10.244.1.254"),
            ("10.244.1.4/30", "10.244.1.5", "10.244.1.6", "10.244.1.6"),
            (
                "fd00:10:244:1::/64",
                "fd00:10:244:1::1",
                "fd00:10:244:1::2",
                "fd00:10:244:1:ffff:ffff:ffff:ffff",
            ),
            ("fd00::4/126", "fd00::5", "fd00::6", "fd00::7"),
        ] {
            let range: PodRange = range.parse().unwrap();
            assert_eq!(range.gateway().to_string(), gateway);
            assert_eq!(range.first_pod().to_string(), first);
            assert_eq!(range.last_pod().to_string(), last);
            assert!(range.holds_pod(&range.last_pod()) && !range.holds_pod(&range.gateway()));
        }
    }

    #[test]
    fn ranges_that_cannot_be() {
        for text in
            ["", "10.0.0.0", "10.0.0.0/31", "fd00::/127", "224.0.0.0/24", "ff02::/64", "127.0.0.0/8", "::/0"]
        {
            assert!(text.parse::<PodRange>().is_err(), "{text}");
        }
    }
}
