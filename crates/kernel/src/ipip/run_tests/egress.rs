//! What leaves by the uplink.

use super::*;

#[test]
fn packets_to_pods_elsewhere_are_wrapped() {
    let mut bench = Bench::new();
    for outer in FAMILIES {
        for family in FAMILIES {
            for ecn in 0..4 {
                let class = class(ecn);
                let inner = inner(family, outer, class);
                let Fate::Passed(mut sent) = bench.run(Hook::Egress, &frame(&inner)) else {
                    panic!("{family:?} in {outer:?} was dropped");
                };
                let (from, to) = (address(HERE[index(outer)]), address(THERE[index(outer)]));
                // RFC 6040, section 4.1: what is inside is copied to the outside, congestion too.
                let expected = frame(&packet(from, to, protocol(family), class, &inner));
                let label = without_label(&mut sent);
                assert_eq!(sent, expected, "{family:?} in {outer:?}");
                assert!(outer == Family::V4 || label != 0, "a flow has a label (RFC 6438)");
                assert_eq!(bench.counted(), Counters { encapsulated: 1, ..Counters::default() });
            }
        }
    }
}

#[test]
fn what_is_inside_is_not_looked_at() {
    let mut bench = Bench::new();
    let (from, to): (Ipv4Addr, Ipv4Addr) = (POD[0].parse().unwrap(), FAR[0][0].parse().unwrap());
    let plain = || header4(from, to, IpNumber::UDP, 0, 21);
    let last_hop = Ipv4Header { time_to_live: 1, ..plain() };
    let fragment = Ipv4Header {
        dont_fragment: false,
        more_fragments: true,
        fragment_offset: IpFragOffset::try_new(100).unwrap(),
        identification: 77,
        ..plain()
    };
    let mut options = plain();
    options.options = [7, 7, 4, 0, 0, 0, 0, 0].into();
    options.total_len += 8;
    for mut header in [last_hop, fragment, options] {
        header.header_checksum = header.calc_header_checksum();
        let inner = [header.to_bytes().to_vec(), datagram()].concat();
        let outer = packet(address(HERE[0]), address(THERE[0]), IpNumber::IPV4, 0, &inner);
        // The time to live of the tunnel is its own.
        assert_eq!(bench.run(Hook::Egress, &frame(&inner)), Fate::Passed(frame(&outer)));
    }
    let extension = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram()].concat();
    let inner = packet(address(POD[1]), address(FAR[0][1]), IpNumber::IPV6_HEADER_HOP_BY_HOP, 0, &extension);
    let outer = packet(address(HERE[0]), address(THERE[0]), IpNumber::IPV6, 0, &inner);
    assert_eq!(bench.run(Hook::Egress, &frame(&inner)), Fate::Passed(frame(&outer)));
    assert_eq!(bench.counted(), Counters { encapsulated: 4, ..Counters::default() });
}

#[test]
fn the_longest_prefix_counts() {
    let mut table = table();
    let other = Outer::new(address(HERE[0]), address("172.16.0.3")).unwrap();
    for net in ["10.129.1.0/26", "fd00:11:4::/124"] {
        table
            .routes
            .insert(net.parse().unwrap(), Route { outer: other, next_hop: NextHop::Asked, hold: None });
    }
    let mut bench = Bench::with(&table);
    for family in FAMILIES {
        let inner = inner(family, Family::V4, 0);
        let outer = packet(other.source(), other.destination(), protocol(family), 0, &inner);
        assert_eq!(bench.run(Hook::Egress, &frame(&inner)), Fate::Routed(frame(&outer)));
    }
}

#[test]
fn what_is_not_for_pods_elsewhere_leaves_as_it_is() {
    let mut bench = Bench::new();
    for of in FAMILIES.map(index) {
        let (from, to) = (address(HERE[of]), address(THERE[of]));
        bench.passes(Hook::Egress, &frame(&packet(from, to, IpNumber::UDP, 0, &datagram())));
        // What is wrapped already goes to a node, and nodes are not in the table.
        bench.passes(Hook::Egress, &frame(&wrapped(FAMILIES[of], FAMILIES[1 - of], 0, 0)));
    }
    // An IPv6 address with an IPv4 address in it (RFC 4291, section 2.5.5.2) is not that address.
    let mapped: Ipv4Addr = FAR[0][0].parse().unwrap();
    let to = IpAddr::V6(mapped.to_ipv6_mapped());
    bench.passes(Hook::Egress, &frame(&packet(address(POD[1]), to, IpNumber::UDP, 0, &datagram())));
    let mut arp = Vec::new();
    let request = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &[2, 0, 0, 0, 0, 1],
        &[172, 16, 0, 1],
        &[0; 6],
        &[10, 129, 1, 7],
    );
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6]).arp(request.unwrap()).write(&mut arp).unwrap();
    bench.passes(Hook::Egress, &arp);
    bench.passes(Hook::Ingress, &arp);
    // A tag in the packet itself: a VLAN on top of the uplink.
    let inner = inner(Family::V4, Family::V4, 0);
    let tagged = [&frame(&inner)[..12], &[0x81, 0, 0, 5, 8, 0], &inner].concat();
    bench.passes(Hook::Egress, &tagged);
}

#[test]
fn nothing_is_wrapped_twice() {
    let mut table = table();
    // Nodes among the pods.
    for net in ["172.16.0.0/16", "2001:db8::/32"] {
        for family in FAMILIES {
            table.routes.insert(net.parse().unwrap(), route(family, None));
            let mut bench = Bench::with(&table);
            let of = usize::from(net.contains(':'));
            let (from, to) = (address(HERE[of]), address(THERE[of]));
            let sent = packet(from, to, IpNumber::UDP, 0, &datagram());
            assert_ne!(bench.run(Hook::Egress, &frame(&sent)), Fate::Passed(frame(&sent)));
            bench.counted();
            let wrapped = packet(from, to, protocol(FAMILIES[of]), 0, &sent);
            let outer = packet(
                address(HERE[index(family)]),
                address(THERE[index(family)]),
                protocol(FAMILIES[of]),
                0,
                &wrapped,
            );
            if index(family) == of {
                bench.passes(Hook::Egress, &frame(&wrapped));
            } else {
                let Fate::Passed(mut sent) = bench.run(Hook::Egress, &frame(&wrapped)) else { panic!() };
                without_label(&mut sent);
                assert_eq!(sent, frame(&outer), "that is somebody else's tunnel");
            }
        }
    }
}

#[test]
fn what_the_kernel_cannot_wrap_is_dropped() {
    let mut bench = Bench::new();
    // struct __sk_buff with gso_segs and gso_size, but of no protocol that can be cut.
    let mut context = vec![0; 192];
    context[164..168].copy_from_slice(&2u32.to_ne_bytes());
    context[176..180].copy_from_slice(&500u32.to_ne_bytes());
    let sent = frame(&inner(Family::V4, Family::V4, 0));
    assert_eq!(bench.run_with(Hook::Egress, &sent, Some(&context)), Fate::Dropped);
    assert_eq!(bench.counted(), Counters { failed: 1, ..Counters::default() });
}

#[test]
fn a_node_behind_a_gateway_is_sent_nothing_before_it_was_heard() {
    const HOLD: Duration = Duration::from_secs(60);
    let mut table = table();
    for route in table.routes.values_mut() {
        route.hold = Some(HOLD);
    }
    let mut bench = Bench::with(&table);
    let held = Counters { held: 1, ..Counters::default() };
    for outer in FAMILIES {
        let of = index(outer);
        for family in FAMILIES {
            let sent = frame(&inner(family, outer, 0));
            bench.drops(Hook::Egress, &sent, held);
            // What was heard once counts for so long.
            let key = layout::address(address(THERE[of]));
            let now = crate::clock::monotonic().unwrap();
            let heard_before = |time: Duration| now.saturating_sub(time.as_nanos() as u64);
            // It is another flow to a gateway if packets of the other family are heard.
            let heard = |at| if family == Family::V4 { [at, 0] } else { [0, at] };
            let other = |at| if family == Family::V4 { [0, at] } else { [at, 0] };
            for held_still in [heard(heard_before(HOLD + Duration::from_secs(1))), other(now)] {
                bench.object.nodes.put(&key, &held_still).unwrap();
                bench.drops(Hook::Egress, &sent, held);
            }
            bench.object.nodes.put(&key, &heard(heard_before(HOLD / 2))).unwrap();
            assert_ne!(bench.run(Hook::Egress, &sent), Fate::Dropped);
            bench.object.nodes.put(&key, &[0; 2]).unwrap();
            bench.drops(Hook::Egress, &sent, Counters { encapsulated: 1, ..held });
            // Hearing it is what does it: here a keepalive.
            let came = packet(address(THERE[of]), address(HERE[of]), protocol(family), 0, &keepalive(family));
            bench.drops(Hook::Ingress, &frame(&came), Counters { keepalives: 1, ..Counters::default() });
            assert_ne!(bench.run(Hook::Egress, &sent), Fate::Dropped);
            bench.object.nodes.put(&key, &[0; 2]).unwrap();
            bench.counted();
        }
    }
    // Nothing is ever heard of one that is not in the list.
    table.nodes.clear();
    let mut bench = Bench::with(&table);
    bench.drops(Hook::Egress, &frame(&inner(Family::V4, Family::V4, 0)), held);
}
