//! What comes in by the uplink.

use super::*;

#[test]
fn packets_from_nodes_are_unwrapped() {
    let mut bench = Bench::new();
    for outer in FAMILIES {
        for family in FAMILIES {
            let came = frame(&wrapped(family, outer, 0, 0));
            let expected = frame(&unwrapped(family, outer, 0));
            assert_eq!(bench.run(Hook::Ingress, &came), Fate::Passed(expected), "{family:?} in {outer:?}");
            assert_eq!(bench.counted(), Counters { decapsulated: 1, ..Counters::default() });
            // What is behind the outer packet, as in a frame of the least length, stays: the kernel cuts it off.
            let padded = [came, vec![0; 9]].concat();
            let expected = [frame(&unwrapped(family, outer, 0)), vec![0; 9]].concat();
            assert_eq!(bench.run(Hook::Ingress, &padded), Fate::Passed(expected));
            bench.counted();
        }
    }
}

/// RFC 6040, section 4.2, figure 4: by the inner ECN field, then by the outer; `None` is to drop.
const ECN_AFTER: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn congestion_on_the_way_is_told_inside() {
    let mut bench = Bench::new();
    for outer in FAMILIES {
        for family in FAMILIES {
            for (within, row) in ECN_AFTER.iter().enumerate() {
                for (without, after) in row.iter().enumerate() {
                    // Of the outer header nothing but the ECN field counts.
                    let came = frame(&wrapped(family, outer, without as u8, class(within as u8)));
                    match after {
                        // The checksum of an inner IPv4 header is part of what is compared.
                        Some(ecn) => assert_eq!(
                            bench.run(Hook::Ingress, &came),
                            Fate::Passed(frame(&unwrapped(family, outer, class(*ecn)))),
                            "{family:?} in {outer:?}, {within} in {without}"
                        ),
                        None => {
                            bench.counted();
                            bench.drops(
                                Hook::Ingress,
                                &came,
                                Counters { congested: 1, ..Counters::default() },
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn strangers_are_refused_whatever_they_send() {
    let mut bench = Bench::new();
    let refused = Counters { refused: 1, ..Counters::default() };
    for outer in FAMILIES {
        let of = index(outer);
        for family in FAMILIES {
            let inner = unwrapped(family, outer, 0);
            let to = address(HERE[of]);
            let from = address(STRANGER[of]);
            bench.drops(Hook::Ingress, &frame(&packet(from, to, protocol(family), 0, &inner)), refused);
            bench.drops(Hook::Ingress, &frame(&packet(from, to, protocol(family), 0, b"")), refused);
            // Not for this node: somebody else's to open.
            bench.passes(
                Hook::Ingress,
                &frame(&packet(from, address(STRANGER[of]), protocol(family), 0, &inner)),
            );
        }
    }
    // An IPv6 address with a node's IPv4 address in it is no node's.
    let node: Ipv4Addr = THERE[0].parse().unwrap();
    let inner = unwrapped(Family::V4, Family::V4, 0);
    let mapped = packet(node.to_ipv6_mapped().into(), address(HERE[1]), IpNumber::IPV4, 0, &inner);
    bench.drops(Hook::Ingress, &frame(&mapped), refused);
    let heard = bench.object.last_heard().unwrap();
    assert!(heard.len() == 2 && heard.values().all(PerFamily::is_empty), "nobody was heard");
}

#[test]
fn what_is_not_wrapped_comes_in_as_it_is() {
    let mut bench = Bench::new();
    for of in FAMILIES.map(index) {
        for from in [THERE[of], STRANGER[of], FAR[of][of]] {
            let came = packet(address(from), address(HERE[of]), IpNumber::UDP, 0, &datagram());
            bench.passes(Hook::Ingress, &frame(&came));
        }
    }
    // Behind an extension header nothing is looked for.
    let extension = [&[41, 0, 1, 4, 0, 0, 0, 0][..], &unwrapped(Family::V6, Family::V6, 0)].concat();
    let came = packet(address(THERE[1]), address(HERE[1]), IpNumber::IPV6_HEADER_HOP_BY_HOP, 0, &extension);
    bench.passes(Hook::Ingress, &frame(&came));
}

#[test]
fn what_a_node_sends_must_be_what_it_says() {
    let mut bench = Bench::new();
    let malformed = Counters { malformed: 1, ..Counters::default() };
    for outer in FAMILIES {
        let of = index(outer);
        let (from, to) = (address(THERE[of]), address(HERE[of]));
        for family in FAMILIES {
            // The other family than the protocol says.
            let inner = unwrapped(family, outer, 0);
            let other = protocol(FAMILIES[1 - index(family)]);
            bench.drops(Hook::Ingress, &frame(&packet(from, to, other, 0, &inner)), malformed);
            // The inner header is not all there.
            let least = [20, 40][index(family)];
            for length in [0, 1, least - 1] {
                let came = packet(from, to, protocol(family), 0, &inner[..length]);
                bench.drops(Hook::Ingress, &frame(&came), malformed);
            }
            // The outer packet is longer than the frame.
            let came = frame(&wrapped(family, outer, 0, 0));
            bench.drops(Hook::Ingress, &came[..came.len() - 1], malformed);
        }
    }
    let from = THERE[0].parse().unwrap();
    let to = HERE[0].parse().unwrap();
    let inner = unwrapped(Family::V4, Family::V4, 0);
    let outer = || header4(from, to, IpNumber::IPV4, 0, inner.len());
    let mut check = |header: Ipv4Header| {
        let came = [header.to_bytes().to_vec(), inner.clone()].concat();
        bench.run(Hook::Ingress, &frame(&came))
    };
    let checked = |mut header: Ipv4Header| {
        header.header_checksum = header.calc_header_checksum();
        header
    };
    let first = Ipv4Header { dont_fragment: false, more_fragments: true, ..outer() };
    let later =
        Ipv4Header { dont_fragment: false, fragment_offset: IpFragOffset::try_new(1).unwrap(), ..outer() };
    let wrong = Ipv4Header { header_checksum: outer().header_checksum ^ 0x0100, ..outer() };
    let short = Ipv4Header { total_len: 19, ..outer() };
    for header in [checked(first), checked(later), wrong, checked(short)] {
        assert_eq!(check(header.clone()), Fate::Dropped, "{header:?}");
    }
    let mut options = outer();
    options.options = [7, 7, 4, 0, 0, 0, 0, 0].into();
    options.total_len += 8;
    let options = checked(options);
    assert_eq!(check(options.clone()), Fate::Passed(frame(&inner)), "options go with the header");
    let wrong = Ipv4Header { header_checksum: options.header_checksum ^ 1, ..options };
    assert_eq!(check(wrong), Fate::Dropped);
    // The header's own length is less than a header.
    let mut tiny = frame(&wrapped(Family::V4, Family::V4, 0, 0));
    tiny[14] = 0x44;
    bench.drops(Hook::Ingress, &tiny, Counters { malformed: 6, decapsulated: 1, ..Counters::default() });
}

#[test]
fn keepalives_are_heard_and_go_no_further() {
    let mut bench = Bench::new();
    let (none4, none6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    let nothing = IpNumber::IPV6_NO_NEXT_HEADER;
    let plain = |from, to| {
        let mut bytes = packet(from, to, nothing, 0, b"");
        if bytes.len() == 20 {
            // An Ipv4Header of etherparse forbids to fragment.
            bytes[6] = 0;
            bytes[10..12].fill(0);
            let (header, _) = Ipv4Header::from_slice(&bytes).unwrap();
            bytes[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        bytes
    };
    assert_eq!(keepalive(Family::V4), plain(none4, none4));
    assert_eq!(keepalive(Family::V6), plain(none6, none6));
    for outer in FAMILIES {
        let of = index(outer);
        let node = address(THERE[of]);
        for family in FAMILIES {
            assert_eq!(bench.object.last_heard().unwrap()[&node].of(family), None);
            let came = packet(node, address(HERE[of]), protocol(family), 0, &keepalive(family));
            bench.drops(Hook::Ingress, &frame(&came), Counters { keepalives: 1, ..Counters::default() });
            let heard = *bench.object.last_heard().unwrap()[&node].of(family).unwrap();
            assert!(heard < Duration::from_secs(10), "{heard:?}");
            // A pod may send such a packet to a pod: that is none.
            let (from, to) = (address(FAR[of][index(family)]), address(POD[index(family)]));
            let inner = packet(from, to, nothing, 0, b"");
            let came = packet(node, address(HERE[of]), protocol(family), 0, &inner);
            assert_eq!(bench.run(Hook::Ingress, &frame(&came)), Fate::Passed(frame(&inner)));
            assert_eq!(bench.counted(), Counters { decapsulated: 1, ..Counters::default() });
        }
    }
}
