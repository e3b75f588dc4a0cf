//! Where connections to services end up: real traffic of pods, the node and the outside.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::TestNs;
use common::cluster::name;
use common::pods::{self, NODE, STRANGER};
use common::sctp::{self, Packet, Sctp};
use common::services::{
    PATIENCE, PORT, Scene, TARGET_PORT, accept, ask, cluster_address, connect, endpoint, external_address,
    gateway, ready, service, slices,
};
use ipnet::IpNet;
use model::{Family, Protocol, Service, TrafficPolicy};
use plan::Input;

/// The addresses of node 0.
const NODES: [&str; 2] = ["172.16.0.1", "2001:db8::1"];
/// Enough draws that three endpoints are all reached but once in 10^15.
const DRAWS: usize = 90;

fn at(number: u8, family: Family) -> SocketAddr {
    SocketAddr::new(cluster_address(number, family), PORT)
}

#[test]
fn cluster_addresses_lead_to_every_endpoint() {
    let mut scene = Scene::new(4);
    scene.serve(&service(10, &[Protocol::Tcp, Protocol::Udp]), &[0, 1, 2]);
    let everyone = BTreeSet::from([0, 1, 2]);
    for family in Family::BOTH {
        let to = at(10, family);
        let client = scene.pods[3].address(family);
        let servers = scene.udp_servers(&[0, 1, 2], family);
        let mut reached = BTreeSet::new();
        for _ in 0..DRAWS {
            let (which, seen) = ask(&scene.client(3, family), to, &servers);
            assert_eq!(seen, client, "a pod is seen as itself");
            reached.insert(which);
        }
        assert_eq!(reached, everyone, "UDP over {family:?}");
        // One flow stays where it is.
        let socket = scene.client(3, family);
        let reached: BTreeSet<usize> = (0..DRAWS).map(|_| ask(&socket, to, &servers).0).collect();
        assert_eq!(reached.len(), 1);

        let servers = scene.tcp_servers(&[0, 1, 2], family);
        for (from, seen) in [(&scene.pods[3].test, client), (&scene.node, gateway(family))] {
            let mut reached = BTreeSet::new();
            for _ in 0..DRAWS {
                let _stream = connect(from, to).unwrap();
                let (which, whom, _end) = accept(&servers);
                assert_eq!(whom, seen);
                reached.insert(which);
            }
            assert_eq!(reached, everyone, "TCP over {family:?} from {}", from.name);
        }
    }
}

/// Packets made by hand, so that it does not depend on whether this kernel has SCTP sockets.
#[test]
fn sctp_leads_to_every_endpoint() {
    let mut scene = Scene::new(4);
    scene.serve(&service(10, &[Protocol::Sctp]), &[0, 1, 2]);
    for family in Family::BOTH {
        let servers: Vec<Sctp> = (0..3).map(|pod| Sctp::open(&scene.pods[pod].test, family)).collect();
        let client = Sctp::open(&scene.pods[3].test, family);
        let mut reached = BTreeSet::new();
        for port in 4000..4000 + DRAWS as u16 {
            client.send(port, at(10, family), sctp::INIT);
            let which = ready(&servers, PATIENCE).unwrap();
            let from = SocketAddr::new(scene.pods[3].address(family), port);
            let seen = servers[which].receive();
            assert_eq!(seen, Packet { from, to_port: TARGET_PORT, chunk: sctp::INIT });
            servers[which].send(TARGET_PORT, from, sctp::INIT_ACK);
            let answer = client.receive();
            assert_eq!(answer, Packet { from: at(10, family), to_port: port, chunk: sctp::INIT_ACK });
            reached.insert(which);
        }
        assert_eq!(reached, [0, 1, 2].into(), "{family:?}");
    }
}

/// Sends a datagram and waits for the error that it leads to.
fn refusal(socket: &UdpSocket, to: SocketAddr) -> ErrorKind {
    socket.connect(to).unwrap();
    let sent = socket.send(b"anybody there?");
    sent.and_then(|_| socket.recv(&mut [0; 64])).unwrap_err().kind()
}

#[test]
fn what_has_no_service_is_refused_at_once() {
    let mut scene = Scene::new(2);
    scene.serve(&service(10, &[Protocol::Tcp, Protocol::Udp]), &[0]);
    scene.serve(&service(11, &[Protocol::Tcp, Protocol::Udp]), &[]);
    let outside = {
        let _guard = scene.world.enter();
        common::wire::Wire::open("wire")
    };
    for family in Family::BOTH {
        let unused_port = SocketAddr::new(cluster_address(10, family), PORT + 1);
        for (what, to) in [
            ("a service without endpoints", at(11, family)),
            ("a port without a service", unused_port),
            ("an address without a service", at(99, family)),
        ] {
            let node = NODES[usize::from(family == Family::V6)];
            for (from, own, udp) in [
                (&scene.pods[1].test, scene.pods[1].address(family), ErrorKind::ConnectionRefused),
                // The kernel tells its own programs itself.
                (&scene.node, node.parse().unwrap(), ErrorKind::PermissionDenied),
            ] {
                let error = connect(from, to).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::ConnectionRefused,
                    "TCP to {what}, {to}, from {}",
                    from.name
                );
                let error = refusal(&pods::socket(from, own, 0), to);
                assert_eq!(error, udp, "UDP to {what}, {to}, from {}", from.name);
            }
        }
        // What is no cluster address goes out, behind all that must not.
        let stranger = STRANGER[usize::from(family == Family::V6)].parse().unwrap();
        let mark = SocketAddr::new(stranger, 9);
        scene.client(1, family).send_to(b"mark", mark).unwrap();
        loop {
            let frame = outside.receive();
            if frame.ends_with(b"mark") {
                break;
            }
            let destination = if family == Family::V4 { frame.get(30..34) } else { frame.get(38..54) };
            let range: &[u8] = if family == Family::V4 { &[10, 96] } else { &[0xfd, 0, 0, 0x96] };
            assert!(!destination.is_some_and(|address| address.starts_with(range)), "{frame:?} went out");
        }
    }
}

#[test]
fn a_pod_that_reaches_itself_sees_the_gateway() {
    let mut scene = Scene::new(2);
    scene.serve(&service(10, &[Protocol::Tcp, Protocol::Udp]), &[0]);
    for family in Family::BOTH {
        let servers = scene.udp_servers(&[0], family);
        let (_, seen) = ask(&scene.client(0, family), at(10, family), &servers);
        assert_eq!(seen, gateway(family));
        let (_, seen) = ask(&scene.client(1, family), at(10, family), &servers);
        assert_eq!(seen, scene.pods[1].address(family), "another pod is seen as itself");

        let servers = scene.tcp_servers(&[0], family);
        let _stream = connect(&scene.pods[0].test, at(10, family)).unwrap();
        assert_eq!(accept(&servers).1, gateway(family));
    }
}

/// A service that the outside reaches at an external address and at a port of the node.
fn exposed(number: u8, external_policy: TrafficPolicy) -> Service {
    let mut service = service(number, &[Protocol::Tcp, Protocol::Udp]);
    service.external_addresses = Family::BOTH.map(|family| external_address(number, family)).to_vec();
    service.external_policy = external_policy;
    for (port, number) in service.ports.iter_mut().zip(30080..) {
        port.node_port = Some(number);
    }
    service
}

/// A pod of node 0 and one that uses the network of node 1 as the endpoints.
fn here_and_there(scene: &Scene, service: &Service) -> Vec<Input> {
    let endpoints = Family::BOTH.into_iter().flat_map(|family| {
        let there = NODE[usize::from(family == Family::V6)].parse().unwrap();
        [endpoint(scene.pods[0].address(family), &name(0)), endpoint(there, &name(1))]
    });
    slices(service, endpoints.collect())
}

/// Servers of [`here_and_there`].
fn servers_here_and_there(scene: &Scene, family: Family) -> Vec<UdpSocket> {
    let there = NODE[usize::from(family == Family::V6)].parse().unwrap();
    let mut servers = scene.udp_servers(&[0], family);
    servers.push(pods::socket(&scene.world, there, TARGET_PORT));
    servers
}

/// What a client asks many times, each time anew: which endpoints had it, and whom they saw.
fn asked(from: &TestNs, own: IpAddr, to: SocketAddr, servers: &[UdpSocket]) -> BTreeSet<(usize, IpAddr)> {
    (0..DRAWS).map(|_| ask(&pods::socket(from, own, 0), to, servers)).collect()
}

#[test]
fn the_outside_reaches_exposed_services() {
    let mut scene = Scene::new(2);
    let service = exposed(10, TrafficPolicy::Cluster);
    let endpoints = here_and_there(&scene, &service);
    scene.update(endpoints.into_iter().chain([Input::Service(service)]));
    for family in Family::BOTH {
        let index = usize::from(family == Family::V6);
        let [node, stranger] = [NODES[index], STRANGER[index]].map(|text| text.parse::<IpAddr>().unwrap());
        let servers = servers_here_and_there(&scene, family);
        let pod = scene.pods[1].address(family);
        for to in [SocketAddr::new(external_address(10, family), PORT), SocketAddr::new(node, 30081)] {
            // The answers come back through this node, so it has to be seen as the client.
            let both = BTreeSet::from([(0, gateway(family)), (1, node)]);
            assert_eq!(asked(&scene.world, stranger, to, &servers), both, "{to} from outside");
            assert_eq!(asked(&scene.node, node, to, &servers), both, "{to} from the node");
            let both = BTreeSet::from([(0, pod), (1, node)]);
            assert_eq!(asked(&scene.pods[1].test, pod, to, &servers), both, "{to} from a pod");
        }
    }
}

#[test]
fn the_local_policy_keeps_the_source_and_stays_on_the_node() {
    let mut scene = Scene::new(2);
    let service = exposed(10, TrafficPolicy::Local);
    let endpoints = here_and_there(&scene, &service);
    scene.update(endpoints.into_iter().chain([Input::Service(service.clone())]));
    for family in Family::BOTH {
        let index = usize::from(family == Family::V6);
        let [node, stranger] = [NODES[index], STRANGER[index]].map(|text| text.parse::<IpAddr>().unwrap());
        let servers = servers_here_and_there(&scene, family);
        let pod = scene.pods[1].address(family);
        for to in [SocketAddr::new(external_address(10, family), PORT), SocketAddr::new(node, 30081)] {
            let here = BTreeSet::from([(0, stranger)]);
            assert_eq!(asked(&scene.world, stranger, to, &servers), here, "{to} from outside");
            let both = BTreeSet::from([(0, pod), (1, node)]);
            assert_eq!(asked(&scene.pods[1].test, pod, to, &servers), both, "{to} from a pod");
            let both = BTreeSet::from([(0, gateway(family)), (1, node)]);
            assert_eq!(asked(&scene.node, node, to, &servers), both, "{to} from the node");
        }
    }
    // Without an endpoint on this node the outside hears nothing, as another node may answer; a service beside it shows
    // that what was sent has come.
    let beside = exposed_beside();
    scene.serve(&beside, &[1]);
    let there = Family::BOTH.map(|family| {
        let there = NODE[usize::from(family == Family::V6)].parse().unwrap();
        endpoint(there, &name(1))
    });
    scene.update(slices(&service, there.to_vec()));
    for family in Family::BOTH {
        let index = usize::from(family == Family::V6);
        let stranger: IpAddr = STRANGER[index].parse().unwrap();
        let servers = servers_here_and_there(&scene, family);
        let others = scene.udp_servers(&[1], family);
        let client = pods::socket(&scene.world, stranger, 0);
        let to = SocketAddr::new(external_address(10, family), PORT);
        let dropped = |scene: &Scene| dropped(scene, family, "no endpoint that this client may use");
        let before = dropped(&scene);
        client.send_to(b"question", to).unwrap();
        ask(&client, SocketAddr::new(external_address(11, family), PORT), &others);
        assert_eq!(dropped(&scene) - before, 1);
        assert_eq!(ready(&servers, Duration::ZERO), None);
        let pod = scene.pods[1].address(family);
        let node: IpAddr = NODES[index].parse().unwrap();
        assert_eq!(asked(&scene.pods[1].test, pod, to, &servers), [(1, node)].into());
    }
}

fn exposed_beside() -> Service {
    let mut service = exposed(11, TrafficPolicy::Cluster);
    service.ports.iter_mut().for_each(|port| port.node_port = None);
    service
}

/// How many packets the rules of a family with this comment have dropped.
fn dropped(scene: &Scene, family: Family, comment: &str) -> u64 {
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    let rules = scene.node.run(&format!("nft list table {table} cambric-services"));
    let counts = rules.lines().filter(|line| line.contains(comment)).map(|line| {
        let count = line.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap();
        count.parse::<u64>().unwrap()
    });
    counts.sum()
}

#[test]
fn a_balancer_lets_in_whom_it_should() {
    let mut scene = Scene::new(2);
    let mut service = service(10, &[Protocol::Udp]);
    service.balancer_addresses = Family::BOTH.map(|family| external_address(10, family)).to_vec();
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let comment = "loadBalancerSourceRanges";
    for (ranges, stranger_may, node_may) in [
        (nets(&["172.16.0.99/32", "2001:db8::99/128"]), [true; 2], [false; 2]),
        // What overlaps with what was there before.
        (nets(&["172.16.0.0/25", "172.16.0.99/32", "2001:db8::/64"]), [true; 2], [true; 2]),
        (nets(&["172.16.0.2/32"]), [false; 2], [true, false]),
        (nets(&[]), [true; 2], [true; 2]),
    ] {
        service.balancer_sources.clone_from(&ranges);
        scene.serve(&service, &[0]);
        for (index, family) in Family::BOTH.into_iter().enumerate() {
            let to = SocketAddr::new(external_address(10, family), PORT);
            let servers = scene.udp_servers(&[0], family);
            for (from, may) in [(STRANGER, stranger_may), (NODE, node_may)] {
                let own: IpAddr = from[index].parse().unwrap();
                let client = pods::socket(&scene.world, own, 0);
                if may[index] {
                    assert_eq!(ask(&client, to, &servers).1, gateway(family), "{own} with {ranges:?}");
                    continue;
                }
                let before = dropped(&scene, family, comment);
                client.send_to(b"question", to).unwrap();
                // What comes behind it gets through, as cluster addresses are open to everybody.
                let pod = scene.client(1, family);
                while dropped(&scene, family, comment) == before {}
                ask(&pod, at(10, family), &servers);
                assert_eq!(ready(&servers, Duration::ZERO), None, "{own} with {ranges:?}");
            }
        }
        assert!(scene.reconcile().is_quiet());
    }
}

/// Pearson's test: with six degrees of freedom, chances are one in a billion that fair draws come to more than 55.
#[test]
fn endpoints_are_drawn_evenly() {
    const ENDPOINTS: usize = 7;
    const CONNECTIONS: u16 = 10_000;
    let mut scene = Scene::new(ENDPOINTS as u8 + 1);
    let all: Vec<usize> = (0..ENDPOINTS).collect();
    scene.serve(&service(10, &[Protocol::Udp]), &all);
    let servers = scene.udp_servers(&all, Family::V4);
    let client = &scene.pods[ENDPOINTS];
    let _guard = client.test.enter();
    let mut counts = [0u32; ENDPOINTS];
    for port in 20_000..20_000 + CONNECTIONS {
        let socket = UdpSocket::bind((client.v4, port)).unwrap();
        socket.send_to(b"question", at(10, Family::V4)).unwrap();
        let which = ready(&servers, PATIENCE).unwrap();
        servers[which].recv(&mut [0; 64]).unwrap();
        counts[which] += 1;
    }
    let expected = f64::from(CONNECTIONS) / ENDPOINTS as f64;
    let square: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(square < 55.0, "{square}: {counts:?}");
}
