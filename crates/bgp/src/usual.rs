//! The attributes of usual routes.

use std::net::Ipv4Addr;

use rustbgpd_wire::constants::{attr_flags, attr_type};

use crate::{Attributes, Community, Origin};

/// The type of an AS_PATH segment that is a sequence (RFC 4271, section 4.3).
const SEQUENCE: u8 = 2;

/// Reads attributes as they nearly always are: each with its one right form, in the order of their types, for IPv4 in
/// the message's own field. None for all that is otherwise, be it right or wrong: that is for [`crate::wire`], with
/// the library's reader, to judge. It takes five times as long.
pub(crate) fn attributes(mut list: &[u8]) -> Option<Attributes> {
    let (mut origin, mut as_path, mut next_hop) = (None, None, None);
    let (mut med, mut local_pref, mut communities) = (None, None, Box::default());
    let mut last = 0;
    while let [flags, code, length, rest @ ..] = list {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        if *code <= last || *flags != usual_flags(*code)? {
            return None;
        }
        match *code {
            attr_type::ORIGIN => origin = Some(read_origin(value)?),
            attr_type::AS_PATH => as_path = Some(read_as_path(value)?),
            attr_type::NEXT_HOP => next_hop = Some(read_next_hop(value)?),
            attr_type::MULTI_EXIT_DISC => med = Some(u32::from_be_bytes(value.try_into().ok()?)),
            attr_type::LOCAL_PREF => local_pref = Some(u32::from_be_bytes(value.try_into().ok()?)),
            _ => communities = read_numbers(value)?.map(Community).collect(),
        }
        (last, list) = (*code, after);
    }
    let (origin, as_path) = (origin?, as_path?);
    list.is_empty().then_some(())?;
    Some(Attributes { origin, as_path, med, local_pref, communities, ..Attributes::new(next_hop?.into()) })
}

fn usual_flags(code: u8) -> Option<u8> {
    match code {
        attr_type::ORIGIN | attr_type::AS_PATH | attr_type::NEXT_HOP | attr_type::LOCAL_PREF => {
            Some(attr_flags::TRANSITIVE)
        }
        attr_type::MULTI_EXIT_DISC => Some(attr_flags::OPTIONAL),
        attr_type::COMMUNITIES => Some(attr_flags::OPTIONAL | attr_flags::TRANSITIVE),
        _ => None,
    }
}

fn read_origin(value: &[u8]) -> Option<Origin> {
    match value {
        [0] => Some(Origin::Igp),
        [1] => Some(Origin::Egp),
        [2] => Some(Origin::Incomplete),
        _ => None,
    }
}

/// Of a peer that writes ASes with four octets: no segment, or one sequence.
fn read_as_path(value: &[u8]) -> Option<Box<[u32]>> {
    let [SEQUENCE, count, ases @ ..] = value else {
        return value.is_empty().then(Box::default);
    };
    (usize::from(*count) * 4 == ases.len()).then_some(())?;
    let path: Box<[u32]> = read_numbers(ases)?.collect();
    (!path.contains(&0)).then_some(path)
}

fn read_next_hop(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    let usable = !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_broadcast();
    usable.then_some(address)
}

/// One number or more.
fn read_numbers(value: &[u8]) -> Option<impl Iterator<Item = u32> + '_> {
    let (numbers, rest) = value.as_chunks::<4>();
    (!numbers.is_empty() && rest.is_empty()).then(|| numbers.iter().map(|octets| u32::from_be_bytes(*octets)))
}
