//! Packets of the fast path in VXLAN: on the wire they are like those of the kernel's device, and it takes them.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::fast::{At, Nodes};
use common::pods::set_class;
use common::services::ready;
use common::transfer::{put_together, transfer};
use common::wire::{self, Wire};
use model::{Family, Sending, When};

const VXLAN: Sending = Sending::Vxlan(When::Always);
/// From a pod to one of the other node.
const PAIR: (At, At) = ((0, 0), (1, 0));
const PATIENCE: Duration = Duration::from_secs(60);
const PAYLOAD: &[u8] = b"always the same";

/// A frame in VXLAN as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrapped {
    /// The frame without what is another in each packet: the number of IPv4, the sums of its header and of UDP.
    same: Vec<u8>,
    has_checksum: bool,
}

/// The frame, if it is a pod's with the payload.
fn wrapped(mut frame: Vec<u8>) -> Option<Wrapped> {
    let is_v4 = frame[12..14] == [8, 0];
    let udp = if is_v4 { 34 } else { 54 };
    if !frame.ends_with(PAYLOAD) || frame[udp + 2..udp + 4] != 4789u16.to_be_bytes() {
        return None;
    }
    let has_checksum = frame[udp + 6..udp + 8] != [0, 0];
    frame[udp + 6..udp + 8].fill(0);
    let inside = udp + 16;
    for ip in [14, inside + 14] {
        if frame[ip] >> 4 == 4 {
            let (header, _) = etherparse::Ipv4Header::from_slice(&frame[ip..]).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            frame[ip + 4..ip + 6].fill(0);
            frame[ip + 10..ip + 12].fill(0);
        }
    }
    // The pod's checksum is filled in somewhere on the way.
    let checksum = inside + if frame[inside + 12..inside + 14] == [8, 0] { 40 } else { 60 };
    frame[checksum..checksum + 2].fill(0);
    Some(Wrapped { same: frame, has_checksum })
}

fn next(tap: &Wire) -> Wrapped {
    loop {
        if let Some(frame) = wrapped(tap.receive()) {
            return frame;
        }
    }
}

/// Datagrams go both ways until they leave and come in without the device.
fn settle(nodes: &mut Nodes, tap: &Wire, ends: [&UdpSocket; 2]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let [client, server] = ends;
        let before = nodes.hits();
        client.send(PAYLOAD).unwrap();
        server.recv(&mut [0; 100]).unwrap();
        let there = next(tap);
        server.send(PAYLOAD).unwrap();
        client.recv(&mut [0; 100]).unwrap();
        let back = next(tap);
        if !there.has_checksum && !back.has_checksum && nodes.hits() == before + 4 {
            return;
        }
        assert!(Instant::now() < end, "{:?}", nodes.states());
    }
}

/// Two sockets of pods of both nodes that are connected to each other.
fn ends(nodes: &Nodes, family: Family) -> [UdpSocket; 2] {
    let ends = [nodes.socket(PAIR.0, family), nodes.server(PAIR.1, family)];
    ends[0].connect(ends[1].local_addr().unwrap()).unwrap();
    ends[1].connect(ends[0].local_addr().unwrap()).unwrap();
    ends
}

fn tap(nodes: &Nodes) -> Wire {
    let _guard = nodes.nodes[0].test.enter();
    Wire::open("eth0")
}

#[test]
fn on_the_wire_packets_are_like_those_of_the_device() {
    for underlay in Family::BOTH {
        let mut nodes = Nodes::over(&[underlay], VXLAN, true);
        for family in Family::BOTH {
            let tap = tap(&nodes);
            let [client, server] = ends(&nodes, family);
            settle(&mut nodes, &tap, [&client, &server]);
            // All of ECN, and a DSCP.
            for class in [0, 1, 2, 3, 0xb8, 0xbb] {
                set_class(&client, class);
                let send = || {
                    client.send(PAYLOAD).unwrap();
                    server.recv(&mut [0; 100]).unwrap();
                    next(&tap)
                };
                nodes.nodes[0].kernel.doubt_flows().unwrap();
                let slow = send();
                assert!(slow.has_checksum, "{slow:?}");
                let fast = send();
                assert_eq!(
                    (fast.has_checksum, fast.same),
                    (false, slow.same),
                    "{family:?} over {underlay:?}, {class}"
                );
            }
        }
    }
}

#[test]
fn a_node_without_the_fast_path_takes_its_packets() {
    for underlay in Family::BOTH {
        let mut nodes = Nodes::over(&[underlay], VXLAN, true);
        let other = &mut nodes.nodes[1];
        other.planner.update(plan::Input::Network(common::fast::network(VXLAN, false)));
        other.reconcile();
        for family in Family::BOTH {
            let tap = tap(&nodes);
            let [client, server] = ends(&nodes, family);
            let end = Instant::now() + PATIENCE;
            loop {
                client.send(PAYLOAD).unwrap();
                server.recv(&mut [0; 100]).unwrap();
                let is_fast = !next(&tap).has_checksum;
                server.send(PAYLOAD).unwrap();
                client.recv(&mut [0; 100]).unwrap();
                assert!(next(&tap).has_checksum);
                if is_fast {
                    break;
                }
                assert!(Instant::now() < end);
                let _guard = nodes.nodes[0].test.enter();
                nodes.nodes[0].kernel.attend().unwrap();
            }
        }
    }
}

#[test]
fn nobody_else_gets_into_a_flow() {
    for underlay in Family::BOTH {
        let mut nodes = Nodes::over(&[underlay], VXLAN, true);
        let tap = tap(&nodes);
        let [client, server] = ends(&nodes, Family::V4);
        settle(&mut nodes, &tap, [&client, &server]);
        server.send(PAYLOAD).unwrap();
        client.recv(&mut [0; 100]).unwrap();
        // A copy of the server's last packet, as the node got it.
        let mut genuine = loop {
            let frame = tap.receive();
            if wrapped(frame.clone()).is_some_and(|frame| !frame.has_checksum) {
                break frame;
            }
        };
        // That of the pod's datagram was yet to be filled in.
        let checksum = genuine.len() - PAYLOAD.len() - 2;
        genuine[checksum..][..2].fill(0);
        let attacker = {
            let _guard = nodes.nodes[1].test.enter();
            Wire::open("eth0")
        };
        let before = nodes.states()[0].counters.hits();
        attacker.send(&genuine);
        client.recv(&mut [0; 100]).unwrap();
        assert_eq!(nodes.states()[0].counters.hits(), before + 1);
        let mut stranger = genuine.clone();
        match underlay {
            Family::V4 => {
                let (mut header, _) = etherparse::Ipv4Header::from_slice(&genuine[14..]).unwrap();
                header.source[3] = 99;
                header.header_checksum = header.calc_header_checksum();
                stranger[14..34].copy_from_slice(&header.to_bytes());
            }
            Family::V6 => stranger[37] = 99,
        }
        let mut elsewhere = genuine.clone();
        let vni = genuine.len() - wire_length(Family::V4) - 4;
        elsewhere[vni] ^= 1;
        for frame in [stranger, elsewhere] {
            attacker.send(&frame);
            assert_eq!(ready(&[client.as_fd()], Duration::from_millis(200)), None);
        }
        assert_eq!(nodes.states()[0].counters.hits(), before + 1);
    }
}

/// How long the pods' frames are.
fn wire_length(family: Family) -> usize {
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    14 + ip + wire::udp(0, PAYLOAD).len()
}

#[test]
fn big_packets_are_cut_and_put_together_as_on_other_links() {
    for underlay in Family::BOTH {
        let mut nodes = Nodes::over(&[underlay], VXLAN, true);
        let [one, two] = [&nodes.nodes[0].test, &nodes.nodes[1].test];
        for (here, there) in [(one, two), (two, one)] {
            here.run("ip link set eth0 gso_max_size 2000");
            put_together(here, "eth0", (there, "eth0"));
        }
        for family in Family::BOTH {
            let before = nodes.hits();
            let (from, to) = (nodes.pod(PAIR.0), nodes.pod(PAIR.1));
            let speed = transfer(&from.test, &to.test, to.address(family), 30_000_000);
            let hits = nodes.hits() - before;
            println!("{family:?} over {underlay:?}: {hits} packets, {speed:.1} Gbit/s");
            // Data comes put together, and so is that which is sent.
            assert!((1_000..30_000).contains(&hits), "{hits} {:?}", nodes.states());
        }
        assert!(nodes.states().iter().all(|state| state.counters.of("failed") == 0));
    }
}
