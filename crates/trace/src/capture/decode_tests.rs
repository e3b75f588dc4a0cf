use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder};

use super::*;
use crate::capture::Encapsulation;

const CLIENT: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 1, 2];
const SERVER: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 2, 3];

#[derive(Clone, Copy)]
enum With {
    Tcp,
    Udp(u16),
    Echo,
    Protocol(u8),
}

/// An IP packet between two addresses of one family, with its Ethernet header if there is one.
fn build(ethernet: bool, source: &str, destination: &str, with: With, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let step = match (source, destination, ethernet) {
        (IpAddr::V4(a), IpAddr::V4(b), true) => {
            PacketBuilder::ethernet2(CLIENT, SERVER).ipv4(a.octets(), b.octets(), 64)
        }
        (IpAddr::V4(a), IpAddr::V4(b), false) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b), true) => {
            PacketBuilder::ethernet2(CLIENT, SERVER).ipv6(a.octets(), b.octets(), 64)
        }
        (IpAddr::V6(a), IpAddr::V6(b), false) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        _ => panic!("two families"),
    };
    match with {
        With::Tcp => step.tcp(4000, 80, 7, 1024).syn().write(&mut bytes, payload).unwrap(),
        With::Udp(port) => step.udp(4000, port).write(&mut bytes, payload).unwrap(),
        With::Echo if source.is_ipv4() => {
            step.icmpv4_echo_request(9, 1).write(&mut bytes, payload).unwrap();
        }
        With::Echo => step.icmpv6_echo_request(9, 1).write(&mut bytes, payload).unwrap(),
        With::Protocol(number) => step.write(&mut bytes, IpNumber(number), payload).unwrap(),
    }
    bytes
}

fn vxlan_header(vni: u32) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    vec![8, 0, 0, 0, a, b, c, 0]
}

fn in_vxlan(source: &str, destination: &str, port: u16, vni: u32, frame: &[u8]) -> Vec<u8> {
    build(true, source, destination, With::Udp(port), &[&vxlan_header(vni), frame].concat())
}

fn line(frame: &[u8]) -> String {
    decode(frame, &Tunnels::default()).to_string()
}

const POD_A: &str = "10.244.1.2";
const POD_B: &str = "10.244.2.3";
const POD6_A: &str = "fd00:10:f4:1::2";
const POD6_B: &str = "fd00:10:f4:2::3";
const NODE_A: &str = "192.0.2.1";
const NODE_B: &str = "192.0.2.2";
const NODE6_A: &str = "2001:db8::1";
const NODE6_B: &str = "2001:db8::2";

#[test]
fn packets_of_both_families() {
    for (frame, expected) in [
        (
            build(true, POD_A, POD_B, With::Tcp, b""),
            "IP 10.244.1.2.4000 > 10.244.2.3.80: Flags [S], seq 7, length 0",
        ),
        (
            build(true, POD_A, POD_B, With::Udp(53), b"four"),
            "IP 10.244.1.2.4000 > 10.244.2.3.53: UDP, length 4",
        ),
        (
            build(true, POD_A, POD_B, With::Echo, b"12345678"),
            "IP 10.244.1.2 > 10.244.2.3: ICMP echo request, id 9, seq 1, length 8",
        ),
        (
            build(true, POD6_A, POD6_B, With::Tcp, b"x"),
            "IP6 fd00:10:f4:1::2.4000 > fd00:10:f4:2::3.80: Flags [S], seq 7, length 1",
        ),
        (
            build(true, POD6_A, POD6_B, With::Echo, b""),
            "IP6 fd00:10:f4:1::2 > fd00:10:f4:2::3: ICMP6, echo request, id 9, seq 1, length 0",
        ),
        (
            build(true, POD_A, POD_B, With::Protocol(132), b"sctp"),
            "IP 10.244.1.2 > 10.244.2.3: protocol 132, length 4",
        ),
    ] {
        assert_eq!(line(&frame), expected);
    }
}

#[test]
fn vxlan_of_every_mix_of_families() {
    let inner = [
        (build(true, POD_A, POD_B, With::Tcp, b""), POD_A, POD_B),
        (build(true, POD6_A, POD6_B, With::Tcp, b""), POD6_A, POD6_B),
    ];
    for (frame, source, destination) in &inner {
        for (node_a, node_b) in [(NODE_A, NODE_B), (NODE6_A, NODE6_B)] {
            let packet = decode(&in_vxlan(node_a, node_b, 4789, 0x00ab_cdef, frame), &Tunnels::default());
            let outer = packet.ip().unwrap();
            assert_eq!((outer.source, outer.destination), (node_a.parse().unwrap(), node_b.parse().unwrap()));
            let (encapsulation, inside) = packet.inner().unwrap();
            assert_eq!(encapsulation, Encapsulation::Vxlan(0x00ab_cdef));
            assert_eq!(inside.ethernet.unwrap().destination, MacAddr(SERVER));
            let ip = packet.innermost().ip().unwrap();
            assert_eq!((ip.source, ip.destination), (source.parse().unwrap(), destination.parse().unwrap()));
            assert_eq!(ip.ports(), Some((4000, 80)));
        }
    }
    assert_eq!(
        line(&in_vxlan(NODE_A, NODE_B, 4789, 4096, &inner[0].0)),
        "IP 192.0.2.1.4000 > 192.0.2.2.4789: VXLAN, vni 4096: \
         IP 10.244.1.2.4000 > 10.244.2.3.80: Flags [S], seq 7, length 0"
    );
}

#[test]
fn vxlan_is_known_by_its_port_and_flag() {
    let inner = build(true, POD_A, POD_B, With::Tcp, b"");
    let other_port = in_vxlan(NODE_A, NODE_B, 8472, 1, &inner);
    assert!(decode(&other_port, &Tunnels::default()).inner().is_none());
    assert!(decode(&other_port, &Tunnels { vxlan_port: 8472 }).inner().is_some());
    let mut no_flag = vxlan_header(1);
    no_flag[0] = 0;
    let frame = build(true, NODE_A, NODE_B, With::Udp(4789), &[&no_flag[..], &inner].concat());
    assert!(decode(&frame, &Tunnels::default()).inner().is_none());
    // What was asked from that port, and is answered to it.
    let answer = build(true, NODE_A, NODE_B, With::Udp(4789), br#"{"pod": "default/web"}"#);
    assert!(decode(&answer, &Tunnels::default()).inner().is_none());
    let short = build(true, NODE_A, NODE_B, With::Udp(4789), &[8, 0, 0]);
    assert!(decode(&short, &Tunnels::default()).inner().is_none());
}

#[test]
fn ip_in_ip_of_every_mix_of_families() {
    for (inner, protocol, source) in [
        (build(false, POD_A, POD_B, With::Udp(53), b""), IPV4_IN_IP, POD_A),
        (build(false, POD6_A, POD6_B, With::Udp(53), b""), IPV6_IN_IP, POD6_A),
    ] {
        for (node_a, node_b) in [(NODE_A, NODE_B), (NODE6_A, NODE6_B)] {
            let frame = build(true, node_a, node_b, With::Protocol(protocol), &inner);
            let packet = decode(&frame, &Tunnels::default());
            let (encapsulation, inside) = packet.inner().unwrap();
            assert_eq!((encapsulation, inside.ethernet), (Encapsulation::Ip, None));
            assert_eq!(inside.ip().unwrap().source, source.parse::<IpAddr>().unwrap());
            assert_eq!(inside.ip().unwrap().ports(), Some((4000, 53)));
        }
    }
}

#[test]
fn arp_and_vlan() {
    let mut arp = [&SERVER[..], &CLIENT, &[0x81, 0, 0, 5, 8, 6]].concat();
    arp.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(CLIENT);
    arp.extend([10, 244, 1, 2]);
    arp.extend([0; 6]);
    arp.extend([10, 244, 1, 1]);
    assert_eq!(line(&arp), "vlan 5, ARP, Request who-has 10.244.1.1 tell 10.244.1.2");
}

#[test]
fn tunnels_in_tunnels_end() {
    let mut packet = build(false, POD_A, POD_B, With::Tcp, b"");
    for _ in 0..40 {
        packet = build(false, NODE_A, NODE_B, With::Protocol(IPV4_IN_IP), &packet);
    }
    let packet = decode_ip(&packet, &Tunnels::default());
    let mut depth = 0;
    let mut at = &packet;
    while let Some((_, inner)) = at.inner() {
        at = inner;
        depth += 1;
    }
    assert_eq!(depth, DEEPEST);
}

#[test]
fn a_cut_or_broken_frame_is_read_as_far_as_it_goes() {
    let whole = in_vxlan(NODE_A, NODE_B, 4789, 4096, &build(true, POD6_A, POD6_B, With::Tcp, b"payload"));
    for length in 0..whole.len() {
        let packet = decode(&whole[..length], &Tunnels::default());
        // The outer IP header ends after byte 34.
        assert_eq!(packet.ip().is_some(), length >= 34, "{length}: {packet}");
    }
    for at in 0..whole.len() {
        for value in [0, 0xff, whole[at] ^ 0x10] {
            let mut broken = whole.clone();
            broken[at] = value;
            assert!(!decode(&broken, &Tunnels::default()).to_string().is_empty());
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_decoded(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode(&bytes, &Tunnels::default()).to_string();
        let _ = decode_ip(&bytes, &Tunnels::default()).to_string();
    }
}
