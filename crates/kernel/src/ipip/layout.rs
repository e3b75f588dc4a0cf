//! Keys and values of the maps as bytes; `bpf/ipip.bpf.c` has the same as C structures.
//!
//! Addresses are in network byte order, numbers in the machine's. A change of a layout needs another [`VERSION`].

use std::time::Duration;

use plan::ipip::{NextHop, Outer, Route};

pub(super) use crate::bpf::layout::{
    AddressBytes, Prefix, address, prefix4, prefix6, read_address, read_prefix4, read_prefix6,
};

/// Maps of another version are not those of these programs.
pub(super) const VERSION: u32 = 1;

/// `struct route`.
pub(super) type RouteBytes = [u8; 56];

/// `struct heard`: for IPv4 and IPv6.
pub(super) type Heard = [u64; 2];

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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (source, destination) in [("172.16.0.1", "172.16.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let [source, destination]: [IpAddr; 2] =
                [source, destination].map(|address| address.parse().unwrap());
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
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        assert_eq!(read_route(&[0; 56]), None);
        let mut mixed = route(&Route {
            outer: Outer::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap(),
            next_hop: NextHop::Kept,
            hold: None,
        });
        mixed[..20].copy_from_slice(&address("2001:db8::1".parse().unwrap()));
        assert_eq!(read_route(&mixed), None);
    }

    #[test]
    fn no_time_to_hold_is_not_to_hold_always() {
        let outer = Outer::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).unwrap();
        let written = route(&Route { outer, next_hop: NextHop::Kept, hold: Some(Duration::ZERO) });
        assert_eq!(read_route(&written).unwrap().hold, Some(Duration::from_nanos(1)));
    }
}
