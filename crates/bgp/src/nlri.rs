//! The IPv4 prefixes of an UPDATE's own fields, which are nearly all of what a peer sends.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use rustbgpd_wire::DecodeError;

/// Of most lists, at least so many bytes are one prefix.
const USUAL: usize = 4;

/// Reads a list of prefixes (RFC 4271, section 4.3) in one pass, straight into the form in which it is used. Bits
/// after a prefix's length do not count.
///
/// # Errors
/// For a prefix that is longer than an address, or than the list.
pub(crate) fn ipv4(mut list: &[u8]) -> Result<Vec<IpNet>, DecodeError> {
    let mut nets = Vec::with_capacity(list.len().div_ceil(USUAL));
    while let [length, rest @ ..] = list {
        let bytes = usize::from(length.div_ceil(8));
        let mut octets = [0; 4];
        let (Some(address), Some(room)) = (rest.get(..bytes), octets.get_mut(..bytes)) else {
            return Err(invalid(list, bytes));
        };
        room.copy_from_slice(address);
        let Ok(net) = Ipv4Net::new(Ipv4Addr::from(octets), *length) else {
            return Err(invalid(list, bytes));
        };
        nets.push(IpNet::V4(net.trunc()));
        list = &rest[bytes..];
    }
    Ok(nets)
}

/// Says which prefix it was, as far as it is there.
fn invalid(from_here: &[u8], bytes: usize) -> DecodeError {
    let data = from_here[..from_here.len().min(1 + bytes)].to_vec();
    DecodeError::InvalidNetworkField { detail: format!("prefix length {}", from_here[0]), data }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustbgpd_wire::nlri::decode_nlri;

    use super::*;

    /// Lists that are right but for a byte, and any bytes.
    fn list() -> impl Strategy<Value = Vec<u8>> {
        let prefix = (0..=34_u8, any::<[u8; 5]>())
            .prop_map(|(length, bytes)| [&[length], &bytes[..usize::from(length.div_ceil(8))]].concat());
        let prefixes = prop::collection::vec(prefix, 0..40).prop_map(|prefixes| prefixes.concat());
        let cut = (prefixes, 0..3_usize).prop_map(|(mut bytes, less)| {
            bytes.truncate(bytes.len().saturating_sub(less));
            bytes
        });
        prop_oneof![4 => cut, 1 => prop::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn lists_are_read_as_by_the_library(list in list()) {
            match (ipv4(&list), decode_nlri(&list)) {
                (Ok(ours), Ok(theirs)) => {
                    let theirs = theirs.iter().map(|net| (net.addr, net.len));
                    let nets = ours.iter().map(|net| match net {
                        IpNet::V4(net) => (net.addr(), net.prefix_len()),
                        IpNet::V6(net) => panic!("{net}"),
                    });
                    prop_assert!(nets.eq(theirs));
                }
                (Err(ours), Err(theirs)) => prop_assert_eq!(ours.to_notification(), theirs.to_notification()),
                (ours, theirs) => prop_assert!(false, "{ours:?}, but {theirs:?}"),
            }
        }
    }
}
