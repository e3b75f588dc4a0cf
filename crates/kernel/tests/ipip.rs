//! IP in IP between nodes in subnets of their own: pods' packets, and the wire between.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;
use std::thread;

use aya::programs::{SchedClassifier, TcAttachType};
use common::TestNs;
use common::pods::socket;
use common::sites::{self, Changes, Reconcile, Sites, node, pod};
use common::transfer::{fragments, transfer};
use common::wire::{self, Wire};
use etherparse::{NetHeaders, PacketHeaders};
use kernel::ipip::{self, Counters};
use model::{Family, MacAddr};
use plan::ipip::{NextHop, Outer};

/// The programs on a node's uplink: ingress, egress.
fn programs(node: &TestNs) -> [Vec<u32>; 2] {
    let _guard = node.enter();
    [TcAttachType::Ingress, TcAttachType::Egress].map(|hook| {
        let (_, programs) = SchedClassifier::query_tcx("eth0", hook).unwrap();
        programs.iter().map(|program| program.id()).collect()
    })
}

#[test]
fn pods_of_different_nodes_talk_in_both_families_over_both() {
    let sites = Sites::new(2);
    let (one, two) = (sites.site(1), sites.site(2));
    for outer in Family::BOTH {
        let mut programs = sites.connect(outer);
        let before: Vec<Counters> = programs.iter().map(|ipip| ipip.counters().unwrap()).collect();
        for family in Family::BOTH {
            one.ping(pod(2, family), "-c 3 -i 0.01");
            two.ping(pod(1, family), "-c 3 -i 0.01");
            let client = socket(&one.pod, pod(1, family), 0);
            let server = socket(&two.pod, pod(2, family), 0);
            client.send_to(b"who am I", server.local_addr().unwrap()).unwrap();
            assert_eq!(server.recv_from(&mut [0; 64]).unwrap().1, client.local_addr().unwrap());
            let speed = transfer(&one.pod, &two.pod, pod(2, family), 200_000_000);
            println!("{family:?} over {outer:?}: {speed:.1} Gbit/s");
        }
        for (ipip, before) in programs.iter_mut().zip(before) {
            let now = ipip.counters().unwrap();
            assert!(now.encapsulated > before.encapsulated && now.decapsulated > before.decapsulated);
            let lost = |counters: Counters| Counters { encapsulated: 0, decapsulated: 0, ..counters };
            assert_eq!(lost(now), Counters::default(), "nothing was dropped");
        }
        let heard = programs[0].last_heard().unwrap();
        assert!(heard[&node(2, outer)].iter().all(|time| time.as_secs() < 60));
    }
    for namespace in [&one.pod, &one.node, &sites.router, &two.node, &two.pod] {
        assert_eq!(fragments(namespace), [""; 0], "in {}", namespace.name);
    }
}

#[test]
fn what_a_link_cannot_cut_is_cut_before() {
    let sites = Sites::new(2);
    let (one, two) = (sites.site(1), sites.site(2));
    // The pods know nothing of it and send big packets; the uplink takes none of two segments.
    one.node.run("ip link set eth0 gso_max_size 2000");
    for outer in Family::BOTH {
        let _programs = sites.connect(outer);
        for family in Family::BOTH {
            let wire = {
                let _guard = sites.router.enter();
                Wire::open("r1")
            };
            transfer(&one.pod, &two.pod, pod(2, family), 4_000_000);
            // Sockets that nobody reads keep what came first; that is plenty.
            let mut data = 0;
            while data < 20 {
                let frame = wire.receive();
                assert!(frame.len() <= 1514, "{} bytes", frame.len());
                let Some((from, _, inside)) = unwrap(&frame) else { continue };
                let overhead = frame.len() - 14 - inside.len();
                if from == node(1, outer) && inside.len() > 1000 {
                    let full = 14 + overhead + 1460;
                    assert_eq!(frame.len(), full, "segments are as long as the pod's MTU has it");
                    data += 1;
                }
            }
        }
    }
    for namespace in [&one.pod, &one.node, &sites.router, &two.node, &two.pod] {
        assert_eq!(fragments(namespace), [""; 0], "in {}", namespace.name);
    }
}

/// The outer source, outer destination and inner packet of a frame that carries IP in IP.
fn unwrap(frame: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let (from, to, protocol, length): (IpAddr, IpAddr, u8, usize) = match headers.net? {
        NetHeaders::Ipv4(header, _) => {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment && header.time_to_live >= 63);
            (header.source.into(), header.destination.into(), header.protocol.0, header.header_len())
        }
        NetHeaders::Ipv6(header, _) => {
            (header.source.into(), header.destination.into(), header.next_header.0, header.header_len())
        }
        NetHeaders::Arp(_) => return None,
    };
    matches!(protocol, 4 | 41).then(|| (from, to, &frame[14 + length..]))
}

#[test]
fn the_wire_shows_nodes_outside_and_pods_inside() {
    let sites = Sites::new(2);
    for outer in Family::BOTH {
        let _programs = sites.connect(outer);
        for family in Family::BOTH {
            let wire = {
                let _guard = sites.router.enter();
                Wire::open("r2")
            };
            let sender = socket(&sites.site(1).pod, pod(1, family), 0);
            let hearer = socket(&sites.site(2).pod, pod(2, family), 0);
            sender.send_to(b"mark", hearer.local_addr().unwrap()).unwrap();
            loop {
                let frame = wire.receive();
                let Some((from, to, inside)) = unwrap(&frame) else {
                    assert!(!frame.ends_with(b"mark"), "{frame:?}");
                    continue;
                };
                if inside.ends_with(b"mark") {
                    assert_eq!((from, to), (node(1, outer), node(2, outer)));
                    let (from, to): (IpAddr, IpAddr) = match PacketHeaders::from_ip_slice(inside).unwrap().net
                    {
                        Some(NetHeaders::Ipv4(header, _)) => {
                            (header.source.into(), header.destination.into())
                        }
                        Some(NetHeaders::Ipv6(header, _)) => {
                            (header.source.into(), header.destination.into())
                        }
                        other => panic!("{other:?}"),
                    };
                    assert_eq!((from, to), (pod(1, family), pod(2, family)));
                    break;
                }
            }
        }
    }
}

#[test]
fn what_a_stranger_sends_reaches_nobody() {
    let sites = Sites::new(2);
    let mut programs = sites.connect(Family::V4);
    let ipip = &mut programs[0];
    let mac = |namespace: &TestNs, link: &str| -> MacAddr {
        namespace.run(&format!("cat /sys/class/net/{link}/address")).trim().parse().unwrap()
    };
    let (to, from) = (mac(&sites.site(1).node, "eth0"), mac(&sites.router, "r1"));
    let wire = {
        let _guard = sites.router.enter();
        Wire::open("r1")
    };
    let hearer = socket(&sites.site(1).pod, pod(1, Family::V4), 9000);
    let inner = |text: &[u8]| {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (pod(2, Family::V4), pod(1, Family::V4)) else { panic!() };
        wire::ipv4(from, to, 17, &wire::udp(9000, text))
    };
    let here = node(1, Family::V4);
    let outer = |from: &str, text: &[u8]| {
        let IpAddr::V4(here) = here else { panic!() };
        wire::ipv4(from.parse().unwrap(), here, 4, &inner(text))
    };
    let IpAddr::V6(here6) = node(1, Family::V6) else { panic!() };
    let strange6 = wire::ipv6("2001:db8:1::fe".parse().unwrap(), here6, 4, &inner(b"strange"));
    let node6 = wire::ipv6("2001:db8:2::1".parse().unwrap(), here6, 4, &inner(b"node"));
    let frames = [
        (wire::IPV4, outer("172.16.1.254", b"strange")),
        (wire::IPV4, outer("10.2.0.2", b"strange")),
        (wire::IPV6, strange6),
        // A VLAN on top of the uplink is another network; not counted.
        (0x8100, [&[0, 5, 8, 0][..], &outer("172.16.1.254", b"strange")].concat()),
        // Every node takes what nodes send it over either family, whatever it sends itself.
        (wire::IPV4, outer("172.16.2.1", b"node")),
        (wire::IPV6, node6),
    ];
    for (kind, packet) in &frames {
        wire.send(&wire::ethernet(to, from, *kind, packet));
    }
    for _ in 0..2 {
        let mut buffer = [0; 64];
        let (length, source) = hearer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], source.ip()), (&b"node"[..], pod(2, Family::V4)));
    }
    let counters = ipip.counters().unwrap();
    assert_eq!((counters.refused, counters.decapsulated), (3, 2));
    // A node that is one no more is a stranger.
    let mut table = sites.table(1, Family::V4);
    table.nodes.clear();
    let guard = sites.site(1).node.enter();
    assert_eq!(ipip.reconcile(&table).unwrap(), Changes { removed: 2, ..Changes::default() });
    drop(guard);
    wire.send(&wire::ethernet(to, from, wire::IPV4, &frames[4].1));
    table.nodes.extend(sites.table(1, Family::V4).nodes);
    let guard = sites.site(1).node.enter();
    while ipip.counters().unwrap().refused < 4 {
        thread::yield_now();
    }
    assert_eq!(ipip.reconcile(&table).unwrap().written, 2);
    drop(guard);
    wire.send(&wire::ethernet(to, from, wire::IPV4, &outer("172.16.2.1", b"again")));
    let mut buffer = [0; 64];
    let length = hearer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"again");
}

#[test]
fn programs_are_replaced_without_losing_a_packet() {
    let sites = Sites::new(2);
    let first = sites.connect(Family::V4);
    let before = programs(&sites.site(1).node);
    drop(first);
    assert_eq!(programs(&sites.site(1).node), before, "nobody has them open, and they are there");
    thread::scope(|scope| {
        let pings = Family::BOTH.map(|family| {
            let sites = &sites;
            scope.spawn(move || sites.site(1).ping(pod(2, family), "-q -c 1500 -i 0.001"))
        });
        let mut seen = before;
        let mut replaced = 0;
        while pings.iter().any(|ping| !ping.is_finished()) {
            for site in &sites.sites {
                let mut ipip = sites.open(site.number);
                let _guard = site.node.enter();
                assert!(ipip.observe().unwrap().uplinks.is_empty());
                let changes = ipip.reconcile(&sites.table(site.number, Family::V4)).unwrap();
                assert_eq!(changes, Changes { attached: 1, ..Changes::default() }, "maps stay");
                assert_eq!(ipip.observe().unwrap().uplinks.len(), 1);
                let again = ipip.reconcile(&sites.table(site.number, Family::V4)).unwrap();
                assert_eq!(again, Changes::default());
            }
            let now = programs(&sites.site(1).node);
            assert!(now.iter().all(|hook| hook.len() == 1), "each is there once");
            assert!(now.iter().zip(&seen).all(|(now, seen)| now != seen));
            seen = now;
            replaced += 1;
        }
        assert!(replaced > 1);
        println!("replaced {replaced} times on each of two nodes");
        for ping in pings {
            ping.join().unwrap();
        }
    });
}

#[test]
fn ipv6_pods_talk_over_routers_that_have_no_ipv6() {
    let sites = Sites::new(2);
    let (one, two) = (sites.site(1), sites.site(2));
    let mut programs = sites.connect(Family::V4);
    for site in &sites.sites {
        let number = site.number;
        sites.router.run(&format!("sysctl -qw net.ipv6.conf.r{number}.disable_ipv6=1"));
        let mut table = sites.table(number, Family::V4);
        for route in table.routes.values_mut() {
            route.next_hop = NextHop::Asked;
        }
        let _guard = site.node.enter();
        programs[number - 1].reconcile(&table).unwrap();
        // Next hops that nobody has; the kernel only needs an Ethernet address to hand packets to the uplink.
        for (hop, family) in [("169.254.9.9", Family::V4), ("fe80::9:9", Family::V6)] {
            site.node.run(&format!("ip neigh replace {hop} lladdr 02:00:00:00:09:09 dev eth0 nud permanent"));
            let range = sites::range(3 - number, family);
            site.node.run(&format!("ip route replace {range} via {hop} dev eth0 onlink mtu 1480"));
        }
    }
    for family in Family::BOTH {
        one.ping(pod(2, family), "-c 3 -i 0.01");
        let speed = transfer(&one.pod, &two.pod, pod(2, family), 100_000_000);
        println!("{family:?} over IPv4, next hop asked: {speed:.1} Gbit/s");
    }
    for ipip in &programs {
        assert_eq!(ipip.counters().unwrap().failed, 0);
    }
}

#[test]
fn a_sender_is_told_the_mtu_of_the_tunnel() {
    let sites = Sites::new(2);
    let (one, two) = (sites.site(1), sites.site(2));
    for site in &sites.sites {
        site.pod.run("ip link set eth0 mtu 1500");
        site.node.run("ip link set pod mtu 1500");
    }
    for outer in Family::BOTH {
        let programs = sites.connect(outer);
        let mtu = 1500 - sites.table(1, outer).routes[&sites::range(2, Family::V4)].outer.overhead();
        for (family, headers) in [(Family::V4, 28), (Family::V6, 48)] {
            let to = pod(2, family);
            one.pod.run("ip route flush cache");
            one.pod.run("ip -6 route flush cache");
            let fits = mtu - headers;
            one.ping(to, &format!("-c 1 -M do -s {fits}"));
            let size = (fits + 1).to_string();
            let output =
                one.pod.try_run(&["ping", "-n", "-c", "1", "-M", "do", "-s", &size, &to.to_string()]);
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(output.replace("mtu = ", "mtu=").contains(&format!("mtu={mtu}")), "{output}");
            // One that may be cut comes in pieces, each in a packet of its own, and so does the answer, as soon as the
            // pod there has been told as well.
            one.pod.run(&format!("ping -n -q -c 1 -w 30 -i 0.02 -M dont -s 4000 {to}"));
            transfer(&one.pod, &two.pod, to, 1_000_000);
        }
        for ipip in &programs {
            assert_eq!(ipip.counters().unwrap().malformed, 0);
        }
    }
}

#[test]
fn keepalives_are_sent_over_both_for_both() {
    let sites = Sites::new(2);
    let programs = sites.connect(Family::V4);
    let guard = sites.site(1).node.enter();
    let mut expected = 0;
    for outer in Family::BOTH {
        let addresses = Outer::new(node(1, outer), node(2, outer)).unwrap();
        for inner in Family::BOTH {
            assert_eq!(programs[1].last_heard().unwrap()[&node(1, outer)].of(inner), None);
            ipip::send_keepalive(addresses, inner).unwrap();
            expected += 1;
            while programs[1].counters().unwrap().keepalives < expected {
                thread::yield_now();
            }
            assert!(programs[1].last_heard().unwrap()[&node(1, outer)].of(inner).is_some());
        }
        let strange = Outer::new(node(2, outer), node(1, outer)).unwrap();
        let error = ipip::send_keepalive(strange, outer).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EADDRNOTAVAIL), "{error}");
    }
    drop(guard);
    assert_eq!(programs[1].counters().unwrap(), Counters { keepalives: 4, ..Counters::default() });
    assert_eq!(programs[0].counters().unwrap().encapsulated, 0);
}

#[test]
fn packets_that_end_before_their_header_does_go_by() {
    let sites = Sites::new(2);
    let programs = sites.connect(Family::V4);
    let (one, router) = (&sites.site(1).node, &sites.router);
    let open = |namespace: &TestNs, link| {
        let _guard = namespace.enter();
        Wire::open(link)
    };
    let (near, far) = (open(one, "eth0"), open(router, "r1"));
    let (to, from) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let (IpAddr::V4(pod4), IpAddr::V4(here4), IpAddr::V4(there4)) =
        (pod(2, Family::V4), node(1, Family::V4), node(2, Family::V4))
    else {
        panic!()
    };
    let (IpAddr::V6(pod6), IpAddr::V6(here6), IpAddr::V6(there6)) =
        (pod(2, Family::V6), node(1, Family::V6), node(2, Family::V6))
    else {
        panic!()
    };
    for (sender, hearer, v4, v6) in [
        (&near, &far, wire::ipv4(here4, pod4, 17, b""), wire::ipv6(here6, pod6, 17, b"")),
        (&far, &near, wire::ipv4(there4, here4, 4, b""), wire::ipv6(there6, here6, 41, b"")),
    ] {
        for (kind, packet) in [(wire::IPV4, v4), (wire::IPV6, v6)] {
            for length in 1..packet.len() {
                let frame = wire::ethernet(to, from, kind, &packet[..length]);
                sender.send(&frame);
                while hearer.receive() != frame {}
            }
        }
    }
    for ipip in &programs {
        assert_eq!(ipip.counters().unwrap(), Counters::default());
    }
}

#[test]
fn a_node_passes_on_what_came_out_of_a_tunnel() {
    let sites = Sites::new(3);
    for outer in Family::BOTH {
        let mut programs = sites.connect(outer);
        // Nodes 1 and 3 reach each other by node 2 only.
        for (number, other) in [(1, 3), (3, 1)] {
            let mut table = sites.table(number, outer);
            for family in Family::BOTH {
                let to_middle = table.routes[&sites::range(2, family)];
                table.routes.insert(sites::range(other, family), to_middle);
            }
            table.nodes.retain(|address| *address != node(other, outer));
            let _guard = sites.site(number).node.enter();
            programs[number - 1].reconcile(&table).unwrap();
        }
        let before = programs[1].counters().unwrap();
        for family in Family::BOTH {
            sites.site(1).ping(pod(3, family), "-c 3 -i 0.01");
            let speed = transfer(&sites.site(1).pod, &sites.site(3).pod, pod(3, family), 50_000_000);
            println!("{family:?} over {outer:?}, twice: {speed:.1} Gbit/s");
        }
        let after = programs[1].counters().unwrap();
        assert!(after.encapsulated > before.encapsulated + 100);
        assert_eq!((after.failed, after.refused), (0, 0));
    }
}

#[test]
fn nothing_stays() {
    let sites = Sites::new(2);
    let mut programs = sites.connect(Family::V6);
    assert!(sites.pinned().len() > 10);
    // Another uplink of the same index as one that was there before, and one of another index.
    let one = sites.site(1);
    let guard = one.node.enter();
    for index in [None, Some(77)] {
        let index =
            index.unwrap_or_else(|| one.node.run("cat /sys/class/net/eth0/ifindex").trim().parse().unwrap());
        one.node.run("ip link del eth0");
        let at_router = &sites.router.name;
        one.node.run(&format!("ip link add eth0 index {index} type veth peer name r1 netns {at_router}"));
        one.node.run("ip link set eth0 up");
        assert!(programs[0].observe().unwrap().uplinks.is_empty());
        let changes = programs[0].reconcile(&sites.table(1, Family::V6)).unwrap();
        assert_eq!(changes, Changes { attached: 1, ..Changes::default() });
        let links: Vec<_> =
            sites.pinned().into_iter().filter(|path| path.to_string_lossy().contains("gress-")).collect();
        assert_eq!(links.len(), 4, "{links:?}");
    }
    drop(guard);
    let ipip = programs.remove(0);
    ipip.remove().unwrap();
    assert_eq!(self::programs(&one.node), [[0; 0], [0; 0]]);
    // Cleanup knows but the directory.
    drop(programs);
    ipip::remove(&sites.directory(2)).unwrap();
    assert_eq!(self::programs(&sites.site(2).node), [[0; 0], [0; 0]]);
    ipip::remove(&sites.directory(2)).unwrap();
    assert!(sites.pinned().is_empty(), "{:?}", sites.pinned());
}
