//! Ethernet addresses, and how they are derived from network addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// First octet of the address of a pod's interface. Bit 1 marks an address as locally administered (IEEE 802).
const POD: u8 = 0x0a;
/// First octet of the address of a node's bridge.
const BRIDGE: u8 = 0x0e;
/// First octet of the address of a node's tunnel device.
const TUNNEL: u8 = 0x06;

impl MacAddr {
    /// The Ethernet address of a pod's interface whose first network address is `address`.
    ///
    /// A network address that comes back on another pod keeps its Ethernet address, so no neighbour entry in the
    /// node or in another pod goes stale.
    pub fn for_pod(address: &IpAddr) -> MacAddr {
        derived(POD, address)
    }

    /// The Ethernet address of a node's bridge whose first gateway address is `gateway`.
    pub fn for_bridge(gateway: &IpAddr) -> MacAddr {
        derived(BRIDGE, gateway)
    }

    /// The Ethernet address of the tunnel device of the node with underlay address `node`.
    ///
    /// Every node computes it for every other, so nothing needs to be published.
    pub fn for_tunnel(node: &IpAddr) -> MacAddr {
        derived(TUNNEL, node)
    }

    /// The IPv6 link-local address with the modified EUI-64 interface identifier of this address
    /// (RFC 4291, appendix A), which the kernel gives an interface by default.
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
    }
}

/// IPv4 addresses map one to one; IPv6 addresses are hashed to 40 bits, where 5,000 nodes collide with a
/// probability of 1e-5 (a collision is found and reported when the plan is made).
fn derived(first: u8, address: &IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            MacAddr([first, 0x58, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let [_, _, _, a, b, c, d, e] = fnv1a(&v6.octets()).to_be_bytes();
            // 0x58 is the second octet of the addresses made from IPv4.
            let a = if a == 0x58 { 0x59 } else { a };
            MacAddr([first, a, b, c, d, e])
        }
    }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): the same on every node and in every release.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an Ethernet address; it would look like 0a:58:0a:f4:01:02")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(MacAddr(octets)),
            Some(_) => Err(error()),
        }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_addresses_are_readable_in_the_ethernet_address() {
        assert_eq!(MacAddr::for_pod(&"10.244.1.2".parse().unwrap()).to_string(), "0a:58:0a:f4:01:02");
        assert_eq!(MacAddr::for_tunnel(&"192.0.2.1".parse().unwrap()).to_string(), "06:58:c0:00:02:01");
    }

    #[test]
    fn ipv6_addresses_never_look_like_ipv4_ones() {
        for host in 0..5000u32 {
            let node = IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(host)));
            let mac = MacAddr::for_tunnel(&node);
            assert_eq!(mac.0[0], TUNNEL);
            assert_ne!(mac.0[1], 0x58);
        }
    }

    #[test]
    fn link_local_is_modified_eui_64() {
        let mac: MacAddr = "0a:58:0a:f4:01:02".parse().unwrap();
        assert_eq!(mac.link_local(), "fe80::858:aff:fef4:102".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn parsing_refuses_what_is_no_ethernet_address() {
        for text in ["", "0a:58:0a:f4:01", "0a:58:0a:f4:01:02:03", "0a:58:0a:f4:01:zz", "a:58:0a:f4:01:02"] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }
}
