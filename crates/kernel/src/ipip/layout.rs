//! Keys and values of the maps as bytes; `bpf/ipip.bpf.c` has the same as C structures.
//!
//! Addresses are in network byte order, numbers in the machine's. A change of a layout needs another [`VERSION`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use plan::ipip::{NextHop, Outer, Route};

/// Maps of another version are not those of these programs.
pub(super) const VERSION: u32 = 1;

/// `struct address`.
pub(crate) type AddressBytes = [u8; 20];

/// `struct route`.
pub(super) type RouteBytes = [u8; 56];

/// `struct heard`: for IPv4 and IPv6.
pub(super) type Heard = [u64; 2];

/// `struct prefix4` and `struct prefix6`: address and length.
pub(crate) type Prefix<const N: usize> = ([u8; N], u32);

pub(crate) fn address(address: IpAddr) -> AddressBytes {
    let mut bytes = [0; 20];
    let family: u32 = match address {
        IpAddr::V4(address) => {
            bytes[4..8].copy_from_slice(&address.octets());
            4
        }
        IpAddr::V6(address) => {
            bytes[4..20].copy_from_slice(&address.octets());
            6
        }
    };
    bytes[..4].copy_from_slice(&family.to_ne_bytes());
    bytes
}

/// The address; `None` if no agent of this version wrote it.
pub(super) fn read_address(bytes: &AddressBytes) -> Option<IpAddr> {
    let words: [u8; 16] = bytes[4..].try_into().ok()?;
    match u32::from_ne_bytes(bytes[..4].try_into().ok()?) {
        4 => {
            let [a, b, c, d, ..] = words;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        6 => Some(Ipv6Addr::from(words).into()),
        _ => None,
    }
}

pub(super) fn route(route: &Route) -> RouteBytes {
    let mut bytes = [0; 56];
    bytes[..20].copy_from_slice(&address(route.outer.source()));
    bytes[20..40].copy_from_slice(&address(route.outer.destination()));
    // To the program 0 is "never".
    let hold = route.hold.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
    bytes[40..48].copy_from_slice(&hold.to_ne_bytes());
    let ask = u32::from(route.next_hop == NextHop::Asked);
    bytes[48..52].copy_from_slice(&ask.to_ne_bytes());
    bytes
}

/// The route; `None` if no agent of this version wrote it.
pub(super) fn read_route(bytes: &RouteBytes) -> Option<Route> {
    let source = read_address(bytes[..20].try_into().ok()?)?;
    let destination = read_address(bytes[20..40].try_into().ok()?)?;
    let hold = u64::from_ne_bytes(bytes[40..48].try_into().ok()?);
    let hold = (hold != 0).then(|| Duration::from_nanos(hold));
    let next_hop = match u32::from_ne_bytes(bytes[48..52].try_into().ok()?) {
        0 => NextHop::Kept,
        _ => NextHop::Asked,
    };
    Some(Route { outer: Outer::new(source, destination)?, next_hop, hold })
}

/// The key of a prefix. Bits after its length have no meaning, so they are none.
pub(crate) fn prefix4(net: Ipv4Net) -> Prefix<4> {
    (net.network().octets(), net.prefix_len().into())
}

/// The key of a prefix.
pub(crate) fn prefix6(net: Ipv6Net) -> Prefix<16> {
    (net.network().octets(), net.prefix_len().into())
}

pub(super) fn read_prefix4((data, length): Prefix<4>) -> Option<IpNet> {
    Ipv4Net::new(data.into(), u8::try_from(length).ok()?).ok().map(IpNet::V4)
}

pub(super) fn read_prefix6((data, length): Prefix<16>) -> Option<IpNet> {
    Ipv6Net::new(data.into(), u8::try_from(length).ok()?).ok().map(IpNet::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (source, destination) in [("172.16.0.1", "172.16.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let [source, destination]: [IpAddr; 2] =
                [source, destination].map(|address| address.parse().unwrap());
            assert_eq!(read_address(&address(source)), Some(source));
            for (hold, next_hop) in [
                (None, NextHop::Kept),
                (Some(Duration::from_nanos(1)), NextHop::Asked),
                (Some(Duration::from_secs(30)), NextHop::Kept),
            ] {
                let outer = Outer::new(source, destination).unwrap();
                let written = Route { outer, next_hop, hold };
                assert_eq!(read_route(&route(&written)), Some(written));
            }
        }
        let net: IpNet = "10.1.2.0/24".parse().unwrap();
        assert_eq!(read_prefix4(prefix4("10.1.2.3/24".parse().unwrap())), Some(net));
        let net: IpNet = "fd00:1::/64".parse().unwrap();
        assert_eq!(read_prefix6(prefix6("fd00:1::5/64".parse().unwrap())), Some(net));
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        assert_eq!(read_address(&[0; 20]), None);
        assert_eq!(read_route(&[0; 56]), None);
        let mut mixed = route(&Route {
            outer: Outer::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap(),
            next_hop: NextHop::Kept,
            hold: None,
        });
        mixed[..20].copy_from_slice(&address("2001:db8::1".parse().unwrap()));
        assert_eq!(read_route(&mixed), None);
        assert_eq!(read_prefix4(([0; 4], 33)), None);
    }

    #[test]
    fn no_time_to_hold_is_not_to_hold_always() {
        let outer = Outer::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap();
        let written = route(&Route { outer, next_hop: NextHop::Kept, hold: Some(Duration::ZERO) });
        assert_eq!(read_route(&written).unwrap().hold, Some(Duration::from_nanos(1)));
    }
}
