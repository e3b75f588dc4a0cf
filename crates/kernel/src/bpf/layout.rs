//! Keys that maps of several objects have, as bytes; `bpf/packet.h` has the same as C structures.
//!
//! Addresses are in network byte order, numbers in the machine's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `struct address`.
pub(crate) type AddressBytes = [u8; 20];

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
pub(crate) fn read_address(bytes: &AddressBytes) -> Option<IpAddr> {
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

/// The key of a prefix. Bits after its length have no meaning, so they are none.
pub(crate) fn prefix4(net: Ipv4Net) -> Prefix<4> {
    (net.network().octets(), net.prefix_len().into())
}

/// The key of a prefix.
pub(crate) fn prefix6(net: Ipv6Net) -> Prefix<16> {
    (net.network().octets(), net.prefix_len().into())
}

pub(crate) fn read_prefix4((data, length): Prefix<4>) -> Option<IpNet> {
    Ipv4Net::new(data.into(), u8::try_from(length).ok()?).ok().map(IpNet::V4)
}

pub(crate) fn read_prefix6((data, length): Prefix<16>) -> Option<IpNet> {
    Ipv6Net::new(data.into(), u8::try_from(length).ok()?).ok().map(IpNet::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for of in ["172.16.0.1", "172.16.0.2", "2001:db8::1", "2001:db8::2"] {
            let of: IpAddr = of.parse().unwrap();
            assert_eq!(read_address(&address(of)), Some(of));
        }
        let net: IpNet = "10.1.2.0/24".parse().unwrap();
        assert_eq!(read_prefix4(prefix4("10.1.2.3/24".parse().unwrap())), Some(net));
        let net: IpNet = "fd00:1::/64".parse().unwrap();
        assert_eq!(read_prefix6(prefix6("fd00:1::5/64".parse().unwrap())), Some(net));
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        assert_eq!(read_address(&[0; 20]), None);
        assert_eq!(read_prefix4(([0; 4], 33)), None);
    }
}
