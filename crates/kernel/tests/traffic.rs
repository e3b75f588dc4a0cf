//! What the tables let pass, and what they do not: seen at the far end.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use common::cluster::{self, Stack};
use common::pods::{self, NODE, Pod, STRANGER, attach, socket};
use common::wire::{self, ARP, IPV4, IPV6, Wire};
use common::{TestNs, reconcile};
use model::{Attachment, MacAddr};

/// A node with two pods, and the rest of the world at the other end of its underlay.
struct Scene {
    node: TestNs,
    world: TestNs,
    pods: [Pod; 2],
}

impl Scene {
    fn new() -> Scene {
        let (node, world) = pods::node_and_world();
        let attachments: Vec<Attachment> =
            [2, 3].map(|number| cluster::attachment(number, Stack::Dual)).to_vec();
        let _guard = node.enter();
        let plan = cluster::plan(&cluster::cluster(3, Stack::Dual), attachments.clone());
        reconcile(&plan);
        let pods = [0, 1].map(|number| attach(&attachments[number]));
        assert!(reconcile(&plan).is_quiet());
        Scene { node, world, pods }
    }

    /// How many packets the rules with this comment have dropped.
    fn dropped(&self, family: &str, comment: &str) -> u64 {
        let rules = self.node.run(&format!("nft list table {family} cambric"));
        let counts = rules.lines().filter(|line| line.contains(comment)).map(|line| {
            let count = line.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap();
            count.parse::<u64>().unwrap()
        });
        counts.sum()
    }
}

/// The source that a datagram to `to` has when it arrives.
fn source_seen(from: &UdpSocket, to: &UdpSocket) -> IpAddr {
    from.send_to(b"who am I", to.local_addr().unwrap()).unwrap();
    to.recv_from(&mut [0; 64]).unwrap().1.ip()
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let scene = Scene::new();
    let [one, two] = &scene.pods;
    let (sender, hearer) = {
        let sender = one.test.enter();
        let send = Wire::open("eth0");
        drop(sender);
        let _guard = two.test.enter();
        (send, Wire::open("eth0"))
    };
    let any4 = Ipv4Addr::UNSPECIFIED;
    let (any6, local) = (Ipv6Addr::UNSPECIFIED, one.mac.link_local());
    let (router4, router6): (Ipv4Addr, Ipv6Addr) =
        ("10.128.0.1".parse().unwrap(), "fd00:10::1".parse().unwrap());
    let nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let other_mac = MacAddr([0x0a, 0x58, 9, 9, 9, 9]);
    let ether = |kind, payload: Vec<u8>| (one.mac, kind, payload);
    let data = |from| wire::ipv4(from, two.v4, 17, &wire::udp(9, b"data"));
    let data6 = |from| wire::ipv6(from, two.v6, 17, &wire::udp(9, b"data"));
    let discovery = |from, kind, target| wire::ipv6(from, nodes, 58, &wire::icmp6(kind, target, b""));
    // A hop-by-hop header (RFC 8200, section 4.3) before the advertisement hides nothing.
    let hidden = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &wire::icmp6(136, two.v6, b"")].concat();
    let vlan = [&[0, 7][..], &IPV4.to_be_bytes(), &data(one.v4)].concat();

    let dropped = [
        ("another Ethernet address", (other_mac, IPV4, data(one.v4))),
        ("the other pod's Ethernet address", (two.mac, IPV4, data(one.v4))),
        ("the other pod's IPv4 address", ether(IPV4, data(two.v4))),
        ("the gateway's IPv4 address", ether(IPV4, data(router4))),
        ("no IPv4 address", ether(IPV4, data(any4))),
        ("ARP for the gateway's address", ether(ARP, wire::arp(one.mac, router4, router4))),
        ("ARP for the other pod's address", ether(ARP, wire::arp(one.mac, two.v4, two.v4))),
        ("the other pod's IPv6 address", ether(IPV6, data6(two.v6))),
        ("the other pod's link-local address", ether(IPV6, data6(two.mac.link_local()))),
        ("no IPv6 address, and no neighbour discovery", ether(IPV6, data6(any6))),
        ("an advertisement of the gateway", ether(IPV6, discovery(one.v6, 136, router6))),
        ("an advertisement of the other pod", ether(IPV6, discovery(local, 136, two.v6))),
        ("an advertisement behind another header", ether(IPV6, wire::ipv6(one.v6, nodes, 0, &hidden))),
        ("an advertisement from nowhere", ether(IPV6, discovery(any6, 136, router6))),
        ("a router advertisement", ether(IPV6, discovery(local, 134, any6))),
        ("a router advertisement from nowhere", ether(IPV6, discovery(any6, 134, any6))),
        ("a redirect", ether(IPV6, discovery(local, 137, two.v6))),
        ("a VLAN tag", ether(0x8100, vlan)),
        ("another protocol", ether(0x88cc, b"lldp".to_vec())),
    ];
    let passed = [
        ("IPv4", ether(IPV4, data(one.v4))),
        ("ARP", ether(ARP, wire::arp(one.mac, one.v4, two.v4))),
        ("an ARP probe", ether(ARP, wire::arp(one.mac, any4, one.v4))),
        ("IPv6", ether(IPV6, data6(one.v6))),
        ("IPv6 from the link-local address", ether(IPV6, data6(local))),
        ("a solicitation", ether(IPV6, discovery(one.v6, 135, two.v6))),
        ("a solicitation for its own address", ether(IPV6, discovery(any6, 135, one.v6))),
        ("an advertisement of itself", ether(IPV6, discovery(one.v6, 136, one.v6))),
        ("an advertisement of its link-local address", ether(IPV6, discovery(local, 136, local))),
    ];
    let all_drops = [
        "another Ethernet address than the pod's",
        "a pod is no router",
        "a pod redirects nobody",
        "a pod advertises its own address only",
        "anything else",
    ];
    let count = || all_drops.iter().map(|comment| scene.dropped("bridge", comment)).sum::<u64>();
    let before = count();
    for (what, (mac, kind, payload)) in &dropped {
        let frame = wire::ethernet(two.mac, *mac, *kind, payload);
        sender.send(&frame);
        // What passes comes behind what does not.
        let mark = wire::ethernet(two.mac, one.mac, IPV4, &data(one.v4));
        sender.send(&mark);
        loop {
            let heard = hearer.receive();
            assert_ne!(heard, frame, "{what} passed");
            // The length of the mark is its own: a tag of the frame before would be taken off on the way.
            if heard == mark {
                break;
            }
            assert!(!heard.ends_with(payload) || *kind != 0x8100, "{what} passed");
        }
    }
    assert_eq!(count() - before, dropped.len() as u64, "each was counted");
    for (what, (mac, kind, payload)) in &passed {
        let frame = wire::ethernet(two.mac, *mac, *kind, payload);
        sender.send(&frame);
        while hearer.receive() != frame {}
        println!("{what} passed");
    }
    assert_eq!(count() - before, dropped.len() as u64);
}

#[test]
fn the_outside_sees_the_node_and_pods_see_each_other() {
    let scene = Scene::new();
    let [one, two] = &scene.pods;
    for (family, own, other, node) in [
        (0, IpAddr::V4(one.v4), IpAddr::V4(two.v4), "172.16.0.1"),
        (1, IpAddr::V6(one.v6), IpAddr::V6(two.v6), "2001:db8::1"),
    ] {
        let client = socket(&one.test, own, 4000);
        let outside = socket(&scene.world, STRANGER[family].parse().unwrap(), 9000);
        assert_eq!(source_seen(&client, &outside).to_string(), node);
        let server = socket(&two.test, other, 9000);
        assert_eq!(source_seen(&client, &server), own);
        // The node itself is not masqueraded, and neither are its answers.
        let from_node = socket(&scene.node, node.parse().unwrap(), 9001);
        assert_eq!(source_seen(&from_node, &outside).to_string(), node);
        assert_eq!(source_seen(&client, &from_node), own);
    }

    // To a pod of another node: through the tunnel, with its own address inside.
    let tunnel = socket(&scene.world, NODE[0].parse().unwrap(), 4789);
    for (own, remote) in [
        (IpAddr::V4(one.v4), "10.128.1.2".parse::<IpAddr>().unwrap()),
        (IpAddr::V6(one.v6), "fd00:10:0:1::2".parse().unwrap()),
    ] {
        let client = socket(&one.test, own, 4001);
        client.send_to(b"who am I", (remote, 9000)).unwrap();
        let mut outer = [0; 2048];
        let (length, from) = tunnel.recv_from(&mut outer).unwrap();
        assert_eq!(from.ip().to_string(), "172.16.0.1");
        let inner = &outer[8 + 14..length];
        let source: IpAddr = match inner[0] >> 4 {
            4 => <[u8; 4]>::try_from(&inner[12..16]).unwrap().into(),
            _ => <[u8; 16]>::try_from(&inner[8..24]).unwrap().into(),
        };
        assert_eq!(source, own);
        assert_eq!(outer[8..14], MacAddr::for_tunnel(&NODE[0].parse().unwrap()).0, "the other node's device");
    }
}

#[test]
fn a_tunnel_takes_packets_from_nodes_only() {
    let scene = Scene::new();
    let one = &scene.pods[0];
    let hearer = {
        let _guard = one.test.enter();
        Wire::open("eth0")
    };
    for (family, node, table) in [(0, "172.16.0.1", "ip"), (1, "2001:db8::1", "ip6")] {
        let node: IpAddr = node.parse().unwrap();
        let (to, from) = (MacAddr::for_tunnel(&node), MacAddr::for_tunnel(&NODE[family].parse().unwrap()));
        let inner = |text: &[u8]| {
            let remote: Ipv6Addr = "fd00:10:0:1::2".parse().unwrap();
            wire::ethernet(to, from, IPV6, &wire::ipv6(remote, one.v6, 17, &wire::udp(9, text)))
        };
        let send = |from: &str, text: &[u8]| {
            let sender = socket(&scene.world, from.parse().unwrap(), 0);
            sender.send_to(&wire::vxlan(4096, &inner(text)), (node, 4789)).unwrap();
        };
        let comment = "VXLAN is accepted from nodes of the cluster only";
        assert_eq!(scene.dropped(table, comment), 0);
        send(STRANGER[family], b"from a stranger");
        send(NODE[family], b"from a node");
        loop {
            let heard = hearer.receive();
            assert!(!heard.ends_with(b"from a stranger"));
            if heard.ends_with(b"from a node") {
                break;
            }
        }
        assert_eq!(scene.dropped(table, comment), 1);
    }
}

#[test]
fn a_cluster_of_ipv6_alone_tunnels_over_ipv6() {
    let (node, world) = (TestNs::underlay("node6"), TestNs::new("world6"));
    node.run(&format!("ip link set wire netns {}", world.name));
    world.run("ip link set wire up");
    world.run(&format!("ip addr add {}/64 dev wire nodad", NODE[1]));
    {
        let _guard = node.enter();
        reconcile(&cluster::plan(&cluster::cluster(3, Stack::V6), Vec::new()));
    }
    let tunnel = socket(&world, NODE[1].parse().unwrap(), 4789);
    let sender = socket(&node, "fd00:10::1".parse().unwrap(), 4000);
    sender.send_to(b"hello", "[fd00:10:0:1::2]:9000").unwrap();
    let mut outer = [0; 2048];
    let (length, from) = tunnel.recv_from(&mut outer).unwrap();
    assert_eq!(from.ip().to_string(), "2001:db8::1");
    assert_eq!(outer[..8], wire::vxlan(4096, b""));
    let frame = &outer[8..length];
    assert_eq!(frame[..6], MacAddr::for_tunnel(&NODE[1].parse().unwrap()).0);
    assert_eq!(frame[6..12], MacAddr::for_tunnel(&"2001:db8::1".parse().unwrap()).0);
    assert!(frame.ends_with(b"hello"));
}
