//! Where connections to services end up: real traffic of pods, the node and the outside.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use common::pods;
use common::services::{PORT, Scene, accept, ask, cluster_address, connect, gateway, service};
use model::{Family, Protocol};

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
            let node = if family == Family::V4 { "172.16.0.1" } else { "2001:db8::1" };
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
        let stranger = pods::STRANGER[usize::from(family == Family::V6)].parse().unwrap();
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
